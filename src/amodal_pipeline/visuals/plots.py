"""Plots of losses, of data sets and of results.

Each function returns a :class:`matplotlib.figure.Figure` outside of pyplot;
``figure.savefig("name.png")`` writes it without a display.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from amodal_pipeline.annotations import AmodalAnnotations, rle
from amodal_pipeline.annotations.tables import strings
from amodal_pipeline.visuals.colours import line_colours
from amodal_pipeline.visuals.comparisons import Comparison, comparisons
from amodal_pipeline.visuals.text import grouped, quantity

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

_INK, _FAINT, _GRID = "#1c2026", "#68707c", "#e4e7eb"
_NOT_LOSSES = ("iteration", "learning_rate", "images_per_second", "loss")
_DPI = 130
_PANEL_LETTERS = 22  # of a title that fits above a panel of results_chart


def loss_curves(histories: Mapping[str, Sequence[dict]]) -> Figure:
    """Plot the losses of each method by iteration in a panel, smoothed over faint raw values.

    The total is the dark line; each line has its name at the right end. The scale is logarithmic if
    all values are positive.

    Args:
        histories: method → rows with "iteration", "loss" and losses by name; other keys
            ("learning_rate", "images_per_second") are not drawn.
    """
    columns = int(min(2, max(1, len(histories))))
    rows = max(1, -(-len(histories) // columns))
    figure = _figure(6.4 * columns, 3.7 * rows)
    panels = figure.subplots(rows, columns, squeeze=False).reshape(-1)
    for panel in panels[len(histories) :]:
        panel.set_axis_off()
    if not histories:
        _say(panels[0], "No training history")
    for panel, (method, history) in zip(panels, histories.items(), strict=False):
        _loss_panel(panel, method, history)
    return figure


def occlusion_histogram(annotations: AmodalAnnotations) -> Figure:
    """Plot the shares of a data set's objects by occlusion rate.

    Objects without occlusion have a bar of their own, left of zero.
    """
    counted = annotations.instances[~annotations.instances["ignore"].to_numpy(dtype=bool)]
    rates = counted["occlusion_rate"].to_numpy(dtype=np.float64)
    figure = _figure(6.0, 3.6)
    axes = figure.subplots()
    name = f"{annotations.metadata.dataset}, {annotations.metadata.split}"
    _style(axes, f"Occlusion in {name}")
    if not len(rates):
        _say(axes, "No objects")
        return figure
    hidden = rates[rates > 0]
    none, some = line_colours(7)[6], line_colours(1)[0]
    shares, edges = np.histogram(hidden, bins=20, range=(0, 1))
    shares = 100 * shares / len(rates)
    axes.bar(edges[:-1], shares, width=0.05, align="edge", color=some, edgecolor="white")
    free = 100 * (1 - len(hidden) / len(rates))
    axes.bar(-0.105, free, width=0.05, align="edge", color=none)
    top = max(free, shares.max(), 1e-9)
    axes.text(
        -0.08,
        free + 0.02 * top,
        f"{free:.0f}%\nnot occluded",
        ha="center",
        va="bottom",
        color=none,
    )
    if len(hidden):
        mean = float(hidden.mean())
        text = f"occluded objects: {mean:.0%} on average"
        _mark_mean(axes, mean, text, 1.14 * top, (0, 1))
    axes.set_xlim(-0.21, 1.01)
    axes.set_ylim(0, 1.28 * top)
    ticks = np.linspace(0, 1, 6)
    axes.set_xticks([-0.08, *ticks], ["none", *(f"{t:.0%}" for t in ticks)])
    axes.tick_params(axis="x", labelsize=9)
    axes.set_xlabel(f"hidden share of the object ({grouped(len(rates))} objects)")
    axes.set_ylabel("share of objects (%)")
    return figure


def objects_per_image(annotations: AmodalAnnotations) -> Figure:
    """Plot the images by their number of objects, ignored ones aside, in at most 30 bins."""
    counted = annotations.instances[~annotations.instances["ignore"].to_numpy(dtype=bool)]
    image_ids = annotations.images["image_id"].to_numpy(dtype=np.int64)
    of = np.searchsorted(np.sort(image_ids), counted["image_id"].to_numpy(dtype=np.int64))
    objects = np.bincount(of, minlength=len(image_ids))
    figure = _figure(6.0, 3.6)
    axes = figure.subplots()
    _style(axes, "Objects per image")
    if not len(objects):
        _say(axes, "No images")
        return figure
    # A whole number of objects per bin, and few enough bars to tell them apart.
    width = max(1, -(-(int(objects.max()) + 1) // 30))
    bars = np.bincount(objects // width)
    left = width * np.arange(len(bars)) - 0.5
    blue = line_colours(7)[6]
    axes.bar(left, bars, width=width, align="edge", color=blue, edgecolor="white")
    mean = float(objects.mean())
    _mark_mean(axes, mean, f"{mean:.1f} on average", 1.12 * bars.max(), (left[0], left[-1] + width))
    axes.set_xlim(left[0] - 0.3 * width, left[-1] + 1.3 * width)
    axes.set_ylim(0, 1.24 * bars.max())
    _whole_numbers(axes.xaxis)
    _whole_numbers(axes.yaxis)
    bins = "" if width == 1 else f", {width} numbers to a bar"
    axes.set_xlabel(f"objects ({quantity(len(objects), 'image')}{bins})")
    axes.set_ylabel("images")
    return figure


def size_histogram(annotations: AmodalAnnotations) -> Figure:
    """Plot the objects by the square root of their amodal area, ignored ones aside.

    The scale is logarithmic. The lines are COCO's limits: below 32 pixels small, above 96 large.
    """
    sides = np.sqrt(_amodal_areas(annotations))
    figure = _figure(6.0, 3.6)
    axes = figure.subplots()
    _style(axes, "Size of the whole object")
    if not len(sides):
        _say(axes, "No objects")
        return figure
    low = np.floor(2 * np.log2(sides.min())) / 2
    high = max(np.floor(2 * np.log2(sides.max())) / 2 + 0.5, low + 0.5)
    edges = 2 ** np.linspace(low, high, round(4 * (high - low)) + 1)
    bars, edges = np.histogram(sides, bins=edges)
    blue = line_colours(7)[6]
    axes.bar(edges[:-1], bars, width=np.diff(edges), align="edge", color=blue, edgecolor="white")
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_ylim(0, 1.24 * bars.max())
    axes.set_xlim(edges[0] / 1.06, edges[-1] * 1.06)
    limits = [edges[0], 32, 96, edges[-1]]
    for name, (left, right) in zip(("small", "medium", "large"), pairwise(limits), strict=True):
        share = np.mean((sides >= left) & ((sides < right) | (name == "large")))
        left, right = max(left, edges[0]), min(right, edges[-1])
        if left >= right:
            continue
        if left > edges[0]:
            axes.axvline(left, color=_INK, linewidth=1.2, linestyle=(0, (4, 3)))
        if right / left > 1.8:
            axes.text(
                np.sqrt(left * right),
                1.15 * bars.max(),
                f"{name}\n{share:.0%}",
                ha="center",
                va="center",
                color=_INK,
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 2},
            )
    _whole_numbers(axes.yaxis)
    axes.set_xlabel(f"√area, pixels ({grouped(len(sides))} objects)")
    axes.set_ylabel("objects")
    return figure


def results_chart(results: pd.DataFrame, metrics: Sequence[str]) -> Figure:
    """Plot results as bars of the methods, with one panel per metric.

    Results of another data set, split, protocol or other inputs have a row of panels of their own
    (see :func:`amodal_pipeline.visuals.comparisons.comparisons`). Whiskers span the interval, or
    one standard deviation of several runs.

    Args:
        results: tidy rows of results.
        metrics: the panels, left to right; metrics without a value are left out.

    Raises:
        ValueError: a column of the results is missing.
    """
    groups = [g for g in (c.of(metrics) for c in comparisons(results)) if g is not None]
    if not groups:
        figure = _figure(6.4, 2.4)
        _say(figure.subplots(), "No results")
        return figure
    more = [max(_in_lines(name).count("\n") for name in group.metrics) for group in groups]
    heights = [
        1.0 + 0.2 * lines + 0.4 * len(group.lines)
        for lines, group in zip(more, groups, strict=True)
    ]
    columns = max(len(group.metrics) for group in groups)
    figure = _figure(1.9 + 2.3 * columns, sum(heights))
    shown = list(dict.fromkeys(line for group in groups for line in group.lines))
    colours = dict(zip(shown, line_colours(len(shown)), strict=True))
    parts = np.atleast_1d(figure.subfigures(len(groups), 1, height_ratios=heights))
    for part, group in zip(parts, groups, strict=True):
        part.suptitle(
            _cut(f"{group.about}  ·  {group.given}", 100),
            x=0.012,
            ha="left",
            fontsize=10,
            color=_FAINT,
            parse_math=False,
        )
        panels = part.subplots(1, columns, squeeze=False, sharey=True)[0]
        for i, panel in enumerate(panels):
            if i < len(group.metrics):
                _bars(panel, group, i, [colours[line] for line in group.lines])
            else:
                panel.set_axis_off()
    return figure


def _in_lines(metric: str) -> str:
    """Return the name of a metric in lines as narrow as a panel, broken after underscores."""
    lines = [""]
    for part in re.split(r"(?<=_)", metric):
        if lines[-1] and len(lines[-1] + part) > _PANEL_LETTERS:
            lines.append("")
        lines[-1] += part
    return "\n".join(lines)


def _bars(axes: Axes, group: Comparison, column: int, colours: Sequence[str]) -> None:
    value, best = group.value[:, column], group.best()[:, column]
    rows = np.arange(len(group.lines))
    _style(axes, _in_lines(group.metrics[column]), grid="x")
    axes.barh(rows, np.nan_to_num(value), height=0.66, color=list(colours))
    low, high = group.low[:, column], group.high[:, column]
    known = np.isfinite(value) & np.isfinite(low) & np.isfinite(high)
    spans = np.clip(np.stack([value - low, high - value])[:, known], 0, None)
    if known.any():
        axes.errorbar(
            value[known], rows[known], xerr=spans, fmt="none", ecolor=_INK, elinewidth=1, capsize=2
        )
    ends = np.where(known, high, value)
    for row in rows:
        missing = not np.isfinite(value[row])
        axes.annotate(
            "–" if missing else f"{value[row]:.1f}",
            (0 if missing else ends[row], row),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=9,
            color=_INK,
            fontweight="bold" if best[row] else "normal",
        )
    axes.set_yticks(rows, [_cut(line, 28) for line in group.lines], parse_math=False)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    top = np.nanmax(np.append(ends, 1.0))
    axes.set_xlim(0, min(1.3 * top, 122))
    axes.spines["left"].set_visible(False)


def _loss_panel(axes: Axes, method: str, history: Sequence[dict]) -> None:
    table = pd.DataFrame(list(history))
    losses = [
        c for c in table if c not in _NOT_LOSSES and (c.startswith("loss") or c.endswith("loss"))
    ]
    total = ["loss"] if "loss" in table else []
    # A total of one part alone would draw the same line twice.
    losses = losses if len(losses) > 1 or not total else []
    _style(axes, _cut(method, 60))
    if "iteration" not in table or not (losses or total):
        _say(axes, "No training history")
        return
    table = table.sort_values("iteration", kind="stable")
    iteration = table["iteration"].to_numpy(np.float64)
    ends, positive = [], True
    colours = [*line_colours(len(losses)), _INK]
    for name, colour in zip([*losses, *total], colours, strict=False):
        raw = pd.to_numeric(table[name], errors="coerce").astype(np.float64)
        raw = raw.where(np.isfinite(raw))
        if raw.notna().sum() == 0:
            continue
        smooth = raw.ewm(span=max(1.0, len(raw) / 25), ignore_na=True).mean()
        axes.plot(iteration, raw, color=colour, linewidth=0.8, alpha=0.22)
        width = 2.4 if name == "loss" else 1.6
        axes.plot(iteration, smooth, color=colour, linewidth=width, solid_capstyle="round")
        ends.append((name, colour, float(smooth.dropna().iloc[-1])))
        positive &= bool((raw.dropna() > 0).all())
    if not ends:
        _say(axes, "No finite loss")
        return
    if positive:
        _decades(axes)
    axes.set_xlabel("iteration")
    axes.margins(x=0.01)
    _end_labels(axes, ends)


def _decades(axes: Axes) -> None:
    """Set a logarithmic scale with labels at 1, 2 and 5 of each decade."""
    from matplotlib.ticker import LogLocator, NullLocator

    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")


def _end_labels(axes: Axes, ends: Sequence[tuple[str, str, float]]) -> None:
    """Write each line's name and last value right of the axes, spaced so that none overlap."""
    values = np.array([end[2] for end in ends])
    low, high = axes.get_ylim()
    if axes.get_yscale() == "log":
        values, low, high = np.log10(values), np.log10(low), np.log10(high)
    place = (values - low) / (high - low)
    order = np.argsort(place, kind="stable")
    steps = 0.068 * np.arange(len(order))
    # Isotonic regression by hand: the running maximum from below, then lowered to fit on top.
    spaced = np.maximum.accumulate(place[order] - steps) + steps
    spaced = np.minimum(spaced, 1.0 - 0.068 * np.arange(len(order))[::-1])
    for i, y in zip(order, spaced, strict=True):
        name, colour, value = ends[i]
        text = "total" if name == "loss" else name.removeprefix("loss_").replace("_", " ")
        axes.annotate(
            f"{_cut(text, 24)}  {value:.3g}",
            (1.0, y),
            xycoords="axes fraction",
            xytext=(7, 0),
            textcoords="offset points",
            va="center",
            fontsize=8.5,
            color=colour,
            fontweight="bold" if name == "loss" else "normal",
            annotation_clip=False,
            parse_math=False,
        )


def _mark_mean(
    axes: Axes, mean: float, text: str, height: float, span: tuple[float, float]
) -> None:
    """Draw a line at the mean, with its text on the side that has room."""
    axes.axvline(mean, color=_INK, linewidth=1.2, linestyle=(0, (4, 3)))
    place = (mean - span[0]) / (span[1] - span[0])
    axes.annotate(
        text,
        (mean, height),
        xytext=(5 if place < 0.5 else -5, 0),
        textcoords="offset points",
        ha="left" if place < 0.5 else "right",
        va="center",
        color=_INK,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 2},
    )


def _amodal_areas(annotations: AmodalAnnotations) -> np.ndarray:
    """Return the amodal area in pixels of each object that is not ignored."""
    counted = ~annotations.instances["ignore"].to_numpy(dtype=bool)
    return rle.area(strings(annotations.instances["amodal_rle"][counted]))


def _whole_numbers(axis: Axis) -> None:
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator(nbins=7, integer=True, min_n_ticks=1))
    axis.set_major_formatter(lambda value, _: grouped(round(value)))


def _figure(width: float, height: float) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=_DPI, facecolor="white", layout="constrained")
    figure.get_layout_engine().set(w_pad=0.12, h_pad=0.12)
    FigureCanvasAgg(figure)
    return figure


def _style(axes: Axes, title: str, grid: str = "y") -> None:
    # Without parsing: a dollar sign in a name starts no formula.
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold", color=_INK, parse_math=False)
    axes.set_axisbelow(True)
    axes.grid(True, axis=grid, color=_GRID, linewidth=0.9)
    for side in ("top", "right", "left" if grid == "y" else "bottom"):
        axes.spines[side].set_visible(False)
    for spine in axes.spines.values():
        spine.set_color("#b6bcc6")
    axes.tick_params(which="both", length=0, labelsize=9, colors=_FAINT)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set_fontsize(9.5)
        label.set_color(_FAINT)


def _say(axes: Axes, text: str) -> None:
    axes.set_axis_off()
    axes.text(
        0.5,
        0.5,
        text,
        ha="center",
        va="center",
        transform=axes.transAxes,
        color=_FAINT,
        fontsize=11,
    )


def _cut(text: str, length: int) -> str:
    text = "".join(c if c.isprintable() else " " for c in str(text))
    return text if len(text) <= length else text[: length - 1] + "…"


def line_chart(
    lines: Mapping[str, tuple[np.ndarray, np.ndarray]],
    styles: Mapping[str, tuple[str, str]],
    *,
    title: str,
    x_label: str,
    y_label: str,
    ticks: Sequence[tuple[float, str]] | None = None,
    counts: Sequence[int] = (),
) -> Figure:
    """Plot lines (name → x, y) of 0–100 in a small chart without a legend.

    Args:
        lines: NaN leaves a gap.
        styles: name → colour and dash (:func:`amodal_pipeline.visuals.colours.line_styles`).
        title: heading of the chart.
        x_label, y_label: quantities of the axes, with units.
        ticks: places and names on the x axis, with a dot for each value. By default x is 0–100.
        counts: objects at each tick, as bars below the chart.
    """
    figure = _figure(4.4, 3.3)
    if len(counts):
        axes, below = figure.subplots(2, 1, sharex=True, height_ratios=(5, 1))
        _style(below, "")
        below.bar([place for place, _ in ticks], counts, width=0.7, color="#b6bcc6")
        below.set_ylabel("objects")
        below.set_yticks([max(counts)], [grouped(max(counts))])
        lowest = below
    else:
        axes = lowest = figure.subplots()
    _style(axes, _cut(title, 60))
    for name, (x, y) in lines.items():
        colour, dash = styles[name]
        marker = {"marker": "o", "markersize": 3.5} if ticks else {}
        axes.plot(x, y, color=colour, linestyle=dash, linewidth=1.7, **marker)
    top = max((np.nanmax(y, initial=0) for _, y in lines.values()), default=0)
    # From zero, but only as high as the values reach.
    axes.set_ylim(0, 100 if top > 80 else max(1, 1.12 * top))
    axes.set_ylabel(y_label)
    lowest.set_xlabel(x_label)
    if ticks:
        lowest.set_xticks([place for place, _ in ticks], [name for _, name in ticks])
        lowest.tick_params(axis="x", labelsize=8)
    else:
        axes.set_xlim(0, 100)
    return figure
