"""What must hold when a reader was given a file, whatever was in it.

Either a table whose invariants hold, checked here without the code that made it, or a ValueError
that says which file is at fault. Anything else is a failure.
"""

import json
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np

from amodal_pipeline.annotations import AmodalAnnotations

LONGEST_MESSAGE = 2_000  # characters besides the path: a message is read by people
LONGEST_REASON = 300
MOST_PAIRS = 200  # of a table that are looked at; more of them are looked at here and there
MAX_SIDE, MAX_PIXELS = 32_767, 89_478_485  # of a canvas

Read = Callable[[Sequence[Path]], AmodalAnnotations]


@dataclass(frozen=True)
class Outcome:
    """How a call ended: "table", "table with findings", "error" or "failure", and what was said."""

    kind: str
    message: str = ""


def called(read: Read, paths: Sequence[Path]) -> AmodalAnnotations | Exception:
    """What a reader gives for a file, or raises; mistakes of numbers that warn are loud here."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", RuntimeWarning)
            return read(paths)
    except Exception as error:
        return error


def outcome(
    result: AmodalAnnotations | Exception, paths: Sequence[Path], expect: "Expected | None" = None
) -> Outcome:
    """Judge what came of a call.

    Args:
        result: of :func:`called`.
        paths: the files that were read; an error must name one of them.
        expect: how many records the files hold, where that can be told.
    """
    if isinstance(result, ValueError):
        return _judged(result, paths)
    if isinstance(result, Exception):
        return Outcome("failure", f"{type(result).__name__}: {result!s:.300}")
    problems = table_problems(result, paths, expect)
    if problems:
        return Outcome("failure", "; ".join(problems[:5]))
    findings = len(result.rejected) + len(result.repaired)
    return Outcome("table with findings" if findings else "table")


def _judged(error: ValueError, paths: Sequence[Path]) -> Outcome:
    message = str(error)
    if not any(str(path) in message for path in paths):
        return Outcome("failure", f"{type(error).__name__} names no file: {message:.300}")
    for path in paths:
        message = message.replace(str(path), path.name)
    if len(message) > LONGEST_MESSAGE:
        return Outcome("failure", f"a message of {len(message)} characters: {message:.300}")
    try:
        message.encode("utf-8")
    except UnicodeEncodeError:
        return Outcome("failure", f"the message cannot be printed: {message!a:.300}")
    return Outcome("error", message)


@dataclass(frozen=True)
class Expected:
    """How many images and objects a file holds, at least and at most; None: that cannot be told."""

    images: tuple[int, int] | None = None
    instances: tuple[int, int] | None = None


def in_file(data: bytes, every_annotator: bool = False) -> Expected:
    """The records of a COCO-like file, counted with Python's own JSON reader.

    Args:
        every_annotator: of COCOA: each annotation is an image of its own.
    """
    try:
        document = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError):
        return Expected()
    if not isinstance(document, dict):
        return Expected()
    if not isinstance(annotations := document.get("annotations"), list):
        # An annotation of COCOA by itself, or nothing that becomes a table.
        return Expected((1, 1), _objects([document]))
    images = document.get("images")
    listed = isinstance(images, list) and not every_annotator
    return Expected((len(images), len(images)) if listed else None, _objects(annotations))


def _objects(annotations: list) -> tuple[int, int]:
    """Regions of annotations; one that has none, or should, is itself an object that is lost."""
    least = most = 0
    for annotation in annotations:
        regions = annotation.get("regions", ...) if isinstance(annotation, dict) else ...
        if isinstance(regions, list):
            least, most = least + len(regions), most + max(len(regions), 1)
        else:
            least, most = least + 1, most + 1
    return least, most


def table_problems(
    table: AmodalAnnotations, paths: Sequence[Path], expect: Expected | None = None
) -> list[str]:
    """Each invariant of the table that does not hold."""
    problems: list[str] = []
    images = {
        row["image_id"]: (row["height"], row["width"]) for row in table.images.to_dict("records")
    }
    if len(images) != len(table.images):
        problems.append("two images have the same id")
    for (height, width), name in zip(images.values(), table.images["file_name"], strict=False):
        if not (0 < height <= MAX_SIDE and 0 < width <= MAX_SIDE and height * width <= MAX_PIXELS):
            problems.append(f"a canvas of {height}x{width}")
        if not stays_inside(name):
            problems.append(f"the file name {name!r:.80} leaves its folder")
    problems += _instance_problems(table, images)
    problems += _order_problems(table)
    problems += _count_problems(table, expect or Expected())
    problems += _finding_problems(table, paths)
    return problems


def stays_inside(name: str) -> bool:
    """Whether a name is a path below its folder, on every system."""
    for kind in (PurePosixPath, PureWindowsPath):
        path = kind(name)
        if path.is_absolute() or path.drive or path.root or ".." in path.parts or not path.parts:
            return False
    return "\x00" not in name


def changes(counts: str) -> np.ndarray:
    """Where a mask of COCO's compressed string changes: the ends of its runs, int64 [R].

    Raises:
        ValueError: the string is none, or a run is negative, or one but the first is empty.
    """
    bits = np.frombuffer(counts.encode("utf-32-le"), np.uint32).astype(np.int64) - 48
    if not len(bits) or bits.min() < 0 or bits.max() > 63 or bits[-1] & 32:
        raise ValueError("no string of run lengths")
    # Five bits a character, the lowest first; the sixth says that the number goes on.
    last = np.flatnonzero(bits & 32 == 0)
    first = np.append(0, last[:-1] + 1)
    place = np.arange(len(bits)) - np.repeat(first, last - first + 1)
    if place.max() > 11:
        raise ValueError("a number too long")
    runs = np.add.reduceat((bits & 31) << 5 * place, first)
    runs -= np.where(bits[last] & 16, 1 << 5 * (place[last] + 1), 0)
    # From the fourth on, a run is written as the difference to the one two places before.
    runs[1::2] = np.cumsum(runs[1::2])
    runs[2::2] = np.cumsum(runs[2::2])
    if runs.min() < 0 or (runs[1:] == 0).any():
        raise ValueError("a run is negative or empty")
    return np.cumsum(runs)


def inside(ends: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """Whether each pixel is in the mask that changes at ``ends``."""
    return np.searchsorted(ends, pixels, side="right") % 2 == 1


def shared(a: np.ndarray, b: np.ndarray) -> int:
    """Pixels that two masks share, from where they change."""
    cuts = np.unique(np.concatenate([[0], a, b]))
    starts = cuts[:-1]
    return int(np.diff(cuts)[inside(a, starts) & inside(b, starts)].sum())


def tight_box(ends: np.ndarray, height: int) -> list[int]:
    """x, y, width, height of a mask that is not empty."""
    stops = ends[1::2]
    starts = ends[::2][: len(stops)]
    x0, x1 = starts // height, (stops - 1) // height
    whole = (x1 > x0).any()
    top = 0 if whole else int((starts % height).min())
    bottom = height - 1 if whole else int(((stops - 1) % height).max())
    left = int(x0.min())
    return [left, top, int(x1.max()) - left + 1, bottom - top + 1]


def _instance_problems(table: AmodalAnnotations, images: dict[int, tuple[int, int]]) -> list[str]:
    problems = []
    rows = table.instances.to_dict("records")
    categories = {c.id for c in table.metadata.categories}
    if len({row["instance_id"] for row in rows}) != len(rows):
        problems.append("two instances have the same id")
    if [row["image_id"] for row in rows] != sorted(row["image_id"] for row in rows):
        problems.append("instances are not sorted by image")
    for row in rows:
        name = f"instance {row['instance_id']}"
        if row["image_id"] not in images or row["category_id"] not in categories:
            problems.append(f"{name} has an unknown image or category")
            continue
        if not all(isinstance(row[key], bool) for key in ("is_thing", "ignore")):
            problems.append(f"{name} is neither thing nor stuff")
        height, width = images[row["image_id"]]
        try:
            amodal, visible = changes(row["amodal_rle"]), changes(row["visible_rle"])
        except ValueError as error:
            problems.append(f"{name}: {error}")
            continue
        if not amodal[-1] == visible[-1] == height * width:
            problems.append(f"{name} is not on its canvas")
            continue
        area, seen, both = shared(amodal, amodal), shared(visible, visible), shared(amodal, visible)
        if area == 0 or both != seen:
            problems.append(f"{name} is empty, or visible outside of itself")
            continue
        boxes = (row["amodal_box"], row["visible_box"])
        for box, ends, pixels in zip(boxes, (amodal, visible), (area, seen), strict=True):
            if (list(box) if pixels else box) != (tight_box(ends, height) if pixels else None):
                problems.append(f"{name} has the box {box}")
        if not abs(row["occlusion_rate"] - (1 - seen / area)) < 1e-6:
            problems.append(f"{name} has the occlusion rate {row['occlusion_rate']}")
    return problems


def _order_problems(table: AmodalAnnotations) -> list[str]:
    problems = []
    order = table.order
    rows = {row["instance_id"]: row for row in table.instances.to_dict("records")}
    if order.duplicated(["occluder_id", "occludee_id"]).any():
        problems.append("an order pair comes twice")
    some = order.iloc[:: len(order) // MOST_PAIRS + 1]
    for pair in some.to_dict("records"):
        front, back = rows.get(pair["occluder_id"]), rows.get(pair["occludee_id"])
        if front is None or back is None or front is back:
            problems.append(f"an order pair of nothing: {pair}")
        elif not front["image_id"] == back["image_id"] == pair["image_id"]:
            problems.append(f"an order pair across images: {pair}")
        elif (
            pair["area"] <= 0
            or shared(changes(front["amodal_rle"]), changes(back["amodal_rle"])) != pair["area"]
        ):
            problems.append(f"an order pair that shares other pixels: {pair}")
        if not isinstance(pair["inferred"], bool):
            problems.append(f"an order pair that is neither stated nor inferred: {pair}")
    return problems


def _count_problems(table: AmodalAnnotations, expect: Expected) -> list[str]:
    problems = []
    kinds = {"images": table.images, "instances": table.instances, "order": table.order}
    rejected = Counter(_kind(record) for record in table.rejected["record"])
    repaired = {"instances": table.repaired["record"].nunique()}
    for kind, rows in kinds.items():
        counted = table.metadata.accounting[kind]
        if counted.read != counted.kept + counted.repaired + counted.rejected:
            problems.append(f"{kind} do not add up: {counted}")
        if counted.kept + counted.repaired != len(rows) or counted.rejected != rejected[kind]:
            problems.append(f"{kind} are not those counted: {counted}")
        if counted.repaired != repaired.get(kind, 0):
            problems.append(f"{kind}: {counted.repaired} repaired, {repaired.get(kind, 0)} listed")
        given = getattr(expect, kind, None)
        if given is not None and not given[0] <= counted.read <= given[1]:
            problems.append(f"the file has {given} {kind}, {counted.read} were read")
    return problems


def _kind(record: str) -> str:
    if record.startswith("image "):
        return "images"
    return "order" if record.startswith("order pair ") else "instances"


def _finding_problems(table: AmodalAnnotations, paths: Sequence[Path]) -> list[str]:
    problems = []
    known = {str(path) for path in paths}
    for row in [*table.rejected.to_dict("records"), *table.repaired.to_dict("records")]:
        texts: list[Any] = [row[key] for key in ("file", "record", "field", "reason")]
        if not all(isinstance(text, str) and text for text in texts):
            problems.append(f"a finding that says too little: {row}")
        elif row["file"] not in known:
            problems.append(f"a finding of the file {row['file']!r:.80}")
        elif max(map(len, texts[1:])) > LONGEST_REASON:
            problems.append(f"a finding that says too much: {row!s:.300}")
    return problems
