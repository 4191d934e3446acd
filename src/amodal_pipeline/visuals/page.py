"""The parts a page is made of: one HTML file with everything in it, that loads nothing.

Every function takes plain text and gives HTML with that text escaped, except where its arguments
are said to be HTML.
"""

import base64
import html
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from amodal_pipeline.annotations.images import read_image
from amodal_pipeline.annotations.storage import inside, replacing

_AS_IS_BYTES = 700_000  # a larger picture is stored as JPEG
_WIDEST = 2400  # pixels

Pairs = Mapping[str, object] | Sequence[tuple[str, object]]


def write(
    path: str | os.PathLike, title: str, sections: Sequence[tuple[str, str]], style: str = ""
) -> Path:
    """Write a page of sections (heading, HTML); those without content are left out.

    Args:
        path: the file; replaced as a whole or not at all.
        title: heading of the page.
        sections: headings are text, contents HTML.
        style: CSS of this kind of page, after what all have in common.
    """
    body = "".join(
        f"<section><h2>{text(name)}</h2>{content}</section>"
        for name, content in sections
        if content
    )
    page = _PAGE.format(title=text(title), style=_STYLE + style, body=body)
    with replacing(path) as temporary:
        temporary.write_text(page, "utf-8")
    return Path(path)


def text(value: object) -> str:
    return html.escape(str(value), quote=True)


def count(n: float) -> str:
    """A whole number with its thousands apart."""
    return f"{int(n):,}".replace(",", "&nbsp;")


def pairs(rows: Pairs) -> list[tuple[str, object]]:
    return list(rows.items()) if isinstance(rows, Mapping) else [(k, v) for k, v in rows]


def tiles(rows: Pairs) -> str:
    """Names and values as a grid of small cards."""
    cards = "".join(f"<div><dt>{text(k)}</dt><dd>{text(v)}</dd></div>" for k, v in pairs(rows))
    return f"<dl class=numbers>{cards}</dl>" if cards else ""


def table(headings: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table of HTML cells, ``headings`` too; the first of each line is its heading."""
    head = "".join(f"<th>{heading}</th>" for heading in headings)
    body = "".join(
        f"<tr><th scope=row>{line[0]}</th>{''.join(f'<td>{cell}</td>' for cell in line[1:])}</tr>"
        for line in lines
    )
    return (
        f"<div class=wide><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def picture(source: str, size: tuple[int, int], alt: str, caption: str) -> str:
    """An image with its caption.

    Args:
        source: data URL, or relative URL.
        size: (height, width) in pixels; the page reserves the room.
        alt: what is there to be seen.
        caption: HTML.
    """
    return (
        f'<figure><img src="{source}" alt="{text(alt)}" width="{size[1]}" height="{size[0]}">'
        f"<figcaption>{caption}</figcaption></figure>"
    )


def embedded_file(folder: str | os.PathLike, name: str) -> tuple[str, tuple[int, int]]:
    """A picture below ``folder`` as a data URL, and its (height, width).

    Raises:
        ValueError: it is missing, damaged or outside ``folder``.
    """
    pixels = read_image(folder, name)
    content = inside(folder, name).read_bytes()
    if not content.startswith(b"\x89PNG") or len(content) > _AS_IS_BYTES:
        return embedded(pixels), pixels.shape[:2]
    return embedded_png(content), pixels.shape[:2]


def embedded(pixels: np.ndarray) -> str:
    """Pixels, uint8 [H, W, 3], as a JPEG data URL; a very large picture is made smaller."""
    image = Image.fromarray(pixels)
    image.thumbnail((_WIDEST, 4 * _WIDEST), Image.Resampling.LANCZOS)
    packed = io.BytesIO()
    # Full colour resolution: thin coloured outlines smear otherwise.
    image.save(packed, "JPEG", quality=90, subsampling=0)
    return _url("jpeg", packed.getvalue())


def embedded_png(content: bytes) -> str:
    """The bytes of a PNG file as a data URL."""
    return _url("png", content)


def _url(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"


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
