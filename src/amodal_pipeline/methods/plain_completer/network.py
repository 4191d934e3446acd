"""Decoder, memory of shapes, and the head that predicts an IoU."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_ATTENTION_HEADS = 4
_HIDDEN = 64  # channels of the gate, units of the head of the IoU


class Stages(nn.Module):
    """Stages of a decoder: each is two convolutions and doubles the resolution.

    ``stride`` and ``channels`` are those of the result.

    Args:
        inputs: channels of the features.
        widths: channels of each stage.
        stride: of the features.
        skips: channels of the encoder's maps that stages see, by stride.
    """

    def __init__(
        self, inputs: int, widths: Sequence[int], stride: int, skips: dict[int, int]
    ) -> None:
        super().__init__()
        self.stages, self.first, self.stride = nn.ModuleList(), stride, stride
        for width in widths:
            joined = inputs + skips.get(self.stride, 0)
            self.stages.append(nn.Sequential(convolution(joined, width), convolution(width, width)))
            inputs, self.stride = width, self.stride // 2
        self.channels = inputs

    def forward(self, x: Tensor, skips: dict[int, Tensor]) -> Tensor:
        """Return features at ``stride`` from features and the encoder's maps, by stride."""
        for number, stage in enumerate(self.stages):
            x = stage(with_skip(x, skips.get(self.first >> number)))
            x = F.interpolate(x, scale_factor=2.0, mode="bilinear")
        return x


class Branch(nn.Module):
    """Maps shared features to those of one head.

    Args:
        inputs, widths, stride, skips: as for :class:`Stages`.
        given: number of the given maps that the last convolution sees.
        last: channels of the result.
    """

    def __init__(
        self,
        inputs: int,
        widths: Sequence[int],
        stride: int,
        skips: dict[int, int],
        given: int,
        last: int,
    ) -> None:
        super().__init__()
        self.stages = Stages(inputs, widths, stride, skips)
        joined = self.stages.channels + skips.get(self.stages.stride, 0) + given
        self.last, self.sees_given = convolution(joined, last), given > 0

    def forward(self, x: Tensor, skips: dict[int, Tensor], given: Tensor | None) -> Tensor:
        """Return features [N, last, h, w]; ``given`` is [N, G, S, S]."""
        x = self.stages(x, skips)
        x = with_skip(x, skips.get(self.stages.stride))
        if self.sees_given:
            x = torch.cat([x, scaled(given, x.shape[-2:]).to(x.dtype)], dim=1)
        return self.last(x)


class ShapeMemory(nn.Module):
    """Adds what learned prototypes say of a place, as far as a gate lets it through.

    Features attend to K prototypes. The gate is a number in 0–1 per place, from the features and,
    with ``sees_distance``, the signed distance of the visible mask; without ``gated`` it is 1.
    """

    def __init__(self, channels: int, prototypes: int, gated: bool, sees_distance: bool) -> None:
        super().__init__()
        self.prototypes = nn.Parameter(torch.randn(prototypes, channels))
        self.norm = nn.LayerNorm(channels)
        self.attention = nn.MultiheadAttention(channels, _ATTENTION_HEADS, batch_first=True)
        self.sees_distance = sees_distance
        self.gate = None
        if gated:
            self.gate = nn.Sequential(
                nn.Conv2d(channels + sees_distance, _HIDDEN, 1), nn.ReLU(), nn.Conv2d(_HIDDEN, 1, 1)
            )
            # Nearly shut at first.
            nn.init.constant_(self.gate[-1].bias, -1.0)

    def forward(self, x: Tensor, distance: Tensor | None) -> Tensor:
        """Return features [N, C, h, w] with the prior; ``distance`` is [N, S, S]."""
        queries = self.norm(x.flatten(2).transpose(1, 2))
        known = self.prototypes.expand(x.shape[0], -1, -1)  # len(x) is a constant when exported
        prior, _ = self.attention(queries, known, known, need_weights=False)
        prior = prior.transpose(1, 2).unflatten(2, x.shape[-2:])
        if self.gate is None:
            return x + prior
        seen = x
        if self.sees_distance:
            seen = torch.cat([x, scaled(distance[:, None], x.shape[-2:]).to(x.dtype)], dim=1)
        return x + self.gate(seen).sigmoid() * prior


class IoUHead(nn.Module):
    """Predicts the IoU of masks from the encoder's last map and the features within the mask."""

    def __init__(self, encoded: int, decoded: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(encoded + decoded, _HIDDEN), nn.ReLU(), nn.Linear(_HIDDEN, 1)
        )

    def forward(self, encoded: Tensor, decoded: Tensor, mask: Tensor) -> Tensor:
        """Return [N] in 0–1.

        Args:
            encoded: [N, C, h, w].
            decoded: [N, D, H, W], features from which the mask is predicted.
            mask: its probabilities [N, H, W].
        """
        within = (decoded * mask[:, None]).sum((2, 3)) / mask.sum((1, 2))[:, None].clamp(min=1)
        pooled = torch.cat([encoded.mean((2, 3)), within], dim=1)
        return self.layers(pooled)[:, 0].float().sigmoid()


def convolution(inputs: int, outputs: int) -> nn.Sequential:
    """Return a 3x3 convolution with batch normalisation and ReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


def with_skip(x: Tensor, skip: Tensor | None) -> Tensor:
    """Return features and an encoder's map of about the same size together."""
    if skip is None:
        return x
    if x.shape[-2:] != skip.shape[-2:]:  # a side that cannot be halved as often
        x = F.interpolate(x, size=skip.shape[-2:], mode="bilinear")
    return torch.cat([x, skip], dim=1)


def scaled(maps: Tensor, size: Sequence[int]) -> Tensor:
    """Return maps [N, C, S, S] brought to ``size`` by means, or by repetition."""
    return maps if maps.shape[-2:] == tuple(size) else F.interpolate(maps, size=size, mode="area")
