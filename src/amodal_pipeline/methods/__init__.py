"""Published methods, one module or folder each; :func:`build` and :func:`load` return networks.

Their configurations are in :mod:`amodal_pipeline.methods.configs`, which does not import torch.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from amodal_pipeline.methods import contract

if TYPE_CHECKING:
    from torch import nn
    from torch.utils.data import Dataset

    from amodal_pipeline.annotations import AmodalAnnotations, Predictions
    from amodal_pipeline.methods.training_config import TrainingConfig


def build(config: Any, classes: int) -> nn.Module:
    """Return the network of a method with fresh weights.

    Args:
        config: configuration of a method in :data:`~.registry.METHODS`.
        classes: number of categories, background not counted.
    """
    return contract.load(config.DESCRIPTION.network)(config, classes)


def make_batches(
    config: Any,
    training: TrainingConfig,
    annotations: AmodalAnnotations,
    detected: Predictions | None = None,
) -> Dataset:
    """Return the training batches of a method, a data set whose item i is for iteration i.

    Args:
        config: configuration of the method.
        training: batch size, seed and augmentation.
        annotations: the training split.
        detected: predictions matched to the true objects, for a method that learns from them.
    """
    return contract.load(config.DESCRIPTION.batches)(config, training, annotations, detected)


def load(folder: str | os.PathLike) -> nn.Module:
    """Return the trained network of a checkpoint folder, in evaluation mode, on the CPU.

    Its attribute ``categories`` has the categories that it was trained on.

    >>> model = methods.load("data/06_models/scenes/orcnn")
    >>> detections = model([image])  # image: uint8 or float tensor [3, H, W]
    """
    from amodal_pipeline.methods.checkpoints import Checkpoint
    from amodal_pipeline.methods.pretrained import restore

    return restore(Checkpoint.load(folder))
