"""Flat COCO-style amodal JSON: one record per object with an amodal and a visible mask.

The layout that the detectors' code bases share for KINS, COCOA-cls and D2SA: ``segmentation``
(``a_segm`` in KINS 2020) is the amodal mask, the visible one lies under one of several names.
A data set with quirks of its own has its own reader on top of
:mod:`amodal_pipeline.annotations.coco_json`.
"""

import os
from collections.abc import Iterable

import numpy as np

from amodal_pipeline.annotations import coco_json, rle
from amodal_pipeline.annotations.images import read_size
from amodal_pipeline.annotations.storage import inside
from amodal_pipeline.annotations.tables import FINDINGS, AmodalAnnotations, frame
from amodal_pipeline.annotations.validation import Repair, build

AMODAL_KEYS = ("a_segm", "segmentation")
VISIBLE_KEYS = ("visible_mask", "inmodal_seg", "i_segm", "visible_segmentation")
INVISIBLE_KEY = "invisible_mask"


def read_coco_amodal(
    json_path: str | os.PathLike,
    image_root: str | os.PathLike,
    dataset: str,
    split: str,
    repairs: frozenset[Repair] = frozenset({Repair.VISIBLE_ABSENT}),
) -> AmodalAnnotations:
    """Read a flat amodal COCO file.

    The visible mask is the first of ``VISIBLE_KEYS`` that a record has, else the amodal mask
    without ``invisible_mask``. A record with none of them is not occluded, as in D2SA and COCOA,
    which write visible masks of occluded objects only; each such record is listed in ``repaired``
    (:attr:`Repair.VISIBLE_ABSENT`), and rejected if it states an ``occlude_rate`` above zero or
    that repair is not among ``repairs``. Boxes, areas and rates in the file are not used: they
    are computed from the masks. ``iscrowd`` records are marked ``ignore``; ``isStuff`` ones are
    no things. No order is read.

    Args:
        json_path: the annotation file.
        image_root: folder that the file names in it are relative to; not looked at here, see
            :func:`missing_images`.
        dataset, split: names, e.g. "d2sa", "val".
        repairs: the faults this data set is known to have.

    Raises:
        ValueError: the file is no COCO JSON, or a modal one: no record has a visible mask.
    """
    file = coco_json.read(json_path)
    if not any(has_visible_mask(record) for record in file.records):
        raise ValueError(
            f"{file.path} has no visible masks: no annotation has any of the keys "
            f"{', '.join((*VISIBLE_KEYS, INVISIBLE_KEY))}. If its masks are modal (plain COCO "
            "instances), make a data set with known amodal masks from it: "
            "kedro run --env=composed_coco"
        )
    amodal, found = coco_json.masks([_first(r, AMODAL_KEYS) for r in file.records], file.sizes)
    problems = [("segmentation", reason) if reason else None for reason in found]
    visible = _visible_masks(file, amodal, problems)

    good = np.array([problem is None for problem in problems], bool)
    findings = list(file.findings)
    for i in np.flatnonzero(~good):
        record = f"instance {file.instances['instance_id'].iloc[i]}"
        findings.append(coco_json.finding(file.path, record, *problems[i]))
    instances = file.instances[good].assign(
        amodal_rle=[amodal[i] for i in np.flatnonzero(good)],
        visible_rle=[visible[i] for i in np.flatnonzero(good)],
        is_thing=[not file.records[i].get("isStuff") for i in np.flatnonzero(good)],
    )
    return build(
        dataset=dataset,
        split=split,
        categories=file.categories,
        image_root=str(image_root),
        images=file.images,
        instances=instances.reset_index(drop=True),
        sources={file.path.name: file.checksum},
        repairs=repairs,
        file=str(file.path),
        rejected=frame(FINDINGS, findings),
    )


def has_visible_mask(record: dict) -> bool:
    """Whether an annotation says anything about what is visible, under any published name."""
    return _first(record, (*VISIBLE_KEYS, INVISIBLE_KEY)) is not None


def missing_images(annotations: AmodalAnnotations) -> list[str]:
    """The file names of the table that are no file below its ``image_root``."""
    root = annotations.metadata.image_root
    return [name for name in annotations.images["file_name"] if not inside(root, name).is_file()]


def wrong_sizes(annotations: AmodalAnnotations) -> list[str]:
    """A sentence for each image on disk whose size is not the table's; reads headers only.

    Missing and unreadable files are not reported here.
    """
    root = annotations.metadata.image_root
    images = annotations.images
    found = []
    for name, height, width in zip(
        images["file_name"], images["height"], images["width"], strict=True
    ):
        size = _size_on_disk(root, name)
        if size is not None and size != (height, width):
            found.append(
                f"{name} is {size[0]}x{size[1]} (height x width), the annotations say "
                f"{height}x{width}"
            )
    return found


def _first(record: dict, keys: Iterable[str]):
    return next((record[key] for key in keys if record.get(key) is not None), None)


def _visible_masks(
    file: coco_json.CocoFile, amodal: list[str | None], problems: list[tuple[str, str] | None]
) -> list[str | None]:
    """Visible masks, null where a record has none; adds what is wrong to ``problems``."""
    visible: list[str | None] = [None] * len(file.records)
    written = [_first(r, VISIBLE_KEYS) for r in file.records]
    hidden = [
        r.get(INVISIBLE_KEY) if v is None else None
        for r, v in zip(file.records, written, strict=True)
    ]
    for values, invisible in ((written, False), (hidden, True)):
        rows = [i for i, v in enumerate(values) if v is not None and problems[i] is None]
        counts, found = coco_json.masks([values[i] for i in rows], file.sizes[rows])
        field = INVISIBLE_KEY if invisible else "visible mask"
        for i, reason in zip(rows, found, strict=True):
            if reason is not None:
                problems[i] = (field, reason)
        pairs = [(i, c) for i, c in zip(rows, counts, strict=True) if c is not None]
        if invisible and pairs:
            rows, counts = [i for i, _ in pairs], [c for _, c in pairs]
            whole = [amodal[i] for i in rows]
            pairs = zip(rows, rle.difference(whole, counts), strict=True)
        for i, text in pairs:
            visible[i] = text
    for i, record in enumerate(file.records):
        rate = record.get("occlude_rate")
        stated = isinstance(rate, (int, float)) and rate > 0
        if problems[i] is None and written[i] is None and hidden[i] is None and stated:
            problems[i] = ("visible mask", f"is missing although occlude_rate is {rate}")
    return visible


def _size_on_disk(root: str, name: str) -> tuple[int, int] | None:
    try:
        return read_size(root, name)
    except ValueError:
        return None
