"""Complete known objects of a split with a trained completer.

A completer gets true visible masks, or a detector's detections. One that looks within amodal boxes
gets those, too: true boxes, or boxes that a detector, its stage one, estimates from visible masks.
"""

import dataclasses
import logging
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from amodal_pipeline.annotations import AmodalAnnotations, KnownObjects, Predictions
from amodal_pipeline.annotations.known_objects import no_objects, true_objects
from amodal_pipeline.annotations.tables import boxes
from amodal_pipeline.jobs.detect import at_cost, check_categories, check_detector, first_image
from amodal_pipeline.jobs.progress import progress
from amodal_pipeline.methods.checkpoints import Checkpoint, MethodCard
from amodal_pipeline.methods.contract import job_name
from amodal_pipeline.methods.training_config import InferenceConfig

_log = logging.getLogger(__name__)


def is_completer(card: MethodCard) -> bool:
    """Return whether a method completes given objects, instead of finding objects itself."""
    return card.method.root.DESCRIPTION.task == "complete"


def within_amodal_boxes(card: MethodCard) -> bool:
    """Return whether a completer needs amodal boxes in addition to visible masks."""
    return card.method.root.crop.around == "amodal"


def complete(
    checkpoint: Checkpoint, objects: KnownObjects, inference: InferenceConfig
) -> Predictions:
    """Return known objects with a completer's amodal masks; warn of objects that it cannot see."""
    from amodal_pipeline.annotations import rle
    from amodal_pipeline.methods.pretrained import restore
    from amodal_pipeline.training import completing, completing_clips

    card = checkpoint.card
    over_time = card.method.root.DESCRIPTION.learns_from == "clips"
    run = completing_clips.complete if over_time else completing.complete
    name, known = card.method.root.name, objects.table.metadata.method
    with progress(f"complete {known}") as on_progress:
        found = run(
            restore(checkpoint),
            objects,
            inference,
            method=name,
            seed=card.seed,
            checkpoint=card.fingerprint.digest,
            on_progress=on_progress,
        )
    masks = (found.predictions[f"{kind}_rle"].tolist() for kind in ("visible", "amodal"))
    empty = [rle.area(own) == 0 for own in masks]
    hidden = int((empty[0] & empty[1]).sum())
    if hidden:
        _log.warning(
            "%s: %d of %d objects of %r have no visible pixel: their amodal masks stay empty",
            *(name, hidden, len(found.predictions), known),
        )
    return found


def complete_true(
    checkpoint: Checkpoint,
    annotations: AmodalAnnotations,
    inference: InferenceConfig,
    stage_one: Sequence[Checkpoint] = (),
    *,
    noisy: bool = False,
) -> Predictions:
    """Complete the true visible masks of a split.

    Args:
        stage_one: the detector that estimates amodal boxes, for a completer that needs them.
        noisy: whether the masks get faults (:func:`~..samples.noisy_masks.with_noise`).

    Raises:
        ValueError: the completer needs boxes, and there is no stage one.
    """
    card = checkpoint.card
    check_categories(card, annotations)
    objects = true_objects(annotations)
    if noisy:
        from amodal_pipeline.samples.noisy_masks import with_noise

        objects = with_noise(objects)
    if within_amodal_boxes(card):
        if not stage_one:
            raise ValueError(
                f"{card.method.root.name} looks within amodal boxes, and no detector estimates "
                "them: name one as its detector, or complete the objects within their true boxes"
            )
        check_categories(stage_one[0].card, annotations)
        objects = with_boxes(stage_one[0], objects, inference)
    return complete(checkpoint, objects, inference)


def complete_true_where_boxes_are_known(
    checkpoint: Checkpoint,
    annotations: AmodalAnnotations,
    inference: InferenceConfig,
    stage_one: list[Checkpoint],
) -> Predictions:
    """Complete as :func:`complete_true` does; return an empty table if a stage one is missing."""
    if not stage_one:
        return complete(checkpoint, no_objects(annotations), inference)
    return complete_true(checkpoint, annotations, inference, stage_one)


def complete_true_boxes(
    checkpoint: Checkpoint, annotations: AmodalAnnotations, inference: InferenceConfig
) -> Predictions:
    """Complete the true visible masks of a split within their true amodal boxes."""
    check_categories(checkpoint.card, annotations)
    return complete(checkpoint, true_objects(annotations, boxes=True), inference)


def complete_detections(
    checkpoint: Checkpoint,
    annotations: AmodalAnnotations,
    detections: Predictions,
    inference: InferenceConfig,
) -> Predictions:
    """Complete the visible masks that a detector predicts for a split.

    Classes and scores are the detector's; boxes enclose the completed masks.

    Raises:
        ValueError: the detections are for other annotations, or have no visible masks.
    """
    check_categories(checkpoint.card, annotations)
    made = detections.metadata
    if made.annotations != annotations.fingerprint:
        raise ValueError(
            f"the predictions of {made.method!r} are for other annotations than those of "
            f"{annotations.metadata.dataset}/{annotations.metadata.split}: evaluate it again, "
            f"`kedro run --pipeline=evaluate --params method={made.method}`"
        )
    return complete(checkpoint, KnownObjects.of(detections), inference)


def complete_true_at_cost(
    checkpoint: Checkpoint,
    annotations: AmodalAnnotations,
    inference: InferenceConfig,
    stage_one: Sequence[Checkpoint] = (),
) -> tuple[Predictions, dict[str, object]]:
    """Complete as :func:`complete_true` does, and measure its :class:`~..training.cost.Cost`.

    "Images" per second counts objects, and includes reading, the network, and masks at full
    resolution.
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

    The cost is the completer's alone. "stage_one" has the name, parameters and operations of the
    detector that it works with, if any, which runs once per image before.
    """
    from amodal_pipeline.methods.pretrained import restore
    from amodal_pipeline.training.cost import cost

    run = partial(complete_true_boxes, checkpoint, annotations, inference)
    found, taken = _at_cost(run, checkpoint, inference)
    for detector in stage_one:
        own = cost(restore(detector), first_image(annotations))
        taken["stage_one"] = {
            "method": job_name(detector.card.method.root),
            "parameters": own.parameters,
            "flops": own.flops,
        }
    return found, taken


def _at_cost(
    run: Callable[[], Predictions], checkpoint: Checkpoint, inference: InferenceConfig
) -> tuple[Predictions, dict[str, object]]:
    """Return the predictions of ``run``, and the cost per object."""
    import torch

    config = checkpoint.card.method.root
    crop = config.crop
    empty = torch.zeros(1, crop.side, crop.side, dtype=torch.uint8)
    targets = {
        "input": empty,
        "labels": torch.ones(1, dtype=torch.int64),
        "key": torch.zeros(1, dtype=torch.int64),
        "aspect": torch.ones(1, 2),
    }
    if (sees := config.DESCRIPTION.sees(config)) != "itself":
        targets[sees] = empty
    image = torch.zeros(3, crop.image_side, crop.image_side, dtype=torch.uint8)
    return at_cost(run, checkpoint, inference, image, targets)


def with_boxes(
    stage_one: Checkpoint,
    objects: KnownObjects,
    inference: InferenceConfig,
    *,
    categories: bool = True,
) -> KnownObjects:
    """Return known objects with amodal boxes; a detector estimates the boxes that are missing.

    ``categories``: see :func:`~..training.completing.estimate_boxes`.
    """
    from amodal_pipeline.methods.pretrained import restore
    from amodal_pipeline.training.completing import estimate_boxes

    check_detector(stage_one.card)
    name = job_name(stage_one.card.method.root)
    with progress(f"boxes by {name}") as on_progress:
        estimated = estimate_boxes(
            restore(stage_one), objects, inference, on_progress, categories=categories
        )
    known, guessed = (boxes(each.table.predictions["amodal_box"]) for each in (objects, estimated))
    found = objects.with_columns(amodal_box=np.where(np.isnan(known), guessed, known)).table
    made = {"boxes_by": name, "boxes_checkpoint": stage_one.card.fingerprint.digest}
    metadata = found.metadata.model_copy(update=made)
    return dataclasses.replace(objects, table=dataclasses.replace(found, metadata=metadata))


def load_stage_one(
    checkpoint: Checkpoint, models: Path, stage_one: str | None, detector: str | None
) -> Checkpoint:
    """Return the detector that estimates amodal boxes for a completer.

    Args:
        models: folder of all checkpoints of the data set.
        stage_one: the detector's name; None for the one that the completer was trained with.
        detector: the detector to use for a completer that learns from no detector (A3D).

    Raises:
        ValueError: no detector is named, or it is not trained; says how to train it, and what can
            be done without it.
    """
    name = stage_one or detector_of(checkpoint, models, detector)
    if name is None:
        raise ValueError(
            f"{checkpoint.card.method.root.name} looks within amodal boxes, and no detector is "
            "named that estimates them: name one with --params stage_one=<detector>, or give the "
            "boxes (docs/completing.md)"
        )
    if not (models / name / "method.json").exists():
        raise ValueError(
            f"{models / name} holds no detector to estimate amodal boxes with: train it, `kedro "
            f"run --pipeline=train_{name}` (and the --env of this run), name another with --params "
            "stage_one=<detector>, or give the boxes (docs/completing.md)"
        )
    return Checkpoint.load(models / name)


def detector_of(checkpoint: Checkpoint, models: Path, otherwise: str | None) -> str | None:
    """Return the name of the detector that a completer was trained with, or ``otherwise``.

    Raises:
        ValueError: the folder of models no longer has its checkpoint.
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
