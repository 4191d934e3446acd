"""A user's own masks of what is visible of objects, as predictions for a completer to complete."""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from amodal_pipeline.annotations import (
    Category,
    Predictions,
    PredictionsMetadata,
    coco_json,
    json_records,
    rle,
)
from amodal_pipeline.annotations.coco_json import integer, shown
from amodal_pipeline.annotations.images import read_labels
from amodal_pipeline.annotations.tables import PREDICTION_ORDER, PREDICTIONS, frame

# What kind of object it is, nobody has said.
_OBJECT = Category(id=1, name="object")

_FARTHEST = 1e9  # pixels; an integer of JSON may be larger than any float


def read_masks(path: Path, images: pd.DataFrame, folder: Path) -> Predictions:
    """Visible masks of objects in the images of a folder; score 1, of one category "object".

    Args:
        path: a folder of PNG files, or a COCO file *.json. For the image ``a/b.jpg`` the folder has
            ``a/b.png``, a label image (0 is background, each other value an object), or a folder
            ``a/b`` with a PNG for each object (0 is background). The file is a list of records with
            ``segmentation`` and ``file_name`` or ``image_id``, or an object with ``images`` and
            ``annotations``; ``amodal_bbox`` is the box of the whole object, where it is known.
        images: the table of images.
        folder: the one they are in.

    Raises:
        ValueError: an image has no mask, or one that is empty or of another size; a record names no
            image or has no readable mask or box. Names file, record and remedy.
    """
    boxes = None
    if path.suffix.lower() == ".json":
        image_ids, masks, boxes = _from_file(path, images)
    elif path.is_dir():
        image_ids, masks = [], []
        for record in images.itertuples():
            size = (int(record.height), int(record.width))
            for mask in _of_image(path, record.file_name, size):
                image_ids.append(record.image_id)
                masks += rle.encode(mask[None])
    else:
        raise ValueError(
            f"{path} is neither a folder of masks nor a file *.json: name one with "
            "--params masks=<folder>"
        )
    metadata = PredictionsMetadata(
        dataset=folder.name,
        split="user",
        method="user_masks",
        categories=(_OBJECT,),
        image_root=str(folder),
    )
    columns = {
        "prediction_id": np.arange(1, len(masks) + 1),
        "image_id": image_ids,
        "category_id": np.full(len(masks), _OBJECT.id),
        "score": np.ones(len(masks)),
        "visible_rle": masks,
    }
    if boxes is not None:
        columns["amodal_box"] = boxes
    order = frame(PREDICTION_ORDER, {})
    return Predictions(metadata, images, frame(PREDICTIONS, columns), order)


def _of_image(root: Path, file_name: str, size: tuple[int, int]) -> Iterator[np.ndarray]:
    """The masks of one image, bool [H, W]."""
    stem = Path(file_name).with_suffix("")
    labels, single = stem.with_suffix(".png"), root / stem
    if (root / labels).is_file():
        values = read_labels(root, labels.as_posix(), size)
        found = np.unique(values[values > 0])
        if not len(found):
            raise ValueError(
                f"{root / labels} is 0 everywhere: give each object of {file_name} a value, or "
                "take the image away"
            )
        yield from (values == value for value in found)
        return
    files = sorted(single.glob("*.png")) if single.is_dir() else []
    if not files:
        raise ValueError(
            f"{file_name} has no mask: put a label image at {root / labels}, or a PNG for each of "
            f"its objects into {single}/"
        )
    for file in files:
        mask = read_labels(root, file.relative_to(root).as_posix(), size) > 0
        if not mask.any():
            raise ValueError(f"{file} is 0 everywhere: mark its object, or take the file away")
        yield mask


def _from_file(path: Path, images: pd.DataFrame) -> tuple[list[int], list[str], np.ndarray]:
    """Image, mask and amodal box (NaN where none is given) of each record, sorted by image."""
    file = json_records.read(path, "annotations", bare=True)
    records = file.records
    if not records:
        raise ValueError(f"{path} has no records: write one for each object")
    listed = file.document.get("images") or []
    if not isinstance(listed, list) or not all(isinstance(each, dict) for each in listed):
        raise ValueError(f"{path}: 'images' is no list of objects with 'id' and 'file_name'")
    names = {integer(each.get("id")): each.get("file_name") for each in listed}
    known = dict(zip(images["file_name"], images["image_id"], strict=True))
    numbered = {int(n): i for name, i in known.items() if (n := _number(name)) is not None}
    of = [_image_of(path, at, record, names, known, numbered) for at, record in enumerate(records)]
    rows = {image_id: row for row, image_id in enumerate(images["image_id"])}
    sizes = images[["height", "width"]].to_numpy(dtype=np.int64)[[rows[i] for i in of]]
    drawn = coco_json.masks([record.get("segmentation") for record in records], sizes)
    reasons = list(drawn.reasons)
    if not any(reasons):
        empty = rle.area(drawn.counts) == 0
        reasons = np.where(empty, "is empty: mark the object, or leave the record out", None)
    for at, reason in enumerate(reasons):
        if reason is not None:
            raise ValueError(f"{path}: record at position {at}: segmentation {reason}")
    boxes = _boxes(path, records, rle.box(drawn.counts, sizes), sizes)
    order = np.argsort(of, kind="stable")
    return [of[i] for i in order], [drawn.counts[i] for i in order], boxes[order]


def _boxes(path: Path, records: list[dict], visible: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Amodal boxes, float32 [N, 4]; NaN where a record has none."""
    from amodal_pipeline.layers.crops import FITTING, around_amodal

    given = [record.get("amodal_bbox") for record in records]
    boxes = np.array([_numbers(each) for each in given], np.float32)
    fitting = ~np.isnan(around_amodal(boxes, visible, sizes)[:, 0])
    for at, each in enumerate(given):
        if each is not None and not fitting[at]:
            raise ValueError(
                f"{path}: record at position {at}: amodal_bbox is {shown(each)}: write {FITTING}, "
                "or leave it out"
            )
    return boxes


def _numbers(given: object) -> list[float]:
    """Four numbers; NaN where they are no such."""
    numbers = isinstance(given, list) and len(given) == 4
    if numbers and all(type(each) in (int, float) and abs(each) < _FARTHEST for each in given):
        return given
    return [np.nan] * 4


def _image_of(
    path: Path,
    at: int,
    record: object,
    names: dict[int | None, object],
    known: dict[str, int],
    numbered: dict[int, int],
) -> int:
    """The image that a record is of: by its file's name, or by the number that this is."""
    if not isinstance(record, dict):
        raise ValueError(f"{path}: record at position {at} is {shown(record)}, not an object")
    number = integer(record.get("image_id"))
    name = record.get("file_name") or names.get(number)
    if name is None and not names and number in numbered:
        return numbered[number]
    if not isinstance(name, str) or name not in known:
        raise ValueError(
            f"{path}: record at position {at} is of the image {shown(name or number)}, which is "
            "not in the folder of images: name its file in 'file_name'"
        )
    return known[name]


def _number(file_name: str) -> str | None:
    """The number that is a file's name, as COCO's are: "000000000139.jpg"."""
    found = re.fullmatch(r"0*(\d{1,18})", Path(file_name).stem)
    return found[1] if found else None
