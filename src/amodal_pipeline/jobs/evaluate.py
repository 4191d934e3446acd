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
    """Scores of a method, and of the baselines that work on its predictions.

    Those that complete its visible masks, and those that order its objects by a rule, stand on the
    same detections, those of the method or of the detector whose detections it completed, matched
    once as by :func:`~..metrics.completion.match_detections`. They need an amodal mask of every
    prediction; the first two also a visible one.

    Args:
        annotations: the validation split.
        predictions: of the method.
        evaluation: what to evaluate.
        model_output: folder with the predictions of all methods: of the detector, and of those in
            ``evaluation.matched_by``.
        detections: those that the method completed, where they are at hand; otherwise the newest
            of the detector in ``model_output``.
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
        # They rest on visible masks, whoever else completed them within whatever boxes.
        made = detector.metadata.model_copy(update={"boxes_checkpoint": ""})
        if len(table) and table["instance_id"].notna().all():
            made = made.model_copy(update={"checkpoint": ""})
        run = partial(run, run_id=scored(dataclasses.replace(detector, metadata=made)))
        if len(table) and table["visible_rle"].notna().all():
            for baseline in (baselines.visible_mask, baselines.convex_hull):
                parts.append(run(baseline(predictions), evaluation, matches))
        if len(table) and "order" in evaluation.protocols:
            only = evaluation.model_copy(update={"protocols": ("order",), "vrsp_released": False})
            # These look at the completed masks, which are another method's own.
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
    """Return scores of all that a method made of a split, and of the baselines on each.

    Args:
        annotations, evaluation, model_output: as for :func:`evaluate`.
        detections: those that a completer completed, if any.
        completions: what it made of true objects and of detections. What it would have made of a
            detector is left out where there is none.
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
    """Score several methods as :func:`evaluate_completions` does, each saved before the next."""
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
        ValueError: it has none.
    """
    versions = sorted((folder / method / kind).glob(f"*/{kind}"))
    if not versions:
        raise ValueError(
            f"{method!r} has no predictions in {folder}: evaluate it first, "
            f"`kedro run --pipeline=evaluate --params method={method}`"
        )
    return Predictions.load(versions[-1])


def scored(predictions: Predictions) -> str:
    """Name what a row of results was computed from: the start of the fingerprints of the
    checkpoint, of the one that estimated boxes, if any did, and of the data."""
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
    """Draw what a method made of true objects and of detections side by side."""
    from amodal_pipeline.visuals.grids import prediction_grid
    from amodal_pipeline.visuals.selection import most_occluded

    on = {
        Given.IMAGE: "",
        Given.TRUE_MASKS: " on true visible masks",
        Given.TRUE_BOXES: " within true boxes",
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
    """Draw several methods as :func:`draw_completions` does, by name.

    Nothing where an image to be drawn on is missing or not that of the annotations: what another
    program predicted is scored without images. The log says so.
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
