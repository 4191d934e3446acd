"""Visibility levels: how many objects hide a part of an object.

Zhang et al., "Learning Semantics-aware Distance Map with Semantics Layering Network" (SLN), ACM MM
2019, section 3. No pixels are stored: levels are computed from the run lengths of an image when it
is needed. Maps that are computed from them are in
:mod:`amodal_pipeline.annotations.distance_maps`.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from amodal_pipeline.annotations import kernels, rle
from amodal_pipeline.annotations.level_kernels import draw_levels
from amodal_pipeline.annotations.tables import AmodalAnnotations, strings


@dataclass(frozen=True)
class VisibilityLevels:
    """Levels of the N objects of an image.

    Attributes:
        amodal: bool [N, H, W].
        level: uint8 [N, H, W]; 0 where an object is visible and where it is not, 255 means 255 or
            more.
        unresolved: bool [H, W]: the order of some hidden objects is not known here. Such objects
            do not count as in front of one another.
    """

    amodal: np.ndarray
    level: np.ndarray
    unresolved: np.ndarray

    @property
    def visible(self) -> np.ndarray:
        """Return the visible masks, bool [N, H, W]."""
        return self.amodal & (self.level == 0)

    @property
    def unresolved_pixels(self) -> int:
        return int(np.count_nonzero(self.unresolved))


def visibility_levels(
    amodal: rle.Masks, visible: rle.Masks, order: np.ndarray, size: tuple[int, int]
) -> VisibilityLevels:
    """Return the level of every pixel of every object.

    It is 0 where the object is visible. Elsewhere it counts the objects in front of it at this
    pixel: all that are visible there (one, if none is: something without a mask), and the hidden
    ones that the order puts before it, directly or by way of others hidden there.

    Only the order among the objects hidden at a pixel counts, so that a cycle, or a mutual pair
    (rider and horse), matters only where all of it is hidden. There a mutual pair is decided by
    the others' order if possible; what remains undecided is ``unresolved``.

    Args:
        amodal, visible: run lengths of N objects; of decoded masks, :func:`rle.encode` gives them.
        order: int64 [P, 2], positions (occluder, occludee).
        size: height and width of the image.

    Raises:
        ValueError: run lengths that are damaged or another canvas's, or unequally many; order that
            names a position which is not there.
    """
    amodal, visible = rle.unpack(amodal), rle.unpack(visible)
    n, (height, width) = len(amodal), size
    _check(amodal, visible, order, size)
    stated = np.zeros((n, n), bool)
    stated[order[:, 0], order[:, 1]] = True
    changes = []
    for is_visible, runs in enumerate((amodal, visible)):
        owner, start, stop = rle.intervals(runs)
        changes += [(pixel * n + owner) * 2 + is_visible for pixel in (start, stop)]
    levels = VisibilityLevels(
        amodal=np.zeros((n, height, width), bool),
        level=np.zeros((n, height, width), np.uint8),
        unresolved=np.zeros((height, width), bool),
    )
    draw_levels(
        np.sort(np.concatenate(changes)),
        stated & ~stated.T,
        *(levels.amodal, levels.level, levels.unresolved),
    )
    return levels


def levels_of_image(annotations: AmodalAnnotations, image_id: int) -> VisibilityLevels:
    """Return :func:`visibility_levels` of an image's objects, in the order of ``of_image``.

    Ignored objects hide others like any; order pairs that are inferred count like stated ones.

    Raises:
        KeyError: the image is unknown.
    """
    images = annotations.images
    row = np.flatnonzero(images["image_id"].to_numpy(dtype=np.int64) == image_id)
    if not len(row):
        raise KeyError(f"{annotations.metadata.dataset} has no image {image_id}")
    objects = annotations.of_image(image_id)
    size = images.iloc[row[0]]["height"], images.iloc[row[0]]["width"]
    return visibility_levels(
        *(strings(objects[name]) for name in ("amodal_rle", "visible_rle")),
        order_of_image(annotations, image_id),
        tuple(map(int, size)),
    )


def order_of_image(annotations: AmodalAnnotations, image_id: int) -> np.ndarray:
    """Return order pairs of one image as positions among its objects, int64 [P, 2]."""
    order = annotations.order
    pairs = order[order["image_id"].to_numpy(dtype=np.int64) == image_id]
    ids = pd.Index(annotations.of_image(image_id)["instance_id"].to_numpy(dtype=np.int64))
    ends = [ids.get_indexer(pairs[name]) for name in ("occluder_id", "occludee_id")]
    return np.stack(ends, axis=1).astype(np.int64)


def _check(amodal: rle.Runs, visible: rle.Runs, order: np.ndarray, size: tuple[int, int]) -> None:
    n = len(amodal)
    if len(visible) != n:
        raise ValueError(f"{n} amodal and {len(visible)} visible masks: give each object both")
    for name, runs in (("amodal", amodal), ("visible", visible)):
        codes, total = kernels.check(runs.lengths, runs.offsets, np.full(n, size[0] * size[1]))
        if codes.any():
            i = int(np.argmax(codes != 0))
            raise ValueError(
                f"the {name} mask of object {i} has {total[i]} pixels, or empty runs; the image is "
                f"{size[0]}x{size[1]}: give the size of the image that it was made for"
            )
    if len(order) and (order.min() < 0 or order.max() >= n):
        raise ValueError(
            f"order names objects {order.min()} to {order.max()}: give positions from 0 to {n - 1}"
        )
