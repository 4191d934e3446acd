"""Average precision and recall as COCO defines them (Lin et al., ECCV 2014; pycocotools).

Three steps, so that each can be replaced or repeated alone:

1. :func:`candidates` computes the IoU of detections with true objects of their image (and
   category) once and keeps the few pairs that could ever match;
2. :func:`match` pairs them greedily by score at every IoU threshold, for one choice of which
   objects are ignored;
3. :func:`accumulate` turns the matches of all images into precision and recall.

The numbers equal pycocotools' to rounding. Where the rules are ours: an object is ignored by an
explicit flag, not by an area range. A detection matched to an ignored object counts neither way;
a detection matched to nothing is a false positive, however little occluded it looks itself. An
ignored object is matched at most once and by plain IoU; COCO's crowd regions, which take any
number of detections by intersection over the detection's area, have no counterpart here.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from pycocotools import mask as coco_mask

from amodal_pipeline.annotations import rle
from amodal_pipeline.annotations.tables import AmodalAnnotations, Predictions, boxes
from amodal_pipeline.metrics import results
from amodal_pipeline.metrics.config import EvaluationConfig

Target = Literal["amodal", "visible", "box"]

COLUMNS: dict[Target, str] = {"amodal": "amodal_rle", "visible": "visible_rle", "box": "amodal_box"}
THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0.0, 1.0, 101)
MAX_DETECTIONS = (1, 10, 100)  # per image and category


@dataclass(frozen=True)
class Candidates:
    """Detections, true objects, and the pairs of them that overlap enough to be matched.

    Detections are sorted by category, image and falling score and cut to the best of each image
    and category; true objects by category and image. ``*_row`` is the row in the table,
    ``*_image`` the position among the sorted image ids, ``*_category`` the position in
    ``metadata.categories`` (0 for all when categories are disregarded). ``rank`` counts the
    detections of one image and category from 0.
    """

    categories: int
    detection_row: np.ndarray  # int64 [D]
    detection_image: np.ndarray
    detection_category: np.ndarray
    rank: np.ndarray
    score: np.ndarray  # float32 [D]
    truth_row: np.ndarray  # int64 [G]
    truth_image: np.ndarray
    truth_category: np.ndarray
    pair_detection: np.ndarray  # int64 [P], positions among the detections above
    pair_truth: np.ndarray  # int64 [P], positions among the true objects above
    pair_iou: np.ndarray  # float64 [P], at least minimum_iou
    minimum_iou: float


@dataclass(frozen=True)
class Curves:
    """Per category: precision at 101 recalls, recall at the detection limits, and the number of
    objects that count. NaN for a category without any."""

    precision: np.ndarray  # float64 [K, T, 101]
    recall: np.ndarray  # float64 [K, T, 3]
    count: np.ndarray  # int64 [K]


def candidates(
    annotations: AmodalAnnotations,
    predictions: Predictions,
    target: Target,
    *,
    class_agnostic: bool = False,
    max_detections: int | None = MAX_DETECTIONS[-1],
    minimum_iou: float = float(THRESHOLDS[0]),
) -> Candidates:
    """Pairs of a detection and a true object of its image and category with IoU >= minimum_iou.

    A detection without the mask or box asked for stays a detection, but overlaps nothing.
    """
    truth, found = annotations.instances, predictions.predictions
    image_ids = np.unique(annotations.images["image_id"].to_numpy(dtype=np.int64))
    category_ids = np.array([c.id for c in annotations.metadata.categories], np.int64)

    def keys(table: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        image = np.searchsorted(image_ids, table["image_id"].to_numpy(dtype=np.int64))
        own = table["category_id"].to_numpy(dtype=np.int64)
        by_id = np.argsort(category_ids)
        group = by_id[np.searchsorted(category_ids[by_id], own)]
        return image, own, np.zeros_like(group) if class_agnostic else group

    # Ties are broken as pycocotools does: by category where all are pooled, then by table row.
    image, own, category = keys(truth)
    truth_row = np.lexsort((own, image, category))
    truth_image, truth_category = image[truth_row], category[truth_row]

    image, own, category = keys(found)
    score = found["score"].to_numpy(dtype=np.float32)
    detection_row = np.lexsort((own, -score, image, category))
    group = category[detection_row] * len(image_ids) + image[detection_row]
    rank = np.arange(len(group)) - np.searchsorted(group, group)
    kept = rank < (max_detections or np.inf)
    detection_row, group, rank = detection_row[kept], group[kept], rank[kept]

    pairs = list(
        _overlaps(
            _shapes(found, detection_row, target),
            group,
            _shapes(truth, truth_row, target),
            truth_category * len(image_ids) + truth_image,
            annotations.sizes[truth_row],
            minimum_iou,
        )
    )
    pair_detection, pair_truth, pair_iou = (
        np.concatenate([np.zeros(0, kind), *(block[i] for block in pairs)])
        for i, kind in enumerate((np.int64, np.int64, np.float64))
    )
    return Candidates(
        categories=1 if class_agnostic else len(category_ids),
        detection_row=detection_row,
        detection_image=image[detection_row],
        detection_category=category[detection_row],
        rank=rank,
        score=score[detection_row],
        truth_row=truth_row,
        truth_image=truth_image,
        truth_category=truth_category,
        pair_detection=pair_detection,
        pair_truth=pair_truth,
        pair_iou=pair_iou,
        minimum_iou=minimum_iou,
    )


def _shapes(table: pd.DataFrame, rows: np.ndarray, target: Target) -> np.ndarray:
    """Masks [N] (None where there is none) or boxes float64 [N, 4] (NaN where there is none)."""
    column = table[COLUMNS[target]]
    if target == "box":
        return boxes(column)[rows].astype(np.float64)
    return column.to_numpy(dtype=object, na_value=None)[rows]


def _overlaps(
    detections: np.ndarray,
    detection_group: np.ndarray,
    truth: np.ndarray,
    truth_group: np.ndarray,
    truth_sizes: np.ndarray,
    minimum_iou: float,
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """The pairs of each group that has detections as well as objects. Groups are sorted."""

    def present(shapes: np.ndarray) -> np.ndarray:
        there = pd.notna(shapes)
        return np.flatnonzero(there.all(axis=1) if there.ndim == 2 else there)

    d, g = present(detections), present(truth)
    groups = np.intersect1d(detection_group[d], truth_group[g])
    d_bounds = np.searchsorted(detection_group[d], [groups, groups + 1])
    g_bounds = np.searchsorted(truth_group[g], [groups, groups + 1])
    for d0, d1, g0, g1 in np.concatenate([d_bounds, g_bounds]).T:
        of_d, of_g = d[d0:d1], g[g0:g1]
        if detections.ndim == 2:
            block = coco_mask.iou(detections[of_d], truth[of_g], np.zeros(len(of_g), np.uint8))
        else:
            block = rle.iou(detections[of_d], truth[of_g], tuple(truth_sizes[of_g[0]]))
        row, column = np.nonzero(block >= minimum_iou)
        yield of_d[row], of_g[column], block[row, column]


def match(c: Candidates, ignored: np.ndarray, thresholds: np.ndarray = THRESHOLDS) -> np.ndarray:
    """Greedy one-to-one matching by falling score, for all thresholds side by side.

    Each detection takes the open object with the highest IoU (the last of equals, as pycocotools
    does), an ignored one only when no other is left above the threshold.

    Args:
        c: the pairs.
        ignored: bool [G], in the order of ``c.truth_row``.
        thresholds: IoU thresholds [T], none below ``c.minimum_iou``.

    Returns:
        int64 [T, D]: position of the object each detection is matched to, −1 for none.
    """
    if len(thresholds) and np.min(thresholds) < c.minimum_iou:
        raise ValueError(f"pairs below IoU {c.minimum_iou} are not kept: no threshold can be lower")
    limits = np.minimum(thresholds, 1 - 1e-10)[:, None]
    rank = c.rank[c.pair_detection]
    # What a detection likes best does not depend on the threshold: sort once, take the first open.
    order = np.lexsort((-c.pair_truth, -c.pair_iou, ignored[c.pair_truth], c.pair_detection, rank))
    detection, truth, iou, rank = (
        a[order] for a in (c.pair_detection, c.pair_truth, c.pair_iou, rank)
    )
    matched = np.full((len(thresholds), len(c.detection_row)), -1, np.int64)
    taken = np.zeros((len(thresholds), len(c.truth_row)), bool)
    # Equal ranks belong to different images or categories: they cannot take the same object.
    cuts = np.flatnonzero(np.diff(rank)) + 1
    for start, stop in zip([0, *cuts], [*cuts, len(rank)], strict=True):
        if start == stop:
            continue
        of, at = detection[start:stop], truth[start:stop]
        free = (iou[start:stop] >= limits) & ~taken[:, at]
        firsts = np.concatenate([[0], np.flatnonzero(np.diff(of)) + 1])
        place = np.where(free, np.arange(len(of)), len(of))
        best = np.minimum.reduceat(place, firsts, axis=1)
        t, i = np.nonzero(best < len(of))
        chosen = at[best[t, i]]
        matched[t, of[firsts[i]]] = chosen
        taken[t, chosen] = True
    return matched


def accumulate(c: Candidates, matched: np.ndarray, ignored: np.ndarray) -> Curves:
    """Precision and recall per category from the matches of all images.

    Args:
        c: the pairs.
        matched: what :func:`match` returned for them, int64 [T, D].
        ignored: bool [G], as given to :func:`match`.
    """
    T = len(matched)
    count = np.bincount(c.truth_category[~ignored], minlength=c.categories)
    precision = np.full((c.categories, T, len(RECALLS)), np.nan)
    recall = np.full((c.categories, T, len(MAX_DETECTIONS)), np.nan)
    bounds = np.searchsorted(c.detection_category, np.arange(c.categories + 1))
    for k in np.flatnonzero(count):
        of = slice(bounds[k], bounds[k + 1])
        by_score = np.argsort(-c.score[of], kind="stable")
        hit = matched[:, of][:, by_score]
        rank = c.rank[of][by_score]
        true = (hit >= 0) & ~np.concatenate([ignored, [False]])[hit]
        for m, limit in enumerate(MAX_DETECTIONS):
            recall[k, :, m] = true[:, rank < limit].sum(axis=1) / count[k]
        tp = np.cumsum(true, axis=1).astype(np.float64)
        fp = np.cumsum(hit < 0, axis=1)
        best = tp / np.maximum(tp + fp, 1)
        best = np.maximum.accumulate(best[:, ::-1], axis=1)[:, ::-1]
        best = np.concatenate([best, np.zeros((T, 1))], axis=1)  # recalls that are never reached
        for t in range(T):
            precision[k, t] = best[t, np.searchsorted(tp[t] / count[k], RECALLS, side="left")]
    return Curves(precision, recall, count)


def measurements(
    curves: Curves, suffix: str, categories: list[str] | None = None
) -> Iterator[results.Measurement]:
    """AP, AP50, AR1, AR10, AR100 … over all categories; AP alone for each of ``categories``."""
    some = curves.count > 0
    n = int(curves.count.sum())
    precision, recall = curves.precision[some], curves.recall[some]
    values = {"AP": precision, "AP50": precision[:, 0], "AP75": precision[:, 5]}
    values |= {f"AR{limit}": recall[:, :, m] for m, limit in enumerate(MAX_DETECTIONS)}
    for name, value in values.items():
        yield results.Measurement(f"{name}_{suffix}", 100 * float(value.mean()) if n else np.nan, n)
    for k in np.flatnonzero(some) if categories else ():
        yield results.Measurement(
            f"AP_{suffix}",
            100 * float(curves.precision[k].mean()),
            int(curves.count[k]),
            categories[k],
        )


def coco_rows(
    annotations: AmodalAnnotations, predictions: Predictions, config: EvaluationConfig
) -> pd.DataFrame:
    """Rows AP, AP50, AP75, AR1, AR10, AR100 of amodal masks, visible masks and amodal boxes.

    ``n`` is the number of objects that are not ignored. Ignored are objects marked so in the
    annotations; in ``*_visible`` also those that are fully hidden; in ``*_occluded<t>`` also
    those with an occlusion rate of at most t. A method that has no visible (or amodal) masks, or
    no boxes, gets no rows of them; one that predicted nothing at all has 0 everywhere. Over no
    object at all the value is null.
    """
    rate = annotations.instances["occlusion_rate"].to_numpy(dtype=np.float32)
    marked = annotations.instances["ignore"].to_numpy(dtype=bool)
    hidden = annotations.instances["visible_box"].isna().to_numpy(dtype=bool)
    names = [category.name for category in annotations.metadata.categories]
    by_category = config.per_category and not config.class_agnostic
    found = []
    for target, column in COLUMNS.items():
        table = predictions.predictions
        if len(table) and table[column].isna().all():
            continue
        c = candidates(annotations, predictions, target, class_agnostic=config.class_agnostic)
        never = marked | hidden if target == "visible" else marked
        # Rates are stored as float32: compared as such, a rate of exactly 15 % is not above 0.15.
        choices = {target: never} | {
            f"{target}_{occlusion_suffix(t)}": never | (rate <= np.float32(t))
            for t in config.occlusion_thresholds
        }
        for suffix, flags in choices.items():
            ignored = flags[c.truth_row]
            curves = accumulate(c, match(c, ignored), ignored)
            found.extend(measurements(curves, suffix, names if by_category else None))
    protocol = "coco_agnostic" if config.class_agnostic else "coco"
    return results.rows(predictions.metadata, protocol, found)


def occlusion_suffix(threshold: float) -> str:
    """``occluded15`` for 0.15."""
    return f"occluded{100 * threshold:g}"
