"""Reading a user's visible masks of objects, as predictions for a completer to complete."""

import itertools
import logging
import math
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

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
from amodal_pipeline.annotations.formats import AMODAL_KEYS, VISIBLE_KEYS
from amodal_pipeline.annotations.images import read_labels
from amodal_pipeline.annotations.json_records import RecordFile
from amodal_pipeline.annotations.labelme import is_labelme, read_labelme
from amodal_pipeline.annotations.tables import PREDICTION_ORDER, PREDICTIONS, frame

_OBJECT = "object"  # the category of objects that no file names
_NO_BOX = (math.nan,) * 4
_MOST_RUNS = 1 << 21  # runs of one value per column of a label image; noise would fill the memory
_FARTHEST = 1e9  # pixels; an integer of JSON may be larger than any float
_UPLOADED = re.compile(r"[0-9a-f]{8}-(?=.)")  # Label Studio puts this in front of a file's name

_log = logging.getLogger(__name__)


class _Marked(NamedTuple):
    """An object that a user marked: its image, visible mask, category, and the place in the files.

    ``track`` is the same value in all frames of a video; None where the file has no track.
    """

    image_id: int
    counts: str
    source: Path
    track: int | str | None = None
    category: str = _OBJECT
    category_id: int | None = None
    score: float | None = None
    box: Sequence[float] = _NO_BOX


def read_masks(
    path: Path, images: pd.DataFrame, folder: Path, damaged: Collection[str] = ()
) -> Predictions:
    """Return the visible masks of objects in a folder's images, with their categories and scores.

    Args:
        path: a JSON file, or a folder with any of the following, mixed at will but each image in
            one of them:

            - label images: for the image ``a/b.jpg`` the file ``a/b.png``, where 0 is background
              and each other value an object;
            - a PNG per object: for ``a/b.jpg`` the folder ``a/b``, where 0 is background;
            - labelme's JSON (:func:`~..annotations.labelme.read_labelme`);
            - COCO's JSON, for any number of images: a list of records with ``file_name`` or
              ``image_id`` and a mask under the first of the visible keys of a results file that it
              has, or ``segmentation``; or an object with ``images`` and ``annotations``.
              ``amodal_bbox`` is the box of the whole object, where it is known.

            In frames of a video, the same object has the same value in label images, the same file
            name of its own PNG, the same label of labelme's shapes, or the same ``track_id`` (or
            ``instance_id``, or one of these among ``attributes``) of COCO's records. A frame
            without objects needs no file. A mask belongs to the frame of its name, or to the only
            frame with the same last number in its name.
        images: the table of images.
        folder: the folder of the images.
        damaged: names of images there that cannot be read; their masks are passed over.

    Returns:
        Objects by images. In a video each has its ``track_id``: its value in label images or in
        COCO's records; named objects are numbered. Where an object is not marked between two frames
        in which it is, it has an empty mask.

    Raises:
        ValueError: an image has no mask and there is no COCO file, or it has masks in two places; a
            mask is empty or of another size; a record names no image or has no readable mask or
            box; in a video, a mask belongs to no frame, has no track, or is the second of its
            track in a frame. Names file, record and remedy.
    """
    known = _Images(images, damaged)
    if path.suffix.lower() == ".json":
        file = json_records.read(path, "annotations", bare=True)
        if is_labelme(file.document):
            marked = _of_labelme(file, PurePosixPath(path.name), known)
            if marked is None:
                raise ValueError(
                    f"{path} is of the image {shown(file.document.get('imagePath'))}, which is not "
                    "in the folder of images: name its folder with --params images=<folder>"
                )
        else:
            marked = _of_coco(file, known)
    elif path.is_dir():
        marked = _of_folder(path, folder, known)
    else:
        raise ValueError(
            f"{path} is neither a folder of masks nor a file *.json: name one with "
            "--params masks=<folder>"
        )
    if not marked:
        raise ValueError(f"{path} marks no object in an image of {folder} that can be read")
    if known.clip:
        marked = _followed(marked, known)
    marked.sort(key=lambda each: each.image_id)
    categories, category_ids = _categories(marked)
    metadata = PredictionsMetadata(
        dataset=folder.name,
        split="user",
        method="user_masks",
        categories=categories,
        image_root=str(folder),
    )
    columns = {
        "prediction_id": np.arange(1, len(marked) + 1),
        "image_id": [each.image_id for each in marked],
        "category_id": category_ids,
        "score": [each.score for each in marked],
        "visible_rle": [each.counts for each in marked],
        "amodal_box": np.array([each.box for each in marked], np.float32),
    }
    if known.clip:
        columns["track_id"] = [each.track for each in marked]
    order = frame(PREDICTION_ORDER, {})
    return Predictions(metadata, images, frame(PREDICTIONS, columns), order)


class _Images:
    """The images of a folder, found by the names in a user's files.

    ``ids``: the number of each image by its name; None for an image that cannot be read. ``clip``:
    whether the images are frames of a video.
    """

    def __init__(self, images: pd.DataFrame, damaged: Collection[str]) -> None:
        names, numbers = images["file_name"].tolist(), images["image_id"].tolist()
        sizes = zip(images["height"].tolist(), images["width"].tolist(), strict=True)
        self.ids = dict.fromkeys(damaged) | dict(zip(names, numbers, strict=True))
        self.sizes = dict(zip(numbers, sizes, strict=True))
        self.names = dict(zip(numbers, names, strict=True))
        self.stems = {PurePosixPath(name).with_suffix("").as_posix() for name in self.ids}
        self.clip = bool(images["frame"].notna().any())
        self.by_stem = self._unique(lambda name: name.with_suffix("").as_posix())
        number = _last_number if self.clip else _number
        self.by_number = self._unique(lambda name: number(name.stem))
        self.by_number.pop(None, None)
        self._by_end = self._unique(lambda name: name.name)

    def named(self, name: object) -> str | None:
        """Return the image of a path below the folder, or else the only one of this file name; for
        frames, also by stem or last number. None without one."""
        if not isinstance(name, str):
            return None
        path = PurePosixPath(name.replace("\\", "/"))
        if path.as_posix() in self.ids:
            return path.as_posix()
        found = self._by_end.get(path.name) or self._by_end.get(_UPLOADED.sub("", path.name, 1))
        if found or not self.clip:
            return found
        stem = path.with_suffix("")
        return self.by_stem.get(stem.as_posix()) or self.by_number.get(_last_number(stem.name))

    def frame_of(self, place: PurePosixPath) -> tuple[str | None, bool]:
        """Return the frame that a PNG of masks belongs to, and whether it marks a single object."""
        if labels := self.by_stem.get(place.with_suffix("").as_posix()):
            return labels, False
        # In "frame2/cup_7.png" the folder names the frame; 7 is the object's number.
        folder = place.parent
        own = self.by_stem.get(folder.as_posix()) or self.by_number.get(_number(folder.name))
        return own or self.by_number.get(_last_number(place.stem)), own is not None

    def _unique(self, key: Callable[[PurePosixPath], object]) -> dict[object, str]:
        """Return names by their ``key``, without keys that several names share."""
        found: dict[object, list[str]] = {}
        for name in self.ids:
            found.setdefault(key(PurePosixPath(name)), []).append(name)
        return {value: names[0] for value, names in found.items() if len(names) == 1}


def _of_folder(root: Path, folder: Path, known: _Images) -> list[_Marked]:
    """Return all objects that are marked in the files of a folder."""
    marked, coco, others = [], False, 0
    for path in sorted(root.rglob("*")):
        place = PurePosixPath(path.relative_to(root).as_posix())
        hidden = any(part.startswith(".") for part in place.parts)
        if path.suffix.lower() != ".json" or hidden or not path.is_file():
            continue
        file = json_records.read(path, "annotations", bare=True)
        found = (
            _of_labelme(file, place, known) if is_labelme(file.document) else _of_coco(file, known)
        )
        coco |= not is_labelme(file.document)
        others += found is None
        marked += found or []
    if others:
        _log.warning("%s: %d files of labelme are of images not in %s", root, others, folder)
    if known.clip:
        marked += _of_frames(root, folder, known)
    else:
        for name, image_id in known.ids.items():
            if image_id is not None:
                marked += _of_pngs(root, folder, name, image_id, known)
    sources: dict[int, Path] = {}
    for each in marked:
        if sources.setdefault(each.image_id, each.source) != each.source:
            raise ValueError(
                f"{known.names[each.image_id]} has masks in {sources[each.image_id]} and in "
                f"{each.source}: keep one of them"
            )
    for name, image_id in known.ids.items():
        if image_id is not None and image_id not in sources and not coco and not known.clip:
            labels = root / PurePosixPath(name).with_suffix(".png")
            raise ValueError(
                f"{name} has no mask: put a label image at {labels}, a PNG for each of its objects "
                f"into {labels.with_suffix('')}/, or labelme's JSON at "
                f"{labels.with_suffix('.json')}"
            )
    return marked


def _of_pngs(
    root: Path, folder: Path, name: str, image_id: int, known: _Images
) -> Iterator[_Marked]:
    """Yield the objects of one image: of its label image, and of its folder of a PNG for each."""
    stem, size = PurePosixPath(name).with_suffix(""), known.sizes[image_id]
    labels = PurePosixPath(name).with_suffix(".png")  # not of the stem: "street.1" has a dot
    path = root / labels
    # Masks may lie among the images, some of which are PNG files themselves.
    if path.is_file() and not path.samefile(folder / name):
        objects = _label_masks(path, read_labels(root, labels.as_posix(), size))
        if not objects:
            raise ValueError(
                f"{path} is 0 everywhere: give each object of {name} a value, or take the image "
                "away"
            )
        yield from (_Marked(image_id, each, path) for each in objects.values())
    for file in sorted((root / stem).glob("*.png")):
        place = file.relative_to(root)
        if place.with_suffix("").as_posix() in known.stems:
            continue  # of an image in a folder that is named as this image
        mask = read_labels(root, place.as_posix(), size) > 0
        if not mask.any():
            raise ValueError(f"{file} is 0 everywhere: mark its object, or take the file away")
        yield _Marked(image_id, rle.encode(mask[None])[0], root / stem)


def _of_frames(root: Path, folder: Path, known: _Images) -> Iterator[_Marked]:
    """Yield the objects in a video's label images, and in its folders of a PNG for each object."""
    for path in sorted(root.rglob("*.png")):
        place = PurePosixPath(path.relative_to(root).as_posix())
        if any(part.startswith(".") for part in place.parts) or (
            place.as_posix() in known.ids and path.samefile(folder / place)
        ):
            continue
        name, alone = known.frame_of(place)
        if name is None:
            raise ValueError(
                f"{path} is of no frame in {folder}: name it as the frame, "
                f"{PurePosixPath(next(iter(known.ids))).with_suffix('.png')}, or take it away"
            )
        image_id = known.ids[name]
        if image_id is None:
            continue
        values = read_labels(root, place.as_posix(), known.sizes[image_id])
        if not alone:
            for value, counts in _label_masks(path, values).items():
                yield _Marked(image_id, counts, path, value)
        elif values.any():
            yield _Marked(image_id, rle.encode((values > 0)[None])[0], path.parent, place.stem)


def _followed(marked: Sequence[_Marked], known: _Images) -> list[_Marked]:
    """Return the objects of a video with numbered tracks.

    Frames between two in which an object is marked get an empty mask of it.
    """
    tracks: dict[int | str, dict[int, _Marked]] = {}
    for each in marked:
        name = known.names[each.image_id]
        if each.track is None:
            raise ValueError(
                f"{each.source}: an object in {name} has no track: write a 'track_id', the same "
                "number in all frames of the object"
            )
        own = tracks.setdefault(each.track, {})
        if own.setdefault(each.image_id, each) is not each:
            raise ValueError(
                f"{each.source}: {each.track!r} is in {name} twice: give each object a track of "
                "its own"
            )
    free = (number for number in itertools.count(1) if number not in tracks)
    numbers = {key: next(free) if isinstance(key, str) else key for key in tracks}
    empty = {
        size: rle.encode(np.zeros((1, *size), np.uint8))[0] for size in set(known.sizes.values())
    }
    found = []
    for key, own in tracks.items():
        first, last = min(own), max(own)
        for image_id in known.names:
            if first < image_id < last and image_id not in own:
                own[image_id] = own[first]._replace(
                    image_id=image_id, counts=empty[known.sizes[image_id]], score=None, box=_NO_BOX
                )
        found += [each._replace(track=numbers[key]) for each in own.values()]
    return found


def _label_masks(path: Path, values: np.ndarray) -> dict[int, str]:
    """Return run lengths of the mask [H, W] of each value above 0, by ascending values."""
    flat = values.ravel(order="F")
    start = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1])
    if len(start) > _MOST_RUNS:
        raise ValueError(
            f"{path} changes its value from one pixel to the next {len(start)} times: this is no "
            "label image, but a photograph or a depth map"
        )
    stop = np.append(start[1:], flat.size)
    marked = flat[start] > 0
    start, stop = start[marked], stop[marked]
    found, owner = np.unique(flat[start], return_inverse=True)
    order = np.argsort(owner, kind="stable")
    counts = rle.from_intervals(owner[order], start[order], stop[order], values.shape, len(found))
    return dict(zip(found.tolist(), counts, strict=True))


def _of_labelme(file: RecordFile, place: PurePosixPath, known: _Images) -> list[_Marked] | None:
    """Return the objects in a labelme file; None where its image is not in the folder.

    The image is the one with the file's name in the same place, or else the one in ``imagePath``.
    """
    named = str(file.document.get("imagePath"))
    name = known.by_stem.get(place.with_suffix("").as_posix()) or known.named(
        (place.parent / named.replace("\\", "/")).as_posix()
    )
    if name is None:
        return None
    image_id = known.ids[name]
    if image_id is None:
        return []
    objects = read_labelme(file.document, file.path, known.sizes[image_id])
    return [_Marked(image_id, counts, file.path, label, label) for label, counts in objects]


def _of_coco(file: RecordFile, known: _Images) -> list[_Marked]:
    """Return the objects in a COCO file, annotations or results."""
    path = file.path
    records = file.records
    if not records:
        raise ValueError(f"{path} has no records: write one for each object")
    images = _images_of(file, records, known)
    read = [at for at, name in enumerate(images) if known.ids[name] is not None]
    of = [known.ids[images[at]] for at in read]
    records = [records[at] for at in read]
    sizes = np.array([known.sizes[image_id] for image_id in of], np.int64).reshape(-1, 2)
    given = [
        _mask_of(f"{path}: record at position {at}", each)
        for at, each in zip(read, records, strict=True)
    ]
    drawn = coco_json.masks(given, sizes)
    for at, reason in zip(read, drawn.reasons, strict=True):
        if reason is not None:
            raise ValueError(f"{path}: record at position {at}: segmentation {reason}")
    scores = [_score(record) for record in records]
    empty = rle.area(drawn.counts) == 0
    for at, score, is_empty in zip(read, scores, empty, strict=True):
        if is_empty and score is None:
            raise ValueError(
                f"{path}: record at position {at}: segmentation is empty: mark the object, or "
                "leave the record out"
            )
    if empty.any():
        _log.warning("%s: %d detections of which nothing is seen are left out", path, empty.sum())
    boxes = _boxes(path, read, records, rle.box(drawn.counts, sizes), sizes)
    listed = coco_json.categories(_list(file, "categories", "'id' and 'name'"), path)
    names = {category.id: category.name for category in listed}
    marked = []
    for row in np.flatnonzero(~empty):
        number = integer(records[row].get("category_id"))
        category = _OBJECT if number is None else names.get(number, f"category {number}")
        own = (drawn.counts[row], path, _track(records[row]), category, number)
        marked.append(_Marked(of[row], *own, scores[row], boxes[row]))
    return marked


def _score(record: dict) -> float | None:
    """Return the score of a record; None where it has no number as its score."""
    score = record.get("score")
    return score if type(score) in (int, float) and abs(score) < _FARTHEST else None


def _track(record: dict) -> int | None:
    """Return the number of a record's track; None where it has none."""
    attributes = record.get("attributes")
    places = [record, attributes if isinstance(attributes, dict) else {}]
    given = [integer(place.get(key)) for place in places for key in ("track_id", "instance_id")]
    return next((number for number in given if number is not None), None)


def _mask_of(place: str, record: dict) -> object:
    """Return the visible mask of a record: under a key for visible masks, or else ``segmentation``.

    Raises:
        ValueError: ``segmentation`` is amodal, as
            :func:`~..annotations.export.write_coco_results` writes it for a method without visible
            masks.
    """
    visible = next((record[key] for key in VISIBLE_KEYS if record.get(key) is not None), None)
    found = record.get("segmentation")
    if visible is None and found is not None and found in [record.get(k) for k in AMODAL_KEYS]:
        raise ValueError(
            f"{place} has an amodal mask only: a completer needs what is visible, under "
            f"{VISIBLE_KEYS[0]!r} or in 'segmentation'"
        )
    return found if visible is None else visible


def _list(file: RecordFile, key: str, has: str) -> list[dict]:
    """Return a list that the file has next to its records; empty where it has none."""
    found = file.document.get(key) or []
    if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
        raise ValueError(f"{file.path}: {key!r} is no list of objects with {has}")
    return found


def _images_of(file: RecordFile, records: list, known: _Images) -> list[str]:
    """Return the image of each record, by its file name, or by the number that names its file.

    Raises:
        ValueError: a record names no image of the folder, an image of another size, or an image
            that another name in the file may mean, too.
    """
    listed = {
        integer(each.get("id")): each for each in _list(file, "images", "'id' and 'file_name'")
    }
    found, meant = [], {}
    for at, record in enumerate(records):
        place = f"{file.path}: record at position {at}"
        if not isinstance(record, dict):
            raise ValueError(f"{place} is {shown(record)}, not an object")
        number = integer(record.get("image_id"))
        entry = listed.get(number, {})
        written = record.get("file_name") or entry.get("file_name")
        name = known.named(written)
        if written is None and not listed:
            name = known.by_number.get(number)
        if name is None:
            raise ValueError(
                f"{place} is of the image {shown(written or number)}, which is not in the folder "
                "of images: name its file in 'file_name'"
            )
        if meant.setdefault(name, written) != written:
            raise ValueError(
                f"{file.path}: {shown(meant[name])} and {shown(written)} may both be the image "
                f"{name}: write paths below the folder of images in 'file_name'"
            )
        sides, size = (entry.get("height"), entry.get("width")), known.sizes.get(known.ids[name])
        if size is not None and None not in sides and sides != size:
            raise ValueError(
                f"{place} is of an image of {shown(list(sides))} (height, width), {name} is "
                f"{list(size)} as it is stored: masks lie on these pixels"
            )
        found.append(name)
    return found


def _boxes(
    path: Path, at: list[int], records: list[dict], visible: np.ndarray, sizes: np.ndarray
) -> np.ndarray:
    """Return amodal boxes, float32 [N, 4]; NaN where a record has none."""
    from amodal_pipeline.layers.crops import FITTING, around_amodal

    given = [record.get("amodal_bbox") for record in records]
    boxes = np.array([_numbers(each) for each in given], np.float32).reshape(-1, 4)
    fitting = ~np.isnan(around_amodal(boxes, visible, sizes)[:, 0])
    for position, each, fits in zip(at, given, fitting, strict=True):
        if each is not None and not fits:
            raise ValueError(
                f"{path}: record at position {position}: amodal_bbox is {shown(each)}: write "
                f"{FITTING}, or leave it out"
            )
    return boxes


def _numbers(given: object) -> Sequence[float]:
    """Return four numbers as an array; NaN where ``given`` is not a list of four numbers."""
    numbers = isinstance(given, list) and len(given) == 4
    if numbers and all(type(each) in (int, float) and abs(each) < _FARTHEST for each in given):
        return given
    return _NO_BOX


def _categories(marked: Sequence[_Marked]) -> tuple[tuple[Category, ...], list[int]]:
    """Return the categories of objects, and the number of each object's category.

    Numbers of the files are kept where the files agree. Where two files give one number to
    different categories, or different numbers to one category, all are counted from 1.
    """
    numbers = dict.fromkeys(each.category for each in marked)
    given = {(each.category, each.category_id) for each in marked if each.category_id is not None}
    if len(given) == len({name for name, _ in given}) == len({number for _, number in given}):
        numbers |= given
    taken = set(numbers.values())
    free = (number for number in itertools.count(1) if number not in taken)
    for name, number in numbers.items():
        numbers[name] = next(free) if number is None else number
    categories = tuple(Category(id=number, name=name) for name, number in numbers.items())
    return categories, [numbers[each.category] for each in marked]


def _last_number(stem: str) -> int | None:
    """Return the last number in a file's name: 12 for "frame_000012"."""
    found = re.search(r"(\d{1,18})\D*$", stem)
    return int(found[1]) if found else None


def _number(stem: str) -> int | None:
    """Return the number that names a COCO image: 139 for "000000000139.jpg"."""
    found = re.fullmatch(r"0*(\d{1,18})", stem)
    return int(found[1]) if found else None
