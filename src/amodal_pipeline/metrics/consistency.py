"""How much the prediction for an object depends on its occluder.

Xiao et al., "Amodal Segmentation Based on Visible Region Segmentation and Shape Prior" (VRSP), AAAI
2021, claim in Fig. 1 that a method which uses the visible region only predicts the same amodal mask
for the same object under different occluders. This module measures that.
"""

from collections.abc import Callable

import numpy as np
import pandas as pd

from amodal_pipeline.annotations import rle
from amodal_pipeline.annotations.tables import AmodalAnnotations, Predictions, frame
from amodal_pipeline.metrics.checks import check
from amodal_pipeline.metrics.completion import DetectionMatches, pair
from amodal_pipeline.metrics.config import EvaluationConfig
from amodal_pipeline.metrics.evaluate import tabulate
from amodal_pipeline.metrics.evidence import Evidence
from amodal_pipeline.metrics.scores import CURVES, OBJECTS, Scores
from amodal_pipeline.metrics.tallies import Ratio, Row, per_image

PROTOCOL = "consistency"
METRICS = ("occluder_consistency", "occluder_consistency_all")


def evaluate_consistency(
    variants: AmodalAnnotations,
    predictions: Predictions,
    config: EvaluationConfig,
    matches: DetectionMatches | None = None,
    run_id: str = "",
    on_progress: Callable[[int, int], None] | None = None,
) -> Scores:
    """Return the scores of predictions for pictures of objects under several occluders each.

    Args:
        variants: the pictures, see :func:`consistency_tallies`.
        predictions: for these pictures, of any method that predicts amodal masks.
        config: the bootstrap's configuration; both figures are headline metrics.
        matches: see :func:`~amodal_pipeline.metrics.evaluate.evaluate`.
        run_id: stored in every row.
        on_progress: called with (done, total) parts of the bootstrap.

    Returns:
        Results and draws of the protocol "consistency". Its images are those that the pictures
        were made from: their resamples differ from those of the whole split, and all methods on
        the same pictures share them.

    Raises:
        ValueError: the predictions do not belong to these pictures, are damaged, or have no
            amodal masks; or the pictures are not variants of one another.
    """
    check(variants, predictions)
    evidence = Evidence(variants, predictions)
    if not evidence.has("amodal_rle"):
        raise ValueError(
            f"{predictions.metadata.method!r} predicts no amodal masks, so their consistency under "
            "two occluders cannot be measured: predict amodal masks or leave this method out"
        )
    tallies = consistency_tallies(evidence, matches)
    table, draws = tabulate(
        [(PROTOCOL, tally) for tally in tallies],
        len(tallies[0].numerator),
        predictions.metadata,
        config.model_copy(update={"headline": METRICS}),
        run_id,
        on_progress,
    )
    return Scores(table, draws, curves=frame(CURVES, {}), objects=frame(OBJECTS, {}))


def consistency_tallies(
    evidence: Evidence, matches: DetectionMatches | None = None
) -> tuple[Ratio, Ratio]:
    """Return the two figures of the protocol "consistency", means over targets.

    A target is the objects of one ``track_id``, each in a separate picture; ``video_id`` names the
    image that a picture was made from. Predictions are paired with targets as in the protocol
    "completion".

    occluder_consistency: mean IoU between the predictions for a target under every two of its
    occluders, over the pairs in which both exist; over targets with at least one such pair.
    occluder_consistency_all: over all pairs, 0 if a prediction is missing; over all targets.

    Args:
        evidence: the tables; images in ``values`` of the result are the ``video_id``, ascending.
        matches: see :func:`~amodal_pipeline.metrics.completion.completions`.

    Raises:
        ValueError: there are no targets, one appears in pictures of different images or sizes, or
            none appears twice.
    """
    target, source, row, other = _pairs(evidence.annotations)
    both, iou = _compared(evidence, _prediction_of(evidence, matches), row, other)

    images, image = np.unique(source, return_inverse=True)
    pairs = np.bincount(target)
    found, total = np.bincount(target, both), np.bincount(target, iou)
    of_image = np.zeros(len(pairs), np.int64)
    of_image[target] = image
    occluders = np.unique((1 + np.sqrt(1 + 8 * pairs)) / 2).astype(np.int64)
    note = f"{occluders[0]} occluders each" if len(occluders) == 1 else ""

    def ratio(metric: str, chosen: np.ndarray, of_pairs: np.ndarray) -> Ratio:
        means = np.where(chosen, total / np.maximum(of_pairs, 1), 0)
        above, below = (per_image(of_image, v, len(images)) for v in (means, chosen))
        return Ratio(Row(metric, int(chosen.sum()), note=note), above, below)

    return (
        ratio(METRICS[0], found > 0, found),
        ratio(METRICS[1], np.ones(len(pairs), bool), pairs),
    )


def appearances(
    variants: AmodalAnnotations,
    predictions: Predictions,
    matches: DetectionMatches | None = None,
) -> pd.DataFrame:
    """Return the prediction for each target under each occluder, and how consistent they are.

    The arguments are described at :func:`evaluate_consistency`.

    Returns:
        One row per appearance of a target: track_id, instance_id, image_id, ``prediction_id``
        (null if none) and ``consistency`` in 0–1, which is the target's value in
        occluder_consistency_all.
    """
    check(variants, predictions)
    evidence = Evidence(variants, predictions)
    of = _prediction_of(evidence, matches)
    target, _, row, other = _pairs(variants)
    _, iou = _compared(evidence, of, row, other)
    means = np.bincount(target, iou) / np.bincount(target)
    rows, first = np.unique(np.concatenate([row, other]), return_index=True)
    ids = predictions.predictions["prediction_id"].astype("Int64").to_numpy(object)
    prediction_id = np.full(len(rows), None, dtype=object)
    prediction_id[of[rows] >= 0] = ids[of[rows[of[rows] >= 0]]]
    table = variants.instances.iloc[rows]
    return pd.DataFrame(
        {
            **{k: table[k].to_numpy(np.int64) for k in ("track_id", "instance_id", "image_id")},
            "prediction_id": pd.array(prediction_id, "Int64"),
            "consistency": means[np.concatenate([target, target])[first]],
        }
    )


def _prediction_of(evidence: Evidence, matches: DetectionMatches | None) -> np.ndarray:
    """Return the row of the prediction that each instance is paired with, −1 for none."""
    prediction, instance = pair(evidence, matches)
    of = np.full(len(evidence.annotations.instances), -1, np.int64)
    of[instance] = prediction
    return of


def _compared(
    evidence: Evidence, of: np.ndarray, row: np.ndarray, other: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return whether both instances of a pair have a prediction, and the masks' IoU (0–1)."""
    both = (of[row] >= 0) & (of[other] >= 0)
    masks = evidence.predictions.predictions["amodal_rle"]
    sides = (masks.iloc[of[rows[both]]].tolist() for rows in (row, other))
    iou = np.zeros(len(row))
    iou[both] = rle.pair_iou(*sides)
    return both, iou


def _pairs(
    variants: AmodalAnnotations,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return every two appearances of a target.

    Returns:
        int64 [P] each: the target's number (0, 1, …), the image its pictures were made from, and
        two rows of the instances.
    """
    table, here = variants.instances, variants.metadata
    whose = f"{here.dataset}/{here.split} in {here.image_root}"
    made_from = variants.images.set_index("image_id")["video_id"]
    rows = np.flatnonzero(table["track_id"].notna())
    sources = made_from.loc[table["image_id"].iloc[rows]]
    if not len(rows) or sources.isna().any():
        raise ValueError(
            f"{whose} has no objects under several occluders: make such pictures first, with "
            "amodal_pipeline.compose.variants.compose_variants"
        )
    shown = pd.DataFrame(
        {
            "track": table["track_id"].iloc[rows].to_numpy(dtype=np.int64),
            "source": sources.to_numpy(dtype=np.int64),
            "height": variants.sizes[rows, 0],
            "width": variants.sizes[rows, 1],
            "row": rows,
        }
    )
    differ = shown.groupby("track")[["source", "height", "width"]].nunique().max(axis=1) > 1
    if differ.any():
        raise ValueError(
            f"{whose}: the pictures of target {differ.idxmax()} are of different images or sizes: "
            "make them again"
        )
    pairs = shown.merge(shown[["track", "row"]], on="track", suffixes=("", "_other"))
    pairs = pairs[pairs["row"] < pairs["row_other"]]
    if not len(pairs):
        raise ValueError(f"{whose}: no target appears under two occluders: make them again")
    number = np.unique(pairs["track"], return_inverse=True)[1]
    return number, *(pairs[name].to_numpy() for name in ("source", "row", "row_other"))
