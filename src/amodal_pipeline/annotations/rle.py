"""Run-length encoded masks, a whole column at a time.

A column is a sequence of COCO *compressed counts* strings: the runs of a mask read column by column
(top to bottom, then left to right), the first run being background. A mask's canvas ``(height,
width)`` is not part of the string; the tables keep it with the image. The loops are those of
:mod:`amodal_pipeline.annotations.kernels`: a data set has hundreds of thousands of masks, and
pycocotools checks nothing it is given.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pycocotools import mask as coco_mask

from amodal_pipeline.annotations import kernels

Sizes = np.ndarray | tuple[int, int]  # [N, 2] of (height, width), or one size for all

_BATCH = 16_384  # masks of _USUAL runs unpacked at once: memory does not grow with a column
_USUAL = 256
_INTERSECTION = np.array([False, False, False, True])
_UNION = np.array([False, True, True, True])
_DIFFERENCE = np.array([False, False, True, False])


@dataclass(frozen=True)
class Runs:
    """Run lengths of N masks, end to end: mask i has ``lengths[offsets[i]:offsets[i + 1]]``.

    ``lengths`` int64 [R], ``offsets`` int64 [N + 1]. Functions that look at masks take it in place
    of the strings, so that several of them unpack a column once.
    """

    lengths: np.ndarray
    offsets: np.ndarray

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, rows: slice) -> "Runs":
        start, stop, _ = rows.indices(len(self))
        return Runs(self.lengths, self.offsets[start : max(start, stop) + 1])


Masks = Sequence[str] | pa.Array | Runs


def unpack(counts: Masks) -> Runs:
    """Run lengths of compressed strings.

    Raises:
        ValueError: a string holds characters that are not run lengths, or ends within one;
            ``error.rows`` lists the positions of all such masks.
    """
    if isinstance(counts, Runs):
        return counts
    runs, damaged = _unpack(counts)
    if damaged.any():
        error = ValueError(f"damaged run-length strings at rows {np.flatnonzero(damaged)[:5]}")
        error.rows = np.flatnonzero(damaged)
        raise error
    return runs


def _unpack(counts: Sequence[str] | pa.Array) -> tuple[Runs, np.ndarray]:
    array = counts if isinstance(counts, pa.Array) else pa.array(counts, pa.large_string())
    array = array.cast(pa.large_string())
    _, places, chars = array.buffers()
    places = np.frombuffer(places, np.int64)[array.offset :][: len(array) + 1]
    chars = np.frombuffer(chars or b"", np.uint8)
    offsets = _ends(kernels.run_counts(chars, places))
    lengths, damaged = kernels.unpack(chars, places, offsets)
    return Runs(lengths, offsets), damaged


def pack(runs: np.ndarray, offsets: np.ndarray) -> list[str]:
    """Return compressed strings of N masks from their run lengths; inverse of :func:`unpack`."""
    runs = np.ascontiguousarray(runs, dtype=np.int64)
    offsets = np.ascontiguousarray(offsets, dtype=np.int64)
    chars, places = kernels.pack(runs, offsets)
    buffers = [None, pa.py_buffer(places), pa.py_buffer(chars)]
    return pa.Array.from_buffers(pa.large_string(), len(offsets) - 1, buffers).to_pylist()


def draw(polygons: np.ndarray, offsets: np.ndarray, sizes: Sizes) -> list[str]:
    """Return compressed strings of polygons, pixel for pixel as pycocotools draws them.

    Args:
        polygons: float64 [P, 2], corners (x, y) of all polygons in pixels, finite.
        offsets: int64 [N + 1]; polygon i has ``polygons[offsets[i]:offsets[i + 1]]``.
        sizes: canvas of each.
    """
    polygons = np.ascontiguousarray(polygons, np.float64)
    offsets = np.asarray(offsets, np.int64)
    # Copies: loops are compiled anew for arrays that cannot be written, as broadcast ones.
    height, width = np.array(_sizes(sizes, len(offsets) - 1).T, order="C")
    texts = []
    for batch in batches(kernels.crossings(polygons, offsets, width)):
        corners = offsets[batch.start : batch.stop + 1]
        points = polygons[corners[0] : corners[-1]]
        texts += pack(*kernels.draw(points, corners - corners[0], height[batch], width[batch]))
    return texts


def intervals(counts: Sequence[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the foreground of all masks as intervals of pixels, numbered column by column.

    Returns:
        ``owner`` (the mask, ascending), ``start`` and ``stop`` (exclusive), each int64 [R].
    """
    runs = unpack(counts)
    owner = np.repeat(np.arange(len(counts)), np.diff(runs.offsets))
    total = np.concatenate([[0], np.cumsum(runs.lengths)])
    stop = total[1:] - total[runs.offsets[owner]]
    position = np.arange(len(runs.lengths)) - runs.offsets[owner]
    kept = (position % 2 == 1) & (runs.lengths > 0)
    return owner[kept], (stop - runs.lengths)[kept], stop[kept]


def from_intervals(
    owner: np.ndarray, start: np.ndarray, stop: np.ndarray, sizes: Sizes, n: int
) -> list[str]:
    """Return compressed strings of ``n`` masks; inverse of :func:`intervals`.

    Intervals must be sorted by mask and start, not be empty and not overlap; those that touch
    become one run. ``sizes`` are the canvases of the n masks.
    """
    owner, start, stop = (np.asarray(a, np.int64) for a in (owner, start, stop))
    touching = (owner[1:] == owner[:-1]) & (start[1:] == stop[:-1])
    first = np.concatenate([[True], ~touching])[: len(owner)]
    last = np.concatenate([~touching, [True]])[: len(owner)]
    owner, start, stop = owner[first], start[first], stop[last]

    # A mask changes at each start and stop; its last run ends with the canvas.
    pixels = _sizes(sizes, n).prod(axis=1)
    changes = np.concatenate([np.stack([start, stop], axis=1).reshape(-1), pixels])
    of = np.concatenate([np.repeat(owner, 2), np.arange(n)])
    order = np.argsort(of, kind="stable")
    changes, of = changes[order], of[order]
    is_first = np.diff(of, prepend=-1) > 0
    runs = np.where(is_first, changes, np.diff(changes, prepend=0))
    # Background of no length at the end of the canvas is left out, as COCO's writers do.
    kept = (runs > 0) | is_first
    return pack(runs[kept], np.searchsorted(of[kept], np.arange(n + 1)))


def characters(counts: Masks) -> np.ndarray:
    """Count the characters of each mask (the runs of :class:`Runs`), int64 [N]; 0 for null."""
    if isinstance(counts, Runs):
        return np.diff(counts.offsets)
    if isinstance(counts, pa.Array):
        return pc.fill_null(pc.binary_length(counts), 0).to_numpy().astype(np.int64)
    return np.fromiter(map(len, counts), np.int64, len(counts))


def batches(characters: np.ndarray, masks: np.ndarray | int = 1) -> Iterator[slice]:
    """Split rows into batches to work on at once: fewer rows where masks are long.

    Args:
        characters: of all masks of a row, or what else makes it long, [N].
        masks: of a row.
    """
    batch = np.cumsum(masks + characters / _USUAL) // _BATCH
    cuts = np.flatnonzero(np.diff(batch)) + 1
    return (slice(a, b) for a, b in pairwise([0, *cuts.tolist(), len(characters)]) if a < b)


def problems(counts: Sequence[str], sizes: Sizes) -> np.ndarray:
    """Return the reason why each mask is unusable, else None: an object array [N].

    Checks that each string can be read, has no negative run, no empty one but the first, and
    fills its canvas exactly. pycocotools reads and writes outside its memory when given a string
    that does not.
    """
    sizes = _sizes(sizes, len(counts))
    found = np.full(len(counts), None, dtype=object)
    for batch in batches(characters(counts)):
        found[batch] = inspect(counts[batch], sizes[batch])[1]
    return found


def inspect(counts: Sequence[str] | pa.Array, sizes: Sizes) -> tuple[Runs, np.ndarray]:
    """Return the run lengths of all masks, and their :func:`problems`; unpacked at once."""
    sizes = _sizes(sizes, len(counts))
    runs, damaged = _unpack(counts)
    pixels = sizes[:, 0] * sizes[:, 1]
    codes, total = kernels.check(runs.lengths, runs.offsets, pixels)
    found = np.full(len(counts), None, dtype=object)
    found[codes == 1] = "a run length is negative"
    found[codes == 2] = "a run length within the mask is zero"
    for i in np.flatnonzero(codes == 3):
        found[i] = (
            f"run lengths cover {total[i]} pixels, the image {sizes[i, 0]}x{sizes[i, 1]} has "
            f"{pixels[i]}"
        )
    found[damaged] = "the run-length string is damaged"
    return runs, found


def encode(masks: np.ndarray) -> list[str]:
    """Return compressed strings of masks [N, H, W] (any non-zero value is foreground)."""
    if len(masks) == 0:
        return []
    stack = np.asfortranarray(np.moveaxis(np.asarray(masks) != 0, 0, -1).astype(np.uint8))
    return [r["counts"].decode("ascii") for r in coco_mask.encode(stack)]


def decode(counts: Sequence[str], size: tuple[int, int]) -> np.ndarray:
    """Return masks uint8 [N, H, W] of 0 and 1 from strings on one canvas ``size`` (H, W)."""
    if len(counts) == 0:
        return np.zeros((0, *size), np.uint8)
    return np.moveaxis(coco_mask.decode(as_coco(counts, size)), -1, 0)


def as_coco(counts: Sequence[str], sizes: Sizes) -> list[dict]:
    """Return the dictionaries that pycocotools works on."""
    return [
        {"size": [int(h), int(w)], "counts": c.encode("ascii")}
        for c, (h, w) in zip(counts, _sizes(sizes, len(counts)), strict=True)
    ]


def area(counts: Masks) -> np.ndarray:
    """Return the foreground pixels of each mask, int64 [N]."""
    areas = np.zeros(len(counts), np.int64)
    for batch in batches(characters(counts)):
        runs = unpack(counts[batch])
        areas[batch] = kernels.area(runs.lengths, runs.offsets)
    return areas


def box(counts: Masks, sizes: Sizes) -> np.ndarray:
    """Return tight boxes (x, y, width, height) in pixels, float32 [N, 4]; NaN for an empty mask."""
    sizes = _sizes(sizes, len(counts))
    boxes = np.zeros((len(counts), 4), np.float32)
    for batch in batches(characters(counts)):
        height, runs = sizes[batch, 0].copy(), unpack(counts[batch])
        boxes[batch] = kernels.box(runs.lengths, runs.offsets, height)
    return boxes


def crop(counts: Masks, boxes: np.ndarray, sizes: Sizes, side: int) -> np.ndarray:
    """Return masks as a RoI of their box samples them, bool [N, side, side].

    The same sampling as that of mask targets (RoIAlign at the image's own resolution, at least one
    half), so that a shape looks the same wherever it comes from; areas alone would leave the
    steps of pixels in objects smaller than ``side``. No mask is drawn on its canvas.

    Args:
        boxes: float [N, 4] of (x, y, width, height) in pixels.
        sizes: canvas of each.
    """
    sizes = _sizes(sizes, len(counts))
    boxes = np.ascontiguousarray(boxes, np.float64).reshape(-1, 4)
    cropped = np.zeros((len(counts), side, side), bool)
    for batch in batches(characters(counts)):
        height, width = np.ascontiguousarray(sizes[batch].T)
        runs = unpack(counts[batch])
        shares = kernels.crops(runs.lengths, runs.offsets, boxes[batch], height, width, side)
        cropped[batch] = shares >= 0.5
    return cropped


def intersection(a: Masks, b: Masks) -> list[str]:
    """Return a ∩ b, row by row."""
    return _merge(a, b, _INTERSECTION)


def union(a: Masks, b: Masks) -> list[str]:
    """Return a ∪ b, row by row."""
    return _merge(a, b, _UNION)


def difference(a: Masks, b: Masks) -> list[str]:
    """Return a without b, row by row."""
    return _merge(a, b, _DIFFERENCE)


def united(owner: np.ndarray, counts: Sequence[str]) -> tuple[list[int], list[str]]:
    """Return each owner of some masks once, and the union of its masks.

    Args:
        owner: of each mask, ascending, int64 [N].
        counts: the masks; those of one owner have one canvas.
    """
    counts = list(counts)
    while True:  # pairwise, as one owner may have many
        place = np.arange(len(owner)) - np.searchsorted(owner, owner)
        second = np.flatnonzero(place % 2 == 1)
        if not len(second):
            return owner.tolist(), counts
        both = union([counts[i - 1] for i in second], [counts[i] for i in second])
        for i, text in zip(second - 1, both, strict=True):
            counts[i] = text
        first = np.flatnonzero(place % 2 == 0)
        owner, counts = owner[first], [counts[i] for i in first]


def dilate(counts: Masks, sizes: Sizes) -> list[str]:
    """Add to each mask the pixels above, below, left and right of its own, within its canvas."""
    n = len(counts)
    owner, start, stop = intervals(counts)
    height, width = _sizes(sizes, n)[owner].T
    # Up and down within a column: not from its first pixel, nor past its last one.
    starts = (start - (start % height > 0), np.maximum(start - height, 0), start + height)
    stops = (stop + (stop % height > 0), stop - height, np.minimum(stop + height, height * width))
    start, stop, owner = np.concatenate(starts), np.concatenate(stops), np.tile(owner, 3)
    # On one axis for all masks, so that one running maximum joins what overlaps.
    base = owner * (1 + stop.max(initial=0))
    order = np.argsort(base + start, kind="stable")
    order = order[stop[order] > start[order]]
    start, stop, owner, base = start[order], stop[order], owner[order], base[order]
    reach = np.maximum.accumulate(base + stop)
    apart = (base + start)[1:] > reach[:-1]
    first, last = np.append(True, apart)[: len(start)], np.append(apart, True)[: len(start)]
    return from_intervals(owner[first], start[first], reach[last] - base[last], sizes, n)


def moved(counts: Masks, source: np.ndarray, target: np.ndarray, sizes: Sizes) -> list[str]:
    """Return masks shifted and scaled as their boxes are, cut off at the canvas.

    A pixel is foreground if its centre comes from a foreground pixel. Exact: all in integers.

    Args:
        source, target: boxes (x, y, width, height) of whole pixels, not empty, integers [N, 4].
        sizes: canvas of each.
    """
    sizes = _sizes(sizes, len(counts))
    source, target = (np.ascontiguousarray(boxes, np.int64) for boxes in (source, target))
    texts = []
    for batch in batches(characters(counts)):
        runs, size = unpack(counts[batch]), sizes[batch].copy()
        texts += pack(*kernels.move(runs.lengths, runs.offsets, source[batch], target[batch], size))
    return texts


def shared_area(a: Masks, b: Masks) -> np.ndarray:
    """Return the pixels of a ∩ b, row by row, int64 [N]."""
    areas = np.zeros(len(a), np.int64)
    for batch in batches(characters(a) + characters(b)):
        x, y = unpack(a[batch]), unpack(b[batch])
        areas[batch] = kernels.shared_areas(x.lengths, x.offsets, y.lengths, y.offsets)
    return areas


def shared_area_of_pairs(a: Masks, i: np.ndarray, b: Masks, j: np.ndarray) -> np.ndarray:
    """Return the pixels of a[i] ∩ b[j] for each pair of positions, int64 [P].

    Where a mask is in many pairs this spares a copy of it for each.
    """
    x, y = unpack(a), unpack(b)
    i, j = (np.ascontiguousarray(rows, np.int64) for rows in (i, j))
    return kernels.shared_areas_of_pairs(x.lengths, x.offsets, i, y.lengths, y.offsets, j)


def overlaps(
    counts: Masks, boxes: np.ndarray, groups: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return pairs of masks within a group that share pixels.

    Args:
        counts: N strings; those of one group have one canvas and stand together.
        boxes: float32 [N, 4], their tight boxes (x, y, width, height).
        groups: int64 [G + 1]; rows ``groups[g]:groups[g + 1]`` are a group.

    Returns:
        rows ``i`` and ``j`` with i < j, and the shared pixels of each pair, int64 [P] each.
    """
    boxes, found = np.nan_to_num(np.asarray(boxes, np.float32)), []
    groups = np.asarray(groups, np.int64)
    # Whole groups, of about a batch of masks together.
    total = np.cumsum(np.append(0, characters(counts)))
    for batch in batches(np.diff(total[groups]), np.diff(groups)):
        first, last = batch.start, batch.stop
        low, high = groups[first], groups[last]
        runs, local = unpack(counts[low:high]), groups[first : last + 1] - low
        pairs = kernels.overlaps(runs.lengths, runs.offsets, boxes[low:high], local)
        found.append(pairs + np.array([low, low, 0]))
    i, j, shared = np.concatenate([np.zeros((0, 3), np.int64), *found]).T
    return i, j, shared


def close_pairs(
    a: Masks,
    a_groups: np.ndarray,
    b: Masks,
    b_groups: np.ndarray,
    heights: np.ndarray,
    minimum: float,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return pairs of a mask of ``a`` and one of ``b`` of the same group that overlap enough.

    Args:
        a, b: strings; those of one group have one canvas and stand together.
        a_groups, b_groups: int64 [G + 1]; rows ``groups[g]:groups[g + 1]`` are group g.
        heights: of the canvas of each group, int64 [G].
        minimum: intersection over union, above 0.

    Returns:
        rows ``i`` of a and ``j`` of b, int64 [P], and their intersection over union, float64 [P];
        sorted by i, then j.
    """
    found, ious = [np.zeros((0, 2), np.int64)], [np.zeros(0)]
    lengths = [_ends(characters(masks))[groups] for masks, groups in ((a, a_groups), (b, b_groups))]
    for batch in batches(
        np.diff(lengths[0]) + np.diff(lengths[1]), np.diff(a_groups) + np.diff(b_groups)
    ):
        arguments, low = [], []
        for masks, groups in ((a, a_groups), (b, b_groups)):
            groups = groups[batch.start : batch.stop + 1]
            runs = unpack(masks[groups[0] : groups[-1]])
            height = np.repeat(heights[batch], np.diff(groups))
            boxes = kernels.box(runs.lengths, runs.offsets, height)
            arguments += [runs.lengths, runs.offsets, boxes, groups - groups[0]]
            low.append(groups[0])
        pairs, iou = kernels.close_pairs(*arguments, minimum)
        found.append(pairs + np.array(low))
        ious.append(iou)
    i, j = np.concatenate(found).T
    return i, j, np.concatenate(ious)


def iou(a: Sequence[str], b: Sequence[str], size: tuple[int, int]) -> np.ndarray:
    """Return the IoU of every a with every b on one canvas, float64 [len(a), len(b)]."""
    if len(a) == 0 or len(b) == 0:
        return np.zeros((len(a), len(b)))
    return coco_mask.iou(as_coco(a, size), as_coco(b, size), np.zeros(len(b), np.uint8))


def pair_iou(a: Sequence[str], b: Sequence[str]) -> np.ndarray:
    """Return the IoU row by row, float64 [N]; two empty masks have 0."""
    shared = shared_area(a, b)
    joined = area(a) + area(b) - shared
    return shared / np.maximum(joined, 1)


def _merge(a: Masks, b: Masks, keep: np.ndarray) -> list[str]:
    texts = []
    for batch in batches(characters(a) + characters(b)):
        x, y = unpack(a[batch]), unpack(b[batch])
        texts += pack(*kernels.merge(x.lengths, x.offsets, y.lengths, y.offsets, keep))
    return texts


def _ends(lengths: np.ndarray) -> np.ndarray:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])


def _sizes(sizes: Sizes, n: int) -> np.ndarray:
    return np.broadcast_to(np.asarray(sizes, dtype=np.int64).reshape(-1, 2), (n, 2))
