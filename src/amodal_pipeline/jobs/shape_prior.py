"""Nodes that measure and draw a trained shape prior."""

import logging

import pandas as pd
from PIL import Image

from amodal_pipeline.annotations import AmodalAnnotations
from amodal_pipeline.jobs.progress import plain_console, progress
from amodal_pipeline.jobs.train import Job
from amodal_pipeline.methods.checkpoints import Checkpoint

_log = logging.getLogger(__name__)


def describe_shape_prior(
    checkpoint: Checkpoint, train: AmodalAnnotations, val: AmodalAnnotations, job: Job
) -> pd.DataFrame:
    """Measure how well masks of both splits are reconstructed, by category; return the table.

    It is printed too. Categories with fewer than ``job.model.poor_below`` entries are named in a
    warning.
    """
    from amodal_pipeline.methods.pretrained import restore
    from amodal_pipeline.methods.vrsp.learning import describe

    prior, poor_below = restore(checkpoint).network, job.model.root.poor_below
    tables = []
    for annotations in (train, val):
        with progress(f"shapes of {annotations.metadata.split}") as on_progress:
            tables.append(describe(prior, annotations, poor_below, on_progress))
    table = pd.concat(tables, ignore_index=True)
    _print(table, checkpoint.card.dataset)
    for row in tables[0].itertuples():
        if row.note:
            _log.warning("%s, category %r: %s", checkpoint.card.dataset, row.category, row.note)
    return table


def draw_shape_prior(checkpoint: Checkpoint) -> tuple[Image.Image, Image.Image]:
    """Draw the decoded entries of each category, and a map of all entries; return both pictures."""
    from amodal_pipeline.methods.pretrained import restore
    from amodal_pipeline.visuals.shape_prior import entries_map, entries_sheet

    card, prior = checkpoint.card, restore(checkpoint).network
    names = [category.name for category in card.categories]
    return entries_sheet(prior, names, card.dataset), entries_map(prior, names, card.dataset)


def _print(table: pd.DataFrame, dataset: str) -> None:
    from rich.table import Table

    shown = Table(title=f"{dataset}: shape prior (mean IoU of masks, 0–100)")
    shown.add_column("category")
    for name in (
        "masks",
        "entries",
        "masks per entry",
        "auto-encoder",
        "codebook",
        "codebook, val",
    ):
        shown.add_column(name, justify="right")
    splits = [part for _, part in table.groupby("split", sort=False)]
    for row, val in zip(splits[0].itertuples(), splits[-1].itertuples(), strict=True):
        sizes = f"{row.smallest_cluster}–{row.median_cluster:g}–{row.largest_cluster}"
        ious = (row.iou_auto_encoder, row.iou_codebook, val.iou_codebook)
        shown.add_row(
            row.category,
            str(row.objects),
            str(row.entries),
            sizes,
            *("–" if value != value else f"{value:.1f}" for value in ious),
        )
    plain_console().print(shown)
