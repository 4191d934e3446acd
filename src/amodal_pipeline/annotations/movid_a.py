"""MOViD-A (Gao et al., "Coarse-to-Fine Amodal Segmentation with Shape Prior", ICCV 2023).

Videos of Kubric (Greff et al., CVPR 2022): 24 frames of 256x256, a camera that goes around static
objects. EoRaS's MOVi-B and MOVi-D (Fan et al., ICCV 2023) have the same layout:

    <mode>/<video>/metadata.json                  size, number of frames, list of instances
    <mode>/<video>/rgba_full_<frame>.png          picture
    <mode>/<video>/segmentation_full_<frame>.png  visible objects: 0 background, k + 1 instance k
    <mode>/<video>/segmentation_<k>_<frame>.png   amodal mask of instance k, with the value k + 1
    <mode>_instance.txt                           MOViD-A's list: video_instance_value
    <mode>/instance_list.npy                      EoRaS's list: "video-instance"

Frames have five digits. Optical flow is found by
:func:`amodal_pipeline.annotations.flow.flow_file`.
"""

import os
from collections import defaultdict
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from amodal_pipeline.annotations import coco_json, json_records, rle, videos
from amodal_pipeline.annotations.images import read_labels
from amodal_pipeline.annotations.order import by_visible_part
from amodal_pipeline.annotations.tables import AmodalAnnotations
from amodal_pipeline.annotations.validation import Finding, check_instances, finding

_METADATA = "metadata.json"
_LIST_BYTES = 1 << 26


def read_movid_a(
    path: str | os.PathLike,
    image_root: str | os.PathLike,
    dataset: str,
    split: str,
    *,
    folder: str = "",
    workers: int = 1,
    on_progress: videos.Progress | None = None,
) -> AmodalAnnotations:
    """Read the videos of a folder, one at a time. The one category is "object".

    Instances that are not on the list of instances, if there is one in or next to the folder, are
    ignored: MOViD-A's list leaves out instances that are never visible.

    Args:
        path: the folder of a mode, ``train`` or ``test``.
        image_root: folder that the images' ``file_name`` is relative to.
        dataset, split: names.
        folder: of the videos' pictures below ``image_root``.
        workers: processes.
        on_progress: called with (videos done, videos).

    Returns:
        A table with the video and the frame of each image, a track of each instance, and the order
        that the masks show (``inferred``). An instance has a row in each frame that its amodal mask
        reaches, visible or not.

    Raises:
        ValueError: ``metadata.json`` or the list is missing, damaged or of another data set; names
            it. A damaged frame, and a mask that is damaged or has other values, is rejected.
    """
    path = Path(path)
    names = sorted(
        (entry.name for entry in path.iterdir() if entry.name.isdecimal()),
        key=lambda name: (int(name), name),
    )
    if not names:
        raise ValueError(f"{path} has no folders of videos (0, 1, …): name another folder")
    listed, absent = _listed(path, set(map(int, names)))
    read = partial(_video, path, folder, listed)
    found = videos.read_each(read, names, workers, on_progress)
    return videos.table(
        found,
        dataset=dataset,
        split=split,
        category="object",
        image_root=str(image_root),
        source={path.name: videos.checksum(found)},
        file=str(path),
        rejected=absent,
    )


@dataclass(frozen=True)
class _Metadata:
    """The used part of a ``metadata.json``: frames, (height, width), number of instances."""

    frames: int
    size: tuple[int, int]
    instances: int
    checksum: str


def _metadata(path: Path) -> _Metadata:
    document, digest = json_records.load(path)
    try:
        about = document["metadata"]
        values = [coco_json.integer(about[key]) for key in ("num_frames", "height", "width")]
        instances = document["instances"]
        if None in values or not isinstance(instances, list):
            raise TypeError("a value is of another type")
    except (KeyError, TypeError, IndexError) as error:
        raise ValueError(
            f"{path} has no metadata with num_frames, height and width, and no list of instances "
            f"({error!r}): this is not a video of Kubric, or it is damaged; fetch it again"
        ) from error
    frames, height, width = values
    if not (0 < frames <= videos.SPAN and len(instances) < videos.SPAN):
        raise ValueError(
            f"{path} says {frames} frames and {len(instances)} instances; 1 to {videos.SPAN} "
            f"frames and fewer than {videos.SPAN} instances can be read"
        )
    return _Metadata(frames, (height, width), len(instances), digest)


def _video(root: Path, folder: str, listed: dict[int, set[int]] | None, name: str) -> videos.Video:
    """Read a video."""
    file = root / name / _METADATA
    number, about = videos.number_of(name, str(root)), _metadata(file)
    rejected: list[Finding] = []
    good, ids, texts = [], [], []
    for at in range(about.frames):
        try:
            visible = _values(root / name, f"segmentation_full_{at:05d}.png", about)
        except ValueError as error:
            image = f"image {number * videos.SPAN + at}"
            rejected.append(finding(str(file), image, "segmentation_full", str(error)))
            continue
        good.append(at)
        amodal, instance = [], []
        for k in range(about.instances):
            try:
                mask = _values(root / name, f"segmentation_{k}_{at:05d}.png", about, only=k + 1)
            except ValueError as error:
                record = f"track {name}_{k} frame {at}"
                rejected.append(finding(str(file), record, "segmentation", str(error)))
            else:
                if mask.any() or (visible == k + 1).any():
                    amodal.append(mask)
                    instance.append(k)
        seen = [visible == k + 1 for k in instance]
        texts += zip(rle.encode(np.array(amodal)), rle.encode(np.array(seen)), strict=True)
        ids += [(at, k) for k in instance]
    at, k = np.array(ids, np.int64).reshape(-1, 2).T
    track = videos.track_id(number, k)
    images = videos.frames(
        number,
        good,
        [coco_json.below(folder, f"{name}/rgba_full_{n:05d}.png") for n in good],
        about.size,
    )
    checked = check_instances(
        {
            "instance_id": track * videos.SPAN + at,
            "image_id": number * videos.SPAN + at,
            "category_id": np.ones(len(at), np.int64),
            "amodal_rle": [amodal for amodal, _ in texts],
            "visible_rle": [seen for _, seen in texts],
            "track_id": track,
            "ignore": np.isin(k, list(listed.get(number, ())), invert=True)
            if listed is not None
            else np.zeros(len(k), bool),
        },
        images,
        (1,),
        videos.REPAIRS,
        str(file),
    )
    order, crowded = by_visible_part(checked.rows, "segmentation", str(file))
    return videos.Video(images, checked, order, (*rejected, *crowded), about.checksum)


def _values(folder: Path, name: str, about: _Metadata, only: int | None = None) -> np.ndarray:
    """Return the values of a segmentation, uint16 [H, W].

    Args:
        only: the one value that an amodal mask may have beside 0; else those of all instances.

    Raises:
        ValueError: the file is missing or damaged, or has other values.
    """
    values = read_labels(folder, name, about.size)
    strange = values[values > about.instances if only is None else (values != 0) & (values != only)]
    if len(strange):
        allowed = f"0 and {only}" if only is not None else f"0 to {about.instances}"
        raise ValueError(
            f"{folder / name} has the value {strange[0]}; {allowed} are those of its video: fetch "
            "the video again"
        )
    return values


def _listed(path: Path, names: set[int]) -> tuple[dict[int, set[int]] | None, tuple[Finding, ...]]:
    """Return the instances of each video that the list of a folder names; None without a list.

    A finding is made for each entry of a video that is missing.
    """
    text, array = path.with_name(f"{path.name}_instance.txt"), path / "instance_list.npy"
    if text.is_file():
        file, entries = text, _lines(text)
    elif array.is_file():
        file, entries = array, _array(array)
    else:
        return None, ()
    listed, absent = defaultdict(set), []
    for entry, video, k in entries:
        if video in names:
            listed[video].add(k)
        else:
            reason = f"names video {video}, which is not in {path}"
            absent.append(finding(str(file), f"list entry {entry}", "video", reason))
    return listed, tuple(absent)


def _lines(path: Path) -> list[tuple[str, int, int]]:
    """Return (entry, video, instance) of each line of ``video_instance_value``."""
    if path.stat().st_size > _LIST_BYTES:
        raise ValueError(f"{path} has more than {_LIST_BYTES} bytes: this is no list of instances")
    found = []
    lines = path.read_bytes().decode("utf-8", errors="replace").split()
    for position, line in enumerate(lines, 1):
        video, _, rest = line.partition("_")
        k, _, value = rest.partition("_")
        if not (_is_number(video) and _is_number(k) and value == str(int(k) + 1)):
            raise ValueError(
                f"{path}, entry {position}: {line[:40]!r} is not video_instance_value with the "
                "value instance + 1: fetch it again"
            )
        found.append((line, int(video), int(k)))
    return found


def _array(path: Path) -> list[tuple[str, int, int]]:
    """Return (entry, video, instance) of each "video-instance" of a NumPy file of strings."""
    try:
        # Memory-mapped: a file that claims a larger size is refused without allocating it.
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError, SyntaxError) as error:
        raise ValueError(
            f"{path} cannot be read as an array of strings ({error}); nothing else, and no pickle, "
            "is read from it: fetch it again"
        ) from error
    if array.ndim != 1 or array.dtype.kind != "U" or array.nbytes > _LIST_BYTES:
        raise ValueError(
            f"{path} holds an array {array.shape} of {array.dtype}, not a list of "
            '"video-instance": fetch it again'
        )
    found = []
    for position, entry in enumerate(array.tolist()):
        video, _, k = entry.partition("-")
        if not (_is_number(video) and _is_number(k)):
            raise ValueError(
                f'{path}, entry {position}: {entry[:40]!r} is not "video-instance": fetch it again'
            )
        found.append((entry, int(video), int(k)))
    return found


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= 9
