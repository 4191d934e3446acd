"""Predictions that the job `evaluate` scores: of a method that a user names, or of a file."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from amodal_pipeline.annotations import AmodalAnnotations, Given, KnownObjects, Predictions
from amodal_pipeline.jobs.complete import (
    complete_detections,
    complete_true,
    complete_true_boxes,
    detector_of,
    is_completer,
    load_stage_one,
    with_boxes,
    within_amodal_boxes,
)
from amodal_pipeline.jobs.detect import predict
from amodal_pipeline.jobs.evaluate import newest
from amodal_pipeline.jobs.progress import progress
from amodal_pipeline.methods.checkpoints import Checkpoint
from amodal_pipeline.methods.training_config import InferenceConfig
from amodal_pipeline.shipped import with_shipped

KINDS = ("predictions", "predictions_noisy", "predictions_true", "predictions_true_boxes")


@dataclass(frozen=True)
class Choice:
    """What a user asks to be scored.

    Attributes:
        folder: folder of the chosen method's checkpoint; without one, the weights of its name that
            the package ships.
        predictions: a COCO results file or a folder of them, to be scored instead of the method;
            the name of each file is taken as its method.
        masks: whether "segmentation" in these files is the visible or the amodal mask.
        inputs: what a completer completes: true masks, true masks within true boxes, or true masks
            both as they are and with noise (spelled as in ``Given``), the detections of the
            detector of this name, or those of a COCO results file; None for true masks and the
            detections of the detector that it was trained with.
        stage_one: the detector that estimates amodal boxes, for a completer that needs them; None
            for the one that it was trained with.
        detector: the detector to use for a completer that needs boxes and learns from no detector
            (A3D).
    """

    folder: Path
    predictions: str | None = None
    masks: Literal["amodal", "visible"] = "amodal"
    inputs: Any = None
    stage_one: str | None = None
    detector: str | None = None


def predict_or_read(
    choice: Choice, annotations: AmodalAnnotations, inference: InferenceConfig, model_output: Path
) -> tuple[list[Predictions], Predictions | None]:
    """Return predictions to be scored, and the detections that were completed, if any.

    Args:
        choice: what is to be scored.
        annotations: the validation split.
        inference: how a method is run.
        model_output: folder with the predictions of all methods.

    Raises:
        ValueError: a file has the name of a method that is trained here, whose results it would
            replace; or ``choice.inputs`` does not suit the method, or names no detector.
    """
    folder = choice.folder
    if choice.predictions is None:
        checkpoint = Checkpoint.load(with_shipped(folder))
        if is_completer(checkpoint.card):
            return _complete_chosen(checkpoint, choice, annotations, inference, model_output)
        if choice.inputs is not None:
            raise ValueError(
                f"{folder.name} finds objects itself: --params inputs={choice.inputs} is for "
                "methods that complete known ones"
            )
        return [predict(checkpoint, annotations, inference)], None
    from amodal_pipeline.annotations.coco_results import read_results_folder

    path = Path(choice.predictions).expanduser()
    for file in [path, *path.glob("*.json")]:
        method = file.stem.partition(".")[0]  # "orcnn.row" is a row of an ablation of orcnn
        if (folder.parent / method / "method.json").exists():
            raise ValueError(
                f"{method} is trained here, and its results could be replaced by those of {file}: "
                "rename the file after the method that it is of"
            )
    with progress(f"read {path.name}") as on_progress:
        found = read_results_folder(path, annotations, masks=choice.masks, on_progress=on_progress)
    return found, None


def predict_chosen(
    choice: Choice, annotations: AmodalAnnotations, inference: InferenceConfig, model_output: Path
) -> tuple[dict[str, Predictions], ...]:
    """Return predictions as :func:`predict_or_read` does, grouped by data set of the catalog.

    Returns:
        Tables by method for each of KINDS (:func:`kind`), and the detections that were completed.
    """
    found, detections = predict_or_read(choice, annotations, inference, model_output)
    own = choice.folder.name
    kinds: dict[str, dict[str, Predictions]] = {name: {} for name in KINDS}
    for each in found:
        kinds[kind(each)][own if choice.predictions is None else each.metadata.method] = each
    return *kinds.values(), {} if detections is None else {own: detections}


def kind(predictions: Predictions) -> str:
    """Return the data set of the catalog that a table belongs to, one of KINDS."""
    given = predictions.metadata.given
    return f"predictions_{given}" if given.from_truth else "predictions"


def _complete_chosen(
    checkpoint: Checkpoint,
    choice: Choice,
    annotations: AmodalAnnotations,
    inference: InferenceConfig,
    model_output: Path,
) -> tuple[list[Predictions], Predictions | None]:
    """Return completions of the chosen inputs.

    Without a detector and without chosen inputs, completions that need a detector are left out.
    """
    models, boxed = choice.folder.parent, within_amodal_boxes(checkpoint.card)
    stage_one, detector = choice.stage_one, choice.detector
    given = None if choice.inputs is None else Given.of(choice.inputs)
    if given is Given.TRUE_BOXES and not boxed:
        raise ValueError(
            f"{choice.folder.name} looks around visible boxes: --params inputs={given} is for "
            "methods that need amodal ones"
        )
    made = []
    if boxed and given in (None, Given.TRUE_BOXES):
        made.append(complete_true_boxes(checkpoint, annotations, inference))
    if boxed and given is None and not (stage_one or detector_of(checkpoint, models, detector)):
        return made, None
    if given in (None, Given.TRUE_MASKS, Given.NOISY_MASKS):
        boxes_by = [load_stage_one(checkpoint, models, stage_one, detector)] if boxed else []
        made.append(complete_true(checkpoint, annotations, inference, boxes_by))
        if given is Given.NOISY_MASKS:
            made.append(complete_true(checkpoint, annotations, inference, boxes_by, noisy=True))
    if given and given.from_truth:
        return made, None
    otherwise = (stage_one or detector) if boxed else (detector or "orcnn")
    name = choice.inputs or detector_of(checkpoint, models, otherwise)
    detections = _detections(name, models, annotations, inference, model_output)
    if boxed and detections.predictions["amodal_box"].isna().any():
        estimating = load_stage_one(checkpoint, models, stage_one, detector)
        detections = with_boxes(estimating, KnownObjects.of(detections), inference).table
    made.append(complete_detections(checkpoint, annotations, detections, inference))
    return made, detections


def read_results_of_split(pattern: str, annotations: AmodalAnnotations) -> Predictions:
    """Read another program's detections of a split, whose ``segmentation`` is the visible mask.

    Args:
        pattern: name of a COCO results file, in which "{split}" is replaced by the split's name.
            The method is called as the file without "{split}".
        annotations: the split.

    Raises:
        ValueError: see ``read_coco_results``.
    """
    from amodal_pipeline.annotations.coco_results import read_coco_results

    path = Path(pattern.replace("{split}", annotations.metadata.split)).expanduser()
    name = Path(pattern.replace("{split}", "")).stem.strip("_-. ") or None
    with progress(f"read {path.name}") as on_progress:
        return read_coco_results(
            path, annotations, method=name, masks="visible", on_progress=on_progress
        )


def _detections(
    chosen: str,
    models: Path,
    annotations: AmodalAnnotations,
    inference: InferenceConfig,
    model_output: Path,
) -> Predictions:
    """Return detections: read from a file, kept from an earlier evaluation, or made now."""
    if chosen.endswith(".json"):
        return read_results_of_split(chosen, annotations)
    if not (models / chosen / "method.json").exists():
        raise ValueError(
            f"{chosen!r} is no detector that is trained here ({models / chosen} holds none), nor a "
            "results file *.json: choose with --params inputs=true|<detector>|<results.json>, or "
            "train it first, `kedro run --pipeline=train_<detector>`"
        )
    detector = Checkpoint.load(models / chosen)
    if any((model_output / chosen / "predictions").glob("*/predictions")):
        found = newest(chosen, model_output)
        made = (found.metadata.checkpoint, found.metadata.annotations)
        if made == (detector.card.fingerprint.digest, annotations.fingerprint):
            return found
    return predict(detector, annotations, inference)
