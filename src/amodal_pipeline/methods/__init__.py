"""One module per published method; :func:`build` and :func:`load` make them.

Configurations live in :mod:`amodal_pipeline.methods.configs`, which needs no torch.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from amodal_pipeline.methods.configs import (
    A3DConfig,
    AnyMethod,
    C2FSegConfig,
    MaskRCNNConfig,
    MaskTokenizerConfig,
    ORCNNConfig,
    OrderNetConfig,
    SLNConfig,
    VRSPConfig,
)

if TYPE_CHECKING:
    from torch import nn


def build(config: AnyMethod, classes: int) -> nn.Module:
    """A method with fresh weights for ``classes`` categories (background not counted)."""
    match config:
        case MaskRCNNConfig():
            from amodal_pipeline.methods.mask_rcnn import MaskRCNN

            return MaskRCNN(config, classes)
        case ORCNNConfig():
            from amodal_pipeline.methods.orcnn import ORCNN

            return ORCNN(config, classes)
        case VRSPConfig():
            from amodal_pipeline.methods.vrsp.method import VRSP

            return VRSP(config, classes)
        case MaskTokenizerConfig():
            from amodal_pipeline.methods.c2f_seg.tokenizer import MaskTokenizer

            return MaskTokenizer(config)
        case C2FSegConfig():
            from amodal_pipeline.methods.c2f_seg.method import C2FSeg

            return C2FSeg(config)
        case SLNConfig():
            from amodal_pipeline.methods.sln import SLN

            return SLN(config, classes)
        case OrderNetConfig():
            from amodal_pipeline.methods.order_net import OrderNet

            return OrderNet(config)
        case A3DConfig():
            from amodal_pipeline.methods.a3d.method import A3D

            return A3D(config, classes)
    raise TypeError(f"{type(config).__name__} is not the configuration of a method")


def load(folder: str | os.PathLike) -> nn.Module:
    """The trained method in a checkpoint folder, in evaluation mode, with its ``categories``.

    >>> model = methods.load("data/06_models/scenes/orcnn")
    >>> detections = model([image])  # image: uint8 or float tensor [3, H, W]
    """
    from amodal_pipeline.methods.checkpoints import Checkpoint
    from amodal_pipeline.methods.pretrained import restore

    return restore(Checkpoint.load(folder))
