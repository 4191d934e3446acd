"""Semantics-aware distance maps, and the order they imply.

Zhang et al., "Learning Semantics-aware Distance Map with Semantics Layering Network" (SLN), ACM MM
2019, sections 3 (eqs. 1 to 5) and 5.2. The prose lets values run from 0 upwards; eq. 1
gives them from minus infinity to 1, and eq. 1 is followed. Background is 0 and lies between hidden
(below 0) and visible parts, so that no level plane that sinks through a map finds the masks: they
come from eqs. 2 and 3.

Maps are arrays of NumPy or of PyTorch wherever only arithmetic is done.
"""

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from scipy import ndimage

CONFIDENCE = 0.5  # c of eq. 5; the paper gives none
TRUE_CONFIDENCE = np.float32(1 - 2**-10)  # below 1, and exact together with any level
_EIGHT_NEIGHBOURS = np.ones((3, 3))

Array = TypeVar("Array")  # a NumPy array or a tensor


def distance_map(confidence: Array, level: Array) -> Array:
    """Return M = C - L (eq. 1), of any shape.

    Args:
        confidence: C, within [0, 1). What may round to 1, as a sigmoid does, must be kept at
            TRUE_CONFIDENCE or below: at 1 it would be background, one level nearer.
        level: L, whole numbers from 0.
    """
    return confidence - level


def true_distance_maps(
    amodal: np.ndarray, level: np.ndarray, layers: int | None = None
) -> np.ndarray:
    """Return the maps of the ground truth, float32 [N, H, W]: 0 off an object.

    Args:
        amodal, level: bool and uint8 [N, H, W].
        layers: L; levels from L - 1 on become L - 1. By default levels are as they are.
    """
    if layers is not None:
        level = np.minimum(level, layers - 1)
    return distance_map(amodal * TRUE_CONFIDENCE, level)


def modal_heatmap(distance: Array) -> Array:
    """Return the confidence of the visible part (eq. 2), in [0, 1); ``distance`` of any shape."""
    return distance * ((distance >= 0) & (distance < 1))


def amodal_heatmap(distance: Array) -> Array:
    """Return the confidence of the whole object, the fractional part (eq. 3), in [0, 1)."""
    return distance - _floor(distance)


def visible_mask(distance: Array, confidence: float = CONFIDENCE) -> Array:
    """Return where the modal heatmap is above c; bool."""
    return modal_heatmap(distance) > confidence


def amodal_mask(distance: Array, confidence: float = CONFIDENCE) -> Array:
    """Return where the amodal heatmap is above c; bool."""
    return amodal_heatmap(distance) > confidence


def relative_map(a: Array, b: Array, confidence: float = CONFIDENCE) -> Array:
    """Return R_AB (eq. 4): above 0 where A is in front of B, below 0 where it is behind.

    Args:
        a, b: distance maps of one canvas or window.
        confidence: c of eq. 5, which says where both objects are.

    Returns:
        Whole numbers of the maps' type; 0 off the overlap, and where the order is open.
    """
    overlap = amodal_heatmap(a) * amodal_heatmap(b) > confidence**2
    return (_floor(a) - _floor(b)) * overlap


@dataclass(frozen=True)
class Regions:
    """Parts of an overlap with one order each.

    Attributes:
        label: int32 [H, W]; region k has the number k + 1, the rest 0.
        sign: int8 [K]; 1 where A is in front, -1 where B is.
        area: int64 [K] in pixels.
    """

    label: np.ndarray
    sign: np.ndarray
    area: np.ndarray


def regions(relative: np.ndarray) -> Regions:
    """Return the order of each region: connected parts of R of one sign.

    Pixels are connected that touch at a side or corner. Parts where R is 0 state no order.

    Args:
        relative: R of two objects, [H, W].
    """
    label, nearer = ndimage.label(relative > 0, _EIGHT_NEIGHBOURS)
    behind, farther = ndimage.label(relative < 0, _EIGHT_NEIGHBOURS)
    label = np.where(behind > 0, behind + nearer, label)
    return Regions(
        label=label,
        sign=np.repeat(np.array([1, -1], np.int8), [nearer, farther]),
        area=np.bincount(label.reshape(-1), minlength=nearer + farther + 1)[1:],
    )


def object_order(relative: np.ndarray) -> int:
    """Return the order of two objects as a whole: that of the largest region (section 5.2).

    Returns:
        1 where A is in front, -1 where B is, 0 where there is no region or two of the largest
        contradict one another.
    """
    nearer, farther = (relative > 0).any(), (relative < 0).any()
    if not (nearer and farther):
        return int(nearer) - int(farther)
    found = regions(relative)
    largest = [found.area[found.sign == sign].max() for sign in (1, -1)]
    return int(np.sign(largest[0] - largest[1]))


def depth_order(
    distance: np.ndarray, boxes: np.ndarray, pairs: np.ndarray, confidence: float = CONFIDENCE
) -> np.ndarray:
    """Return :func:`object_order` of pairs of objects of one image.

    Args:
        distance: maps of N objects, [N, H, W].
        boxes: float [N, 4] of (x, y, width, height) in pixels; beyond its box an object is not
            looked at, so that a pair costs what its boxes share. NaN is no box.
        pairs: int64 [P, 2], positions of A and B.

    Returns:
        int8 [P].
    """
    size = np.array(distance.shape[:0:-1])  # width, height
    boxes = np.nan_to_num(boxes)
    low = np.clip(np.floor(boxes[:, :2]), 0, size).astype(np.int64)
    high = np.clip(np.ceil(boxes[:, :2] + boxes[:, 2:]), 0, size).astype(np.int64)
    found = np.zeros(len(pairs), np.int8)
    for p, (a, b) in enumerate(pairs):
        left, top = np.maximum(low[a], low[b])
        right, bottom = np.minimum(high[a], high[b])
        if left < right and top < bottom:
            window = slice(top, bottom), slice(left, right)
            found[p] = object_order(
                relative_map(distance[a][window], distance[b][window], confidence)
            )
    return found


def _floor(values: Array) -> Array:
    return np.floor(values) if isinstance(values, np.ndarray) else values.floor()
