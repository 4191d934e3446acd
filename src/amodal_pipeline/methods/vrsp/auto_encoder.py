"""The mask auto-encoder of VRSP's shape prior.

The paper gives no architecture; this one is read off the weights that its authors released.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SIDE = 28  # side of a mask in pixels, as the mask heads give it
_BATCH = 2048  # masks per batch of encoding or decoding


class AutoEncoder(nn.Module):
    """Auto-encoder of masks [N, 28, 28] with values 0–1.

    Encoder: 3x3 convolutions of stride 2 with ReLU: 28 → 14 → 7 (→ 4). Decoder: as many steps, each
    twice the size by bilinear interpolation (corners aligned) and a 3x3 convolution with ReLU; of
    three, the second has no padding: 4 → 8 → 16 → 14 → 28. Then a 3x3 convolution to one channel,
    and the logistic function.
    """

    def __init__(self, convolutions: int, channels: int) -> None:
        super().__init__()
        self.side = {2: 7, 3: 4}[convolutions]
        self.channels = channels
        self.encoder = nn.ModuleList(
            nn.Conv2d(channels if i else 1, channels, 3, stride=2, padding=1)
            for i in range(convolutions)
        )
        self.decoder = nn.ModuleList(
            nn.Conv2d(channels, channels, 3, padding=0 if (convolutions, i) == (3, 1) else 1)
            for i in range(convolutions)
        )
        self.output = nn.Conv2d(channels, 1, 3, padding=1)

    @property
    def code_size(self) -> int:
        return self.channels * self.side**2

    def encode(self, masks: Tensor) -> Tensor:
        """Return codes [N, code_size] of masks [N, 28, 28]."""
        features = masks[:, None]
        for convolution in self.encoder:
            features = F.relu(convolution(features))
        return features.flatten(1)

    def decode(self, codes: Tensor) -> Tensor:
        """Return masks [N, 28, 28] with values 0–1 of codes [N, code_size]."""
        features = codes.unflatten(1, (self.channels, self.side, self.side))
        # channels_last is twice as fast on a CPU with so few channels.
        features = features.contiguous(memory_format=torch.channels_last)
        for convolution in self.decoder:
            larger = F.interpolate(features, scale_factor=2, mode="bilinear", align_corners=True)
            features = F.relu(convolution(larger))
        return self.output(features).sigmoid()[:, 0]

    def forward(self, masks: Tensor) -> Tensor:
        return self.decode(self.encode(masks))


def turned(masks: Tensor, way: int) -> Tensor:
    """Return masks [N, S, S] rotated by ``way % 4`` right angles, and mirrored if ``way`` > 3."""
    rotated = torch.rot90(masks, way % 4, (1, 2))
    return rotated.flip(2) if way >= 4 else rotated


@torch.no_grad()
def encode_all(model: AutoEncoder, masks: Tensor) -> Tensor:
    """Return codes [N, code_size] of many masks [N, 28, 28], computed batch by batch."""
    batches = [model.encode(batch.float()) for batch in masks.split(_BATCH)]
    return torch.cat(batches) if len(masks) else torch.zeros(0, model.code_size)


@torch.no_grad()
def decode_all(model: AutoEncoder, codes: Tensor) -> Tensor:
    """Return masks [N, 28, 28] of many codes [N, code_size], computed batch by batch."""
    batches = [model.decode(batch) for batch in codes.split(_BATCH)]
    return torch.cat(batches) if len(codes) else codes.new_zeros(0, SIDE, SIDE)
