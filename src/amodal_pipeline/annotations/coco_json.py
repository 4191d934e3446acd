"""COCO's JSON, read with suspicion: the skeleton every COCO-like format shares.

A file that is no COCO JSON at all is an error that names the file and the remedy. A record that
lacks a key or holds a mask that cannot be one becomes a finding with its reason; the readers hand
the findings to :func:`amodal_pipeline.annotations.build`, which counts them.
"""

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pycocotools import mask as coco_mask

from amodal_pipeline.annotations import rle
from amodal_pipeline.annotations.storage import checksum
from amodal_pipeline.annotations.tables import IMAGES, Category, frame

MAX_PIXELS = 1 << 28  # of a canvas: above it a damaged or hostile file could fill the memory
MAX_OVERHANG = 4  # image sides that a polygon may reach beyond its image, for the same reason

Finding = dict[str, Any]  # a row of the table of findings


@dataclass(frozen=True)
class CocoFile:
    """The readable part of a COCO JSON file.

    ``records`` are the annotations as written; ``instances`` has a row for each of them with
    instance_id, image_id, category_id and ignore (``iscrowd``). ``sizes`` int64 [N, 2] is the
    canvas (height, width) of each record, 0 where the file has no such image. ``findings`` has
    a row for every image and annotation that could not be read.
    """

    path: Path
    checksum: str
    categories: tuple[Category, ...]
    images: pd.DataFrame
    records: tuple[dict, ...]
    instances: pd.DataFrame
    sizes: np.ndarray
    findings: tuple[Finding, ...]


def read(path: str | os.PathLike) -> CocoFile:
    """Read a flat COCO file: one record per object in ``annotations``.

    Raises:
        ValueError: as :func:`load` and :func:`categories` do.
    """
    path = Path(path)
    document = load(path, ("images", "annotations", "categories"))
    table, image_findings = images(document["images"], path)
    records, instances, findings = _instances(document["annotations"], path)
    return CocoFile(
        path=path,
        checksum=checksum(path),
        categories=categories(document["categories"], path),
        images=table,
        records=records,
        instances=instances,
        sizes=canvases(table, instances["image_id"]),
        findings=(*image_findings, *findings),
    )


def load(path: str | os.PathLike, lists: Sequence[str]) -> dict[str, Any]:
    """The JSON object in a file, which must hold the named lists.

    Raises:
        ValueError: the file is missing or cannot be read, is no JSON (names line and column), is
            not an object, or lacks one of the lists; the message names the file and the remedy.
    """
    path = Path(path)
    try:
        document = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise ValueError(
            f"{path} is missing: put the data set's annotation file there or correct its path in "
            "the catalog"
        ) from error
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error}): give the path of a file") from error
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{path} is not JSON: {error.msg} at line {error.lineno}, column {error.colno}; the "
            "file may be cut short, fetch it again"
        ) from error
    except (UnicodeDecodeError, RecursionError, ValueError) as error:
        raise ValueError(f"{path} is not COCO JSON ({error}): fetch the file again") from error
    if not isinstance(document, dict):
        raise ValueError(
            f"{path} holds a JSON {type(document).__name__}, not an object with the lists "
            f"{', '.join(lists)}: this is no COCO annotation file"
            + (" (a list of results is read as predictions)" if isinstance(document, list) else "")
        )
    absent = [name for name in lists if not isinstance(document.get(name), list)]
    if absent:
        raise ValueError(
            f"{path} has no list {' and no list '.join(map(repr, absent))} (its keys: "
            f"{', '.join(map(repr, list(document)[:8]))}): this is no COCO annotation file"
        )
    return document


def categories(entries: Sequence[Any], path: Path) -> tuple[Category, ...]:
    """The categories of a file.

    Raises:
        ValueError: one lacks an integer ``id`` or a ``name``; without categories no record
            means anything, so this is no finding.
    """
    found = []
    for position, entry in enumerate(entries):
        ok = isinstance(entry, dict) and isinstance(entry.get("name"), str)
        if not ok or integer(entry.get("id")) is None:
            raise ValueError(
                f"{path}: category at position {position} has no integer 'id' and string 'name': "
                "correct the list 'categories'"
            )
        found.append(Category(id=integer(entry["id"]), name=entry["name"]))
    return tuple(found)


def images(entries: Sequence[Any], path: Path) -> tuple[pd.DataFrame, list[Finding]]:
    """The table of images (columns of IMAGES), and a finding for each that cannot be one."""
    rows, findings = [], []
    for position, entry in enumerate(entries):
        name, values, problem = _integers(entry, ("id", "height", "width"), position, "image")
        if problem is None and not isinstance(entry.get("file_name"), str):
            problem = ("file_name", "is missing")
        if problem is None and values["height"] * values["width"] > MAX_PIXELS:
            problem = ("height", f"times width is more than the {MAX_PIXELS} pixels allowed")
        if problem is None:
            rows.append(
                {
                    "image_id": values["id"],
                    "file_name": entry["file_name"],
                    "height": values["height"],
                    "width": values["width"],
                }
            )
        else:
            findings.append(finding(path, name, *problem))
    return frame(IMAGES, rows), findings


def canvases(images: pd.DataFrame, image_ids: Iterable[int]) -> np.ndarray:
    """Canvas (height, width) of each image id, int64 [N, 2]; 0 where there is no such image."""
    ids = images["image_id"].to_numpy(dtype=np.int64)
    sizes = pd.DataFrame(images[["height", "width"]].to_numpy(dtype=np.int64), index=ids)
    sizes = sizes[~sizes.index.duplicated() & (sizes > 0).all(axis=1).to_numpy()]
    wanted = np.asarray(image_ids, dtype=np.int64)
    return sizes.reindex(wanted, fill_value=0).to_numpy(dtype=np.int64).reshape(-1, 2)


def finding(path: Path, record: str, field: str, reason: str) -> Finding:
    return {"file": str(path), "record": record, "field": field, "reason": reason, "share": None}


def integer(value: Any) -> int | None:
    """``value`` as a 64-bit integer (3 and 3.0 are one), else None."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    if isinstance(value, float) and not value.is_integer():
        return None
    return int(value) if abs(value) < 1 << 63 else None


def masks(
    segmentations: Sequence[Any], sizes: np.ndarray
) -> tuple[list[str | None], list[str | None]]:
    """Compressed run-length strings from COCO segmentations of any form.

    Polygons (a list of [x1, y1, x2, y2, …] lists, or one flat such list as COCOA has it),
    run lengths as a list, or as a compressed string. All records of one canvas are drawn in
    one call.

    Args:
        segmentations: N values as the JSON has them.
        sizes: canvas (height, width) of each, int64 [N, 2]. Where it is 0 (the file lacks the
            image) neither a mask nor a reason comes back.

    Returns:
        ``(counts, reasons)``, N each: exactly one of the two is None for each segmentation that
        has a canvas.
    """
    counts: list[str | None] = [None] * len(segmentations)
    reasons: list[str | None] = [None] * len(segmentations)
    drawn: list[int] = []
    parts: list[Sequence[float]] = []
    part_owner: list[int] = []
    listed: list[int] = []
    for i, value in enumerate(segmentations):
        if not sizes[i].all():
            continue
        if value is None:
            reasons[i] = "is missing"
        elif isinstance(value, dict):
            reasons[i] = _run_length_problem(value, sizes[i])
            if reasons[i] is None and isinstance(value["counts"], str):
                counts[i] = value["counts"]
            elif reasons[i] is None:
                listed.append(i)
        elif isinstance(value, list) and value:
            flat = [value] if isinstance(value[0], Real) else value
            if all(isinstance(part, list) for part in flat):
                drawn.append(i)
                parts.extend(flat)
                part_owner.extend([i] * len(flat))
            else:
                reasons[i] = "is neither a list of polygons nor one flat polygon"
        else:
            reasons[i] = "has no polygon" if value == [] else "is neither polygons nor run lengths"

    _pack_lists(segmentations, listed, counts, reasons)
    _draw_polygons(parts, np.array(part_owner, np.int64), sizes, counts, reasons)
    written = [i for i in range(len(counts)) if counts[i] is not None]
    problems = rle.problems([counts[i] for i in written], sizes[written])
    for i, problem in zip(written, problems, strict=True):
        if problem is not None:
            counts[i], reasons[i] = None, problem
    return counts, reasons


def _run_length_problem(value: dict, size: np.ndarray) -> str | None:
    counts, written = value.get("counts"), value.get("size")
    if not isinstance(counts, (str, list)):
        return "has no 'counts', neither a string nor a list"
    if not isinstance(written, list) or [integer(side) for side in written] != size.tolist():
        return f"is for a canvas {written}, the image is {size.tolist()} (height, width)"
    if isinstance(counts, str) and not counts.isascii():
        return "the run-length string is damaged"
    return None


def _pack_lists(segmentations, listed, counts, reasons) -> None:
    """Run lengths given as lists of integers."""
    runs = {}
    for i in listed:
        values = [integer(v) for v in segmentations[i]["counts"]]
        if not values or None in values or not all(0 <= v <= MAX_PIXELS for v in values):
            reasons[i] = "a run length is not an integer between 0 and the pixels of a canvas"
        else:
            runs[i] = values
    lengths = [len(values) for values in runs.values()]
    flat = np.fromiter(chain.from_iterable(runs.values()), np.int64, sum(lengths))
    packed = rle.pack(flat, np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]))
    for i, text in zip(runs, packed, strict=True):
        counts[i] = text


def _draw_polygons(parts, owner, sizes, counts, reasons) -> None:
    """Polygons of all records: checked in one array, drawn canvas by canvas."""
    lengths = np.array([len(part) for part in parts], np.int64)
    try:
        flat = np.fromiter(chain.from_iterable(parts), np.float64, lengths.sum())
    except (TypeError, ValueError, OverflowError):
        # Some coordinate is no number: find out whose, at the price of a slower pass.
        numeric = np.array([_all_numbers(part) for part in parts], bool)
        for i in owner[~numeric]:
            reasons[i] = "a coordinate is not a number"
        parts = [p if ok else [] for p, ok in zip(parts, numeric, strict=True)]
        lengths = np.array([len(part) for part in parts], np.int64)
        flat = np.fromiter(chain.from_iterable(parts), np.float64, lengths.sum())
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
    if not good.any():
        return
    rows = np.flatnonzero(good)
    rows = rows[np.lexsort((owner[rows], *sizes[owner[rows]].T))]
    drawn: dict[int, list[dict]] = {}
    changes = np.flatnonzero(np.diff(sizes[owner[rows]], axis=0).any(axis=1)) + 1
    for group in np.split(rows, changes):
        height, width = (int(side) for side in sizes[owner[group[0]]])
        polygons = [flat[offsets[r] : offsets[r + 1]] for r in group]
        for r, encoded in zip(group, coco_mask.frPyObjects(polygons, height, width), strict=True):
            drawn.setdefault(int(owner[r]), []).append(encoded)
    for i, encoded in drawn.items():
        joined = encoded[0] if len(encoded) == 1 else coco_mask.merge(encoded)
        counts[i] = joined["counts"].decode("ascii")


def _all_numbers(part: list) -> bool:
    return all(isinstance(v, Real) for v in part)


def _instances(
    entries: Sequence[Any], path: Path
) -> tuple[tuple[dict, ...], pd.DataFrame, list[Finding]]:
    records, rows, findings = [], [], []
    for position, entry in enumerate(entries):
        keys = ("id", "image_id", "category_id")
        name, values, problem = _integers(entry, keys, position, "instance")
        if problem is not None:
            findings.append(finding(path, name, *problem))
            continue
        records.append(entry)
        rows.append((values["id"], values["image_id"], values["category_id"]))
    columns = np.array(rows, np.int64).reshape(-1, 3)
    instances = pd.DataFrame(columns, columns=["instance_id", "image_id", "category_id"])
    instances["ignore"] = np.array(
        [integer(r.get("iscrowd")) not in (None, 0) for r in records], bool
    )
    return tuple(records), instances, findings


def _integers(
    entry: Any, keys: Sequence[str], position: int, kind: str
) -> tuple[str, dict[str, int], tuple[str, str] | None]:
    """The record's name, its integer values, and the first problem with them."""
    place = f"{kind} at position {position}"
    if not isinstance(entry, dict):
        return place, {}, (kind, f"is a JSON {type(entry).__name__}, not an object")
    values = {key: integer(entry.get(key)) for key in keys}
    name = place if values["id"] is None else f"{kind} {values['id']}"
    for key, value in values.items():
        if value is None:
            reason = f"is not an integer: {entry[key]!r:.40}" if key in entry else "is missing"
            return name, {}, (key, reason)
    return name, values, None
