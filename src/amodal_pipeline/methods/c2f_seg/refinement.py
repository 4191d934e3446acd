"""The convolutional refinement (sec. 3.4): details that tokens of a mask cannot hold."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from amodal_pipeline.methods.configs import C2FSegConfig


@dataclass(frozen=True)
class Refined:
    """Refined masks [N, S, S], logits or probabilities; no visible one with a single branch."""

    amodal: Tensor
    visible: Tensor | None


class Refinement(nn.Module):
    """Image features and the coarse amodal mask to the refined amodal and visible masks (eq. 9).

    Features of all stages enter on the way from stride 16 to stride 2, where the masks are
    predicted.

    Args:
        config: refinement_channels (at strides 16, 16, 8, 4 and 2), refinement_adapter, attention,
            attention_map, visible_branch.
        channels: of the encoder's maps, at strides 4, 8, 16 and 16.
    """

    def __init__(self, config: C2FSegConfig, channels: list[int]) -> None:
        super().__init__()
        first, second, third, *rest = config.refinement_channels
        fine, middle, coarse, last = channels
        self.attention, self.joins_map = config.attention, config.attention_map
        if config.refinement_adapter:
            self.adapter = nn.Conv2d(last, last, 1)
            self.features = nn.Conv2d(last, first, 3, padding=1)
        else:
            self.adapter = nn.Identity()
            self.features = _convolution(last, first)
        joined = first + 1
        if self.attention and self.joins_map:
            joined += 1
        elif self.attention:
            self.attended = _convolution(last, first, 1)
            joined += first
        self.joined = nn.Sequential(_convolution(joined, joined), _convolution(joined, second))
        self.coarse = nn.Conv2d(coarse, second, 1)
        self.shared = _convolution(second, third)
        self.amodal = _Branch(third, (middle, fine), rest)
        self.visible = _Branch(third, (middle, fine), rest) if config.visible_branch else None

    def forward(self, maps: list[Tensor], mask: Tensor, side: int) -> Refined:
        """Logits of ``side`` pixels from the encoder's maps and a coarse mask [N, S, S] of 0–1."""
        fine, middle, coarse, last = maps
        last = self.adapter(last)
        mask = F.interpolate(mask[:, None], size=last.shape[-2:], mode="area")
        parts = [self.features(last), mask.to(last.dtype)]
        if self.attention:
            weight = attention(last, mask, scaled=not self.joins_map)
            # Eq. 8; the weights have a sum of 1, and with a mean of 1 instead, what is attended to
            # is of the size of the features.
            places = weight.shape[-2] * weight.shape[-1]
            parts.append(weight if self.joins_map else self.attended(places * weight * last))
        x = self.joined(torch.cat(parts, dim=1)) + self.coarse(coarse)
        x = self.shared(_enlarged(x, middle.shape[-2:]))
        visible = self.visible(x, middle, fine, side) if self.visible else None
        return Refined(self.amodal(x, middle, fine, side), visible)


class _Branch(nn.Module):
    """From stride 8 to the logits of one mask."""

    def __init__(self, channels: int, maps: tuple[int, int], widths: list[int]) -> None:
        super().__init__()
        middle, fine = maps
        self.middle = nn.Conv2d(middle, channels, 1)
        self.fine = nn.Conv2d(fine, widths[0], 1)
        self.to_fine = _convolution(channels, widths[0])
        self.to_mask = _convolution(widths[0], widths[1])
        self.logits = nn.Conv2d(widths[1], 1, 3, padding=1)

    def forward(self, x: Tensor, middle: Tensor, fine: Tensor, side: int) -> Tensor:
        x = self.to_fine(_enlarged(x + self.middle(middle), fine.shape[-2:]))
        x = self.to_mask(_enlarged(x + self.fine(fine), [2 * s for s in fine.shape[-2:]]))
        logits = self.logits(x).float()
        return F.interpolate(logits, size=(side, side), mode="bilinear")[:, 0]


def attention(features: Tensor, mask: Tensor, *, scaled: bool = True) -> Tensor:
    """Return the softmax of eq. 8 over all places: how alike each is to what the mask covers.

    "Downsampled mask times features" is read, as in the released code, as the mean of the features
    within the mask: one query of d numbers. An empty mask attends to all places alike.

    Args:
        features: [N, d, h, w].
        mask: [N, 1, h, w] of 0–1.
        scaled: divide by sqrt(d); the released code does not.

    Returns:
        [N, 1, h, w], which sums to 1 over h·w.
    """
    with torch.autocast(features.device.type, enabled=False):
        return _attention(features.float(), mask.float(), scaled)


def _attention(features: Tensor, mask: Tensor, scaled: bool) -> Tensor:
    query = (features * mask).sum(dim=(2, 3)) / mask.sum(dim=(2, 3)).clamp(min=1e-6)
    alike = torch.einsum("nd,ndhw->nhw", query, features)
    if scaled:
        alike = alike / features.shape[1] ** 0.5
    return alike.flatten(1).softmax(dim=1).view_as(mask)


def _convolution(inputs: int, outputs: int, kernel: int = 3) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


def _enlarged(x: Tensor, size: list[int]) -> Tensor:
    return F.interpolate(x, size=size, mode="nearest")
