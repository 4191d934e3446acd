"""All outputs of an evaluation: results, and the data for pictures and comparisons."""

from collections.abc import Iterable
from dataclasses import dataclass, fields

import pandas as pd
import pyarrow as pa

from amodal_pipeline.annotations.tables import concat
from amodal_pipeline.metrics import results as results_table

_WHOSE = {
    "dataset": pa.string(),
    "split": pa.string(),
    "method": pa.string(),
    "variant": pa.string(),
    "inputs": pa.string(),
    "seed": pa.int64(),
    "run_id": pa.string(),
}
WHOSE = tuple(_WHOSE)
DRAWS = pa.schema(
    _WHOSE
    | {
        "protocol": pa.string(),
        "metric": pa.string(),
        "value": pa.float64(),
        "values": pa.list_(pa.float32()),
        "images": pa.int64(),
        "bootstrap_seed": pa.int64(),
    }
)
CURVES = pa.schema(
    _WHOSE
    | {
        "target": pa.string(),
        "iou": pa.float64(),
        "recall": pa.float64(),
        "precision": pa.float64(),
    }
)
OBJECTS = pa.schema(
    _WHOSE
    | {
        "instance_id": pa.int64(),
        "image_id": pa.int64(),
        "category_id": pa.int64(),
        "occlusion_rate": pa.float32(),
        "iou_full": pa.float64(),
        "iou_occluded": pa.float64(),
        "matched": pa.bool_(),
        "prediction_id": pa.int64(),
    }
)


@dataclass(frozen=True)
class Scores:
    """The scores of one or several methods on one split.

    ``results``: rows of :data:`~amodal_pipeline.metrics.results.RESULTS`.
    ``draws``: each metric over all categories, with its value and its ``values`` in every bootstrap
    resample. Methods on a split share the resamples of one seed, so differences of their lists are
    paired. ``images`` is the number of units drawn per resample: images, or groups of images that
    show the same individuals.
    ``curves``: precision (0–1) at 101 recalls (0–1), mean over categories, of amodal and visible
    masks, at ``iou`` 0.5 and 0.75 and averaged over 0.5–0.95 (``iou`` null).
    ``objects``: one row per true object that counts: IoU (0–1) of its matched mask (0 if it has
    none) and of the part outside the true visible mask (null if nothing is hidden), and the
    prediction (null if none).
    """

    results: pd.DataFrame
    draws: pd.DataFrame
    curves: pd.DataFrame
    objects: pd.DataFrame


SCHEMAS = {"results": results_table.RESULTS, "draws": DRAWS, "curves": CURVES, "objects": OBJECTS}


# Rows of a method that agree in these columns are duplicates, per table.
_SAID = {
    "results": ("protocol", "category", "metric", "value"),
    "draws": ("protocol", "metric", "value"),
    "curves": ("target", "iou", "recall", "precision"),
    "objects": ("instance_id", "iou_full"),
}


def join(parts: Iterable[Scores]) -> Scores:
    """Return the scores of several methods as one.

    The scores of each method that completes objects or detections include the baselines on the
    same ones, so that several parts may have equal rows: these are kept once.

    Raises:
        ValueError: a method has a metric twice, with different values.
    """
    parts = list(parts)
    tables = {}
    for field in fields(Scores):
        table = concat(SCHEMAS[field.name], [getattr(part, field.name) for part in parts])
        again = table.duplicated([*WHOSE, *_SAID[field.name]])
        tables[field.name] = table[~again].reset_index(drop=True)
    return Scores(**tables | {"results": results_table.validate(tables["results"])})


def on_other_inputs(kept: Scores, new: Scores, method: str) -> Scores:
    """Return the scores in ``kept`` that are of other ``inputs`` than those in ``new``.

    Those of an input are left out if another checkpoint of ``method`` was scored on it, or if the
    annotations were others.
    """
    made = _made_by(new.results, method)
    wanted = {
        inputs
        for inputs, rows in kept.results.groupby("inputs")
        if _made_by(rows, method) and _made_by(rows, method) <= made
    }
    wanted -= set(new.results["inputs"])
    tables = {field.name: getattr(kept, field.name) for field in fields(Scores)}
    return Scores(
        **{
            name: table[table["inputs"].isin(wanted)].reset_index(drop=True)
            for name, table in tables.items()
        }
    )


def _made_by(results: pd.DataFrame, method: str) -> set[tuple[str, str]]:
    """Return checkpoint and annotations, the first and last part of a ``run_id``, of a method."""
    run_ids = results.loc[results["method"] == method, "run_id"].unique()
    return {(each.split("-")[0], each.split("-")[-1]) for each in run_ids}
