"""The model card of weights: a page in Markdown."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined

from amodal_pipeline.methods.checkpoints import MethodCard
from amodal_pipeline.methods.contract import job_name
from amodal_pipeline.visuals.comparisons import in_words

METRICS = ("mIoU_full", "mIoU_full_post", "mIoU_occluded", "mIoU_occluded_post")


@dataclass(frozen=True)
class ScoreTable:
    """Scores on one data set and one kind of visible masks.

    ``lines``: a name and a text per metric; ``counts``: the numbers of objects behind the metrics.
    """

    title: str
    lines: list[tuple[str, list[str]]]
    counts: str


@dataclass(frozen=True)
class Data:
    """What a training learned from.

    ``obtain``: where its files come from, and under which terms. ``changes``: parameters of the
    training that its environment does not have, "source.composed.pool.train_on_all=true".
    """

    obtain: str = ""
    changes: str = ""


def write_card(
    path: Path, name: str, card: MethodCard, scores: pd.DataFrame, own: Collection[str], data: Data
) -> None:
    """Write the model card of completers' weights.

    Args:
        path: of the file.
        name: of the weights, as ``ap.load`` takes it.
        card: of the checkpoint.
        scores: rows of results with :data:`METRICS`, over all categories.
        own: digests of the fingerprints of these weights: as trained, and as stored.
        data: what it learned from.
    """
    method = card.method.root
    runs = scores.loc[scores["method"].isin([job_name(method), name]), "run_id"].astype(str)
    theirs = ~runs.str.startswith(tuple(digest[:12] for digest in own))
    page = (
        _environment()
        .get_template("model_card.md")
        .render(
            name=name,
            card=card,
            method=job_name(method),
            sees=method.DESCRIPTION.sees(method),
            pixels=method.DESCRIPTION.needs_pixels(method),
            tables=_tables(scores),
            metrics=METRICS,
            other_training=bool(theirs.any()),
            data=data,
        )
    )
    path.write_text(page, "utf-8")


def _tables(scores: pd.DataFrame) -> list[ScoreTable]:
    found = []
    for (dataset, split, inputs), rows in scores.groupby(["dataset", "split", "inputs"]):
        lines = [
            (str(method), [_cell(own, metric) for metric in METRICS])
            for method, own in rows.groupby("method", sort=False)
        ]
        lines.sort(key=lambda line: line[1][0], reverse=True)
        n = rows.groupby("metric")["n"].max()
        counts = f"{int(n.get(METRICS[0], 0))} objects, {int(n.get(METRICS[2], 0))} occluded"
        found.append(ScoreTable(f"{dataset}, {split}, {in_words(str(inputs))}", lines, counts))
    return found


def _cell(rows: pd.DataFrame, metric: str) -> str:
    """Return the first value of a metric with its interval, "89.1 (88.4–89.8)"."""
    own = rows[rows["metric"] == metric]
    if own.empty:
        return "–"
    row = own.iloc[0]
    between = "" if pd.isna(row["low"]) else f" ({row['low']:.1f}–{row['high']:.1f})"
    return f"{row['value']:.1f}{between}"


def _environment() -> Environment:
    loader = PackageLoader("amodal_pipeline.visuals")
    return Environment(
        loader=loader,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
