"""Who is in front of whom, where a data set states it by ranks, or only by a list and masks."""

import numpy as np
import pandas as pd

from amodal_pipeline.annotations import rle
from amodal_pipeline.annotations.tables import boxes, strings
from amodal_pipeline.annotations.validation import Finding, finding

# Pairs grow with the square of an image's objects; looked at are those of images with so many of
# them, and with so many times the characters of all their masks.
MAX_OBJECTS = 500
MAX_WORK = 1 << 31
TOO_CROWDED = "too many objects, or too detailed ones, to look at all pairs: no order derived"


def too_crowded(instances: pd.DataFrame) -> np.ndarray:
    """Ids of the images whose objects are too many, or too detailed, to look at all pairs."""
    masks = strings(instances["amodal_rle"])
    image_id, row = np.unique(instances["image_id"].to_numpy(np.int64), return_inverse=True)
    objects = np.bincount(row, minlength=len(image_id))
    characters = np.bincount(row, rle.characters(masks), len(image_id))
    return image_id[(objects > MAX_OBJECTS) | (objects * characters > MAX_WORK)]


def overlapping(instances: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows of objects of one image whose amodal masks share pixels.

    Args:
        instances: rows of INSTANCES in any order. Images that are :func:`too_crowded` are passed
            over.

    Returns:
        rows ``i`` and ``j``, int64 [P] each, i < j; and the ids of the images passed over.
    """
    image_id = instances["image_id"].to_numpy(dtype=np.int64)
    crowded = too_crowded(instances)
    by_image = np.argsort(image_id, kind="stable")
    by_image = by_image[~np.isin(image_id[by_image], crowded)]
    groups = np.flatnonzero(np.diff(image_id[by_image]))
    i, j, _ = rle.overlaps(
        strings(instances["amodal_rle"]).take(by_image),
        boxes(instances["amodal_box"])[by_image],
        np.concatenate([[0], groups + 1, [len(by_image)]]),
    )
    return by_image[i], by_image[j], crowded


def by_rank(
    instances: pd.DataFrame, cluster: np.ndarray, rank: np.ndarray, field: str, file: str
) -> tuple[pd.DataFrame, list[Finding]]:
    """Order pairs of overlapping objects of a cluster: the smaller rank is in front.

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
    """Order pairs that a list from front to back suggests and the masks confirm.

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


def _front_and_back(
    i: np.ndarray, j: np.ndarray, rank: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The pairs that ranks tell apart, the smaller one first."""
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
