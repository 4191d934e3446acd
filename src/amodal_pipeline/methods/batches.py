"""Training batches that several methods share: of images for detectors, of clips for completers."""

from typing import Any

from amodal_pipeline.annotations import AmodalAnnotations, Predictions
from amodal_pipeline.methods.training_config import TrainingConfig
from amodal_pipeline.samples.clips import ClipBatches
from amodal_pipeline.samples.images import TrainingBatches


def image_batches(
    config: Any,
    training: TrainingConfig,
    annotations: AmodalAnnotations,
    detected: Predictions | None = None,
) -> TrainingBatches:
    """Return batches of augmented images of a training split with their objects."""
    return TrainingBatches(annotations, training.augmentation, training.batch_size, training.seed)


def clip_batches(
    config: Any,
    training: TrainingConfig,
    annotations: AmodalAnnotations,
    detected: Predictions | None = None,
) -> ClipBatches:
    """Return clips of objects with corrupted visible masks, and with images if the method sees
    them.

    Args:
        config: has ``crop``, ``frames``, ``corruption`` and ``image``.
    """
    return ClipBatches(
        annotations,
        config.crop,
        config.frames,
        training.batch_size,
        training.seed,
        corruption=config.corruption,
        with_images=config.image,
    )
