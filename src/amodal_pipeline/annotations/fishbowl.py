"""FISHBOWL (Tangemann et al., "Unsupervised Object Learning via Common Fate", CLeaR 2023).

Videos of an aquarium as SaVos (Yao et al., NeurIPS 2022) generated them: 128 frames of 320x480, a
static camera. Two layouts are read:

- the generator's, a folder ``<mode>`` with ``<video>/objects.json`` (visible masks of all fish) and
  next to it ``<mode>_objects`` with ``<video>_object<id>/objects.json`` (the whole fish, drawn
  alone);
- SaVos's, ``<mode>_data.pkl``, which was made from it: the tracks of fish that are far from the
  border, large enough and not hidden entirely.

Both give the same table. Tracks follow SaVos's rules (:class:`TrackRules`). All other pixels of
fish are one object "the others" of each frame, which is ignored and has no track: they hide tracked
fish, and C2F-Seg's post-processing and SaVos's scores need the visible pixels of other fish. Rock
and seaweed hide fish too, but are no objects.
"""

import hashlib
import os
import re
import shlex
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from amodal_pipeline.annotations import coco_json, json_records, restricted_pickle, rle, videos
from amodal_pipeline.annotations.order import by_visible_part
from amodal_pipeline.annotations.storage import checksum, inside
from amodal_pipeline.annotations.tables import AmodalAnnotations
from amodal_pipeline.annotations.validation import (
    MAX_SIDE,
    Finding,
    check_instances,
    finding,
)

_OBJECT = re.compile(r"(\d{1,9})_(\d{1,4})")  # key of the pickle: video and fish
_OTHERS = videos.SPAN - 1  # number of "the others" within a video
_OBJECTS = "objects.json"
_MOST = 1 << 20  # masks per video: a hostile file could fill the memory with empty places
_COLUMNS = ("visible", "amodal", "free")


@dataclass(frozen=True)
class TrackRules:
    """When a fish is tracked (SaVos's released preprocessing).

    Attributes:
        amodal_above, visible_above: pixels that the masks must exceed.
        border: pixels that the amodal box keeps from the border.

    A track begins with the first frame that meets all conditions and ends before the next one that
    does not; later frames are not part of it.
    """

    amodal_above: int = 400
    visible_above: int = 64
    border: int = 16


def read_fishbowl(
    path: str | os.PathLike,
    image_root: str | os.PathLike,
    dataset: str,
    split: str,
    *,
    folder: str = "",
    rules: TrackRules | None = None,
    need_frames: bool = False,
    workers: int = 1,
    on_progress: videos.Progress | None = None,
) -> AmodalAnnotations:
    """Read the videos of a folder or of SaVos's pickle. The one category is "fish".

    The folder is read video by video. The pickle is held in memory as a whole.

    Args:
        path: the folder ``<mode>`` or the file ``<mode>_data.pkl``.
        image_root: folder that the images' ``file_name`` is relative to.
        dataset, split: names.
        folder: of the frames below ``image_root``: ``<folder>/<video>/<frame, five digits>.png``.
        rules: SaVos's by default.
        need_frames: refuse a video whose first frame is missing.
        workers: processes that read the folder.
        on_progress: called with (videos done, videos).

    Returns:
        A table with the video and the frame of each image, a track of each fish, and the order
        that the masks show (``inferred``).

    Raises:
        ValueError: a file is missing, damaged or holds something else; names it. A mask that is
            damaged is rejected with its frame, and ends the track of its fish.
    """
    path, rules = Path(path), rules or TrackRules()
    make = partial(_video, folder=folder, rules=rules)
    if path.is_dir():
        names = sorted(entry.name for entry in path.iterdir() if entry.name.isdecimal())
        if not names:
            raise ValueError(f"{path} has no folders of videos (00000, 00001, …): name another")
        if need_frames:
            for name in names:
                _require_frames(inside(image_root, folder or ".") / name, path / name)
        read = partial(_read_raw, path, make)
        found = videos.read_each(read, names, workers, on_progress)
        digest = videos.checksum(found)
    else:
        objects, digest, found = _pickled(path), checksum(path), []
        for done, name in enumerate(names := sorted(objects), 1):
            found.append(make(_processed(name, objects.pop(name), path, digest)))
            if on_progress is not None:
                on_progress(done, len(names))
    return videos.table(
        found,
        dataset=dataset,
        split=split,
        category="fish",
        image_root=str(image_root),
        source={path.name: digest},
        file=str(path),
    )


@dataclass(frozen=True)
class _Fish:
    """The fish of a video as a file has them.

    Attributes:
        name: of the video.
        numbers: of the fish [K].
        visible, amodal: COCO run lengths, object [K, T]; None where the file has no mask.
        free: of SaVos's file, the pixels at which no other fish is visible, object [K, T].
        frames: which frames are images of the table, bool [T].
        file, checksum, rejected: the origin, and findings about it.
    """

    name: str
    numbers: np.ndarray
    visible: np.ndarray
    amodal: np.ndarray
    free: np.ndarray | None
    frames: np.ndarray
    file: str
    checksum: str
    rejected: tuple[Finding, ...]


def _read_raw(root: Path, make: Any, name: str) -> videos.Video:
    return make(_raw(root, name))


def _raw(root: Path, name: str) -> _Fish:
    """Return a video of the generator's layout."""
    path, rejected = root / name / _OBJECTS, []
    listed, digest = _objects(path)
    # Masks of a fish whose number of frames differs from most belong to other frames.
    length = Counter(len(masks) for _, masks in listed).most_common(1)[0][0]
    whole: dict[int, list] = {}
    seen: dict[int, list] = {}
    for number, masks in listed:
        alone = root.with_name(f"{root.name}_objects") / f"{name}_object{number}" / _OBJECTS
        if len(masks) != length:
            reason = f"has masks of {len(masks)} frames, the video has {length}"
        elif number in seen or number >= _OTHERS:
            reason = f"has an id that is used twice or not below {_OTHERS}"
        else:
            seen[number] = [_stated(mask) for mask in masks]
            if not alone.is_file():
                reason = f"has no amodal masks: {alone} is missing, record this fish alone"
            else:
                found, own = _objects(alone)
                digest += own
                if [(n, len(m)) for n, m in found] == [(number, length)]:
                    whole[number] = [_stated(mask) for mask in found[0][1]]
                    continue
                reason = f"{alone} does not hold this fish alone in {length} frames"
        rejected.append(finding(str(path), f"track {name}_{number}", "masks", reason))
    numbers, none = sorted(seen), [None] * length
    return _Fish(
        name,
        np.array(numbers, np.int64),
        _grid([seen[number] for number in numbers], length),
        _grid([whole.get(number, none) for number in numbers], length),
        None,
        np.ones(length, bool),
        str(path),
        hashlib.sha256(digest.encode()).hexdigest(),
        tuple(rejected),
    )


def _objects(path: Path) -> tuple[list[tuple[int, list]], str]:
    """Return the id and the masks of each fish of an ``objects.json``, and the file's SHA-256."""
    value, digest = json_records.load(path)
    if not isinstance(value, list) or not value:
        raise ValueError(f"{path} is not a list of fish with their masks: generate it again")
    found = []
    for position, fish in enumerate(value):
        number = coco_json.integer(fish.get("id")) if isinstance(fish, dict) else None
        masks = fish.get("masks") if isinstance(fish, dict) else None
        if number is None or number < 0 or not isinstance(masks, list):
            raise ValueError(
                f"{path}: the fish at position {position} has no number 'id' and list 'masks': "
                "generate it again"
            )
        found.append((number, masks))
    return found, digest


def _pickled(path: Path) -> dict[str, dict[int, dict]]:
    """Return SaVos's records: video → fish → its records by frame."""
    found = restricted_pickle.load(path)
    if not isinstance(found, dict) or not found:
        raise ValueError(
            f"{path} holds a {type(found).__name__}, not tracks of fish: fetch it again"
        )
    videos_of: dict[str, dict[int, dict]] = defaultdict(dict)
    for key, track in found.items():
        match = _OBJECT.fullmatch(key) if isinstance(key, str) else None
        if match is None or int(match[2]) >= _OTHERS or not isinstance(track, dict):
            raise ValueError(
                f"{path}: {str(key)[:40]!r} is not the track of a fish (<video>_<fish>, frames): "
                "fetch the file again"
            )
        videos_of[match[1]][int(match[2])] = track
    return dict(videos_of)


def _processed(name: str, tracks: dict[int, dict], path: Path, digest: str) -> _Fish:
    """Return a video of SaVos's pickle."""
    for number, track in tracks.items():
        for at, record in track.items():
            if not (type(at) is int and 0 <= at < videos.SPAN and isinstance(record, dict)):
                raise ValueError(
                    f"{path}: {name}_{number}: {str(at)[:40]!r} is not a frame with its masks: "
                    "fetch the file again"
                )
    numbers = sorted(tracks)
    length = 1 + max((max(track, default=-1) for track in tracks.values()), default=-1)
    if length * len(numbers) > _MOST:
        raise ValueError(
            f"{path}: video {name} has {len(numbers)} fish in {length} frames, more than "
            f"{_MOST} masks: this is not FISHBOWL"
        )
    columns = {}
    for column, key in zip(_COLUMNS, ("VM", "FM", "loss_mask_weight"), strict=True):
        columns[column] = np.full((len(numbers), length), None, object)
        for row, number in enumerate(numbers):
            for at, record in tracks[number].items():
                columns[column][row, at] = _stated(_as_json(record.get(key)))
    return _Fish(
        name,
        np.array(numbers, np.int64),
        **columns,
        frames=np.not_equal(columns["visible"], None).any(axis=0),
        file=str(path),
        checksum=digest,
        rejected=(),
    )


def _as_json(value: Any) -> Any:
    """Return run lengths as a JSON file has them: SaVos stores lists of one mask, with bytes."""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if not isinstance(value, dict):
        return value
    size, counts = value.get("size"), value.get("counts")
    if isinstance(counts, bytes):
        counts = counts.decode("ascii", errors="replace")
    if isinstance(size, (list, tuple, np.ndarray)):
        size = [int(side) if isinstance(side, (int, np.integer)) else None for side in size]
    return {"size": size, "counts": counts}


def _grid(rows: list[list], length: int) -> np.ndarray:
    grid = np.full((len(rows), length), None, object)
    for i, row in enumerate(rows):
        grid[i] = row
    return grid


def _stated(mask: Any) -> Any:
    """Return the mask of a record; False for None, because a record without a mask is damaged."""
    return False if mask is None else mask


def _video(fish: _Fish, folder: str, rules: TrackRules) -> videos.Video:
    """Return the table of a video: tracks by the rules, and all other fish as one object."""
    number, size = videos.number_of(fish.name, fish.file), _size(fish)
    if len(fish.frames) > videos.SPAN:
        raise ValueError(f"{fish.file}: a video has {videos.SPAN} frames at most: split it")
    rejected = list(fish.rejected)
    drawn = {}
    for column in _COLUMNS:
        given = getattr(fish, column)
        if given is not None:
            drawn[column], bad = _readable(fish, given, size, column)
            rejected += bad
    visible, amodal = drawn["visible"], drawn["amodal"]
    tracked = _tracked(visible, amodal, size, rules)
    others = _others(drawn, tracked, size)

    row, at = np.nonzero(tracked)
    track = videos.track_id(number, fish.numbers[row])
    hidden = np.array(list(others), np.int64)
    ids = np.concatenate([track, np.full(len(hidden), videos.track_id(number, _OTHERS))])
    at = np.concatenate([at, hidden])
    frames = np.flatnonzero(fish.frames)
    images = videos.frames(
        number, frames, [coco_json.below(folder, f"{fish.name}/{n:05d}.png") for n in frames], size
    )
    checked = check_instances(
        {
            "instance_id": ids * videos.SPAN + at,
            "image_id": number * videos.SPAN + at,
            "category_id": np.ones(len(at), np.int64),
            "amodal_rle": [*amodal[tracked], *others.values()],
            "visible_rle": [*visible[tracked], *others.values()],
            "track_id": [*track.tolist(), *[None] * len(hidden)],
            "ignore": np.arange(len(at)) >= len(row),
        },
        images,
        (1,),
        videos.REPAIRS,
        fish.file,
    )
    order, crowded = by_visible_part(checked.rows, "masks", fish.file)
    return videos.Video(images, checked, order, (*rejected, *crowded), fish.checksum)


def _size(fish: _Fish) -> tuple[int, int]:
    """Return the canvas (height, width) that most visible masks of a video have."""
    sizes = Counter(
        tuple(mask["size"])
        for mask in fish.visible.flat
        if isinstance(mask, dict)
        and isinstance(mask.get("size"), list)
        and [type(side) for side in mask["size"]] == [int, int]
        and all(0 < side <= MAX_SIDE for side in mask["size"])
    )
    if not sizes:
        raise ValueError(f"{fish.file}: no mask of video {fish.name} has a size: fetch it again")
    return sizes.most_common(1)[0][0]


def _readable(
    fish: _Fish, given: np.ndarray, size: tuple[int, int], column: str
) -> tuple[np.ndarray, list[Finding]]:
    """Return the masks as strings, None where absent or unreadable, and findings on the latter."""
    row, at = np.nonzero(np.not_equal(given, None))
    masks = coco_json.masks(given[row, at].tolist(), np.tile(size, (len(row), 1)))
    texts = np.full(given.shape, None, object)
    texts[row, at] = masks.counts
    bad = [
        finding(
            fish.file,
            f"track {fish.name}_{fish.numbers[row[i]]} frame {at[i]}",
            f"{column} mask",
            reason,
        )
        for i, reason in enumerate(masks.reasons)
        if reason is not None
    ]
    return texts, bad


def _tracked(
    visible: np.ndarray, amodal: np.ndarray, size: tuple[int, int], rules: TrackRules
) -> np.ndarray:
    """Return in which frames each fish is tracked, bool [K, T]."""
    there = np.not_equal(visible, None) & np.not_equal(amodal, None)
    seen, whole = np.zeros(there.shape, bool), np.zeros(there.shape, bool)
    runs = rle.unpack(amodal[there].tolist())
    x, y, width, height = rle.box(runs, size).T
    with np.errstate(invalid="ignore"):  # an empty mask has no box
        inside_border = (
            (np.minimum(x, y) >= rules.border)
            & (x + width - 1 <= size[1] - rules.border)
            & (y + height - 1 <= size[0] - rules.border)
        )
    whole[there] = (rle.area(runs) > rules.amodal_above) & inside_border
    seen[there] = rle.area(visible[there].tolist()) > rules.visible_above
    return _first_run(_first_run(whole) & seen)


def _first_run(good: np.ndarray) -> np.ndarray:
    """Return the first unbroken run of true values of each row, bool [K, T]."""
    begun = np.maximum.accumulate(good, axis=1)
    return good & ~np.maximum.accumulate(begun & ~good, axis=1)


def _others(
    drawn: dict[str, np.ndarray], tracked: np.ndarray, size: tuple[int, int]
) -> dict[int, str]:
    """Return, by frame, the visible pixels of fish that have no track in it, if there are any."""
    visible = drawn["visible"]
    if "free" not in drawn:
        others = dict(_by_frame(visible, np.not_equal(visible, None) & ~tracked))
    else:
        there = np.not_equal(drawn["free"], None) & np.not_equal(visible, None)
        taken = np.full(there.shape, None, object)
        everything = rle.pack(np.array([0, size[0] * size[1]]), np.array([0, 2]))
        free = drawn["free"][there].tolist()
        taken[there] = rle.difference(everything * len(free), free)
        others = dict(_by_frame(taken, there))
        known = dict(_by_frame(visible, tracked))
        frames = sorted(others.keys() & known.keys())
        rest = rle.difference([others[at] for at in frames], [known[at] for at in frames])
        others |= dict(zip(frames, rest, strict=True))
    areas = rle.area(list(others.values()))
    return {at: mask for (at, mask), area in zip(others.items(), areas, strict=True) if area}


def _by_frame(masks: np.ndarray, which: np.ndarray) -> Iterator[tuple[int, str]]:
    """Return the union of some masks of each frame."""
    at, row = np.nonzero(which.T)
    return zip(*rle.united(at, masks[row, at].tolist()), strict=True)


def _require_frames(frames: Path, video: Path) -> None:
    """Raise an error for a video whose frames are missing.

    Raises:
        ValueError: says how to extract them.
    """
    if (frames / "00000.png").is_file():
        return
    out, film = shlex.quote(str(frames)), shlex.quote(str(video / "video.mp4"))
    raise ValueError(
        f"{frames / '00000.png'} is missing. Extract the frames of each video: mkdir -p {out} && "
        f"ffmpeg -i {film} -start_number 0 {out}/%05d.png"
    )
