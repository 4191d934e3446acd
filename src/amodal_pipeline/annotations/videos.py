"""Shared parts of readers of video data sets: ids, reading video by video, and the joint table."""

import hashlib
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import pandas as pd

from amodal_pipeline.annotations.processes import working
from amodal_pipeline.annotations.tables import (
    IMAGES,
    AmodalAnnotations,
    Category,
    concat,
    frame,
)
from amodal_pipeline.annotations.validation import CheckedInstances, Finding, Repair, build

Progress = Callable[[int, int], None]

SPAN = 10_000  # frames of a video, and objects of a video: ids are numbers in this base
REPAIRS = frozenset({Repair.VISIBLE_OUTSIDE_AMODAL})


@dataclass(frozen=True)
class Video:
    """A video as read: rows of IMAGES, its objects, columns of order pairs, and findings.

    ``checksum``: of the files of the video.
    """

    images: pd.DataFrame
    instances: CheckedInstances
    order: pd.DataFrame
    rejected: tuple[Finding, ...]
    checksum: str


def number_of(name: str, what: str) -> int:
    """Return the number of a video, which is the name of its folder.

    Raises:
        ValueError: the name is not a number; the message calls its owner ``what``.
    """
    if name.isascii() and name.isdecimal() and len(name) <= 9:
        return int(name)
    raise ValueError(
        f"{what}: a video's name is a number of at most nine digits, not {name[:40]!r}"
    )


def track_id(video: int, number: int) -> int:
    """Return the id of an object of a video."""
    return video * SPAN + number


def frames(
    video: int, numbers: Sequence[int], names: Sequence[str], size: tuple[int, int]
) -> pd.DataFrame:
    """Return the rows of IMAGES of some frames of a video: (height, width) is the same for all."""
    return frame(
        IMAGES,
        {
            "image_id": [video * SPAN + n for n in numbers],
            "file_name": list(names),
            "height": [size[0]] * len(names),
            "width": [size[1]] * len(names),
            "video_id": [video] * len(names),
            "frame": list(numbers),
        },
    )


def read_each(
    read: Callable[[str], Video],
    names: Sequence[str],
    workers: int = 1,
    on_progress: Progress | None = None,
) -> list[Video]:
    """Return the result of ``read`` for each video, in order, using ``workers`` processes."""
    from joblib import Parallel, delayed

    with ExitStack() as held:
        if workers > 1:
            held.enter_context(working(workers))
            made = Parallel(return_as="generator")(delayed(read)(name) for name in names)
        else:
            made = map(read, names)
        videos = []
        for video in made:
            videos.append(video)
            if on_progress is not None:
                on_progress(len(videos), len(names))
    return videos


def checksum(videos: Sequence[Video]) -> str:
    """Return one SHA-256 of the files of all videos."""
    return hashlib.sha256("".join(video.checksum for video in videos).encode()).hexdigest()


def table(
    videos: Sequence[Video],
    *,
    dataset: str,
    split: str,
    category: str,
    image_root: str,
    source: dict[str, str],
    file: str,
    rejected: Sequence[Finding] = (),
) -> AmodalAnnotations:
    """Return the table of some videos with a single category, whose id is 1.

    Args:
        source: name of the folder or file that they come from, and its checksum.
        file: its path, for findings.
        rejected: further findings.
    """
    return build(
        dataset=dataset,
        split=split,
        categories=(Category(id=1, name=category),),
        image_root=image_root,
        images=concat(IMAGES, [video.images for video in videos]),
        instances=[video.instances for video in videos],
        order=pd.concat([video.order for video in videos], ignore_index=True),
        sources=source,
        file=file,
        rejected=[*rejected, *(f for video in videos for f in video.rejected)],
    )
