"""Parts of an HTML page that is one file and loads nothing.

Pages are Jinja templates in ``templates/``, which escape all values. Functions here that return
HTML take plain text and escape it, unless their arguments are said to be HTML.
"""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jinja2 import Environment, PackageLoader
from markupsafe import Markup, escape
from PIL import Image

from amodal_pipeline.annotations.images import read_image
from amodal_pipeline.annotations.storage import inside, replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_AS_IS_BYTES = 700_000  # a larger picture is stored as JPEG
_WIDEST = 2400  # pixels

Pairs = Mapping[str, object] | Sequence[tuple[str, object]]


@dataclass(frozen=True)
class Cell:
    """Hold the content of one cell of a table.

    ``below`` are smaller lines under the text, ``marks`` references to notes, ``bar`` the length of
    a bar in percent, ``hint`` a text on hovering, ``kind`` a class of the style sheet.
    """

    text: object
    strong: bool = False
    below: tuple[str, ...] = ()
    marks: tuple[object, ...] = ()
    bar: float | None = None
    hint: str = ""
    kind: str = ""

    def __html__(self) -> str:
        return _part("cell")(self)


def write(path: str | os.PathLike, template: str, **context: Any) -> Path:
    """Write a page from a template and return its path; an error leaves the old file as it was."""
    page = _environment().get_template(template).render(context)
    with replacing(path) as temporary:
        temporary.write_text(page, "utf-8")
    return Path(path)


def text(value: object) -> str:
    """Return a value as escaped HTML."""
    return str(escape(value))


def pairs(rows: Pairs) -> list[tuple[str, object]]:
    """Return names and values as a list of pairs."""
    return list(rows.items()) if isinstance(rows, Mapping) else [(k, v) for k, v in rows]


def tiles(rows: Pairs) -> str:
    """Return names and values as a grid of small cards."""
    return str(_part("tiles")(pairs(rows)))


def table(headings: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Return a table of headings and cells in HTML; the first cell of a line is its heading."""

    def cells(row: Iterable[str]) -> list[Cell]:
        return [Cell(Markup(html)) for html in row]

    return str(_part("table")(cells(headings), [cells(line) for line in lines]))


def picture(source: str, size: tuple[int, int], alt: str, caption: str) -> str:
    """Return a figure with its caption.

    Args:
        source: data URL, or relative URL.
        size: (height, width) in pixels, for which the page leaves room.
        alt: description for readers who do not see it.
        caption: "" for none.
    """
    return str(_part("picture")(source, size, alt, caption))


def drawn(figure: Figure) -> tuple[str, tuple[int, int]]:
    """Return a matplotlib figure as a data URL of an SVG, and its (height, width) in pixels."""
    import matplotlib

    packed = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    # Letters as outlines: the same on every machine. Equal figures give equal bytes.
    with matplotlib.rc_context({"svg.fonttype": "path", "svg.hashsalt": "amodal_pipeline"}):
        figure.savefig(packed, format="svg", metadata=nothing)
    svg = packed.getvalue()
    size = tuple(round(96 * side) for side in figure.get_size_inches()[::-1])
    return _url("svg+xml", svg[svg.index("<svg") :].encode()), size


def embedded_file(folder: str | os.PathLike, name: str) -> tuple[str, tuple[int, int]]:
    """Return a picture below ``folder`` as a data URL, and its (height, width) in pixels.

    Raises:
        ValueError: it is missing, damaged or outside ``folder``.
    """
    pixels = read_image(folder, name)
    content = inside(folder, name).read_bytes()
    if not content.startswith(b"\x89PNG") or len(content) > _AS_IS_BYTES:
        return embedded(pixels), pixels.shape[:2]
    return _url("png", content), pixels.shape[:2]


def embedded(pixels: np.ndarray) -> str:
    """Return pixels, uint8 [H, W, 3], as a JPEG data URL, reduced to 2400 pixels of width."""
    image = Image.fromarray(pixels)
    image.thumbnail((_WIDEST, 4 * _WIDEST), Image.Resampling.LANCZOS)
    packed = io.BytesIO()
    # Full colour resolution: thin coloured outlines smear otherwise.
    image.save(packed, "JPEG", quality=90, subsampling=0)
    return _url("jpeg", packed.getvalue())


def _url(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"


@cache
def _environment() -> Environment:
    loader = PackageLoader("amodal_pipeline.visuals")
    return Environment(autoescape=True, loader=loader, trim_blocks=True, lstrip_blocks=True)


def _part(name: str) -> Any:
    return getattr(_environment().get_template("parts.html").module, name)
