"""Run-length encoded masks, a whole column at a time.

A column is a sequence of COCO *compressed counts* strings: the runs of a mask read column by column
(top to bottom, then left to right), the first run being background. A mask's canvas ``(height,
width)`` is not part of the string; the tables keep it with the image. pycocotools does the set
operations; packing and unpacking the strings is vectorised here, because a data set has hundreds
of thousands of them and pycocotools checks nothing it is given.
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from pycocotools import mask as coco_mask

Sizes = np.ndarray | tuple[int, int]  # [N, 2] of (height, width), or one size for all

_BATCH = 16_384  # masks unpacked at once where only a number per mask is wanted
_MAX_GROUPS = 7  # five bits a character: enough for runs of any canvas pycocotools can hold


def unpack(counts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Run lengths of all masks, end to end.

    Args:
        counts: N compressed strings.

    Returns:
        ``runs`` int64 [R] and ``offsets`` int64 [N + 1]; mask i has
        ``runs[offsets[i]:offsets[i + 1]]``.

    Raises:
        ValueError: a string holds characters that are not run lengths, or ends within one;
            ``error.rows`` lists the positions of all such masks.
    """
    runs, offsets, damaged = _unpack(counts)
    if damaged.any():
        error = ValueError(f"damaged run-length strings at rows {np.flatnonzero(damaged)[:5]}")
        error.rows = np.flatnonzero(damaged)
        raise error
    return runs, offsets


def _unpack(counts: Sequence[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    # Beyond ASCII every byte is above the characters in use: marked as damaged below.
    encoded = [c.encode("utf-8", "surrogatepass") for c in counts]
    lengths = np.array([len(e) for e in encoded], dtype=np.int64)
    ends = np.cumsum(lengths)
    chars = np.frombuffer(b"".join(encoded), dtype=np.uint8).astype(np.int64) - 48
    owner = np.repeat(np.arange(len(encoded)), lengths)
    damaged = lengths == 0
    damaged[owner[(chars < 0) | (chars > 63)]] = True
    if len(chars) == 0:
        return np.zeros(0, np.int64), np.zeros(len(encoded) + 1, np.int64), damaged

    more = (chars & 0x20) != 0
    cut = ends[lengths > 0] - 1  # last character of each string: must end a run
    damaged[owner[cut[more[cut]]]] = True
    more[cut] = False
    last = np.flatnonzero(~more)
    first = np.concatenate([[0], last[:-1] + 1])
    groups = last - first + 1
    token_owner = owner[last]
    damaged[token_owner[groups > _MAX_GROUPS]] = True

    place = np.minimum(np.arange(len(chars)) - np.repeat(first, groups), _MAX_GROUPS)
    values = np.add.reduceat((chars & 0x1F) << (5 * place), first)
    negative = (chars[last] & 0x10) != 0
    values[negative] -= np.int64(1) << (5 * np.minimum(groups[negative], _MAX_GROUPS))

    # From its fourth run on, a string stores the difference to the run two places before.
    token_counts = np.bincount(token_owner, minlength=len(encoded))
    offsets = np.concatenate([[0], np.cumsum(token_counts)])
    position = np.arange(len(values)) - offsets[token_owner]
    runs = np.empty_like(values)
    for parity in (0, 1):
        # Runs 1, 3, 5, … chain from run 1; runs 2, 4, 6, … from run 2; run 0 stands alone.
        chain = (position % 2 == parity) & (position > 0)
        total = np.cumsum(values[chain])
        start = position[chain] == (1 if parity else 2)
        before = np.where(start, total - values[chain], 0)
        group = np.cumsum(start) - 1
        runs[chain] = total - (before[start][group] if start.any() else 0)
    runs[position == 0] = values[position == 0]
    return runs, offsets, damaged


def pack(runs: np.ndarray, offsets: np.ndarray) -> list[str]:
    """Compressed strings of N masks from their run lengths; the inverse of :func:`unpack`."""
    runs = np.asarray(runs, dtype=np.int64)
    offsets = np.asarray(offsets, dtype=np.int64)
    position = np.arange(len(runs)) - np.repeat(offsets[:-1], np.diff(offsets))
    values = runs.copy()
    chained = np.flatnonzero(position > 2)
    values[chained] -= runs[chained - 2]

    bounds = np.int64(16) << (5 * np.arange(_MAX_GROUPS))
    groups = 1 + np.searchsorted(bounds, np.where(values < 0, -values - 1, values), side="right")
    ends = np.cumsum(groups)
    place = np.arange(ends[-1] if len(ends) else 0) - np.repeat(ends - groups, groups)
    chars = (np.repeat(values, groups) >> (5 * place)) & 0x1F
    chars += np.where(place < np.repeat(groups, groups) - 1, 0x20, 0)
    text = (chars + 48).astype(np.uint8).tobytes().decode("ascii")
    cuts = np.concatenate([[0], ends])[offsets]
    return [text[a:b] for a, b in pairwise(cuts)]


def intervals(counts: Sequence[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Foreground of all masks as intervals of pixels, numbered column by column.

    Returns:
        ``owner`` (the mask, ascending), ``start`` and ``stop`` (exclusive), each int64 [R].
    """
    runs, offsets = unpack(counts)
    owner = np.repeat(np.arange(len(counts)), np.diff(offsets))
    total = np.concatenate([[0], np.cumsum(runs)])
    stop = total[1:] - total[offsets[owner]]
    position = np.arange(len(runs)) - offsets[owner]
    kept = (position % 2 == 1) & (runs > 0)
    return owner[kept], (stop - runs)[kept], stop[kept]


def from_intervals(
    owner: np.ndarray, start: np.ndarray, stop: np.ndarray, sizes: Sizes, n: int
) -> list[str]:
    """Compressed strings of ``n`` masks; the inverse of :func:`intervals`.

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


def problems(counts: Sequence[str], sizes: Sizes) -> np.ndarray:
    """What is wrong with each mask: an object array [N] of None or a reason.

    Checks that each string can be read, has no negative run, and fills its canvas exactly.
    pycocotools reads outside its memory when given a string that does not.
    """
    sizes = _sizes(sizes, len(counts))
    found = np.full(len(counts), None, dtype=object)
    for start in range(0, len(counts), _BATCH):
        batch = slice(start, start + _BATCH)
        found[batch] = _problems(counts[batch], sizes[batch])
    return found


def _problems(counts: Sequence[str], sizes: np.ndarray) -> np.ndarray:
    runs, offsets, damaged = _unpack(counts)
    found = np.full(len(counts), None, dtype=object)
    owner = np.repeat(np.arange(len(counts)), np.diff(offsets))
    total = np.bincount(owner, weights=np.clip(runs, -(2**40), 2**40), minlength=len(counts))
    pixels = sizes[:, 0] * sizes[:, 1]
    for i in np.flatnonzero(total != pixels):
        found[i] = (
            f"run lengths cover {int(total[i])} pixels, the image "
            f"{sizes[i, 0]}x{sizes[i, 1]} has {pixels[i]}"
        )
    found[np.unique(owner[runs < 0])] = "a run length is negative"
    found[damaged] = "the run-length string is damaged"
    return found


def encode(masks: np.ndarray) -> list[str]:
    """Compressed strings of masks [N, H, W] (any non-zero value is foreground)."""
    if len(masks) == 0:
        return []
    stack = np.asfortranarray(np.moveaxis(np.asarray(masks) != 0, 0, -1).astype(np.uint8))
    return [r["counts"].decode("ascii") for r in coco_mask.encode(stack)]


def decode(counts: Sequence[str], size: tuple[int, int]) -> np.ndarray:
    """Masks uint8 [N, H, W] of 0 and 1 from strings that share one canvas ``size`` (H, W)."""
    if len(counts) == 0:
        return np.zeros((0, *size), np.uint8)
    return np.moveaxis(coco_mask.decode(as_coco(counts, size)), -1, 0)


def as_coco(counts: Sequence[str], sizes: Sizes) -> list[dict]:
    """The dictionaries pycocotools works on."""
    return [
        {"size": [int(h), int(w)], "counts": c.encode("ascii")}
        for c, (h, w) in zip(counts, _sizes(sizes, len(counts)), strict=True)
    ]


def area(counts: Sequence[str]) -> np.ndarray:
    """Foreground pixels of each mask, int64 [N]."""
    areas = np.zeros(len(counts), np.int64)
    for start in range(0, len(counts), _BATCH):
        batch = slice(start, start + _BATCH)
        runs, offsets = unpack(counts[batch])
        position = np.arange(len(runs)) - np.repeat(offsets[:-1], np.diff(offsets))
        total = np.concatenate([[0], np.cumsum(np.where(position % 2 == 1, runs, 0))])
        areas[batch] = total[offsets[1:]] - total[offsets[:-1]]
    return areas


def box(counts: Sequence[str], sizes: Sizes) -> np.ndarray:
    """Tight boxes (x, y, width, height) in pixels, float32 [N, 4]; an empty mask has NaN."""
    if len(counts) == 0:
        return np.zeros((0, 4), np.float32)
    boxes = coco_mask.toBbox(as_coco(counts, sizes)).astype(np.float32)
    boxes[boxes[:, 2] * boxes[:, 3] == 0] = np.nan
    return boxes


def intersection(a: Sequence[str], b: Sequence[str], sizes: Sizes) -> list[str]:
    """a ∩ b, row by row."""
    return _merge(a, b, sizes, intersect=True)


def union(a: Sequence[str], b: Sequence[str], sizes: Sizes) -> list[str]:
    """a ∪ b, row by row."""
    return _merge(a, b, sizes, intersect=False)


def difference(a: Sequence[str], b: Sequence[str], sizes: Sizes) -> list[str]:
    """a without b, row by row."""
    return _merge(a, complement(b), sizes, intersect=True)


def complement(counts: Sequence[str]) -> list[str]:
    """Background and foreground swapped: a leading run of nothing is added, or taken away."""
    runs, offsets = unpack(counts)
    if len(counts) == 0:
        return []
    first = runs[offsets[:-1]]
    kept = np.ones(len(runs), dtype=bool)
    drop = (first == 0) & (np.diff(offsets) > 1)
    kept[offsets[:-1][drop]] = False
    owner = np.repeat(np.arange(len(counts)), np.diff(offsets))[kept]
    runs = runs[kept]
    starts = np.searchsorted(owner, np.arange(len(counts)))
    added = np.insert(runs, starts[~drop], 0)
    sizes = np.bincount(owner, minlength=len(counts)) + ~drop
    return pack(added, np.concatenate([[0], np.cumsum(sizes)]))


def iou(a: Sequence[str], b: Sequence[str], size: tuple[int, int]) -> np.ndarray:
    """Intersection over union of every a with every b on one canvas, float64 [len(a), len(b)]."""
    if len(a) == 0 or len(b) == 0:
        return np.zeros((len(a), len(b)))
    return coco_mask.iou(as_coco(a, size), as_coco(b, size), np.zeros(len(b), np.uint8))


def pair_iou(a: Sequence[str], b: Sequence[str], sizes: Sizes) -> np.ndarray:
    """Intersection over union row by row, float64 [N]; two empty masks have 0."""
    shared = area(intersection(a, b, sizes))
    joined = area(a) + area(b) - shared
    return shared / np.maximum(joined, 1)


def _merge(a: Sequence[str], b: Sequence[str], sizes: Sizes, intersect: bool) -> list[str]:
    return [
        coco_mask.merge([x, y], intersect=intersect)["counts"].decode("ascii")
        for x, y in zip(as_coco(a, sizes), as_coco(b, sizes), strict=True)
    ]


def _sizes(sizes: Sizes, n: int) -> np.ndarray:
    return np.broadcast_to(np.asarray(sizes, dtype=np.int64).reshape(-1, 2), (n, 2))
