"""Nodes that measure and draw a trained mask tokenizer."""

import logging

import pandas as pd
from PIL import Image

from amodal_pipeline.annotations import AmodalAnnotations
from amodal_pipeline.jobs.progress import plain_console, progress
from amodal_pipeline.jobs.train import Job
from amodal_pipeline.methods.checkpoints import Checkpoint
from amodal_pipeline.methods.training_config import InferenceConfig

_log = logging.getLogger(__name__)
_MOST = 2000  # objects per split that are measured


def describe_mask_tokenizer(
    checkpoint: Checkpoint,
    train: AmodalAnnotations,
    val: AmodalAnnotations,
    job: Job,
    inference: InferenceConfig,
) -> tuple[pd.DataFrame, Image.Image]:
    """Measure how well masks are reconstructed from their tokens, by split and category.

    The table is printed too. A warning says if the mean IoU on ``val`` is below
    ``job.model.poor_below``. A split with more than 2,000 objects is sampled.

    Returns:
        The table, and a picture of reconstructions.
    """
    from amodal_pipeline.methods.c2f_seg.reconstruction import describe, reconstruct, some_objects
    from amodal_pipeline.methods.pretrained import restore
    from amodal_pipeline.training.device import resolve_device
    from amodal_pipeline.visuals.reconstructions import reconstructions_sheet

    network = restore(checkpoint).network.to(resolve_device(inference.device))
    tables = []
    for annotations in (train, val):
        rows = some_objects(annotations, _MOST)
        with progress(f"reconstruct masks of {annotations.metadata.split}") as on_progress:
            found = reconstruct(network, annotations, rows, on_progress)
        tables.append(describe(found, annotations))
    table = pd.concat(tables, ignore_index=True)
    _print(table, checkpoint.card.dataset)
    _warn(tables[1].iloc[0], job.model.root.poor_below, checkpoint.card.dataset)
    return table, reconstructions_sheet(network, val, found)


def _warn(overall: pd.Series, poor_below: float, dataset: str) -> None:
    if overall["iou"] < poor_below:
        _log.warning(
            "%s: masks come back from their tokens with a mean IoU of %.1f only (%d of %d codes in "
            "use), and no completion can be better: train the mask tokenizer for longer, or set "
            "mask_tokenizer.model.revive_after",
            dataset,
            overall["iou"],
            overall["used_codes"],
            overall["used_codes"] + overall["dead_codes"],
        )


def _print(table: pd.DataFrame, dataset: str) -> None:
    from rich.table import Table

    shown = Table(title=f"{dataset}: mask tokenizer (mean IoU of masks, 0–100)")
    shown.add_column("category")
    for name in ("masks", "IoU", "codes", "perplexity", "IoU, val", "codes, val"):
        shown.add_column(name, justify="right")
    train, val = (part for _, part in table.groupby("split", sort=False))
    for own, other in zip(train.itertuples(), val.itertuples(), strict=True):
        shown.add_row(
            own.category,
            str(own.objects),
            _number(own.iou),
            str(own.used_codes),
            _number(own.perplexity),
            _number(other.iou),
            str(other.used_codes),
        )
    plain_console().print(shown)
    dead = train.iloc[0]["dead_codes"]
    if dead:
        plain_console().print(
            f"{dead} codes are dead: no mask of {train.iloc[0]['split']} uses them"
        )


def _number(value: float) -> str:
    return "–" if value != value else f"{value:.1f}"
