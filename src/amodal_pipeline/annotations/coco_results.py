"""Results of other programs, as COCO's tools write them: a JSON list, one record per detection.

Detectron2, mmdetection and their amodal forks write such lists; the keys of their masks differ
(docs/outside_predictions.md). A file is read as a whole or refused: detections left out would
change every score.
"""

import hashlib
import logging
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, NoReturn

import numpy as np
import pandas as pd

from amodal_pipeline.annotations import coco_json, json_records, rle
from amodal_pipeline.annotations.coco_json import integer, shown
from amodal_pipeline.annotations.flat import Progress
from amodal_pipeline.annotations.formats import (
    AMODAL_KEYS,
    INVISIBLE_KEYS,
    MASK_KEYS,
    VISIBLE_KEYS,
)
from amodal_pipeline.annotations.json_records import RecordFile
from amodal_pipeline.annotations.storage import is_relative_name
from amodal_pipeline.annotations.tables import (
    PREDICTION_ORDER,
    PREDICTIONS,
    AmodalAnnotations,
    Predictions,
    PredictionsMetadata,
    concat,
    frame,
)
from amodal_pipeline.annotations.validation import canvases

Kind = Literal["amodal", "visible"]
Problem = tuple[str, str]  # field, reason

_log = logging.getLogger(__name__)

_PAIR = ("image_id", "front_id", "back_id")
_STEM_ENDING = re.compile(r"[._-](bbox|segm)$")
_LARGEST = float(np.finfo(np.float32).max)
_NO_BOX = (np.nan,) * 4
_NAMED_PROBLEMS = 3
_NAMED_CATEGORIES = 30
_REMEDIES = {
    "record": "results are a list of objects, one for each detection",
    "id": "number the records; the list 'order' names them so",
    "image_id": "the ids are those of the annotation file, of this very split",
    "score": "give each record a finite number (records of annotations have none)",
    "bbox": "write x, y, width and height in pixels, or leave it out",
}
_PAIR_REMEDY = (
    "a pair is image_id, front_id and back_id, two records of that image by their 'id', and may "
    "have a score"
)
_MASK_REMEDY = (
    "each record needs a mask, not only a box: run lengths or polygons on the canvas "
    "(height, width) of its image"
)


@dataclass(frozen=True)
class _Form:
    """Which keys hold which mask, of several the first that a record has; whose ``bbox`` is."""

    amodal: tuple[str, ...]
    visible: tuple[str, ...]
    invisible: tuple[str, ...] = INVISIBLE_KEYS
    box: Kind | None = None

    def without(self, keys: frozenset[str]) -> "_Form":
        """Return the form that does not look at ``keys``."""
        kinds = ("amodal", "visible", "invisible")
        left = {kind: tuple(k for k in getattr(self, kind) if k not in keys) for kind in kinds}
        return replace(self, **left)


_FORMS = {
    "amodal": _Form((*AMODAL_KEYS, "segmentation"), VISIBLE_KEYS, box="amodal"),
    "visible": _Form(AMODAL_KEYS, (*VISIBLE_KEYS, "segmentation"), box="visible"),
}
_VISIBLE_ONLY = _Form((), (*VISIBLE_KEYS, "segmentation"), ())


def read_coco_results(
    path: str | os.PathLike,
    annotations: AmodalAnnotations,
    *,
    method: str | None = None,
    masks: Kind = "amodal",
    visible_path: str | os.PathLike | None = None,
    on_progress: Progress | None = None,
) -> Predictions:
    """Read a COCO results file as predictions for the split of ``annotations``.

    Amodal, visible and invisible mask are the values of the first key of :mod:`formats` that a
    record has: run lengths (compressed or not) or polygons. A key whose masks are all empty,
    in records that have another mask, counts as absent, and the log says so: aistron writes every
    key, empty where a method has no such mask.
    ``bbox`` is the box of the kind that ``masks`` names; boxes that are not given are computed
    from their masks. ``prediction_id`` is the record's position in the file, from 1. Without
    ``category_id`` a record is of the only category, where there is only one.

    The file may be an object instead: ``{"predictions": [...], "order": [...]}`` with an ``id`` in
    each record and pairs ``{"image_id", "front_id", "back_id", "score"}``, ``score`` optional. This
    is not part of COCO's format.

    Args:
        path: the JSON file.
        annotations: the truth; every image of it counts as predicted.
        method: name; the file's by default.
        masks: which mask ``segmentation`` is in records that have no other key for that kind.
        visible_path: a second file with the visible masks of the same detections in the same
            order (VRSP and AISFormer write two files).
        on_progress: called with (bytes of the files done, bytes).

    Returns:
        Variant "full", inputs "image"; ``checkpoint`` is the SHA-256 of the file (of both digests
        one after the other, where there are two files).

    Raises:
        ValueError: a file is missing, no JSON, no results, or has a damaged record; names the
            file, the first damaged records, how many there are, and the remedy.
    """
    if visible_path is not None and masks != "amodal":
        raise ValueError(
            f"{path}: with visible masks in {visible_path}, this file has the amodal ones: leave "
            "out one of masks='visible' and visible_path"
        )
    method = Path(path).stem if method is None else method
    return _read([(method, path, visible_path)], annotations, masks, on_progress)[0]


def read_results_folder(
    path: str | os.PathLike,
    annotations: AmodalAnnotations,
    *,
    masks: Kind = "amodal",
    on_progress: Progress | None = None,
) -> list[Predictions]:
    """Read every ``*.json`` of a folder, or one file: a method each, named as the file.

    Two files whose names differ in ``amodal`` and ``visible`` alone are one method, with the masks
    of both and the name of the first. A file of boxes alone is passed over, with a line in the log,
    where a file of masks has the same name but for ``bbox`` and ``segm`` at the end, as mmdetection
    writes them. Sorted by name; hidden files are left out.

    Args and errors: as :func:`read_coco_results`; a folder without JSON files and two files of one
    name are errors too.
    """
    path = Path(path)
    if not path.is_dir():
        return _read([(path.stem, path, None)], annotations, masks, on_progress)
    return _read(_methods_in(path), annotations, masks, on_progress)


def _methods_in(folder: Path) -> list[tuple[str, Path, Path | None]]:
    """Return name, file and file of visible masks of each method."""
    paths: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() != ".json" or path.name.startswith(".") or not path.is_file():
            continue
        if path.stem in paths:
            raise ValueError(
                f"{paths[path.stem]} and {path.name} are both named {path.stem!r}, which is the "
                "method's name: rename one"
            )
        paths[path.stem] = path
    if not paths:
        raise ValueError(f"{folder} has no file *.json: put results there, one file a method")
    for name in _boxes_beside_masks(paths):
        _log.info("%s: passed over, it has boxes alone, and masks are in another file", paths[name])
        del paths[name]
    visible = {}
    for name in paths:
        others = {n for n in _visible_names(name) if n in paths}
        if len(others) > 1:
            raise ValueError(
                f"{folder}: the visible masks of {name!r} may be in any of {sorted(others)}: "
                "rename the files so that one of them fits"
            )
        if others:
            visible[name] = paths[others.pop()]
    return [
        (name, path, visible.get(name))
        for name, path in sorted(paths.items())
        if path not in visible.values()
    ]


def _boxes_beside_masks(paths: dict[str, Path]) -> list[str]:
    """Return the names of files of boxes alone, where one of masks has the same stem.

    mmdetection writes ``<stem>.bbox.json`` and ``<stem>.segm.json``.
    """
    by_stem: dict[str, list[str]] = {}
    for name in paths:
        by_stem.setdefault(_STEM_ENDING.sub("", name), []).append(name)
    found = []
    for names in by_stem.values():
        boxes = [name for name in names if len(names) > 1 and _has_boxes_alone(paths[name])]
        found += boxes if len(boxes) < len(names) else []
    return found


def _has_boxes_alone(path: Path) -> bool:
    """Tell whether the first records of a results file have boxes and no mask."""
    first = _open(path).records[: json_records.BATCH]
    return bool(first) and all(
        isinstance(record, dict)
        and record.get("bbox") is not None
        and not any(record[key] is not None for key in MASK_KEYS & record.keys())
        for record in first
    )


def _visible_names(name: str) -> Iterator[str]:
    """Return the names that have "visible" instead of one "amodal", in any case."""
    for found in re.finditer("amodal", name, re.IGNORECASE):
        word = "visible"
        if found[0].isupper():
            word = word.upper()
        elif found[0].istitle():
            word = word.title()
        yield name[: found.start()] + word + name[found.end() :]


def _read(
    methods: Sequence[tuple[str, str | os.PathLike, str | os.PathLike | None]],
    annotations: AmodalAnnotations,
    masks: Kind,
    on_progress: Progress | None,
) -> list[Predictions]:
    if masks not in _FORMS:
        raise ValueError(f"masks is {masks!r}: it is 'amodal' or 'visible'")
    for name, path, _ in methods:
        if not is_relative_name(name) or set("/\\[]*?") & set(name):
            raise ValueError(
                f"{path}: the method's name {name!r} cannot be a file's name: give another"
            )
    sizes = {Path(path): _size(path) for _, *paths in methods for path in paths if path is not None}
    begun = 0

    def table(path: Path, form: _Form) -> _Table:
        nonlocal begun
        size, start = sizes[path], begun
        begun += size
        advance = on_progress and (
            lambda done, batches: on_progress(start + size * done // batches, sum(sizes.values()))
        )
        return _table(_open(path), annotations, form, advance)

    found = []
    for name, path, visible_path in methods:
        one = table(Path(path), _FORMS[masks if visible_path is None else "amodal"])
        rows, checkpoint = one.rows, one.checksum
        if visible_path is not None:
            other = table(Path(visible_path), _VISIBLE_ONLY)
            rows = _with_visible(one, other)
            both = one.checksum + other.checksum
            checkpoint = hashlib.sha256(both.encode()).hexdigest()
        own = {"method": name, "checkpoint": checkpoint}
        found.append(
            Predictions(
                PredictionsMetadata.of(annotations.metadata, **own),
                annotations.images,
                rows.sort_values("image_id", kind="stable").reset_index(drop=True),
                _order(one, rows),
            )
        )
    return found


def _size(path: str | os.PathLike) -> int:
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path} is not a file: give the path of a COCO results file (JSON)")
    return path.stat().st_size


def _open(path: Path) -> RecordFile:
    file = json_records.read(path, "predictions", bare=True)
    if not isinstance(file.document.get("predictions"), list):
        keys = ", ".join(map(shown, list(file.document)[:8]))
        truth = {"images", "annotations"} & set(file.document)
        raise ValueError(
            f"{path} is not a list of records and has no list 'predictions' (its keys: {keys}): "
            + (
                "this is a COCO annotation file, which is the truth; give the results of a method"
                if truth
                else "give a COCO results file"
            )
        )
    return file


@dataclass(frozen=True)
class _Table:
    """Predictions in a file's order, and the list of order pairs, which refers to their ``ids``."""

    path: Path
    checksum: str
    rows: pd.DataFrame
    ids: np.ndarray
    order: Any


def _table(
    file: RecordFile,
    annotations: AmodalAnnotations,
    form: _Form,
    on_progress: Progress | None,
) -> _Table:
    convert = partial(
        _convert,
        form=form,
        images=annotations.images[["image_id", "height", "width"]],
        category_ids=tuple(c.id for c in annotations.metadata.categories),
        numbered=file.document.get("order") is not None,
    )
    done = json_records.in_batches(convert, file.records, on_progress=on_progress)
    filled = frozenset().union(*(part.filled for part in done))
    blank = frozenset().union(*(part.blank for part in done)) - filled
    if blank:
        _log.warning(
            "%s: %s blank in all records, which have other masks: taken as not given",
            *(file.path, " and ".join(sorted(blank)) + (" are" if len(blank) > 1 else " is")),
        )
        convert = partial(convert, form=form.without(blank))
        done = json_records.in_batches(convert, file.records)
    starts = np.cumsum([0, *(part.read for part in done)]).tolist()
    problems = [
        (start + at, problem)
        for start, part in zip(starts, done, strict=False)
        for at, problem in part.problems
    ]
    if problems:
        _refuse(file.path, "record", starts[-1], problems, _remedies(problems, annotations))
    table = concat(PREDICTIONS, [part.rows for part in done])
    columns = {name: table[name] for name in table.columns}
    numbers = np.arange(1, len(table) + 1)
    ids = np.concatenate([np.zeros(0, np.int64), *(part.ids for part in done)])
    rows = frame(PREDICTIONS, columns | {"prediction_id": numbers})
    return _Table(file.path, file.checksum, rows, ids, file.document.get("order"))


@dataclass(frozen=True)
class _Part:
    """A converted batch: rows without a number, or by position what is wrong with its records.

    ``filled`` are the keys under which some record has a mask that is not empty, ``blank`` those
    under which one has an empty mask beside another that is not.
    """

    rows: pd.DataFrame
    ids: np.ndarray
    problems: tuple[tuple[int, Problem], ...]
    read: int
    filled: frozenset[str]
    blank: frozenset[str]


def _convert(
    records: Sequence[Any],
    form: _Form,
    images: pd.DataFrame,
    category_ids: tuple[int, ...],
    numbered: bool,
) -> _Part:
    known = frozenset(images["image_id"].tolist())
    values: list[tuple] = []
    problems: dict[int, Problem] = {}
    for i, record in enumerate(records):
        found, problem = _values(record, known, category_ids, numbered)
        values.append(found)
        if problem is not None:
            problems[i] = problem
    columns = zip(*values, strict=True) if values else [()] * 5
    ids, image_id, category_id, score, box = columns
    sizes = canvases(images, image_id)
    good = [i for i in range(len(records)) if i not in problems]
    drawn = {
        kind: _masks(records, good, getattr(form, kind), sizes, problems)
        for kind in ("amodal", "visible", "invisible")
    }
    for i in good:
        if i not in problems and drawn["amodal"][i] is None and drawn["visible"][i] is None:
            problems[i] = ("segmentation", "is missing, and so is every other mask")
    keys = _filled_and_blank(records)
    if problems:
        nothing = frame(PREDICTIONS, {})
        found = tuple(sorted(problems.items()))
        return _Part(nothing, np.zeros(0, np.int64), found, len(ids), *keys)
    columns = {
        "image_id": image_id,
        "category_id": category_id,
        "score": score,
        **{f"{kind}_rle": texts for kind, texts in drawn.items()},
        **{
            f"{kind}_box": _boxes(drawn[kind], sizes, box if form.box == kind else None)
            for kind in ("amodal", "visible")
        },
    }
    return _Part(frame(PREDICTIONS, columns), np.array(ids, np.int64), (), len(ids), *keys)


def _filled_and_blank(records: Sequence[Any]) -> tuple[frozenset[str], frozenset[str]]:
    """Return the two sets of keys of :class:`_Part`."""
    filled: set[str] = set()
    blank: set[str] = set()
    for record in records:
        if isinstance(record, dict):
            given = {key for key in MASK_KEYS & record.keys() if record[key] is not None}
            empty = {key for key in given if coco_json.is_blank(record[key])}
            filled |= given - empty
            blank |= empty if given > empty else set()
    return frozenset(filled), frozenset(blank)


def _values(
    record: Any, image_ids: frozenset[int], category_ids: tuple[int, ...], numbered: bool
) -> tuple[tuple[int, int, int, float, Sequence[float]], Problem | None]:
    """Return id, image, category, score and box (NaN if absent); and the first problem."""
    nothing = (0, 0, 0, 0.0, _NO_BOX)
    if not isinstance(record, dict):
        return nothing, ("record", f"is a JSON {type(record).__name__}, not an object")
    category = record.get("category_id")
    if category is None and len(category_ids) == 1:
        category = category_ids[0]
    ids = {"image_id": record.get("image_id"), "category_id": category}
    if numbered:
        ids["id"] = record.get("id")
    for field, value in ids.items():
        ids[field] = integer(value)
        if ids[field] is None:
            return nothing, (field, _missing_or_not(value, "an integer"))
    for field, known in (("image_id", image_ids), ("category_id", category_ids)):
        if ids[field] not in known:
            return nothing, (field, f"{ids[field]} is not one of the annotations")
    score = record.get("score")
    if not _is_finite(score):
        return nothing, ("score", _missing_or_not(score, "a finite number"))
    box = record.get("bbox")
    if box in (None, [], [0, 0, 0, 0]):  # the last is what pycocotools has for an empty mask
        box = _NO_BOX
    elif not isinstance(box, list) or len(box) != 4 or not all(map(_is_finite, box)):
        return nothing, ("bbox", f"is not four finite numbers: {shown(box)}")
    elif min(box[2:]) < 0:
        return nothing, ("bbox", f"has a negative side: {shown(box)}")
    return (ids.get("id", 0), ids["image_id"], ids["category_id"], float(score), box), None


def _is_finite(value: Any) -> bool:
    """Tell whether a value is a number that 32 bits can hold; true and false are not."""
    return type(value) in (int, float) and abs(value) <= _LARGEST


def _missing_or_not(value: Any, what: str) -> str:
    return "is missing" if value is None else f"is not {what}: {shown(value)}"


def _masks(
    records: Sequence[dict],
    rows: Sequence[int],
    keys: Sequence[str],
    sizes: np.ndarray,
    problems: dict[int, Problem],
) -> list[str | None]:
    """Run lengths of each record, None where it has no such mask; adds to ``problems``."""
    texts: list[str | None] = [None] * len(records)
    key_of = {
        i: key
        for i in rows
        if (key := next((k for k in keys if records[i].get(k) is not None), None)) is not None
    }
    drawn = coco_json.masks([records[i][key] for i, key in key_of.items()], sizes[list(key_of)])
    for (i, key), text, reason in zip(key_of.items(), drawn.counts, drawn.reasons, strict=True):
        texts[i] = text
        if reason is not None:
            problems.setdefault(i, (key, reason))
    return texts


def _boxes(
    texts: Sequence[str | None], sizes: np.ndarray, given: Sequence[Sequence[float]] | None
) -> np.ndarray:
    """Return the boxes given, else those of the masks; float32 [N, 4], NaN without either."""
    given = [_NO_BOX] * len(texts) if given is None else given
    boxes = np.array(given, np.float32).reshape(-1, 4)
    rows = [i for i in np.flatnonzero(np.isnan(boxes[:, 0])) if texts[i] is not None]
    boxes[rows] = rle.box([texts[i] for i in rows], sizes[rows])
    return boxes


def _with_visible(one: _Table, other: _Table) -> pd.DataFrame:
    """Return predictions with the visible masks of others, which are the same detections."""
    table, visible = one.rows, other.rows
    if table["visible_rle"].notna().any():
        raise ValueError(f"{one.path} has visible masks itself: read it without {other.path}")
    problem = f"{len(table)} and {len(visible)} records" if len(table) != len(visible) else None
    for name in ("image_id", "category_id", "score"):
        if problem is None and not (same := table[name] == visible[name]).all():
            problem = f"another {name} at position {np.flatnonzero(~same)[0]}"
    if problem is not None:
        raise ValueError(
            f"{one.path} and {other.path} do not have the same detections in the same "
            f"order ({problem}): write both from one run, or, where they are two methods, rename "
            "one so that the names do not differ in 'amodal' and 'visible' alone"
        )
    columns = {name: visible[name] for name in ("visible_rle", "visible_box")}
    return table.assign(**columns)


def _order(file: _Table, table: pd.DataFrame) -> pd.DataFrame:
    """Return the order pairs of a file's list ``order``."""
    listed, ids = file.order, file.ids
    if listed is None:
        return frame(PREDICTION_ORDER, {})
    if not isinstance(listed, list):
        raise ValueError(f"{file.path}: 'order' is {shown(listed)}: make it a list of pairs")
    place = {number: row for row, number in enumerate(ids.tolist())}
    if len(place) < len(ids):
        values, counts = np.unique(ids, return_counts=True)
        raise ValueError(
            f"{file.path}: {(counts > 1).sum()} ids are used twice, e.g. {values[counts > 1][0]}: "
            "number the records anew, and their pairs in 'order'"
        )
    image_ids = table["image_id"].tolist()
    rows, problems, seen = [], [], set()
    for position, entry in enumerate(listed):
        pair, problem = _pair(entry, place, image_ids)
        if problem is None and pair in seen:
            problem = ("back_id", "is stated twice with this front_id")
        if problem is not None:
            problems.append((position, problem))
            continue
        seen.add(pair)
        front, back = pair
        rows.append((image_ids[front], front + 1, back + 1, entry.get("score"), "file"))
    if problems:
        _refuse(file.path, "order pair", len(listed), problems, _PAIR_REMEDY)
    names = PREDICTION_ORDER.names
    return frame(PREDICTION_ORDER, [dict(zip(names, row, strict=True)) for row in rows])


def _pair(
    entry: Any, place: dict[int, int], image_ids: Sequence[int]
) -> tuple[tuple[int, int], Problem | None]:
    """Return the rows of the occluder and of the occluded object; and the first problem."""
    nothing = (-1, -1)
    if not isinstance(entry, dict):
        return nothing, ("pair", f"is a JSON {type(entry).__name__}, not an object")
    image_id, front, back = (integer(entry.get(field)) for field in _PAIR)
    for field, value in zip(_PAIR, (image_id, front, back), strict=True):
        if value is None:
            return nothing, (field, _missing_or_not(entry.get(field), "an integer"))
    for field, value in (("front_id", front), ("back_id", back)):
        if value not in place:
            return nothing, (field, f"{value} is the id of no record")
        if image_ids[place[value]] != image_id:
            return nothing, (field, f"{value} is a record of image {image_ids[place[value]]}")
    if front == back:
        return nothing, ("back_id", f"{back} is the one in front itself")
    if entry.get("score") is not None and not _is_finite(entry["score"]):
        return nothing, ("score", _missing_or_not(entry["score"], "a finite number"))
    return (place[front], place[back]), None


def _remedies(problems: Sequence[tuple[int, Problem]], annotations: AmodalAnnotations) -> str:
    """Return what to do about the problems that an error names."""
    categories = annotations.metadata.categories
    names = ", ".join(f"{c.id} {c.name}" for c in categories[:_NAMED_CATEGORIES])
    more = len(categories) - _NAMED_CATEGORIES
    remedies = _REMEDIES | {
        "category_id": f"the categories are {names}{f' and {more} more' * (more > 0)} (any one "
        "will do where only class-agnostic metrics are wanted)"
    }
    fields = [field for _, (field, _) in problems[:_NAMED_PROBLEMS]]
    return "; ".join(dict.fromkeys(remedies.get(field, _MASK_REMEDY) for field in fields))


def _refuse(
    path: Path, kind: str, read: int, problems: Sequence[tuple[int, Problem]], remedy: str
) -> NoReturn:
    first = "; ".join(
        f"{kind} at position {at}: {field} {reason}"
        for at, (field, reason) in problems[:_NAMED_PROBLEMS]
    )
    raise ValueError(
        f"{path}: {len(problems)} of {read} {kind}s cannot be read, so none was: {first}"
        f"{'; …' if len(problems) > _NAMED_PROBLEMS else ''}. To do: {remedy}"
    )
