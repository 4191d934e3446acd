"""Score and draw predictions of a split."""

import dataclasses
import logging
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path

from PIL import Image

from amodal_pipeline.annotations import AmodalAnnotations, Given, Predictions
from amodal_pipeline.jobs.progress import progress
from amodal_pipeline.metrics.config import EvaluationConfig
from amodal_pipeline.metrics.scores import Scores

_log = logging.getLogger(__name__)


def evaluate(
    annotations: AmodalAnnotations,
    predictions: Predictions,
    evaluation: EvaluationConfig,
    model_output: Path,
    detections: Predictions | None = None,
) -> Scores:
    """Score a method, and the baselines that start from its predictions.

    Baselines complete its visible masks, or order its objects by a rule. They are scored on the
    same matched objects as the method: those found by the method, or by the detector whose
    detections it completed (:func:`~..metrics.completion.match_detections`). Baselines need an
    amodal mask of every prediction; those that complete also need a visible one.

    Args:
        annotations: the validation split.
        predictions: the method's.
        evaluation: what to evaluate.
        model_output: folder with the predictions of all methods, including the detector and the
            methods in ``evaluation.matched_by``.
        detections: the detections that the method completed; None for the newest predictions of
            the detector in ``model_output``.
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
            detector = detections or newest(predictions.metadata.inputs, model_output)
        matches = match_detections(annotations, detector)
        parts = [run(predictions, evaluation, matches)]
        # Baselines start from the detector's visible masks only: the identifier of their scores
        # names neither a completer nor its boxes.
        made = detector.metadata.model_copy(update={"boxes_checkpoint": ""})
        if len(table) and table["instance_id"].notna().all():
            made = made.model_copy(update={"checkpoint": ""})
        run = partial(run, run_id=scored(dataclasses.replace(detector, metadata=made)))
        if len(table) and table["visible_rle"].notna().all():
            for baseline in (baselines.visible_mask, baselines.convex_hull):
                parts.append(run(baseline(predictions), evaluation, matches))
            if len(predictions.order):
                hulls = baselines.convex_hull_in_order(predictions)
                parts.append(run(hulls, evaluation, matches, run_id=scored(predictions)))
        if len(table) and "order" in evaluation.protocols:
            only = evaluation.model_copy(update={"protocols": ("order",), "vrsp_released": False})
            # These rules look at the completed masks: scores bear the completer's identifier.
            for rule in (order.by_area, order.by_lowest_point):
                parts.append(run(rule(predictions), only, matches, run_id=scored(predictions)))
    return scores.join(parts)


def evaluate_completions(
    annotations: AmodalAnnotations,
    detections: Predictions | None,
    evaluation: EvaluationConfig,
    model_output: Path,
    *completions: Predictions,
) -> Scores:
    """Return scores of everything that a method made of a split, and of the baselines on each.

    Args:
        annotations, evaluation, model_output: as for :func:`evaluate`.
        detections: the detections that a completer completed, if any.
        completions: its completions of true objects and of detections. Empty completions of a
            detector that does not exist are left out.
    """
    from amodal_pipeline.metrics import scores

    return scores.join(
        evaluate(annotations, each, evaluation, model_output, detections)
        for each in completions
        if each.metadata.given is not Given.NOTHING
    )


def evaluate_each(
    annotations: AmodalAnnotations,
    detections: dict[str, Predictions],
    evaluation: EvaluationConfig,
    model_output: Path,
    *completions: dict[str, Predictions],
) -> Iterator[dict[str, Scores]]:
    """Yield scores of one method after another, so that each is saved before the next.

    Arguments are those of :func:`evaluate_completions`, by method.
    """
    for name, tables in _by_method(completions).items():
        found = detections.get(name)
        yield {name: evaluate_completions(annotations, found, evaluation, model_output, *tables)}


def _by_method(completions: Iterable[dict[str, Predictions]]) -> dict[str, list[Predictions]]:
    """Return the tables of each method as a list."""
    tables: dict[str, list[Predictions]] = {}
    for each in completions:
        for name, table in each.items():
            tables.setdefault(name, []).append(table)
    return tables


def _matched_by(methods: tuple[str, ...], annotations: AmodalAnnotations, folder: Path):
    from amodal_pipeline.metrics.completion import in_all, match_detections

    matches = []
    for method in methods:
        found = newest(method, folder)
        masks = found.predictions[["amodal_rle", "visible_rle"]]
        if len(masks) and not masks.notna().any(axis=None):
            raise ValueError(
                f"matched_by names {method!r}, which predicts no masks: objects are matched by "
                "these; leave it out"
            )
        matches.append(match_detections(annotations, found))
    return in_all(matches) if matches else None


def newest(method: str, folder: Path, kind: str = "predictions") -> Predictions:
    """Load a method's newest predictions, or its newest table of another ``kind``.

    Raises:
        ValueError: the folder has no predictions of this method.
    """
    versions = sorted((folder / method / kind).glob(f"*/{kind}"))
    if not versions:
        raise ValueError(
            f"{method!r} has no predictions in {folder}: evaluate it first, "
            f"`kedro run --pipeline=evaluate --params method={method}`"
        )
    return Predictions.load(versions[-1])


def scored(predictions: Predictions) -> str:
    """Return an identifier of the data behind a row of results.

    It joins the starts of three fingerprints: of the checkpoint, of the checkpoint that estimated
    boxes (if any), and of the annotations.
    """
    made = predictions.metadata
    boxes_by = f"{made.boxes_checkpoint[:12]}-" if made.boxes_checkpoint else ""
    return f"{made.checkpoint[:12]}-{boxes_by}{made.annotations[:12]}"


def draw(annotations: AmodalAnnotations, predictions: Predictions, count: int) -> Image.Image:
    """Draw image, truth and prediction side by side, for the images with the most occlusion."""
    from amodal_pipeline.visuals.grids import prediction_grid
    from amodal_pipeline.visuals.selection import most_occluded

    chosen = most_occluded(annotations, count)
    return prediction_grid(annotations, {predictions.metadata.method: predictions}, chosen)


def draw_completions(
    annotations: AmodalAnnotations, count: int, *completions: Predictions
) -> Image.Image:
    """Draw a method's completions of true objects and of detections side by side."""
    from amodal_pipeline.visuals.grids import prediction_grid
    from amodal_pipeline.visuals.selection import most_occluded

    on = {
        Given.IMAGE: "",
        Given.TRUE_MASKS: " on true visible masks",
        Given.TRUE_BOXES: " within true boxes",
        Given.NOISY_MASKS: " on noisy visible masks",
    }
    columns = {}
    for each in completions:
        made = each.metadata
        if made.given is not Given.NOTHING:
            columns[f"{made.method}{on.get(made.given, f' on {made.inputs}')}"] = each
    return prediction_grid(annotations, columns, most_occluded(annotations, count))


def draw_each(
    annotations: AmodalAnnotations, count: int, *completions: dict[str, Predictions]
) -> dict[str, Image.Image]:
    """Draw several methods as :func:`draw_completions` does; return pictures by method.

    The result is empty where an image is missing or does not match the annotations, because
    predictions of other programs are scored without images. The log says so.
    """
    from amodal_pipeline.annotations.on_disk import image_problems
    from amodal_pipeline.visuals.selection import most_occluded

    images, root = annotations.images, annotations.metadata.image_root
    drawn = images[images["image_id"].isin(most_occluded(annotations, count))]
    problems = [found for found in image_problems(drawn, root) if found is not None]
    if problems:
        _log.warning(
            "pictures are left out: %d of the %d images to draw on in %s cannot be (the first %s)",
            *(len(problems), len(drawn), root, " ".join(problems[0])),
        )
        return {}
    return {
        name: draw_completions(annotations, count, *tables)
        for name, tables in _by_method(completions).items()
    }
