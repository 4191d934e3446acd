"""The published protocols for detections. Each function returns the tallies of one protocol.

They differ in what is compared (amodal, visible, both, hidden masks, boxes), in which objects are
ignored, and in how unmatched detections count.
"""

import itertools
from collections.abc import Iterator, Sequence

import numpy as np

from amodal_pipeline.annotations import rle
from amodal_pipeline.annotations.tables import strings
from amodal_pipeline.metrics.coco import (
    MAX_DETECTIONS,
    THRESHOLDS,
    Measure,
    Precision,
    Ranking,
    candidates,
    match,
    measures,
    occlusion_suffix,
)
from amodal_pipeline.metrics.evidence import Evidence
from amodal_pipeline.metrics.pairs import Pairs
from amodal_pipeline.metrics.tallies import Row

COLUMNS = {"amodal": "amodal_rle", "visible": "visible_rle", "box": "amodal_box"}
OCCLUSION = {"none": (-1.0, 1e-5), "partial": (1e-5, 0.25), "heavy": (0.25, 1.0)}  # (above, up to]
AMODALAPI_LIMITS = (10, 100, 1000)


def coco(
    evidence: Evidence, *, class_agnostic: bool = False, per_category: bool = False
) -> Iterator[Precision]:
    """Yield COCO's AP, AP50, AP75, AR1, AR10 and AR100 of amodal and visible masks and boxes.

    Boxes are amodal. Objects marked ``ignore`` are ignored; for visible masks, objects of which
    nothing is visible are ignored as well, and detections with an empty visible mask are dropped.
    Only what the method predicts is scored.
    """
    for target, column in COLUMNS.items():
        if not evidence.has(column):
            continue
        ignored = _never(evidence, target)
        yield _precision(
            evidence,
            getattr(evidence, target),
            ignored,
            measures(target, int((~ignored).sum())),
            ranking=_ranking(evidence, target, class_agnostic),
            per_category=f"AP_{target}" if per_category and not class_agnostic else None,
        )


def vrsp(evidence: Evidence, thresholds: Sequence[float]) -> Iterator[Precision]:
    """Yield COCO's figures over objects with an occlusion rate above each threshold.

    All other objects are ignored (Xiao et al., AAAI 2021, Table 1: above 15 %).
    """
    for target, column in COLUMNS.items():
        if not evidence.has(column):
            continue
        for threshold in thresholds:
            # As float32, a rate of exactly 15 % is not above 0.15.
            ignored = _never(evidence, target) | (evidence.rate <= np.float32(threshold))
            suffix = f"{target}_{occlusion_suffix(threshold)}"
            yield _precision(
                evidence,
                getattr(evidence, target),
                ignored,
                measures(suffix, int((~ignored).sum())),
                ranking=_ranking(evidence, target),
            )


def vrsp_released(evidence: Evidence, thresholds: Sequence[float]) -> Iterator[Precision]:
    """Yield the figures of :func:`vrsp` by the rule of VRSP's released evaluator.

    It uses COCO's area ranges with the visible share of a mask in place of its area. An object
    counts if its visible share is at most 1 - t, which includes a rate of exactly t. An unmatched
    detection is left out if its own visible share |A ∩ V| / |A| is above 1 - t. Only for methods
    that predict both masks.
    """
    if evidence.substituted is not None:
        return
    table, truth = evidence.predictions.predictions, evidence.annotations.instances
    share = [
        _visible_share(strings(t["amodal_rle"]), strings(t["visible_rle"])) for t in (table, truth)
    ]
    for threshold in thresholds:
        ignored = evidence.marked | (share[1] > 1 - threshold)
        yield _precision(
            evidence,
            evidence.amodal,
            ignored,
            measures(
                f"amodal_{occlusion_suffix(threshold)}",
                int((~ignored).sum()),
                note="unmatched detections that look less occluded themselves are left out",
            ),
            excused=share[0] > 1 - threshold,
        )


def orcnn(evidence: Evidence) -> Iterator[Precision]:
    """Yield the figures of the protocol of Follmann et al. (WACV 2019), section 3.

    ``_both`` (the paper's AP_AV): a match needs amodal and visible IoU above the threshold; the
    smaller of the two is used for both. ``_occluded0``: objects without a hidden part are ignored.
    AP50_invisible (AP_IV): hidden parts at IoU 0.5, over objects that have one. A method that lacks
    one of the two masks is scored with the other in its place.

    For AP_V and AP_IV the paper leaves out proposals whose amodal mask has an IoU of at least 0.5
    with an ignored object. Here that holds for detections of its category that match no other
    object, so that two objects in one place do not cost a detection. For AP_AV it holds with
    objects that are marked or of which nothing is visible. AP_visible drops detections with an
    empty visible mask, as :func:`coco` does, since both report it under one name.
    """
    lacks = evidence.substituted
    note = f"no {lacks} masks: scored with the {'visible' if lacks == 'amodal' else 'amodal'} ones"
    note = note if lacks else ""
    targets = {
        "both": (evidence.both, evidence.never_seen),
        "amodal": (evidence.amodal_or_visible, np.zeros_like(evidence.marked)),
        "visible": (evidence.visible_or_amodal, evidence.never_seen),
    }
    unoccluded = evidence.rate <= 0
    for target, (pairs, hidden) in targets.items():
        concerns = note if lacks and target in ("both", lacks) else ""
        for suffix, others in (("", np.zeros_like(hidden)), ("_occluded0", unoccluded)):
            ignored = evidence.marked | hidden | others
            not_sought = ignored if target == "visible" else evidence.marked | hidden
            yield _precision(
                evidence,
                pairs,
                ignored,
                measures(f"{target}{suffix}", int((~ignored).sum()), note=concerns),
                ranking=_ranking(evidence, target),
                excused=None if target == "amodal" else _overlaps_ignored(evidence, not_sought),
            )
    if evidence.invisible is not None:
        ignored = evidence.marked | unoccluded
        own = evidence.has("invisible_rle")
        row = Row(
            "AP50_invisible",
            int((~ignored).sum()),
            note="" if own else "hidden part: amodal mask without visible mask",
        )
        yield _precision(
            evidence,
            evidence.invisible,
            ignored,
            (Measure(row, threshold=0),),
            excused=_overlaps_ignored(evidence, ignored),
        )


def amodalapi(evidence: Evidence) -> Iterator[Precision]:
    """Yield class-agnostic AP and AR of amodal masks, as Zhu et al. and SLN score COCOA.

    Zhu et al. (CVPR 2017) use up to 1,000 detections per image: AP, AR10, AR100, AR1000, and AR1000
    of each band. SLN uses up to 100: AP_top100, AR10, AR100, and AR (at 100) of each band. Bands:
    ``_none``, ``_partial`` and ``_heavy`` are objects with a rate up to 0.00001, up to 0.25, and
    above. ``_things`` and ``_stuff``, also of each band, exist if a data set has both. All other
    objects are ignored. (Their code counts an object on a limit in both bands.)
    """
    if not evidence.has("amodal_rle"):
        return
    thing = evidence.annotations.instances["is_thing"].to_numpy(dtype=bool)
    kinds = {"": np.ones_like(thing)}
    if thing.any() and not thing.all():
        kinds |= {"_things": thing, "_stuff": ~thing}
    bands = {"": np.ones_like(thing)} | {
        f"_{name}": (evidence.rate > np.float32(above)) & (evidence.rate <= np.float32(most))
        for name, (above, most) in OCCLUSION.items()
    }
    for (band, within), (kind, wanted) in itertools.product(bands.items(), kinds.items()):
        ignored = evidence.marked | ~within | ~wanted
        n = int((~ignored).sum())
        of = f"{band}{kind}"
        # SLN's recall of a band has no number in its name.
        recall = {10: "AR10", 100: "AR" if band else "AR100", 1000: "AR1000"}
        yield _precision(
            evidence,
            evidence.amodal,
            ignored,
            (
                Measure(Row(f"AP{of}", n)),
                *(Measure(Row(f"{name}{of}", n), limit=at) for at, name in recall.items()),
            ),
            ranking=evidence.proposals,
            limits=AMODALAPI_LIMITS,
        )
        yield _precision(
            evidence,
            evidence.amodal,
            ignored,
            (Measure(Row(f"AP_top100{of}", n)),),
            ranking=evidence.pooled,
        )


def _precision(
    evidence: Evidence,
    pairs: Pairs,
    ignored: np.ndarray,
    rows: tuple[Measure, ...],
    *,
    ranking: Ranking | None = None,
    limits: tuple[int, ...] = MAX_DETECTIONS,
    excused: np.ndarray | None = None,
    per_category: str | None = None,
) -> Precision:
    """Match pairs and return the tally; ``ignored`` and ``excused`` are by row of their tables."""
    ranking = ranking or evidence.by_category
    flags = ignored[ranking.truth_row]
    tally = Precision(
        ranking,
        match(candidates(ranking, pairs), flags, THRESHOLDS),
        flags,
        rows,
        limits,
        None if excused is None else excused[ranking.detection_row],
    )
    if per_category is None:
        return tally
    names = [category.name for category in evidence.annotations.metadata.categories]
    own = tuple(
        Measure(Row(per_category, int(n), names[k]), category=k)
        for k, n in enumerate(tally.count)
        if n
    )
    return Precision(ranking, tally.matched, flags, (*rows, *own), limits, tally.excused)


def _ranking(evidence: Evidence, target: str, class_agnostic: bool = False) -> Ranking:
    if target == "visible":
        return evidence.seen_pooled if class_agnostic else evidence.seen_by_category
    return evidence.pooled if class_agnostic else evidence.by_category


def _never(evidence: Evidence, target: str) -> np.ndarray:
    """Return the objects that never count for a target, bool [G]."""
    return evidence.marked | evidence.never_seen if target == "visible" else evidence.marked


def _visible_share(amodal: rle.Masks, visible: rle.Masks) -> np.ndarray:
    """Return |A ∩ V| / |A|, float64 [N]; 0 if a mask is missing or empty."""
    share = np.zeros(len(amodal))
    valid = amodal.is_valid().to_numpy(zero_copy_only=False)
    rows = np.flatnonzero(valid & visible.is_valid().to_numpy(zero_copy_only=False))
    a = amodal.take(rows)
    share[rows] = rle.shared_area(a, visible.take(rows)) / np.maximum(rle.area(a), 1)
    return share


def _overlaps_ignored(evidence: Evidence, ignored: np.ndarray) -> np.ndarray:
    """Return the detections that overlap an ignored object of their category, bool [D].

    A detection overlaps if its amodal mask has an IoU of at least 0.5 with the object's.
    """
    where, pairs = evidence.where, evidence.amodal_or_visible
    same = where.detection_category[pairs.detection] == where.truth_category[pairs.truth]
    flags = np.zeros(len(where.score), bool)
    flags[pairs.detection[same & ignored[pairs.truth]]] = True
    return flags
