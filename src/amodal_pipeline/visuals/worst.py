"""Pictures of the oddest records of a data set: cut most, hidden most, most entangled.

The table alone decides which they are. An image that cannot be read is replaced by grey, and its
caption says so: annotations can be checked before the images are on disk.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw
from scipy import ndimage

from amodal_pipeline.annotations import AmodalAnnotations, rle
from amodal_pipeline.annotations.audit import largest_cycles
from amodal_pipeline.annotations.images import read_image
from amodal_pipeline.annotations.tables import boxes
from amodal_pipeline.visuals.colours import object_colours
from amodal_pipeline.visuals.overlays import draw_arrow, draw_objects
from amodal_pipeline.visuals.text import quantity

WIDTH = 720  # pixels of a picture of one object
CROWD_WIDTH = 1080  # pixels of a picture of a whole image
MOST_OBJECTS = 100  # drawn in one picture, the largest
MOST_ARROWS = 40  # drawn in one picture, for the pairs that overlap most
LARGEST = 1 << 25  # pixels of a canvas; objects on a larger one are listed without a picture

_ROOM = 0.35  # around an object, of its longer side
_SHARPNESS = 2  # pictures are drawn this many times larger and reduced: lines come out smooth
_GREY, _SHADE = 214, np.array([[150, 156, 164]], np.uint8)
_INK, _FAINT_INK, _CASING = (20, 24, 30), (95, 102, 112), (255, 255, 255)


@dataclass(frozen=True)
class Example:
    """Hold a picture, uint8 [H, W, 3] or None if it was not drawn, and a caption in plain text."""

    caption: str
    pixels: np.ndarray | None


def most_cut(annotations: AmodalAnnotations, count: int) -> list[Example]:
    """Draw the repaired objects that lost the largest share of their visible mask, most first.

    The masks are those after the repair: the table does not keep the pixels that were cut off.
    """
    repaired = annotations.repaired
    share = repaired["share"].to_numpy(dtype=np.float64, na_value=np.nan)
    names = repaired["record"].fillna("").astype(str)
    ids = names.str.extract(r"^instance (-?\d{1,18})$", expand=False)
    known = np.flatnonzero((share > 0) & ids.notna().to_numpy())
    known = known[np.argsort(-share[known], kind="stable")]
    instance_ids = annotations.instances["instance_id"].to_numpy(dtype=np.int64)
    position = pd.Series(np.arange(len(instance_ids)), index=instance_ids)
    rows = position.reindex(ids.iloc[known].astype(np.int64)).reset_index(drop=True)
    # A subset of a table still lists the repairs of the whole; a record may have several.
    rows = rows[rows.notna() & ~rows.duplicated()].head(count)
    return [
        _object(annotations, int(row), f"lost {_percent(share[known[i]])} of its visible mask")
        for i, row in rows.items()
    ]


def most_occluded_objects(annotations: AmodalAnnotations, count: int) -> list[Example]:
    """Draw the objects with the highest occlusion rates, ignored ones aside, at most one per image.

    Among equal rates the largest objects come first.
    """
    table = annotations.instances
    rate = table["occlusion_rate"].to_numpy(dtype=np.float64)
    extent = boxes(table["amodal_box"])[:, 2:].prod(axis=1)
    rate = np.where(table["ignore"].to_numpy(dtype=bool), 0, rate)
    ranked = np.lexsort((table["instance_id"].to_numpy(dtype=np.int64), -extent, -rate))
    ranked = ranked[: np.count_nonzero(rate)]
    image_ids = table["image_id"].to_numpy(dtype=np.int64)[ranked]
    first = np.sort(np.unique(image_ids, return_index=True)[1])[:count]
    return [_object(annotations, row, f"{_percent(rate[row])} hidden") for row in ranked[first]]


def most_entangled(annotations: AmodalAnnotations, count: int) -> list[Example]:
    """Draw the images with the largest cycles in the order, most order pairs, and most objects.

    Each of the three gives a third of the images, if it has as many. Arrows lead from an object to
    the one that it hides; they are fainter where the order was inferred.
    """
    image_ids = annotations.images["image_id"].to_numpy(dtype=np.int64)

    def ranked(values: pd.Series) -> list[int]:
        values = values.reindex(image_ids, fill_value=0)
        values = values[values > 0].sort_index()
        return values.sort_values(ascending=False, kind="stable").index.tolist()

    cycles = largest_cycles(annotations.order)
    pairs = _sizes(annotations.order["image_id"])
    objects = _sizes(annotations.instances["image_id"])
    rankings = [ranked(cycles), ranked(pairs), ranked(objects)]
    chosen = _alternating(rankings, count)
    return [_image(annotations, i, int(cycles.get(i, 0))) for i in chosen]


def _alternating(rankings: list[list[int]], count: int) -> list[int]:
    """Return the first of each ranking, then the second of each, …, without repetition."""
    longest = max(len(r) for r in rankings)
    # No ranking has to be read further: the others contribute at most this many.
    depth = min(longest, len(rankings) * count)
    merged = [r[k] for k in range(depth) for r in rankings if k < len(r)]
    return list(dict.fromkeys(merged))[:count]


def _sizes(column: pd.Series) -> pd.Series:
    ids, counts = np.unique(column.to_numpy(dtype=np.int64), return_counts=True)
    return pd.Series(counts, index=ids)


def _object(annotations: AmodalAnnotations, row: int, remark: str) -> Example:
    """Draw one object and its surroundings."""
    record = annotations.instances.iloc[row]
    image_id = int(record["image_id"])
    names = {c.id: c.name for c in annotations.metadata.categories}
    category = names.get(int(record["category_id"]), f"category {record['category_id']}")
    what = f"{category}, instance {record['instance_id']}: {remark}"
    canvas = tuple(int(side) for side in annotations.sizes[row])
    file_name = file_name_of(annotations.images, image_id)
    if math.prod(canvas) > LARGEST:
        return Example(f"{what}  ·  {file_name}  ·  {_too_large(canvas)}", None)

    image, problem = image_or_grey(annotations, file_name, canvas)
    window = _window(boxes(annotations.instances["amodal_box"].iloc[[row]])[0], canvas)
    amodal, visible = [record["amodal_rle"]], [record["visible_rle"]]
    colours = object_colours(range(1))
    if problem:
        # Without the photograph, draw the other objects, to show which of them hide this one.
        others = annotations.of_image(image_id)
        others = others[(others["instance_id"] != record["instance_id"]).to_numpy(dtype=bool)]
        others = _largest(others, MOST_OBJECTS)
        amodal += others["amodal_rle"].tolist()
        visible += others["visible_rle"].tolist()
        colours = np.concatenate([colours, _SHADE.repeat(len(others), axis=0)])
    pixels = draw_objects(
        np.ascontiguousarray(image[window]),
        _cut(amodal, canvas, window),
        _cut(visible, canvas, window),
        colours=colours,
        size=_size(image[window].shape[:2], WIDTH),
    )
    return Example(f"{what}  ·  {file_name}{problem}", pixels)


def _image(annotations: AmodalAnnotations, image_id: int, cycle: int) -> Example:
    """Draw a whole image with its objects and their order."""
    objects = annotations.of_image(image_id)
    order = annotations.order[(annotations.order["image_id"] == image_id).to_numpy(dtype=bool)]
    facts = [file_name_of(annotations.images, image_id), quantity(len(objects), "object")]
    facts.append(quantity(len(order), "order pair"))
    if cycle:
        facts.append("a mutual pair" if cycle == 2 else f"a cycle of {cycle} objects")
    record = annotations.images[(annotations.images["image_id"] == image_id).to_numpy(dtype=bool)]
    canvas = tuple(int(side) for side in record[["height", "width"]].iloc[0])
    if math.prod(canvas) > LARGEST:
        return Example("  ·  ".join([*facts, _too_large(canvas)]), None)

    image, problem = image_or_grey(annotations, facts[0], canvas)
    drawn = _largest(objects, MOST_OBJECTS)
    if len(drawn) < len(objects):
        facts.append(f"the {len(drawn)} largest drawn")
    colours = object_colours(range(len(drawn)))
    colours[drawn["ignore"].to_numpy(dtype=bool)] = _SHADE
    amodal, visible = drawn["amodal_rle"].tolist(), drawn["visible_rle"].tolist()
    size = _size(canvas, CROWD_WIDTH)
    picture = draw_objects(image, amodal, visible, colours=colours, size=size)

    place = {int(v): k for k, v in enumerate(drawn["instance_id"])}
    ends = order[["occluder_id", "occludee_id"]].isin(list(place)).to_numpy(dtype=bool).all(axis=1)
    arrows = order[ends].sort_values("area", ascending=False, kind="stable").head(MOST_ARROWS)
    if len(arrows) < len(order):
        facts.append(f"arrows for the {len(arrows)} pairs that overlap most")
    used = sorted({place[int(i)] for c in ("occluder_id", "occludee_id") for i in arrows[c]})
    anchors = {k: _anchor(amodal[k], visible[k], canvas, size) for k in used}
    with_arrows = _with_arrows(
        picture,
        [
            (anchors[place[int(front)]], anchors[place[int(back)]], bool(inferred))
            for front, back, inferred in zip(
                arrows["occluder_id"],
                arrows["occludee_id"],
                arrows["inferred"].fillna(False),
                strict=True,
            )
        ],
    )
    return Example("  ·  ".join(facts) + problem, with_arrows)


def image_or_grey(
    annotations: AmodalAnnotations, file_name: str, canvas: tuple[int, int]
) -> tuple[np.ndarray, str]:
    """Return the image, uint8 [H, W, 3], and ""; if it cannot be read, grey and a remark on it.

    A table can so be checked before its images are on disk.
    """
    try:
        return read_image(annotations.metadata.image_root, file_name, canvas), ""
    except ValueError as error:
        # For a missing file the message would only repeat the path.
        missing = isinstance(error.__cause__, FileNotFoundError)
        problem = "image not on disk" if missing else f"not drawn on the image: {error}"
        return np.full((*canvas, 3), _GREY, np.uint8), f"  ·  {problem}"


def _window(box: np.ndarray, canvas: tuple[int, int]) -> tuple[slice, slice]:
    """Return rows and columns around an object, 4:3 if the canvas has room."""
    left, top, width, height = (float(v) for v in box)
    room = 2 * max(12.0, _ROOM * max(width, height))
    wide = max(width + room, 4 / 3 * (height + room))
    spans = []
    for middle, length, side in (
        (top + height / 2, 3 / 4 * wide, canvas[0]),
        (left + width / 2, wide, canvas[1]),
    ):
        length = min(side, math.ceil(length))
        start = int(np.clip(round(middle - length / 2), 0, side - length))
        spans.append(slice(start, start + length))
    return spans[0], spans[1]


def _cut(masks: Iterable[str], canvas: tuple[int, int], window: tuple[slice, slice]) -> list[str]:
    # One at a time: a canvas may be large.
    return [rle.encode(rle.decode([m], canvas)[:, *window])[0] for m in masks]


def _size(canvas: tuple[int, int], width: int) -> tuple[int, int]:
    """Return (height, width) of a picture of the canvas's shape within ``width`` × ``width``."""
    scale = width / max(canvas)
    return max(1, round(canvas[0] * scale)), max(1, round(canvas[1] * scale))


def _largest(objects: pd.DataFrame, count: int) -> pd.DataFrame:
    extent = boxes(objects["amodal_box"])[:, 2:].prod(axis=1)
    return objects.iloc[np.sort(np.argsort(-extent, kind="stable")[:count])]


def _anchor(
    amodal: str, visible: str, canvas: tuple[int, int], size: tuple[int, int]
) -> tuple[float, float]:
    """Return (x, y) well inside an object's visible part, or inside its amodal mask if hidden."""
    for counts in (visible, amodal):
        mask = Image.fromarray(255 * rle.decode([counts], canvas)[0])
        small = np.asarray(mask.resize((size[1] // 2 + 1, size[0] // 2 + 1))) > 127
        if small.any():
            depth = ndimage.distance_transform_edt(np.pad(small, 1))[1:-1, 1:-1]
            y, x = np.unravel_index(int(depth.argmax()), depth.shape)
            return 2.0 * x, 2.0 * y
    # Smaller than a pixel of the reduced masks.
    x, y, width, height = rle.box([amodal], canvas)[0]
    across, down = size[1] / canvas[1], size[0] / canvas[0]
    return float((x + width / 2) * across), float((y + height / 2) * down)


def _with_arrows(
    picture: np.ndarray,
    arrows: list[tuple[tuple[float, float], tuple[float, float], bool]],
) -> np.ndarray:
    """Draw bent arrows (from, to, inferred), so that the two of a mutual pair do not overlap."""
    image = Image.fromarray(picture)
    image = image.resize((image.width * _SHARPNESS, image.height * _SHARPNESS))
    draw = ImageDraw.Draw(image)
    pen = max(2.0, 0.0022 * max(picture.shape[:2])) * _SHARPNESS
    lines = [
        (_bent(np.array(a) * _SHARPNESS, np.array(b) * _SHARPNESS), _FAINT_INK if i else _INK)
        for a, b, i in arrows
    ]
    # All casings first, so that none covers another arrow.
    for line, _ in lines:
        draw_arrow(draw, line, pen, 0.9 * pen, _CASING)
    for line, ink in lines:
        draw_arrow(draw, line, pen, 0.0, ink)
    return np.asarray(image.reduce(_SHARPNESS)).copy()


def _bent(start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Return points [24, 2] of a quadratic Bézier curve to the left of the straight line."""
    along = end - start
    control = (start + end) / 2 + 0.14 * np.array([along[1], -along[0]])
    t = np.linspace(0, 1, 24)[:, None]
    return (1 - t) ** 2 * start + 2 * t * (1 - t) * control + t**2 * end


def file_name_of(images: pd.DataFrame, image_id: int) -> str:
    """Return the file name of an image of a table of images."""
    return str(images["file_name"][(images["image_id"] == image_id).to_numpy(dtype=bool)].iloc[0])


def _too_large(canvas: tuple[int, int]) -> str:
    return f"not drawn: {canvas[0]}×{canvas[1]} pixels are more than {LARGEST}"


def _percent(share: float) -> str:
    # 100 % only if it is all: readers look for this difference.
    text = f"{100 * share:.1f}"
    return f"{'above 99.9' if text == '100.0' and share < 1 else text.removesuffix('.0')} %"
