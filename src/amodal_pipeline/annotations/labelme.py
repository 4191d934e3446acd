"""Files of labelme, a program for outlining objects: a JSON file per image."""

import base64
import logging
from collections import Counter
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import numpy as np

from amodal_pipeline.annotations import coco_json, rle
from amodal_pipeline.annotations.coco_json import shown
from amodal_pipeline.annotations.images import labels_of

_POLYGONS = ("polygon", "oriented_rectangle", "rotation")  # the last is X-AnyLabeling's
_WITHOUT_AREA = ("point", "points", "line", "linestrip", "lines")
_CORNERS = 256  # of the polygon that stands for a circle

_log = logging.getLogger(__name__)


def is_labelme(document: dict[str, Any]) -> bool:
    """Return whether a JSON object is a file of labelme."""
    return isinstance(document.get("shapes"), list)


def read_labelme(
    document: dict[str, Any], path: Path, size: tuple[int, int]
) -> list[tuple[str, str]]:
    """Return label and mask (run lengths) of each object in a file of labelme, in its order.

    Shapes of one label and one ``group_id`` are one object. Polygons, rectangles, circles and
    masks are read; points and lines cover nothing, are left out, and the log counts them.

    Args:
        document: the parsed file.
        path: its path, for messages.
        size: (height, width) of its image as it is stored.

    Raises:
        ValueError: the file is of an image of another size, has no object, or one of its shapes
            cannot be read or is empty; names the file, the shape and the remedy.
    """
    written = tuple(document.get(f"image{side}") for side in ("Height", "Width"))
    if None not in written and written != size:
        raise ValueError(
            f"{path}: imageHeight and imageWidth are {shown(list(written))}, its image is "
            f"{size[0]}x{size[1]} pixels (height x width) as it is stored: where labelme turned it "
            "by its EXIF orientation, store it upright and outline it again"
        )
    drawn, left_out = {}, Counter()
    for at, shape in enumerate(document["shapes"]):
        place = f"{path}: shape at position {at}"
        if not isinstance(shape, dict) or not isinstance(shape.get("label"), str):
            raise ValueError(f"{place} is {shown(shape)}, not an object with a 'label'")
        kind = shape.get("shape_type") or "polygon"
        if kind in _WITHOUT_AREA:
            left_out[kind] += 1
            continue
        try:
            drawn[at] = _segmentation(shape, kind, f"{place}: mask", size)
        except (TypeError, OverflowError) as error:
            raise ValueError(
                f"{place}: its points are {shown(shape.get('points'))}, not those of a {kind}"
            ) from error
    if left_out:
        kinds = ", ".join(f"{count} {kind}" for kind, count in left_out.items())
        _log.warning("%s: shapes that cover nothing are left out (%s)", path, kinds)
    masks = coco_json.masks(list(drawn.values()), np.full((len(drawn), 2), size, np.int64))
    objects: dict[Hashable, tuple[str, str]] = {}
    for at, counts, reason in zip(drawn, masks.counts, masks.reasons, strict=True):
        shape = document["shapes"][at]
        if reason is not None:
            raise ValueError(f"{path}: shape at position {at} ({shown(shape['label'])}): {reason}")
        group = shape.get("group_id")
        key = (shape["label"], at, None) if group is None else (shape["label"], None, repr(group))
        before = objects.get(key)
        objects[key] = (
            shape["label"],
            counts if before is None else rle.union([before[1]], [counts])[0],
        )
    if not objects:
        raise ValueError(f"{path} has no object: outline one, or take the file and its image away")
    for label, counts in objects.values():
        if rle.area([counts])[0] == 0:
            raise ValueError(
                f"{path}: the object {shown(label)} covers no pixel: outline it, or take it away"
            )
    return list(objects.values())


def _segmentation(shape: dict[str, Any], kind: str, name: str, size: tuple[int, int]) -> object:
    """Return a shape as a segmentation of COCO.

    Raises:
        ValueError: its kind is unknown, or its mask no image.
        TypeError, OverflowError: its points are not such as its kind has.
    """
    points = shape.get("points")
    for point in points:
        if len(point) != 2 or not {type(value) for value in point} <= {int, float}:
            raise TypeError("a point is two numbers")
    if kind in _POLYGONS or (kind == "rectangle" and len(points) == 4):
        return [[value for point in points for value in point]]
    if kind == "mask":
        return _pasted(shape.get("mask"), points[0] if points else [], name, size)
    if kind not in ("rectangle", "circle"):
        raise ValueError(f"{name.removesuffix(': mask')}: shape_type is {shown(kind)}, not known")
    if len(points) != 2:
        raise TypeError("two points")
    (x0, y0), (x1, y1) = points
    if kind == "rectangle":
        return [[x0, y0, x1, y0, x1, y1, x0, y1]]
    turn = np.arange(_CORNERS) * (2 * np.pi / _CORNERS)
    radius = float(np.hypot(float(x1) - float(x0), float(y1) - float(y0)))
    corners = np.stack([x0 + radius * np.cos(turn), y0 + radius * np.sin(turn)], axis=1)
    return [corners.ravel().tolist()]


def _pasted(mask: Any, origin: list[float], name: str, size: tuple[int, int]) -> dict[str, Any]:
    """Return run lengths of a PNG in base64 whose upper left pixel lies at ``origin`` (x, y)."""
    if not isinstance(mask, str) or len(origin) != 2:
        raise TypeError("a mask is a PNG and its corners")
    try:
        data = base64.b64decode(mask, validate=True)
    except ValueError as error:
        raise ValueError(f"{name} is no base64 ({error}): save it with labelme again") from error
    if not all(abs(value) < 1e9 for value in origin):  # NaN and infinity, too
        raise ValueError(f"{name} begins at {shown(origin)}, outside its image")
    values = labels_of(data, name, (size[0] + 1, size[1] + 1))  # labelme rounds both corners
    left, top = (round(value) for value in origin)
    if not (0 <= left <= size[1] and 0 <= top <= size[0]):
        raise ValueError(f"{name} begins at {shown(origin)}, outside its image")
    canvas = np.zeros(size, np.uint8)
    window = canvas[top : top + values.shape[0], left : left + values.shape[1]]
    window[:] = values[: window.shape[0], : window.shape[1]] > 0
    return {"size": list(size), "counts": rle.encode(canvas[None])[0]}
