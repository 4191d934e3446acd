"""RoIAlign over a feature pyramid or one map, exact to the half pixel."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torchvision.ops import roi_align

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
                roi_align(
                    features[name],
                    rois[here],
                    self.size,
                    1 / stride,
                    self.sampling_ratio,
                    aligned=self.aligned,
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
        return roi_align(
            only, _numbered(boxes), self.size, 1 / self.stride, self.sampling_ratio, aligned=True
        )


def _numbered(boxes: Sequence[Tensor]) -> Tensor:
    """Return the RoIs of all images, [all N, 5], with the index of the image first."""
    return torch.cat(
        [torch.cat([b.new_full((len(b), 1), i), b], dim=1) for i, b in enumerate(boxes)]
    )
