"""The audit of a data set as an HTML page: records read, statistics, and the oddest records."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
from markupsafe import Markup

from amodal_pipeline.annotations import AmodalAnnotations
from amodal_pipeline.annotations.audit import LINES, Audit, CategoryCount, Number, Reason
from amodal_pipeline.annotations.storage import inside
from amodal_pipeline.visuals import page, worst
from amodal_pipeline.visuals.plots import objects_per_image, occlusion_histogram, size_histogram
from amodal_pipeline.visuals.text import grouped

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CUT, HIDDEN, ENTANGLED = 3, 6, 4
"""Examples drawn of objects that lost most, of objects hidden most, and of entangled images."""

MOST_CATEGORIES = 25  # in the table that is seen at once
MOST_FOLDED = 500  # further ones, folded away; the rest is in the table of the audit only
MOST_REJECTED = 100  # records listed one by one

_KINDS = {"images": "Images", "instances": "Objects", "order": "Order pairs"}
_SECTIONS = {"counts": "Images and objects", "occlusion": "Occlusion", "order": "Order"}
_UNKNOWN = "–"


def write_audit(
    folder: str | os.PathLike,
    annotations: AmodalAnnotations,
    audit: Audit,
    *,
    name: str = "audit.html",
    on_progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write ``folder/name`` and return its path: records read, counts, distributions, examples.

    The page loads nothing from elsewhere; all text is escaped. Images that are missing, or whose
    size differs from the table's, are drawn as grey. The table alone decides which examples are
    drawn, and their number is bounded.

    Args:
        folder: where the page goes; made if absent.
        annotations: one split.
        audit: its :func:`amodal_pipeline.annotations.audit.audit`.
        name: the file's name inside ``folder``.
        on_progress: called with (done, total) for each of the page's parts.

    Returns:
        The path of the page.

    Raises:
        ValueError: ``name`` leads out of ``folder``.
    """
    path = inside(folder, name)
    parts: list[tuple[str, Callable[[], str]]] = [
        ("At a glance", lambda: _glance(audit)),
        ("What was read", lambda: _reading(audit)),
        ("Counts", lambda: _numbers(audit)),
        ("Distributions", lambda: _distributions(annotations)),
        ("Categories", lambda: _categories(audit.categories)),
        ("Records worth a look", lambda: _examples(annotations)),
        ("Rejected records", lambda: _rejected(annotations.rejected)),
    ]
    sections = []
    for done, (heading, make) in enumerate(parts):
        sections.append((heading, Markup(make())))
        if on_progress is not None:
            on_progress(done + 1, len(parts))
    title = f"Audit of {audit.dataset}, {audit.split}"
    return page.write(path, "audit.html", title=title, sections=sections)


def _glance(audit: Audit) -> str:
    accounted = audit.accounting.values()
    repaired, rejected = (sum(getattr(a, w) for a in accounted) for w in ("repaired", "rejected"))
    cards = [
        ("Images", grouped(audit["images"])),
        ("Objects", grouped(audit["objects"])),
        ("Objects occluded", _share(audit["object_occlusion_rate"])),
        ("Mean rate of the occluded", _share(audit["mean_occlusion_rate_occluded"])),
        ("Order pairs", grouped(audit["order_pairs"])),
        ("Records repaired", grouped(repaired)),
        ("Records rejected", grouped(rejected)),
    ]
    published = [n for n in audit.numbers if n.published is not None]
    if not published:
        return page.tiles(cards) + "<p class=faint>No published numbers are given to compare.</p>"
    differences = audit.differences
    cards.append(("As published", f"{len(published) - len(differences)} of {len(published)}"))
    lines = "".join(f"<li>{page.text(line)}</li>" for line in differences)
    found = f"<ul class=warn>{lines}</ul>" if differences else "<p>All counts are as published.</p>"
    return page.tiles(cards) + found


def _reading(audit: Audit) -> str:
    columns = ("read", "kept", "repaired", "rejected")
    lines = [
        [page.text(_KINDS.get(kind, kind)), *(grouped(getattr(a, c)) for c in columns)]
        for kind, a in audit.accounting.items()
    ]
    text = page.table(["", *(c.capitalize() for c in columns)], lines) if lines else ""
    if audit.remarks:
        text += f"<ul class=warn>{''.join(f'<li>{page.text(r)}</li>' for r in audit.remarks)}</ul>"
    for verdict in ("rejected", "repaired"):
        reasons = [r for r in audit.reasons if r.verdict == verdict]
        if reasons:
            text += f"<h3>{verdict.capitalize()}, by reason</h3>{_reasons(reasons)}"
    if not audit.reasons:
        text += "<p>Nothing had to be repaired or rejected.</p>"
    return text


def _reasons(reasons: Sequence[Reason]) -> str:
    with_share = any(r.largest_share is not None for r in reasons)
    lines = []
    for r in reasons:
        examples = "".join(f"<div class=faint>{page.text(e)}</div>" for e in r.examples)
        field = f"<code>{page.text(r.field)}</code> " if r.field else ""
        share = _UNKNOWN if r.largest_share is None else _share(100 * r.largest_share)
        lines.append(
            [
                f"{field}{page.text(r.reason)}{examples}",
                page.text(_KINDS[r.kind]),
                grouped(r.count),
                *([share] if with_share else []),
            ]
        )
    headings = ["Reason, with examples", "Of", "Records", *(["Largest share"] * with_share)]
    return f"<div class=reasons>{page.table(headings, lines)}</div>"


def _numbers(audit: Audit) -> str:
    compared = any(n.published is not None for n in audit.numbers)
    text = ""
    for section, heading in _SECTIONS.items():
        numbers = [n for n in audit.numbers if LINES[n.name].section == section]
        columns = [heading, "Here", *(["Published"] if compared else [])]
        text += page.table(columns, [_line(n, compared) for n in numbers])
    return f"<div class=lines>{text}</div>"


def _line(number: Number, compared: bool) -> list[str]:
    line = LINES[number.name]
    label = f"{page.text(line.label)}<span class=faint>{page.text(line.meaning)}</span>"
    cells = [label, _value(number.value, line.unit)]
    if number.published is not None:
        mark = "differs" if number.differs else "faint"
        theirs = _value(number.published, line.unit, exact=True)
        cells.append(f"{theirs}<span class={mark}>{page.text(number.difference)}</span>")
    elif compared:
        cells.append("")
    return cells


def _distributions(annotations: AmodalAnnotations) -> str:
    drawn: list[tuple[str, Figure]] = [
        ("Occlusion rates", occlusion_histogram(annotations)),
        ("Objects per image", objects_per_image(annotations)),
        ("Sizes of objects", size_histogram(annotations)),
    ]
    figures = "".join(page.picture(*page.drawn(figure), alt, "") for alt, figure in drawn)
    return f"<div class=plots>{figures}</div>"


def _categories(categories: Sequence[CategoryCount]) -> str:
    found = sorted((c for c in categories if c.objects), key=lambda c: (-c.objects, c.id))
    empty = [c for c in categories if not c.objects]
    text, most = "", max((c.objects for c in found), default=1)
    if found:
        text = _category_table(found[:MOST_CATEGORIES], most)
    further = found[MOST_CATEGORIES:]
    if further:
        objects = sum(c.objects for c in further)
        shown = further[:MOST_FOLDED]
        rest = ""
        if len(shown) < len(further):
            rest = f"<p class=faint>{grouped(len(further) - len(shown))} more are not shown.</p>"
        text += (
            f"<details><summary>Further {grouped(len(further))} categories with "
            f"{grouped(objects)} objects</summary>{_category_table(shown, most)}{rest}</details>"
        )
    if empty:
        named = ", ".join(page.text(c.name) for c in empty[:MOST_CATEGORIES])
        more = len(empty) - MOST_CATEGORIES
        named += f" and {grouped(more)} more" if more > 0 else ""
        text += f"<p>Without any object: {named}.</p>"
    return text


def _category_table(categories: Sequence[CategoryCount], most: int) -> str:
    """Return a table with bars: ``most`` objects fill one, the dark part is occluded."""
    lines = []
    for c in categories:
        # Widths instead of a picture: sharp at any size, and the number is read out beside it.
        part, whole = (100 * n / most for n in (c.occluded_objects, c.objects))
        bar = (
            f'<span class=bar><i style="width:{whole:.2f}%"></i>'
            f'<b style="width:{part:.2f}%"></b></span>'
        )
        lines.append(
            [
                page.text(c.name),
                bar,
                grouped(c.objects),
                grouped(c.occluded_objects),
                _share(c.mean_occlusion_rate),
            ]
        )
    headings = ["Category", "", "Objects", "Occluded", "Mean occlusion rate"]
    return f"<div class=categories>{page.table(headings, lines)}</div>"


def _examples(annotations: AmodalAnnotations) -> str:
    groups = [
        (
            "Lost most of the visible mask in the repair",
            "Pixels outside the whole mask were cut off; the masks are those after the repair.",
            worst.most_cut(annotations, CUT),
            "small",
        ),
        (
            "Hidden most",
            "The line is the outline of the whole object; its visible part is filled, its hidden "
            "part striped. One object per image.",
            worst.most_occluded_objects(annotations, HIDDEN),
            "small",
        ),
        (
            "Most entangled",
            "Images with the largest cycles, most order pairs and most objects. Arrows lead from "
            "an object to the one that it hides, grey where the order was inferred; ignored "
            "objects are grey.",
            worst.most_entangled(annotations, ENTANGLED),
            "large",
        ),
    ]
    text = ""
    for heading, note, examples, size in groups:
        if examples:
            figures = "".join(_example(e) for e in examples)
            text += (
                f"<h3>{page.text(heading)}</h3><p class=faint>{page.text(note)}</p>"
                f"<div class='examples {size}'>{figures}</div>"
            )
    return text


def _example(example: worst.Example) -> str:
    if example.pixels is None:
        return f"<figure><figcaption>{page.text(example.caption)}</figcaption></figure>"
    source = page.embedded(example.pixels)
    size = example.pixels.shape[:2]
    return page.picture(source, size, example.caption, example.caption)


def _rejected(rejected: pd.DataFrame) -> str:
    if not len(rejected):
        return ""
    shown = rejected.iloc[:MOST_REJECTED]
    lines = []
    for _, row in shown.iterrows():
        file = "" if pd.isna(row["file"]) else Path(row["file"]).name
        record = f"{page.text(row['record'])}<span class=faint>{page.text(file)}</span>"
        lines.append([record, f"<code>{page.text(row['field'])}</code> {page.text(row['reason'])}"])
    more = len(rejected) - len(shown)
    where = "more are in the table's list of rejected records"
    rest = f"<p class=faint>{grouped(more)} {where}.</p>"
    return (
        "<p>The table does not keep their masks, so none is drawn.</p>"
        f"<details><summary>{grouped(len(shown))} records</summary><div class=records>"
        f"{page.table(['Record', 'Reason'], lines)}</div></details>"
        f"{rest if more else ''}"
    )


def _value(value: float, unit: str, exact: bool = False) -> str:
    if unit:
        return f"{value:g}&nbsp;%" if exact else page.text(_share(value))
    return grouped(value) if float(value).is_integer() else f"{value:g}"


def _share(percent: float) -> str:
    return _UNKNOWN if math.isnan(percent) else f"{percent:.1f}\N{NO-BREAK SPACE}%"
