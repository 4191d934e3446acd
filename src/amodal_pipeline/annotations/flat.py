"""Flat COCO-style files, one record per object: the common reader, and the formats' differences."""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from typing import Any

import numpy as np
import pandas as pd

from amodal_pipeline.annotations import coco_json, json_records, rle
from amodal_pipeline.annotations.coco_json import CocoFile, integer, integers
from amodal_pipeline.annotations.formats import (
    AMODAL_KEYS,
    INVISIBLE_KEYS,
    VISIBLE_KEYS,
    Format,
    require,
)
from amodal_pipeline.annotations.order import by_rank
from amodal_pipeline.annotations.tables import INSTANCES, AmodalAnnotations, concat
from amodal_pipeline.annotations.validation import (
    CheckedInstances,
    Finding,
    Repair,
    build,
    canvases,
    check_instances,
    finding,
)

UNKNOWN = -1  # rank or cluster of a record that states none
_IDS = ("id", "image_id", "category_id")
_LEFT_OUT = Repair.DEGENERATE_POLYGON.value

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class FlatFormat:
    """The keys of a format's records.

    Of several keys the first that a record has counts. ``invisible`` is used where there is no
    visible mask. ``always_visible``: a record without both is not occluded, by the format's own
    rule; otherwise that is a fault. ``crowds``: ``iscrowd`` marks objects to ignore. ``cluster``
    and ``rank`` say which object is nearer: of two objects of an image and of a cluster, that with
    the smaller rank; ranks below ``first_rank``, or without their cluster, say nothing.
    ``ignored_elsewhere`` counts, by reason, records that another evaluator ignores.
    """

    amodal: tuple[str, ...]
    visible: tuple[str, ...]
    invisible: tuple[str, ...] = ()
    always_visible: bool = False
    crowds: bool = True
    cluster: str | None = None
    rank: str | None = None
    first_rank: int = 0
    ignored_elsewhere: Callable[[Sequence[dict]], Counter[str]] | None = None


# COCOA-cls, D2SA and their copies: a record without a visible mask is not occluded.
CLASSES = FlatFormat(
    amodal=(*AMODAL_KEYS, "segmentation"),
    visible=VISIBLE_KEYS,
    invisible=INVISIBLE_KEYS,
    always_visible=True,
    rank="occl_depth",
)
CLASSES_FORMS = dict.fromkeys((Format.FLAT, Format.AISTRON), CLASSES)
# The faults that the published files in this style are known to have.
REPAIRS = frozenset({Repair.VISIBLE_OUTSIDE_AMODAL, Repair.DEGENERATE_POLYGON})
# Plain COCO: only visible masks are known.
MODAL = FlatFormat(amodal=("segmentation",), visible=("segmentation",))


@dataclass(frozen=True)
class FlatRecords:
    """The records of a file: checked parts; ``cluster`` and ``rank`` of all their rows.

    ``unranked`` are findings about ranks that are not integers; ``ignored_elsewhere`` is what the
    format counts of the rows.
    """

    parts: tuple[CheckedInstances, ...]
    cluster: np.ndarray
    rank: np.ndarray
    unranked: tuple[Finding, ...]
    ignored_elsewhere: dict[str, int]

    @property
    def rows(self) -> pd.DataFrame:
        """Return the good rows of all parts, in the file's order."""
        return concat(INSTANCES, [part.rows for part in self.parts])


def read_records(
    file: CocoFile,
    form: FlatFormat,
    repairs: frozenset[Repair],
    on_progress: Progress | None = None,
    image_ids: Iterable[int] | None = None,
) -> FlatRecords:
    """Draw and check the annotations of a file, batch by batch.

    Args:
        on_progress: called with (batches done, batches).
        image_ids: convert the records of these images only; the others are not looked at.
    """
    convert = partial(
        _convert,
        path=str(file.path),
        form=form,
        images=file.images[["image_id", "height", "width"]],
        category_ids=tuple(c.id for c in file.categories),
        repairs=repairs,
        only=None if image_ids is None else np.fromiter(image_ids, np.int64),
    )
    done = json_records.in_batches(convert, file.records, on_progress=on_progress)
    starts = np.cumsum([0, *(part.read for part in done)])
    parts = tuple(
        replace(
            part.checked,
            rejected=(
                *part.checked.rejected,
                *(
                    finding(str(file.path), f"instance at position {start + at}", field, reason)
                    for at, field, reason in part.unnamed
                ),
            ),
        )
        for start, part in zip(starts, done, strict=False)
    )
    none = [np.zeros(0, np.int64)]
    return FlatRecords(
        parts,
        np.concatenate([part.cluster for part in done] or none),
        np.concatenate([part.rank for part in done] or none),
        tuple(f for part in done for f in part.unranked),
        dict(sum((part.ignored_elsewhere for part in done), Counter())),
    )


def read_table(
    json_path: str | os.PathLike,
    image_root: str | os.PathLike,
    dataset: str,
    split: str,
    forms: Mapping[Format, FlatFormat],
    *,
    folder: str = "",
    repairs: frozenset[Repair] = frozenset(),
    on_progress: Progress | None = None,
) -> AmodalAnnotations:
    """Read a file in one of some formats: the checked table, with the order its ranks state.

    Args and errors: as :func:`coco_amodal.read_coco_amodal`; a file in none of ``forms`` is a
    ValueError too.
    """
    file = coco_json.open_file(json_path, folder)
    form = forms[require(file, *forms)]
    records = read_records(file, form, repairs, on_progress)
    rejected, order = [*file.rejected, *records.unranked], None
    if form.rank is not None:
        order, crowded = by_rank(
            records.rows, records.cluster, records.rank, form.rank, str(file.path)
        )
        rejected += crowded
    table = build(
        dataset=dataset,
        split=split,
        categories=file.categories,
        image_root=str(image_root),
        images=file.images,
        instances=records.parts,
        order=order,
        sources={file.path.name: file.checksum},
        file=str(file.path),
        rejected=rejected,
    )
    noted = {"ignored_elsewhere": records.ignored_elsewhere}
    return replace(table, metadata=table.metadata.model_copy(update=noted))


def check_records(
    records: Sequence[dict],
    ids: np.ndarray,
    form: FlatFormat,
    images: pd.DataFrame,
    category_ids: Sequence[int],
    repairs: frozenset[Repair],
    file: str,
) -> CheckedInstances:
    """Draw and check the masks of some records.

    Args:
        records: objects of the JSON, one for each row.
        ids: instance, image and category of each, int64 [N, 3].
        images: the usable images.
        category_ids: the known ids.
        file: what to name as their origin.

    Returns:
        the good ones; ``kept`` are their positions in ``records``.
    """
    sizes = canvases(images, ids[:, 1])
    amodal, visible, problems, left_out = _both_masks(records, form, sizes, repairs)
    good = np.equal(problems, None).astype(bool)
    rejected = [finding(file, f"instance {ids[i, 0]}", *problems[i]) for i in np.flatnonzero(~good)]
    rows = np.flatnonzero(good)
    checked = check_instances(
        {
            "instance_id": ids[rows, 0],
            "image_id": ids[rows, 1],
            "category_id": ids[rows, 2],
            "amodal_rle": [amodal[i] for i in rows],
            "visible_rle": [visible[i] for i in rows],
            "is_thing": np.array([not records[i].get("isStuff") for i in rows], bool),
            "ignore": np.array([form.crowds and _crowd(records[i]) for i in rows], bool),
        },
        images,
        category_ids,
        repairs,
        file,
    )
    kept = rows[checked.kept]
    mended = [
        (int(at), finding(file, f"instance {ids[i, 0]}", left_out[i], _LEFT_OUT))
        for at, i in enumerate(kept)
        if left_out[i] is not None
    ]
    return CheckedInstances(
        checked.rows, kept, (*mended, *checked.mended), (*rejected, *checked.rejected)
    )


@dataclass(frozen=True)
class _Part:
    """A converted batch; ``unnamed`` are problems of records without an id, by position."""

    checked: CheckedInstances
    unnamed: tuple[tuple[int, str, str], ...]
    cluster: np.ndarray
    rank: np.ndarray
    unranked: tuple[Finding, ...]
    ignored_elsewhere: Counter[str]
    read: int


def _convert(
    parsed: Sequence[Any],
    path: str,
    form: FlatFormat,
    images: pd.DataFrame,
    category_ids: Sequence[int],
    repairs: frozenset[Repair],
    only: np.ndarray | None,
) -> _Part:
    records = parsed
    rejected: list[Finding] = []
    unnamed: list[tuple[int, str, str]] = []
    columns = _ids(parsed)
    if columns is None:
        records, ids = [], []
        for position, record in enumerate(parsed):
            name, values, problem = integers(record, _IDS, position, "instance")
            if problem is None:
                records.append(record)
                ids.append(tuple(values.values()))
            elif only is None or _of_images(record, only):
                if name.startswith("instance at"):
                    unnamed.append((position, *problem))
                else:
                    rejected.append(finding(path, name, *problem))
        columns = np.array(ids, np.int64).reshape(-1, 3)
    if only is not None:
        wanted = np.isin(columns[:, 1], only)
        columns = columns[wanted]
        records = [record for record, keep in zip(records, wanted, strict=True) if keep]
    checked = check_records(records, columns, form, images, category_ids, repairs, path)
    checked = replace(checked, rejected=(*rejected, *checked.rejected))
    cluster, rank = (
        np.array([_whole(records[i], key) for i in checked.kept], np.int64)
        for key in (form.cluster, form.rank)
    )
    rank[rank < form.first_rank] = UNKNOWN
    if form.cluster is not None:
        rank[cluster == UNKNOWN] = UNKNOWN
    unranked = [
        finding(path, f"order pair of instance {columns[i, 0]}", key, "is not an integer")
        for key in (form.cluster, form.rank)
        if key is not None
        for i in checked.kept
        if records[i].get(key) is not None and integer(records[i][key]) is None
    ]
    ignored: Counter[str] = Counter()
    if form.ignored_elsewhere is not None:
        ignored = form.ignored_elsewhere([records[i] for i in checked.kept])
    return _Part(checked, tuple(unnamed), cluster, rank, tuple(unranked), ignored, len(parsed))


def _both_masks(
    records: Sequence[dict], form: FlatFormat, sizes: np.ndarray, repairs: frozenset[Repair]
) -> tuple[list[str | None], list[str | None], np.ndarray, np.ndarray]:
    """Return amodal and visible masks, each record's problem (field, reason), and the field that
    lost polygons.

    A visible mask stays None where a record says nothing of it.
    """
    leave_out = Repair.DEGENERATE_POLYGON in repairs
    key_of = [_key(record, form.amodal) or form.amodal[-1] for record in records]
    drawn = coco_json.masks(
        [record.get(key) for record, key in zip(records, key_of, strict=True)], sizes, leave_out
    )
    amodal = drawn.counts
    problems, left_out = np.full((2, len(records)), None, dtype=object)
    for i, (key, reason) in enumerate(zip(key_of, drawn.reasons, strict=True)):
        problems[i] = None if reason is None else (key, reason)
        left_out[i] = key if drawn.left_out[i] else None
    if form.visible == form.amodal:
        return amodal, list(amodal), problems, left_out

    visible: list[str | None] = [None] * len(records)
    key_of = [_key(record, (*form.visible, *form.invisible)) for record in records]
    rows = [i for i, key in enumerate(key_of) if key is not None and problems[i] is None]
    drawn = coco_json.masks([records[i][key_of[i]] for i in rows], sizes[rows], leave_out)
    for i in np.flatnonzero(drawn.left_out):
        left_out[rows[i]] = left_out[rows[i]] or key_of[rows[i]]
    hidden = []
    for i, text, reason in zip(rows, drawn.counts, drawn.reasons, strict=True):
        visible[i] = text
        if reason is not None:
            problems[i] = (key_of[i], reason)
        elif key_of[i] in form.invisible and text is not None:
            hidden.append(i)
    remains = rle.difference([amodal[i] for i in hidden], [visible[i] for i in hidden])
    for i, text in zip(hidden, remains, strict=True):
        visible[i] = text
    for i, record in enumerate(records):
        if key_of[i] is None and problems[i] is None:
            rate = record.get("occlude_rate")
            if isinstance(rate, (int, float)) and rate > 0:
                problems[i] = (
                    form.visible[0],
                    f"is missing although occlude_rate is {coco_json.shown(rate)}",
                )
            elif form.always_visible:
                visible[i] = amodal[i]
            elif Repair.VISIBLE_ABSENT not in repairs:
                problems[i] = (form.visible[0], "is missing")
    return amodal, visible, problems, left_out


def _key(record: dict, keys: Sequence[str]) -> str | None:
    """Return the first of ``keys`` whose value in a record is not null."""
    return next((key for key in keys if record.get(key) is not None), None)


def _ids(records: Sequence[Any]) -> np.ndarray | None:
    """Return instance, image and category of all records, int64 [N, 3]; None if any is unusable."""
    try:
        ids = [(r["id"], r["image_id"], r["category_id"]) for r in records]
        if not {int}.issuperset(map(type, chain.from_iterable(ids))):
            return None
        return np.array(ids, np.int64).reshape(-1, 3)
    except (TypeError, KeyError, OverflowError):
        return None


def _of_images(record: Any, image_ids: np.ndarray) -> bool:
    image_id = integer(record.get("image_id")) if isinstance(record, dict) else None
    return image_id is not None and image_id in image_ids


def _crowd(record: dict) -> bool:
    return integer(record.get("iscrowd")) not in (None, 0)


def _whole(record: dict, key: str | None) -> int:
    value = None if key is None else integer(record.get(key))
    return UNKNOWN if value is None or value < 0 else value
