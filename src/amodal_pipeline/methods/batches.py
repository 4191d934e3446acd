"""Training batches of images, for detectors."""

from typing import Any

from amodal_pipeline.annotations import AmodalAnnotations, Predictions
from amodal_pipeline.methods.training_config import TrainingConfig
from amodal_pipeline.samples.images import TrainingBatches


def image_batches(
    config: Any,
    training: TrainingConfig,
    annotations: AmodalAnnotations,
    detected: Predictions | None = None,
) -> TrainingBatches:
    """Return batches of augmented images of a training split with their objects."""
    return TrainingBatches(annotations, training.augmentation, training.batch_size, training.seed)
