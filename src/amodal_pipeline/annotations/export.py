"""Tables as JSON files that other programs read.

:func:`write_coco_amodal` writes annotations in the layout of COCOA-cls and D2SA: one record per
object with amodal, visible and invisible run lengths. :func:`write_coco_results` writes predictions
as a COCO results file.
"""

import logging
import os
from collections.abc import Iterable, Iterator
from pathlib import PurePosixPath
from typing import BinaryIO

import numpy as np
import orjson
import pandas as pd

from amodal_pipeline.annotations import rle
from amodal_pipeline.annotations.audit import largest_cycles
from amodal_pipeline.annotations.order import overlapping
from amodal_pipeline.annotations.storage import replacing
from amodal_pipeline.annotations.tables import AmodalAnnotations, Predictions, boxes

_ROWS = 4096  # written at once

_log = logging.getLogger(__name__)


def write_coco_amodal(
    annotations: AmodalAnnotations, path: str | os.PathLike, *, folder: str = ""
) -> None:
    """Write a table as flat COCO-style amodal JSON, as :func:`cocoa_cls.read_cocoa_cls` reads it.

    A record has ``segmentation`` (amodal run lengths), ``bbox`` and ``area`` of it,
    ``visible_mask``, which the loaders of VRSP, aistron and C2F-Seg want in every record, and
    ``occlude_rate``; where something is hidden also ``invisible_mask``; ``iscrowd`` is 1 where the
    table says ``ignore``; ``isStuff`` is 1 for what is no thing.

    Order becomes ``occl_depth`` (0: front) wherever such ranks say just what the pairs say, image
    by image: not in an image with a cycle (two objects each in front of the other are one), nor
    where ranks would order two overlapping objects that no pair orders; the log counts such images.
    Nor does the layout hold which pairs were inferred, tracks, videos and frames, and findings.

    Args:
        annotations: any table.
        path: the file, replaced as a whole or not at all.
        folder: taken off the front of the images' file names, as readers put it there.

    Raises:
        ValueError: a file name is not below ``folder``.
    """
    images = [
        {"id": image_id, "file_name": _relative(name, folder), "height": height, "width": width}
        for image_id, name, height, width in zip(
            *(annotations.images[c] for c in ("image_id", "file_name", "height", "width")),
            strict=True,
        )
    ]
    categories = [{"id": c.id, "name": c.name} for c in annotations.metadata.categories]
    rank = ranks(annotations.instances, annotations.order)
    ordered = set(annotations.order["image_id"])
    silent = ordered.difference(annotations.instances["image_id"][rank >= 0])
    if silent:
        _log.warning(
            "%s: the order of %d of %d images cannot be said by ranks and is left out",
            *(path, len(silent), len(ordered)),
        )
    with replacing(path) as temporary, open(temporary, "wb") as file:
        file.write(b'{"images": ' + orjson.dumps(images))
        file.write(b',\n"categories": ' + orjson.dumps(categories))
        file.write(b',\n"annotations": ')
        _write_list(file, _records(annotations, rank))
        file.write(b"}\n")


def write_coco_results(
    predictions: Predictions,
    path: str | os.PathLike,
    *,
    visible_path: str | os.PathLike | None = None,
    with_boxes: bool = True,
    with_names: bool = False,
) -> None:
    """Write predictions as COCO results JSON: a list with one record per detection.

    A record has ``image_id``, ``category_id``, ``score`` (1 where the table has none);
    ``segmentation``, the amodal run lengths, which pycocotools scores; the same as ``amodal_segm``,
    and ``visible_segm`` and ``occluded_segm`` where the method predicts these masks, which aistron
    scores; ``bbox`` (x, y, width, height) of the mask in ``segmentation``; and where there are both
    masks ``area``, the share of the amodal mask that is visible, which VRSP's evaluator takes for
    it (pycocotools computes areas itself); ``track_id`` of an object of a video. A method without
    amodal masks has its visible ones in ``segmentation``: read that file with ``masks="visible"``.

    With ``visible_path`` two files are written as VRSP and AISFormer write and score them: the same
    detections in the same order, ``segmentation`` amodal in ``path`` and visible in the other.

    Records are in the order of ``prediction_id``, so that tables whose ids count from 1 have the
    same ids when :func:`coco_results.read_coco_results` reads them back. The order of objects is
    not written: evaluators read no file that has it.

    Args:
        predictions: any table.
        path: the file, replaced as a whole or not at all.
        visible_path: the file of the visible masks, likewise.
        with_boxes: write ``bbox``. Where there is one, pycocotools takes the box's area for the
            detection's when it tells small, medium and large ones (Detectron2 and aistron take
            ``bbox`` out before they score masks).
        with_names: write ``file_name``, for images whose numbers say nothing to others.

    Raises:
        ValueError: some detections have an amodal mask and others not; or with ``visible_path`` a
            detection lacks one of the two.
    """
    table = predictions.predictions
    lacks = {kind: int(table[f"{kind}_rle"].isna().sum()) for kind in ("amodal", "visible")}
    if 0 < lacks["amodal"] < len(table):
        raise ValueError(
            f"{path}: {lacks['amodal']} of {len(table)} predictions of "
            f"{predictions.metadata.method} have no amodal mask: `segmentation` has one kind of "
            "mask in all records, so write those without in a file of their own"
        )
    if visible_path is not None and any(lacks.values()):
        raise ValueError(
            f"{path}: of {len(table)} predictions of {predictions.metadata.method}, "
            f"{lacks['amodal']} have no amodal and {lacks['visible']} no visible mask: write one "
            "file, without visible_path"
        )
    main = "visible" if lacks["amodal"] else "amodal"
    masks = {"segmentation": main}
    if visible_path is None:
        masks |= {"amodal_segm": "amodal", "visible_segm": "visible", "occluded_segm": "invisible"}
    files = [(path, main, masks)]
    if visible_path is not None:
        files.append((visible_path, "visible", {"segmentation": "visible"}))
    for name, box, keys in files:
        with replacing(name) as temporary, open(temporary, "wb") as file:
            records = _detections(predictions, keys, box if with_boxes else None)
            _write_list(file, _named(records, predictions.images) if with_names else records)
            file.write(b"\n")


def _write_list(file: BinaryIO, records: Iterable[dict]) -> None:
    """Write records as a JSON list, one per line."""
    file.write(b"[")
    for i, record in enumerate(records):
        file.write((b",\n" if i else b"\n") + orjson.dumps(record))
    file.write(b"\n]")


def _named(records: Iterable[dict], images: pd.DataFrame) -> Iterator[dict]:
    names = dict(zip(images["image_id"].tolist(), images["file_name"].tolist(), strict=True))
    for record in records:
        yield {"file_name": names[record["image_id"]], **record}


def _detections(predictions: Predictions, keys: dict[str, str], box: str | None) -> Iterator[dict]:
    """Yield results records: ``keys`` says which kind of mask each key has, ``box`` whose box."""
    table, sizes = predictions.predictions, predictions.sizes
    by_id = np.argsort(table["prediction_id"].to_numpy(dtype=np.int64), kind="stable")
    for start in range(0, len(table), _ROWS):
        at = by_id[start : start + _ROWS]
        rows = table.iloc[at]
        texts = {
            kind: rows[f"{kind}_rle"].to_numpy(dtype=object, na_value=None)
            for kind in ("amodal", "visible", "invisible")
        }
        records = [
            {"image_id": image, "category_id": category, "score": score}
            for image, category, score in zip(
                *(rows[name].tolist() for name in ("image_id", "category_id")),
                rows["score"].fillna(1.0).tolist(),
                strict=True,
            )
        ]
        both = np.flatnonzero((rows["amodal_rle"].notna() & rows["visible_rle"].notna()).to_numpy())
        amodal, visible = texts["amodal"][both], texts["visible"][both]
        shares = rle.shared_area(amodal, visible) / np.maximum(rle.area(amodal), 1)
        for i, share in zip(both, shares.tolist(), strict=True):
            records[i]["area"] = share
        for i in np.flatnonzero(rows["track_id"].notna().to_numpy(dtype=bool)):
            records[i]["track_id"] = int(rows["track_id"].iloc[i])
        if box is not None:
            sides = boxes(rows[f"{box}_box"])
            absent = np.isnan(sides[:, 0])
            # An empty mask has the box that pycocotools gives it: nothing but zeros.
            sides[absent] = np.nan_to_num(rle.box(texts[box][absent], sizes[at][absent]))
            for record, four in zip(records, sides.tolist(), strict=True):
                record["bbox"] = four
        for key, kind in keys.items():
            for record, size, text in zip(records, sizes[at].tolist(), texts[kind], strict=True):
                if text is not None:
                    record[key] = {"size": size, "counts": text}
        yield from records


def ranks(instances: pd.DataFrame, order: pd.DataFrame) -> np.ndarray:
    """Return ranks per image from which :func:`order.by_rank` makes the same pairs, int64 [N].

    An object's rank is the length of the longest chain of objects in front of it; −1 for objects
    in no pair, and for all objects of an image whose pairs cannot be written as ranks.

    Args:
        instances: rows of INSTANCES.
        order: rows of ORDER about them.
    """
    ids = instances["instance_id"].to_numpy(dtype=np.int64)
    image = instances["image_id"].to_numpy(dtype=np.int64)
    by_id = np.argsort(ids)
    front, back = (
        by_id[np.searchsorted(ids, order[end].to_numpy(dtype=np.int64), sorter=by_id)]
        for end in ("occluder_id", "occludee_id")
    )
    i, j, crowded = overlapping(instances)
    refused = np.append(largest_cycles(order).index, crowded)
    sayable = ~np.isin(image[front], refused)
    front, back = front[sayable], back[sayable]
    rank = np.full(len(ids), -1, np.int64)
    rank[front] = rank[back] = 0
    while (rank[back] <= rank[front]).any():  # ends, for there are no cycles
        np.maximum.at(rank, back, rank[front] + 1)

    ordered = (rank[i] >= 0) & (rank[j] >= 0) & (rank[i] != rank[j])
    i, j = i[ordered], j[ordered]
    said = np.minimum(front, back) * len(ids) + np.maximum(front, back)
    unsaid = ~np.isin(np.minimum(i, j) * len(ids) + np.maximum(i, j), said)
    rank[np.isin(image, image[i[unsaid]])] = -1
    return rank


def _records(annotations: AmodalAnnotations, rank: np.ndarray) -> Iterator[dict]:
    table = annotations.instances
    for start in range(0, len(table), _ROWS):
        rows = table.iloc[start : start + _ROWS]
        amodal, visible = rows["amodal_rle"].tolist(), rows["visible_rle"].tolist()
        columns = zip(
            *(rows[name] for name in ("instance_id", "image_id", "category_id")),
            *(rows[name] for name in ("ignore", "is_thing")),
            *(amodal, visible, rle.difference(amodal, visible)),
            *(rle.area(amodal).tolist(), rle.area(visible).tolist()),
            boxes(rows["amodal_box"]).tolist(),
            annotations.sizes[start : start + _ROWS].tolist(),
            rank[start : start + _ROWS].tolist(),
            strict=True,
        )
        for id_, image, category, ignore, thing, whole, seen, hidden, *numbers in columns:
            area, visible_area, box, size, depth = numbers
            record = {
                "id": id_,
                "image_id": image,
                "category_id": category,
                "iscrowd": int(ignore),
                "isStuff": int(not thing),
                "area": area,
                "bbox": box,
                "segmentation": {"size": size, "counts": whole},
                "visible_mask": {"size": size, "counts": seen},
                "occlude_rate": 1 - visible_area / area,
            }
            if visible_area < area:
                record["invisible_mask"] = {"size": size, "counts": hidden}
            if depth >= 0:
                record["occl_depth"] = depth
            yield record


def _relative(name: str, folder: str) -> str:
    if not folder:
        return name
    try:
        return PurePosixPath(name).relative_to(folder).as_posix()
    except ValueError as error:
        raise ValueError(
            f"image {name} is not in the folder {folder}: give the folder of all images, or none"
        ) from error
