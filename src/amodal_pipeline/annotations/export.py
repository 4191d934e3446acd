"""A table of annotations as a file that other programs read: flat COCO-style amodal JSON.

The layout is that of COCOA-cls and D2SA: one record per object with amodal, visible and invisible
run lengths.
"""

import logging
import os
from collections.abc import Iterator
from pathlib import PurePosixPath

import numpy as np
import orjson
import pandas as pd

from amodal_pipeline.annotations import rle
from amodal_pipeline.annotations.audit import largest_cycles
from amodal_pipeline.annotations.order import overlapping
from amodal_pipeline.annotations.storage import replacing
from amodal_pipeline.annotations.tables import AmodalAnnotations, boxes

_ROWS = 4096  # written at once

_log = logging.getLogger(__name__)


def write_coco_amodal(
    annotations: AmodalAnnotations, path: str | os.PathLike, *, folder: str = ""
) -> None:
    """Write a table as flat COCO-style amodal JSON, as :func:`cocoa_cls.read_cocoa_cls` reads it.

    A record has ``segmentation`` (amodal run lengths), ``bbox`` and ``area`` of it, and
    ``occlude_rate``; where something is hidden also ``visible_mask`` and ``invisible_mask``;
    ``iscrowd`` is 1 where the table says ``ignore``; ``isStuff`` is 1 for what is no thing.

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
        file.write(b',\n"annotations": [')
        for i, record in enumerate(_records(annotations, rank)):
            file.write((b",\n" if i else b"\n") + orjson.dumps(record))
        file.write(b"\n]}\n")


def ranks(instances: pd.DataFrame, order: pd.DataFrame) -> np.ndarray:
    """Ranks per image from which :func:`order.by_rank` makes the same pairs, int64 [N].

    An object's rank is the length of the longest chain of objects in front of it; −1 for objects
    in no pair, and for all of an image whose pairs no ranks can say.

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
                "occlude_rate": 1 - visible_area / area,
            }
            if visible_area < area:
                record["visible_mask"] = {"size": size, "counts": seen}
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
