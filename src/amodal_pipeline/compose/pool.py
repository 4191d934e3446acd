"""Photographs of several COCO files, divided anew into training and validation."""

from collections.abc import Mapping
from pathlib import Path, PurePosixPath

import numpy as np
import orjson

from amodal_pipeline.annotations import json_records
from amodal_pipeline.annotations.storage import replacing
from amodal_pipeline.compose.config import PoolConfig


def divide(config: PoolConfig, files: Mapping[Path, str], folder: Path, split: str) -> Path:
    """Write ``train.json`` or ``val.json`` of the photographs of all files, and return its path.

    Images and annotations are numbered anew from 1; file names get the folder of their file in
    front. Records that no reader can assign to a photograph go into ``train.json`` as they are, so
    that its reader reports them.

    Args:
        config: how they are divided. Which photographs are held out does not depend on how many
            are trained on, and fewer photographs are the first of more.
        files: COCO instance files of equal categories, and the folder of each one's images,
            relative to the folder that the file names will be relative to.
        folder: where to write.
        split: "train" or "val".

    Raises:
        ValueError: a file is missing or no COCO file, categories differ, or no photograph is left
            for a split.
    """
    categories, photographs, annotations, stray = None, [], {}, []
    for number, (path, images) in enumerate(files.items()):
        file = json_records.read(path, "annotations")
        found = file.document.get("categories")
        if categories is not None and found != categories:
            raise ValueError(
                f"{path} has other categories than {next(iter(files))}: pool files of one version "
                "of a data set"
            )
        categories = found
        for image in file.document.get("images") or []:
            if not isinstance(image, dict) or not isinstance(image.get("file_name"), str):
                stray.append(image)
                continue
            name = str(PurePosixPath(images, image["file_name"]))
            photographs.append(((number, image.get("id")), image | {"file_name": name}))
        for record in file.records:
            image = record.get("image_id") if isinstance(record, dict) else None
            key = (number, image) if isinstance(image, int | str) else None
            annotations.setdefault(key, []).append(record)

    known = {key for key, _ in photographs}
    if len(known) < len(photographs):
        raise ValueError(
            f"{', '.join(map(str, files))}: two images of a file have the same id: correct them"
        )
    rows = _chosen(config, [image["file_name"] for _, image in photographs], files)[split]
    images, records = [], []
    for new, row in enumerate(rows, 1):
        key, image = photographs[row]
        images.append(image | {"id": new})
        records += [record | {"image_id": new} for record in annotations.get(key, ())]
    if split == "train":
        images += stray
        lost = (a for key, some in annotations.items() if key not in known for a in some)
        records += [a | {"image_id": None} if isinstance(a, dict) else a for a in lost]
    records = [a | {"id": new} if isinstance(a, dict) else a for new, a in enumerate(records, 1)]
    document = {"images": images, "annotations": records, "categories": categories}
    with replacing(folder / f"{split}.json") as path:
        path.write_bytes(orjson.dumps(document))
    return folder / f"{split}.json"


def _chosen(config: PoolConfig, names: list[str], files: Mapping) -> dict[str, np.ndarray]:
    """Return the photographs of each split as positions in ``names``."""
    order = np.argsort(np.array(names, object), kind="stable")
    order = order[np.random.default_rng(config.seed).permutation(len(order))]
    held_out = order[: round(config.held_out * len(order))]
    train = (order if config.train_on_all else order[len(held_out) :])[: config.photographs]
    if not len(held_out) or not len(train):
        raise ValueError(
            f"{', '.join(map(str, files))}: {len(names)} photographs are too few to hold out a "
            f"share of {config.held_out}"
        )
    return {"train": np.sort(train), "val": np.sort(held_out)}
