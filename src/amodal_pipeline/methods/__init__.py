"""One module per published method; :func:`build` and :func:`load` make them.

Configurations live in :mod:`amodal_pipeline.methods.configs`, which needs no torch.
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
    """Make a method with fresh weights for ``classes`` categories (background not counted).

    ``config`` is the configuration of a method of :data:`~.registry.METHODS`.
    """
    return contract.load(config.DESCRIPTION.network)(config, classes)


def make_batches(
    config: Any,
    training: TrainingConfig,
    annotations: AmodalAnnotations,
    detected: Predictions | None = None,
) -> Dataset:
    """Make the batches that a method learns from: item i is the batch of iteration i.

    ``detected`` is what a detector has found of the true objects, for a method that learns from it.
    """
    return contract.load(config.DESCRIPTION.batches)(config, training, annotations, detected)


def load(folder: str | os.PathLike) -> nn.Module:
    """Load the trained method in a checkpoint folder, in evaluation mode, with ``categories``.

    >>> model = methods.load("data/06_models/scenes/orcnn")
    >>> detections = model([image])  # image: uint8 or float tensor [3, H, W]
    """
    from amodal_pipeline.methods.checkpoints import Checkpoint
    from amodal_pipeline.methods.pretrained import restore

    return restore(Checkpoint.load(folder))
