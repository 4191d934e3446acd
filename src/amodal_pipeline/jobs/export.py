"""Nodes that write a method's predictions for a split in the format of other evaluators."""

import logging
from pathlib import Path

from amodal_pipeline.annotations import AmodalAnnotations, Given, Predictions
from amodal_pipeline.jobs.chosen import KINDS, Choice, kind, predict_or_read
from amodal_pipeline.jobs.evaluate import newest
from amodal_pipeline.methods.checkpoints import Checkpoint
from amodal_pipeline.methods.training_config import InferenceConfig
from amodal_pipeline.shipped import with_shipped

logger = logging.getLogger(__name__)


def export_predictions(
    folder: Path,
    annotations: AmodalAnnotations,
    inference: InferenceConfig,
    model_output: Path,
    stage_one: str | None,
    detector: str | None,
) -> None:
    """Write the predictions of a method for a split as COCO results JSON, and the split's truth.

    Predictions of the last evaluation are written where they are of this checkpoint and these
    annotations; otherwise the method is run. Files lie in ``model_output``, next to the tables:
    ``<method>/predictions_<split>.json``; of a completer also ``predictions_true_<split>.json`` and
    ``predictions_true_boxes_<split>.json``; and ``<method>/truth_<split>.json``.

    Args:
        folder: folder of the checkpoint.
        annotations: the split.
        inference: how the method is run.
        model_output: folder with the predictions of all methods.
        stage_one, detector: as for :class:`~.chosen.Choice`.
    """
    from amodal_pipeline.annotations.export import write_coco_amodal, write_coco_results

    name, split = folder.name, annotations.metadata.split
    found = _evaluated(Checkpoint.load(with_shipped(folder)), name, annotations, model_output)
    if not found:
        choice = Choice(folder, stage_one=stage_one, detector=detector)
        found, _ = predict_or_read(choice, annotations, inference, model_output)
    for table in found:
        path = model_output / name / f"{kind(table)}_{split}.json"
        write_coco_results(table, path)
        logger.info("%s: %d records", path, len(table.predictions))
    write_coco_amodal(annotations, model_output / name / f"truth_{split}.json")


def _evaluated(
    checkpoint: Checkpoint, name: str, annotations: AmodalAnnotations, model_output: Path
) -> list[Predictions]:
    """Return what the checkpoint predicted for these annotations in its last evaluation."""
    made_by = (checkpoint.card.fingerprint.digest, annotations.fingerprint)
    found = []
    for each in KINDS:
        if any((model_output / name / each).glob(f"*/{each}")):
            table = newest(name, model_output, each)
            made = table.metadata
            if (made.checkpoint, made.annotations) == made_by and made.given is not Given.NOTHING:
                found.append(table)
    return found
