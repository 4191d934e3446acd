"""Depth order: which of two overlapping objects is in front.

Pairs are those of Zhang et al., "Learning Semantics-aware Distance Map with Semantics Layering
Network" (SLN), ACM MM 2019, section 5.1: overlapping objects of an image. Metrics that end in
``_occluding`` use only pairs in which one object hides pixels of the other; metrics that end in
``_touching`` use only those of them whose visible masks touch, the pairs that the released code of
Zhan et al., "Self-Supervised Scene De-occlusion" (PCNet), CVPR 2020, counts.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from amodal_pipeline.annotations import KnownObjects, rle
from amodal_pipeline.annotations.order import overlapping
from amodal_pipeline.annotations.tables import (
    INSTANCES,
    PREDICTION_ORDER,
    AmodalAnnotations,
    Predictions,
    frame,
    strings,
)
from amodal_pipeline.metrics.tallies import Ratio, Row, Tally, per_image


@dataclass(frozen=True, eq=False)
class TrueOrder:
    """Pairs of true objects whose amodal masks overlap, the nearer one first.

    ``front``, ``back`` are rows of the instances, int64 [P]; ``occluding`` bool [P]: one object
    hides pixels of the other; ``touching`` bool [P]: also, a visible pixel of one is equal to, or
    above, below, left or right of, a visible pixel of the other. ``unknown`` counts the overlapping
    pairs of unknown order: all, occluding, touching ones; ``crowded`` the images that were skipped.
    """

    front: np.ndarray
    back: np.ndarray
    occluding: np.ndarray
    touching: np.ndarray
    unknown: tuple[int, int, int]
    crowded: int


def true_order(annotations: AmodalAnnotations) -> TrueOrder:
    """Return which object is in front, for each pair of objects that are not ignored.

    The order is the direction that ``annotations.order`` states, inferred ones included. If it
    states both (a rider and a horse) or neither, it is the direction in which more pixels are
    hidden, those of V_a ∩ (A_b \\ V_b) or of V_b ∩ (A_a \\ V_a); with equal numbers it is unknown.
    Images with too many objects, or too detailed ones (:func:`order.too_crowded`), are skipped.
    """
    table = annotations.instances
    counted = np.flatnonzero(~table["ignore"].to_numpy(dtype=bool))
    i, j, crowded = overlapping(table.iloc[counted])
    i, j = counted[i], counted[j]

    ids, order = pd.Index(table["instance_id"].to_numpy(dtype=np.int64)), annotations.order
    ends = (ids.get_indexer(order[column]) for column in ("occluder_id", "occludee_id"))
    stated = _keys(*ends, len(ids))
    i_first = np.isin(_keys(i, j, len(ids)), stated)
    j_first = np.isin(_keys(j, i, len(ids)), stated)

    involved, place = np.unique(np.concatenate([i, j]), return_inverse=True)
    at_i, at_j = place[: len(i)], place[len(i) :]
    amodal, visible = (
        strings(table[name]).take(involved) for name in ("amodal_rle", "visible_rle")
    )
    seen, hidden = rle.unpack(visible), rle.unpack(rle.difference(amodal, visible))
    i_hides = rle.shared_area_of_pairs(seen, at_i, hidden, at_j)
    j_hides = rle.shared_area_of_pairs(seen, at_j, hidden, at_i)

    disputed = i_first == j_first
    i_first = np.where(disputed, i_hides > j_hides, i_first)
    j_first = np.where(disputed, j_hides > i_hides, j_first)
    known, occluding = i_first | j_first, (i_hides > 0) | (j_hides > 0)
    grown = rle.dilate(seen, annotations.sizes[involved])
    touching = occluding & (rle.shared_area_of_pairs(grown, at_i, seen, at_j) > 0)
    return TrueOrder(
        front=np.where(i_first, i, j)[known],
        back=np.where(i_first, j, i)[known],
        occluding=occluding[known],
        touching=touching[known],
        unknown=tuple(int((of & ~known).sum()) for of in (~known, occluding, touching)),
        crowded=len(crowded),
    )


def order_tallies(
    annotations: AmodalAnnotations,
    predictions: Predictions,
    prediction_row: np.ndarray,
    instance_row: np.ndarray,
) -> list[Tally]:
    """Return the tallies of the protocol "order" over the pairs of :func:`true_order`.

    order_accuracy: share of pairs whose order is predicted correctly; order_coverage: share of
    pairs with a predicted order; order_accuracy_decided: share of the latter that are correct. Each
    also with ``_occluding`` and ``_touching``, over such pairs only. The predicted order is what
    ``predictions.order`` says about the predictions that the two objects are matched to; if it has
    both directions, the one with the higher score counts, and equal scores give no order. A pair
    with an unmatched object has no predicted order.

    Args:
        prediction_row, instance_row: int64 [M], matched rows of ``predictions.predictions`` and of
            ``annotations.instances``, each at most once.

    Raises:
        ValueError: ``predictions.order`` names a prediction that does not exist, or has a score
            that is not finite.
    """
    true = true_order(annotations)
    match = np.full(len(annotations.instances), -1, np.int64)
    match[instance_row] = prediction_row
    front, back = match[true.front], match[true.back]
    scores = _scores(predictions)
    agreeing, contrary = scores(front, back), scores(back, front)

    ids = np.unique(annotations.images["image_id"].to_numpy(dtype=np.int64))
    image_id = annotations.instances["image_id"].to_numpy(dtype=np.int64)
    image = np.searchsorted(ids, image_id[true.front])
    populations = (
        ("", np.ones(len(front), bool)),
        ("_occluding", true.occluding),
        ("_touching", true.touching),
    )
    tallies = []
    for (suffix, among), unknown in zip(populations, true.unknown, strict=True):
        note = _note(unknown, true.crowded)
        decided, right = among & (agreeing != contrary), among & (agreeing > contrary)
        for name, hits, of in (
            ("order_accuracy", right, among),
            ("order_coverage", decided, among),
            ("order_accuracy_decided", right, decided),
        ):
            row = Row(f"{name}{suffix}", int(of.sum()), note=note)
            above, below = (per_image(image, pairs, len(ids)) for pairs in (hits, of))
            tallies.append(Ratio(row, above, below))
    return tallies


def by_area(
    predictions: Predictions, front: Literal["larger", "smaller"] = "larger"
) -> Predictions:
    """Return the predictions, ordered so that the one with the larger visible mask is in front.

    A rule without parameters, the baseline "area" of Zhan et al. (CVPR 2020); their released code
    puts the larger one in front on KINS and the smaller one on COCOA. Their pairs are those whose
    visible masks touch; here they are those whose amodal masks (visible ones if a prediction has
    no amodal mask) share a pixel. The amodal mask is measured if there is no visible mask. A
    prediction with an empty mask is behind; equal areas give no order. Images with too many
    predictions to compare all pairs (:func:`order.too_crowded`) have no order.

    Args:
        predictions: of any method; their own order is discarded.
        front: which one is in front; "smaller" becomes the variant of the results.

    Returns:
        The same predictions with ``order`` of score 1, method "order_by_area". Detections become
        their own ``source_id`` and ``inputs`` their method, so that they are matched like the
        detector's; predictions that completed detections or objects stay paired with these.
    """
    sign = 1 if front == "larger" else -1
    return _by_rule(
        *(predictions, "order_by_area", "full" if front == "larger" else front, f"{front} area"),
        lambda masks, sizes: sign * rle.area(masks),
    )


def by_lowest_point(predictions: Predictions) -> Predictions:
    """Return the predictions, ordered so that the one that reaches lower in the image is in front.

    This holds for objects that stand on the ground. A rule without parameters, after the baseline
    "Y-axis" of Zhan et al. (CVPR 2020), whose released code compares the mean rows of the visible
    masks instead of their lowest ones.

    Pairs, arguments and result are described at :func:`by_area`; the method is
    "order_by_lowest_point".
    """
    return _by_rule(
        *(predictions, "order_by_lowest_point", "full", "lowest point"),
        lambda masks, sizes: rle.box(masks, sizes)[:, [1, 3]].sum(axis=1),
    )


def _by_rule(
    predictions: Predictions,
    method: str,
    variant: str,
    source: str,
    nearness: Callable[[pa.Array, np.ndarray], np.ndarray],
) -> Predictions:
    table, sizes = predictions.predictions, predictions.sizes
    amodal, visible = (strings(table[f"{kind}_rle"]) for kind in ("amodal", "visible"))
    whole, seen = pc.coalesce(amodal, visible), pc.coalesce(visible, amodal)
    columns = {
        "image_id": table["image_id"],
        "amodal_rle": pd.Series(whole, dtype=pd.ArrowDtype(pa.string())),
        "amodal_box": rle.box(whole, sizes),
    }
    i, j, _ = overlapping(frame(INSTANCES, columns))
    near = np.where(rle.area(seen) > 0, nearness(seen, sizes), -np.inf)
    apart = near[i] != near[j]
    i, j = i[apart], j[apart]
    nearer = near[i] > near[j]
    front, back = np.where(nearer, i, j), np.where(nearer, j, i)

    ids, image_id = (table[name].to_numpy(dtype=np.int64) for name in ("prediction_id", "image_id"))
    order = {
        "image_id": image_id[front],
        "front_id": ids[front],
        "back_id": ids[back],
        "score": np.ones(len(front), np.float32),
        "source": [source] * len(front),
    }
    objects = KnownObjects.of(predictions)
    described = {"method": method, "variant": variant, "checkpoint": "", "inputs": objects.inputs}
    return dataclasses.replace(
        predictions,
        metadata=predictions.metadata.model_copy(update=described),
        predictions=objects.with_columns(source_id=objects.source_id).table.predictions,
        order=frame(PREDICTION_ORDER, order),
    )


def _scores(predictions: Predictions) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """Return a function that gives the score with which one row is in front of another.

    Its value is −inf if nothing is predicted, and for the row −1.
    """
    order, ids = predictions.order, predictions.predictions["prediction_id"].to_numpy(np.int64)
    whose = f"the order of {predictions.metadata.method!r}"
    ends = []
    for column in ("front_id", "back_id"):
        row = pd.Index(ids).get_indexer(order[column])
        if (row < 0).any():
            raise ValueError(
                f"{whose}: {column} {order[column].iloc[np.argmin(row)]} is no prediction_id: "
                "name predictions of the same table"
            )
        ends.append(row)
    score = order["score"].to_numpy(dtype=np.float64, na_value=np.nan)
    if not np.isfinite(score).all():
        pair = order[~np.isfinite(score)].iloc[0]
        raise ValueError(
            f"{whose}: {pair['front_id']} over {pair['back_id']} has no finite score: give every "
            "pair one (1 if the method has none)"
        )
    known, place = np.unique(_keys(*ends, len(ids)), return_inverse=True)
    best = np.full(len(known) + 1, -np.inf)
    np.maximum.at(best, place, score)

    def scores(front: np.ndarray, back: np.ndarray) -> np.ndarray:
        wanted = np.where((front < 0) | (back < 0), -1, _keys(front, back, len(ids)))
        at = np.searchsorted(known, wanted)
        return np.where(np.append(known, -1)[at] == wanted, best[at], -np.inf)

    return scores


def _keys(front: np.ndarray, back: np.ndarray, rows: int) -> np.ndarray:
    return np.asarray(front, np.int64) * rows + np.asarray(back, np.int64)


def _note(unknown: int, crowded: int) -> str:
    said = []
    if unknown:
        said.append(f"{unknown} overlapping pairs of unknown order are left out")
    if crowded:
        said.append(f"{crowded} images with too many objects to compare all pairs are left out")
    return "; ".join(said)
