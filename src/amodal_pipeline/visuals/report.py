"""The report: one HTML file that loads nothing, to be opened from disk or mailed."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pandas as pd
from markupsafe import Markup, escape

from amodal_pipeline.annotations import Given
from amodal_pipeline.visuals import breakdowns, page, plots
from amodal_pipeline.visuals.colours import line_styles
from amodal_pipeline.visuals.comparisons import Comparison, comparisons, in_words, with_lines
from amodal_pipeline.visuals.definitions import MAIN_METRICS, PROTOCOLS, SKILLS, definition
from amodal_pipeline.visuals.page import Cell
from amodal_pipeline.visuals.text import grouped, quantity

EMBEDDED_BYTES = 20_000_000  # of pictures in one report; mail servers refuse more
MOST_CATEGORIES = 25  # in a table that is seen at once
MOST_TRAININGS = 6  # seen at once
MOST_PAIRED = 5  # methods compared in several tables at once

_ASIDE = ("coco_agnostic", "vrsp_released", "orcnn", "amodalapi")  # folded protocols
_OPENING = "comparison.png"  # shown first, where it is among the pictures
_REPORTS = 1000  # rows of a history that are drawn: a screen has no more points

_Table = tuple[list[Cell], list[list[Cell]]]


@dataclass(frozen=True)
class Material:
    """Hold what a report shows of all methods and variants on one data set. Frames may be empty.

    results, curves, objects: rows with the columns of the tables of those names.
    paired: differences of two lines ("a", "b") with the same "inputs", with the columns protocol,
        metric, difference, low, high (−100–100) and probability (0–1) that a is above b.
    published: the columns method, variant, inputs, protocol, metric, ours, low, high, published,
        paper, table, row, note.
    published_remark: a sentence on the published numbers, or on why there are none.
    histories: line → rows with "iteration" and losses.
    costs: line → parameters, flops, height, width, images_per_second (or None), device; of a
        completer also stage_one (method, parameters, flops), its detector.
    starts: method → what its training started from, and which tensors it took over.
    """

    results: pd.DataFrame
    curves: pd.DataFrame = field(default_factory=pd.DataFrame)
    objects: pd.DataFrame = field(default_factory=pd.DataFrame)
    paired: pd.DataFrame = field(default_factory=pd.DataFrame)
    published: pd.DataFrame = field(default_factory=pd.DataFrame)
    published_remark: str = ""
    histories: Mapping[str, Sequence[dict]] = field(default_factory=dict)
    costs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    starts: Mapping[str, str] = field(default_factory=dict)


def write_report(
    folder: str | os.PathLike,
    *,
    title: str,
    dataset_summary: page.Pairs,
    material: Material,
    figures: Mapping[str, str | os.PathLike],
    notes: Sequence[str] = (),
    commands: page.Pairs = (),
) -> Path:
    """Write ``folder/report.html`` and return its path.

    The page opens with one sentence, which says which method is best at what, and one picture;
    results, pictures and their background are sections to unfold. In these, methods as published
    are seen at once; their variants, further metrics and protocols are folded again. The page loads
    nothing from elsewhere. Pictures are embedded; beyond :data:`EMBEDDED_BYTES`, further ones are
    linked by their relative path and say so. All text is escaped.

    Args:
        folder: where the report goes; made if absent.
        title: heading of the page.
        dataset_summary: name → value, on the data ("Images" → "1 200").
        material: results and all that belongs to them.
        figures: caption → PNG file, relative to ``folder``; shown in this order, except that
            ``comparison.png``, or else the first, opens the page.
        notes: paragraphs under the results.
        commands: purpose → command line, e.g. "Compare runs" → "mlflow ui …".

    Returns:
        The path of the report.

    Raises:
        ValueError: a picture is missing, damaged or outside ``folder``, or the results lack a
            column.
    """
    folder = Path(folder)
    results = material.results
    groups = sorted(comparisons(results) if len(results) else [], key=_place)
    objects = _completed(material.objects, groups)
    lines = with_lines(results) if len(results) else pd.DataFrame({"line": [], "main": []})
    main = set(lines["line"][lines["main"].astype(bool)])
    # Methods first, in the order of the tables: the first colours are the easiest to tell apart.
    names = list(dict.fromkeys(line for group in groups for line in group.lines))
    names.sort(key=lambda name: name not in main)
    styles = dict(zip(names, line_styles(len(names)), strict=True))
    opening, pictures = _pictures(folder, figures)
    shown, folded = _trainings(material.histories)
    known, further = _glossary(groups)
    return page.write(
        folder / "report.html",
        "report.html",
        title=title,
        lead=_lead(groups, main, material.paired),
        opening=opening,
        dataset_summary=page.pairs(dataset_summary),
        results=[_results(group, main) for group in groups],
        notes=notes,
        published=_published(material.published, material.published_remark),
        paired=_paired(material.paired, names, main),
        occlusion=_by_occlusion(objects, results, styles, main),
        categories=_by_category(results, main),
        precision=_precision(material.curves, styles, main),
        pictures=pictures,
        training=shown,
        training_folded=folded,
        cost=_cost(material.costs),
        basis=_basis(results, objects, material.starts),
        remarks=_remarks(groups),
        glossary=known,
        further=further,
        commands=page.pairs(commands),
    )


def _lead(groups: Sequence[Comparison], main: set[str], paired: pd.DataFrame) -> Markup:
    """Say in one sentence which method is best at what, with its interval."""
    chosen = [g.among(main) or g for g in groups if g.protocol not in _ASIDE]
    chosen.sort(key=lambda group: group.inputs != Given.IMAGE)
    skills: dict[Markup, list[Markup]] = {}
    for metric, skill in SKILLS.items():
        found = next((part for group in chosen if (part := group.of([metric]))), None)
        if found is None:
            continue
        given = "" if found.inputs == Given.IMAGE else f", {found.given}"
        ranked = np.argsort(-found.value[:, 0], kind="stable")
        first, value = int(ranked[0]), float(found.value[ranked[0], 0])
        tied = [found.lines[i] for i in ranked if round(found.value[i, 0], 1) == round(value, 1)]
        remark = Markup("{} {:.1f}").format(_label(metric), value) + _uncertainty(found, first)
        if len(found.lines) == 1:
            who = Markup("<b>{}</b> is the only method measured").format(tied[0])
        elif len(tied) == len(found.lines):
            who = Markup("no method is ahead")
        elif len(tied) > 1:
            who = _listed([Markup("<b>{}</b>").format(t) for t in tied]) + " are level as best"
        else:
            who = Markup("<b>{}</b> is best").format(tied[0])
            remark += _doubt(found, tied[0], found.lines[ranked[1]], paired)
        text = Markup("{}{} <small>({})</small>").format(skill, given, remark)
        skills.setdefault(who, []).append(text)
    if not skills:
        return Markup("No method has been compared yet." if groups else "There are no results yet.")
    clauses = (who + " " + _listed(what) for who, what in skills.items())
    place = f"On {groups[0].dataset} ({groups[0].split}), "
    return escape(place) + Markup("; ").join(clauses) + "."


def _listed(parts: Sequence[Markup]) -> Markup:
    """Join parts by commas and a last "and"."""
    head, last = Markup(", ").join(parts[:-1]), parts[-1]
    return head + " and " + last if head else last


def _uncertainty(group: Comparison, line: int) -> str:
    """Give the interval of a line's only metric, or its deviation over several runs, in words."""
    low, high = float(group.low[line, 0]), float(group.high[line, 0])
    if not (np.isfinite(low) and np.isfinite(high)):
        return ""
    if group.runs[line] > 1:
        return f" ± {(high - low) / 2:.1f} over {group.runs[line]} runs"
    return f", 95\N{NO-BREAK SPACE}% interval {low:.1f} to {high:.1f}"


def _doubt(group: Comparison, best: str, second: str, paired: pd.DataFrame) -> str:
    """Say so where the interval of the difference from the second does not leave out 0."""
    if not len(paired):
        return ""
    of = {
        "inputs": group.inputs,
        "protocol": group.protocol,
        "metric": group.metrics[0],
        "a": best,
        "b": second,
    }
    low = paired["low"][(paired[list(of)] == pd.Series(of)).all(axis=1).to_numpy(dtype=bool)]
    return f", not clearly above {second}" if (low <= 0).any() else ""


def _place(group: Comparison) -> int:
    order = list(PROTOCOLS)
    return order.index(group.protocol) if group.protocol in order else len(order)


def _completed(objects: pd.DataFrame, groups: Sequence[Comparison]) -> pd.DataFrame:
    """Leave out rules that only order the objects of a method, and so have its masks."""
    if not len(objects):
        return objects
    lines = {line for group in groups if group.protocol != "order" for line in group.lines}
    return objects[with_lines(objects)["line"].isin(lines).to_numpy(dtype=bool)]


def _results(group: Comparison, main: set[str]) -> dict[str, Any]:
    """Return a table of methods by main metrics, and folded ones of variants and all metrics."""
    numbers = _numbers_of_notes(group)
    methods = group.among(main) or group
    others = None if methods is group else group.among(set(group.lines) - main)
    headline = methods.of(MAIN_METRICS)
    folded: list[tuple[str, _Table]] = []
    if others is not None and (part := others.of(MAIN_METRICS)) is not None:
        folded.append((quantity(len(part.lines), "variant"), _by_line(part, numbers)))
    if headline is None or set(group.metrics) != set(headline.metrics):
        folded.append((f"All {len(group.metrics)} metrics", _by_metric(group, numbers)))
    several = [f"{a}: {n}" for a, n in zip(group.lines, group.runs, strict=True) if n > 1]
    runs = f"Mean ± standard deviation over several runs ({', '.join(several)})." if several else ""
    return {
        "name": f"Protocol {group.protocol}",
        "about": f"{group.given}  ·  {group.dataset}, {group.split}",
        "protocol": _sentence(PROTOCOLS.get(group.protocol, "")),
        "aside": group.protocol in _ASIDE,
        "main": None if headline is None else _by_line(headline, numbers),
        "runs": runs,
        "notes": list(numbers),
        "folded": folded,
    }


def _numbers_of_notes(group: Comparison) -> dict[str, int]:
    notes = dict.fromkeys(note for note in group.note.ravel() if note)
    return {note: number for number, note in enumerate(notes, 1)}


def _by_line(group: Comparison, notes: Mapping[str, int]) -> _Table:
    best = group.best()
    common = [_common(group.n[:, m]) for m in range(len(group.metrics))]
    head = [Cell("Method")]
    for metric, n in zip(group.metrics, common, strict=True):
        below = () if n is None else (f"n = {grouped(n)}",)
        head.append(Cell(_label(metric), below=below, hint=definition(metric)))
    lines = [
        [
            Cell(line),
            *(
                _cell(group, i, m, bool(best[i, m]), notes, with_n=common[m] is None)
                for m in range(len(group.metrics))
            ),
        ]
        for i, line in enumerate(group.lines)
    ]
    return head, lines


def _by_metric(group: Comparison, notes: Mapping[str, int]) -> _Table:
    best = group.best()
    lines = []
    for m, metric in enumerate(group.metrics):
        n = _common(group.n[:, m])
        cells = (
            _cell(group, i, m, bool(best[i, m]), notes, with_n=n is None)
            for i in range(len(group.lines))
        )
        total = Cell("" if n is None else grouped(n), kind="faint")
        lines.append([Cell(_label(metric), hint=definition(metric)), *cells, total])
    return [Cell("Metric"), *(Cell(line) for line in group.lines), Cell("n")], lines


def _cell(
    group: Comparison, line: int, metric: int, best: bool, notes: Mapping[str, int], with_n: bool
) -> Cell:
    value = group.value[line, metric]
    if not np.isfinite(value):
        return Cell("–", kind="faint")
    below = []
    low, high = group.low[line, metric], group.high[line, metric]
    if np.isfinite(low) and np.isfinite(high):
        several = group.runs[line] > 1
        below.append(f"± {(high - low) / 2:.1f}" if several else f"{low:.1f}–{high:.1f}")
    if with_n and np.isfinite(group.n[line, metric]):
        below.append(f"n = {grouped(group.n[line, metric])}")
    note = group.note[line, metric]
    marks = (notes[note],) if note else ()
    return Cell(f"{value:.1f}", strong=best, below=tuple(below), marks=marks)


def _common(n: np.ndarray) -> float | None:
    """Return the one n that all lines share, or None."""
    known = np.unique(n[np.isfinite(n)])
    return float(known[0]) if len(known) == 1 else None


def _published(rows: pd.DataFrame, remark: str) -> dict[str, Any]:
    found: dict[str, Any] = {"remark": remark, "main": None, "rest": None, "summary": ""}
    if not len(rows):
        return found
    main = rows["metric"].isin(MAIN_METRICS).to_numpy(dtype=bool)
    if main.any():
        found["main"] = _beside(rows[main])
    if not main.all():
        found["rest"] = _beside(rows[~main])
        found["summary"] = f"{int((~main).sum())} further published numbers"
    return found


def _beside(rows: pd.DataFrame) -> _Table:
    heads = ("Method", "Protocol", "Metric", "Ours", "Published", "Difference", "Where")
    lines = []
    for row in with_lines(rows).itertuples(index=False):
        place = f"{row.paper}, table {row.table}: {row.row}"
        note = "" if pd.isna(row.note) else str(row.note)
        lines.append(
            [
                Cell(row.line),
                Cell(row.protocol, kind="text"),
                Cell(_label(row.metric), kind="text", hint=definition(row.metric)),
                Cell(f"{row.ours:.1f}", below=_span(row.low, row.high)),
                Cell(f"{row.published:.1f}"),
                Cell(f"{row.ours - row.published:+.1f}"),
                Cell(place, below=(note,) if note else (), kind="text"),
            ]
        )
    return [Cell(head, kind="text" * (head in heads[1:3] + heads[6:])) for head in heads], lines


def _span(low: float, high: float, decimals: int = 1) -> tuple[str, ...]:
    if pd.isna(low) or pd.isna(high):
        return ()
    # A dash next to a minus cannot be read.
    between = "–" if low >= 0 else " to "
    return (f"{low:.{decimals}f}{between}{high:.{decimals}f}".replace("-", "−"),)


def _paired(rows: pd.DataFrame, names: Sequence[str], main: set[str]) -> dict[str, list[tuple]]:
    """Return a table per metric of methods against methods, and one of variants against theirs."""
    found: dict[str, list[tuple]] = {"methods": [], "variants": []}
    if not len(rows):
        return found
    cells = {
        (r.inputs, r.protocol, r.metric, r.a, r.b): _difference(r)
        for r in rows.itertuples(index=False)
    }
    blank = Cell("")
    for inputs, part in rows.groupby("inputs", sort=False):
        measured = list(part[["protocol", "metric"]].drop_duplicates().itertuples(index=False))
        there = {*part["a"], *part["b"]} & main
        lines = [line for line in names if line in there]
        for protocol, metric in measured:
            # Only one half of the square, as the other mirrors it.
            body = [
                [
                    Cell(a),
                    *(cells.get((inputs, protocol, metric, a, b), blank) for b in lines[:row]),
                    *[blank] * (len(lines) - 1 - row),
                ]
                for row, a in enumerate(lines)
                if row
            ]
            if any(cell is not blank for line in body for cell in line[1:]):
                about = f"protocol {protocol}, {in_words(inputs)}"
                aside = bool(found["methods"]) and len(lines) > MOST_PAIRED
                table = [blank, *map(Cell, lines[:-1])], body
                found["methods"].append((metric, about, table, aside))
        pairs = part.loc[~part["a"].isin(main), ["a", "b"]].drop_duplicates()
        if len(pairs):
            body = [
                [
                    Cell(r.a, below=(f"less {r.b}",)),
                    *(cells.get((inputs, *what, r.a, r.b), blank) for what in measured),
                ]
                for r in pairs.itertuples(index=False)
            ]
            heads = [Cell(_label(m), below=(p,), hint=definition(m)) for p, m in measured]
            table = [Cell("Variant"), *heads], body
            found["variants"].append((in_words(inputs), table))
    return found


def _difference(row: Any) -> Cell:
    if pd.isna(row.difference):
        return Cell("–", kind="faint")
    certain = bool(row.low > 0 or row.high < 0)
    value = f"{row.difference:+.1f}".replace("-", "−")
    share = f"above in {100 * row.probability:.0f} %"
    return Cell(value, strong=certain, below=(*_span(row.low, row.high), share))


def _by_occlusion(
    objects: pd.DataFrame,
    results: pd.DataFrame,
    styles: Mapping[str, tuple[str, str]],
    main: set[str],
) -> list[dict[str, Any]]:
    """Draw mIoU in bins of the occlusion rate, and AP above each evaluated rate."""
    if not len(objects):
        return []
    binned, groups = breakdowns.by_occlusion(objects), []
    above = breakdowns.by_threshold(results, "AP_amodal")
    names = ["none", *(f"≤{10 * k}" for k in range(1, breakdowns.BINS + 1))]
    for inputs, part in binned.groupby("inputs", sort=False):
        counts = part.groupby("bin")["objects"].max().reindex(range(len(names)), fill_value=0)

        def chart(metric: str, lines: Iterable[str], part=part, counts=counts) -> tuple:
            drawn = {
                line: (own["bin"].to_numpy(), own[metric].to_numpy())
                for line, own in part.sort_values("bin").groupby("line", sort=False)
                if line in lines
            }
            name = "mIoU_" + metric.removeprefix("iou_")
            figure = plots.line_chart(
                drawn,
                styles,
                title=name,
                x_label="hidden share of the object (%)",
                y_label="mean IoU (%)",
                ticks=list(enumerate(names)),
                counts=counts.tolist(),
            )
            return _drawing(figure, f"{name} by occlusion rate")

        def threshold_chart(lines: Iterable[str], inputs=inputs) -> list[tuple]:
            own = above[(above["inputs"] == inputs) & above["line"].isin(list(lines))]
            if not len(own):
                return []
            places = sorted(own["threshold"].unique())
            drawn = {
                line: ([places.index(t) for t in rows["threshold"]], rows["value"].to_numpy())
                for line, rows in own.sort_values("threshold").groupby("line", sort=False)
            }
            figure = plots.line_chart(
                drawn,
                styles,
                title="AP_amodal of occluded objects",
                x_label="objects that are hidden by more than (%)",
                y_label="AP (%)",
                ticks=[(i, "all" if t < 0 else f"{t:g}") for i, t in enumerate(places)],
            )
            return [_drawing(figure, "AP_amodal by occlusion threshold")]

        def panel(lines: Sequence[str], chart=chart, more=threshold_chart) -> list[tuple]:
            both = [chart(metric, lines) for metric in ("iou_full", "iou_occluded")]
            return both + more(lines)

        groups.append(_charts(inputs, part, panel, styles, main))
        groups[-1]["folded"].append(("The same in numbers", {"table": _bins(part, names)}))
    return groups


def _charts(
    inputs: str, rows: pd.DataFrame, panel: Any, styles: Mapping[str, tuple[str, str]], main: set
) -> dict[str, Any]:
    """Return a group of charts of the methods, and a folded one that has the variants too."""
    lines = [line for line in styles if (rows["line"] == line).any()]
    seen = [line for line in lines if line in main] or lines

    def part(lines: Sequence[str]) -> dict[str, Any]:
        return {"legend": [(line, *styles[line]) for line in lines], "pictures": panel(lines)}

    group = {"name": _sentence(in_words(inputs)), "folded": [], **part(seen)}
    if len(seen) < len(lines):
        group["folded"].append(("With all variants", part(lines)))
    return group


def _bins(rows: pd.DataFrame, names: Sequence[str]) -> _Table:
    lines = list(dict.fromkeys(rows["line"]))
    head = [Cell("Hidden"), Cell("Objects")]
    head += [Cell(line, below=("mIoU_full, mIoU_occluded",)) for line in lines]
    body = []
    for place in sorted(rows["bin"].unique()):
        own = rows[rows["bin"] == place].set_index("line")
        cells = [
            Cell(f"{_number(own['iou_full'].get(line))}, {_number(own['iou_occluded'].get(line))}")
            for line in lines
        ]
        unit = "" if place == 0 else " %"
        objects = Cell(grouped(own["objects"].max()))
        body.append([Cell(names[place] + unit), objects, *cells])
    return head, body


def _by_category(results: pd.DataFrame, main: set[str]) -> list[tuple]:
    """Return tables of categories by methods, one per main metric and protocol."""
    tables = []
    for metric in MAIN_METRICS:
        rows = breakdowns.by_category(results, metric) if len(results) else results
        if not len(rows):
            continue
        rows = rows[rows["line"].isin(main).to_numpy(dtype=bool)]
        for (protocol, inputs), part in rows.groupby(["protocol", "inputs"], sort=False):
            counts = part.groupby("category", sort=False)["n"].max()
            order = counts.sort_index().sort_values(ascending=False, kind="stable").index
            about = f"protocol {protocol}, {in_words(inputs)}"
            rest = order[MOST_CATEGORIES:]
            table = _categories(part, order[:MOST_CATEGORIES], counts)
            further = f"Further {len(rest)} categories", _categories(part, rest, counts)
            tables.append((metric, about, table, further if len(rest) else None))
    return tables


def _categories(rows: pd.DataFrame, categories: pd.Index, counts: pd.Series) -> _Table:
    values = rows.pivot_table("value", "category", "line", sort=False)
    lines = list(dict.fromkeys(rows["line"]))
    body = []
    for category in categories:
        own = [values[n].get(category, np.nan) if n in values else np.nan for n in lines]
        cells = [Cell(_number(v), bar=None if pd.isna(v) else float(v)) for v in own]
        body.append([Cell(category), Cell(grouped(counts[category]), kind="faint"), *cells])
    return [Cell("Category"), Cell("n"), *map(Cell, lines)], body


def _precision(
    curves: pd.DataFrame, styles: Mapping[str, tuple[str, str]], main: set[str]
) -> list[dict[str, Any]]:
    """Draw precision by recall of amodal masks, and folded that of visible masks."""
    if not len(curves):
        return []
    rows, groups = breakdowns.precision_by_recall(curves), []
    limits = {0.0: "IoU 0.50–0.95", 0.5: "IoU 0.50", 0.75: "IoU 0.75"}
    for inputs, part in rows.groupby("inputs", sort=False):

        def panel(lines: Sequence[str], target: str = "amodal", part=part) -> list[tuple]:
            drawn = []
            for iou, name in limits.items():
                own = part[(part["iou"] == iou) & (part["target"] == target)]
                chosen = {
                    line: (rows["recall"].to_numpy(), rows["precision"].to_numpy())
                    for line, rows in own.groupby("line", sort=False)
                    if line in lines
                }
                if chosen:
                    title = f"{target} masks, {name}"
                    figure = plots.line_chart(
                        chosen, styles, title=title, x_label="recall (%)", y_label="precision (%)"
                    )
                    drawn.append(_drawing(figure, f"Precision by recall: {title}"))
            return drawn

        group = _charts(inputs, part, panel, styles, main)
        if visible := panel([line for line, *_ in group["legend"]], "visible"):
            group["folded"].append(("Of visible parts", {"pictures": visible}))
        groups.append(group)
    return groups


def _trainings(histories: Mapping[str, Sequence[dict]]) -> tuple[list[tuple], list[tuple]]:
    drawn = []
    for line, history in histories.items():
        step = max(1, -(-len(history) // _REPORTS))
        figure = plots.loss_curves({line: history[::step]})
        drawn.append(_drawing(figure, f"Losses of {line} by iteration"))
    return drawn[:MOST_TRAININGS], drawn[MOST_TRAININGS:]


def _cost(costs: Mapping[str, Mapping[str, Any]]) -> _Table | None:
    if not costs:
        return None
    heads = ("Method", "Parameters", "Operations", "Image", "Images per second", "Device")
    lines = []
    for line, cost in costs.items():
        speed = cost["images_per_second"]
        # Its detector is not part of the method, but is needed from the image to the masks.
        before = cost.get("stage_one")
        beside = (f"after {before['method']}",) if before else ()
        lines.append(
            [
                Cell(line, below=beside),
                Cell(_millions(cost), below=(f"+ {_millions(before)}",) if before else ()),
                Cell(_billions(cost), below=(f"+ {_billions(before)} an image",) if before else ()),
                Cell(f"{cost['height']} × {cost['width']}"),
                Cell("–" if speed is None else f"{speed:.1f}"),
                Cell(cost["device"] or "–", kind="text"),
            ]
        )
    return [*map(Cell, heads[:-1]), Cell(heads[-1], kind="text")], lines


def _millions(cost: Mapping[str, Any]) -> str:
    return f"{cost['parameters'] / 1e6:.2f} M"


def _billions(cost: Mapping[str, Any]) -> str:
    return f"{cost['flops'] / 1e9:.1f} G"


def _basis(
    results: pd.DataFrame, objects: pd.DataFrame, starts: Mapping[str, str]
) -> _Table | None:
    """Return a table with each line's checkpoint, data, start, seeds, and objects it matched."""
    if not len(results):
        return None
    found = with_lines(objects) if len(objects) else None
    heads = [Cell("Method"), Cell("Checkpoint–data", kind="text")]
    heads += map(Cell, ("Seeds", "Images", "Objects", "of them occluded"))
    lines = []
    for line, rows in with_lines(results).groupby("line", sort=False):
        runs = ", ".join(dict.fromkeys(str(r) for r in rows["run_id"].fillna("") if r)) or "–"
        seeds = ", ".join(dict.fromkeys(str(s) for s in rows["seed"].dropna()))
        method = rows["method"].iloc[0]
        start = (starts[method],) if rows["main"].iloc[0] and method in starts else ()
        cells = [Cell(line), Cell(runs, below=start, kind="text"), Cell(seeds)]
        own = None if found is None else found[(found["line"] == line).to_numpy(dtype=bool)]
        if own is None or not len(own):
            cells += [Cell("–", kind="faint")] * 3
        else:
            per = max(1, own["seed"].nunique())
            occluded = own[own["iou_occluded"].notna().to_numpy(dtype=bool)]
            cells.append(Cell(grouped(own["image_id"].nunique())))
            for part in (own, occluded):
                hits = f"{grouped(part['matched'].sum() / per)} matched"
                cells.append(Cell(grouped(len(part) / per), below=(hits,)))
        lines.append(cells)
    return heads, lines


def _remarks(groups: Sequence[Comparison]) -> list[tuple[str, str]]:
    whose: dict[str, list[str]] = {}
    for group in groups:
        for i, line in enumerate(group.lines):
            for m, metric in enumerate(group.metrics):
                if note := group.note[i, m]:
                    whose.setdefault(note, []).append(f"{line}, {group.protocol}: {metric}")
    most = 3
    return [
        (note, "; ".join(at[:most]) + (f" and {len(at) - most} more" if len(at) > most else ""))
        for note, at in whose.items()
    ]


def _glossary(groups: Sequence[Comparison]) -> tuple[list[tuple], list[tuple]]:
    used = {metric for group in groups for metric in group.metrics}
    main = [(_label(m), definition(m)) for m in MAIN_METRICS if m in used]
    rest = sorted(m for m in used - set(MAIN_METRICS) if definition(m))
    return main, [(_label(m), definition(m)) for m in rest]


def _pictures(
    folder: Path, figures: Mapping[str, str | os.PathLike]
) -> tuple[tuple | None, list[tuple]]:
    """Return the picture that opens the page, :data:`_OPENING` or else the first, and the rest."""
    left, shown = EMBEDDED_BYTES, []
    names = [(caption, Path(name).as_posix()) for caption, name in figures.items()]
    for caption, name in sorted(names, key=lambda figure: figure[1] != _OPENING):
        source, size = page.embedded_file(folder, name)
        remark = ""
        if len(source) <= left:
            left -= len(source)
        else:
            source, remark = "./" + quote(name), f" (in the file {name})"
        # On a narrow screen, wide ones keep their size and scroll.
        kind = "broad" if size[1] > 1200 else ""
        shown.append((source, size, caption, caption + remark, kind))
    return (shown[0], shown[1:]) if shown else (None, [])


def _drawing(figure: Any, alt: str) -> tuple:
    return (*page.drawn(figure), alt, "")


def _number(value: float | None) -> str:
    return "–" if value is None or pd.isna(value) else f"{value:.1f}"


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _label(metric: str) -> Markup:
    # A long name may break after an underscore.
    return Markup(page.text(metric).replace("_", "_<wbr>"))
