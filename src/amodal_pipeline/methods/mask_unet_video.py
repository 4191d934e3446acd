"""A plain U-Net over space and time that completes visible masks: a control without a paper."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from amodal_pipeline.layers.masks import mask_loss
from amodal_pipeline.methods import completer
from amodal_pipeline.methods.configs import MaskUNetVideoConfig


class MaskUNetVideo(nn.Module):
    """Predicts amodal masks of an object in T frames from visible masks, and frames if
    ``config.image``.

    Images and targets are those of :class:`~amodal_pipeline.samples.clips.ClipBatches`: images
    uint8 [n, T, 3, S, S]; "input" and "amodal" uint8 [n, T, S, S]; "counts" float32 [n, T], the
    weights of frames in the loss; "real" bool [n, T], false for repeated frames; without it all are
    real. In training ``model(images, targets)`` returns named losses, in evaluation
    {"amodal_masks": float [n, T, S, S] with values 0–1}, 0 where a frame is not real.

    Images [N, 3, S, S] are N clips of one frame; targets and masks then have no axis of time.
    """

    def __init__(self, config: MaskUNetVideoConfig, classes: int = 1) -> None:
        super().__init__()
        self.config = config
        widths = config.channels
        first = 4 if config.image else 1
        self.down = nn.ModuleList(_Block(a, b) for a, b in pairwise((first, *widths)))
        self.up = nn.ModuleList(_Block(a + b, b) for a, b in pairwise(widths[::-1]))
        self.logits = nn.Conv3d(widths[0], 1, 1)
        # This layout is a quarter faster on a CPU.
        self.to(memory_format=torch.channels_last_3d)

    def forward(self, images: Tensor, targets: dict[str, Tensor]) -> dict[str, Tensor]:
        given = targets["input"].float()
        one_frame = given.ndim == 3
        if one_frame:
            given, images = given[:, None], images[:, None]
        real = targets.get("real")
        real = torch.ones(given.shape[:2], device=given.device) if real is None else real.float()
        x = given[:, None]
        if self.config.image:
            pixels = images.transpose(1, 2).float()
            x = torch.cat([x, pixels if images.is_floating_point() else pixels / 255], dim=1)
        logits = self._logits(x, real[:, None, :, None, None])
        if self.training:
            return self._losses(logits, targets)
        masks = logits.sigmoid() * real[:, :, None, None]
        return {"amodal_masks": masks[:, 0] if one_frame else masks}

    complete = completer.complete  # of one picture: model.complete(image, visible_mask)

    def _logits(self, x: Tensor, real: Tensor) -> Tensor:
        """Return logits [n, T, S, S] of inputs [n, C, T, S, S]."""
        maps = []
        for level, block in enumerate(self.down):
            x = block(F.max_pool3d(x, (1, 2, 2)) if level else x, real)
            maps.append(x)
        for block, beside in zip(self.up, maps[-2::-1], strict=True):
            x = F.interpolate(x, scale_factor=(1.0, 2.0, 2.0), mode="nearest")
            x = block(torch.cat([x, beside], dim=1), real)
        return self.logits(x)[:, 0].float()

    def _losses(self, logits: Tensor, targets: dict[str, Tensor]) -> dict[str, Tensor]:
        logits, truth = (x.reshape(-1, *x.shape[-2:]) for x in (logits, targets["amodal"].float()))
        counts = targets.get("counts")
        counts = torch.ones_like(logits[:, 0, 0]) if counts is None else counts.flatten()
        share = counts / counts.sum().clamp(min=1)
        losses = {"loss_amodal_mask": mask_loss(logits, truth, share * len(share))}
        if self.config.dice:
            found = logits.sigmoid().flatten(1)
            both, all_ = (found * truth.flatten(1)).sum(1), found.sum(1) + truth.sum((1, 2))
            dice = 1 - (2 * both + 1) / (all_ + 1)
            losses["loss_dice"] = self.config.dice * (dice * share).sum()
        return losses


class _Block(nn.Module):
    """Two convolutions over 3 frames and 3 x 3 places, from [n, C, T, H, W] to [n, C', T, H, W].

    Frames that are not real are zeros, like the padding before and after the clip.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(
            nn.Conv3d(channels, outputs, 3, padding=1, bias=False) for channels in (inputs, outputs)
        )
        self.norms = nn.ModuleList(_FrameNorm(outputs) for _ in range(2))

    def forward(self, x: Tensor, real: Tensor) -> Tensor:
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            x = norm(convolution(x * real)).relu()
        return x


class _FrameNorm(nn.Module):
    """Group normalisation within each frame, so that repeated frames do not change the others."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(max(channels // 8, 1), channels)

    def forward(self, x: Tensor) -> Tensor:
        count, _, frames = x.shape[:3]
        normed = self.norm(x.transpose(1, 2).flatten(0, 1))
        return normed.unflatten(0, (count, frames)).transpose(1, 2)
