"""The report: one HTML file with everything in it, to be opened from disk or mailed."""

import base64
import html
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pandas as pd
from PIL import Image

from amodal_pipeline.annotations.images import read_image
from amodal_pipeline.annotations.storage import inside, replacing
from amodal_pipeline.visuals.comparisons import Comparison, comparisons
from amodal_pipeline.visuals.definitions import MAIN_METRICS, definition

EMBEDDED_BYTES = 20_000_000  # of pictures in one report; mail servers refuse more
_AS_IS_BYTES = 700_000  # a larger picture is stored as JPEG
_WIDEST = 2400  # pixels

_Rows = Mapping[str, object] | Sequence[tuple[str, object]]


def write_report(
    folder: str | os.PathLike,
    *,
    title: str,
    dataset_summary: _Rows,
    results: pd.DataFrame,
    figures: Mapping[str, str | os.PathLike],
    notes: Sequence[str] = (),
    commands: _Rows = (),
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
        ("Notes", "".join(f"<p>{_text(note)}</p>" for note in notes)),
        ("Data", _definitions(_pairs(dataset_summary))),
        ("Pictures", pictures),
        ("What the metrics mean", _glossary(groups)),
        ("Going on", _commands(_pairs(commands))),
    ]
    body = "".join(
        f"<section><h2>{name}</h2>{content}</section>" for name, content in sections if content
    )
    path = folder / "report.html"
    with replacing(path) as temporary:
        temporary.write_text(_PAGE.format(title=_text(title), style=_STYLE, body=body), "utf-8")
    return path


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
            f"{_text(line)}: {n}" for line, n in zip(group.lines, group.runs, strict=True) if n > 1
        )
        runs = f"<p class=faint>Mean ± standard deviation over several runs ({several}).</p>"
    given = _text(group.given[:1].upper() + group.given[1:])
    return f"<h3>{given} <small>{_text(group.about)}</small></h3>{shown}{runs}{rest}"


def _table(group: Comparison) -> str:
    best = group.best()
    common = [_common(group.n[:, m]) for m in range(len(group.metrics))]
    head = "".join(
        f'<th title="{_text(definition(metric))}">{_label(metric)}'
        + ("" if n is None else f"<span class=faint>n = {_count(n)}</span>")
        + "</th>"
        for metric, n in zip(group.metrics, common, strict=True)
    )
    lines = []
    for i, line in enumerate(group.lines):
        cells = "".join(
            _cell(group, i, m, bool(best[i, m]), with_n=common[m] is None)
            for m in range(len(group.metrics))
        )
        lines.append(f"<tr><th scope=row>{_text(line)}</th>{cells}</tr>")
    return (
        f"<div class=wide><table><thead><tr><th>Method</th>{head}</tr></thead>"
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def _long_table(group: Comparison) -> str:
    best = group.best()
    head = "".join(f"<th>{_text(line)}</th>" for line in group.lines)
    lines = []
    for m, metric in enumerate(group.metrics):
        n = _common(group.n[:, m])
        cells = "".join(
            _cell(group, i, m, bool(best[i, m]), with_n=n is None) for i in range(len(group.lines))
        )
        lines.append(
            f"<tr><th scope=row>{_label(metric)}</th>{cells}"
            f"<td class=faint>{'' if n is None else _count(n)}</td></tr>"
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
        text += f"<span class=faint>n = {_count(group.n[line, metric])}</span>"
    return f"<td>{text}</td>"


def _common(n: np.ndarray) -> float | None:
    """The one n that all lines share, or None."""
    known = np.unique(n[np.isfinite(n)])
    return float(known[0]) if len(known) == 1 else None


def _definitions(pairs: Sequence[tuple[str, object]]) -> str:
    rows = "".join(f"<div><dt>{_text(k)}</dt><dd>{_text(v)}</dd></div>" for k, v in pairs)
    return f"<dl class=numbers>{rows}</dl>" if rows else ""


def _glossary(groups: Sequence[Comparison]) -> str:
    used = {metric for group in groups for metric in group.metrics}
    order = {metric: place for place, metric in enumerate(MAIN_METRICS)}
    known = [m for m in sorted(used, key=lambda m: (order.get(m, len(order)), m)) if definition(m)]
    rows = "".join(f"<dt>{_label(m)}</dt><dd>{_text(definition(m))}</dd>" for m in known)
    if not rows:
        return ""
    return (
        "<p>All values are in percent; more is better; the best of a column is bold. "
        f"n counts the objects or pairs a value rests on.</p><dl class=glossary>{rows}</dl>"
    )


def _commands(pairs: Sequence[tuple[str, object]]) -> str:
    return "".join(f"<p>{_text(k)}</p><pre><code>{_text(v)}</code></pre>" for k, v in pairs)


def _pictures(folder: Path, figures: Mapping[str, str | os.PathLike]) -> str:
    left, shown = EMBEDDED_BYTES, []
    for caption, name in figures.items():
        name = Path(name).as_posix()
        picture, (height, width) = _embedded(folder, name)
        remark = ""
        if len(picture) <= left:
            left -= len(picture)
            source = picture
        else:
            source, remark = "./" + quote(name), f" (in the file {_text(name)})"
        shown.append(
            f'<figure><img src="{source}" alt="{_text(caption)}" width="{width}" '
            f'height="{height}"><figcaption>{_text(caption)}{remark}</figcaption></figure>'
        )
    return "".join(shown)


def _embedded(folder: Path, name: str) -> tuple[str, tuple[int, int]]:
    """A picture as a data URL, and its (height, width)."""
    pixels = read_image(folder, name)
    content, kind = inside(folder, name).read_bytes(), "png"
    if not content.startswith(b"\x89PNG") or len(content) > _AS_IS_BYTES:
        image = Image.fromarray(pixels)
        image.thumbnail((_WIDEST, 4 * _WIDEST), Image.Resampling.LANCZOS)
        packed = io.BytesIO()
        # Full colour resolution: thin coloured outlines smear otherwise.
        image.save(packed, "JPEG", quality=90, subsampling=0)
        content, kind = packed.getvalue(), "jpeg"
    url = f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"
    return url, pixels.shape[:2]


def _pairs(rows: _Rows) -> list[tuple[str, object]]:
    return list(rows.items()) if isinstance(rows, Mapping) else [(k, v) for k, v in rows]


def _label(metric: str) -> str:
    # A long name may break after an underscore.
    return _text(metric).replace("_", "_<wbr>")


def _text(value: object) -> str:
    return html.escape(str(value), quote=True)


def _count(n: float) -> str:
    return f"{int(n):,}".replace(",", "&nbsp;")


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; style-src 'unsafe-inline'; img-src data: file: 'self'">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<main>
<h1>{title}</h1>
{body}
</main>
</body>
</html>
"""

_STYLE = """
:root { color-scheme: light dark; --ink: #1c2026; --faint: #68707c; --paper: #fff;
  --card: #f6f7f9; --line: #dde1e7; --accent: #0072b2; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8eaee; --faint: #9aa3b0; --paper: #14171b;
  --card: #1d2127; --line: #333a44; --accent: #56b4e9; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
main { max-width: 1180px; margin: 0 auto; padding: 2.5rem 1.5rem 4rem; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 2rem; overflow-wrap: anywhere; }
h2 { font-size: 1.25rem; margin: 3rem 0 1rem; padding-bottom: .35rem;
  border-bottom: 2px solid var(--accent); }
h3 { font-size: 1rem; margin: 1.75rem 0 .6rem; }
h3 small { font-weight: 400; color: var(--faint); margin-left: .6em; }
p { max-width: 48rem; margin: .6rem 0; overflow-wrap: anywhere; }
.faint { color: var(--faint); }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .92rem; }
th, td { padding: .45rem .8rem; text-align: right; vertical-align: top;
  border-bottom: 1px solid var(--line); }
thead th { vertical-align: bottom; line-height: 1.25; max-width: 8.5rem; }
th:first-child { text-align: left; padding-left: 0; }
tbody th { font-weight: 500; max-width: 20rem; overflow-wrap: anywhere; }
tbody tr:hover { background: var(--card); }
th .faint, td .faint { display: block; font-size: .78rem; font-weight: 400; white-space: nowrap; }
details { margin: .9rem 0; } summary { cursor: pointer; color: var(--accent); }
dl { margin: 0; } dd { margin: 0; }
.numbers { display: grid; gap: .8rem;
  grid-template-columns: repeat(auto-fill, minmax(12rem, 1fr)); }
.numbers div { background: var(--card); border-radius: 8px; padding: .7rem .9rem; }
.numbers dt { color: var(--faint); font-size: .85rem; }
.numbers dd { font-size: 1.15rem; font-weight: 600; overflow-wrap: anywhere; }
.glossary { display: grid; grid-template-columns: minmax(9rem, max-content) 1fr;
  gap: .35rem 1.2rem; font-size: .92rem; margin-top: 1rem; }
.glossary dt { font-weight: 600; } .glossary dd { color: var(--faint); }
figure { margin: 1.5rem 0 2.5rem; break-inside: avoid; }
img { display: block; max-width: 100%; height: auto; background: #fff; border-radius: 8px;
  border: 1px solid var(--line); }
figcaption { color: var(--faint); font-size: .92rem; margin-top: .5rem; max-width: 60rem; }
pre { background: var(--card); border-radius: 8px; padding: .7rem .9rem; overflow-x: auto;
  font-size: .88rem; margin: .3rem 0 1.1rem; }
@media print { :root { --ink: #000; --faint: #555; --paper: #fff; --card: #f4f4f4;
  --line: #ccc; --accent: #000; } main { max-width: none; padding: 0; }
  body { font-size: 11pt; } tr { break-inside: avoid; }
  h2, h3 { break-after: avoid; }  .wide { overflow: visible; } }
"""
