"""The convolutional refinement (sec. 3.4), which adds details that tokens cannot represent."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from amodal_pipeline.methods.configs import C2FSegConfig, C2FSegVideoConfig


@dataclass(frozen=True)
class Refined:
    """Refined masks [N, S, S], logits or probabilities; ``visible`` is None with one branch."""

    amodal: Tensor
    visible: Tensor | None


class Refinement(nn.Module):
    """Maps image features and the coarse mask to refined amodal and visible masks (eq. 9).

    Features of all stages are added between stride 16 and stride 2, where the masks are predicted.
    The coarse mask comes in at stride 16; with ``given_mask`` "joined" it does so again at strides
    8, 4 and 2, together with the given visible mask.

    Args:
        config: refinement_channels (at strides 16, 16, 8, 4 and 2), refinement_adapter, attention,
            attention_map, visible_branch, given_mask.
        channels: of the encoder's maps, at strides 4, 8, 16 and 16.
    """

    def __init__(self, config: C2FSegConfig | C2FSegVideoConfig, channels: list[int]) -> None:
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
        self.joins_masks = config.given_mask == "joined"
        masks = 2 if self.joins_masks else 0
        self.amodal = _Branch(third, (middle, fine), rest, masks)
        self.visible = (
            _Branch(third, (middle, fine), rest, masks) if config.visible_branch else None
        )

    def forward(
        self, maps: list[Tensor], mask: Tensor, side: int, given: Tensor | None = None
    ) -> Refined:
        """Return logits [N, side, side].

        Args:
            maps: of the encoder.
            mask: coarse masks, float [N, S, S] in 0–1.
            side: of the logits.
            given: the given visible masks [N, S, S] of 0 and 1; used if they are joined.
        """
        fine, middle, coarse, last = maps
        last = self.adapter(last)
        masks = torch.stack([mask, given.to(mask.dtype)], dim=1) if self.joins_masks else None
        mask = F.interpolate(mask[:, None], size=last.shape[-2:], mode="area")
        parts = [self.features(last), mask.to(last.dtype)]
        if self.attention:
            weight = attention(last, mask, scaled=not self.joins_map)
            # Eq. 8. The weights sum to 1; scaled to a mean of 1, the weighted features are as
            # large as the others.
            places = weight.shape[-2] * weight.shape[-1]
            parts.append(weight if self.joins_map else self.attended(places * weight * last))
        x = self.joined(torch.cat(parts, dim=1)) + self.coarse(coarse)
        x = self.shared(_enlarged(x, middle.shape[-2:]))
        visible = self.visible(x, middle, fine, side, masks) if self.visible else None
        return Refined(self.amodal(x, middle, fine, side, masks), visible)


class _Branch(nn.Module):
    """Maps features at stride 8, and ``masks`` masks if any, to the logits of one mask."""

    def __init__(self, channels: int, maps: tuple[int, int], widths: list[int], masks: int) -> None:
        super().__init__()
        middle, fine = maps
        self.middle = nn.Conv2d(middle + masks, channels, 1)
        self.fine = nn.Conv2d(fine + masks, widths[0], 1)
        self.to_fine = _convolution(channels, widths[0])
        self.to_mask = _convolution(widths[0] + masks, widths[1])
        self.logits = nn.Conv2d(widths[1], 1, 3, padding=1)

    def forward(
        self, x: Tensor, middle: Tensor, fine: Tensor, side: int, masks: Tensor | None
    ) -> Tensor:
        x = x + self.middle(_beside(middle, masks))
        x = self.to_fine(_enlarged(x, fine.shape[-2:])) + self.fine(_beside(fine, masks))
        x = self.to_mask(_beside(_enlarged(x, [2 * s for s in fine.shape[-2:]]), masks))
        logits = self.logits(x).float()
        return F.interpolate(logits, size=(side, side), mode="bilinear")[:, 0]


def attention(features: Tensor, mask: Tensor, *, scaled: bool = True) -> Tensor:
    """Return the attention of eq. 8: the similarity of each place to the features in the mask.

    The paper's "downsampled mask times features" is, as in the released code, the mean of the
    features within the mask: one query of d numbers. With an empty mask all weights are equal.

    Args:
        features: [N, d, h, w].
        mask: [N, 1, h, w] of 0–1.
        scaled: divide by sqrt(d); the released code does not.

    Returns:
        [N, 1, h, w], a softmax that sums to 1 over h·w.
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


def _beside(x: Tensor, masks: Tensor | None) -> Tensor:
    """Return x [N, C, h, w] with the means of masks [N, M, S, S] as further channels."""
    if masks is None:
        return x
    masks = F.interpolate(masks, size=x.shape[-2:], mode="area")
    return torch.cat([x, masks.to(x.dtype)], dim=1)


def _enlarged(x: Tensor, size: list[int]) -> Tensor:
    return F.interpolate(x, size=size, mode="nearest")
