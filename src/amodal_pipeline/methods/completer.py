"""Completing objects of one image with a model in memory, without tables or files."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn

from amodal_pipeline.annotations import rle
from amodal_pipeline.layers.crops import (
    FITTING,
    areas,
    around_amodal,
    aspects,
    crop_image,
    crop_masks,
    paste_masks,
    windows,
)
from amodal_pipeline.methods import dual_completion
from amodal_pipeline.samples.objects import VisibleInFront, VisibleOthers

_AT_ONCE = 32  # objects of an image completed at once, to limit memory
_Order = tuple[np.ndarray, np.ndarray, np.ndarray]  # front, back, scores: see Completed
_NO_ORDER: _Order = (np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))


@dataclass(frozen=True)
class Completed:
    """Objects of one image, completed.

    Attributes:
        masks: bool, with the shape of the visible masks.
        front, back: who is in front of whom, int64 [P], positions of objects; P is 0 if the model
            does not say.
        scores: of these pairs, float64 [P] in 0–1.
    """

    masks: np.ndarray
    front: np.ndarray
    back: np.ndarray
    scores: np.ndarray


def complete(
    model: nn.Module,
    image: np.ndarray | Tensor,
    visible_mask: np.ndarray | Tensor,
    amodal_boxes: np.ndarray | Tensor | None = None,
    *,
    raw: bool = False,
) -> np.ndarray:
    """Return the amodal masks of objects of one image, each united with its visible mask.

    Args:
        model: a completer in evaluation mode; ``model.config.crop`` defines its crops of objects.
        image: uint8 array [H, W, 3] or tensor [3, H, W], RGB.
        visible_mask: [H, W], or [N, H, W] for several objects; nonzero where an object is visible.
            An object's position, from 1, seeds its random draws. A model that sees the other
            objects of the image, or those in front, is shown those that are given here.
        amodal_boxes: [4], or [N, 4] for several objects, (x, y, width, height) in pixels; only for
            a model that crops around amodal boxes. Each is united with the box of the visible mask;
            it is not used if the visible mask is empty.
        raw: return the model's masks unchanged; they may lack pixels of the visible mask.

    Returns:
        bool array with the shape of ``visible_mask``; an empty visible mask stays empty.

    Raises:
        ValueError: image, masks, boxes and model do not fit together, or the model is in training
            mode.
    """
    return complete_in_order(model, image, visible_mask, amodal_boxes, raw=raw).masks


@torch.inference_mode()
def complete_in_order(
    model: nn.Module,
    image: np.ndarray | Tensor,
    visible_mask: np.ndarray | Tensor,
    amodal_boxes: np.ndarray | Tensor | None = None,
    *,
    raw: bool = False,
) -> Completed:
    """Return what :func:`complete` does, and who is in front of whom."""
    if model.training:
        raise ValueError("the model is in training mode: call eval() on it first")
    # A copy, because torch takes no views with negative strides (BGR to RGB).
    pixels = torch.from_numpy(image.copy()) if isinstance(image, np.ndarray) else image.cpu()
    if isinstance(image, np.ndarray) and pixels.ndim == 3:
        pixels = pixels.permute(2, 0, 1)
    given = torch.as_tensor(visible_mask).cpu().numpy() != 0
    size = tuple(pixels.shape[1:])
    if (
        pixels.ndim != 3
        or pixels.shape[0] != 3
        or pixels.dtype != torch.uint8
        or given.ndim not in (2, 3)
    ):
        raise ValueError(
            "complete takes an image uint8 [H, W, 3] (array) or [3, H, W] (tensor) and a mask "
            f"[H, W] or [N, H, W], not {pixels.dtype} {list(np.shape(image))} and "
            f"{list(given.shape)}"
        )
    if given.shape[-2:] != size:
        raise ValueError(
            f"the image has {size} pixels (height, width), the mask {given.shape[-2:]}: give both "
            "in the same size"
        )
    masks = given.reshape(given.size // max(size[0] * size[1], 1), *size)
    seen = np.flatnonzero(masks.any(axis=(1, 2)))
    boxes = _boxes(model, amodal_boxes, given.shape[:-2])
    counts = rle.encode(masks)
    around = rle.box(counts, size).astype(np.float64)
    if boxes is not None:
        around[seen] = _united(boxes, around[seen], seen, size)
    known = _Objects(model, pixels, pa.array(counts, pa.string()), around)
    beside, order = None, _NO_ORDER
    sees = model.config.DESCRIPTION.sees(model.config)
    if sees == "others":
        beside = VisibleOthers(known.masks, np.zeros(len(masks), np.int64))
    elif sees == "in_front":
        beside, order = _in_front(known)
    result = np.zeros_like(masks)
    for own in _at_once(seen):
        crops = known.crops(own, beside and beside(own))
        found = model(*crops.given)["amodal_masks"].float().cpu()
        result[own] = rle.decode(paste_masks(found, crops.windows, size), size)
    if sees != "in_front":
        completed = pa.array(rle.encode(result), pa.string())
        order = dual_completion.by_growth(
            np.zeros(len(masks), np.int64), known.masks, completed, size
        )
    return Completed((result if raw else result | masks).reshape(given.shape), *order)


def _boxes(
    model: nn.Module,
    amodal_boxes: np.ndarray | Tensor | None,
    objects: tuple[int, ...],
) -> np.ndarray | None:
    """Return the given boxes, float64 [N, 4]; None if the model crops around visible masks."""
    name = type(model).__name__
    if model.config.crop.around == "visible":
        if amodal_boxes is not None:
            raise ValueError(f"this {name} crops around visible masks: leave amodal_boxes out")
        return None
    if amodal_boxes is None:
        raise ValueError(
            f"this {name} crops around amodal boxes: give amodal_boxes [N, 4] (x, y, width, "
            "height), such as those of a detector"
        )
    boxes = torch.as_tensor(amodal_boxes).cpu().numpy().astype(np.float64)
    if boxes.shape != (*objects, 4):
        raise ValueError(
            f"amodal_boxes are {list(boxes.shape)}: give {[*objects, 4]}, one box per mask"
        )
    return boxes.reshape(-1, 4)


def _united(
    boxes: np.ndarray, tight: np.ndarray, own: np.ndarray, size: tuple[int, int]
) -> np.ndarray:
    around = around_amodal(boxes[own], tight, size)
    wrong = np.isnan(around[:, 0])
    if wrong.any():
        first = own[wrong][0]
        raise ValueError(
            f"amodal_boxes[{first}] is {boxes[first].tolist()} in an image of {size} (height, "
            f"width): give {FITTING}"
        )
    return around


@dataclass(frozen=True)
class _Crops:
    """What a model is ``given`` of N objects (images and targets), and their ``windows`` [N, 4]."""

    given: tuple[Tensor, dict[str, Tensor]]
    windows: np.ndarray


@dataclass(frozen=True)
class _Objects:
    """The objects of one image: their masks, and the boxes that windows are put around."""

    model: nn.Module
    pixels: Tensor
    masks: pa.Array
    boxes: np.ndarray

    @property
    def size(self) -> tuple[int, int]:
        """Return (height, width) of the image."""
        return tuple(self.pixels.shape[1:])

    def crops(self, rows: np.ndarray, beside: rle.Masks | None = None) -> _Crops:
        """Return the crops of N rows; ``beside`` has N masks, the target that the model sees."""
        config, size = self.model.config, self.size
        crop, description = config.crop, config.DESCRIPTION
        corners = windows(self.boxes[rows], size, crop)
        masks = crop_masks(self.masks.take(pa.array(rows)), corners, size, crop.side)
        images = torch.zeros(len(rows), 3, 0, 0, dtype=torch.uint8)
        if description.needs_pixels(config):
            images = torch.stack([crop_image(self.pixels, c, crop.image_side) for c in corners])
        targets = {
            "input": torch.from_numpy(masks),
            "key": torch.from_numpy(rows + 1),
            "aspect": aspects(corners),
        }
        if beside is not None:
            shown = crop_masks(beside, corners, size, crop.side)
            sees = description.sees(config)
            if sees == "others":
                shown &= ~masks
            targets[sees] = torch.from_numpy(shown.astype(np.uint8))
        device = next(self.model.parameters()).device
        on_device = {name: values.to(device) for name, values in targets.items()}
        return _Crops((images.to(device), on_device), corners)


def _at_once(rows: np.ndarray) -> Iterator[np.ndarray]:
    return (rows[start : start + _AT_ONCE] for start in range(0, len(rows), _AT_ONCE))


def _in_front(known: _Objects) -> tuple[VisibleInFront, _Order]:
    """Return what is visible in front of the objects, and the order that the model finds."""
    model, masks = known.model, known.masks
    if model.config.DESCRIPTION.needs_order(model.config):
        raise ValueError(
            "the model is configured to use the true order of objects (order=true), which masks "
            "alone do not have: use order=own"
        )
    pairs = dual_completion.neighbours(
        model.config, np.zeros(len(masks), np.int64), masks, known.size
    )
    (front, back), order = pairs.T, _NO_ORDER
    if model.config.order == "own":
        ways, gains = dual_completion.both_ways(pairs), [np.zeros(0)]
        for own in _at_once(np.arange(len(ways))):
            rows, eraser = ways[own].T
            crops = known.crops(rows, masks.take(pa.array(eraser)))
            share = model.gains(*crops.given)["gains"].double().cpu().numpy()
            gains.append(share * areas(crops.windows))
        order = dual_completion.decided(pairs, np.concatenate(gains))
        front, back, _ = order
    front, back = dual_completion.occluders(model.config.order, pairs, front, back)
    return VisibleInFront(masks, front, back), order
