"""Results sorted into tables whose lines can be compared."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from amodal_pipeline.annotations import Given

_COLUMNS = ("dataset", "split", "method", "variant", "inputs", "protocol", "category", "metric")
_NUMBERS = ("value", "n", "low", "high")


@dataclass(frozen=True)
class Comparison:
    """Hold a table of methods by metrics, measured on one split by one protocol from like inputs.

    ``inputs`` is that of ``Given.IMAGE`` for methods that start from the image, with or without a
    detector; else it says which truth they were given: such lines know more and have a table of
    their own.
    Arrays are float64 [lines, metrics] with NaN where nothing was measured: ``value``, ``low`` and
    ``high`` in 0–100, ``n`` objects or pairs. Several runs of a line are averaged, ``low`` and
    ``high`` then being one standard deviation below and above; ``runs`` int64 [lines]. ``note``
    [lines, metrics] is text to be read before a value is compared.
    """

    dataset: str
    split: str
    protocol: str
    inputs: str
    lines: tuple[str, ...]
    metrics: tuple[str, ...]
    value: np.ndarray
    n: np.ndarray
    low: np.ndarray
    high: np.ndarray
    note: np.ndarray
    runs: np.ndarray

    @property
    def about(self) -> str:
        """Return data set, split and protocol as text."""
        return f"{self.dataset}, {self.split}  ·  protocol {self.protocol}"

    @property
    def given(self) -> str:
        """Return in words what the methods started from."""
        return in_words(self.inputs)

    def of(self, metrics: Sequence[str]) -> "Comparison | None":
        """Return these metrics, in this order, without lines that lack them; None if all do."""
        columns = [self.metrics.index(m) for m in metrics if m in self.metrics]
        if not columns:
            return None
        rows = np.flatnonzero(np.isfinite(self.value[:, columns]).any(axis=1))
        if not len(rows):
            return None
        cut = np.ix_(rows, columns)
        return Comparison(
            self.dataset,
            self.split,
            self.protocol,
            self.inputs,
            tuple(self.lines[i] for i in rows),
            tuple(self.metrics[i] for i in columns),
            *(getattr(self, name)[cut] for name in (*_NUMBERS, "note")),
            self.runs[rows],
        )

    def among(self, lines: Sequence[str]) -> "Comparison | None":
        """Return these lines, in their present order; None if the table has none of them."""
        rows = [i for i, line in enumerate(self.lines) if line in lines]
        if not rows:
            return None
        arrays = (getattr(self, name)[rows] for name in (*_NUMBERS, "note", "runs"))
        chosen = tuple(self.lines[i] for i in rows)
        place = self.dataset, self.split, self.protocol, self.inputs
        return Comparison(*place, chosen, self.metrics, *arrays)

    def best(self, decimals: int = 1) -> np.ndarray:
        """Return which values are printed as the best of their metric, bool [lines, metrics].

        A metric with a single value has no best.
        """
        printed = np.round(self.value, decimals)
        known = np.isfinite(printed)
        highest = np.max(np.where(known, printed, -np.inf), axis=0, initial=-np.inf)
        return known & (printed == highest) & (known.sum(axis=0) > 1)


def in_words(inputs: str) -> str:
    """Return in words what methods started from."""
    words = {
        Given.IMAGE: "from the image",
        Given.TRUE_MASKS: "given the true visible masks",
        Given.TRUE_BOXES: "given the true visible masks and amodal boxes",
        Given.NOISY_MASKS: "given the true visible masks with noise",
    }
    return words.get(inputs, f"given {inputs.replace('_', ' ')}")


def kinds(inputs: pd.Series) -> pd.Series:
    """Return which truth the methods were given, else the image; only equal ones are compared."""
    known = inputs.map(lambda each: Given.of(each).from_truth).astype(bool)
    return inputs.where(known, Given.IMAGE.value)


def with_lines(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table of scores with a name for each row's method and variant.

    The column "line" is the name; "inputs" becomes that of :func:`kinds`; "main" says whether the
    line is a method as published and not a variant.
    """
    text = table[["method", "variant", "inputs"]].astype(object)
    text = text.where(text.notna(), "").astype(str)
    names = [_line(*row) for row in text.itertuples(index=False)]
    kind = kinds(text["inputs"])
    return table.assign(line=names, inputs=kind, main=text["variant"].isin(["", "full"]))


def comparisons(results: pd.DataFrame) -> list[Comparison]:
    """Return the results over all categories in tables that compare like with like.

    Args:
        results: tidy rows with the columns of the results table.

    Returns:
        One comparison per data set, split, protocol and kind of inputs, in order of appearance.

    Raises:
        ValueError: a column is missing.
    """
    missing = [name for name in (*_COLUMNS, *_NUMBERS) if name not in results]
    if missing:
        raise ValueError(f"results lack the columns {missing}: evaluate again")
    columns = {name: results[name].astype(object) for name in _COLUMNS}
    columns["note"] = results.get("note", pd.Series("", results.index)).astype(object)
    table = pd.DataFrame(columns)
    table = table.where(table.notna(), "").astype(str)
    for name in _NUMBERS:
        table[name] = (
            pd.to_numeric(results[name], errors="coerce")
            .astype("float64")
            .to_numpy(dtype=np.float64, na_value=np.nan)
        )
    table = with_lines(table[(table["category"] == "all").to_numpy()])
    keys = ["dataset", "split", "protocol", "inputs"]
    return [_comparison(*key, rows) for key, rows in table.groupby(keys, sort=False)]


def _comparison(
    dataset: str, split: str, protocol: str, kind: str, rows: pd.DataFrame
) -> Comparison:
    lines = tuple(rows["line"].drop_duplicates())
    metrics = tuple(rows["metric"].drop_duplicates())

    def table(column: str, how: str) -> np.ndarray:
        wide = rows.pivot_table(column, "line", "metric", aggfunc=how, sort=False)
        return wide.reindex(index=list(lines), columns=list(metrics)).to_numpy(np.float64)

    value, count, deviation = table("value", "mean"), table("value", "count"), table("value", "std")
    several = count > 1
    return Comparison(
        dataset,
        split,
        protocol,
        kind,
        lines,
        metrics,
        value,
        table("n", "max"),
        np.where(several, value - deviation, table("low", "mean")),
        np.where(several, value + deviation, table("high", "mean")),
        _notes(rows, lines, metrics),
        np.nan_to_num(count).max(axis=1, initial=0).astype(np.int64),
    )


def _notes(rows: pd.DataFrame, lines: tuple[str, ...], metrics: tuple[str, ...]) -> np.ndarray:
    notes = np.full((len(lines), len(metrics)), "", dtype=object)
    for row in rows[rows["note"] != ""].itertuples():
        notes[lines.index(row.line), metrics.index(row.metric)] = row.note
    return notes


def _line(method: str, variant: str, inputs: str) -> str:
    name = method if variant in ("", "full") else f"{method}, {variant}"
    on = f" on {inputs}" if inputs and Given.of(inputs) is Given.DETECTIONS else ""
    return f"{name}{on}"
