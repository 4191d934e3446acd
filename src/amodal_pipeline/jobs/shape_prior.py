"""Nodes that account for a shape prior and draw it; it is trained as every method is."""

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
    """Return how well the masks of both splits come back, by category; printed too.

    Categories with fewer than ``job.model.poor_below`` entries are warned of.
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
    """Return the entries of each category, decoded, and a map of them."""
    from amodal_pipeline.methods.pretrained import restore
    from amodal_pipeline.visuals.shape_prior import entries_map, entries_sheet

    card, prior = checkpoint.card, restore(checkpoint).network
    names = [category.name for category in card.categories]
    return entries_sheet(prior, names, card.dataset), entries_map(prior, names, card.dataset)


def _print(table: pd.DataFrame, dataset: str) -> None:
    from rich.table import Table

    shown = Table(title=f"{dataset}: shape prior (mean IoU of masks, 0–100)")
    shown.add_column("category")
    for name in ("masks", "entries", "masks an entry", "auto-encoder", "codebook", "codebook, val"):
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
