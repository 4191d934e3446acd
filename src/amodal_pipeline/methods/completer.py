"""Completing objects of one image with a model in memory, without tables or files."""

import numpy as np
import torch
from torch import Tensor, nn

from amodal_pipeline.annotations import rle
from amodal_pipeline.layers.crops import (
    FITTING,
    around_amodal,
    aspects,
    crop_image,
    crop_masks,
    paste_masks,
    windows,
)
from amodal_pipeline.samples.objects import VisibleOthers

_AT_ONCE = 32  # objects of an image completed at once, to limit memory


@torch.inference_mode()
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
            objects of the image is shown those that are given here.
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
    others = None
    if model.config.DESCRIPTION.sees == "others":
        others = VisibleOthers(rle.encode(masks), np.zeros(len(masks), np.int64))
    result = np.zeros_like(masks)
    for start in range(0, len(seen), _AT_ONCE):
        own = seen[start : start + _AT_ONCE]
        counts = rle.encode(masks[own])
        tight = rle.box(counts, size)
        around = tight if boxes is None else _united(boxes, tight, own, size)
        beside = None if others is None else others(own)
        result[own] = _completed(model, pixels, counts, around, own + 1, beside)
    return (result if raw else result | masks).reshape(given.shape)


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


def _completed(
    model: nn.Module,
    pixels: Tensor,
    counts: list[str],
    boxes: np.ndarray,
    keys: np.ndarray,
    others: list[str] | None,
) -> np.ndarray:
    crop, size = model.config.crop, tuple(pixels.shape[1:])
    device = next(model.parameters()).device
    corners = windows(boxes, size, crop)
    images = torch.stack([crop_image(pixels, c, crop.image_side) for c in corners])
    given = crop_masks(counts, corners, size, crop.side)
    targets = {
        "input": torch.from_numpy(given),
        "key": torch.from_numpy(keys),
        "aspect": aspects(corners),
    }
    if others is not None:
        beside = crop_masks(others, corners, size, crop.side) & ~given
        targets["others"] = torch.from_numpy(beside.astype(np.uint8))
    on_device = {name: values.to(device) for name, values in targets.items()}
    found = model(images.to(device), on_device)["amodal_masks"]
    return rle.decode(paste_masks(found, corners, size), size)
