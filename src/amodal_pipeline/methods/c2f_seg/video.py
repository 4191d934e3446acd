"""C2F-Seg for videos (sec. 3.5): the frames of an object are predicted together."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from amodal_pipeline.methods.c2f_seg.method import C2FSeg
from amodal_pipeline.methods.c2f_seg.space_time import Clips, SpaceTimeBlocks
from amodal_pipeline.samples.clips import ClipBatches

_PER_FRAME = ("input", "amodal", "visible", "counts", "key")


class C2FSegVideo(C2FSeg):
    """The image model with attention across the frames of clips.

    Images and targets are those of :class:`~amodal_pipeline.samples.clips.ClipBatches`: images
    uint8 [n, T, 3, I, I]; "input", "amodal" and "visible" uint8 [n, T, S, S]; "counts" float32
    [n, T], the weights of frames in the losses; "real" bool [n, T], false for repeated frames,
    which are not computed; without it all are real. Evaluation takes "input" and "key" int64
    [n, T], and returns [n, T, S, S], 0 where a frame is not real. With ``config.combined``
    "amodal_masks" are sums with values 0–2, with foreground above one half as in the image model.

    Images [N, 3, I, I] are N clips of one frame; targets and masks then have no axis of time.
    """

    def _blocks(self, image_side: int, mask_side: int) -> nn.Module:
        grids = [(mask_side, mask_side)]
        if self.config.fusion == "sequence":
            grids = [(image_side, image_side), *grids, *grids]
        return SpaceTimeBlocks(self.config, tuple(grids))

    def prepare(self, batches: ClipBatches) -> None:
        """Return without caching tokens, unlike the image model.

        A mask has other tokens in every batch, because its window depends on the random stretch of
        the track.
        """

    def forward(self, images: Tensor, targets: dict[str, Tensor]) -> dict[str, Tensor]:
        one_frame = images.ndim == 4
        if one_frame:
            clips = Clips.alone(len(images), images.device)
        else:
            clips, images, targets = self._in_a_row(images, targets)
        if self.training:
            return self._losses(images, targets, clips)
        maps, decoding = self._decode(images, targets, clips)
        coarse = self._mask(decoding.tokens[-1])
        found = self._refine(maps, coarse, targets["input"])
        combined = self.config.combined and self.config.refinement
        masks = {"amodal_masks": found.amodal + coarse if combined else found.amodal}
        if found.visible is not None:
            masks["visible_masks"] = found.visible
        return masks if one_frame else {name: clips.spread(mask) for name, mask in masks.items()}

    def _in_a_row(
        self, images: Tensor, targets: dict[str, Tensor]
    ) -> tuple[Clips, Tensor, dict[str, Tensor]]:
        """Return the clips, and the images and targets of their real frames, [M, …]."""
        real = targets.get("real")
        if real is None or self.config.all_frames:
            real = torch.ones(images.shape[:2], dtype=torch.bool, device=images.device)
        clips = Clips.where(real)
        own = {name: clips.in_a_row(targets[name]) for name in _PER_FRAME if name in targets}
        if self.config.all_frames:
            own.pop("counts", None)
        return clips, clips.in_a_row(images), own

    def _maps(self, images: Tensor, targets: dict[str, Tensor]) -> list[Tensor]:
        if not self.config.image:
            size = (self.config.crop.image_side,) * 2
            images = F.interpolate(targets["input"][:, None].float(), size=size)
            images = images.expand(-1, 3, -1, -1)
        return self.encoder(images)
