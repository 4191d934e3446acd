"""RoIAlign over a feature pyramid or one map, exact to the half pixel."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torchvision.ops import roi_align

from amodal_pipeline.layers import pooling_kernels

LEVELS = {"0": 4, "1": 8, "2": 16, "3": 32}  # maps of the pyramid used for RoIs, and their strides


class PyramidRoIAlign(nn.Module):
    """Maps RoIs [N, 4] per image to features [all N, C, S, S].

    A RoI is cropped from the map of stride 16 if the square root of its area is ``canonical_size``,
    from the next finer map at half of that, and so on (Lin et al., CVPR 2017, eq. 1). torchvision's
    MultiScaleRoIAlign does the same with features half a cell off: two pixels at stride 4, much for
    a small object. Without ``aligned`` this module does so too, for weights trained in that way.
    ``sampling_ratio``: points per cell in each direction, 0 for one per cell of the map.
    """

    def __init__(
        self, size: int, canonical_size: int, sampling_ratio: int = 2, aligned: bool = True
    ) -> None:
        super().__init__()
        self.size, self.canonical_size = size, canonical_size
        self.sampling_ratio, self.aligned = sampling_ratio, aligned

    def forward(self, features: Mapping[str, Tensor], boxes: Sequence[Tensor]) -> Tensor:
        rois = _numbered(boxes)
        extent = (rois[:, 3:] - rois[:, 1:3]).clamp(min=0)
        scale = extent.prod(dim=1).sqrt() / self.canonical_size
        level = (2 + torch.log2(scale + 1e-6)).floor().clamp(0, len(LEVELS) - 1).long()
        pooled, rows = [], []
        for number, (name, stride) in enumerate(LEVELS.items()):
            here = torch.where(level == number)[0]
            rows.append(here)
            pooled.append(
                pool(
                    features[name],
                    rois[here],
                    self.size,
                    1 / stride,
                    self.sampling_ratio,
                    self.aligned,
                )
            )
        return torch.cat(pooled)[torch.cat(rows).argsort()]


class MapRoIAlign(nn.Module):
    """Maps RoIs [N, 4] per image to features [all N, C, S, S], all from one map of a ``stride``."""

    def __init__(self, size: int, stride: int, sampling_ratio: int = 2) -> None:
        super().__init__()
        self.size, self.stride = size, stride
        self.sampling_ratio = sampling_ratio

    def forward(self, features: Mapping[str, Tensor], boxes: Sequence[Tensor]) -> Tensor:
        (only,) = features.values()
        return pool(only, _numbered(boxes), self.size, 1 / self.stride, self.sampling_ratio, True)


def pool(
    features: Tensor, rois: Tensor, size: int, scale: float, sampling_ratio: int, aligned: bool
) -> Tensor:
    """Return torchvision's RoIAlign of a map, whose backward pass is a compiled loop on a CPU.

    torchvision's has one thread and adds to one channel at a time, a fifth of a training step.

    Args:
        features: [B, C, H, W].
        rois: [N, 5], index of the image and corners (x1, y1, x2, y2) in pixels.
        size: S, cells per side of a RoI.
        scale: cells of the map per pixel.
        sampling_ratio, aligned: see :class:`PyramidRoIAlign`.
    """
    if features.device.type == "cpu" and features.requires_grad and torch.is_grad_enabled():
        return _Pooled.apply(features, rois, size, scale, sampling_ratio, aligned)
    return roi_align(features, rois, size, scale, sampling_ratio, aligned)


class _Pooled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, features, rois, *options):
        ctx.save_for_backward(rois)
        ctx.shape, ctx.dtype, ctx.options = features.shape, features.dtype, options
        return roi_align(features, rois, *options)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        (rois,) = ctx.saved_tensors
        return _spread(gradient, rois, ctx.shape, *ctx.options[1:]).to(ctx.dtype), *[None] * 5


def _spread(
    gradient: Tensor, rois: Tensor, shape: torch.Size, *options: float | int | bool
) -> Tensor:
    """Return the gradient [B, C, H, W] of a map from that of its RoIs, [N, C, S, S]."""
    batch, channels, height, width = shape
    maps = np.zeros((batch, height, width, channels), np.float32)
    cells = gradient.float().permute(0, 2, 3, 1).contiguous().numpy()
    number, corners = rois[:, 0].long().numpy(), rois[:, 1:].float().numpy()
    scale, *others = options

    def work(image: int) -> None:
        own = number == image
        pooling_kernels.spread(cells[own], corners[own], np.float32(scale), *others, maps[image])

    # Every image has a map of its own, and its RoIs are added in their order.
    threads = min(torch.get_num_threads(), batch)
    if threads == 1:
        for image in range(batch):
            work(image)
    else:
        with ThreadPoolExecutor(threads) as executor:
            list(executor.map(work, range(batch)))
    return torch.from_numpy(maps).permute(0, 3, 1, 2)


def _numbered(boxes: Sequence[Tensor]) -> Tensor:
    """Return the RoIs of all images, [all N, 5], with the index of the image first."""
    return torch.cat(
        [torch.cat([b.new_full((len(b), 1), i), b], dim=1) for i, b in enumerate(boxes)]
    )
