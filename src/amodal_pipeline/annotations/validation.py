"""Checks raw records and builds tables: everything read is kept, repaired or rejected."""

import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from amodal_pipeline.annotations import rle, tracks
from amodal_pipeline.annotations.storage import is_relative_name
from amodal_pipeline.annotations.tables import (
    FINDINGS,
    IMAGES,
    INSTANCES,
    ORDER,
    Accounting,
    AmodalAnnotations,
    AnnotationsMetadata,
    Category,
    concat,
    fingerprint_of,
    frame,
    strings,
)

MAX_SIDE = (1 << 15) - 1  # of a canvas; above these two a damaged or hostile file could fill the
MAX_PIXELS = 89_478_485  # memory (the second is Pillow's limit: no larger image can be read)
MAX_LOST_SHARE = 0.10  # of the visible mask; beyond it the two masks belong to different things

_log = logging.getLogger(__name__)

Finding = dict[str, Any]  # a row of the table of findings


class Repair(Enum):
    """A known fault of a data set that is repaired, counted and listed."""

    VISIBLE_OUTSIDE_AMODAL = "visible mask reached outside the amodal mask and was cut to it"
    VISIBLE_ABSENT = "no visible mask, which others of its file have: taken as not occluded"
    DEGENERATE_POLYGON = "polygon of fewer than three points beside others: left out"


@dataclass(frozen=True)
class CheckedInstances:
    """Instances with sound masks, boxes and rates; what was repaired, and what was rejected.

    ``kept`` int64: which of the rows given each row of ``rows`` was. ``mended`` lists (row of
    ``rows``, finding): a row may have several.
    """

    rows: pd.DataFrame
    kept: np.ndarray
    mended: tuple[tuple[int, Finding], ...]
    rejected: tuple[Finding, ...]


def finding(file: str, record: str, field: str, reason: str, share: float | None = None) -> Finding:
    """Return a row of the tables ``repaired`` and ``rejected``."""
    return {"file": str(file), "record": record, "field": field, "reason": reason, "share": share}


def as_findings(table: pd.DataFrame) -> list[Finding]:
    """Return the rows of a table of findings, for :func:`build`."""
    return pa.Table.from_pandas(table, schema=FINDINGS, preserve_index=False).to_pylist()


def build(
    *,
    dataset: str,
    split: str,
    categories: Iterable[Category],
    image_root: str,
    images: pd.DataFrame | dict,
    instances: pd.DataFrame | dict | Sequence[CheckedInstances],
    order: pd.DataFrame | dict | None = None,
    sources: dict[str, str] | None = None,
    repairs: frozenset[Repair] = frozenset(),
    file: str = "",
    rejected: Sequence[Finding] = (),
) -> AmodalAnnotations:
    """Check raw records, repair what may be repaired, and compute boxes, rates and overlaps.

    Args:
        dataset, split: names, e.g. "kins", "train".
        categories: the published ids and names; ids must be unique.
        image_root: folder that the images' ``file_name`` is relative to.
        images: columns image_id, file_name, height, width (video_id and frame, both or neither).
            Those of a video are sorted by frame.
        instances: columns instance_id, image_id, category_id, amodal_rle, visible_rle (is_thing,
            track_id, ignore), boxes and occlusion rates are computed here; or parts that went
            through :func:`check_instances` against the same images.
        order: columns image_id, occluder_id, occludee_id (inferred: the pair was derived from
            masks and is not the data set's own statement); overlap areas are computed here.
        sources: checksum of each source file or configuration.
        repairs: the faults this data set is known to have, see :func:`check_instances`.
        file: the origin of the records, as ``rejected`` names it.
        rejected: findings about what a reader rejected before it became a record; they count as
            read: as images or order pairs where ``record`` begins with "image " or
            "order pair ", else as instances.

    Returns:
        The table; ``metadata.accounting`` has read = kept + repaired + rejected for images,
        instances and order pairs.

    Raises:
        ValueError: categories with equal ids, or nothing left of the images.
    """
    categories = tuple(categories)
    category_ids = np.array([c.id for c in categories], np.int64)
    if len(np.unique(category_ids)) != len(category_ids):
        raise ValueError(f"{file or dataset}: two categories have the same id")
    order = frame(ORDER, _with_defaults(order if order is not None else {}, inferred=False))
    images = frame(IMAGES, images)
    read = {"images": len(images), "order": len(order)}
    images, unusable = check_images(images, file)
    images = tracks.by_frame(images)
    findings = [*rejected, *unusable]
    if findings and not len(images):
        some = "; ".join(f"{f['record']}: {f['field']} {f['reason']}" for f in findings[:3])
        raise ValueError(f"{file or dataset}: no image is usable: {some}")

    if isinstance(instances, (pd.DataFrame, dict)):
        instances = [check_instances(instances, images, category_ids, repairs, file)]
    read["instances"] = sum(len(part.rows) + len(part.rejected) for part in instances)
    for part in instances:
        findings += part.rejected
    instances, mended, repeated = _join(instances, images, file)
    order, refused = _check_order(order, instances, file)
    findings += repeated + refused

    kept = {"images": images, "instances": instances, "order": order}
    repaired = {"instances": len({row for row, _ in mended})}
    early = _count_by_kind(rejected)
    late = _count_by_kind(findings)
    accounting = {
        kind: Accounting(
            read=read[kind] + early[kind],
            kept=len(kept[kind]) - repaired.get(kind, 0),
            repaired=repaired.get(kind, 0),
            rejected=late[kind],
        )
        for kind in kept
    }
    for kind, a in accounting.items():
        assert a.read == a.kept + a.repaired + a.rejected, (kind, a)

    metadata = AnnotationsMetadata(
        dataset=dataset,
        split=split,
        categories=categories,
        image_root=str(image_root),
        sources=sources or {},
        accounting=accounting,
    )
    repaired_table = frame(FINDINGS, [f for _, f in mended])
    rejected_table = frame(FINDINGS, findings)
    return _with_fingerprint(metadata, images, instances, order, repaired_table, rejected_table)


def join(parts: Sequence[AmodalAnnotations]) -> AmodalAnnotations:
    """Return several files of one split as one table.

    Where a part has an id of an image, an instance, a video or a track that an earlier one has too,
    all its ids of that kind are raised by the same power of ten; the log says so. ``repaired``
    names the raised ids, which are in the table; ``rejected`` names those of the file.

    Raises:
        ValueError: there is no part, or they differ in data set, split, categories or image root.
    """
    if not parts:
        raise ValueError("a split needs at least one annotation file")
    first = parts[0]
    if len(parts) == 1:
        return first
    for part in parts[1:]:
        for name in ("dataset", "split", "image_root", "categories"):
            here, there = getattr(first.metadata, name), getattr(part.metadata, name)
            if here != there:
                raise ValueError(
                    f"{', '.join(first.metadata.sources)} and {', '.join(part.metadata.sources)} "
                    f"have different {name} ({here!s:.60} and {there!s:.60}): they cannot be one "
                    "split"
                )
    images, instances, order, repaired, sources = [], [], [], [], {}
    taken = dict.fromkeys(("image", "instance", "video", "track"), np.zeros(0, np.int64))
    for number, part in enumerate(parts):
        label = ", ".join(part.metadata.sources)
        ids = {
            "image": part.images["image_id"],
            "instance": part.instances["instance_id"],
            "video": part.images["video_id"].dropna(),
            "track": part.instances["track_id"].dropna(),
        }
        shift = {kind: _shift(ids[kind], taken[kind], f"{kind}s of {label}") for kind in ids}
        image, instance = shift["image"], shift["instance"]
        images.append(_raised(part.images, image_id=image, video_id=shift["video"]))
        instances.append(
            _raised(part.instances, image_id=image, instance_id=instance, track_id=shift["track"])
        )
        order.append(
            _raised(part.order, image_id=image, occluder_id=instance, occludee_id=instance)
        )
        records = part.repaired["record"].str.removeprefix("instance ").astype("int64[pyarrow]")
        repaired.append(part.repaired.assign(record="instance " + (records + instance).astype(str)))
        for kind, values in ids.items():
            values = values.to_numpy(dtype=np.int64) + shift[kind]
            taken[kind] = np.append(taken[kind], np.unique(values))
        for name, digest in part.metadata.sources.items():
            sources[name if name not in sources else f"{name} ({number + 1})"] = digest
    table = concat(INSTANCES, instances)
    by_image = np.argsort(table["image_id"].to_numpy(dtype=np.int64), kind="stable")
    accounting = {
        kind: Accounting(
            **{
                name: sum(getattr(part.metadata.accounting[kind], name) for part in parts)
                for name in Accounting.model_fields
            }
        )
        for kind in first.metadata.accounting
    }
    return _with_fingerprint(
        first.metadata.model_copy(
            update={
                "sources": sources,
                "accounting": accounting,
                "ignored_elsewhere": dict(
                    sum((Counter(part.metadata.ignored_elsewhere) for part in parts), Counter())
                ),
            }
        ),
        concat(IMAGES, images),
        table.iloc[by_image].reset_index(drop=True),
        concat(ORDER, order),
        concat(FINDINGS, repaired),
        concat(FINDINGS, [part.rejected for part in parts]),
    )


def reject_images(
    annotations: AmodalAnnotations, problems: Sequence[tuple[str, str] | None]
) -> AmodalAnnotations:
    """Return the table without some images, their objects and pairs, which count as rejected.

    Args:
        problems: (field, reason) or None for each image, as of :func:`on_disk.image_problems`.

    Raises:
        ValueError: no image remains.
    """
    good = np.array([problem is None for problem in problems], bool)
    if good.all():
        return annotations
    file = ", ".join(annotations.metadata.sources)
    if not good.any():
        field, reason = problems[0]
        raise ValueError(f"{file}: none of the {len(good)} images is usable: {field} {reason}")
    found = _Problems(len(good))
    for i in np.flatnonzero(~good):
        found.of[i] = problems[i]
    images, rejected = found.split(
        annotations.images, "image", annotations.images["image_id"], file
    )
    tables, counts = {}, {"images": len(rejected)}
    for kind, table, ids in (
        ("instance", annotations.instances, annotations.instances["instance_id"].astype(str)),
        (
            "order pair",
            annotations.order,
            annotations.order["occluder_id"].astype(str)
            + " over "
            + annotations.order["occludee_id"].astype(str),
        ),
    ):
        found = _Problems(len(table))
        there = np.isin(table["image_id"].to_numpy(), images["image_id"].to_numpy())
        found.mark(~there, "image_id", "names an image that was rejected")
        tables[kind], lost = found.split(table, kind, ids, file)
        counts["instances" if kind == "instance" else "order"] = len(lost)
        rejected += lost
    gone = {f["record"] for f in rejected}
    was_repaired = annotations.repaired["record"].isin(gone).to_numpy(dtype=bool)
    lost_repairs = annotations.repaired["record"][was_repaired].nunique()
    accounting = {}
    for kind, a in annotations.metadata.accounting.items():
        repaired = lost_repairs if kind == "instances" else 0
        accounting[kind] = Accounting(
            read=a.read,
            kept=a.kept - counts[kind] + repaired,
            repaired=a.repaired - repaired,
            rejected=a.rejected + counts[kind],
        )
    return _with_fingerprint(
        annotations.metadata.model_copy(update={"accounting": accounting}),
        images,
        tables["instance"],
        tables["order pair"],
        annotations.repaired[~was_repaired].reset_index(drop=True),
        concat(FINDINGS, [annotations.rejected, frame(FINDINGS, rejected)]),
    )


def check_images(images: pd.DataFrame, file: str = "") -> tuple[pd.DataFrame, list[Finding]]:
    """Return the usable rows of a table of images, and a finding for each of the others."""
    found = _Problems(len(images))
    found.mark(images["image_id"].isna(), "image_id", "is missing")
    found.mark(images["image_id"].duplicated(), "image_id", "is used twice")
    unsafe = [not is_relative_name(name) for name in images["file_name"].fillna("")]
    found.mark(unsafe, "file_name", "is not a relative path inside the image folder")
    for side in ("height", "width"):
        good = images[side].fillna(0).between(1, MAX_SIDE)
        found.mark(~good, side, f"is not between 1 and {MAX_SIDE} pixels")
    pixels = images["height"].fillna(0).astype("int64") * images["width"].fillna(0).astype("int64")
    found.mark(
        pixels > MAX_PIXELS, "height", f"times width is more than the {MAX_PIXELS} pixels allowed"
    )
    for bad, reason in tracks.frame_problems(images):
        found.mark(bad, "frame", reason)
    return found.split(images, "image", images["image_id"], file)


def check_instances(
    instances: pd.DataFrame | dict,
    images: pd.DataFrame,
    category_ids: Sequence[int],
    repairs: frozenset[Repair] = frozenset(),
    file: str = "",
) -> CheckedInstances:
    """Check the masks of some instances, each for itself: any part of a data set, in any process.

    Args:
        instances: as for :func:`build`.
        images: the usable images.
        category_ids: the known ids.
        repairs: a record with another fault is rejected. VISIBLE_OUTSIDE_AMODAL: a visible mask
            of which at most 10 % lies outside its amodal mask is cut to it. VISIBLE_ABSENT: a
            null ``visible_rle`` becomes the amodal mask. (DEGENERATE_POLYGON is for readers.)
        file: what to name as their origin.
    """
    table = frame(INSTANCES, _with_defaults(instances, is_thing=True, ignore=False))
    long = sum(rle.characters(strings(table[name])) for name in ("amodal_rle", "visible_rle"))
    batches = [*rle.batches(long)] or [slice(0, 0)]
    parts = [_check(table[rows], images, category_ids, repairs, file) for rows in batches]
    if len(parts) == 1:
        return parts[0]
    starts = np.cumsum([0, *(len(part.rows) for part in parts)]).tolist()
    return CheckedInstances(
        concat(INSTANCES, [part.rows for part in parts]),
        np.concatenate([part.kept + rows.start for rows, part in zip(batches, parts, strict=True)]),
        tuple(
            (start + row, f)
            for start, part in zip(starts, parts, strict=False)
            for row, f in part.mended
        ),
        tuple(f for part in parts for f in part.rejected),
    )


def _check(
    instances: pd.DataFrame,
    images: pd.DataFrame,
    category_ids: Sequence[int],
    repairs: frozenset[Repair],
    file: str,
) -> CheckedInstances:
    """Return :func:`check_instances` of some rows at once."""
    sizes = canvases(images, instances["image_id"].fillna(-1))
    found = _Problems(len(instances))
    found.mark(instances["instance_id"].isna(), "instance_id", "is missing")
    absent = instances["image_id"].isna().to_numpy(dtype=bool) | ~sizes.all(axis=1)
    found.mark(absent, "image_id", "names an image that is not there or was rejected")
    category = instances["category_id"].fillna(-1).to_numpy(dtype=np.int64)
    unknown = instances["category_id"].isna() | ~np.isin(category, category_ids)
    found.mark(unknown, "category_id", "names no category")

    amodal, visible = strings(instances["amodal_rle"]), strings(instances["visible_rle"])
    absent = np.asarray(visible.is_null())
    found.mark(amodal.is_null(), "amodal_rle", "is missing")
    if Repair.VISIBLE_ABSENT not in repairs:
        found.mark(absent, "visible_rle", "is missing")
    visible = pc.coalesce(visible, amodal)
    amodal_runs, reasons = rle.inspect(amodal, sizes)
    found.mark_each("amodal_rle", reasons)
    visible_runs, reasons = rle.inspect(visible, sizes)
    found.mark_each("visible_rle", reasons)
    found.mark(rle.area(amodal_runs) == 0, "amodal_rle", "is empty")
    given = instances
    kept = np.flatnonzero(found.without())
    instances, rejected = found.split(instances, "instance", instances["instance_id"], file)
    if len(kept) < len(given):
        sizes, absent = sizes[kept], absent[kept]
        amodal, visible = amodal.take(kept), visible.take(kept)
        amodal_runs, visible_runs = rle.unpack(amodal), rle.unpack(visible)

    before, inside = rle.area(visible_runs), rle.shared_area(visible_runs, amodal_runs)
    outside = (before - inside) / np.maximum(before, 1)
    cut = (outside > 0) & (outside <= MAX_LOST_SHARE) & (Repair.VISIBLE_OUTSIDE_AMODAL in repairs)
    if cut.any():
        both = rle.intersection(visible.filter(pa.array(cut)), amodal.filter(pa.array(cut)))
        visible = pc.replace_with_mask(visible, pa.array(cut), pa.array(both, visible.type))
        visible_runs = rle.unpack(visible)
    found = _Problems(len(instances))
    misfit = (outside > 0) & ~cut
    for i in np.flatnonzero(misfit):
        reason = f"{outside[i]:.1%} of the visible mask lies outside the amodal mask"
        found.of[i] = ("visible_rle", reason)
    columns = {name: instances[name] for name in instances.columns}
    columns |= {
        "visible_rle": visible,
        "amodal_box": rle.box(amodal_runs, sizes),
        "visible_box": rle.box(visible_runs, sizes),
        "occlusion_rate": (1 - inside / np.maximum(rle.area(amodal_runs), 1)).astype(np.float32),
    }
    checked = frame(INSTANCES, columns)
    rows, misfits = found.split(checked, "instance", instances["instance_id"], file)
    row = np.cumsum(~misfit) - 1
    ids = instances["instance_id"]
    mended = [
        (int(row[i]), finding(file, f"instance {ids.iloc[i]}", "visible_rle", repair.value, share))
        for repair, which in ((Repair.VISIBLE_ABSENT, absent), (Repair.VISIBLE_OUTSIDE_AMODAL, cut))
        for i in np.flatnonzero(which & ~misfit)
        for share in [float(outside[i]) if which is cut else None]
    ]
    return CheckedInstances(rows, kept[~misfit], tuple(mended), (*rejected, *misfits))


def canvases(images: pd.DataFrame, image_ids: Iterable[int]) -> np.ndarray:
    """Return the canvas (height, width) of each image id, int64 [N, 2]; 0 for an unknown image."""
    ids = images["image_id"].to_numpy(dtype=np.int64)
    sizes = pd.DataFrame(images[["height", "width"]].to_numpy(dtype=np.int64), index=ids)
    wanted = np.asarray(image_ids, dtype=np.int64)
    return sizes.reindex(wanted, fill_value=0).to_numpy(dtype=np.int64).reshape(-1, 2)


def _with_fingerprint(metadata, images, instances, order, repaired, rejected):
    fingerprint = fingerprint_of(metadata, images, instances, order)
    metadata = metadata.model_copy(update={"fingerprint": fingerprint})
    return AmodalAnnotations(metadata, images, instances, order, repaired, rejected)


def _shift(ids: pd.Series, taken: np.ndarray, what: str) -> int:
    """Return by how much ids must be raised so that none of them is taken."""
    ids = ids.to_numpy(dtype=np.int64)
    if not np.isin(ids, taken).any():
        return 0
    largest = max(int(np.abs(taken).max()), int(np.abs(ids).max()))
    shift = 10 ** len(str(2 * largest))
    if shift + largest >= 1 << 63:
        raise ValueError(f"the ids of the {what} collide and are too large to be raised")
    _log.warning("the ids of the %s collide with others: raised by %s", what, shift)
    return shift


def _raised(table: pd.DataFrame, **shifts: int) -> pd.DataFrame:
    return table.assign(**{name: table[name] + shift for name, shift in shifts.items()})


class _Problems:
    """The first problem of each row of a table."""

    def __init__(self, n: int):
        self.of = np.full(n, None, dtype=object)

    def mark(self, bad: Any, field: str, reason: str) -> None:
        for i in np.flatnonzero(np.asarray(bad, dtype=bool)):
            self.of[i] = self.of[i] or (field, reason)

    def mark_each(self, field: str, reasons: np.ndarray) -> None:
        for i in np.flatnonzero(np.not_equal(reasons, None)):
            self.of[i] = self.of[i] or (field, reasons[i])

    def without(self) -> np.ndarray:
        return np.equal(self.of, None).astype(bool)

    def split(
        self, table: pd.DataFrame, kind: str, ids: pd.Series, file: str
    ) -> tuple[pd.DataFrame, list[Finding]]:
        """Return ``table`` without the rows that have a problem, and these as findings."""
        good = self.without()
        if good.all():
            return table, []
        bad = [finding(file, f"{kind} {ids.iloc[i]}", *self.of[i]) for i in np.flatnonzero(~good)]
        return table[good].reset_index(drop=True), bad


def _join(
    parts: Sequence[CheckedInstances], images: pd.DataFrame, file: str
) -> tuple[pd.DataFrame, list[tuple[int, Finding]], list[Finding]]:
    """Return all rows by image; repairs with their rows; and instances that contradict others:
    their id comes twice, or their track is in two videos or twice in a frame."""
    table = concat(INSTANCES, [part.rows for part in parts])
    starts = np.cumsum([0, *(len(part.rows) for part in parts)])
    mended = [
        (start + row, f)
        for start, part in zip(starts, parts, strict=False)
        for row, f in part.mended
    ]
    twice = _Problems(len(table))
    twice.mark(table["instance_id"].duplicated(), "instance_id", "is used twice")
    elsewhere, again = tracks.contradictions(table, images)
    twice.mark(elsewhere, "track_id", "is that of an object of another video")
    twice.mark(again, "track_id", "comes twice in this frame")
    good = twice.without()
    _, repeated = twice.split(table, "instance", table["instance_id"], file)
    rows = np.flatnonzero(good)
    rows = rows[np.argsort(table["image_id"].to_numpy(dtype=np.int64)[rows], kind="stable")]
    place = np.full(len(table), -1)
    place[rows] = np.arange(len(rows))
    mended = [(int(place[row]), f) for row, f in mended if place[row] >= 0]
    if not np.array_equal(rows, np.arange(len(table))):
        table = table.iloc[rows].reset_index(drop=True)
    return table, mended, repeated


def _count_by_kind(findings: Sequence[Finding]) -> dict[str, int]:
    records = [f["record"] for f in findings]
    images = sum(r.startswith("image ") for r in records)
    order = sum(r.startswith("order pair ") for r in records)
    return {"images": images, "instances": len(records) - images - order, "order": order}


def _with_defaults(table: pd.DataFrame | dict, **defaults: bool) -> pd.DataFrame | dict:
    columns = dict(table)
    n = len(next(iter(columns.values()))) if columns else 0
    return {name: np.full(n, value) for name, value in defaults.items()} | columns


def _check_order(
    order: pd.DataFrame, instances: pd.DataFrame, file: str
) -> tuple[pd.DataFrame, list[Finding]]:
    if not len(order):
        return order, []
    found = _Problems(len(order))
    position = pd.Series(
        np.arange(len(instances)), index=instances["instance_id"].to_numpy(dtype=np.int64)
    )
    image_of = np.append(instances["image_id"].to_numpy(dtype=np.int64), -1)
    rows = {}
    for field in ("occluder_id", "occludee_id"):
        ids = order[field].fillna(-1).to_numpy(dtype=np.int64)
        row = position.reindex(ids).fillna(-1).to_numpy(dtype=np.int64)
        found.mark(row < 0, field, "names an instance that is not there or was rejected")
        images_of_pair = order["image_id"].fillna(-1).to_numpy(dtype=np.int64)
        found.mark(image_of[row] != images_of_pair, field, "names an instance of another image")
        rows[field] = row
    same = rows["occluder_id"] == rows["occludee_id"]
    found.mark(same, "occludee_id", "is the occluder itself")
    found.mark(order.duplicated(["occluder_id", "occludee_id"]), "order", "is stated twice")
    ok = np.flatnonzero(found.without())
    overlap = np.zeros(len(order), np.int64)
    overlap[ok] = _shared_pixels(instances, rows["occluder_id"][ok], rows["occludee_id"][ok])
    apart = np.zeros(len(order), bool)
    apart[ok] = overlap[ok] == 0
    found.mark(apart, "order", "the amodal masks do not overlap")
    table, good = frame(ORDER, order.assign(area=overlap)), found.without()
    if good.all():
        return table, []
    bad = order[~good]
    refused = [
        finding(file, f"order pair {front} over {back}", *problem)
        for front, back, problem in zip(
            bad["occluder_id"], bad["occludee_id"], found.of[~good], strict=True
        )
    ]
    return table[good].reset_index(drop=True), refused


def _shared_pixels(instances: pd.DataFrame, front: np.ndarray, back: np.ndarray) -> np.ndarray:
    """Return the pixels that the amodal masks of pairs of rows share."""
    masks = strings(instances["amodal_rle"])
    shared = np.zeros(len(front), np.int64)
    # Batches by what of masks comes in with each pair: pairs of an image share them.
    used, first = np.unique(np.stack([front, back], axis=1), return_index=True)
    new = np.bincount(first // 2, rle.characters(masks)[used], len(front))
    for rows in rle.batches(new):
        used, place = np.unique(np.stack([front[rows], back[rows]]), return_inverse=True)
        runs, (i, j) = rle.unpack(masks.take(used)), place.reshape(2, -1)
        shared[rows] = rle.shared_area_of_pairs(runs, i, runs, j)
    return shared
