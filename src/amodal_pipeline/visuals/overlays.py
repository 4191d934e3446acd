"""Objects drawn on their image: visible parts filled, hidden parts striped."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage

from amodal_pipeline.annotations import rle
from amodal_pipeline.annotations.levels import VisibilityLevels
from amodal_pipeline.visuals.colours import LAYERS, luminance, object_colours
from amodal_pipeline.visuals.text import font, shortened

FILL = 0.5  # opacity of the visible part
STRIPE = 0.95  # opacity of a stripe across the hidden part
WASH = 0.15  # opacity between the stripes
LAYER = 0.75  # opacity of a layer
_REACH = 0.04  # of the picture's side: how far an arrow goes into what it points at
_UNDER = (20, 22, 26)  # arrows stand out from it on any picture


def draw_objects(
    image: np.ndarray,
    amodal_rles: Sequence[str | None],
    visible_rles: Sequence[str | None],
    *,
    colours: np.ndarray | None = None,
    labels: Sequence[str] | None = None,
    size: tuple[int, int] | None = None,
) -> np.ndarray:
    """Draw every object on the image: visible part filled, hidden part striped, amodal outline.

    The hidden part is amodal minus visible. An amodal mask of None is replaced by the visible one;
    with a visible mask of None, nothing is drawn as hidden. Without labels, pixels outside the
    masks stay as they are. Neighbouring objects have stripes of opposite slants.

    Args:
        image: uint8 [H, W, 3].
        amodal_rles, visible_rles: N masks on the canvas (H, W).
        colours: uint8 [N, 3]; by default :func:`object_colours` of the positions.
        labels: N short texts, set near the upper left corner of the object's box.
        size: (height, width) of the picture to make; masks and image are resampled to it first,
            so that lines keep their width. By default the image's own size.

    Returns:
        uint8 [*size, 3]; ``image`` is unchanged.

    Raises:
        ValueError: a mask does not fit the canvas, an object has no mask, or lengths differ.
    """
    canvas = image.shape[:2]
    size = tuple(size) if size is not None else canvas
    amodal_rles, visible_rles = _completed(amodal_rles, visible_rles, canvas)
    count = len(amodal_rles)
    colours = object_colours(range(count)) if colours is None else np.asarray(colours)
    if len(colours) != count or (labels is not None and len(labels) != count):
        raise ValueError(f"{count} objects need {count} colours and {count} labels, or none")

    # Large objects first, so that their fill never covers a small one.
    drawn = np.argsort(-rle.area(amodal_rles), kind="stable")
    stroke = stroke_width(size)
    picture = np.asarray(_resized(image, size), dtype=np.float32).copy()
    parts = [_Part.of(amodal_rles[i], visible_rles[i], canvas, size) for i in drawn]
    for i, part in zip(drawn, parts, strict=True):
        _blend(picture, part, FILL * part.visible, colours[i])
    for i, part in zip(drawn, parts, strict=True):
        stripes = part.hidden * np.maximum(WASH, STRIPE * _stripes(part, stroke, slant=i % 2))
        _blend(picture, part, stripes, colours[i])
    for i, part in zip(drawn, parts, strict=True):
        _blend(picture, part, outline(part.amodal, stroke), colours[i])
    picture = picture.round().clip(0, 255).astype(np.uint8)
    if labels is None:
        return picture
    corners = {i: (part.left, part.top) for i, part in zip(drawn, parts, strict=True)}
    return _labelled(picture, [corners[i] for i in range(count)], labels, colours)


def draw_order(
    picture: np.ndarray,
    amodal_rles: Sequence[str | None],
    visible_rles: Sequence[str | None],
    pairs: np.ndarray,
    canvas: tuple[int, int],
    *,
    colours: np.ndarray | None = None,
) -> np.ndarray:
    """Draw an arrow for each pair, from the middle of the overlap to the nearest visible part of
    the object behind.

    If nothing of that object is visible, the arrow ends in the middle of its amodal mask. An arrow
    has the colour of the object in front. Pairs whose amodal masks share no pixel have no arrow.

    Args:
        picture: uint8 [h, w, 3], of any size: what :func:`draw_objects` made, or the image.
        amodal_rles, visible_rles: N masks on the canvas, as for :func:`draw_objects`.
        pairs: int64 [P, 2], positions (front, back).
        canvas: (height, width) of the image.
        colours: uint8 [N, 3]; by default one per position.

    Returns:
        uint8 [h, w, 3]; ``picture`` is unchanged.

    Raises:
        ValueError: as :func:`draw_objects`.
    """
    amodal_rles, visible_rles = _completed(amodal_rles, visible_rles, canvas)
    colours = object_colours(range(len(amodal_rles))) if colours is None else np.asarray(colours)
    amodal, visible = (rle.decode(m, canvas).astype(bool) for m in (amodal_rles, visible_rles))
    image = Image.fromarray(picture)
    draw = ImageDraw.Draw(image)
    scale = np.array([image.width / canvas[1], image.height / canvas[0]])
    stroke = 1.6 * stroke_width((image.height, image.width))
    reach = _REACH * float(np.sqrt(image.width * image.height))
    for front, back in pairs:
        shared = amodal[front] & amodal[back]
        if not shared.any():
            continue
        tail = _middle(shared)
        seen = visible[back] & ~shared
        head = _nearest(seen, tail) if seen.any() else _middle(amodal[back])
        tail, head = (tail + 0.5) * scale, (head + 0.5) * scale
        along = head - tail
        if seen.any():
            head = head + reach * along / max(float(np.hypot(*along)), 1e-6)
        line = np.stack([tail, head])
        draw_arrow(draw, line, stroke, max(1.0, 0.4 * stroke), _UNDER)
        draw_arrow(draw, line, stroke, 0.0, tuple(map(int, colours[front])))
    return np.asarray(image).copy()


def draw_layers(
    image: np.ndarray, levels: VisibilityLevels, size: tuple[int, int] | None = None
) -> np.ndarray:
    """Draw the number of hidden objects at each pixel as a colour.

    It is the deepest level of the objects at the pixel: 0 where nothing is hidden, 1 where one
    object lies behind another, and so on. :data:`~amodal_pipeline.visuals.colours.LAYERS` has the
    colours, the last for all deeper levels. The image is grey where no object is.

    Args:
        image: uint8 [H, W, 3].
        levels: of its objects.
        size: (height, width) of the picture to make; by default the image's own.

    Returns:
        uint8 [*size, 3].
    """
    size = image.shape[:2] if size is None else tuple(size)
    grey = image.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
    picture = np.repeat(grey[..., None], 3, axis=2)
    if len(levels.level):
        deepest = np.minimum(levels.level.max(axis=0), len(LAYERS) - 1)
        there = levels.amodal.any(axis=0)
        picture[there] += LAYER * (LAYERS[deepest[there]] - picture[there])
    picture = picture.round().clip(0, 255).astype(np.uint8)
    return np.asarray(Image.fromarray(picture).resize(size[::-1], Image.Resampling.NEAREST))


def stroke_width(size: tuple[int, int]) -> float:
    """Return the width in pixels of an outline in a picture of ``size`` (height, width)."""
    return max(1.0, 0.0045 * float(np.sqrt(size[0] * size[1])))


def _middle(mask: np.ndarray) -> np.ndarray:
    """Return the pixel (x, y) of a mask that is nearest to its centre of mass."""
    return _nearest(mask, np.argwhere(mask).mean(axis=0)[::-1])


def _nearest(mask: np.ndarray, point: np.ndarray) -> np.ndarray:
    """Return the pixel (x, y) of a mask that is nearest to a point."""
    pixels = np.argwhere(mask)[:, ::-1].astype(np.float64)
    return pixels[np.argmin(((pixels - point) ** 2).sum(axis=1))]


def draw_arrow(
    draw: ImageDraw.ImageDraw,
    line: np.ndarray,
    stroke: float,
    rim: float,
    ink: tuple[int, int, int],
) -> None:
    """Draw a dot, a line along points [K, 2] and a head, all wider by ``rim`` on every side."""
    tip, before = line[-1], line[max(-4, -len(line))]
    along = (tip - before) / max(float(np.linalg.norm(tip - before)), 1e-6)
    across = np.array([-along[1], along[0]])
    head = 5 * stroke
    shaft = [*line[: max(1, len(line) - 2)], tip - 0.6 * head * along]
    draw.line([tuple(p) for p in shaft], ink, max(1, round(stroke + 2 * rim)), joint="curve")
    dot = 1.5 * stroke + rim
    draw.ellipse([*(line[0] - dot), *(line[0] + dot)], fill=ink)
    foot, wing = tip - (head + rim) * along, (0.5 * head + 1.4 * rim) * across
    draw.polygon([tuple(tip + 1.8 * rim * along), tuple(foot + wing), tuple(foot - wing)], ink)


class _Part:
    """Hold one object's masks, cut to the smallest box of the picture that contains them."""

    def __init__(self, amodal: np.ndarray, visible: np.ndarray):
        seen = amodal | visible
        rows, columns = np.flatnonzero(seen.any(axis=1)), np.flatnonzero(seen.any(axis=0))
        self.top, bottom = (rows[0], rows[-1] + 1) if len(rows) else (0, 0)
        self.left, right = (columns[0], columns[-1] + 1) if len(columns) else (0, 0)
        self.window = (slice(self.top, bottom), slice(self.left, right))
        self.amodal, self.visible = amodal[self.window], visible[self.window]
        self.hidden = self.amodal & ~self.visible

    @classmethod
    def of(cls, amodal: str, visible: str, canvas: tuple[int, int], size: tuple[int, int]):
        masks = rle.decode([amodal, visible], canvas).astype(bool)
        if size == canvas:
            return cls(*masks)
        return cls(*(np.asarray(_resized(255 * m.astype(np.uint8), size)) > 127 for m in masks))


def _completed(
    amodal: Sequence[str | None], visible: Sequence[str | None], canvas: tuple[int, int]
) -> tuple[list[str], list[str]]:
    whole = [v if a is None else a for a, v in zip(amodal, visible, strict=True)]
    seen = [a if v is None else v for a, v in zip(amodal, visible, strict=True)]
    for masks in (whole, seen):
        for row, counts in enumerate(masks):
            if counts is None:
                raise ValueError(f"object {row} has neither an amodal nor a visible mask")
        found = rle.problems(masks, canvas)
        for row in np.flatnonzero(found != None)[:1]:  # noqa: E711 - elementwise
            raise ValueError(f"mask of object {row}: {found[row]}")
    return whole, seen


def _resized(pixels: np.ndarray, size: tuple[int, int]) -> Image.Image:
    image = Image.fromarray(pixels)
    height, width = size
    if image.size == (width, height):
        return image
    smooth = Image.Resampling.LANCZOS if pixels.ndim == 3 else Image.Resampling.BILINEAR
    return image.resize((width, height), smooth)


def _blend(picture: np.ndarray, part: _Part, opacity: np.ndarray, colour: np.ndarray) -> None:
    region = picture[part.window]
    region += opacity[..., None].astype(np.float32) * (colour.astype(np.float32) - region)


def _stripes(part: _Part, stroke: float, slant: int) -> np.ndarray:
    """Return the opacity 0–1 of diagonal stripes with soft edges, aligned over the picture."""
    y = np.arange(part.window[0].start, part.window[0].stop, dtype=np.float32)[:, None]
    x = np.arange(part.window[1].start, part.window[1].stop, dtype=np.float32)[None]
    across = (x - y if slant else x + y) / np.float32(np.sqrt(2))
    period = 4.5 * stroke
    from_middle = np.abs(np.mod(across, period) - period / 2)
    return np.clip(0.21 * period - from_middle + 0.5, 0, 1)


def outline(mask: np.ndarray, stroke: float) -> np.ndarray:
    """Return the opacity 0–1, [H, W], of a line of ``stroke`` pixels just inside a mask's edge."""
    if mask.size == 0:
        return mask.astype(np.float32)
    depth = ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
    return np.clip(stroke + 1 - depth, 0, 1) * mask


def _labelled(
    picture: np.ndarray,
    corners: Sequence[tuple[int, int]],
    labels: Sequence[str],
    colours: np.ndarray,
) -> np.ndarray:
    height, width = picture.shape[:2]
    points = int(np.clip(0.022 * np.sqrt(height * width), 9, 60))
    style = font(points, bold=True)
    pad = max(1, points // 4)
    image = Image.fromarray(picture)
    draw = ImageDraw.Draw(image)
    ascent, descent = style.getmetrics()
    tall = ascent + descent + pad
    taken = np.zeros((0, 4))
    for (left, top), label, colour in zip(corners, labels, colours, strict=True):
        text = shortened(label, style, width - 2 * pad)
        wide = int(np.ceil(style.getlength(text))) + 2 * pad
        # On the box's upper edge if that is free, else below; else where it covers least.
        steps = np.array([-tall, 0, tall, -2 * tall, 2 * tall, 3 * tall, -3 * tall])
        y = np.clip(top + steps, 0, max(0, height - tall))
        x = np.full(len(y), np.clip(left, 0, max(0, width - wide)))
        places = np.stack([x, y, x + wide, y + tall], axis=1)
        place = places[np.argmin(_covered(places, taken))]
        taken = np.vstack([taken, place])
        draw.rectangle(
            (int(place[0]), int(place[1]), int(place[2]) - 1, int(place[3]) - 1),
            fill=tuple(int(c) for c in colour),
        )
        ink = (0, 0, 0) if luminance(colour[None])[0] > 0.18 else (255, 255, 255)
        draw.text((int(place[0]) + pad, int(place[1]) + pad // 2), text, font=style, fill=ink)
    return np.asarray(image).copy()


def _covered(places: np.ndarray, taken: np.ndarray) -> np.ndarray:
    """Return how many pixels of each place [P, 4] (corners) the taken ones [T, 4] cover, [P]."""
    near = np.maximum(places[:, None, :2], taken[None, :, :2])
    far = np.minimum(places[:, None, 2:], taken[None, :, 2:])
    return np.prod(np.clip(far - near, 0, None), axis=2).sum(axis=1)
