"""COCOA-cls (Follmann et al., "Learning to See the Invisible", WACV 2019): COCOA with categories.

The links to the published files are dead. :func:`merge_cocoa_cls` makes them again by the paper's
rule (section 4.2) from COCOA and the instances of COCO 2014; :func:`read_cocoa_cls` reads
published files (``COCO_amodal_…_with_classes.json``) and those that :mod:`export` writes.
"""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from amodal_pipeline.annotations import coco_json, flat, rle
from amodal_pipeline.annotations.coco_json import CocoFile
from amodal_pipeline.annotations.cocoa import FURTHER, STUFF, read_cocoa
from amodal_pipeline.annotations.formats import Format, require
from amodal_pipeline.annotations.tables import INSTANCES, AmodalAnnotations, frame
from amodal_pipeline.annotations.validation import (
    CheckedInstances,
    Finding,
    Repair,
    as_findings,
    build,
    canvases,
    finding,
)

THRESHOLD = 0.75  # of the paper: the IoU must be larger


def read_cocoa_cls(
    json_path: str | os.PathLike,
    image_root: str | os.PathLike,
    dataset: str,
    split: str,
    **options: Any,
) -> AmodalAnnotations:
    """Read a COCOA-cls file, also one like ``…_detectron_no_stuff.json``.

    A record with neither a ``visible_mask`` nor an ``invisible_mask`` is not occluded. Categories
    are the file's, with COCO's ids. Where records have an ``occl_depth`` (0: front), the smaller
    one of two objects whose amodal masks overlap is the occluder; equal ones state no order.

    Args, options and errors: as :func:`coco_amodal.read_coco_amodal`.
    """
    options = {"repairs": flat.REPAIRS} | options
    return flat.read_table(json_path, image_root, dataset, split, flat.CLASSES_FORMS, **options)


def merge_cocoa_cls(
    cocoa_json: str | os.PathLike,
    coco_instances_json: str | os.PathLike,
    image_root: str | os.PathLike,
    dataset: str,
    split: str,
    *,
    folder: str = "",
    on_progress: flat.Progress | None = None,
    threshold: float = THRESHOLD,
) -> tuple[AmodalAnnotations, pd.DataFrame]:
    """Return COCOA's regions with the categories of COCO's instances.

    The paper's rule: a region stays if the IoU of its visible mask with an instance of its image
    is above 0.75, and takes the category of the instance with the largest one. Stuff is left out,
    crowds are not compared. Two regions may take the same instance. Images without a remaining
    region are left out too: so the paper counts 3,501 of 3,823 images.

    Ids are COCOA's (:func:`cocoa.read_cocoa`), categories those of COCO, all 80. Order pairs of
    regions that stay are kept. A region that goes is listed in ``rejected`` with the reason, so
    that the table accounts for every region of COCOA. An image that COCO's file lacks or has in
    another size is rejected with its regions.

    Args:
        cocoa_json: as for :func:`cocoa.read_cocoa`; of several annotators the first counts.
        coco_instances_json: ``instances_train2014.json`` or ``instances_val2014.json``. Only the
            masks of COCOA's images are drawn.
        image_root, dataset, split, folder: as for :func:`cocoa.read_cocoa`.
        on_progress: as there; called for the batches of COCOA, then for those of COCO.
        threshold: IoU that is to be exceeded, in [0, 1).

    Returns:
        The table; and a report with columns section, name, count, of. "categories": regions that
        took a category, of its instances in these images (crowds apart). "regions": what became
        of COCOA's. "instances": what became of COCO's in these images. "images": those kept.

    Raises:
        ValueError: a file has another format, or no image can be used.
    """
    if not 0 <= threshold < 1:
        raise ValueError(f"threshold {threshold}: give an IoU of at least 0 and less than 1")
    cocoa = read_cocoa(
        cocoa_json,
        image_root,
        dataset,
        split,
        folder=folder,
        regions="things",
        on_progress=on_progress,
    )
    file = coco_json.open_file(coco_instances_json)
    require(file, Format.MODAL)
    shared, unknown = _shared_images(cocoa, file, str(cocoa_json))
    file = replace(file, images=file.images[file.images["image_id"].isin(shared)])
    repairs = frozenset({Repair.DEGENERATE_POLYGON})
    records = flat.read_records(file, flat.MODAL, repairs, on_progress, shared)
    instances = records.rows
    crowd = instances["ignore"].to_numpy(dtype=bool)
    iou, category_id = _best_matches(cocoa, instances[~crowd], shared)
    fates = _fates(cocoa, iou, threshold, shared)
    table = _merged(cocoa, file, category_id, fates, iou, unknown, str(cocoa_json))
    unusable = sum(len(part.rejected) for part in records.parts)
    return table, _report(table, cocoa, fates, instances, crowd, unusable)


def _shared_images(
    cocoa: AmodalAnnotations, file: CocoFile, path: str
) -> tuple[np.ndarray, list[Finding]]:
    """Return ids of COCOA's images that COCO has in the same size; findings for the others."""
    ids = cocoa.images["image_id"].to_numpy(dtype=np.int64)
    ours = cocoa.images[["height", "width"]].to_numpy(dtype=np.int64)
    theirs = canvases(file.images, ids)
    problems = []
    for image_id, (h, w), (height, width) in zip(ids, ours, theirs, strict=True):
        if not height:
            reason = (
                f"is not one of the images of {file.path.name}: is that COCO's file of this split?"
            )
            problems.append(finding(path, f"image {image_id}", "id", reason))
        elif (h, w) != (height, width):
            reason = f"and width are {h}x{w}, those in {file.path.name} are {height}x{width}"
            problems.append(finding(path, f"image {image_id}", "height", reason))
    return ids[(ours == theirs).all(axis=1)], problems


def _best_matches(
    cocoa: AmodalAnnotations, instances: pd.DataFrame, images: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return each region's largest visible IoU with an instance, and that instance's category.

    NaN and 0 where there is nothing to compare with.
    """
    region_image, image_id = (
        rows["image_id"].to_numpy(dtype=np.int64) for rows in (cocoa.instances, instances)
    )
    by_image = np.argsort(image_id, kind="stable")
    theirs = instances["amodal_rle"].take(by_image).tolist()
    categories = instances["category_id"].to_numpy(dtype=np.int64)[by_image]
    ours = cocoa.instances["visible_rle"].tolist()
    best = np.full(len(ours), np.nan)
    category_id = np.zeros(len(ours), np.int64)
    sizes = canvases(cocoa.images, images)
    regions, instances = (
        np.stack([np.searchsorted(ids, images, side) for side in ("left", "right")], axis=1)
        for ids in (region_image, image_id[by_image])
    )
    for size, (first, last), (start, stop) in zip(sizes, regions, instances, strict=True):
        if last > first and stop > start:
            iou = rle.iou(ours[first:last], theirs[start:stop], size)
            best[first:last] = iou.max(axis=1)
            category_id[first:last] = categories[start:stop][iou.argmax(axis=1)]
    return best, category_id


def _fates(
    cocoa: AmodalAnnotations, iou: np.ndarray, threshold: float, images: np.ndarray
) -> np.ndarray:
    """Return why each region is left out, None where it stays."""
    fates = np.full(len(iou), None, dtype=object)
    fates[~(iou > threshold)] = f"left out: no instance with an IoU above {threshold:g}"
    fates[np.isnan(iou)] = "left out: no instance in its image to compare with"
    there = np.isin(cocoa.instances["image_id"].to_numpy(dtype=np.int64), images)
    fates[~there] = "names an image that is not there or was rejected"
    return fates


def _merged(
    cocoa: AmodalAnnotations,
    file: CocoFile,
    category_id: np.ndarray,
    fates: np.ndarray,
    iou: np.ndarray,
    unknown: Sequence[Finding],
    path: str,
) -> AmodalAnnotations:
    stays = np.equal(fates, None).astype(bool)
    rows = frame(INSTANCES, cocoa.instances.assign(category_id=category_id)[stays])
    ids = cocoa.instances["instance_id"].to_numpy(dtype=np.int64)
    lost = []
    for i in np.flatnonzero(~stays):
        reason = fates[i] if np.isnan(iou[i]) else f"{fates[i]} (largest: {iou[i]:.3f})"
        lost.append(finding(path, f"instance {ids[i]}", "category_id", reason))
    row_of = {f"instance {i}": row for row, i in enumerate(ids[stays])}
    repaired = as_findings(cocoa.repaired)
    mended = tuple((row_of[f["record"]], f) for f in repaired if f["record"] in row_of)

    gone = [f["record"] for f in unknown]
    for i in np.setdiff1d(cocoa.images["image_id"], rows["image_id"]):
        if f"image {i}" not in gone:
            reason = "left out: no region of it has a category"
            lost.append(finding(path, f"image {i}", "id", reason))
    pairs = cocoa.order[["occluder_id", "occludee_id"]].to_numpy(dtype=np.int64)
    both = np.isin(pairs, ids[stays]).all(axis=1)
    for front, back in pairs[~both]:
        reason = "left out: a region of the pair has no category"
        lost.append(finding(path, f"order pair {front} over {back}", "category_id", reason))
    return build(
        dataset=cocoa.metadata.dataset,
        split=cocoa.metadata.split,
        categories=file.categories,
        image_root=cocoa.metadata.image_root,
        images=cocoa.images[cocoa.images["image_id"].isin(rows["image_id"])],
        instances=[CheckedInstances(rows, np.flatnonzero(stays), mended, ())],
        order=cocoa.order[both].drop(columns="area"),
        sources={**cocoa.metadata.sources, file.path.name: file.checksum},
        file=path,
        rejected=[*as_findings(cocoa.rejected), *unknown, *lost],
    )


def _report(
    table: AmodalAnnotations,
    cocoa: AmodalAnnotations,
    fates: np.ndarray,
    instances: pd.DataFrame,
    crowd: np.ndarray,
    unusable: int,
) -> pd.DataFrame:
    matched, there = (Counter(rows["category_id"]) for rows in (table.instances, instances[~crowd]))
    rows = [("categories", c.name, matched[c.id], there[c.id]) for c in table.metadata.categories]
    regions = cocoa.metadata.accounting["instances"]
    stuff, further = (int((cocoa.rejected["reason"] == r).sum()) for r in (STUFF, FURTHER))
    counts = {
        "with a category": len(table.instances),
        "left out: stuff": stuff,
        **Counter(fate for fate in fates if fate is not None),
        FURTHER: further,
        "unusable in COCOA": regions.rejected - stuff - further,
    }
    rows += [("regions", name, count, regions.read) for name, count in counts.items()]
    counts = {
        "compared": int((~crowd).sum()),
        "left out: crowds": int(crowd.sum()),
        "unusable in COCO": unusable,
    }
    total = sum(counts.values())
    rows += [("instances", name, count, total) for name, count in counts.items()]
    images = cocoa.metadata.accounting["images"]
    rows.append(("images", "with a category", len(table.images), images.read))
    return pd.DataFrame(rows, columns=["section", "name", "count", "of"])
