"""A user's own images: a folder of photographs, or the frames of a video."""

import re
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from amodal_pipeline.annotations.tables import IMAGES, frame
from amodal_pipeline.annotations.video_files import frames_of

RATE = 10.0  # frames per second that a folder of frames is taken to have


@dataclass(frozen=True)
class OwnImages:
    """Images of a user.

    Attributes:
        table: rows of IMAGES; frames of a video have ``video_id`` 1 and count from 0.
        folder: folder of the images.
        damaged: images that cannot be read: name → reason.
        frames_per_second: of a video.
    """

    table: pd.DataFrame
    folder: Path
    damaged: dict[str, str]
    frames_per_second: float = RATE


def photographs(folder: Path) -> OwnImages:
    """Return the images below a folder.

    Raises:
        ValueError: see :func:`~..training.inference.images_in`.
    """
    from amodal_pipeline.training.inference import images_in

    table, damaged = images_in(folder)
    return OwnImages(table, folder, damaged)


def video_frames(video: Path, written: Path) -> OwnImages:
    """Return the frames of a video.

    Args:
        video: a file, or a folder of frames. Frames are ordered by the numbers in their names:
            frame2.jpg before frame10.jpg.
        written: folder into which frames of a file are written (:func:`.frames_of`).

    Raises:
        ValueError: ``video`` is neither, or cannot be read.
    """
    from amodal_pipeline.training.inference import images_in

    if not video.exists():
        raise ValueError(
            f"{video} is neither a video nor a folder of frames: name one with --params "
            "video=<file>"
        )
    folder, rate = (video, RATE) if video.is_dir() else frames_of(video, written)
    table, damaged = images_in(folder, parameter="video", order=natural)
    columns = {name: table[name] for name in table.columns}
    # Damaged images are frames too, and count in the numbers of images.
    columns |= {"video_id": [1] * len(table), "frame": table["image_id"] - 1}
    return OwnImages(frame(IMAGES, columns), folder, damaged, rate)


def find_images(
    folder: Path, video: str | None, written: Path
) -> tuple[OwnImages, float, dict[str, str]]:
    """Return the frames of ``video``, or the images below ``folder`` where it is None.

    Returns:
        The images, the frames per second, and the damaged images: name → reason.
    """
    found = video_frames(Path(video).expanduser(), written) if video else photographs(folder)
    return found, found.frames_per_second, found.damaged


def natural(name: str) -> list[tuple[int, str]]:
    """Return a sorting key by which numbers in names are ordered by value."""
    parts = re.split(r"(\d+)", name)
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]
