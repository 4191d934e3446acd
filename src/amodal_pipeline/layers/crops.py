"""What a completer sees of an object: its surroundings, cut out and scaled to one size."""

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from amodal_pipeline.annotations import rle
from amodal_pipeline.layers.configs import CropConfig
from amodal_pipeline.layers.masks import paste

# Amodal boxes are at most so many times as long as the longer side of their image: all of a window
# is drawn, also what is beyond the image.
WIDEST = 4.0
FITTING = (
    "a box (x, y, width, height) in pixels that overlaps the visible mask and is at most "
    f"{WIDEST:g} times as long as the image"
)


def around_amodal(boxes: np.ndarray, visible: np.ndarray, sizes: rle.Sizes) -> np.ndarray:
    """What windows are put around of objects with amodal boxes, float64 [N, 4]: the union of that
    and the box of the visible mask, which a whole object holds.

    NaN where the amodal box is no :data:`FITTING` one, or nothing is visible.

    Args:
        boxes: [N, 4] (x, y, width, height), the amodal ones.
        visible: [N, 4], tight around the visible masks.
        sizes: (height, width) of the images, [N, 2] or one for all.
    """
    boxes, visible = (np.asarray(b, np.float64).reshape(-1, 4) for b in (boxes, visible))
    with np.errstate(over="ignore", invalid="ignore"):  # a user's numbers may be any
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
    """The part of the image that is seen of each object, float64 [N, 4] (x1, y1, x2, y2) in pixels.

    Args:
        boxes: [N, 4] (x, y, width, height), of what ``crop.around`` names.
        sizes: (height, width) of the images, [N, 2] or one for all.
        crop: how boxes grow.
        enlarge: the factor, one or [N], instead of ``crop.enlarge``.
    """
    boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
    extent = boxes[:, 2:]
    if crop.square:
        extent = np.repeat(extent.max(axis=1, keepdims=True), 2, axis=1)
    factor = np.reshape(crop.enlarge if enlarge is None else enlarge, (-1, 1))
    centre, half = boxes[:, :2] + boxes[:, 2:] / 2, extent * factor / 2
    corners = np.concatenate([centre - half, centre + half], axis=1)
    if crop.clipped:
        height, width = np.asarray(sizes).reshape(-1, 2).T
        corners = np.clip(corners, 0, np.stack([width, height, width, height], axis=1))
    return corners


def aspects(windows: np.ndarray) -> Tensor:
    """Width and height of windows [N, 4] (x1, y1, x2, y2), over the longer: float32 [N, 2]."""
    corners = np.asarray(windows, np.float64).reshape(-1, 4)
    extent = corners[:, 2:] - corners[:, :2]
    return torch.from_numpy((extent / extent.max(axis=1, keepdims=True)).astype(np.float32))


def crop_image(image: Tensor, window: np.ndarray, side: int) -> Tensor:
    """The pixels in a window, scaled with antialiasing; black beyond the border of the image.

    Args:
        image: uint8 [3, H, W].
        window: [4] (x1, y1, x2, y2) in pixels.
        side: of the result, uint8 [3, side, side].
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
    """Masks as they are seen in their windows, bool [N, side, side]; nothing beyond the border.

    No mask is drawn on its canvas.

    Args:
        counts: run lengths of N masks.
        windows: [N, 4] (x1, y1, x2, y2) in pixels.
        sizes: canvas (height, width) of each, or one for all.
    """
    corners = np.asarray(windows, np.float64).reshape(-1, 4)
    extent = corners[:, 2:] - corners[:, :2]
    cropped = rle.crop(counts, np.concatenate([corners[:, :2], extent], axis=1), sizes, side)
    # The sampling of run lengths lets a mask go on for half a pixel beyond the image.
    centres = corners[:, :2, None] + extent[:, :, None] * (np.arange(side) + 0.5) / side
    limit = np.asarray(sizes).reshape(-1, 2)[:, ::-1, None]
    inside = (centres >= 0) & (centres <= limit)
    return cropped & inside[:, 1, :, None] & inside[:, 0, None, :]


def paste_masks(probabilities: Tensor, windows: np.ndarray, size: tuple[int, int]) -> list[str]:
    """Masks that were seen in windows, as run lengths on the canvas: foreground above one half.

    Args:
        probabilities: [N, side, side] in 0–1.
        windows: [N, 4] (x1, y1, x2, y2) in pixels; parts beyond the canvas are cut off.
        size: (height, width) of the canvas.
    """
    # A window ends anywhere, also at the border of the image: nothing fades there.
    return paste(probabilities, torch.from_numpy(windows), size, faded=False)
