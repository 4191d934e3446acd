"""Mean IoU of completed masks, of the whole object and of its hidden part.

Definitions of Zhan et al. (CVPR 2020) and Gao et al. (ICCV 2023), per object and averaged over
objects; the data-set-level ratio that other papers call mIoU is a different number.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from amodal_pipeline.annotations import rle
from amodal_pipeline.annotations.tables import AmodalAnnotations, Predictions
from amodal_pipeline.metrics import coco, results
from amodal_pipeline.metrics.checks import check

MATCH_IOU = 0.5


@dataclass(frozen=True)
class DetectionMatches:
    """Which true object each matched detection of a detector is taken to be.

    ``method`` is the detector; ``prediction_id`` and ``instance_id`` are int64 [M], row by row a
    pair, each id at most once. Ignored objects are among them.
    """

    method: str
    prediction_id: np.ndarray
    instance_id: np.ndarray


def match_detections(
    annotations: AmodalAnnotations, predictions: Predictions, minimum_iou: float = MATCH_IOU
) -> DetectionMatches:
    """Match a detector's predictions one to one to objects of the same image and category.

    Greedy by falling score at amodal IoU >= ``minimum_iou``. An object that is to be ignored takes
    a detection only when no other object is left for it.

    Raises:
        ValueError: the predictions are not of these annotations or are damaged; says what to do.
    """
    check(annotations, predictions)
    c = coco.candidates(
        annotations, predictions, "amodal", max_detections=None, minimum_iou=minimum_iou
    )
    ignored = annotations.instances["ignore"].to_numpy(dtype=bool)[c.truth_row]
    matched = coco.match(c, ignored, np.array([minimum_iou]))[0]
    hit = np.flatnonzero(matched >= 0)
    prediction_ids = predictions.predictions["prediction_id"].to_numpy(dtype=np.int64)
    instance_ids = annotations.instances["instance_id"].to_numpy(dtype=np.int64)
    return DetectionMatches(
        method=predictions.metadata.method,
        prediction_id=prediction_ids[c.detection_row[hit]],
        instance_id=instance_ids[c.truth_row[matched[hit]]],
    )


def completion_rows(
    annotations: AmodalAnnotations,
    predictions: Predictions,
    matches: DetectionMatches | None = None,
) -> pd.DataFrame:
    """Rows mIoU_full and mIoU_occluded, over all objects and over the matched ones.

    With P the predicted amodal mask, A* and V* the true amodal and visible masks,
    mIoU_full = mean IoU(P, A*) and mIoU_occluded = mean IoU(P \\ V*, A* \\ V*), the latter over
    objects with at least one hidden pixel. An object that nothing is paired with has 0; the rows
    with ``_matched`` leave such objects out. Ignored objects are in none of them.

    Args:
        annotations: the truth.
        predictions: paired with the truth by ``instance_id`` where they complete true objects,
            otherwise by ``matches``, otherwise by :func:`match_detections`.
        matches: pairs of a detector, used for the detector itself and for predictions that
            completed its detections (``source_id``), so that all stand on the same objects.

    Raises:
        ValueError: two predictions complete the same object, or ``matches`` are of another
            detector than the predictions.
    """
    prediction, instance = _pairs(annotations, predictions, matches)
    truth = annotations.instances
    areas = {
        name: rle.area(truth[f"{name}_rle"].tolist()).astype(np.float64)
        for name in ("amodal", "visible")
    }
    counted = ~truth["ignore"].to_numpy(dtype=bool)
    occluded = counted & (areas["amodal"] > areas["visible"])
    full, hidden = np.zeros(len(truth)), np.zeros(len(truth))
    is_matched = np.zeros(len(truth), bool)
    is_matched[instance] = True

    drawn = predictions.predictions["amodal_rle"].iloc[prediction]
    there = drawn.notna().to_numpy(dtype=bool)
    masks, at = drawn[there].tolist(), instance[there]
    amodal, visible = (truth[f"{name}_rle"].iloc[at].tolist() for name in ("amodal", "visible"))
    with_amodal = rle.shared_area(masks, amodal)
    with_visible = rle.shared_area(masks, visible)
    union = rle.area(masks) + areas["amodal"][at] - with_amodal
    full[at] = with_amodal / union
    # V* lies inside A*: taking it off shrinks the intersection by |P ∩ V*|, the union by |V*|.
    hidden[at] = (with_amodal - with_visible) / np.maximum(union - areas["visible"][at], 1)

    found = [
        results.Measurement(name, 100 * float(values[of].mean()) if of.any() else np.nan, of.sum())
        for name, values, of in (
            ("mIoU_full", full, counted),
            ("mIoU_occluded", hidden, occluded),
            ("mIoU_full_matched", full, counted & is_matched),
            ("mIoU_occluded_matched", hidden, occluded & is_matched),
        )
    ]
    return results.rows(predictions.metadata, "completion", found)


def _pairs(
    annotations: AmodalAnnotations, predictions: Predictions, matches: DetectionMatches | None
) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the predictions and rows of the instances that belong together."""
    table, metadata = predictions.predictions, predictions.metadata
    if completes_truth(predictions):
        names, ids = "instance_id", table["instance_id"]
    elif matches is None:
        matches = match_detections(annotations, predictions)
        names, ids = "prediction_id", table["prediction_id"]
    elif metadata.inputs == matches.method and table["source_id"].notna().all():
        names, ids = "source_id", table["source_id"]
    elif metadata.method == matches.method:
        names, ids = "prediction_id", table["prediction_id"]
    else:
        raise ValueError(
            f"the matches are of the detector {matches.method!r}, the predictions of "
            f"{metadata.method!r} on {metadata.inputs!r}: give the matches of "
            f"{metadata.inputs!r}, or none"
        )
    ids = ids.to_numpy(dtype=np.int64)
    if len(np.unique(ids)) != len(ids):
        twice = pd.Series(ids)[pd.Series(ids).duplicated()].iloc[0]
        raise ValueError(f"two predictions of {metadata.method!r} have the {names} {twice}")
    if names != "instance_id":
        row = _position(ids, matches.prediction_id)
        rows, ids = row[row >= 0], matches.instance_id[row >= 0]
    else:
        rows = np.arange(len(ids))
    at = _position(annotations.instances["instance_id"].to_numpy(dtype=np.int64), ids)
    if (at < 0).any():
        raise ValueError(
            f"prediction of {metadata.method!r} completes the instance {ids[at < 0][0]}, which the "
            f"annotations {annotations.metadata.dataset}/{annotations.metadata.split} do not have: "
            "predict again on these annotations"
        )
    return rows, at


def completes_truth(predictions: Predictions) -> bool:
    """Whether the predictions complete true objects, named by ``instance_id``.

    Raises:
        ValueError: some do and some do not.
    """
    named = predictions.predictions["instance_id"].notna().to_numpy(dtype=bool)
    if named.any() and not named.all():
        raise ValueError(
            f"{(~named).sum()} of {len(named)} predictions of {predictions.metadata.method!r} have "
            "no instance_id and the others have: keep detections and completed true objects in "
            "tables of their own"
        )
    return bool(named.any())


def _position(haystack: np.ndarray, needles: np.ndarray) -> np.ndarray:
    """Where each needle is in ``haystack`` (ids, each once), −1 where it is not."""
    if len(haystack) == 0:
        return np.full(len(needles), -1, np.int64)
    order = np.argsort(haystack)
    place = order[np.minimum(np.searchsorted(haystack[order], needles), len(order) - 1)]
    return np.where(haystack[place] == needles, place, -1)
