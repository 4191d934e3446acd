"""The U-Net of PCNet-M, as released: two convolutions per level, bilinear upsampling."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Channels of the levels, in units of 16 times the width: finest first, and on the way up.
_DOWN = (1, 2, 4, 8, 8)
_UP = (4, 2, 1, 1)


class UNet(nn.Module):
    """Returns logits [N, outputs, H, W] of inputs [N, inputs, H, W]; sides are multiples of 16.

    Args:
        inputs, outputs: channels.
        width: times 16, the channels of the finest level.
    """

    def __init__(self, inputs: int, outputs: int, width: float) -> None:
        super().__init__()
        down, up = ([round(16 * width * k) for k in level] for level in (_DOWN, _UP))
        self.down = nn.ModuleList(_block(a, b) for a, b in pairwise((inputs, *down)))
        beside = down[-2::-1]
        self.up = nn.ModuleList(
            _block(below + skip, channels)
            for below, skip, channels in zip((down[-1], *up), beside, up, strict=False)
        )
        self.logits = nn.Conv2d(up[-1], outputs, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.xavier_normal_(module.weight, gain=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        maps: list[Tensor] = []
        for level, block in enumerate(self.down):
            x = block(F.max_pool2d(x, 2) if level else x)
            maps.append(x)
        for block, beside in zip(self.up, maps[-2::-1], strict=True):
            x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)
            x = block(torch.cat([beside, x], dim=1))
        return self.logits(x)


def _block(inputs: int, outputs: int) -> nn.Sequential:
    """Return two 3x3 convolutions, each with batch normalisation and ReLU."""
    layers: list[nn.Module] = []
    for channels in (inputs, outputs):
        convolution = nn.Conv2d(channels, outputs, 3, padding=1)
        layers += [convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)
