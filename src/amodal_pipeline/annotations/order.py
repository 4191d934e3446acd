"""Order pairs of data sets that state the order by ranks, or by a list and masks alone.

Also pairs of objects that touch, and what follows from pairs of neighbours.
"""

from collections.abc import Iterator

import numpy as np
import pandas as pd
import pyarrow as pa

from amodal_pipeline.annotations import rle
from amodal_pipeline.annotations.tables import INSTANCES, boxes, frame, strings
from amodal_pipeline.annotations.validation import Finding, finding

# Pairs grow with the square of an image's objects. They are compared only in images with at most
# MAX_OBJECTS objects and at most MAX_WORK objects times characters of all their masks.
MAX_OBJECTS = 500
MAX_WORK = 1 << 31
_CHUNK = 2048  # objects whose masks are compared at once
TOO_CROWDED = "too many objects, or too detailed ones, to look at all pairs: no order derived"


def too_crowded(instances: pd.DataFrame) -> np.ndarray:
    """Return ids of images with too many or too detailed objects to compare all pairs."""
    masks = strings(instances["amodal_rle"])
    image_id, row = np.unique(instances["image_id"].to_numpy(np.int64), return_inverse=True)
    objects = np.bincount(row, minlength=len(image_id))
    characters = np.bincount(row, rle.characters(masks), len(image_id))
    return image_id[(objects > MAX_OBJECTS) | (objects * characters > MAX_WORK)]


def overlapping_pairs(
    instances: pd.DataFrame, rows: np.ndarray | None = None
) -> Iterator[np.ndarray]:
    """Yield pairs of objects of one image whose amodal masks share a pixel, some at a time.

    Masks are read some at a time, and a crowded image is compared block by block: memory grows
    neither with the data set nor with the square of an image's objects.

    Args:
        instances: rows of INSTANCES in any order.
        rows: those to look at, ascending; all by default.

    Yields:
        Rows of ``instances``, int64 [P, 2]; the first of a pair is the smaller.
    """
    masks, tight = strings(instances["amodal_rle"]), boxes(instances["amodal_box"])
    image_id = instances["image_id"].to_numpy(dtype=np.int64)
    rows = np.arange(len(instances)) if rows is None else rows
    rows = rows[np.argsort(image_id[rows], kind="stable")]
    for piece, groups, cut in _pieces(image_id[rows]):
        compared = rows[piece]
        i, j, _ = rle.overlaps(masks.take(compared), tight[compared], groups)
        across = (i < cut) & (j >= cut) if cut else slice(None)
        yield np.stack([compared[i[across]], compared[j[across]]], axis=1)


def overlapping(instances: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return all :func:`overlapping_pairs` of the images that are not :func:`too_crowded`.

    Returns:
        rows ``i`` and ``j`` of ``instances``, int64 [P] each, i < j; and the ids of the images
        passed over.
    """
    crowded = too_crowded(instances)
    rows = np.flatnonzero(~np.isin(instances["image_id"].to_numpy(dtype=np.int64), crowded))
    none = np.zeros((0, 2), np.int64)
    i, j = np.concatenate([none, *overlapping_pairs(instances, rows)]).T
    return i, j, crowded


def touching_pairs(
    image_ids: np.ndarray, visible: rle.Masks, sizes: rle.Sizes, most_shared: float = 1.0
) -> np.ndarray:
    """Return pairs of masks of one image that share a pixel, or have pixels beside each other.

    Beside a pixel are those above, below, left and right of it. Images that are
    :func:`too_crowded` give no pairs.

    Args:
        image_ids: the image of each mask, int64 [N].
        visible: N run lengths.
        sizes: canvas (height, width) of each, or one for all.
        most_shared: pairs that share a larger part of the smaller of the two masks are left out.

    Returns:
        Rows of the masks, int64 [P, 2], the smaller one first.
    """
    sizes = np.broadcast_to(np.asarray(sizes).reshape(-1, 2), (len(image_ids), 2))
    masks = visible if isinstance(visible, pa.Array) else pa.array(visible, pa.string())
    grown = [
        mask
        for start in range(0, len(masks), _CHUNK)
        for mask in rle.dilate(masks[start : start + _CHUNK], sizes[start : start + _CHUNK])
    ]
    columns = {"image_id": image_ids, "amodal_rle": grown, "amodal_box": rle.box(grown, sizes)}
    i, j, _ = overlapping(frame(INSTANCES, columns))
    involved, place = np.unique(np.concatenate([i, j]), return_inverse=True)
    at_i, at_j = place[: len(i)], place[len(i) :]
    own = rle.unpack(masks.take(pa.array(involved)))
    around = rle.unpack([grown[row] for row in involved])
    kept = rle.shared_area_of_pairs(around, at_i, own, at_j) > 0
    if most_shared < 1:
        area, shared = rle.area(own), rle.shared_area_of_pairs(own, at_i, own, at_j)
        kept &= shared <= most_shared * np.minimum(area[at_i], area[at_j])
    return np.stack([i[kept], j[kept]], axis=1)


def all_in_front(front: np.ndarray, back: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return all pairs that follow from pairs of neighbours: what is in front of what is in front.

    Pairs may form rings; nothing is in front of itself.

    Args:
        front, back: int64 [E], any numbers of objects.

    Returns:
        ``front`` and ``back``, int64 [F] each, sorted by ``back``, then ``front``, each pair once.
    """
    before: dict[int, list[int]] = {}
    for nearer, farther in zip(front.tolist(), back.tolist(), strict=True):
        before.setdefault(farther, []).append(nearer)
    found: list[tuple[int, int]] = []
    for object_ in sorted(before):
        reached, ahead = {object_}, [object_]
        while ahead:
            new = set(before.get(ahead.pop(), ())) - reached
            reached |= new
            ahead += new
        found += ((nearer, object_) for nearer in sorted(reached - {object_}))
    pairs = np.array(found, np.int64).reshape(-1, 2)
    return pairs[:, 0], pairs[:, 1]


def by_rank(
    instances: pd.DataFrame, cluster: np.ndarray, rank: np.ndarray, field: str, file: str
) -> tuple[pd.DataFrame, list[Finding]]:
    """Return order pairs of overlapping objects of a cluster: the smaller rank is in front.

    Args:
        instances: rows of INSTANCES.
        cluster, rank: int64 [N]; a negative rank states nothing, equal ranks neither.
        field, file: the key that ranks come from, and the file, for findings.

    Returns:
        columns image_id, occluder_id, occludee_id; and a finding for each image with ranks that
        is :func:`too_crowded`.
    """
    i, j, crowded = overlapping(instances)
    together = cluster[i] == cluster[j]
    front, back = _front_and_back(i[together], j[together], rank)
    return _pairs(instances, front, back), _passed_over(instances, rank, crowded, field, file)


def by_hidden_part(
    instances: pd.DataFrame, rank: np.ndarray, field: str, file: str
) -> tuple[pd.DataFrame, list[Finding]]:
    """Return order pairs that a front-to-back list suggests and the masks confirm.

    Of two objects of an image the one with the smaller rank is the occluder where its amodal mask
    meets the hidden part (amodal without visible) of the other.

    Args and returns: as :func:`by_rank`.
    """
    i, j, crowded = overlapping(instances)
    front, back = _front_and_back(i, j, rank)
    amodal, visible = strings(instances["amodal_rle"]), strings(instances["visible_rle"])
    behind, place = np.unique(back, return_inverse=True)
    hidden = rle.difference(amodal.take(behind), visible.take(behind))
    hides = rle.shared_area_of_pairs(amodal, front, hidden, place) > 0
    pairs = _pairs(instances, front[hides], back[hides])
    return pairs, _passed_over(instances, rank, crowded, field, file)


def by_visible_part(
    instances: pd.DataFrame, field: str, file: str
) -> tuple[pd.DataFrame, list[Finding]]:
    """Return order pairs that follow from exact masks: A hides B where A is seen within all of B.

    Both (A, B) and (B, A) come where each hides a part of the other.

    Args:
        instances: rows of INSTANCES, their masks as a renderer made them.
        field, file: the masks' key and the file, for findings.

    Returns:
        columns image_id, occluder_id, occludee_id, inferred (true); and a finding for each image
        that is :func:`too_crowded`.
    """
    i, j, crowded = overlapping(instances)
    amodal, visible = strings(instances["amodal_rle"]), strings(instances["visible_rle"])
    front, back = np.concatenate([i, j]), np.concatenate([j, i])
    hides = rle.shared_area_of_pairs(visible, front, amodal, back) > 0
    pairs = _pairs(instances, front[hides], back[hides]).assign(inferred=True)
    all_ranked = np.zeros(len(instances), np.int64)
    return pairs, _passed_over(instances, all_ranked, crowded, field, file)


def _front_and_back(
    i: np.ndarray, j: np.ndarray, rank: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the pairs whose ranks differ, the smaller rank first."""
    ranked = (rank[i] >= 0) & (rank[j] >= 0) & (rank[i] != rank[j])
    i, j = i[ranked], j[ranked]
    nearer = rank[i] < rank[j]
    return np.where(nearer, i, j), np.where(nearer, j, i)


def _pairs(instances: pd.DataFrame, front: np.ndarray, back: np.ndarray) -> pd.DataFrame:
    ids, image_id = (
        instances[name].to_numpy(dtype=np.int64) for name in ("instance_id", "image_id")
    )
    return pd.DataFrame(
        {"image_id": image_id[front], "occluder_id": ids[front], "occludee_id": ids[back]}
    )


def _passed_over(
    instances: pd.DataFrame, rank: np.ndarray, crowded: np.ndarray, field: str, file: str
) -> list[Finding]:
    ranked = instances["image_id"].to_numpy(dtype=np.int64)[rank >= 0]
    return [
        finding(file, f"order pair of image {image}", field, TOO_CROWDED)
        for image in np.intersect1d(ranked, crowded)
    ]


def _pieces(image_ids: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray, int]]:
    """Yield rows to compare, offsets of their images, and 0 or where the second block begins.

    Of two blocks of one image only the pairs across are wanted: those within a block come with
    the block alone.
    """
    changes = np.flatnonzero(np.diff(image_ids)) + 1
    starts = np.unique(np.concatenate([[0], changes, [len(image_ids)]]))
    first = 0
    while first < len(starts) - 1:
        # As many whole images as fit, at least one.
        last = int(np.searchsorted(starts, starts[first] + _CHUNK, side="right")) - 1
        rows = np.arange(starts[first], starts[max(last, first + 1)])
        if last > first:
            yield rows, starts[first : last + 1] - starts[first], 0
        else:
            block = _CHUNK // 2
            blocks = np.split(rows, range(block, len(rows), block))
            for k, one in enumerate(blocks):
                yield one, np.array([0, len(one)]), 0
                for other in blocks[k + 1 :]:
                    both = np.concatenate([one, other])
                    yield both, np.array([0, len(both)]), len(one)
        first = max(last, first + 1)
