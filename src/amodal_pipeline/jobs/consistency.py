"""Nodes that run a trained method on the same objects under several occluders, and score it."""

import logging
from functools import partial
from pathlib import Path

import pandas as pd
from PIL import Image

from amodal_pipeline.annotations import AmodalAnnotations, Given, Predictions
from amodal_pipeline.compose.config import VariantsConfig
from amodal_pipeline.cores import usable_cores
from amodal_pipeline.jobs.detect import predict
from amodal_pipeline.jobs.progress import progress
from amodal_pipeline.methods.checkpoints import Checkpoint
from amodal_pipeline.methods.training_config import InferenceConfig
from amodal_pipeline.metrics.config import EvaluationConfig
from amodal_pipeline.metrics.scores import Scores

_log = logging.getLogger(__name__)


def make_variants(
    annotations: AmodalAnnotations, config: VariantsConfig, folder: Path, workers: int
) -> AmodalAnnotations:
    """Compose pictures of objects of the validation split under several occluders each.

    Args:
        annotations: the validation split.
        config: which pictures to make.
        folder: folder of the pictures; those already there are kept.
        workers: processes; 0 is one per core.

    Returns:
        The pictures as a table of annotations.
    """
    from amodal_pipeline.compose.variants import compose_variants

    with progress("occluders") as on_progress:
        return compose_variants(annotations, config, folder, workers or usable_cores(), on_progress)


def predict_variants(
    folder: Path, variants: AmodalAnnotations, inference: InferenceConfig
) -> dict[str, Predictions]:
    """Predict these pictures with the method in ``folder``; return {its name: its predictions}."""
    return {folder.name: predict(Checkpoint.load(folder), variants, inference)}


def evaluate_variants(
    annotations: AmodalAnnotations,
    variants: AmodalAnnotations,
    predictions: dict[str, Predictions],
    evaluation: EvaluationConfig,
) -> dict[str, Scores]:
    """Return consistency scores of each method, and of the baselines on its visible masks.

    Args:
        annotations: the validation split, whose images the pictures were made from.
        variants: the pictures.
        predictions: for the pictures, by method.
        evaluation: values of the bootstrap.

    Raises:
        ValueError: the pictures were made from another version of the validation split.
    """
    from amodal_pipeline.compose.variants import made_from

    if variants.metadata.sources.get(made_from(annotations.metadata.split)) != (
        annotations.fingerprint
    ):
        raise ValueError(
            "the objects under several occluders were made from another version of the validation "
            "data: run again without --only-missing-outputs"
        )
    scored = {n: _evaluate(annotations, variants, p, evaluation) for n, p in predictions.items()}
    for found in scored.values():
        for row in found.results.itertuples():
            on = "" if Given.of(row.inputs) is Given.IMAGE else f" on {row.inputs}"
            value = "–" if pd.isna(row.value) else f"{row.value:.1f}"
            _log.info("%s%s: %s %s (n = %d)", row.method, on, row.metric, value, row.n)
    return scored


def _evaluate(
    annotations: AmodalAnnotations,
    variants: AmodalAnnotations,
    predictions: Predictions,
    evaluation: EvaluationConfig,
) -> Scores:
    from amodal_pipeline.methods import baselines
    from amodal_pipeline.metrics import scores
    from amodal_pipeline.metrics.completion import match_detections
    from amodal_pipeline.metrics.consistency import evaluate_consistency

    table, method = predictions.predictions, predictions.metadata.method
    with progress(f"score {method}") as on_progress:
        run = partial(
            evaluate_consistency,
            variants,
            config=evaluation,
            matches=match_detections(variants, predictions),
            run_id=_scored(predictions, annotations),
            on_progress=on_progress,
        )
        parts = [run(predictions)]
        if len(table) and table["visible_rle"].notna().all():
            for baseline in (baselines.visible_mask, baselines.convex_hull):
                parts.append(run(baseline(predictions)))
    return scores.join(parts)


def _scored(predictions: Predictions, annotations: AmodalAnnotations) -> str:
    """Return an identifier of the checkpoint, pictures and split behind a row of results."""
    made = predictions.metadata
    return "-".join(d[:12] for d in (made.checkpoint, made.annotations, annotations.fingerprint))


def draw_variants(
    variants: AmodalAnnotations, predictions: dict[str, Predictions], count: int
) -> dict[str, Image.Image]:
    """Draw targets under their occluders with truth and prediction, the most consistent first.

    Args:
        count: number of targets, evenly spaced from the most to the least consistent.

    Returns:
        A picture per method.
    """
    from amodal_pipeline.metrics.consistency import appearances
    from amodal_pipeline.visuals.grids import occluder_grid

    return {
        name: occluder_grid(variants, found, appearances(variants, found), count)
        for name, found in predictions.items()
    }
