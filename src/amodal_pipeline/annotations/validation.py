"""From raw records to a checked table: everything read is kept, repaired or rejected."""

from collections.abc import Iterable
from enum import Enum

import numpy as np
import pandas as pd

from amodal_pipeline.annotations import rle
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
)

MAX_LOST_SHARE = 0.10  # of the visible mask; beyond it the two masks belong to different things


class Repair(Enum):
    """A fault that a data set is known to have and that is mended, counted and listed."""

    VISIBLE_OUTSIDE_AMODAL = "visible mask reached outside the amodal mask and was cut to it"
    VISIBLE_ABSENT = "no visible mask, which others of its file have: taken as not occluded"


def build(
    *,
    dataset: str,
    split: str,
    categories: Iterable[Category],
    image_root: str,
    images: pd.DataFrame | dict,
    instances: pd.DataFrame | dict,
    order: pd.DataFrame | dict | None = None,
    sources: dict[str, str] | None = None,
    repairs: frozenset[Repair] = frozenset(),
    file: str = "",
    rejected: pd.DataFrame | None = None,
) -> AmodalAnnotations:
    """Check raw records, mend what may be mended, and derive boxes, rates and overlaps.

    Args:
        dataset, split: names, e.g. "kins", "train".
        categories: the published ids and names; ids must be unique.
        image_root: folder that the images' ``file_name`` is relative to.
        images: columns image_id, file_name, height, width (video_id, frame).
        instances: columns instance_id, image_id, category_id, amodal_rle, visible_rle (is_thing,
            track_id, ignore). Boxes and occlusion rates are computed here.
        order: columns image_id, occluder_id, occludee_id (inferred: the pair was derived from
            masks and is not the data set's own statement); overlap areas are computed here.
        sources: checksum of each source file or configuration.
        repairs: the faults this data set is known to have; a record with another fault is
            rejected. VISIBLE_OUTSIDE_AMODAL: a visible mask of which at most 10 % lies outside
            its amodal mask is cut to it. VISIBLE_ABSENT: a null ``visible_rle`` becomes the
            amodal mask.
        file: what to name as the origin of the records in ``rejected``.
        rejected: what a reader had to reject before it could become a record, as findings; they
            count as read: as images or order pairs where ``record`` begins with "image " or
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
    images = frame(IMAGES, images)
    instances = frame(INSTANCES, _with_defaults(instances, is_thing=True, ignore=False))
    order = frame(ORDER, _with_defaults(order if order is not None else {}, inferred=False))
    early = rejected if rejected is not None else frame(FINDINGS, {})
    early_counts = _count_by_kind(early["record"])
    read = {
        "images": len(images) + early_counts["images"],
        "instances": len(instances) + early_counts["instances"],
        "order": len(order) + early_counts["order"],
    }

    findings = _Findings(file)
    images = findings.reject("image", images, images["image_id"], _image_problems(images))
    if read["images"] and not len(images):
        raise ValueError(f"{file or dataset}: no image is usable: {findings.summary(early)}")

    found = _instance_problems(instances, images, category_ids, repairs)
    instances = findings.reject("instance", instances, instances["instance_id"], found)
    instances, filled = _fill_visible(instances, findings)
    instances, cut = _mend_visible(instances, images, repairs, findings)
    repaired = filled + cut
    instances = instances.sort_values("image_id", kind="stable").reset_index(drop=True)
    instances = _derive(instances, images)

    found, overlap = _order_problems(order, instances, images)
    records = order["occluder_id"].astype(str) + " over " + order["occludee_id"].astype(str)
    order = findings.reject("order pair", order.assign(area=overlap), records, found)
    order = frame(ORDER, order)

    rejected_table = concat(FINDINGS, [early, findings.table("rejected")])
    rejects = {
        "images": findings.count("image") + early_counts["images"],
        "instances": findings.count("instance") + early_counts["instances"],
        "order": findings.count("order pair") + early_counts["order"],
    }
    kept = {"images": len(images), "instances": len(instances) - repaired, "order": len(order)}
    accounting = {
        kind: Accounting(
            read=read[kind],
            kept=kept[kind],
            repaired=repaired if kind == "instances" else 0,
            rejected=rejects[kind],
        )
        for kind in read
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
    fingerprint = fingerprint_of(metadata, images, instances, order)
    return AmodalAnnotations(
        metadata.model_copy(update={"fingerprint": fingerprint}),
        images,
        instances,
        order,
        findings.table("repaired"),
        rejected_table,
    )


class _Findings:
    """Collects what was rejected or repaired, with file, record, field and reason."""

    def __init__(self, file: str):
        self.file = file
        self.rows: dict[str, list[dict]] = {"rejected": [], "repaired": []}
        self.counts: dict[str, int] = {}

    def add(self, verdict: str, record: str, field: str, reason: str, share: float | None = None):
        self.rows[verdict].append(
            {"file": self.file, "record": record, "field": field, "reason": reason, "share": share}
        )

    def reject(
        self, kind: str, table: pd.DataFrame, ids: pd.Series, found: np.ndarray
    ) -> pd.DataFrame:
        """``table`` without the rows that have a problem ``(field, reason)``."""
        bad = np.array([f is not None for f in found], dtype=bool)
        for i in np.flatnonzero(bad):
            self.add("rejected", f"{kind} {ids.iloc[i]}", *found[i])
        self.counts[kind] = self.counts.get(kind, 0) + int(bad.sum())
        return table[~bad].reset_index(drop=True)

    def count(self, kind: str) -> int:
        return self.counts.get(kind, 0)

    def table(self, verdict: str) -> pd.DataFrame:
        return frame(FINDINGS, self.rows[verdict])

    def summary(self, early: pd.DataFrame) -> str:
        rows = (early.to_dict("records") + self.rows["rejected"])[:3]
        return "; ".join(f"{r['record']}: {r['field']} {r['reason']}" for r in rows)


def _count_by_kind(records: pd.Series) -> dict[str, int]:
    images = int(records.str.startswith("image ").sum())
    order = int(records.str.startswith("order pair ").sum())
    return {"images": images, "instances": len(records) - images - order, "order": order}


def _with_defaults(table: pd.DataFrame | dict, **defaults: bool) -> pd.DataFrame | dict:
    columns = dict(table)
    n = len(next(iter(columns.values()))) if columns else 0
    return {name: np.full(n, value) for name, value in defaults.items()} | columns


def _mark(found: np.ndarray, bad: np.ndarray, field: str, reason: str) -> None:
    for i in np.flatnonzero(bad):
        if found[i] is None:
            found[i] = (field, reason)


def _image_problems(images: pd.DataFrame) -> np.ndarray:
    found = np.full(len(images), None, dtype=object)
    _mark(found, images["image_id"].isna().to_numpy(), "image_id", "is missing")
    _mark(found, images["image_id"].duplicated().to_numpy(), "image_id", "is used twice")
    names = images["file_name"].fillna("")
    unsafe = ~np.array([is_relative_name(n) for n in names], dtype=bool)
    _mark(found, unsafe, "file_name", "is not a relative path inside the image folder")
    for side in ("height", "width"):
        bad = ~(images[side].fillna(0) > 0).to_numpy(dtype=bool)
        _mark(found, bad, side, "is not a positive number of pixels")
    return found


def _instance_problems(
    instances: pd.DataFrame,
    images: pd.DataFrame,
    category_ids: np.ndarray,
    repairs: frozenset[Repair],
) -> np.ndarray:
    found = np.full(len(instances), None, dtype=object)
    _mark(found, instances["instance_id"].isna().to_numpy(), "instance_id", "is missing")
    _mark(found, instances["instance_id"].duplicated().to_numpy(), "instance_id", "is used twice")
    image_ids = instances["image_id"].fillna(-1).to_numpy(dtype=np.int64)
    known = np.isin(image_ids, images["image_id"].to_numpy(dtype=np.int64))
    _mark(found, ~known, "image_id", "names an image that is not there or was rejected")
    category = instances["category_id"].fillna(-1).to_numpy(dtype=np.int64)
    _mark(found, ~np.isin(category, category_ids), "category_id", "names no category")
    for field in ("amodal_rle", "visible_rle"):
        absent = instances[field].isna().to_numpy()
        if field == "amodal_rle" or Repair.VISIBLE_ABSENT not in repairs:
            _mark(found, absent, field, "is missing")
        ok = np.flatnonzero(np.equal(found, None) & ~absent)
        sizes = _sizes(images, instances.iloc[ok])
        reasons = rle.problems(instances[field].iloc[ok].tolist(), sizes)
        for i, reason in zip(ok, reasons, strict=True):
            if reason is not None:
                found[i] = (field, reason)
    ok = np.flatnonzero([f is None for f in found])
    empty = rle.area(instances["amodal_rle"].iloc[ok].tolist()) == 0
    for i in ok[empty]:
        found[i] = ("amodal_rle", "is empty")
    return found


def _fill_visible(instances: pd.DataFrame, findings: _Findings) -> tuple[pd.DataFrame, int]:
    absent = instances["visible_rle"].isna().to_numpy()
    for i in np.flatnonzero(absent):
        findings.add(
            "repaired",
            f"instance {instances['instance_id'].iloc[i]}",
            "visible_rle",
            Repair.VISIBLE_ABSENT.value,
        )
    visible = instances["visible_rle"].where(~absent, instances["amodal_rle"])
    return frame(INSTANCES, instances.assign(visible_rle=visible)), int(absent.sum())


def _mend_visible(
    instances: pd.DataFrame,
    images: pd.DataFrame,
    repairs: frozenset[Repair],
    findings: _Findings,
) -> tuple[pd.DataFrame, int]:
    amodal, visible = instances["amodal_rle"].tolist(), instances["visible_rle"].tolist()
    inside = rle.intersection(visible, amodal)
    before = rle.area(visible)
    lost = (before - rle.area(inside)) / np.maximum(before, 1)
    found = np.full(len(instances), None, dtype=object)
    mend = (lost > 0) & (lost <= MAX_LOST_SHARE) & (Repair.VISIBLE_OUTSIDE_AMODAL in repairs)
    for i in np.flatnonzero((lost > 0) & ~mend):
        reason = f"{lost[i]:.1%} of the visible mask lies outside the amodal mask"
        found[i] = ("visible_rle", reason)
    for i in np.flatnonzero(mend):
        findings.add(
            "repaired",
            f"instance {instances['instance_id'].iloc[i]}",
            "visible_rle",
            Repair.VISIBLE_OUTSIDE_AMODAL.value,
            float(lost[i]),
        )
    mended = frame(INSTANCES, instances.assign(visible_rle=inside))
    ids = instances["instance_id"]
    return findings.reject("instance", mended, ids, found), int(mend.sum())


def _derive(instances: pd.DataFrame, images: pd.DataFrame) -> pd.DataFrame:
    sizes = _sizes(images, instances)
    amodal, visible = instances["amodal_rle"].tolist(), instances["visible_rle"].tolist()
    rate = 1 - rle.area(visible) / np.maximum(rle.area(amodal), 1)
    columns = {name: instances[name] for name in instances.columns}
    columns["amodal_box"] = rle.box(amodal, sizes)
    columns["visible_box"] = rle.box(visible, sizes)
    columns["occlusion_rate"] = rate.astype(np.float32)
    return frame(INSTANCES, columns)


def _order_problems(
    order: pd.DataFrame, instances: pd.DataFrame, images: pd.DataFrame
) -> tuple[np.ndarray, np.ndarray]:
    found = np.full(len(order), None, dtype=object)
    rows = {}
    position = pd.Series(
        np.arange(len(instances)), index=instances["instance_id"].to_numpy(dtype=np.int64)
    )
    image_of = instances["image_id"].to_numpy(dtype=np.int64)
    for field in ("occluder_id", "occludee_id"):
        ids = order[field].fillna(-1).to_numpy(dtype=np.int64)
        row = position.reindex(ids).fillna(-1).to_numpy(dtype=np.int64)
        _mark(found, row < 0, field, "names an instance that is not there or was rejected")
        images_of_pair = order["image_id"].fillna(-1).to_numpy(dtype=np.int64)
        elsewhere = (row >= 0) & (image_of[row] != images_of_pair if len(image_of) else True)
        _mark(found, elsewhere, field, "names an instance of another image")
        rows[field] = row
    same = rows["occluder_id"] == rows["occludee_id"]
    _mark(found, same, "occludee_id", "is the occluder itself")
    _mark(found, order.duplicated(["occluder_id", "occludee_id"]).to_numpy(), "order", "twice")
    ok = np.flatnonzero([f is None for f in found])
    front, back = (instances.iloc[rows[f][ok]] for f in ("occluder_id", "occludee_id"))
    overlap = np.zeros(len(order), np.int64)
    overlap[ok] = rle.shared_area(front["amodal_rle"].tolist(), back["amodal_rle"].tolist())
    apart = np.zeros(len(order), bool)
    apart[ok] = overlap[ok] == 0
    _mark(found, apart, "order", "the amodal masks do not overlap")
    return found, overlap


def _sizes(images: pd.DataFrame, rows: pd.DataFrame) -> np.ndarray:
    by_id = images.set_index(images["image_id"].to_numpy(dtype=np.int64))
    ids = rows["image_id"].to_numpy(dtype=np.int64)
    return by_id.loc[ids, ["height", "width"]].to_numpy(dtype=np.int64).reshape(-1, 2)
