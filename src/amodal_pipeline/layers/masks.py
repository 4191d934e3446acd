"""Mask heads, their targets, and pasting of RoI masks at full resolution into run lengths."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.ops import FrozenBatchNorm2d, roi_align

from amodal_pipeline.annotations import rle
from amodal_pipeline.layers.configs import MaskHeadConfig


class MaskHead(nn.Module):
    """Maps RoI features [N, C, S, S] to mask logits [N, classes, 2S, 2S] (1 class if agnostic).

    3x3 convolutions with ReLU, a stride-2 deconvolution and a 1x1 convolution: Mask R-CNN's head,
    with torchvision's parameter names, so that its COCO weights can be loaded.
    """

    def __init__(self, in_channels: int, config: MaskHeadConfig, classes: int) -> None:
        super().__init__()
        channels = config.channels
        self.layers = MaskRCNNHeads(
            in_channels,
            (channels,) * config.convolutions,
            dilation=1,
            norm_layer=FrozenBatchNorm2d if config.batch_norm else None,
        )
        self.predictor = MaskRCNNPredictor(
            channels, channels, 1 if config.class_agnostic else classes
        )
        # As in the Detectron family: masks start near probability one half.
        nn.init.normal_(self.predictor.mask_fcn_logits.weight, std=0.001)

    def forward(self, features: Tensor) -> Tensor:
        return self.with_features(features)[0]

    def with_features(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return logits, and the features of the last convolution and of the deconvolution.

        Features are [N, channels, S, S] and [N, channels, 2S, 2S], both after their ReLU.
        """
        convolved = self.layers(features)
        enlarged = self.predictor.relu(self.predictor.conv5_mask(convolved))
        return self.predictor.mask_fcn_logits(enlarged).float(), convolved, enlarged


def of_class(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the channel of each RoI's class: [N, classes, M, M] to [N, M, M].

    ``labels`` [N] are 1-based (0 is background). A class-agnostic head has one channel for all.
    """
    if logits.shape[1] == 1:
        return logits[:, 0]
    return logits[torch.arange(len(logits), device=logits.device), labels - 1]


def mask_targets(
    targets: Sequence[dict],
    kind: str,
    boxes: Sequence[Tensor],
    matched: Sequence[Tensor],
    size: int,
) -> Tensor:
    """Return true masks cropped to each RoI, float [sum of RoIs, size, size] of 0 and 1.

    Args:
        targets: one per image, with "<kind>_masks" uint8 [objects, h, w] at any resolution and
            mask_scale, the (x, y) factors from input coordinates to those of the masks.
        kind: "amodal" or "visible".
        boxes: RoIs [N, 4] (x1, y1, x2, y2) per image, in the coordinates of the network's input.
        matched: int64 [N], the object of each RoI.
        size: side of a mask target.
    """
    crops = []
    for target, rois, index in zip(targets, boxes, matched, strict=True):
        if len(rois) == 0:
            crops.append(rois.new_zeros((0, size, size)))
            continue
        # Only the objects that a RoI is matched to are converted to float.
        used, index = torch.unique(index, return_inverse=True)
        masks = target[f"{kind}_masks"][used, None].to(rois.dtype)
        scaled = rois * rois.new_tensor([*target["mask_scale"], *target["mask_scale"]])
        indexed = torch.cat([index[:, None].to(rois.dtype), scaled], dim=1)
        cropped = roi_align(masks, indexed, size, aligned=True)[:, 0]
        crops.append((cropped >= 0.5).to(rois.dtype))
    return torch.cat(crops)


def mask_loss(logits: Tensor, truth: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return the mean binary cross-entropy over all RoIs' pixels; 0 (with a gradient) without RoIs.

    ``weights`` [N] multiply each RoI's part; the mean is still over all pixels.
    """
    if truth.numel() == 0:
        return logits.sum() * 0
    weights = None if weights is None else weights[:, None, None]
    return F.binary_cross_entropy_with_logits(logits, truth, weights)


def paste(
    probabilities: Tensor,
    boxes: Tensor,
    size: tuple[int, int],
    threshold: float = 0.5,
    *,
    faded: bool = True,
) -> list[str]:
    """Return masks on the image canvas as compressed run lengths, without a canvas in memory.

    Every pixel of a RoI gets the bilinear value of the mask at its centre, and is foreground above
    ``threshold``. Between the centres of the outermost cells and the border of the RoI a mask fades
    towards 0, as a detector's mask, whose box ends at the object's border, should. Without
    ``faded`` the outermost values continue to the border.

    Args:
        probabilities: [N, M, M] in 0–1.
        boxes: [N, 4] (x1, y1, x2, y2) in pixels of the canvas; parts outside are cut off.
        size: (height, width) of the canvas.
    """
    height, width = size
    masks = probabilities.detach().float().cpu().numpy()
    corners = boxes.detach().double().cpu().numpy()
    low = np.floor(np.clip(corners[:, :2], 0, (width, height))).astype(np.int64)
    high = np.ceil(np.clip(corners[:, 2:], 0, (width, height))).astype(np.int64)
    changes = []
    for mask, (x1, y1, x2, y2), (left, top), (right, bottom) in zip(
        masks, corners, low, high, strict=True
    ):
        # Bilinear sampling is separable: columns of the canvas x mask x rows of the canvas.
        across = _interpolation(left, right, x1, x2, mask.shape[1], faded)
        down = _interpolation(top, bottom, y1, y2, mask.shape[0], faded)
        inside = across @ mask.T @ down.T > threshold  # [w, h]: in the order of the runs
        changes.append(_changes(inside, left, top, height))
    counts = np.array([len(c) for c in changes], np.int64)
    return _runs(np.concatenate([*changes, np.zeros(0, np.int64)]), counts, height * width)


def _interpolation(
    start: int, stop: int, low: float, high: float, side: int, faded: bool
) -> np.ndarray:
    """Return weights [pixels, side] of a mask's cells for pixels start … stop - 1 of an axis."""
    at = (np.arange(start, stop) + 0.5 - low) / max(high - low, 1e-6) * side - 0.5
    if not faded:
        # A pixel whose centre lies beyond the border is not part of the mask.
        at = np.where((at >= -0.5) & (at <= side - 0.5), at.clip(0, side - 1), -1)
    return np.clip(1 - np.abs(at[:, None] - np.arange(side)), 0, 1).astype(np.float32)


def _changes(inside: np.ndarray, left: int, top: int, height: int) -> np.ndarray:
    """Return canvas positions, in column order, where a mask [w, h] at (left, top) changes."""
    w, h = inside.shape
    # A pixel of background after each column, unless the columns join on the canvas.
    stride = h if h == height else h + 1
    padded = np.zeros(w * stride + 2, bool)
    padded[1:-1].reshape(w, stride)[:, :h] = inside
    at = np.flatnonzero(padded[1:] != padded[:-1])
    return (left + at // stride) * height + top + at % stride


def _runs(position: np.ndarray, counts: np.ndarray, pixels: int) -> list[str]:
    """Return compressed run lengths of masks that have ``counts`` changes each at ``position``."""
    # Runs of a mask: from 0 to its first change, between changes, and from the last to the end.
    ends = np.cumsum(counts + 1)
    bounds = np.full(len(position) + len(counts), pixels, np.int64)
    at_end = np.zeros(len(bounds), bool)
    at_end[ends - 1] = True
    bounds[~at_end] = position
    runs = np.diff(bounds, prepend=0)
    first = ends - counts - 1
    runs[first] = bounds[first]
    # A change at the very end leaves an empty run, which COCO's writers leave out.
    empty = at_end & (runs == 0)
    empty[first] = False
    sizes = counts + 1 - empty[ends - 1]
    return rle.pack(runs[~empty], np.concatenate([[0], np.cumsum(sizes)]))
