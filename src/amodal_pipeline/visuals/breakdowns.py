"""Scores by occlusion rate, by category, and by recall.

Each function returns rows with the columns "inputs" and "line" of
:func:`amodal_pipeline.visuals.comparisons.with_lines`; several seeds of a line are averaged.
"""

import numpy as np
import pandas as pd

from amodal_pipeline.visuals.comparisons import with_lines

BINS = 10  # of occluded objects, of equal width


def by_occlusion(objects: pd.DataFrame) -> pd.DataFrame:
    """Return the mean IoU (0–100) of objects in bins of their occlusion rate.

    Args:
        objects: rows of objects of all lines.

    Returns:
        Columns inputs, line, bin, objects, iou_full, iou_occluded (NaN where nothing is hidden).
        Bin 0 has the objects that are not occluded, bin k the rates in ((k − 1) / 10, k / 10].
    """
    rate = objects["occlusion_rate"].to_numpy(dtype=np.float64)
    # Rates are float32, in which 0.3 is slightly larger: it belongs to the bin that ends at 0.3.
    bins = np.ceil(np.round(BINS * rate, 5)).astype(np.int64).clip(0, BINS)
    table = with_lines(objects).assign(bin=np.where(rate > 0, np.maximum(bins, 1), 0))
    for name in ("iou_full", "iou_occluded"):
        table[name] = 100 * table[name].astype("float64").to_numpy(np.float64, na_value=np.nan)
    return table.groupby(["inputs", "line", "bin"], sort=False, as_index=False).agg(
        objects=("instance_id", "nunique"),
        iou_full=("iou_full", "mean"),
        iou_occluded=("iou_occluded", "mean"),
    )


def by_threshold(results: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Return a metric over all objects and over those above each evaluated occlusion rate.

    Returns:
        Columns inputs, line, threshold (percent; −1 for all objects), value. Empty for
        fewer than two thresholds, which make no curve.
    """
    found = (
        results["metric"]
        .astype(str)
        .str.extract(rf"^{metric}(?:_occluded(?P<rate>\d+(?:\.\d+)?))?$")["rate"]
    )
    whole = (results["metric"] == metric).to_numpy(dtype=bool)
    protocols = results["protocol"].isin(["coco", "vrsp"]).to_numpy(dtype=bool)
    chosen = (found.notna().to_numpy() | whole) & protocols
    chosen &= (results["category"] == "all").to_numpy(dtype=bool)
    table = with_lines(results[chosen])
    table = table.assign(threshold=found[chosen].astype(np.float64).fillna(-1.0))
    if table["threshold"].nunique() < 3:
        table = table[:0]
    table["value"] = table["value"].astype("float64")
    keys = ["inputs", "line", "threshold"]
    return table.groupby(keys, sort=False, as_index=False)["value"].mean()


def by_category(results: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Return a metric for each category.

    Returns:
        Columns protocol, inputs, line, main, category, value, n.
    """
    chosen = (results["metric"] == metric) & (results["category"] != "all")
    table = with_lines(results[chosen.to_numpy(dtype=bool)])
    table["value"] = table["value"].astype("float64")
    keys = ["protocol", "inputs", "line", "main", "category"]
    return table.groupby(keys, sort=False, as_index=False).agg(
        value=("value", "mean"), n=("n", "max")
    )


def precision_by_recall(curves: pd.DataFrame) -> pd.DataFrame:
    """Return the precision at each recall.

    Returns:
        Columns inputs, line, target, iou (0 for the mean over 0.50–0.95), recall, precision; the
        last two in percent.
    """
    table = with_lines(curves)
    for name in ("iou", "recall", "precision"):
        table[name] = table[name].astype("float64").to_numpy(np.float64, na_value=np.nan)
    table["iou"] = table["iou"].fillna(0.0)
    table[["recall", "precision"]] *= 100
    keys = ["inputs", "line", "target", "iou", "recall"]
    return table.groupby(keys, sort=False, as_index=False)["precision"].mean()
