"""SaVos (sec. 3): the amodal mask of a frame, moved by the object's flow, must explain the visible
mask of the next frame. Training needs no amodal masks."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from amodal_pipeline.annotations import AmodalAnnotations, Predictions
from amodal_pipeline.annotations.populations import changing
from amodal_pipeline.methods import completer
from amodal_pipeline.methods.configs import SaVosConfig
from amodal_pipeline.methods.savos.network import PATCH, PatchDecoder, PatchEncoder
from amodal_pipeline.methods.savos.warping import amodal_flow, places, warped, within
from amodal_pipeline.methods.training_config import TrainingConfig
from amodal_pipeline.samples.clips import ClipBatches
from amodal_pipeline.samples.motion import MotionBatches


class SaVos(nn.Module):
    """Predicts amodal masks of an object in T frames from frames, visible masks and optical flow.

    Images and targets are those of :class:`~amodal_pipeline.samples.motion.MotionBatches`.
    Training needs "input", "real", "windows", the motion, "visible", "others" and "counts";
    "amodal" is used with ``config.supervised`` only. In evaluation it returns "amodal_masks",
    float [n, T, S, S] with values 0–1, 0 where a frame is not real.

    The mask of a frame is predicted from its neighbours: from the previous and from the next frame,
    weighted by a softmax of their α if there are both. A frame without neighbours has the mask
    that is decoded for itself, as have images [N, 3, I, I] without an axis of time.
    """

    def __init__(self, config: SaVosConfig, classes: int = 1) -> None:
        super().__init__()
        self.config = config
        width, channels = config.width, config.channels
        self.encoder = PatchEncoder(6, channels, width)
        self.memory = nn.LSTM(width, width, batch_first=True)
        self.mask_encoder = PatchEncoder(1, channels, width)
        self.mask_decoder = PatchDecoder(2 * width, channels)
        self.flow_encoder = PatchEncoder(2, config.flow_channels, width)
        self.flow_decoder = PatchDecoder(2 * width, channels)

    def forward(self, images: Tensor, targets: dict[str, Tensor]) -> dict[str, Tensor]:
        clip = _Clip.of(images, targets)
        views = [clip, clip.turned()] if self.config.bidirectional else [clip]
        said = [self._predict(view) for view in views]
        # [directions, n, T, …], in the order of the first one.
        masks, alphas, known = (
            torch.stack([part if i == 0 else clip.in_turn(part) for i, part in enumerate(parts)])
            for parts in (
                [each.prediction for each in said],
                [each.prediction_alpha for each in said],
                [view.follows for view in views],
            )
        )
        found = fused(masks, alphas, known)
        if not self.training:
            own = torch.where(known.any(dim=0)[..., None, None], found, said[0].mask)
            size = targets["input"].shape[-2:]
            scaled = F.interpolate(own * clip.real[..., None, None], size, mode="bilinear")
            return {"amodal_masks": scaled[:, 0] if images.ndim == 4 else scaled}
        counts = targets["counts"]
        losses = {
            "loss_visible_mask": self._reconstruction(
                clip, found, counts * known.all(dim=0), targets
            ),
            "loss_consistency": sum(map(_consistency, views, said)),
        }
        if self.config.photometric:
            weights = [counts, clip.in_turn(counts)]
            photometric = sum(map(_photometric, views, said, weights))
            losses["loss_photometric"] = self.config.photometric * photometric
        return losses

    complete = completer.complete  # of one picture: model.complete(image, visible_mask)

    def _predict(self, clip: _Clip) -> _Said:
        """Return the predictions for a clip along its direction of time."""
        shape = clip.mask.shape[:2]
        flow, mask = clip.flow.flatten(0, 1), clip.mask.flatten(0, 1)[:, None]
        seen = self.encoder(torch.cat([clip.image.flatten(0, 1), mask, flow], dim=1))
        memory = self.memory(seen.unflatten(0, shape))[0].flatten(0, 1)
        given = self.mask_encoder(flow[:, :1] if self.config.flow_for_mask else mask)
        decoded = self.mask_decoder(torch.cat([memory, given], dim=1)).unflatten(0, shape)
        given = self.flow_encoder(flow)
        change = self.flow_decoder(torch.cat([memory, given], dim=1)).unflatten(0, shape)
        own = torch.stack([decoded[:, :, 0].sigmoid(), decoded[:, :, 1]], dim=2)
        own, change = (part * clip.inside[:, :, None] for part in (own, change))
        whole = clip.whole_flow(change)
        prediction = F.pad(clip.moved(own, whole), (0, 0, 0, 0, 0, 0, 1, 0))
        return _Said(own[:, :, 0], whole, prediction[:, :, 0], prediction[:, :, 1])

    def _reconstruction(
        self, clip: _Clip, found: Tensor, weights: Tensor, targets: dict[str, Tensor]
    ) -> Tensor:
        """Return the binary cross-entropy of masks [n, T, h, w] with visible ones.

        Pixels of other objects are left out; summed over pixels of the frame, mean over frames.
        """
        kind = "amodal" if self.config.supervised else "visible"
        truth, counted = _patches(targets[kind]), clip.inside
        if not self.config.supervised:
            counted = counted * (1 - _patches(targets["others"]))
        found = found.clamp(1e-6, 1 - 1e-6)
        loss = -(truth * found.log() + (1 - truth) * (1 - found).log()) * counted
        return _mean(loss.sum(dim=(2, 3)) * clip.pixels, weights)


@dataclass(frozen=True)
class _Clip:
    """Patches of n clips of T frames along one direction of time.

    Attributes:
        image: [n, T, 3, h, w] with values 0–1.
        mask: [n, T, h, w], visible masks.
        flow, flow_back: [n, T, 2, h, w], flow to the following and to the preceding frame.
        windows, own: [n, T, 4], windows of the patches and of the object.
        canvas: [n, T, 2], width and height of the frames.
        time: [n, T], greater by one for the next frame in this direction.
        real: bool [n, T], false for repetitions.
    """

    image: Tensor
    mask: Tensor
    flow: Tensor
    flow_back: Tensor
    windows: Tensor
    own: Tensor
    canvas: Tensor
    time: Tensor
    real: Tensor

    @classmethod
    def of(cls, images: Tensor, targets: dict[str, Tensor]) -> _Clip:
        given, device = targets["input"], images.device
        alone = images.ndim == 4
        if alone:
            images, given = images[:, None], given[:, None]
        shape = given.shape[:2]
        pixels = images.float() if images.is_floating_point() else images.float() / 255
        if alone:
            still = torch.zeros(*shape, 2, *PATCH, device=device)
            window = torch.tensor([0.0, 0.0, 1.0, 1.0], device=device).expand(*shape, 4)
            real = torch.ones(shape, dtype=torch.bool, device=device)
            zero = torch.zeros(shape, dtype=torch.int64, device=device)
            motion = (still, still, window, window, window[..., 2:], zero, real)
        else:
            flows = (_patches(targets[name]) for name in ("forward", "backward"))
            others = ("windows", "own", "canvas", "time", "real")
            motion = (*flows, *(targets[name] for name in others))
        return cls(_patches(pixels), _patches(given), *motion)

    def in_turn(self, values: Tensor) -> Tensor:
        """Return values [n, T, …] with the real frames of each clip in reversed order."""
        steps = torch.arange(values.shape[1], device=values.device)
        last = self.real.sum(dim=1, keepdim=True) - 1
        order = torch.where(steps <= last, last - steps, steps)
        return values[torch.arange(len(values), device=values.device)[:, None], order]

    def turned(self) -> _Clip:
        """Return the same clips in the other direction of time."""
        same = (self.in_turn(x) for x in (self.windows, self.own, self.canvas))
        flows = (self.in_turn(x) for x in (self.flow_back, self.flow))
        image, mask = self.in_turn(self.image), self.in_turn(self.mask)
        return _Clip(image, mask, *flows, *same, -self.in_turn(self.time), self.real)

    @property
    def follows(self) -> Tensor:
        """Return which frames directly follow the previous frame of the clip, bool [n, T]."""
        return F.pad(self.time.diff(dim=1) == 1, (1, 0))

    @property
    def inside(self) -> Tensor:
        """Return which cells lie within the object's own windows, float [n, T, h, w]."""
        shape = self.windows.shape[:2]
        own, drawn = self.own.flatten(0, 1), self.windows.flatten(0, 1)
        return within(own, drawn, PATCH).unflatten(0, shape)

    @property
    def pixels(self) -> Tensor:
        """Return the number of pixels of the frame per cell, float [n, T]."""
        return (self.windows[..., 2:] - self.windows[..., :2]).prod(dim=-1) / (PATCH[0] * PATCH[1])

    def whole_flow(self, change: Tensor) -> Tensor:
        """Return the flow of whole objects from every frame but the last, [n, T − 1, 2, h, w].

        It is sampled at the cells of the next frame's window.
        """
        parts = (part[:, :-1].flatten(0, 1) for part in (self.flow, self.mask, change))
        flow = amodal_flow(*parts, self.windows[:, :-1].flatten(0, 1), self._next_places)
        return flow.unflatten(0, (len(change), -1)) if flow.numel() else change[:, :0]

    def moved(self, patches: Tensor, flow: Tensor) -> Tensor:
        """Return patches [n, T, C, h, w] of every frame but the last, moved by ``flow`` into the
        next frame's window: [n, T − 1, C, h, w]."""
        if patches.shape[1] == 1:
            return patches[:, :0]
        before = (x[:, :-1].flatten(0, 1) for x in (patches, self.windows))
        canvas = self.canvas[:, :-1].flatten(0, 1)
        found = warped(*before, self._next_places, flow.flatten(0, 1), canvas)
        return found.unflatten(0, (len(patches), -1))

    @property
    def _next_places(self) -> Tensor:
        return places(self.windows[:, 1:].flatten(0, 1), PATCH)


@dataclass(frozen=True)
class _Said:
    """Predictions along one direction of time.

    Attributes:
        mask: [n, T, h, w], decoded for each frame itself.
        flow: of whole objects, see :meth:`_Clip.whole_flow`.
        prediction, prediction_alpha: of each frame but the first, by the previous one,
            [n, T, h, w].
    """

    mask: Tensor
    flow: Tensor
    prediction: Tensor
    prediction_alpha: Tensor


def fused(masks: Tensor, alphas: Tensor, known: Tensor) -> Tensor:
    """Return the mean of each frame's known masks, weighted by a softmax of their α.

    Args:
        masks, alphas: one per direction of time, [directions, n, T, h, w].
        known: bool [directions, n, T].
    """
    lowest = torch.finfo(alphas.dtype).min
    return (alphas.masked_fill(~known[..., None, None], lowest).softmax(dim=0) * masks).sum(dim=0)


def _consistency(clip: _Clip, said: _Said) -> Tensor:
    """Return 1 − soft IoU of each frame's mask with the previous frame's mask, moved.

    It is summed over all frames up to each frame, then over these; mean over clips. The flow gets
    no gradient.
    """
    moved = clip.moved(said.mask[:, :, None], said.flow.detach())[:, :, 0]
    mask, known = said.mask[:, 1:], clip.follows[:, 1:]
    both = (moved * mask).sum(dim=(2, 3))
    either = (moved + mask).sum(dim=(2, 3)) - both
    loss = (1 - both / either.clamp(min=1e-6)) * known
    return (loss.cumsum(dim=1) * known).sum() / len(loss)


def _photometric(clip: _Clip, said: _Said, counts: Tensor) -> Tensor:
    """Return the difference between each frame's pixels and the previous frame's, moved.

    Only pixels at which both frames show the object count; summed over colours and pixels of the
    frame, mean over frames.
    """
    seen = torch.cat([clip.image, clip.mask[:, :, None]], dim=2)
    moved = clip.moved(seen, said.flow)
    shown = (moved[:, :, 3].detach() > 0.5) * clip.mask[:, 1:]
    loss = (moved[:, :, :3] - clip.image[:, 1:]).abs().sum(dim=2) * shown
    weights = counts[:, 1:] * counts[:, :-1] * clip.follows[:, 1:]
    return _mean(loss.sum(dim=(2, 3)) * clip.pixels[:, 1:], weights)


def _mean(values: Tensor, weights: Tensor) -> Tensor:
    """Return the weighted mean; 0, with a gradient, where all weights are 0."""
    return (values * weights).sum() / weights.sum().clamp(min=1)


def _patches(crops: Tensor) -> Tensor:
    """Return crops [n, T, …, S, S] scaled to [n, T, …, 64, 128] by area averaging."""
    flat = crops.float().reshape(-1, 1, *crops.shape[-2:])
    return F.interpolate(flat, PATCH, mode="area").reshape(*crops.shape[:-2], *PATCH)


def batches(
    config: SaVosConfig,
    training: TrainingConfig,
    annotations: AmodalAnnotations,
    detected: Predictions | None = None,
) -> MotionBatches:
    """Return clips of objects with their optical flow and the visible pixels of other objects.

    Raises:
        ValueError: no track is one of ``config.training_tracks``.
    """
    chosen = None
    if config.training_tracks:
        chosen = changing(annotations, **config.training_tracks.model_dump())
        if not chosen.any():
            raise ValueError(
                f"{annotations.metadata.dataset}/{annotations.metadata.split} has no track of more "
                f"than {config.training_tracks.longer_than} frames whose visible outline changes: "
                "set savos.model.training_tracks to null to learn from all tracks"
            )
    size, seed = training.batch_size, training.seed
    return MotionBatches(
        ClipBatches(annotations, config.crop, config.frames, size, seed, chosen=chosen)
    )
