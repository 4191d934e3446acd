"""COCOA (Zhu et al., "Semantic Amodal Segmentation", CVPR 2017): regions within annotations.

An annotation is one person's work on one image: a list ``regions``, front to back, of things and
stuff without categories. COCO images have one annotation, BSDS images five to seven. Published
as files of all annotations with a list of images, and singly, one bare annotation a file.
Formats: https://github.com/Wakeupbuddy/amodalAPI.
"""

import logging
import os
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from amodal_pipeline.annotations import coco_json, flat, json_records
from amodal_pipeline.annotations.coco_json import below, integer, integers
from amodal_pipeline.annotations.formats import Format, recognise, require
from amodal_pipeline.annotations.images import read_size
from amodal_pipeline.annotations.order import by_hidden_part
from amodal_pipeline.annotations.tables import IMAGES, AmodalAnnotations, Category, frame
from amodal_pipeline.annotations.validation import (
    CheckedInstances,
    Finding,
    Repair,
    build,
    check_images,
    finding,
)

OBJECT = Category(id=1, name="object")  # the data set has no categories
FORM = flat.FlatFormat(
    amodal=("segmentation",),
    visible=("visible_mask",),
    invisible=("invisible_mask",),
    always_visible=True,
    crowds=False,
)
REPAIRS = frozenset({Repair.VISIBLE_OUTSIDE_AMODAL})
BATCH = 256  # annotations converted at once: each has about ten regions
MAX_REGIONS = 999  # of an annotation: instance ids have three digits for them
MAX_ANNOTATION_ID = (1 << 63) // 1000 - 1
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
STUFF = "left out: stuff (regions: things)"
THING = "left out: a thing (regions: stuff)"
FURTHER = "left out: a further annotator's (annotators: first)"

_PAIR_LEFT_OUT = "left out: a region of the pair was left out"
_PAIR = re.compile(r"\s*([0-9]{1,18})\s*-\s*([0-9]{1,18})\s*")

_log = logging.getLogger(__name__)

Annotators = Literal["first", "all"]
Regions = Literal["all", "things", "stuff"]


def read_cocoa(
    json_path: str | os.PathLike,
    image_root: str | os.PathLike,
    dataset: str,
    split: str,
    *,
    folder: str = "",
    annotators: Annotators = "first",
    regions: Regions = "all",
    repairs: frozenset[Repair] = REPAIRS,
    on_progress: flat.Progress | None = None,
) -> AmodalAnnotations:
    """Read COCOA: a file of all annotations, a file of one, or a folder of such.

    All regions have the one category "object"; stuff is not a thing. A region's id is a thousand
    times its annotation's plus its place in the list, from 1. A region with neither a
    ``visible_mask`` nor an ``invisible_mask`` is not occluded; one whose visible mask is empty is
    kept. The number ``size`` of regions that an annotation states may be wrong: the regions
    count, and the log says how often it differs.

    Order: ``depth_constraint`` "1-2,1-5" says that the region with ``order`` 1 is in front of
    those with 2 and 5. Where an annotation has no such key (an empty text is a statement), the
    region with the smaller ``order`` is the occluder where its amodal mask meets the hidden part
    of the other; such pairs are marked ``inferred``.

    An annotation that is a file by itself belongs to the image of the same name: 1.json to 1.jpg,
    1.jpeg or 1.png, whose size counts. An image without a usable annotation is rejected: its
    objects are not annotated.

    Args:
        json_path: the file, or a folder of files of one annotation each (sorted by name).
        image_root: folder that the table's file names are relative to; read only for annotations
            that are files by themselves.
        dataset, split: names, e.g. "cocoa", "val".
        folder: of the images, relative to ``image_root``.
        annotators: "first": of an image the first annotation that can be used; the regions of
            further ones are listed in ``rejected`` (their order is not read). "all": each
            annotation is an image of its own, whose ``image_id`` is the annotation's id.
        regions: read all, or only things or stuff; those left out are listed in ``rejected``, with
            reasons that begin with "left out: ", and so are the order pairs they are in.
        repairs: the faults this data set is known to have.
        on_progress: called with (batches of annotations done, batches).

    Raises:
        ValueError: the file is not JSON or not a COCOA annotation, or no image can be used.
    """
    if annotators not in ("first", "all") or regions not in ("all", "things", "stuff"):
        raise ValueError(
            f"annotators {annotators!r} and regions {regions!r}: 'first' or 'all', and 'all', "
            "'things' or 'stuff'"
        )
    opened = _open(Path(json_path), image_root, folder)
    chosen = _choose(opened, each=annotators == "all")
    convert = partial(_convert, images=chosen.images, keep=regions, repairs=repairs)
    batch = BATCH if len(opened.sources) == 1 else 1  # findings of a batch name one file
    parts = json_records.in_batches(convert, chosen.annotations, batch, on_progress)
    return build(
        dataset=dataset,
        split=split,
        categories=[OBJECT],
        image_root=str(image_root),
        images=chosen.images,
        instances=[part.checked for part in parts],
        order=pd.concat([part.order for part in parts], ignore_index=True) if parts else None,
        sources=opened.sources,
        file=str(opened.path),
        rejected=[
            *opened.rejected,
            *chosen.rejected,
            *(pair for part in parts for pair in part.lost_pairs),
        ],
    )


@dataclass(frozen=True)
class _Opened:
    """Images that can be used, and annotations, each with the name of its file.

    ``sources`` are checksums of files.
    """

    path: Path
    images: pd.DataFrame
    annotations: list[tuple[str, Any]]
    sources: dict[str, str]
    rejected: tuple[Finding, ...]


@dataclass(frozen=True, slots=True)
class _Annotation:
    """The head of an annotation; ``regions`` and ``stated``: their number (None: unknown)."""

    id: int | None
    image_id: int | None
    regions: int | None
    stated: int | None
    problem: tuple[str, str] | None


@dataclass(frozen=True)
class _Chosen:
    """Annotations to convert, each as (file, image id, annotation); their images; the others."""

    images: pd.DataFrame
    annotations: list[tuple[str, int, dict]]
    rejected: list[Finding]


@dataclass(frozen=True)
class _Part:
    """A converted batch; ``order`` has image_id, occluder_id, occludee_id and inferred."""

    checked: CheckedInstances
    order: pd.DataFrame
    lost_pairs: tuple[Finding, ...]


def _open(path: Path, image_root: str | os.PathLike, folder: str) -> _Opened:
    if path.is_dir():
        singles = [json_records.read(file, "annotations") for file in sorted(path.glob("*.json"))]
        if not singles:
            raise ValueError(f"{path} has no .json file: name the folder of the annotations")
        return _open_singles(path, singles, image_root, folder)
    parsed = json_records.read(path, "annotations")
    if _is_single(parsed):
        return _open_singles(path, [parsed], image_root, folder)
    file = coco_json.checked(parsed, folder, ("images", "annotations"))
    require(file, Format.COCOA)
    annotations = [(str(path), entry) for entry in file.records]
    return _Opened(path, file.images, annotations, {path.name: file.checksum}, file.rejected)


def _is_single(file: json_records.RecordFile) -> bool:
    """Tell whether a file is one annotation by itself."""
    return not file.records and recognise([file.document]) is Format.COCOA


def _open_singles(
    path: Path,
    files: Sequence[json_records.RecordFile],
    image_root: str | os.PathLike,
    folder: str,
) -> _Opened:
    """Return the annotations of files of one annotation each, and their images."""
    entries: dict[int, dict[str, Any]] = {}
    missing: dict[int, Finding] = {}
    for file in files:
        if not _is_single(file):
            raise ValueError(
                f"{file.path} is not a single annotation with 'regions', as all files of {path} "
                "are to be: take it out, or name the file you mean"
            )
        image_id = integer(file.document.get("image_id"))
        if image_id is None or image_id in entries:
            continue
        try:
            name, (height, width) = _image_of(file.path.stem, image_root, folder)
        except ValueError as error:
            problem = finding(str(file.path), f"image {image_id}", "file_name", str(error))
            missing.setdefault(image_id, problem)
            continue
        entries[image_id] = {"id": image_id, "file_name": name, "height": height, "width": width}
    table, unreadable = coco_json.images(list(entries.values()), path)
    table, unusable = check_images(table, str(path))
    lost = [problem for image_id, problem in missing.items() if image_id not in entries]
    return _Opened(
        path,
        table,
        [(str(f.path), f.document) for f in files],
        {f.path.name: f.checksum for f in files},
        (*lost, *unreadable, *unusable),
    )


def _image_of(stem: str, image_root: str | os.PathLike, folder: str) -> tuple[str, tuple[int, int]]:
    """Return file name and (height, width) of an annotation's image.

    Raises:
        ValueError: the image is missing, or cannot be read.
    """
    names = [below(folder, stem + suffix) for suffix in IMAGE_SUFFIXES]
    for name in names:
        if (Path(image_root) / name).is_file():
            return name, read_size(image_root, name)
    raise ValueError(f"is to be one of {', '.join(names)}, but none is in {image_root}")


def _described(entry: Any) -> _Annotation:
    _, _, problem = integers(entry, ("id", "image_id"), 0, "annotation")
    if not isinstance(entry, dict):
        return _Annotation(None, None, None, None, problem)
    regions = entry.get("regions")
    if isinstance(regions, list):
        count = len(regions)
    else:
        count = None
        reason = f"is a JSON {type(regions).__name__}, not a list"
        problem = problem or ("regions", reason if "regions" in entry else "is missing")
    return _Annotation(
        integer(entry.get("id")),
        integer(entry.get("image_id")),
        count,
        integer(entry.get("size")),
        problem,
    )


def _choose(opened: _Opened, each: bool) -> _Chosen:
    """Return what is converted: ``each`` annotation as an image of its own, or an image's first."""
    row_of = {image_id: row for row, image_id in enumerate(opened.images["image_id"])}
    seen: set[int | None] = set()
    annotated: dict[int, int] = {}  # image id of the table: row in the file's images
    used: set[int] = set()  # images of the file
    chosen, rejected, miscounted = [], [], []
    for position, (file, entry) in enumerate(opened.annotations):
        a = _described(entry)
        problem = a.problem
        if problem is None and not 0 <= a.id <= MAX_ANNOTATION_ID:
            problem = ("id", f"is {a.id}, not between 0 and {MAX_ANNOTATION_ID}")
        elif problem is None and a.id in seen:
            problem = ("id", "is used twice")
        elif problem is None and a.image_id not in row_of:
            problem = ("image_id", "names an image that is not there or was rejected")
        elif problem is None and not each and a.image_id in used:
            problem = ("image_id", FURTHER)
        if problem is None:
            image_id = a.id if each else a.image_id
            annotated[image_id] = row_of[a.image_id]
            used.add(a.image_id)
            chosen.append((file, image_id, entry))
            if a.stated is not None and a.stated != a.regions:
                miscounted.append(a)
        else:
            known = a.id is not None and a.id not in seen and 0 <= a.id <= MAX_ANNOTATION_ID
            name = f"annotation {a.id}" if known else f"annotation at position {position}"
            rejected += _lost_regions(file, name, a, problem, known)
        seen.add(a.id)
    if miscounted:
        some = ", ".join(f"{a.id} ({a.stated} for {a.regions})" for a in miscounted[:3])
        _log.warning(
            "%s: %d of %d annotations state another `size` than the number of their regions, "
            "which counts: %s",
            *(opened.path, len(miscounted), len(chosen), some),
        )
    unused = [
        finding(str(opened.path), f"image {image_id}", "annotations", "has none that can be used")
        for image_id in row_of
        if image_id not in used
    ]
    rows = [*annotated.values()]
    images = opened.images.iloc[rows if each else sorted(rows)].reset_index(drop=True)
    if each:
        images = frame(IMAGES, images.assign(image_id=[*annotated]))
    return _Chosen(images, chosen, [*rejected, *unused])


def _lost_regions(
    file: str, name: str, annotation: _Annotation, problem: tuple[str, str], known: bool
) -> list[Finding]:
    """Return a finding for each region of an annotation that is not converted."""
    if not annotation.regions:
        return [finding(file, name, *problem)]
    return [
        finding(file, _region_name(name, annotation.id if known else None, at), *problem)
        for at in range(1, annotation.regions + 1)
    ]


def _region_name(annotation: str, annotation_id: int | None, at: int) -> str:
    if annotation_id is None or at > MAX_REGIONS:
        return f"region {at} of {annotation}"
    return f"instance {annotation_id * 1000 + at}"


@dataclass(frozen=True)
class _Regions:
    """Regions of an annotation by their place in its list, from 1.

    ``wanted`` are those to be read; ``numbered`` has the places of each ``order``.
    """

    wanted: dict[int, dict]
    numbered: dict[int, list[int]]
    left_out: set[int]
    rejected: list[Finding]


def _convert(
    annotations: Sequence[tuple[str, int, dict]],
    images: pd.DataFrame,
    keep: Regions,
    repairs: frozenset[Repair],
) -> _Part:
    rejected: list[Finding] = []
    lost_pairs: list[Finding] = []
    records, ids, ranks = [], [], []
    stated: list[tuple[int, int, int]] = []
    for file, image_id, annotation in annotations:
        annotation_id = integer(annotation["id"])
        first_id = annotation_id * 1000
        found = _sorted_out(annotation["regions"], annotation_id, keep, file)
        rejected += found.rejected
        records += found.wanted.values()
        ids += [(first_id + at, image_id, OBJECT.id) for at in found.wanted]
        constraint = annotation.get("depth_constraint")
        if constraint is None:
            order = {at: number for number, places in found.numbered.items() for at in places}
            ranks += [order.get(at, flat.UNKNOWN) for at in found.wanted]
        else:
            ranks += [flat.UNKNOWN] * len(found.wanted)
            pairs, lost = _stated_pairs(constraint, found)
            stated += [(image_id, first_id + front, first_id + back) for front, back in pairs]
            lost_pairs += [
                finding(
                    file,
                    f"order pair {text} of annotation {annotation_id}",
                    "depth_constraint",
                    reason,
                )
                for text, reason in lost
            ]

    columns = np.array(ids, np.int64).reshape(-1, 3)
    checked = flat.check_records(records, columns, FORM, images, (OBJECT.id,), repairs, file)
    rank = np.array(ranks, np.int64)[checked.kept]
    inferred, crowded = by_hidden_part(checked.rows, rank, "order", file)
    pairs = pd.DataFrame(np.array(stated, np.int64).reshape(-1, 3), columns=list(inferred))
    order = pd.concat([pairs.assign(inferred=False), inferred.assign(inferred=True)])
    checked = replace(checked, rejected=(*rejected, *checked.rejected))
    return _Part(checked, order, (*lost_pairs, *crowded))


def _sorted_out(regions: list, annotation_id: int, keep: Regions, file: str) -> _Regions:
    found = _Regions({}, defaultdict(list), set(), [])
    for at, region in enumerate(regions, 1):
        name = _region_name(f"annotation {annotation_id}", annotation_id, at)
        if at > MAX_REGIONS:
            reason = f"has more than the {MAX_REGIONS} regions that an annotation may have"
            found.rejected.append(finding(file, name, "regions", reason))
            continue
        if not isinstance(region, dict):
            reason = f"has a JSON {type(region).__name__}, not an object"
            found.rejected.append(finding(file, name, "regions", reason))
            continue
        number = integer(region.get("order"))
        if number is not None:
            found.numbered[number].append(at)
        if keep != "all" and bool(region.get("isStuff")) == (keep == "things"):
            found.left_out.add(at)
            reason = STUFF if keep == "things" else THING
            found.rejected.append(finding(file, name, "isStuff", reason))
        else:
            found.wanted[at] = region
    return found


def _stated_pairs(
    constraint: Any, regions: _Regions
) -> tuple[list[tuple[int, int]], list[tuple[str, str]]]:
    """Return places (front, back) of a ``depth_constraint``; text and reason of unusable pairs."""
    if not isinstance(constraint, str):
        return [], [("list", f"is a JSON {type(constraint).__name__}, not text like 1-2,1-5")]
    pairs, lost = [], []
    for item in filter(None, map(str.strip, constraint.split(","))):
        match = _PAIR.fullmatch(item)
        if match is None:
            lost.append((f"{item!r:.40}", "is not two numbers like 1-2"))
            continue
        numbers = [int(number) for number in match.groups()]
        places = [regions.numbered.get(number, []) for number in numbers]
        unclear = [n for n, found in zip(numbers, places, strict=True) if len(found) != 1]
        if unclear:
            which = "several regions have" if unclear[0] in regions.numbered else "no region has"
            lost.append((item, f"names order {unclear[0]}, which {which}"))
            continue
        front, back = (found[0] for found in places)
        if front in regions.left_out or back in regions.left_out:
            lost.append((item, _PAIR_LEFT_OUT))
        else:
            pairs.append((front, back))
    return pairs, lost
