"""A sheet of small pictures: one row per object, with a caption under it."""

from collections.abc import Sequence

from PIL import Image, ImageDraw

from amodal_pipeline.visuals.colours import FAINT, INK, PAPER
from amodal_pipeline.visuals.text import font, shortened

CELL = 112  # pixels
_MARGIN, _GAP = 24, 8
_NOTE, _CAPTION = 22, 30


def sheet(
    title: str,
    headings: Sequence[str],
    rows: Sequence[tuple[Sequence[Image.Image], str]],
    note: str = "",
) -> Image.Image:
    """Draw cells of ``CELL`` pixels under their headings.

    Args:
        title: heading of the sheet.
        headings: one per column.
        rows: the cells and the caption of each row.
        note: a line under the title.
    """
    width = 2 * _MARGIN + len(headings) * (CELL + _GAP)
    top = _MARGIN + (_NOTE if note else 0)
    height = top + 62 + len(rows) * (CELL + _CAPTION) + _MARGIN
    page = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(page)
    room = width - 2 * _MARGIN
    draw.text((_MARGIN, _MARGIN - 6), shortened(title, font(18, True), room), INK, font(18, True))
    if note:
        draw.text((_MARGIN, _MARGIN + 20), shortened(note, font(13), room), FAINT, font(13))
    for i, heading in enumerate(headings):
        draw.text((_MARGIN + i * (CELL + _GAP), top + 30), heading, FAINT, font(13))
    for r, (cells, caption) in enumerate(rows):
        y = top + 56 + r * (CELL + _CAPTION)
        for i, cell in enumerate(cells):
            page.paste(cell, (_MARGIN + i * (CELL + _GAP), y))
        draw.text((_MARGIN, y + CELL + 4), shortened(caption, font(12), room), FAINT, font(12))
    return page
