"""The table of an ablation: values of each row and differences to the reference row."""

from collections.abc import Mapping
from itertools import groupby
from operator import itemgetter

import pandas as pd
from rich.console import Console
from rich.table import Table
from rich.text import Text

from amodal_pipeline.jobs.progress import plain_console
from amodal_pipeline.jobs.rows import AblationConfig
from amodal_pipeline.metrics.bootstrap import compare
from amodal_pipeline.metrics.scores import Scores

_CELL = 12  # characters per column of the printed table
COLUMNS = (
    "row",
    "method",
    "protocol",
    "metric",
    "value",
    "low",
    "high",
    "n",
    "difference",
    "difference_low",
    "difference_high",
    "probability",
    "note",
)


def compare_rows(
    ablation: AblationConfig, scores: Mapping[str, Scores]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the chosen metrics of all rows, ordered as ``scores`` and ``ablation.metrics``.

    Returns:
        The table with :data:`COLUMNS`, and the same rows of results with each row's name in the
        column ``method``, from which charts take their labels.
    """
    wanted = [tuple(metric.split("/")) for metric in ablation.metrics]
    parts = []
    for name, found in scores.items():
        results = found.results[found.results["category"] == "all"]
        by_metric = results.set_index(["protocol", "metric"])
        here = [metric for metric in wanted if metric in by_metric.index]
        parts.append(by_metric.loc[here].reset_index().assign(row=name))
    columns = [*COLUMNS[:8], "note"]
    if not parts:
        return pd.DataFrame(columns=list(COLUMNS)), pd.DataFrame(columns=columns)
    results = pd.concat(parts, ignore_index=True)
    table = results[columns].merge(
        _differences(ablation.reference, scores), "left", ["row", "protocol", "metric"]
    )
    shown = results.assign(method=results["row"], variant="full").drop(columns="row")
    return table[list(COLUMNS)], shown


def _differences(reference: str, scores: Mapping[str, Scores]) -> pd.DataFrame:
    parts = [
        pd.DataFrame(
            columns=["row", "protocol", "metric", *COLUMNS[8:12]],
        )
    ]
    for name, found in scores.items():
        if reference not in scores or name == reference:
            continue
        draws = pd.concat(
            [
                found.draws.assign(row=name),
                scores[reference].draws.assign(row=reference),
            ]
        )
        compared = compare(draws, {"row": name}, {"row": reference})
        compared = compared.rename(columns={"low": "difference_low", "high": "difference_high"})
        parts.append(compared.drop(columns="resamples").assign(row=name))
    return pd.concat(parts[1:] or parts, ignore_index=True)


def print_table(
    ablation: AblationConfig, table: pd.DataFrame, dataset: str, console: Console | None = None
) -> None:
    """Print a line per row and a column per metric: value, interval, difference to the reference.

    A difference is bold where its interval does not contain 0. Metrics that do not fit into the
    width of the console are printed as further tables.
    """
    console = console or plain_console()
    cells = table.set_index(["row", "protocol", "metric"])
    names = list(table["row"].drop_duplicates())
    across = max(1, (console.width - max(map(len, names), default=0) - 4) // _CELL)
    wanted = [tuple(metric.split("/")) for metric in ablation.metrics]
    for protocol, group in groupby(wanted, key=itemgetter(0)):
        metrics = list(group)
        for start in range(0, len(metrics), across):
            shown = metrics[start : start + across]
            title = f"{dataset}, {protocol}: value, interval, difference to {ablation.reference}"
            lines = Table(title=title, title_justify="left", show_lines=True)
            lines.add_column("row", no_wrap=True)
            for _, metric in shown:
                lines.add_column(metric.replace("_", "\n"), justify="right")
            for name in names:
                keys = [(name, *metric) for metric in shown]
                row = [_cell(cells.loc[k]) if k in cells.index else "–" for k in keys]
                lines.add_row(name, *row)
            console.print(lines)


def _cell(row: pd.Series) -> Text | str:
    if pd.isna(row["value"]):
        return "–"
    text = Text(f"{row['value']:.1f}")
    if pd.notna(row["low"]):
        text.append(f"\n{row['low']:.1f}–{row['high']:.1f}", style="dim")
    if pd.notna(row["difference"]):
        difference = f"{round(row['difference'], 1) + 0.0:+.1f}"  # no minus before a zero
        clear = row["difference_low"] > 0 or row["difference_high"] < 0
        text.append(f"\n{difference}", style="bold" if clear else "")
    return text
