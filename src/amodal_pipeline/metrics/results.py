"""The results table: one row per number."""

import math
import os
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa

from amodal_pipeline.annotations.tables import PredictionsMetadata, concat, frame

RESULTS = pa.schema(
    {
        "dataset": pa.string(),
        "split": pa.string(),
        "method": pa.string(),
        "variant": pa.string(),
        "inputs": pa.string(),
        "protocol": pa.string(),
        "category": pa.string(),
        "metric": pa.string(),
        "value": pa.float64(),
        "n": pa.int64(),
        "low": pa.float64(),
        "high": pa.float64(),
        "seed": pa.int64(),
        "run_id": pa.string(),
        "note": pa.string(),
    }
)
NUMBERS = ("value", "low", "high")
KEY = [name for name in RESULTS.names if name not in (*NUMBERS, "n", "note")]


class Measurement(NamedTuple):
    """One number of the results.

    ``value`` is in 0–100 (NaN if there is nothing to measure) and was measured on ``n`` objects or
    pairs; ``low`` and ``high`` bound it if an interval was computed; ``note`` must be considered
    before it is compared.
    """

    metric: str
    value: float
    n: int
    category: str = "all"
    low: float = math.nan
    high: float = math.nan
    note: str = ""


def rows(
    metadata: PredictionsMetadata,
    protocol: str,
    measurements: Iterable[Measurement],
    run_id: str = "",
) -> pd.DataFrame:
    """Return measurements as rows of results, labelled with the predictions' metadata."""
    columns = {name: [] for name in Measurement._fields}
    for measurement in measurements:
        for name, value in zip(Measurement._fields, measurement, strict=True):
            columns[name].append(value)
    constant = metadata.model_dump(
        include={"dataset", "split", "method", "variant", "inputs", "seed"}
    )
    constant |= {"protocol": protocol, "run_id": run_id}
    n = len(columns["metric"])
    return validate(pd.DataFrame(columns | {k: [v] * n for k, v in constant.items()}))


def validate(results: pd.DataFrame) -> pd.DataFrame:
    """Return the same rows with the columns and types of :data:`RESULTS`, also from a CSV file.

    Raises:
        ValueError: a column is missing or unknown, a number is out of its range, or two rows
            give the same metric of the same predictions.
    """
    missing = [name for name in RESULTS.names if name not in results]
    if missing:
        raise ValueError(f"results lack the columns {missing}; the table has {RESULTS.names}")
    # A CSV file gives an empty text back as a missing value; missing numbers become null.
    text = {f.name: results[f.name].astype(object) for f in RESULTS if f.type == pa.string()}
    text = {name: column.where(column.notna(), "") for name, column in text.items()}
    numbers = {name: pd.to_numeric(results[name]).astype("float64") for name in NUMBERS}
    results = frame(RESULTS, results.assign(**text, **numbers))
    for name in NUMBERS:
        off = (results[name] < 0) | (results[name] > 100)
        if off.fillna(False).any():
            row = results[off.fillna(False)].iloc[0]
            raise ValueError(
                f"{name} of {_named(row)} is {row[name]}, not within 0–100: give it in percent"
            )
    if results["n"].isna().any() or (results["n"] < 0).any():
        raise ValueError(
            "n, the number of objects or pairs of a result, is missing or negative: give each "
            "result its n"
        )
    twice = results.duplicated(KEY)
    if twice.any():
        raise ValueError(
            f"{_named(results[twice].iloc[0])} is given twice: "
            "evaluate each method and variant once, or give each run its run_id"
        )
    return results


def read(path: str | os.PathLike, rows: int | None = None) -> pd.DataFrame:
    """Return a table of results read from its CSV file, with names as written ("NA", "001").

    Raises:
        ValueError: the file is no table, or has an error that :func:`validate` raises.
    """
    text = [field.name for field in RESULTS if field.type == pa.string()]
    table = pd.read_csv(
        path,
        nrows=rows,
        dtype=dict.fromkeys(text, "str"),
        keep_default_na=False,
        na_values={name: [""] for name in RESULTS.names if name not in text},
        float_precision="round_trip",
    )
    return validate(table)


def join(parts: Iterable[pd.DataFrame]) -> pd.DataFrame:
    """Return parts of the results table concatenated and validated."""
    return validate(concat(RESULTS, [validate(part) for part in parts]))


def summary_table(results: pd.DataFrame, metrics: Sequence[str]) -> pd.DataFrame:
    """Return one line per method, variant and inputs; one column per metric, over all categories.

    Lines keep the order of the results; metrics that no method has are empty columns. Several seeds
    or runs of one method are averaged.

    Raises:
        ValueError: the results are of several data sets or splits, or several protocols have a
            metric: select one first.
    """
    results = validate(results)
    for name in ("dataset", "split"):
        if len(several := results[name].unique()) > 1:
            raise ValueError(f"results of several {name}s {list(several)}: select one first")
    line = ["method", "variant", "inputs"]
    chosen = results[results["metric"].isin(list(metrics)) & (results["category"] == "all")]
    protocols = chosen.groupby("metric")["protocol"].nunique()
    if (protocols > 1).any():
        ambiguous = protocols.index[protocols > 1].tolist()
        raise ValueError(f"several protocols give {ambiguous}: select one protocol first")
    lines = pd.MultiIndex.from_frame(results[line].drop_duplicates())
    values = chosen.pivot_table("value", line, "metric", aggfunc="mean", sort=False)
    return values.reindex(index=lines, columns=list(metrics)).astype(np.float64).reset_index()


def _named(row: pd.Series) -> str:
    return f"{row['metric']} ({row['protocol']}, {row['category']}) of {row['method']}"
