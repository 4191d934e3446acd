"""Source photographs and their objects, to be covered or cut out."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage

from amodal_pipeline.annotations import flat, rle
from amodal_pipeline.annotations.formats import Format
from amodal_pipeline.annotations.images import read_image
from amodal_pipeline.annotations.on_disk import check_on_disk
from amodal_pipeline.annotations.tables import AmodalAnnotations

CONTACT = 2  # pixels; masks this near touch, since annotated outlines are no more exact
BORDER = 1  # pixels; polygons often end this far from the image border that cuts the object
MIN_PART = 0.05  # share of a mask; a second part as large as this is not a drawing error


@dataclass(frozen=True, slots=True)
class SourceObject:
    """An object of a source photograph, with all that is needed to cut it out or to cover it."""

    instance_id: int
    category_id: int
    file_name: str
    size: tuple[int, int]  # height, width of the photograph
    counts: str
    incomplete: bool
    ignore: bool


def read_source(json_path: Path, image_root: Path, split: str) -> AmodalAnnotations:
    """Return a COCO instance file as a table with the modal masks as amodal and visible masks.

    Raises:
        ValueError: the file is no COCO JSON, has amodal masks, or names photographs that are not
            below ``image_root`` or have another size.
    """
    source = flat.read_table(
        json_path, image_root, json_path.name, split, {Format.MODAL: flat.MODAL}
    )
    check_on_disk(source)
    return source


def possibly_incomplete(
    counts: list[str], size: tuple[int, int], touching: bool = True
) -> np.ndarray:
    """Return which modal masks may lack a part of their object, bool [N].

    A mask is flagged if it touches the image border (the object may continue outside), if it
    comes within ``CONTACT`` pixels of another object's mask (which may cover it), or if it has
    several parts (an object without a mask, such as a pole or a table, may lie across it). A part
    covered by such an object at one side only cannot be detected from the mask.

    Args:
        counts: the masks of all objects of one image, crowds included.
        size: canvas (height, width).
        touching: whether masks near to another mask are flagged.
    """
    height, width = size
    found = np.zeros(len(counts), bool)
    if not counts:
        return found
    masks = rle.decode(counts, size).view(bool)
    boxes = _pixel_boxes(counts, size)
    x0, y0, x1, y1 = boxes.T
    found |= (x0 <= BORDER) | (y0 <= BORDER) | (x1 >= width - BORDER) | (y1 >= height - BORDER)
    near = (
        (x0[:, None] - CONTACT < x1)
        & (x0 < x1[:, None] + CONTACT)
        & (y0[:, None] - CONTACT < y1)
        & (y0 < y1[:, None] + CONTACT)
    )
    np.fill_diagonal(near, False)
    for i in np.flatnonzero(~found):
        x = slice(max(x0[i] - CONTACT, 0), x1[i] + CONTACT)
        y = slice(max(y0[i] - CONTACT, 0), y1[i] + CONTACT)
        grown = ndimage.binary_dilation(masks[i, y, x], iterations=CONTACT)
        touches = touching and (masks[near[i], y, x] & grown).any()
        found[i] = touches or _in_parts(masks[i, y, x])
    return found


def working_size(size: tuple[int, int], max_side: int) -> tuple[int, int]:
    """Return (height, width) of a photograph after scaling its longer side to <= ``max_side``."""
    factor = min(1.0, max_side / max(size))
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def working_masks(counts: list[str], size: tuple[int, int], max_side: int) -> np.ndarray:
    """Return masks bool [N, h, w] at working size from strings on the canvas ``size``."""
    height, width = working_size(size, max_side)
    masks = rle.decode(counts, size)
    if (height, width) != size:
        scaled = [
            np.asarray(
                Image.fromarray(mask * np.uint8(255)).resize((width, height), Image.Resampling.BOX)
            )
            for mask in masks
        ]
        return np.array(scaled, np.uint8).reshape(-1, height, width) > 127
    return masks.view(bool)


@lru_cache(maxsize=8)
def photograph(root: str, file_name: str, size: tuple[int, int], max_side: int) -> np.ndarray:
    """Return a source photograph at working size, uint8 [h, w, 3], read-only.

    Raises:
        ValueError: the file is missing, damaged, of another size than annotated, or a
            decompression bomb; names the file.
    """
    pixels = read_image(root, file_name, size)
    height, width = working_size(size, max_side)
    if (height, width) != size:
        resized = Image.fromarray(pixels).resize(
            (width, height), Image.Resampling.LANCZOS, reducing_gap=3.0
        )
        pixels = np.array(resized)
    pixels.setflags(write=False)
    return pixels


def _pixel_boxes(counts: list[str], size: tuple[int, int]) -> np.ndarray:
    """Return tight boxes (x0, y0, x1, y1), x1 and y1 exclusive, int64 [N, 4]."""
    boxes = np.nan_to_num(rle.box(counts, size)).astype(np.int64)
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)


def _in_parts(mask: np.ndarray) -> bool:
    parts, number = ndimage.label(mask, structure=np.ones((3, 3)))
    if number < 2:
        return False
    areas = np.sort(np.bincount(parts.ravel())[1:])
    return bool(areas[-2] >= MIN_PART * areas.sum())
