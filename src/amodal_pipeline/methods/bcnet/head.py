"""BCNet's mask head: one layer for the occluder, one for the object, with graph convolutions."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor

from amodal_pipeline.methods.bcnet.config import BCNetConfig


@dataclass(frozen=True)
class Segmentation:
    """Logits of N RoIs, each [N, 28, 28]; boundaries are None without their predictors."""

    mask: Tensor
    boundary: Tensor | None


class GraphConvolution(nn.Module):
    """Adds to each cell of a map [N, C, h, w] what it attends to among all cells of the map.

    A non-local block (embedded Gaussian, one head): cells are the nodes of a complete graph.
    """

    def __init__(self, width: int, zero_init: bool) -> None:
        super().__init__()
        self.query, self.key, self.value, self.output = (
            nn.Conv2d(width, width, 1, bias=False) for _ in range(4)
        )
        self.norm = nn.BatchNorm2d(width, eps=1e-4)
        for layer in (self.query, self.key, self.value, self.output):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
        if zero_init:
            nn.init.zeros_(self.norm.weight)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (
            layer(x).flatten(2).transpose(1, 2) for layer in (self.query, self.key, self.value)
        )
        attended = F.scaled_dot_product_attention(query, key, value)
        return x + self.norm(self.output(attended.transpose(1, 2).unflatten(2, x.shape[-2:])))


class Layer(nn.Module):
    """One of the two layers: convolutions, a graph convolution after the second, predictors."""

    def __init__(self, width: int, config: BCNetConfig) -> None:
        super().__init__()
        self.convolutions = MaskRCNNHeads(width, (width,) * config.convolutions, dilation=1)
        self.graph = GraphConvolution(width, config.zero_init) if config.graph else nn.Identity()
        self.mask = _predictor(width)
        self.boundary = _predictor(width) if config.boundaries else None

    def forward(self, x: Tensor) -> Tensor:
        for number, convolution in enumerate(self.convolutions):
            x = convolution(x)
            if number == 1:
                x = self.graph(x)
        return x

    def segment(self, x: Tensor) -> Segmentation:
        """Return mask and boundary from the layer's features [N, C, 14, 14]."""
        boundary = None if self.boundary is None else self.boundary(x)[:, 0].float()
        return Segmentation(self.mask(x)[:, 0].float(), boundary)


class BCNetHead(nn.Module):
    """Maps RoI features [N, C, 14, 14] to the occluder's and the object's segmentation.

    The masks are the same for every class.
    """

    def __init__(self, width: int, config: BCNetConfig) -> None:
        super().__init__()
        self.occluder, self.occludee = Layer(width, config), Layer(width, config)

    def forward(self, features: Tensor) -> tuple[Segmentation, Segmentation]:
        occluder = self.occluder(features)
        occludee = self.occludee(features + occluder)
        return self.occluder.segment(occluder), self.occludee.segment(occludee)

    def amodal(self, features: Tensor) -> Tensor:
        """Return the logits of the object's mask alone, [N, 28, 28]."""
        return self.occludee.mask(self.occludee(features + self.occluder(features)))[:, 0].float()


def boundary(masks: Tensor) -> Tensor:
    """Return the boundaries of masks [N, M, M] of 0 and 1: lines two pixels wide.

    These are the pixels where dilation and erosion by the 3x3 cross differ, one on each side of an
    outline. Nothing is known beyond the border, which is therefore no boundary.
    """
    grown, shrunk = _dilated(masks), 1 - _dilated(1 - masks)
    return grown - shrunk


def _dilated(masks: Tensor) -> Tensor:
    masks = masks[:, None]
    down = F.max_pool2d(masks, (3, 1), stride=1, padding=(1, 0))
    across = F.max_pool2d(masks, (1, 3), stride=1, padding=(0, 1))
    return torch.maximum(down, across)[:, 0]


def _predictor(width: int) -> MaskRCNNPredictor:
    predictor = MaskRCNNPredictor(width, width, 1)
    # Masks start near probability one half.
    nn.init.normal_(predictor.mask_fcn_logits.weight, std=0.001)
    return predictor
