"""Pairs of detections and overlapping objects: computed once, and shared by all protocols."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa
from pycocotools import mask as coco_mask

from amodal_pipeline.annotations import rle
from amodal_pipeline.annotations.tables import AmodalAnnotations, Predictions, boxes

MINIMUM_IOU = 0.5  # least IoU at which any protocol matches


@dataclass(frozen=True)
class Places:
    """Images and categories of detections [D] and true objects [G], in the order of their tables.

    Images are positions in the ascending ids, categories positions in ``metadata.categories``.
    """

    images: int
    categories: int
    detection_image: np.ndarray
    detection_category: np.ndarray
    score: np.ndarray  # float32 [D]
    truth_image: np.ndarray
    truth_category: np.ndarray
    image_row: np.ndarray  # [images], row of each image in its table
    own_detection_category: np.ndarray  # ids, which break ties
    own_truth_category: np.ndarray


@dataclass(frozen=True)
class Pairs:
    """Pairs of a detection and a true object of one image, of any categories, with their IoU.

    ``detection`` and ``truth`` are rows of the tables, int64 [P], sorted; ``iou`` float64 [P] is at
    least :data:`MINIMUM_IOU`.
    """

    detection: np.ndarray
    truth: np.ndarray
    iou: np.ndarray


def places(annotations: AmodalAnnotations, predictions: Predictions) -> Places:
    """Return the images and categories of detections and true objects."""
    truth, found = annotations.instances, predictions.predictions
    ids, row = np.unique(_ids(annotations.images["image_id"]), return_index=True)
    category_ids = np.array([c.id for c in annotations.metadata.categories], np.int64)
    by_id = np.argsort(category_ids)

    def category(table: pd.DataFrame) -> np.ndarray:
        return by_id[np.searchsorted(category_ids[by_id], _ids(table["category_id"]))]

    return Places(
        images=len(ids),
        categories=len(category_ids),
        detection_image=np.searchsorted(ids, _ids(found["image_id"])),
        detection_category=category(found),
        score=found["score"].to_numpy(dtype=np.float32),
        truth_image=np.searchsorted(ids, _ids(truth["image_id"])),
        truth_category=category(truth),
        image_row=row,
        own_detection_category=_ids(found["category_id"]),
        own_truth_category=_ids(truth["category_id"]),
    )


def _ids(column: pd.Series) -> np.ndarray:
    return column.to_numpy(dtype=np.int64)


def mask_pairs(
    annotations: AmodalAnnotations, where: Places, detections: pa.Array, truth: pa.Array
) -> Pairs:
    """Return the pairs of detections [D] and true objects [G] by masks, which may be null."""
    sides, groups = [], []
    for masks, image in ((detections, where.detection_image), (truth, where.truth_image)):
        there = np.flatnonzero(masks.is_valid().to_numpy(zero_copy_only=False))
        rows = there[np.argsort(image[there], kind="stable")]
        sides.append((masks.take(rows), rows))
        groups.append(np.searchsorted(image[rows], np.arange(where.images + 1)))
    (a, detection), (b, of_truth) = sides
    height = annotations.images["height"].to_numpy(dtype=np.int64)[where.image_row]
    i, j, iou = rle.close_pairs(a, groups[0], b, groups[1], height, MINIMUM_IOU)
    return _sorted(detection[i], of_truth[j], iou)


def box_pairs(annotations: AmodalAnnotations, predictions: Predictions, where: Places) -> Pairs:
    """Return the pairs by amodal boxes."""
    a, b = (
        boxes(table["amodal_box"]).astype(np.float64)
        for table in (predictions.predictions, annotations.instances)
    )
    detection, truth, iou = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)], [np.zeros(0)]
    rows = [
        there[np.argsort(image[there], kind="stable")]
        for there, image in (
            (np.flatnonzero(np.isfinite(a).all(axis=1)), where.detection_image),
            (np.flatnonzero(np.isfinite(b).all(axis=1)), where.truth_image),
        )
    ]
    ends = np.arange(where.images + 1)
    cuts = [
        np.searchsorted(image[r], ends)
        for r, image in zip(rows, (where.detection_image, where.truth_image), strict=True)
    ]
    both = np.flatnonzero((np.diff(cuts[0]) > 0) & (np.diff(cuts[1]) > 0))
    for image in both:
        d, g = (r[c[image] : c[image + 1]] for r, c in zip(rows, cuts, strict=True))
        block = coco_mask.iou(a[d], b[g], np.zeros(len(g), np.uint8))
        row, column = np.nonzero(block >= MINIMUM_IOU)
        detection.append(d[row])
        truth.append(g[column])
        iou.append(block[row, column])
    return _sorted(*(np.concatenate(parts) for parts in (detection, truth, iou)))


def both(a: Pairs, b: Pairs) -> Pairs:
    """Return the pairs that are in both, with the smaller IoU of the two."""
    stride = 1 + max(a.truth.max(initial=0), b.truth.max(initial=0))
    _, i, j = np.intersect1d(
        a.detection * stride + a.truth,
        b.detection * stride + b.truth,
        assume_unique=True,
        return_indices=True,
    )
    return Pairs(a.detection[i], a.truth[i], np.minimum(a.iou[i], b.iou[j]))


def _sorted(detection: np.ndarray, truth: np.ndarray, iou: np.ndarray) -> Pairs:
    order = np.lexsort((truth, detection))
    return Pairs(detection[order], truth[order], iou[order])
