"""Run a trained detector over a split."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from amodal_pipeline.annotations import AmodalAnnotations, Predictions, PredictionsMetadata
from amodal_pipeline.jobs.progress import progress
from amodal_pipeline.methods.checkpoints import Checkpoint, MethodCard
from amodal_pipeline.methods.contract import job_name
from amodal_pipeline.methods.training_config import InferenceConfig

if TYPE_CHECKING:
    from torch import Tensor

_log = logging.getLogger(__name__)

TORCHVISION = "torchvision"  # as the name of a detector: COCO's Mask R-CNN


def predict(
    checkpoint: Checkpoint, annotations: AmodalAnnotations, inference: InferenceConfig
) -> Predictions:
    """Return a trained detector's predictions for every image of a split."""
    from amodal_pipeline.methods.pretrained import restore
    from amodal_pipeline.training import inference as run

    card = checkpoint.card
    check_detector(card)
    check_categories(card, annotations)
    metadata = PredictionsMetadata.of(
        annotations.metadata,
        method=job_name(card.method.root),
        seed=card.seed,
        checkpoint=card.fingerprint.digest,
    )
    model = restore(checkpoint)
    with progress(f"predict {metadata.method}") as on_progress:
        found = run.predict(model, annotations.images, metadata, inference, on_progress)
    if getattr(model, "without_prior", 0):
        _log.warning(
            "%s: %d boxes are of categories of which no shape is known: they kept their coarse "
            "mask as prior and their score",
            *(metadata.method, model.without_prior),
        )
    return found


def predict_at_cost(
    checkpoint: Checkpoint, annotations: AmodalAnnotations, inference: InferenceConfig
) -> tuple[Predictions, dict[str, object]]:
    """Predict as :func:`predict` does, and measure its :class:`~..training.cost.Cost`.

    Images per second include reading, the network, and masks at full resolution.
    """
    run = partial(predict, checkpoint, annotations, inference)
    return at_cost(run, checkpoint, inference, first_image(annotations))


def first_image(annotations: AmodalAnnotations) -> Tensor:
    """Return the first image of a split, uint8 [3, H, W]."""
    import torch

    from amodal_pipeline.annotations.images import read_image

    root, name = annotations.metadata.image_root, annotations.images["file_name"].iloc[0]
    return torch.from_numpy(read_image(root, name)).permute(2, 0, 1)


def at_cost(
    run: Callable[[], Predictions],
    checkpoint: Checkpoint,
    inference: InferenceConfig,
    image: Tensor,
    targets: dict[str, Tensor] | None = None,
) -> tuple[Predictions, dict[str, object]]:
    """Return the result of ``run``, and its cost per image; per object if ``targets`` are given."""
    from amodal_pipeline.methods.pretrained import restore
    from amodal_pipeline.training.cost import cost, device_name
    from amodal_pipeline.training.device import resolve_device

    start = time.perf_counter()
    found = run()
    count = len(found.predictions if targets else found.images)
    speed = count / (time.perf_counter() - start)
    device = device_name(resolve_device(inference.device))
    return found, dataclasses.asdict(cost(restore(checkpoint), image, speed, device, targets))


def load_detector(name: str, models: Path, imported: Path) -> Checkpoint:
    """Return a detector by its name.

    Args:
        name: a trained detector in ``models``; the folder of a checkpoint; or "torchvision", its
            Mask R-CNN of COCO: the one in ``imported`` if it is of torchvision, or else a file that
            torchvision downloads (:func:`~..methods.importing.published_detector`).
        models: folder of all checkpoints of the data set.
        imported: folder of the checkpoint that ``import_detector`` makes.

    Raises:
        ValueError: there is no such detector, or it finds no objects; says what can be done.
    """
    if name == TORCHVISION:
        if (imported / "method.json").exists():
            checkpoint = Checkpoint.load(imported)
            if checkpoint.card.fingerprint.parts.get("imported") == TORCHVISION:
                return checkpoint
        from amodal_pipeline.methods.importing import published_detector

        return published_detector()
    folders = (models / name, Path(name).expanduser())
    folder = next((each for each in folders if (each / "method.json").exists()), None)
    if folder is None:
        raise ValueError(
            f"{models / name} holds no detector to find objects with: train it, `kedro run "
            f"--pipeline=train_{name}` (and the --env of this run), or take the one of COCO with "
            "--params detector=torchvision, or say where visible masks are with masks=<folder> "
            "(docs/completing.md)"
        )
    checkpoint = Checkpoint.load(folder)
    check_detector(checkpoint.card)
    return checkpoint


def check_detector(card: MethodCard) -> None:
    """Raise an error for a method that finds no objects.

    Raises:
        ValueError: it completes or orders known objects, or is part of a method that does.
    """
    remedies = {
        "complete": "completes objects that it is given and finds none itself: name a detector "
        "here, or see docs/completing.md",
        "part": "is a part of a method and predicts nothing: name a method",
        "order": "orders objects that it is given and finds none itself: name a detector here, "
        "and see docs/methods/order_net.md",
    }
    if remedy := remedies.get(card.method.root.DESCRIPTION.task):
        raise ValueError(f"{card.method.root.name} {remedy}")


def check_categories(card: MethodCard, annotations: AmodalAnnotations) -> None:
    """Raise an error for a method that was trained on other categories than the annotations have.

    Raises:
        ValueError: names both lists of categories.
    """
    truth = annotations.metadata
    names, method = [c.name for c in card.categories], job_name(card.method.root)
    if names != [c.name for c in truth.categories]:
        raise ValueError(
            f"{method} was trained on the categories of {card.dataset!r} {names}, "
            f"{truth.dataset!r} has {[c.name for c in truth.categories]}: train it on this data set"
        )
