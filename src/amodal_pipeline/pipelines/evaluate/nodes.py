"""Nodes that run a trained method over the validation split and score it."""

from functools import partial

import pandas as pd
from PIL import Image

from amodal_pipeline.annotations import AmodalAnnotations, Predictions, PredictionsMetadata
from amodal_pipeline.methods.checkpoints import Checkpoint
from amodal_pipeline.metrics.config import EvaluationConfig
from amodal_pipeline.pipelines.progress import progress
from amodal_pipeline.training.configs import InferenceConfig


def predict(
    checkpoint: Checkpoint, annotations: AmodalAnnotations, inference: InferenceConfig
) -> Predictions:
    """Predictions of a trained method for every image of a split."""
    from amodal_pipeline.methods.pretrained import restore
    from amodal_pipeline.training import inference as run

    card, truth = checkpoint.card, annotations.metadata
    names = [c.name for c in card.categories]
    if names != [c.name for c in truth.categories]:
        raise ValueError(
            f"{card.method.root.name} was trained on the categories of {card.dataset!r} {names}, "
            f"{truth.dataset!r} has {[c.name for c in truth.categories]}: train it on this data set"
        )
    metadata = PredictionsMetadata(
        dataset=truth.dataset,
        split=truth.split,
        method=card.method.root.name,
        seed=card.seed,
        categories=truth.categories,
        image_root=truth.image_root,
        annotations=truth.fingerprint,
        checkpoint=card.fingerprint.digest,
    )
    with progress(f"predict {metadata.method}") as on_progress:
        return run.predict(
            restore(checkpoint), annotations.images, metadata, inference, on_progress
        )


def evaluate(
    annotations: AmodalAnnotations, predictions: Predictions, evaluation: EvaluationConfig
) -> pd.DataFrame:
    """Results of a method, and of the baselines that complete its visible masks.

    The baselines stand on the same detections, matched once by the method's own amodal masks.
    """
    from amodal_pipeline.methods import baselines
    from amodal_pipeline.metrics import results
    from amodal_pipeline.metrics.completion import match_detections
    from amodal_pipeline.metrics.evaluate import evaluate as score

    table = predictions.predictions
    score = partial(score, run_id=scored(predictions))
    if len(table) and table["amodal_rle"].isna().any():
        return score(annotations, predictions, evaluation)
    matches = match_detections(annotations, predictions)
    parts = [score(annotations, predictions, evaluation, matches)]
    if len(table) and table["visible_rle"].notna().all():
        for baseline in (baselines.visible_mask, baselines.convex_hull):
            parts.append(score(annotations, baseline(predictions), evaluation, matches))
    return results.join(parts)


def scored(predictions: Predictions) -> str:
    """What a row of results rests on: the start of the checkpoint's and the data's fingerprints."""
    made = predictions.metadata
    return f"{made.checkpoint[:12]}-{made.annotations[:12]}"


def draw(annotations: AmodalAnnotations, predictions: Predictions, count: int) -> Image.Image:
    """Image, truth and prediction side by side, for the images with the most occlusion."""
    from amodal_pipeline.visuals.grids import prediction_grid
    from amodal_pipeline.visuals.selection import most_occluded

    chosen = most_occluded(annotations, count)
    return prediction_grid(annotations, {predictions.metadata.method: predictions}, chosen)
