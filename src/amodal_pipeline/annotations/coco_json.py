"""Checked reading of COCO's JSON: what all COCO-like formats have in common.

A file that is not COCO JSON is an error that names the file and the remedy. A record that lacks a
key or has an unusable mask becomes a finding with its reason; the readers pass the findings to
:func:`amodal_pipeline.annotations.build`, which counts them.
"""

import os
import re
import reprlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from numbers import Real
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pandas as pd

from amodal_pipeline.annotations import json_records, kernels, rle
from amodal_pipeline.annotations.storage import is_relative_name
from amodal_pipeline.annotations.tables import IMAGES, Category, frame
from amodal_pipeline.annotations.validation import (
    MAX_PIXELS,
    MAX_SIDE,
    Finding,
    check_images,
    finding,
)

# A damaged or hostile file could fill the memory. MAX_OVERHANG: image sides that a polygon may
# reach beyond its image. The others limit the pixel columns that the sides of all polygons of a
# batch cross, which is the time and memory of drawing: MAX_CROSSINGS, and for each mask the smaller
# of CROSSINGS_PER_CORNER per corner and of CROSSINGS_PER_MASK plus CROSSINGS_PER_FURTHER_CORNER per
# corner. A simple shape crosses each of its columns twice: thousands of objects as wide as a
# picture of 8,000 columns are allowed, and so are outlines of many corners, whose sides are short.
# Thousands of sides that each run across the whole image are not.
MAX_OVERHANG = 4
MAX_CROSSINGS = 1 << 22
CROSSINGS_PER_MASK = 1 << 14
CROSSINGS_PER_CORNER = 1 << 11
CROSSINGS_PER_FURTHER_CORNER = 1 << 6

_ONE_RUN = re.compile("[P-o]*[0-O]")  # of a compressed string: digits that go on, and the last
_NUMBERS = frozenset((int, float))  # exactly: true is not a coordinate


@dataclass(frozen=True)
class CocoFile:
    """A COCO JSON file, its images checked and its annotations as they are.

    ``images`` are the usable ones (columns of IMAGES, ``file_name`` below ``folder``);
    ``rejected`` has a finding for each other image.
    """

    path: Path
    checksum: str
    categories: tuple[Category, ...]
    images: pd.DataFrame
    records: list[Any]
    rejected: tuple[Finding, ...]


@dataclass(frozen=True)
class Masks:
    """Masks drawn from JSON: a string or a reason for each; neither where the image is unknown.

    ``left_out`` bool [N]: polygons of fewer than three points beside others were left out.
    """

    counts: list[str | None]
    reasons: list[str | None]
    left_out: np.ndarray


def open_file(
    path: str | os.PathLike,
    folder: str = "",
    lists: Sequence[str] = ("images", "annotations", "categories"),
) -> CocoFile:
    """Read a COCO file and check everything but its annotations.

    Args:
        path: the file.
        folder: of the file's images, relative to the table's ``image_root``; goes in front of
            every file name.
        lists: what the file must have.

    Raises:
        ValueError: as :func:`json_records.read`; a list is missing; a category is not an
            object with an id and a name.
    """
    return checked(json_records.read(path, "annotations"), folder, lists)


def checked(file: json_records.RecordFile, folder: str, lists: Sequence[str]) -> CocoFile:
    """Return what :func:`open_file` does, for a file that was parsed already."""
    absent = [name for name in lists if not isinstance(file.document.get(name), list)]
    if absent:
        keys = ", ".join(map(shown, list(file.document)[:8]))
        raise ValueError(
            f"{file.path} has no list {' and no list '.join(map(repr, absent))} (its keys: "
            f"{keys}): this is not a COCO annotation file"
            + (", unless COCOA's: read it with --env=cocoa" if absent == ["categories"] else "")
        )
    table, unreadable = images(file.document["images"], file.path, folder)
    table, unusable = check_images(table, str(file.path))
    if unreadable + unusable and not len(table):
        first = "; ".join(
            f"{f['record']}: {f['field']} {f['reason']}" for f in (unreadable + unusable)[:3]
        )
        raise ValueError(f"{file.path}: no image is usable: {first}")
    found = ()
    if "categories" in lists:
        found = categories(file.document["categories"], file.path)
    return CocoFile(
        path=file.path,
        checksum=file.checksum,
        categories=found,
        images=table,
        records=file.records,
        rejected=(*unreadable, *unusable),
    )


def categories(entries: Sequence[Any], path: Path) -> tuple[Category, ...]:
    """Return the categories of a file.

    Raises:
        ValueError: one lacks an integer ``id`` or a ``name``, or has the id of another. This is
            not a finding, since no record can be understood without categories.
    """
    found: dict[int, Category] = {}
    for position, entry in enumerate(entries):
        ok = isinstance(entry, dict) and isinstance(entry.get("name"), str)
        number = integer(entry.get("id")) if ok else None
        if number is None:
            raise ValueError(
                f"{path}: category at position {position} has no integer 'id' and string 'name': "
                "correct the list 'categories'"
            )
        if number in found:
            raise ValueError(f"{path}: two categories have the same id {number}: correct one")
        found[number] = Category(id=number, name=entry["name"])
    return tuple(found.values())


def images(
    entries: Sequence[Any], path: Path, folder: str = ""
) -> tuple[pd.DataFrame, list[Finding]]:
    """Return the table of images (columns of IMAGES), and a finding for each unusable entry."""
    rows, findings = [], []
    for position, entry in enumerate(entries):
        name, values, problem = integers(entry, ("id", "height", "width"), position, "image")
        if problem is None and not isinstance(entry.get("file_name"), str):
            problem = ("file_name", "is missing")
        for side in ("height", "width"):
            if problem is None and not 0 < values[side] <= MAX_SIDE:
                problem = (side, f"is {shown(values[side])}, not between 1 and {MAX_SIDE} pixels")
        if problem is None:
            rows.append(
                {
                    "image_id": values["id"],
                    "file_name": below(folder, entry["file_name"]),
                    "height": values["height"],
                    "width": values["width"],
                }
            )
        else:
            findings.append(finding(str(path), name, *problem))
    return frame(IMAGES, rows), findings


def below(folder: str, name: str) -> str:
    """Return ``name`` below ``folder``; an unsafe name stays as it is, for the check to find."""
    return str(PurePosixPath(folder) / name) if folder and is_relative_name(name) else name


def integer(value: Any) -> int | None:
    """Return ``value`` as a 64-bit integer (3 and 3.0 are integers), else None."""
    if type(value) is int:
        return value if abs(value) < 1 << 63 else None
    if isinstance(value, float) and value.is_integer() and abs(value) < 1 << 63:
        return int(value)
    return None


def integers(
    entry: Any, keys: Sequence[str], position: int, kind: str
) -> tuple[str, dict[str, int], tuple[str, str] | None]:
    """Return the record's name, its integers, and the first problem (field, reason) with them."""
    place = f"{kind} at position {position}"
    if not isinstance(entry, dict):
        return place, {}, (kind, f"is a JSON {type(entry).__name__}, not an object")
    values = {key: integer(entry.get(key)) for key in keys}
    name = place if values["id"] is None else f"{kind} {values['id']}"
    if None not in values.values():
        return name, values, None
    for key, value in values.items():
        if value is None:
            reason = f"is not an integer: {shown(entry[key])}" if key in entry else "is missing"
            return name, {}, (key, reason)
    return name, values, None


def shown(value: Any) -> str:
    """Return a value as a message shows it: 40 characters at most, however deep it is."""
    return reprlib.repr(value)[:40]


def is_blank(segmentation: Any) -> bool:
    """Return whether a COCO segmentation of any form is an empty mask, without decoding it."""
    if not isinstance(segmentation, dict):
        return segmentation == []
    counts = segmentation.get("counts")
    if isinstance(counts, str):
        return _ONE_RUN.fullmatch(counts) is not None
    return isinstance(counts, list) and bool(counts) and not any(counts[1::2])


def masks(segmentations: Sequence[Any], sizes: np.ndarray, leave_out: bool = False) -> Masks:
    """Return compressed run-length strings of COCO segmentations in any form.

    Polygons (a list of [x1, y1, x2, y2, …] lists, or one flat such list as COCOA has it), run
    lengths as a list, or as a compressed string. Several polygons are one mask, their union.

    Args:
        segmentations: N values as the JSON has them.
        sizes: canvas (height, width) of each, int64 [N, 2]. Where it is 0 (the file lacks the
            image) neither a mask nor a reason comes back.
        leave_out: leave out polygons of fewer than three points where others remain.
    """
    counts: list[str | None] = [None] * len(segmentations)
    reasons: list[str | None] = [None] * len(segmentations)
    left_out = np.zeros(len(segmentations), bool)
    given: list[int] = []
    listed: list[int] = []
    parts: list[Sequence[float]] = []
    owner: list[int] = []
    for i, (value, size) in enumerate(zip(segmentations, sizes.tolist(), strict=True)):
        if 0 in size:
            continue
        if isinstance(value, dict):
            reasons[i] = _run_length_problem(value, size)
            if reasons[i] is None and isinstance(value["counts"], str):
                counts[i] = value["counts"]
                given.append(i)
            elif reasons[i] is None:
                listed.append(i)
        elif isinstance(value, list) and value:
            polygons = [value] if isinstance(value[0], Real) else value
            if not all(isinstance(part, list) for part in polygons):
                reasons[i] = "is neither a list of polygons nor one flat polygon"
                continue
            if leave_out and any(len(part) < 6 for part in polygons):
                enough = [part for part in polygons if len(part) >= 6]
                left_out[i] = bool(enough)
                polygons = enough or polygons
            parts.extend(polygons)
            owner.extend([i] * len(polygons))
        elif value is None:
            reasons[i] = "is missing"
        else:
            reasons[i] = "has no polygon" if value == [] else "is neither polygons nor run lengths"

    given += _pack_lists(segmentations, listed, counts, reasons)
    problems = rle.problems([counts[i] for i in given], sizes[given])
    for i, problem in zip(given, problems, strict=True):
        if problem is not None:
            counts[i], reasons[i] = None, problem
    if parts:
        _draw(parts, np.array(owner, np.int64), sizes, counts, reasons)
    return Masks(counts, reasons, left_out & np.equal(reasons, None))


def _run_length_problem(value: dict, size: list[int]) -> str | None:
    counts, written = value.get("counts"), value.get("size")
    if not isinstance(counts, (str, list)):
        return "has no 'counts', neither a string nor a list"
    if written != size:
        return f"is for a canvas {shown(written)}, the image is {size} (height, width)"
    return None


def _pack_lists(segmentations, listed, counts, reasons) -> list[int]:
    """Run lengths given as lists of integers; returns the rows that could be packed."""
    runs = {}
    for i in listed:
        values = [integer(v) for v in segmentations[i]["counts"]]
        if not values or None in values or not all(0 <= v <= MAX_PIXELS for v in values):
            reasons[i] = "a run length is not an integer between 0 and the pixels of a canvas"
        else:
            # Empty runs, which some programs write: their neighbours become one run.
            runs[i] = _without_empty(values) if 0 in values[1:] else values
    lengths = [len(values) for values in runs.values()]
    flat = np.fromiter(chain.from_iterable(runs.values()), np.int64, sum(lengths))
    packed = rle.pack(flat, np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]))
    for i, text in zip(runs, packed, strict=True):
        counts[i] = text
    return list(runs)


def _without_empty(runs: list[int]) -> list[int]:
    joined = runs[:1]
    foreground = False
    for i, run in enumerate(runs[1:], 1):
        if run and foreground != (i % 2 == 1):
            joined.append(run)
            foreground = not foreground
        else:
            joined[-1] += run
    return joined


def _draw(parts, owner, sizes, counts, reasons) -> None:
    """Check the polygons of all records in one array, and draw them in one call."""
    flat = _coordinates(parts)
    if flat is None:
        # Find the parts with a value that is not a number, in a slower pass.
        numeric = np.array([_coordinates([part]) is not None for part in parts], bool)
        for i in owner[~numeric]:
            reasons[i] = "a coordinate is not a number"
        parts = [part if ok else [] for part, ok in zip(parts, numeric, strict=True)]
        flat = _coordinates(parts)
    lengths = np.array([len(part) for part in parts], np.int64)
    offsets = np.concatenate([[0], np.cumsum(lengths)])

    def flag(bad_parts: np.ndarray, reason: str) -> None:
        for i in owner[bad_parts]:
            reasons[i] = reasons[i] or reason

    def any_of(bad: np.ndarray) -> np.ndarray:
        total = np.concatenate([[0], np.cumsum(bad)])
        return total[offsets[1:]] > total[offsets[:-1]]

    reach = MAX_OVERHANG * np.repeat(sizes[owner].max(axis=1, initial=0), lengths)
    flag(any_of(~np.isfinite(flat)), "a coordinate is not finite")
    flag(lengths % 2 == 1, "a polygon has an odd number of coordinates")
    flag(lengths < 6, "a polygon has fewer than three points")
    with np.errstate(invalid="ignore"):
        flag(any_of(np.abs(flat) > reach), "a coordinate lies far outside the image")

    good = np.array([reasons[i] is None for i in owner], bool)
    points = flat[np.repeat(good, lengths)].reshape(-1, 2)
    offsets = np.concatenate([[0], np.cumsum(lengths[good] // 2)])
    width = np.ascontiguousarray(sizes[owner[good], 1])
    crossings = kernels.crossings(points, offsets, width)
    corners = np.bincount(owner[good], lengths[good] // 2, len(reasons))
    costly = _costly(np.bincount(owner[good], crossings, len(reasons)), corners)
    if len(costly):
        for i in costly:
            reasons[i] = "its polygons cross too many columns of pixels"
        good[good] = [reasons[i] is None for i in owner[good]]
        points = flat[np.repeat(good, lengths)].reshape(-1, 2)
        offsets = np.concatenate([[0], np.cumsum(lengths[good] // 2)])
    drawn = rle.draw(points, offsets, sizes[owner[good]])
    for i, text in zip(*rle.united(owner[good], drawn), strict=True):
        counts[i] = text


def _costly(crossings: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """Return which masks are too much work: those left when the cheapest were done first."""
    allowed = np.minimum(
        CROSSINGS_PER_CORNER * corners, CROSSINGS_PER_MASK + CROSSINGS_PER_FURTHER_CORNER * corners
    )
    cheapest = np.argsort(crossings, kind="stable")
    return cheapest[np.cumsum(crossings[cheapest]) > MAX_CROSSINGS + allowed.sum()]


def _coordinates(parts: Sequence[list]) -> np.ndarray | None:
    """Return all numbers of all parts, float64; None if one is not a number that fits."""
    if not _NUMBERS.issuperset(map(type, chain.from_iterable(parts))):
        return None
    try:
        return np.fromiter(chain.from_iterable(parts), np.float64, sum(map(len, parts)))
    except OverflowError:
        return None
