"""Nodes that run a trained method over the validation split and score it."""

import dataclasses
import logging
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Literal

from PIL import Image

from amodal_pipeline.annotations import AmodalAnnotations, Predictions, PredictionsMetadata
from amodal_pipeline.methods.checkpoints import Checkpoint
from amodal_pipeline.metrics.config import EvaluationConfig
from amodal_pipeline.metrics.scores import Scores
from amodal_pipeline.pipelines.progress import progress
from amodal_pipeline.training.configs import InferenceConfig

_log = logging.getLogger(__name__)


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
    model = restore(checkpoint)
    with progress(f"predict {metadata.method}") as on_progress:
        found = run.predict(model, annotations.images, metadata, inference, on_progress)
    if getattr(model, "without_prior", 0):
        _log.warning(
            "%s: %d boxes are of categories of which no shape is known: they kept their coarse "
            "mask as prior and their score",
            metadata.method,
            model.without_prior,
        )
    return found


def predict_at_cost(
    checkpoint: Checkpoint, annotations: AmodalAnnotations, inference: InferenceConfig
) -> tuple[Predictions, dict[str, object]]:
    """As :func:`predict`, and what it takes: the fields of :class:`~..training.cost.Cost`.

    Images per second are those of the whole job: reading, the network, masks at full resolution.
    """
    import torch

    from amodal_pipeline.annotations.images import read_image
    from amodal_pipeline.methods.pretrained import restore
    from amodal_pipeline.training.cost import cost, device_name
    from amodal_pipeline.training.device import resolve_device

    start = time.perf_counter()
    found = predict(checkpoint, annotations, inference)
    speed = len(annotations.images) / (time.perf_counter() - start)
    device = device_name(resolve_device(inference.device))
    pixels = read_image(annotations.metadata.image_root, annotations.images["file_name"].iloc[0])
    image = torch.from_numpy(pixels).permute(2, 0, 1)
    return found, dataclasses.asdict(cost(restore(checkpoint), image, speed, device))


def predict_or_read(
    folder: Path,
    annotations: AmodalAnnotations,
    inference: InferenceConfig,
    predictions: str | None,
    masks: Literal["amodal", "visible"],
) -> dict[str, Predictions]:
    """Predictions to be scored, by method.

    Args:
        folder: of the checkpoint of the chosen method.
        annotations: the validation split.
        inference: how the method is run.
        predictions: a COCO results file or a folder of them, instead of the method; each is a
            method named as its file.
        masks: what the key "segmentation" is in these files.

    Raises:
        ValueError: a file is named as a method that is trained here: its results would be lost.
    """
    if predictions is None:
        found = predict(Checkpoint.load(folder), annotations, inference)
        return {folder.name: found}
    from amodal_pipeline.annotations.coco_results import read_results_folder

    path = Path(predictions).expanduser()
    for file in [path, *path.glob("*.json")]:
        method = file.stem.partition(".")[0]  # "orcnn.row" is a row of an ablation of orcnn
        if (folder.parent / method / "method.json").exists():
            raise ValueError(
                f"{method} is trained here, and its results could be replaced by those of {file}: "
                "rename the file after the method that it is of"
            )
    with progress(f"read {path.name}") as on_progress:
        tables = read_results_folder(path, annotations, masks=masks, on_progress=on_progress)
    return {table.metadata.method: table for table in tables}


def evaluate(
    annotations: AmodalAnnotations,
    predictions: Predictions,
    evaluation: EvaluationConfig,
    model_output: Path,
) -> Scores:
    """Scores of a method, and of the baselines that work on its predictions.

    Those that complete its visible masks, and those that order its objects by a rule, stand on the
    same detections, matched once by the amodal masks of the method, or of the detector whose
    detections it completed. They need an amodal mask of every prediction; the first two also a
    visible one.

    Args:
        annotations: the validation split.
        predictions: of the method.
        evaluation: what to evaluate.
        model_output: folder with the predictions of all methods: of the detector, and of those in
            ``evaluation.matched_by``.
    """
    from amodal_pipeline.methods import baselines
    from amodal_pipeline.metrics import order, scores
    from amodal_pipeline.metrics.completion import match_detections
    from amodal_pipeline.metrics.evaluate import evaluate as score

    table, method = predictions.predictions, predictions.metadata.method
    common = _matched_by(evaluation.matched_by, annotations, model_output)
    with progress(f"score {method}") as on_progress:
        run = partial(
            score,
            annotations,
            run_id=scored(predictions),
            common=common,
            on_progress=on_progress,
        )
        if len(table) and table["amodal_rle"].isna().any():
            return run(predictions, evaluation)
        detector = predictions
        if len(table) and table["source_id"].notna().all():
            detector = _newest(predictions.metadata.inputs, model_output)
        matches = match_detections(annotations, detector)
        parts = [run(predictions, evaluation, matches)]
        if len(table) and table["visible_rle"].notna().all():
            for baseline in (baselines.visible_mask, baselines.convex_hull):
                parts.append(run(baseline(predictions), evaluation, matches))
        if len(table) and "order" in evaluation.protocols:
            only = evaluation.model_copy(update={"protocols": ("order",), "vrsp_released": False})
            for rule in (order.by_area, order.by_lowest_point):
                parts.append(run(rule(predictions), only, matches))
    return scores.join(parts)


def evaluate_each(
    annotations: AmodalAnnotations,
    predictions: dict[str, Predictions],
    evaluation: EvaluationConfig,
    model_output: Path,
) -> Iterator[dict[str, Scores]]:
    """As :func:`evaluate`, for several methods, each saved before the next is begun."""
    for name, found in predictions.items():
        yield {name: evaluate(annotations, found, evaluation, model_output)}


def _matched_by(methods: tuple[str, ...], annotations: AmodalAnnotations, folder: Path):
    from amodal_pipeline.metrics.completion import in_all, match_detections

    matches = []
    for method in methods:
        found = _newest(method, folder)
        if len(found.predictions) and not found.predictions["amodal_rle"].notna().any():
            raise ValueError(
                f"matched_by names {method!r}, which predicts no amodal masks: objects are matched "
                "by these; leave it out"
            )
        matches.append(match_detections(annotations, found))
    return in_all(matches) if matches else None


def _newest(method: str, folder: Path) -> Predictions:
    versions = sorted((folder / method / "predictions").glob("*/predictions"))
    if not versions:
        raise ValueError(
            f"{method!r} has no predictions in {folder}: evaluate it first, "
            f"`kedro run --pipeline=evaluate --params method={method}`"
        )
    return Predictions.load(versions[-1])


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


def draw_each(
    annotations: AmodalAnnotations, predictions: dict[str, Predictions], count: int
) -> dict[str, Image.Image]:
    """As :func:`draw`, for several methods."""
    return {name: draw(annotations, found, count) for name, found in predictions.items()}
