"""Pictures, and the visible masks of objects that a user marks in them.

Files come from strangers: their size is checked before any pixel is decoded.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageOps

from amodal_pipeline.annotations.images import FORMATS, read_image, read_labels, read_size

MOST_PIXELS = 40_000_000  # of an uploaded picture
MOST_OBJECTS = 20  # of a picture
LONGEST = 1024  # side of the pictures that are worked on, pixels
_MOST_POINTS = 20_000  # of a line drawn by hand
_SMALLEST = 6  # side of a box and area of a mask, pixels
_ORIENTATION = 0x0112  # tag of EXIF
_GRABCUT_SIDE = 400  # longest side of the pixels that GrabCut looks at
_AROUND = 0.4  # what GrabCut sees around a box, in its sides
_ROUNDS = 5  # of GrabCut
_PART = 0.04  # share of a mask below which a part of it, apart from the others, is dropped


def read_picture(path: Path) -> tuple[np.ndarray, tuple[int, int]]:
    """Return an uploaded picture upright and at most :data:`LONGEST` pixels long.

    Returns:
        uint8 [H, W, 3], RGB; and (height, width) of the upright picture before it was reduced.

    Raises:
        ValueError: it is no picture, damaged, or has more than :data:`MOST_PIXELS`.
    """
    height, width = read_size(path.parent, path.name)
    if height * width > MOST_PIXELS:
        raise ValueError(
            f"the picture has {height * width / 1e6:.0f} million pixels, more than "
            f"{MOST_PIXELS / 1e6:.0f}: reduce it first"
        )
    picture = Image.fromarray(read_image(path.parent, path.name))
    with Image.open(path, formats=FORMATS) as stored:
        picture.getexif()[_ORIENTATION] = stored.getexif().get(_ORIENTATION, 1)
    upright = ImageOps.exif_transpose(picture)
    size = (upright.height, upright.width)
    upright.thumbnail((LONGEST, LONGEST), Image.Resampling.LANCZOS)
    return np.array(upright), size


def masks_in_file(path: Path, stored: tuple[int, int], size: tuple[int, int]) -> list[np.ndarray]:
    """Return the masks in an uploaded image: each value above 0 is an object.

    Args:
        path: an image of one channel.
        stored: (height, width) that it must have: that of the uploaded picture.
        size: (height, width) of the result.

    Returns:
        bool [H, W] each, by ascending values.

    Raises:
        ValueError: it is no such image, is 0 everywhere, or has more than :data:`MOST_OBJECTS`
            values.
    """
    labels = read_labels(path.parent, path.name, stored)
    values = np.unique(labels[labels > 0])
    if not len(values):
        raise ValueError("the mask is 0 everywhere: give the object's pixels another value")
    if len(values) > MOST_OBJECTS:
        raise ValueError(
            f"the mask has {len(values)} different values, each of which would be an object: save "
            "it as PNG without smoothed edges, 0 and 255, or a value for each object"
        )
    reduced = Image.fromarray(labels).resize(size[::-1], Image.Resampling.NEAREST)
    found = np.asarray(reduced)
    return [found == value for value in values]


def points_of(drawn: object) -> np.ndarray:
    """Return the points of a line drawn in the browser, float64 [K, 2] of x, y in 0–1.

    Raises:
        ValueError: ``drawn`` is no list of pairs of numbers, or a very long one.
    """
    if not isinstance(drawn, list) or not 1 < len(drawn) <= _MOST_POINTS:
        raise ValueError("drag over the picture to mark an object")
    try:
        points = np.array(drawn, np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError("the line has points that are no pairs of numbers: draw again") from error
    if points.shape != (len(drawn), 2) or not np.isfinite(points).all():
        raise ValueError("the line has points that are no pairs of numbers: draw again")
    return points.clip(0, 1)


def within_outline(points: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return the mask inside a closed line, bool [H, W].

    Args:
        points: [K, 2] of x, y in 0–1.
        size: (height, width).
    """
    canvas = Image.new("1", size[::-1])
    corners = points * np.array(size[::-1])
    ImageDraw.Draw(canvas).polygon([tuple(each) for each in corners], fill=1, outline=1)
    return np.array(canvas)


def box_around(points: np.ndarray, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Return the box (x1, y1, x2, y2) in pixels around points [K, 2] in 0–1."""
    corners = np.concatenate([points.min(axis=0), points.max(axis=0)])
    return tuple(np.rint(corners * np.array([*size[::-1]] * 2)).astype(int).tolist())


def object_in_box(
    picture: np.ndarray, box: tuple[int, int, int, int], taken: np.ndarray | None = None
) -> np.ndarray:
    """Return the visible mask of the object in a box, bool [H, W], found by GrabCut.

    GrabCut (Rother et al., SIGGRAPH 2004) tells the colours within the box from those around it.

    Args:
        picture: uint8 [H, W, 3].
        box: (x1, y1, x2, y2) in pixels.
        taken: bool [H, W], pixels of other objects; they stay theirs.

    Raises:
        ValueError: the box is small, covers all of the picture, or has no object.
    """
    import cv2

    x1, y1, x2, y2 = box
    height, width = picture.shape[:2]
    if min(x2 - x1, y2 - y1) < _SMALLEST:
        raise ValueError("the box is too small: drag from one corner of the object to the other")
    across, down = int(_AROUND * (x2 - x1)) + 1, int(_AROUND * (y2 - y1)) + 1
    left, top = max(x1 - across, 0), max(y1 - down, 0)
    seen = (slice(top, min(y2 + down, height)), slice(left, min(x2 + across, width)))
    marks = np.full(picture.shape[:2], cv2.GC_BGD, np.uint8)
    marks[y1:y2, x1:x2] = cv2.GC_PR_FGD
    if taken is not None:
        marks[taken] = cv2.GC_BGD
    pixels, marks = picture[seen], marks[seen]
    extent = marks.shape
    scale = min(1.0, _GRABCUT_SIDE / max(extent))
    small = tuple(max(1, round(scale * side)) for side in extent[::-1])
    pixels = cv2.resize(pixels, small, interpolation=cv2.INTER_AREA)
    marks = cv2.resize(marks, small, interpolation=cv2.INTER_NEAREST)
    if not (marks == cv2.GC_BGD).any():
        raise ValueError("the box covers all of the picture: leave some of it around the object")
    if (marks == cv2.GC_PR_FGD).sum() < _SMALLEST:
        raise ValueError(
            "other objects cover the box: undo them, and mark what is in front before what is "
            "behind"
        )
    cv2.setRNGSeed(0)  # it starts from random clusters
    models = np.zeros((2, 1, 65))
    cv2.grabCut(pixels, marks, None, models[0], models[1], _ROUNDS, cv2.GC_INIT_WITH_MASK)
    share = ((marks == cv2.GC_FGD) | (marks == cv2.GC_PR_FGD)).astype(np.float32)
    found = np.zeros(picture.shape[:2], bool)
    found[seen] = cv2.resize(share, extent[::-1], interpolation=cv2.INTER_LINEAR) > 0.5
    return _large_parts(found & (True if taken is None else ~taken))


def joined(masks: Sequence[np.ndarray], new: np.ndarray) -> np.ndarray:
    """Return a new object's mask without the pixels of others.

    Raises:
        ValueError: less than a few pixels remain.
    """
    rest = new & ~np.any(masks, axis=0) if len(masks) else new
    if rest.sum() < _SMALLEST:
        raise ValueError(
            "nothing is left of this object, because others have its pixels or none was found: "
            "undo them, mark what is in front first, or draw the outline by hand"
        )
    return rest


def _large_parts(mask: np.ndarray) -> np.ndarray:
    from scipy import ndimage

    parts, count = ndimage.label(mask)
    if not count:
        raise ValueError("nothing was found in the box: draw the outline by hand")
    areas = np.bincount(parts.ravel())
    areas[0] = 0
    return (areas >= _PART * areas.sum())[parts] & mask
