"""Nodes that run a trained method over the validation split and score it.

A detector finds objects in images. A completer is given objects with their visible masks, once the
true ones and once what a detector found. One that looks within amodal boxes is given those too: the
true ones, or what a detector, its stage one, estimates from the visible ones.
"""

import dataclasses
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from amodal_pipeline.annotations import AmodalAnnotations, Predictions, PredictionsMetadata
from amodal_pipeline.annotations.tables import PREDICTION_ORDER, PREDICTIONS, boxes, frame
from amodal_pipeline.jobs.progress import progress
from amodal_pipeline.methods.checkpoints import Checkpoint, MethodCard
from amodal_pipeline.methods.contract import job_name
from amodal_pipeline.methods.training_config import InferenceConfig
from amodal_pipeline.metrics.config import EvaluationConfig
from amodal_pipeline.metrics.scores import Scores

_log = logging.getLogger(__name__)


def predict(
    checkpoint: Checkpoint, annotations: AmodalAnnotations, inference: InferenceConfig
) -> Predictions:
    """Predict every image of a split with a trained detector."""
    from amodal_pipeline.methods.pretrained import restore
    from amodal_pipeline.training import inference as run

    card, truth = checkpoint.card, annotations.metadata
    check_detector(card)
    _check_categories(card, annotations)
    metadata = PredictionsMetadata(
        dataset=truth.dataset,
        split=truth.split,
        method=job_name(card.method.root),
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
    """Predict as :func:`predict` does, and measure its :class:`~..training.cost.Cost`.

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


def is_completer(card: MethodCard) -> bool:
    """Return whether a method completes objects that it is given; a detector finds them itself."""
    return card.method.root.DESCRIPTION.task == "complete"


def within_amodal_boxes(card: MethodCard) -> bool:
    """Return whether a completer is given amodal boxes beside the visible masks."""
    return card.method.root.crop.around == "amodal"


def check_detector(card: MethodCard) -> None:
    """Refuse a method that finds no objects.

    Raises:
        ValueError: it completes or orders known objects, or is a part of one that does.
    """
    name = card.method.root.name
    match card.method.root.DESCRIPTION.task:
        case "complete":
            raise ValueError(
                f"{name} completes objects that it is given and finds none itself: name a detector "
                "here, or see docs/completing.md"
            )
        case "part":
            raise ValueError(f"{name} is a part of a method and predicts nothing: name a method")
        case "order":
            raise ValueError(
                f"{name} orders objects that it is given and finds none itself: name a detector "
                "here, and see docs/methods/order_net.md"
            )


def _check_categories(card: MethodCard, annotations: AmodalAnnotations) -> None:
    truth = annotations.metadata
    names, method = [c.name for c in card.categories], job_name(card.method.root)
    if names != [c.name for c in truth.categories]:
        raise ValueError(
            f"{method} was trained on the categories of {card.dataset!r} {names}, "
            f"{truth.dataset!r} has {[c.name for c in truth.categories]}: train it on this data set"
        )


def complete_true(
    checkpoint: Checkpoint,
    annotations: AmodalAnnotations,
    inference: InferenceConfig,
    stage_one: Sequence[Checkpoint] = (),
) -> Predictions:
    """Complete the true visible masks of a split; ``inputs`` is "true".

    Args:
        stage_one: the detector that estimates amodal boxes, for a completer that needs them.

    Raises:
        ValueError: it needs boxes, and there is no stage one.
    """
    from amodal_pipeline.annotations.known_objects import true_objects

    card = checkpoint.card
    _check_categories(card, annotations)
    objects = true_objects(annotations)
    if within_amodal_boxes(card):
        if not stage_one:
            raise ValueError(
                f"{card.method.root.name} looks within amodal boxes, and no detector estimates "
                "them: name one as its detector, or complete the objects within their true boxes"
            )
        _check_categories(stage_one[0].card, annotations)
        objects = with_boxes(stage_one[0], objects, inference)
    return complete(checkpoint, objects, inference)


def complete_true_where_boxes_are_known(
    checkpoint: Checkpoint,
    annotations: AmodalAnnotations,
    inference: InferenceConfig,
    stage_one: list[Checkpoint],
) -> Predictions:
    """Complete as :func:`complete_true` does; no objects where there is no stage one."""
    if not stage_one:
        return complete(checkpoint, nothing(annotations), inference)
    return complete_true(checkpoint, annotations, inference, stage_one)


def complete_true_boxes(
    checkpoint: Checkpoint, annotations: AmodalAnnotations, inference: InferenceConfig
) -> Predictions:
    """Complete the true visible masks of a split within their true amodal boxes.

    It knows how far each object reaches: ``inputs`` is "true_boxes".
    """
    from amodal_pipeline.annotations.known_objects import true_objects

    _check_categories(checkpoint.card, annotations)
    return complete(checkpoint, true_objects(annotations, boxes=True), inference)


def complete_true_at_cost(
    checkpoint: Checkpoint,
    annotations: AmodalAnnotations,
    inference: InferenceConfig,
    stage_one: Sequence[Checkpoint] = (),
) -> tuple[Predictions, dict[str, object]]:
    """Complete as :func:`complete_true` does, and measure its :class:`~..training.cost.Cost`.

    Images per second are objects: reading, the network, masks at full resolution.
    """
    run = partial(complete_true, checkpoint, annotations, inference, stage_one)
    return _at_cost(run, checkpoint, inference)


def complete_true_boxes_at_cost(
    checkpoint: Checkpoint,
    annotations: AmodalAnnotations,
    inference: InferenceConfig,
    stage_one: Sequence[Checkpoint] = (),
) -> tuple[Predictions, dict[str, object]]:
    """Complete as :func:`complete_true_boxes` does, and measure its cost.

    That is the completer alone; "stage_one" has the name, parameters and operations of the detector
    that it works with, if any: an image goes through that first.
    """
    import torch

    from amodal_pipeline.annotations.images import read_image
    from amodal_pipeline.methods.pretrained import restore
    from amodal_pipeline.training.cost import cost

    run = partial(complete_true_boxes, checkpoint, annotations, inference)
    found, taken = _at_cost(run, checkpoint, inference)
    if stage_one:
        detector = stage_one[0]
        root, name = annotations.metadata.image_root, annotations.images["file_name"].iloc[0]
        image = torch.from_numpy(read_image(root, name)).permute(2, 0, 1)
        own = cost(restore(detector), image)
        taken["stage_one"] = {
            "method": job_name(detector.card.method.root),
            "parameters": own.parameters,
            "flops": own.flops,
        }
    return found, taken


def _at_cost(
    run: Callable[[], Predictions], checkpoint: Checkpoint, inference: InferenceConfig
) -> tuple[Predictions, dict[str, object]]:
    """What ``run`` completes, and the cost of one object."""
    import torch

    from amodal_pipeline.methods.pretrained import restore
    from amodal_pipeline.training.cost import cost, device_name
    from amodal_pipeline.training.device import resolve_device

    start = time.perf_counter()
    found = run()
    speed = len(found.predictions) / (time.perf_counter() - start)
    device = device_name(resolve_device(inference.device))
    crop = checkpoint.card.method.root.crop
    targets = {
        "input": torch.zeros(1, crop.side, crop.side, dtype=torch.uint8),
        "labels": torch.ones(1, dtype=torch.int64),
        "key": torch.zeros(1, dtype=torch.int64),
        "aspect": torch.ones(1, 2),
    }
    image = torch.zeros(3, crop.image_side, crop.image_side, dtype=torch.uint8)
    model = restore(checkpoint)
    return found, dataclasses.asdict(cost(model, image, speed, device, targets))


def with_boxes(
    stage_one: Checkpoint,
    objects: Predictions,
    inference: InferenceConfig,
    *,
    categories: bool = True,
) -> Predictions:
    """Known objects with the amodal boxes that a detector estimates from their visible ones.

    ``categories``: as for :func:`~..training.completing.estimate_boxes`.
    """
    from amodal_pipeline.methods.pretrained import restore
    from amodal_pipeline.training.completing import estimate_boxes

    check_detector(stage_one.card)
    name = job_name(stage_one.card.method.root)
    with progress(f"boxes by {name}") as on_progress:
        found = estimate_boxes(
            restore(stage_one), objects, inference, on_progress, categories=categories
        )
    made = {"boxes_by": name, "boxes_checkpoint": stage_one.card.fingerprint.digest}
    return dataclasses.replace(found, metadata=found.metadata.model_copy(update=made))


def with_missing_boxes(
    stage_one: Checkpoint,
    objects: Predictions,
    inference: InferenceConfig,
    *,
    categories: bool = True,
) -> Predictions:
    """Estimate the boxes that are missing; those that the objects have stay what they are."""
    import numpy as np

    estimated = with_boxes(stage_one, objects, inference, categories=categories)
    known, guessed = (boxes(each.predictions["amodal_box"]) for each in (objects, estimated))
    columns = {name: objects.predictions[name] for name in objects.predictions.columns}
    columns["amodal_box"] = np.where(np.isnan(known), guessed, known)
    return dataclasses.replace(estimated, predictions=frame(PREDICTIONS, columns))


def nothing(annotations: AmodalAnnotations) -> Predictions:
    """Return what a detector that is not there finds in a split, or what is made of that."""
    truth = annotations.metadata
    metadata = PredictionsMetadata(
        dataset=truth.dataset,
        split=truth.split,
        method="none",
        inputs="none",
        categories=truth.categories,
        image_root=truth.image_root,
        annotations=truth.fingerprint,
    )
    return Predictions(
        metadata, annotations.images, frame(PREDICTIONS, {}), frame(PREDICTION_ORDER, {})
    )


def complete_detections(
    checkpoint: Checkpoint,
    annotations: AmodalAnnotations,
    detections: Predictions,
    inference: InferenceConfig,
) -> Predictions:
    """Complete the visible masks that a detector predicts for a split.

    Classes and scores are the detector's, boxes those of the completed masks; ``inputs`` is its
    name, ``source_id`` its detection.

    Raises:
        ValueError: the detections are of other annotations, or have no visible masks.
    """
    _check_categories(checkpoint.card, annotations)
    made = detections.metadata
    if made.annotations != annotations.fingerprint:
        raise ValueError(
            f"the predictions of {made.method!r} are for other annotations than those of "
            f"{annotations.metadata.dataset}/{annotations.metadata.split}: evaluate it again, "
            f"`kedro run --pipeline=evaluate --params method={made.method}`"
        )
    return complete(checkpoint, detections, inference)


def complete(
    checkpoint: Checkpoint, objects: Predictions, inference: InferenceConfig
) -> Predictions:
    """Known objects with the amodal masks of a completer; warns of those that cannot be seen."""
    from amodal_pipeline.annotations import rle
    from amodal_pipeline.methods.pretrained import restore
    from amodal_pipeline.training import completing as run

    card = checkpoint.card
    name = card.method.root.name
    with progress(f"complete {objects.metadata.method}") as on_progress:
        found = run.complete(
            restore(checkpoint),
            objects,
            inference,
            method=name,
            seed=card.seed,
            checkpoint=card.fingerprint.digest,
            on_progress=on_progress,
        )
    hidden = int((rle.area(found.predictions["visible_rle"].tolist()) == 0).sum())
    if hidden:
        _log.warning(
            "%s: %d of %d objects of %r have no visible pixel: their amodal masks stay empty",
            name,
            hidden,
            len(found.predictions),
            objects.metadata.method,
        )
    return found


def predict_or_read(
    folder: Path,
    annotations: AmodalAnnotations,
    inference: InferenceConfig,
    predictions: str | None,
    masks: Literal["amodal", "visible"],
    inputs: Any,
    model_output: Path,
    stage_one: str | None = None,
    detector: str | None = None,
) -> tuple[
    dict[str, Predictions], dict[str, Predictions], dict[str, Predictions], dict[str, Predictions]
]:
    """Return predictions to be scored, by method.

    Args:
        folder: of the checkpoint of the chosen method.
        annotations: the validation split.
        inference: how the method is run.
        predictions: a COCO results file or a folder of them, instead of the method; each is a
            method named as its file.
        masks: what the key "segmentation" is in these files.
        inputs: what a completer completes: "true" visible masks, the same within "true_boxes",
            those of the detector of this name, or those of a COCO results file; None for the true
            ones and those of the detector that it was trained with.
        model_output: folder with the predictions of all methods.
        stage_one: the detector that estimates amodal boxes, for a completer that needs them; None
            for the one that it was trained with.
        detector: that of a completer that needs boxes and learns from no detector (A3D).

    Returns:
        Predictions; of a completer those on a detector. Those on true visible masks. The detections
        that were completed. Those on true masks and boxes. Each by the name of the method, and
        empty where there are none.

    Raises:
        ValueError: a file is named as a method that is trained here: its results would be lost; or
            ``inputs`` says nothing to the method, or no detector.
    """
    if predictions is None:
        checkpoint, name = Checkpoint.load(folder), folder.name
        if is_completer(checkpoint.card):
            return _complete_chosen(
                checkpoint,
                folder,
                annotations,
                inference,
                inputs,
                model_output,
                stage_one,
                detector,
            )
        if inputs is not None:
            raise ValueError(
                f"{name} finds objects itself: --params inputs={inputs} is for methods that "
                "complete known ones"
            )
        return {name: predict(checkpoint, annotations, inference)}, {}, {}, {}
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
    return {table.metadata.method: table for table in tables}, {}, {}, {}


def _complete_chosen(
    checkpoint: Checkpoint,
    folder: Path,
    annotations: AmodalAnnotations,
    inference: InferenceConfig,
    inputs: Any,
    model_output: Path,
    stage_one: str | None,
    detector: str | None,
) -> tuple[
    dict[str, Predictions], dict[str, Predictions], dict[str, Predictions], dict[str, Predictions]
]:
    name, models, boxed = folder.name, folder.parent, within_amodal_boxes(checkpoint.card)
    found, true, detections, true_boxes = {}, {}, {}, {}
    # The command line makes a truth value of "true".
    inputs = "true" if inputs is True else inputs
    if inputs == "true_boxes" and not boxed:
        raise ValueError(
            f"{name} looks around visible boxes: --params inputs=true_boxes is for methods that "
            "need amodal ones"
        )
    if inputs == "true_boxes" or (inputs is None and boxed):
        true_boxes = {name: complete_true_boxes(checkpoint, annotations, inference)}
    if inputs is None and boxed and not (stage_one or _detector_of(checkpoint, models, detector)):
        return found, true, detections, true_boxes
    if inputs in (None, "true"):
        boxes_by = [load_stage_one(checkpoint, models, stage_one, detector)] if boxed else []
        true = {name: complete_true(checkpoint, annotations, inference, boxes_by)}
    if inputs not in ("true", "true_boxes"):
        otherwise = (stage_one or detector) if boxed else (detector or "orcnn")
        chosen = inputs or _detector_of(checkpoint, models, otherwise)
        given = _detections(chosen, models, annotations, inference, model_output)
        if boxed and given.predictions["amodal_box"].isna().any():
            estimating = load_stage_one(checkpoint, models, stage_one, detector)
            given = with_missing_boxes(estimating, given, inference)
        detections = {name: given}
        found = {name: complete_detections(checkpoint, annotations, given, inference)}
    return found, true, detections, true_boxes


def load_stage_one(
    checkpoint: Checkpoint, models: Path, stage_one: str | None, detector: str | None
) -> Checkpoint:
    """Return the detector that estimates amodal boxes for a completer; arguments as for
    :func:`predict_or_read`.

    Raises:
        ValueError: none is named, or it is not trained; says how to, and what can be done without.
    """
    name = stage_one or _detector_of(checkpoint, models, detector)
    if name is None:
        raise ValueError(
            f"{checkpoint.card.method.root.name} looks within amodal boxes, and its detector is "
            "null: name one to estimate them with, --params stage_one=<detector>, or give the "
            "boxes (docs/completing.md)"
        )
    if not (models / name / "method.json").exists():
        raise ValueError(
            f"{models / name} holds no detector to estimate amodal boxes with: train it, `kedro "
            f"run --pipeline=train_{name}` (and the --env of this run), name another with --params "
            "stage_one=<detector>, or give the boxes (docs/completing.md)"
        )
    return Checkpoint.load(models / name)


def _detector_of(checkpoint: Checkpoint, models: Path, otherwise: str | None) -> str | None:
    """The method whose checkpoint a completer was trained with; ``otherwise`` where it had none.

    Raises:
        ValueError: that checkpoint is not there any more.
    """
    if otherwise and otherwise.endswith(".json"):  # another program's results
        return otherwise
    digest = checkpoint.card.fingerprint.parts.get("detected")
    for path in sorted(models.glob("*/method.json")) if digest else ():
        if MethodCard.load(path.parent).fingerprint.digest == digest:
            return path.parent.name
    if digest:
        name = checkpoint.card.method.root.name
        raise ValueError(
            f"the detector that {name} was trained with is not in {models} any more: name the one "
            "whose detections are to be completed, --params inputs=<method>"
        )
    return otherwise


def read_visible_masks(
    path: Path, annotations: AmodalAnnotations, method: str | None = None
) -> Predictions:
    """Read another program's detections, whose ``segmentation`` is the visible mask.

    ``method`` is what they are called, by default as the file. Errors are those of
    :func:`~amodal_pipeline.annotations.coco_results.read_coco_results`.
    """
    from amodal_pipeline.annotations.coco_results import read_coco_results

    with progress(f"read {path.name}") as on_progress:
        return read_coco_results(
            path, annotations, method=method, masks="visible", on_progress=on_progress
        )


def read_results_of_split(pattern: str, annotations: AmodalAnnotations) -> Predictions:
    """Read another program's detections from the file of a split.

    ``pattern`` is its name, where "{split}" stands for the split's; they are called as the file
    without that.
    """
    path = Path(pattern.replace("{split}", annotations.metadata.split)).expanduser()
    name = Path(pattern.replace("{split}", "")).stem.strip("_-. ")
    return read_visible_masks(path, annotations, method=name or None)


def _detections(
    chosen: str,
    models: Path,
    annotations: AmodalAnnotations,
    inference: InferenceConfig,
    model_output: Path,
) -> Predictions:
    """What a detector found, from a file, from an earlier evaluation, or by running it."""
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
            for rule in (order.by_area, order.by_lowest_point):
                parts.append(run(rule(predictions), only, matches))
    return scores.join(parts)


def evaluate_completions(
    annotations: AmodalAnnotations,
    true: Predictions | None,
    found: Predictions | None,
    detections: Predictions | None,
    evaluation: EvaluationConfig,
    model_output: Path,
    true_boxes: Predictions | None = None,
) -> Scores:
    """Scores of a completer on true visible masks, within true boxes or not, and on those of a
    detector, and of the baselines on each.

    Args:
        annotations: the validation split.
        true: what it made of the true visible masks, if asked for.
        found: what it made of ``detections``, if asked for; not scored without a detector.
        evaluation, model_output: as for :func:`evaluate`.
        true_boxes: what it made of the true visible masks within true boxes, if asked for.
    """
    from amodal_pipeline.metrics import scores

    parts = [
        evaluate(annotations, table, evaluation, model_output, completed)
        for table, completed in ((true_boxes, None), (true, None), (found, detections))
        if table is not None and not _without_detector(table)
    ]
    return scores.join(parts)


def _without_detector(found: Predictions) -> bool:
    """Whether there was no detector that this could rest on: see :func:`nothing`."""
    return found.metadata.inputs == "none"


def evaluate_each(
    annotations: AmodalAnnotations,
    predictions: dict[str, Predictions],
    predictions_true: dict[str, Predictions],
    detections: dict[str, Predictions],
    evaluation: EvaluationConfig,
    model_output: Path,
    predictions_true_boxes: dict[str, Predictions],
) -> Iterator[dict[str, Scores]]:
    """Score what :func:`predict_or_read` returns: several methods, each saved before the next."""
    for name in predictions | predictions_true | predictions_true_boxes:
        true, found, source, boxes = (
            of.get(name)
            for of in (predictions_true, predictions, detections, predictions_true_boxes)
        )
        yield {
            name: evaluate_completions(
                annotations, true, found, source, evaluation, model_output, boxes
            )
        }


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
    """Image, truth and prediction side by side, for the images with the most occlusion."""
    from amodal_pipeline.visuals.grids import prediction_grid
    from amodal_pipeline.visuals.selection import most_occluded

    chosen = most_occluded(annotations, count)
    return prediction_grid(annotations, {predictions.metadata.method: predictions}, chosen)


def draw_completions(
    annotations: AmodalAnnotations,
    true: Predictions | None,
    found: Predictions | None,
    count: int,
    true_boxes: Predictions | None = None,
) -> Image.Image:
    """Draw a completer on true visible masks beside the same on a detector's masks."""
    from amodal_pipeline.visuals.grids import prediction_grid
    from amodal_pipeline.visuals.selection import most_occluded

    columns = {}
    known = {"image": "", "true": " on true visible masks", "true_boxes": " within true boxes"}
    for table in (true_boxes, true, found):
        if table is None or _without_detector(table):
            continue
        made = table.metadata
        on = known.get(made.inputs, f" on {made.inputs}")
        columns[f"{made.method}{on}"] = table
    return prediction_grid(annotations, columns, most_occluded(annotations, count))


def draw_each(
    annotations: AmodalAnnotations,
    predictions: dict[str, Predictions],
    predictions_true: dict[str, Predictions],
    count: int,
    predictions_true_boxes: dict[str, Predictions],
) -> dict[str, Image.Image]:
    """Draw several methods as :func:`draw` and :func:`draw_completions` do, by name.

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
        name: draw_completions(
            annotations,
            predictions_true.get(name),
            predictions.get(name),
            count,
            predictions_true_boxes.get(name),
        )
        for name in predictions | predictions_true | predictions_true_boxes
    }
