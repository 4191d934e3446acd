"""The report: one HTML file with everything in it, to be opened from disk or mailed."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pandas as pd

from amodal_pipeline.visuals import page
from amodal_pipeline.visuals.comparisons import Comparison, comparisons
from amodal_pipeline.visuals.definitions import MAIN_METRICS, definition

EMBEDDED_BYTES = 20_000_000  # of pictures in one report; mail servers refuse more


def write_report(
    folder: str | os.PathLike,
    *,
    title: str,
    dataset_summary: page.Pairs,
    results: pd.DataFrame,
    figures: Mapping[str, str | os.PathLike],
    notes: Sequence[str] = (),
    commands: page.Pairs = (),
) -> Path:
    """Write ``folder/report.html``: results, data, pictures, what the metrics mean, what is next.

    The page loads nothing from elsewhere. Pictures are embedded; once they come to more than
    :data:`EMBEDDED_BYTES`, further ones are linked by their relative path and say so. All text is
    escaped.

    Args:
        folder: where the report goes; made if absent.
        title: heading of the page.
        dataset_summary: name → value lines on the data ("Images" → "1 200").
        results: tidy rows of the results table; may be empty.
        figures: caption → PNG file, relative to ``folder``; shown in this order.
        notes: paragraphs to be read with the numbers.
        commands: what it does → command line, e.g. "Compare runs" → "mlflow ui …".

    Returns:
        The path of the report.

    Raises:
        ValueError: a picture is missing, damaged or outside ``folder``, or the results lack a
            column.
    """
    folder = Path(folder)
    groups = comparisons(results) if len(results) else []
    pictures = _pictures(folder, figures)
    sections = [
        ("Results", "".join(_group(g) for g in groups) or "<p>There are no results yet.</p>"),
        ("Notes", "".join(f"<p>{page.text(note)}</p>" for note in notes)),
        ("Data", page.tiles(dataset_summary)),
        ("Pictures", pictures),
        ("What the metrics mean", _glossary(groups)),
        ("Going on", _commands(page.pairs(commands))),
    ]
    return page.write(folder / "report.html", title, sections)


def _group(group: Comparison) -> str:
    """Main metrics as columns, methods as lines; all metrics in a list to unfold."""
    main = group.of(MAIN_METRICS)
    shown = _table(main) if main is not None else ""
    rest = ""
    if main is None or set(group.metrics) != set(main.metrics):
        opened = " open" if main is None else ""
        rest = f"<details{opened}><summary>All {len(group.metrics)} metrics</summary>"
        rest += f"{_long_table(group)}</details>"
    runs = ""
    if (group.runs > 1).any():
        several = ", ".join(
            f"{page.text(line)}: {n}"
            for line, n in zip(group.lines, group.runs, strict=True)
            if n > 1
        )
        runs = f"<p class=faint>Mean ± standard deviation over several runs ({several}).</p>"
    given = page.text(group.given[:1].upper() + group.given[1:])
    return f"<h3>{given} <small>{page.text(group.about)}</small></h3>{shown}{runs}{rest}"


def _table(group: Comparison) -> str:
    best = group.best()
    common = [_common(group.n[:, m]) for m in range(len(group.metrics))]
    head = "".join(
        f'<th title="{page.text(definition(metric))}">{_label(metric)}'
        + ("" if n is None else f"<span class=faint>n = {page.count(n)}</span>")
        + "</th>"
        for metric, n in zip(group.metrics, common, strict=True)
    )
    lines = []
    for i, line in enumerate(group.lines):
        cells = "".join(
            _cell(group, i, m, bool(best[i, m]), with_n=common[m] is None)
            for m in range(len(group.metrics))
        )
        lines.append(f"<tr><th scope=row>{page.text(line)}</th>{cells}</tr>")
    return (
        f"<div class=wide><table><thead><tr><th>Method</th>{head}</tr></thead>"
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def _long_table(group: Comparison) -> str:
    best = group.best()
    head = "".join(f"<th>{page.text(line)}</th>" for line in group.lines)
    lines = []
    for m, metric in enumerate(group.metrics):
        n = _common(group.n[:, m])
        cells = "".join(
            _cell(group, i, m, bool(best[i, m]), with_n=n is None) for i in range(len(group.lines))
        )
        lines.append(
            f"<tr><th scope=row>{_label(metric)}</th>{cells}"
            f"<td class=faint>{'' if n is None else page.count(n)}</td></tr>"
        )
    return (
        f"<div class=wide><table><thead><tr><th>Metric</th>{head}<th>n</th></tr></thead>"
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def _cell(group: Comparison, line: int, metric: int, best: bool, with_n: bool) -> str:
    value = group.value[line, metric]
    if not np.isfinite(value):
        return "<td class=faint>–</td>"
    text = f"<b>{value:.1f}</b>" if best else f"{value:.1f}"
    low, high = group.low[line, metric], group.high[line, metric]
    if np.isfinite(low) and np.isfinite(high):
        several = group.runs[line] > 1
        span = f"± {(high - low) / 2:.1f}" if several else f"{low:.1f}–{high:.1f}"
        text += f"<span class=faint>{span}</span>"
    if with_n and np.isfinite(group.n[line, metric]):
        text += f"<span class=faint>n = {page.count(group.n[line, metric])}</span>"
    return f"<td>{text}</td>"


def _common(n: np.ndarray) -> float | None:
    """The one n that all lines share, or None."""
    known = np.unique(n[np.isfinite(n)])
    return float(known[0]) if len(known) == 1 else None


def _glossary(groups: Sequence[Comparison]) -> str:
    used = {metric for group in groups for metric in group.metrics}
    order = {metric: place for place, metric in enumerate(MAIN_METRICS)}
    known = [m for m in sorted(used, key=lambda m: (order.get(m, len(order)), m)) if definition(m)]
    rows = "".join(f"<dt>{_label(m)}</dt><dd>{page.text(definition(m))}</dd>" for m in known)
    if not rows:
        return ""
    return (
        "<p>All values are in percent; more is better; the best of a column is bold. "
        f"n counts the objects or pairs a value rests on.</p><dl class=glossary>{rows}</dl>"
    )


def _commands(pairs: Sequence[tuple[str, object]]) -> str:
    return "".join(f"<p>{page.text(k)}</p><pre><code>{page.text(v)}</code></pre>" for k, v in pairs)


def _pictures(folder: Path, figures: Mapping[str, str | os.PathLike]) -> str:
    left, shown = EMBEDDED_BYTES, []
    for caption, name in figures.items():
        name = Path(name).as_posix()
        source, size = page.embedded_file(folder, name)
        remark = ""
        if len(source) <= left:
            left -= len(source)
        else:
            source, remark = "./" + quote(name), f" (in the file {page.text(name)})"
        shown.append(page.picture(source, size, caption, page.text(caption) + remark))
    return "".join(shown)


def _label(metric: str) -> str:
    # A long name may break after an underscore.
    return page.text(metric).replace("_", "_<wbr>")
