"""The input of a completer for an object: its surroundings, cut out and scaled to one size."""

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from amodal_pipeline.annotations import rle
from amodal_pipeline.layers.configs import CropConfig
from amodal_pipeline.layers.masks import paste

# Largest length of an amodal box in units of the image's longer side: the whole window is drawn,
# including the part beyond the image.
WIDEST = 4.0
FITTING = (
    "a box (x, y, width, height) in pixels that overlaps the visible mask and is at most "
    f"{WIDEST:g} times as long as the image"
)


def around_amodal(boxes: np.ndarray, visible: np.ndarray, sizes: rle.Sizes) -> np.ndarray:
    """Return the boxes of objects with amodal boxes around which windows are put, float64 [N, 4].

    Each is the union of the amodal box and the box of the visible mask, which contains the whole
    object. It is NaN if the amodal box is not :data:`FITTING` or nothing is visible.

    Args:
        boxes: amodal boxes, [N, 4] (x, y, width, height).
        visible: boxes tight around the visible masks, [N, 4].
        sizes: (height, width) of the images, [N, 2] or one for all.
    """
    boxes, visible = (np.asarray(b, np.float64).reshape(-1, 4) for b in (boxes, visible))
    with np.errstate(over="ignore", invalid="ignore"):  # a user's boxes may have any numbers
        first, last = boxes[:, :2], boxes[:, :2] + boxes[:, 2:]
        of_visible, to_visible = visible[:, :2], visible[:, :2] + visible[:, 2:]
        overlaps = np.maximum(first, of_visible) < np.minimum(last, to_visible)
        longest = WIDEST * np.asarray(sizes).reshape(-1, 2).max(axis=1, keepdims=True)
        fitting = (overlaps & (boxes[:, 2:] <= longest)).all(axis=1, keepdims=True)
        first, last = np.minimum(first, of_visible), np.maximum(last, to_visible)
        return np.where(fitting, np.concatenate([first, last - first], axis=1), np.nan)


def windows(
    boxes: np.ndarray,
    sizes: rle.Sizes,
    crop: CropConfig,
    enlarge: float | np.ndarray | None = None,
) -> np.ndarray:
    """Return the window of the image around each object, float64 [N, 4] (x1, y1, x2, y2) in pixels.

    Args:
        boxes: [N, 4] (x, y, width, height), around the masks that ``crop.around`` names.
        sizes: (height, width) of the images, [N, 2] or one for all.
        crop: how boxes are enlarged to windows.
        enlarge: the factor, one or [N], instead of ``crop.enlarge``.
    """
    boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
    factor = np.reshape(crop.enlarge if enlarge is None else enlarge, (-1, 1))
    extent = boxes[:, 2:] * factor
    if crop.square:
        extent = np.repeat(extent.max(axis=1, keepdims=True), 2, axis=1)
    if crop.square == "by_area":
        extent = np.maximum(extent, np.sqrt(3 * boxes[:, 2:].prod(axis=1, keepdims=True)))
    centre, half = boxes[:, :2] + boxes[:, 2:] / 2, extent / 2
    corners = np.concatenate([centre - half, centre + half], axis=1)
    if crop.clipped:
        height, width = np.asarray(sizes).reshape(-1, 2).T
        corners = np.clip(corners, 0, np.stack([width, height, width, height], axis=1))
    return corners


def extended(windows: np.ndarray, clips: np.ndarray) -> np.ndarray:
    """Return windows that are as wide and as high as the largest of their clip, float64 [N, 4].

    They are extended to the right and to the bottom, so that crops of one clip have one scale.

    Args:
        windows: [N, 4] (x1, y1, x2, y2) in pixels.
        clips: the clip that each belongs to, int64 [N], from 0.
    """
    corners = np.asarray(windows, np.float64).reshape(-1, 4)
    largest = np.zeros((int(clips.max(initial=-1)) + 1, 2))
    np.maximum.at(largest, clips, corners[:, 2:] - corners[:, :2])
    return np.concatenate([corners[:, :2], corners[:, :2] + largest[clips]], axis=1)


def covered(own: np.ndarray, drawn: np.ndarray, side: int) -> np.ndarray:
    """Return which pixels of crops lie within the objects' own windows, bool [N, side, side].

    Args:
        own, drawn: [N, 4] (x1, y1, x2, y2): each drawn window is its own one, :func:`extended`.
    """
    shares = (own[:, 2:] - own[:, :2]) / (drawn[:, 2:] - drawn[:, :2])
    centres = (np.arange(side) + 0.5) / side
    columns, rows = centres <= shares[:, :1], centres <= shares[:, 1:]
    return rows[:, :, None] & columns[:, None]


def areas(windows: np.ndarray) -> np.ndarray:
    """Return the pixels of the image in windows [N, 4], float64 [N]; beyond its border too."""
    corners = np.asarray(windows, np.float64).reshape(-1, 4)
    return (corners[:, 2:] - corners[:, :2]).prod(axis=1)


def aspects(windows: np.ndarray) -> Tensor:
    """Return width and height of windows [N, 4] divided by the longer of them, float32 [N, 2]."""
    corners = np.asarray(windows, np.float64).reshape(-1, 4)
    extent = corners[:, 2:] - corners[:, :2]
    return torch.from_numpy((extent / extent.max(axis=1, keepdims=True)).astype(np.float32))


def crop_image(image: Tensor, window: np.ndarray, side: int) -> Tensor:
    """Return a window's pixels, scaled with antialiasing; black beyond the border of the image.

    Args:
        image: uint8 [3, H, W].
        window: [4] (x1, y1, x2, y2) in pixels.
        side: height and width of the result, uint8 [3, side, side].
    """
    height, width = image.shape[1:]
    left, top = np.floor(window[:2]).astype(int)
    right, bottom = np.ceil(window[2:]).astype(int)
    pixels = np.zeros((bottom - top, right - left, 3), np.uint8)
    rows = slice(max(top, 0), min(bottom, height))
    columns = slice(max(left, 0), min(right, width))
    if rows.start < rows.stop and columns.start < columns.stop:
        pixels[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left] = (
            image[:, rows, columns].permute(1, 2, 0)
        )
    within = tuple(np.asarray(window, np.float64) - [left, top, left, top])
    scaled = Image.fromarray(pixels).resize((side, side), Image.Resampling.BILINEAR, box=within)
    return torch.from_numpy(np.array(scaled)).permute(2, 0, 1)


def crop_masks(counts: rle.Masks, windows: np.ndarray, sizes: rle.Sizes, side: int) -> np.ndarray:
    """Return the masks within their windows, bool [N, side, side]; empty beyond the border.

    The masks are not decoded on their full canvas.

    Args:
        counts: run lengths of N masks.
        windows: [N, 4] (x1, y1, x2, y2) in pixels.
        sizes: canvas (height, width) of each, or one for all.
    """
    corners = np.asarray(windows, np.float64).reshape(-1, 4)
    extent = corners[:, 2:] - corners[:, :2]
    cropped = rle.crop(counts, np.concatenate([corners[:, :2], extent], axis=1), sizes, side)
    # Sampling run lengths extends a mask by half a pixel beyond the image.
    centres = corners[:, :2, None] + extent[:, :, None] * (np.arange(side) + 0.5) / side
    limit = np.asarray(sizes).reshape(-1, 2)[:, ::-1, None]
    inside = (centres >= 0) & (centres <= limit)
    return cropped & inside[:, 1, :, None] & inside[:, 0, None, :]


def paste_masks(probabilities: Tensor, windows: np.ndarray, size: tuple[int, int]) -> list[str]:
    """Return masks from windows as run lengths on the canvas; foreground is above one half.

    Args:
        probabilities: [N, side, side] in 0–1.
        windows: [N, 4] (x1, y1, x2, y2) in pixels; parts beyond the canvas are cut off.
        size: (height, width) of the canvas.
    """
    # A window can end anywhere, also at the border of the image, so masks are not faded out there.
    return paste(probabilities, torch.from_numpy(windows), size, faded=False)
