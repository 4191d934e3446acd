"""Pictures of a shape prior: the entries of each category, and a map of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from amodal_pipeline.methods.vrsp.auto_encoder import decode_all
from amodal_pipeline.methods.vrsp.codebook import ShapePrior
from amodal_pipeline.visuals.colours import EMPTY, FAINT, INK, PALETTE, PAPER
from amodal_pipeline.visuals.text import font, shortened

_SHAPE = np.array(PALETTE[6])  # blue
_MARGIN, _GAP = 24, 6
_SHOWN = 16  # entries of a category in the sheet
_CELL = 56
_NAMES = 170  # pixels for names of categories
_PANEL, _MAPS, _ACROSS = 520, 6, 3
_MAPPED = 1024  # entries of a category that a map is made of
_COVERED = 0.2  # of a panel, if it had room for all shapes


def entries_sheet(prior: ShapePrior, categories: Sequence[str], dataset: str) -> Image.Image:
    """Draw one row per category: its entries with most masks, decoded, and the masks of each.

    Args:
        prior: on the CPU.
        categories: their names, in the order of the entries.
        dataset: for the title.
    """
    shapes = _decoded(prior, _SHOWN)
    members = prior.members.numpy()
    across = max(max(map(len, shapes), default=0), 6)
    width = 2 * _MARGIN + _NAMES + across * (_CELL + _GAP)
    row = _CELL + 30
    page = Image.new("RGB", (width, _MARGIN + 70 + row * len(shapes) + _MARGIN), PAPER)
    draw = ImageDraw.Draw(page)
    _title(draw, dataset, "the entries with most masks, and how many each represents", width)
    y = _MARGIN + 70
    for position, (category, found) in enumerate(zip(categories, shapes, strict=True)):
        bold, plain, small = font(15, True), font(12), font(11)
        draw.text((_MARGIN, y + 10), shortened(category, bold, _NAMES - 12), INK, bold)
        count = int(prior.count[position])
        text = f"{count} {'entry' if count == 1 else 'entries'}"
        draw.text((_MARGIN, y + 32), text, FAINT, plain)
        for i, shape in enumerate(found):
            x = _MARGIN + _NAMES + i * (_CELL + _GAP)
            page.paste(shape_cell(shape, _CELL), (x, y))
            stands_for = str(members[position, i])
            left = x + (_CELL - small.getlength(stands_for)) / 2
            draw.text((left, y + _CELL + 3), stands_for, FAINT, small)
        y += row
    return page


def entries_map(
    prior: ShapePrior, categories: Sequence[str], dataset: str, seed: int = 0
) -> Image.Image:
    """Draw t-SNE maps of the entries of categories, with decoded shapes (paper's Fig. 5).

    The six categories with most entries have one panel each. Every entry is a dot; shapes are drawn
    where there is room, those with most masks first.
    """
    shapes = _decoded(prior, _MAPPED)
    order = sorted(range(len(shapes)), key=lambda i: (-len(shapes[i]), i))
    chosen = sorted(i for i in order[:_MAPS] if len(shapes[i]))
    across = max(1, min(_ACROSS, len(chosen)))
    down = max(1, -(-len(chosen) // across))
    step = _PANEL + _MARGIN
    width = max(2 * _MARGIN + across * step - _MARGIN, 700)
    page = Image.new("RGB", (width, _MARGIN + 70 + down * (step + 30)), PAPER)
    draw = ImageDraw.Draw(page)
    note = "entries by t-SNE of their codes: shapes where there is room, dots for the others"
    _title(draw, dataset, note, width)
    codes = prior.codes.numpy()
    for panel, i in enumerate(chosen):
        x = _MARGIN + panel % across * step
        y = _MARGIN + 70 + panel // across * (step + 30)
        name = f"{categories[i]}  ·  {int(prior.count[i])} entries"
        draw.text((x, y), shortened(name, font(15, True), _PANEL), INK, font(15, True))
        places = _places(codes[i, : len(shapes[i])], seed)
        page.paste(_map(places, shapes[i]), (x, y + 26))
    return page


def _title(draw: ImageDraw.ImageDraw, dataset: str, note: str, width: int) -> None:
    room = width - 2 * _MARGIN
    title = f"{dataset}: shape prior"
    draw.text((_MARGIN, _MARGIN), shortened(title, font(22, True), room), INK, font(22, True))
    draw.text((_MARGIN, _MARGIN + 34), shortened(note, font(14), room), FAINT, font(14))


def _decoded(prior: ShapePrior, most: int) -> list[np.ndarray]:
    """Return the first entries of each category, decoded, float [n, 28, 28] of 0–1."""
    return [
        decode_all(prior.auto_encoder, codes[: min(int(count), most)]).numpy()
        for codes, count in zip(prior.codes, prior.count, strict=True)
    ]


def shape_cell(shape: np.ndarray, side: int, *, rim: bool = True) -> Image.Image:
    """Draw a shape, float [S, S] of 0–1, in colour on a light ground."""
    mixed = shape[..., None] * _SHAPE + (1 - shape[..., None]) * np.array(EMPTY)
    # Without a rim, a mask that touches all sides of its box would look cut off.
    left = side // 10 if rim else 0
    image = Image.fromarray(mixed.round().astype(np.uint8))
    cell = Image.new("RGB", (side, side), EMPTY)
    cell.paste(image.resize((side - 2 * left,) * 2, Image.Resampling.BICUBIC), (left, left))
    return cell


def _places(codes: np.ndarray, seed: int) -> np.ndarray:
    """Return the place of each entry in a map, float [n, 2] in 0–1."""
    if len(codes) < 4:
        return np.linspace((0.2, 0.5), (0.8, 0.5), len(codes))
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    perplexity = min(30.0, (len(codes) - 1) / 3)
    # The same places on every number of cores.
    with threadpool_limits(1):
        places = TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(codes)
    low, high = places.min(axis=0), places.max(axis=0)
    return (places - low) / np.maximum(high - low, 1e-9)


def _map(places: np.ndarray, shapes: np.ndarray) -> Image.Image:
    side = int(np.clip(_PANEL * np.sqrt(_COVERED / max(len(shapes), 1)), 26, 52))
    panel = Image.new("RGB", (_PANEL, _PANEL), EMPTY)
    draw = ImageDraw.Draw(panel)
    at = side / 2 + 4 + places * (_PANEL - side - 8)
    for x, y in at:
        draw.ellipse((x - 2, y - 2, x + 2, y + 2), fill=(176, 182, 192))
    drawn: list[np.ndarray] = []
    for place, shape in zip(at, shapes, strict=True):
        if any(np.abs(place - other).max() < side + 2 for other in drawn):
            continue
        drawn.append(place)
        # Transparent where the shape is faint, so that dots around it stay visible.
        opacity = Image.fromarray((255 * np.clip(2 * shape - 0.5, 0, 1)).astype(np.uint8))
        opacity = opacity.resize((side, side), Image.Resampling.BICUBIC)
        corner = tuple(int(v) for v in (place - side / 2).round())
        panel.paste(Image.new("RGB", (side, side), tuple(map(int, _SHAPE))), corner, opacity)
    return panel
