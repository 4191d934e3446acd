"""IoU of completed masks: of the whole object and of its hidden part.

Has the definitions of Zhan et al. (CVPR 2020), Li et al. (A3D, ECCV 2022) and Gao et al. (C2F-Seg,
ICCV 2023); all three papers print "mIoU".
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.sparse import csc_array

from amodal_pipeline.annotations import rle
from amodal_pipeline.annotations.tables import AmodalAnnotations, Predictions
from amodal_pipeline.metrics import coco
from amodal_pipeline.metrics.checks import check
from amodal_pipeline.metrics.evidence import Evidence
from amodal_pipeline.metrics.pairs import MINIMUM_IOU
from amodal_pipeline.metrics.tallies import Ratio, Row

_WHOSE = {"method", "variant", "seed", "checkpoint"}


@dataclass(frozen=True)
class DetectionMatches:
    """The true object that each matched detection of a detector is matched to.

    ``method``, ``variant``, ``seed`` and ``checkpoint`` are the detector's; ``prediction_id`` and
    ``instance_id`` are int64 [M], one pair per row, each id at most once. Ignored objects are
    included.
    """

    method: str
    variant: str
    seed: int
    checkpoint: str
    prediction_id: np.ndarray
    instance_id: np.ndarray


@dataclass(frozen=True)
class Population:
    """Objects for which separate figures are computed: their ids, and a description of them."""

    instance_id: np.ndarray
    note: str


def match_detections(annotations: AmodalAnnotations, predictions: Predictions) -> DetectionMatches:
    """Match a detector's predictions one to one to objects of the same image and category.

    Matches greedily by falling score at IoU >= 0.5 of amodal masks, with any number of detections
    per image. If the detector predicts visible masks only, their IoU with the visible truth is
    used, because objects that are half hidden could never reach 0.5 otherwise. An ignored object
    takes a detection only if no other object is left for it.

    Raises:
        ValueError: the predictions do not belong to these annotations or are damaged; says what to
            do.
    """
    check(annotations, predictions)
    return detection_matches(Evidence(annotations, predictions))


def detection_matches(evidence: Evidence) -> DetectionMatches:
    """Match like :func:`match_detections`, but with tables that were checked before."""
    found = evidence.visible if evidence.substituted == "amodal" else evidence.amodal
    c = coco.candidates(coco.rank(evidence.where, max_detections=None), found)
    matched = coco.match(c, evidence.marked[c.ranking.truth_row], np.array([MINIMUM_IOU]))[0]
    hit = np.flatnonzero(matched >= 0)
    table = evidence.predictions.predictions
    described = evidence.predictions.metadata.model_dump(include=_WHOSE)
    return DetectionMatches(
        **described,
        prediction_id=_ids(table["prediction_id"])[c.ranking.detection_row[hit]],
        instance_id=_ids(evidence.annotations.instances["instance_id"])[
            c.ranking.truth_row[matched[hit]]
        ],
    )


def in_all(matches: list[DetectionMatches]) -> Population:
    """Return the objects that all detectors matched, on which C2F-Seg's authors score KINS."""
    ids = matches[0].instance_id
    for other in matches[1:]:
        ids = np.intersect1d(ids, other.instance_id)
    return Population(ids, f"objects matched by {', '.join(m.method for m in matches)}")


@dataclass(frozen=True)
class Completions:
    """Masks matched to true objects, and how well they fit; arrays [G] by true object.

    ``prediction`` is the row of the prediction, −1 if the object has none. With P the predicted
    amodal mask, A* and V* the true amodal and visible ones: ``full`` is (intersection, union) of P
    and A*, ``hidden`` that of P \\ V* and A* \\ V*, int64 [G, 2]; ``full_post`` and ``hidden_post``
    are the same with the completed visible mask added to P, None if predictions have no visible
    mask; ``head`` is ``hidden`` of the method's own mask of the hidden part in place of P, None if
    it has none. ``counted`` objects are not ignored, ``occluded`` ones have a hidden pixel as well.
    """

    prediction: np.ndarray
    full: np.ndarray
    hidden: np.ndarray
    full_post: np.ndarray | None
    hidden_post: np.ndarray | None
    head: np.ndarray | None
    counted: np.ndarray
    occluded: np.ndarray


def completions(evidence: Evidence, matches: DetectionMatches | None = None) -> Completions:
    """Match predictions to true objects, and return their masks' intersections and unions.

    Args:
        evidence: predictions are paired by ``instance_id`` if they complete true objects,
            otherwise by ``matches``, otherwise by :func:`match_detections`.
        matches: pairs of a detector, used for the detector itself and for predictions that
            completed its detections (``source_id``), so that all are scored on the same objects.

    Raises:
        ValueError: two predictions complete the same object, or ``matches`` belong to another
            detector than the predictions.
    """
    prediction, instance = pair(evidence, matches)
    of = np.full(len(evidence.annotations.instances), -1, np.int64)
    of[instance] = prediction
    at, masks, inputs = drawn(evidence, of)
    post = (None, None) if inputs is None else fit(evidence, at, rle.union(masks, inputs))
    counted = ~evidence.marked
    occluded = counted & (evidence.area["amodal"] > evidence.area["visible"])
    head = _fit_of_hidden_masks(evidence, of)
    return Completions(of, *fit(evidence, at, masks), *post, head, counted, occluded)


def drawn(
    evidence: Evidence, prediction: np.ndarray
) -> tuple[np.ndarray, list[str], list[str] | None]:
    """Return the objects with a predicted amodal mask, these masks, and the masks they complete.

    Args:
        evidence: the tables.
        prediction: of each object, int64 [G], as :class:`Completions` has it.

    Returns:
        rows of objects, int64 [M]; their predicted amodal masks; and the visible masks that were
        completed, None if the method names none. A prediction without a visible mask has its amodal
        one in its place, to which it adds nothing.
    """
    table, at = evidence.predictions.predictions, np.flatnonzero(prediction >= 0)
    amodal = table["amodal_rle"].iloc[prediction[at]]
    there = amodal.notna().to_numpy(dtype=bool)
    at, masks = at[there], amodal[there].tolist()
    if not evidence.has("visible_rle"):
        return at, masks, None
    inputs = table["visible_rle"].iloc[prediction[at]]
    inputs = inputs.where(inputs.notna(), pd.Series(masks, inputs.index, inputs.dtype))
    return at, masks, inputs.tolist()


def fit(evidence: Evidence, at: np.ndarray, masks: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return how well masks [M] fit the objects ``at``, as :class:`Completions` has it.

    Returns:
        (intersection, union) with the amodal mask, and both outside the visible mask, int64 [G, 2]
        each. Without a predicted mask the intersection is empty, and the union is the true mask.
    """
    area, truth = evidence.area, evidence.annotations.instances
    amodal, visible = (truth[f"{name}_rle"].iloc[at].tolist() for name in ("amodal", "visible"))
    full = np.stack([np.zeros_like(area["amodal"]), area["amodal"]], axis=1)
    hidden = np.stack([full[:, 0], area["amodal"] - area["visible"]], axis=1)
    shared = rle.shared_area(masks, amodal)
    full[at] = np.stack([shared, rle.area(masks) + area["amodal"][at] - shared], axis=1)
    # V* lies inside A*: taking it off shrinks the intersection by |P ∩ V*|, the union by |V*|.
    less = np.stack([rle.shared_area(masks, visible), area["visible"][at]], axis=1)
    hidden[at] = full[at] - less
    return full, hidden


def _fit_of_hidden_masks(evidence: Evidence, prediction: np.ndarray) -> np.ndarray | None:
    """Return how well a method's own masks of hidden parts fit, as :class:`Completions` has it."""
    table, area = evidence.predictions.predictions, evidence.area
    if table["invisible_rle"].isna().all():
        return None
    at = np.flatnonzero(prediction >= 0)
    own = table["invisible_rle"].iloc[prediction[at]]
    at, own = at[own.notna().to_numpy(dtype=bool)], own.dropna().tolist()
    truth = evidence.annotations.instances.iloc[at]
    amodal, visible = (truth[f"{name}_rle"].tolist() for name in ("amodal", "visible"))
    own, behind = rle.difference(own, visible), rle.difference(amodal, visible)
    shared, true = rle.shared_area(own, behind), area["amodal"] - area["visible"]
    sums = np.stack([np.zeros_like(true), true], axis=1)
    sums[at] = np.stack([shared, rle.area(own) + true[at] - shared], axis=1)
    return sums


def tallies(
    evidence: Evidence,
    found: Completions,
    common: Population | None = None,
    *,
    per_category: bool = False,
) -> Iterator[Ratio]:
    """Yield the tallies of the protocol "completion": means over objects, and ratios of sums.

    mIoU_full: mean IoU of P and A* over objects. mIoU_occluded: mean IoU of P \\ V* and A* \\ V*
    over objects with a hidden pixel (Gao et al.); mIoU_occluded_head: the same of the method's own
    mask of the hidden part in place of P, if it predicts one. ``…_per_category``: mean over
    categories of these means (Li et al.). IoU_dataset: sum of intersections divided by sum of
    unions (Zhan et al.), and IoU_dataset_occluded the same of P \\ V* and A* \\ V* over objects
    with a hidden pixel. ``_post``: with the completed visible mask added. An object without a
    paired prediction counts 0; ``_matched`` leaves such objects out, ``_common`` is over those of
    ``common``. Ignored objects are in none of them.
    """
    where, truth = evidence.where, evidence.annotations.instances
    names = [category.name for category in evidence.annotations.metadata.categories]
    populations = {"": (np.ones_like(found.counted), ""), "_matched": (found.prediction >= 0, "")}
    if common is not None:
        chosen = np.isin(_ids(truth["instance_id"]), common.instance_id)
        populations["_common"] = (chosen, common.note)

    def ratio(row: Row, rows: np.ndarray, above: np.ndarray, below: np.ndarray, by: np.ndarray):
        shape = (where.images, int(by.max(initial=0)) + 1)
        at = (where.truth_image[rows], by[rows])
        # Most images have few of the categories: dense sums would need images × categories memory.
        sums = (
            csc_array((values[rows].astype(np.float64), at), shape) for values in (above, below)
        )
        return Ratio(row, *sums)

    one, together = np.ones(len(truth)), np.zeros(len(truth), np.int64)
    for post in ("", "_post"):
        full = found.full_post if post else found.full
        hidden = found.hidden_post if post else found.hidden
        if full is None:
            continue
        for population, (chosen, note) in populations.items():
            for name, sums, counted in (
                ("mIoU_full", full, found.counted & chosen),
                ("mIoU_occluded", hidden, found.occluded & chosen),
            ):
                rows, n = np.flatnonzero(counted), int(counted.sum())
                iou = sums[:, 0] / np.maximum(sums[:, 1], 1)
                end = post + population
                yield ratio(Row(name + end, n, note=note), rows, iou, one, together)
                kinds = Row(f"{name}_per_category{end}", n, note=note)
                yield ratio(kinds, rows, iou, one, where.truth_category)
                if per_category and not end:
                    for k in np.unique(where.truth_category[rows]):
                        own = rows[where.truth_category[rows] == k]
                        yield ratio(Row(name, len(own), names[k]), own, iou, one, together)
            for name, sums, counted in (
                ("IoU_dataset", full, found.counted & chosen),
                ("IoU_dataset_occluded", hidden, found.occluded & chosen),
            ):
                rows = np.flatnonzero(counted)
                row = Row(f"{name}{post}{population}", len(rows), note=note)
                yield ratio(row, rows, sums[:, 0], sums[:, 1], together)
    for population, (chosen, note) in populations.items() if found.head is not None else ():
        rows = np.flatnonzero(found.occluded & chosen)
        iou = found.head[:, 0] / np.maximum(found.head[:, 1], 1)
        row = Row(f"mIoU_occluded_head{population}", len(rows), note=note)
        yield ratio(row, rows, iou, one, together)


def objects(evidence: Evidence, found: Completions) -> dict[str, object]:
    """Return columns of :data:`~amodal_pipeline.metrics.scores.OBJECTS` for the counted objects."""
    rows = np.flatnonzero(found.counted)
    truth = evidence.annotations.instances.iloc[rows]
    ids = evidence.predictions.predictions["prediction_id"].astype("Int64").to_numpy(object)
    at = found.prediction[rows]
    of = np.full(len(rows), None, dtype=object)
    of[at >= 0] = ids[at[at >= 0]]
    hidden = found.hidden[rows, 0] / np.maximum(found.hidden[rows, 1], 1)
    return {
        **{k: truth[k] for k in ("instance_id", "image_id", "category_id", "occlusion_rate")},
        "iou_full": found.full[rows, 0] / np.maximum(found.full[rows, 1], 1),
        "iou_occluded": pd.array(np.where(found.occluded[rows], hidden, np.nan), "Float64"),
        "matched": at >= 0,
        "prediction_id": of,
    }


def pair(
    evidence: Evidence, matches: DetectionMatches | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows of predictions and of instances that are paired, int64 [M] each.

    How they are paired, and the errors, are described at :func:`completions`.
    """
    predictions = evidence.predictions
    table, metadata = predictions.predictions, predictions.metadata
    if completes_truth(predictions):
        names, ids = "instance_id", table["instance_id"]
    elif matches is None:
        matches = detection_matches(evidence)
        names, ids = "prediction_id", table["prediction_id"]
    elif metadata.inputs == matches.method and table["source_id"].notna().all():
        names, ids = "source_id", table["source_id"]
    elif all(getattr(metadata, name) == getattr(matches, name) for name in _WHOSE):
        names, ids = "prediction_id", table["prediction_id"]
    else:
        raise ValueError(
            f"the matches are of the detector {matches.method!r} (variant {matches.variant!r}, "
            f"seed {matches.seed}, checkpoint {matches.checkpoint[:12]!r}), the predictions of "
            f"{metadata.method!r} ({metadata.variant!r}, {metadata.seed}, "
            f"{metadata.checkpoint[:12]!r}) on {metadata.inputs!r}: pass the matches of the "
            "predictions themselves or of the detector that they completed, or none"
        )
    ids = _ids(ids)
    if len(np.unique(ids)) != len(ids):
        twice = pd.Series(ids)[pd.Series(ids).duplicated()].iloc[0]
        raise ValueError(
            f"two predictions of {metadata.method!r} have the {names} {twice}: keep one of them"
        )
    if names != "instance_id":
        row = _position(ids, matches.prediction_id)
        rows, ids = row[row >= 0], matches.instance_id[row >= 0]
    else:
        rows = np.arange(len(ids))
    truth = evidence.annotations
    at = _position(_ids(truth.instances["instance_id"]), ids)
    if (at < 0).any():
        raise ValueError(
            f"prediction of {metadata.method!r} completes the instance {ids[at < 0][0]}, which the "
            f"annotations {truth.metadata.dataset}/{truth.metadata.split} do not have: "
            "predict again on these annotations"
        )
    return rows, at


def completes_truth(predictions: Predictions) -> bool:
    """Return whether the predictions complete true objects, which they name by ``instance_id``.

    Raises:
        ValueError: some predictions do and others do not.
    """
    named = predictions.predictions["instance_id"].notna().to_numpy(dtype=bool)
    if named.any() and not named.all():
        raise ValueError(
            f"{(~named).sum()} of {len(named)} predictions of {predictions.metadata.method!r} have "
            "no instance_id, but the others have one: keep detections and completed true objects "
            "in separate tables"
        )
    return bool(named.any())


def _ids(column: pd.Series) -> np.ndarray:
    return column.to_numpy(dtype=np.int64)


def _position(haystack: np.ndarray, needles: np.ndarray) -> np.ndarray:
    """Return each needle's position in ``haystack`` (unique ids), −1 if it is missing."""
    if len(haystack) == 0:
        return np.full(len(needles), -1, np.int64)
    order = np.argsort(haystack)
    place = order[np.minimum(np.searchsorted(haystack[order], needles), len(order) - 1)]
    return np.where(haystack[place] == needles, place, -1)
