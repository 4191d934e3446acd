"""Nodes that learn a shape prior, account for it, and draw it."""

import logging
from pathlib import Path

import pandas as pd
from PIL import Image

from amodal_pipeline.annotations import AmodalAnnotations
from amodal_pipeline.jobs.detect import predict
from amodal_pipeline.jobs.progress import plain_console, progress
from amodal_pipeline.methods.checkpoints import Checkpoint
from amodal_pipeline.methods.configs import ShapePriorConfig
from amodal_pipeline.methods.training_config import InferenceConfig
from amodal_pipeline.methods.vrsp.stored import StoredShapePrior, fingerprint, load_card

_log = logging.getLogger(__name__)


def learn_shape_prior(
    annotations: AmodalAnnotations,
    config: ShapePriorConfig,
    folder: Path,
    models: Path,
    inference: InferenceConfig,
    restart: bool,
) -> StoredShapePrior:
    """Learn a shape prior from the training split, or give the one that is there.

    Args:
        annotations: the training split.
        config: what to learn.
        folder: where the shape prior lies.
        models: the folder of all methods, for the one that ``config.predicted_by`` names.
        inference: how that one is run.
        restart: replace what is there.

    Raises:
        ChangedTrainingError: the one that is there was made from something else.
    """
    from amodal_pipeline.methods.vrsp.learning import learn
    from amodal_pipeline.training.device import resolve_device

    checkpoint = Checkpoint.load(models / config.predicted_by) if config.predicted_by else None
    if not restart and (folder / "shape_prior.json").exists():
        check_shape_prior(folder, annotations, config, checkpoint)
        return StoredShapePrior.load(folder)
    predictions = predict(checkpoint, annotations, inference) if checkpoint else None
    device = resolve_device(config.device)
    return learn(annotations, config, predictions, device, progress)


def check_shape_prior(
    folder: Path,
    annotations: AmodalAnnotations,
    config: ShapePriorConfig,
    checkpoint: Checkpoint | None,
) -> None:
    """
    Raises:
        ChangedTrainingError: the shape prior in ``folder`` is not of these; names what differs.
    """
    from amodal_pipeline.training.state import check_unchanged

    digest = checkpoint.card.fingerprint.digest if checkpoint else "none"
    wanted = fingerprint(config, annotations, digest)
    check_unchanged(load_card(folder).fingerprint, wanted, folder)


def describe_shape_prior(
    stored: StoredShapePrior,
    train: AmodalAnnotations,
    val: AmodalAnnotations,
    config: ShapePriorConfig,
) -> pd.DataFrame:
    """Return how well the masks of both splits come back, by category; printed too.

    Categories with fewer than ``config.poor_below`` entries are warned of.
    """
    from amodal_pipeline.methods.vrsp.learning import describe

    tables = []
    for annotations in (train, val):
        with progress(f"shapes of {annotations.metadata.split}") as on_progress:
            tables.append(describe(stored, annotations, config.poor_below, on_progress))
    table = pd.concat(tables, ignore_index=True)
    _print(table, stored.card.dataset)
    for row in tables[0].itertuples():
        if row.note:
            _log.warning("%s, category %r: %s", stored.card.dataset, row.category, row.note)
    return table


def draw_shape_prior(stored: StoredShapePrior) -> tuple[Image.Image, Image.Image]:
    """Return the entries of each category, decoded, and a map of them."""
    from amodal_pipeline.visuals.shape_prior import entries_map, entries_sheet

    return entries_sheet(stored), entries_map(stored)


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
