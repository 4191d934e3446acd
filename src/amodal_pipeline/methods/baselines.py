"""Baselines without parameters, with which completers are compared.

They complete the objects of other predictions, or true objects, from the visible mask alone.
"""

import dataclasses
from collections.abc import Callable

import numpy as np

from amodal_pipeline.annotations import KnownObjects, Predictions, rle
from amodal_pipeline.annotations.order import all_in_front
from amodal_pipeline.annotations.tables import PREDICTION_ORDER, PREDICTIONS, frame
from amodal_pipeline.methods.dual_completion import stated
from amodal_pipeline.samples.objects import VisibleInFront

_BATCH = 4096  # masks processed at once, to limit memory


def visible_mask(objects: Predictions | KnownObjects) -> Predictions:
    """Return the objects with their visible mask as amodal mask: nothing is completed.

    Args:
        objects: known ones, or predictions with visible masks, as ``KnownObjects.of`` takes them.

    Returns:
        The same objects with the same ids and scores; the method is "visible_mask". For a
        detector's objects, ``inputs`` names the detector and ``source_id`` its detection. An empty
        visible mask gives an empty amodal mask without a box.

    Raises:
        ValueError: an object has no visible mask.
    """
    return _complete(objects, "visible_mask", lambda counts, sizes: counts)


def convex_hull(objects: Predictions | KnownObjects) -> Predictions:
    """Return the objects with the convex hull of their visible mask as amodal mask.

    The hull is that of the centres of the visible pixels. A pixel is foreground if its centre lies
    within the hull or on its border, so every visible pixel is. A single pixel, or a straight line
    of pixels, is its own hull.

    Arguments, result and errors are the same as for :func:`visible_mask`; the method is
    "convex_hull".
    """
    return _complete(objects, "convex_hull", _hulls)


def convex_hull_in_order(objects: Predictions) -> Predictions:
    """Return objects with the part of their convex hull that is visible, or behind others.

    Of the hull of the visible mask, pixels count within the visible mask itself and within the
    visible masks of the objects in front of it, and in front of these (ConvexR of Zhan et al.,
    CVPR 2020).

    Args:
        objects: with visible masks, and the order that a method predicts.

    Returns:
        As for :func:`visible_mask`; the method is "convex_hull_in_order".

    Raises:
        ValueError: an object has no visible mask, or no order is predicted.
    """
    hulls = _complete(objects, "convex_hull_in_order", _hulls)
    visible = hulls.predictions["visible_rle"].tolist()
    ahead = VisibleInFront(visible, *all_in_front(*stated(objects)))
    whole: list[str] = []
    for start in range(0, len(visible), _BATCH):
        rows = np.arange(start, min(start + _BATCH, len(visible)))
        own = [visible[row] for row in rows]
        full = hulls.predictions["amodal_rle"].iloc[rows].tolist()
        whole += rle.intersection(full, rle.union(own, ahead(rows)))
    return with_amodal(KnownObjects.of(hulls), whole, {})


def _complete(
    objects: Predictions | KnownObjects,
    method: str,
    completed: Callable[[list[str], np.ndarray], list[str]],
) -> Predictions:
    objects = KnownObjects.of(objects)
    visible, sizes = visible_masks(objects, method), objects.table.sizes
    amodal = [
        mask
        for start in range(0, len(visible), _BATCH)
        for mask in completed(visible[start : start + _BATCH], sizes[start : start + _BATCH])
    ]
    return with_amodal(objects, amodal, {"method": method, "variant": "full", "checkpoint": ""})


def visible_masks(objects: KnownObjects, method: str) -> list[str]:
    """Return the visible masks of objects as run lengths.

    Args:
        objects: the objects to complete.
        method: name of the method that needs the masks, for the error.

    Raises:
        ValueError: an object has no visible mask.
    """
    table = objects.table.predictions
    absent = int(table["visible_rle"].isna().sum())
    if absent:
        raise ValueError(
            f"{absent} of {len(table)} predictions of {objects.table.metadata.method!r} have no "
            f"visible mask, which {method} needs: use a method that predicts visible masks"
        )
    return table["visible_rle"].tolist()


def with_amodal(
    objects: KnownObjects, amodal: list[str], completed_by: dict[str, object]
) -> Predictions:
    """Return the same objects with other amodal masks and their tight boxes.

    Args:
        objects: with the visible masks that were completed.
        amodal: run lengths, in the order of the objects.
        completed_by: fields of the metadata: method, variant, checkpoint, …

    Returns:
        Objects with ids, scores, ``inputs`` and ``source_id`` as from :func:`visible_mask`.
    """
    table, sizes, made = objects.table.predictions, objects.table.sizes, objects.table.metadata
    visible = table["visible_rle"].tolist()
    kept = ("prediction_id", "image_id", "category_id", "score", "instance_id", "track_id")
    columns = {name: table[name] for name in kept}
    return dataclasses.replace(
        objects.table,
        metadata=made.model_copy(update={"inputs": objects.inputs, **completed_by}),
        predictions=frame(
            PREDICTIONS,
            columns
            | {
                "source_id": objects.source_id,
                "visible_rle": visible,
                "visible_box": rle.box(visible, sizes),
                "amodal_rle": amodal,
                "amodal_box": rle.box(amodal, sizes),
            },
        ),
        order=frame(PREDICTION_ORDER, {}),
    )


def _hulls(counts: list[str], sizes: np.ndarray) -> list[str]:
    """Return convex hulls of masks, from the highest and lowest pixel of each of their columns."""
    owner, column, top, bottom = _column_extremes(counts, sizes[:, 0])
    # A hull has every column from the first to the last, also between the parts of a mask.
    firsts = np.flatnonzero(np.diff(owner, prepend=-1))
    lasts = np.flatnonzero(np.diff(owner, append=len(counts)))
    owners = owner[firsts]
    widths = column[lasts] - column[firsts] + 1
    of = np.repeat(owners, widths)
    within = np.arange(len(of)) - np.repeat(np.cumsum(widths) - widths, widths)
    x = np.repeat(column[firsts], widths) + within
    low = _convex_minorant(owner, column, top, of, x)
    high = -_convex_minorant(owner, column, -bottom, of, x)
    # A hull thinner than a pixel can pass between the centres of a column.
    of, x, low, high = (a[low <= high] for a in (of, x, low, high))
    height = sizes[of, 0]
    return rle.from_intervals(of, x * height + low, x * height + high + 1, sizes, len(counts))


def _column_extremes(
    counts: list[str], heights: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return index of the mask, column, first and last row for each column with foreground."""
    owner, start, stop = rle.intervals(counts)
    height = heights[owner]
    first, last = start // height, (stop - 1) // height
    # A run that continues at the top of the next column is cut at the end of the column.
    pieces = last - first + 1
    of = np.repeat(np.arange(len(owner)), pieces)
    column = first[of] + np.arange(len(of)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    top = np.where(column == first[of], (start % height)[of], 0)
    bottom = np.where(column == last[of], ((stop - 1) % height)[of], height[of] - 1)
    owner = owner[of]
    new = (np.diff(owner, prepend=-1) != 0) | (np.diff(column, prepend=-1) != 0)
    end = np.concatenate([new[1:], [True]])[: len(new)]
    return owner[new], column[new], top[new], bottom[end]


def _convex_minorant(
    owner: np.ndarray, x: np.ndarray, y: np.ndarray, at_owner: np.ndarray, at_x: np.ndarray
) -> np.ndarray:
    """Return the greatest convex function below each mask's points (x, y), at ``at_x``, rounded up.

    Computed exactly, in integers. Points are sorted by ``owner`` (their mask) and x; every ``at_x``
    lies between the first and last x of its owner.
    """
    # A point on or above the chord of its neighbours is not a vertex, also if the neighbours are
    # removed in the same pass.
    while True:
        inner = (owner[2:] == owner[:-2]) if len(owner) > 2 else np.zeros(0, bool)
        chord_x, chord_y = x[2:] - x[:-2], y[2:] - y[:-2]
        above = chord_x * (y[1:-1] - y[:-2]) >= chord_y * (x[1:-1] - x[:-2])
        drop = np.flatnonzero(inner & above) + 1
        if len(drop) == 0:
            break
        owner, x, y = (np.delete(a, drop) for a in (owner, x, y))

    stride = max(x.max(initial=0), 0) + 1
    left = np.searchsorted(owner * stride + x, at_owner * stride + at_x, side="right") - 1
    right = np.minimum(left + 1, len(owner) - 1)
    right = np.where(owner[right] == at_owner, right, left)
    run = np.maximum(x[right] - x[left], 1)
    return y[left] - (y[left] - y[right]) * (at_x - x[left]) // run
