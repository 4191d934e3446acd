"""Average precision and recall as COCO defines them (Lin et al., ECCV 2014; pycocotools).

Works in steps, so that no step is repeated without need:

1. :mod:`~amodal_pipeline.metrics.pairs` computes the IoU of detections with the true objects of
   their image and keeps the few pairs that could match under any protocol;
2. :func:`rank` sorts detections within images, by category or across categories;
3. :func:`match` pairs them greedily by score at every IoU threshold, for one choice of which
   objects are ignored;
4. :class:`Precision` computes precision and recall from the matches, for any weights of the images.

The numbers equal pycocotools' up to rounding. Our own rules are: an object is ignored by an
explicit flag, not by an area range. A detection matched to an ignored object counts neither as true
nor as false; an unmatched one is a false positive, unless a protocol says otherwise. An ignored
object is matched at most once and by plain IoU; COCO's crowd regions, which match any number of
detections by intersection over the detection's area, are not supported.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from amodal_pipeline.metrics import kernels
from amodal_pipeline.metrics.pairs import Pairs, Places
from amodal_pipeline.metrics.tallies import Row

THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0.0, 1.0, 101)
MAX_DETECTIONS = (1, 10, 100)  # per image and category


@dataclass(frozen=True)
class Ranking:
    """Detections and true objects in the order in which they are matched.

    Detections are sorted by category, image and falling score, and cut to the best per image and
    category; true objects by category and image. ``*_row`` is the row in the table. ``rank`` counts
    the detections of one image and category from 0. If categories are disregarded, all are 0.
    """

    images: int
    categories: int
    detection_row: np.ndarray  # int64 [D]
    detection_image: np.ndarray
    detection_category: np.ndarray
    rank: np.ndarray
    score: np.ndarray  # float32 [D]
    truth_row: np.ndarray  # int64 [G]
    truth_image: np.ndarray
    truth_category: np.ndarray
    detection_at: np.ndarray  # int64 [rows], position of each table row in the ranking; -1: cut off
    truth_at: np.ndarray

    @cached_property
    def by_score(self) -> np.ndarray:
        """Return detections by falling score within their category; ties by the lower image."""
        return np.lexsort((-self.score, self.detection_category))


@dataclass(frozen=True)
class Candidates:
    """The pairs of a ranking: detection d overlaps ``truth[offsets[d]:offsets[d + 1]]``."""

    ranking: Ranking
    offsets: np.ndarray  # int64 [D + 1]
    truth: np.ndarray  # int64 [P], positions in the ranking, ascending for each detection
    iou: np.ndarray  # float64 [P]


def rank(
    where: Places,
    *,
    class_agnostic: bool = False,
    max_detections: int | None = MAX_DETECTIONS[-1],
    left_out: np.ndarray | None = None,
) -> Ranking:
    """Return detections and objects sorted for matching, without ``left_out`` ones (bool [D]).

    Ties are broken as in pycocotools: by category if categories are disregarded, then by row.
    """
    category = np.zeros_like(where.truth_category) if class_agnostic else where.truth_category
    truth_row = np.lexsort((where.own_truth_category, where.truth_image, category))
    truth_category = category[truth_row]

    image = where.detection_image
    category = (
        np.zeros_like(where.detection_category) if class_agnostic else where.detection_category
    )
    row = np.lexsort((where.own_detection_category, -where.score, image, category))
    row = row if left_out is None else row[~left_out[row]]
    group = category[row] * where.images + image[row]
    place = np.arange(len(group)) - np.searchsorted(group, group)
    kept = place < (max_detections or np.inf)
    row, place = row[kept], place[kept]
    return Ranking(
        images=where.images,
        categories=1 if class_agnostic else where.categories,
        detection_row=row,
        detection_image=image[row],
        detection_category=category[row],
        rank=place,
        score=where.score[row],
        truth_row=truth_row,
        truth_image=where.truth_image[truth_row],
        truth_category=truth_category,
        detection_at=_inverse(row, len(where.score)),
        truth_at=_inverse(truth_row, len(truth_row)),
    )


def _inverse(rows: np.ndarray, length: int) -> np.ndarray:
    at = np.full(length, -1, np.int64)
    at[rows] = np.arange(len(rows))
    return at


def candidates(ranking: Ranking, pairs: Pairs) -> Candidates:
    """Return the pairs that can match: of one category, with a detection that is not cut off."""
    detection, truth = ranking.detection_at[pairs.detection], ranking.truth_at[pairs.truth]
    same = ranking.detection_category[detection] == ranking.truth_category[truth]
    kept = np.flatnonzero(same & (detection >= 0))
    kept = kept[np.lexsort((truth[kept], detection[kept]))]
    offsets = np.searchsorted(detection[kept], np.arange(len(ranking.detection_row) + 1))
    return Candidates(ranking, offsets, truth[kept], pairs.iou[kept])


def match(c: Candidates, ignored: np.ndarray, thresholds: np.ndarray = THRESHOLDS) -> np.ndarray:
    """Match one to one, greedily by falling score, at each threshold.

    Each detection takes the free object with the highest IoU (the last of equals, as in
    pycocotools), and an ignored object only if no other is left above the threshold.

    Args:
        c: the pairs.
        ignored: bool [G], in the order of ``ranking.truth_row``.
        thresholds: IoU thresholds [T].

    Returns:
        int32 [T, D]: position of the object that each detection is matched to, −1 for none.
    """
    limits = np.minimum(thresholds, 1 - 1e-10)
    return kernels.match(c.offsets, c.truth, c.iou, ignored, limits)


@dataclass(frozen=True)
class Measure:
    """A mean over categories, thresholds and (for precision) recalls of a :class:`Precision`.

    ``threshold``: position in :data:`THRESHOLDS`, or None for the mean of all. ``limit``: number of
    detections per image for recall; None for precision. ``category``: position, or None for the
    mean.
    """

    row: Row
    threshold: int | None = None
    limit: int | None = None
    category: int | None = None


@dataclass(frozen=True)
class Precision:
    """Matches, from which average precisions and recalls are computed as a tally.

    Args:
        ranking: what was matched.
        matched: result of :func:`match`, int32 [T, D].
        ignored: bool [G], as given to :func:`match`.
        measures: the rows to report.
        limits: detections per image and category for which recall is computed.
        excused: bool [D], detections that are not false positives if they match nothing.
    """

    ranking: Ranking
    matched: np.ndarray
    ignored: np.ndarray
    measures: tuple[Measure, ...] = ()
    limits: tuple[int, ...] = MAX_DETECTIONS
    excused: np.ndarray | None = None

    @property
    def rows(self) -> tuple[Row, ...]:
        """Return the rows of results of the measures."""
        return tuple(m.row for m in self.measures)

    @cached_property
    def count(self) -> np.ndarray:
        """Return the number of objects that count per category, int64 [K]."""
        counted = self.ranking.truth_category[~self.ignored]
        return np.bincount(counted, minlength=self.ranking.categories)

    @cached_property
    def _arguments(self) -> tuple[np.ndarray, ...]:
        r, ends = self.ranking, np.arange(self.ranking.categories + 1)
        void_truth = np.append(self.ignored, False)
        hit, void = (np.zeros(len(r.detection_row), np.uint16) for _ in range(2))
        for t, matched in enumerate(self.matched):
            left_out = void_truth[matched]
            if self.excused is not None:
                left_out = left_out | ((matched < 0) & self.excused)
            hit |= ((matched >= 0) & ~void_truth[matched]).astype(np.uint16) << t
            void |= left_out.astype(np.uint16) << t
        order, counted = r.by_score, ~self.ignored
        return (
            r.detection_image[order],
            hit[order],
            void[order],
            r.rank[order],
            np.searchsorted(r.detection_category, ends),
            r.truth_image[counted],
            np.searchsorted(r.truth_category[counted], ends),
            np.array(self.limits, np.int64),
            RECALLS,
        )

    def _run(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        shape = (self.ranking.categories, len(self.matched), len(RECALLS))
        curves = np.full(shape, np.nan)
        weights = np.ascontiguousarray(weights, np.uint16)
        return *kernels.precision_recall(weights, *self._arguments, curves), curves

    @cached_property
    def curve(self) -> np.ndarray:
        """Return the precision at :data:`RECALLS`, mean over categories with objects, [T, 101]."""
        curves = self._run(np.ones((1, self.ranking.images)))[2]
        some = self.count > 0
        return curves[some].mean(axis=0) if some.any() else curves[0] * np.nan

    def values(self, weights: np.ndarray) -> np.ndarray:
        """Return the measures in 0–100 per weighting of the images, float64 [R, measures]."""
        precision, recall, _ = self._run(weights)
        columns = []
        for m in self.measures:
            of = precision if m.limit is None else recall[..., self.limits.index(m.limit)]
            of = of[:, slice(None) if m.category is None else [m.category]]
            of = of if m.threshold is None else of[:, :, [m.threshold]]
            # A resample may have no object of a category; the mean is over those that have any.
            there = np.isfinite(of[:, :, 0])
            total = np.where(there[:, :, None], of, 0).mean(axis=2).sum(axis=1)
            n = there.sum(axis=1)
            columns.append(np.where(n > 0, 100 * total / np.maximum(n, 1), np.nan))
        return np.stack(columns, axis=1)


def measures(suffix: str, n: int, note: str = "") -> tuple[Measure, ...]:
    """Return the measures AP, AP50, AP75 and AR at each limit, named with a suffix."""

    def row(name: str) -> Row:
        return Row(f"{name}_{suffix}", n, note=note)

    return (
        Measure(row("AP")),
        Measure(row("AP50"), threshold=0),
        Measure(row("AP75"), threshold=5),
        *(Measure(row(f"AR{limit}"), limit=limit) for limit in MAX_DETECTIONS),
    )


def occlusion_suffix(threshold: float) -> str:
    """Return the suffix of metrics above an occlusion rate: ``occluded15`` for 0.15."""
    return f"occluded{100 * threshold:g}"
