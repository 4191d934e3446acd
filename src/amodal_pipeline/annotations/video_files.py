"""Video files: frames read and written one at a time, through PyAV, which is optional."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from amodal_pipeline.annotations.storage import checksum, replacing

# FFmpeg's names of formats. Others are not tried: playlists, for one, name further files.
FORMATS = {
    ".mp4": "mov",
    ".m4v": "mov",
    ".mov": "mov",
    ".mkv": "matroska",
    ".webm": "matroska",
    ".avi": "avi",
    ".mpg": "mpeg",
    ".mpeg": "mpeg",
}

_RATE = "frames_per_second.json"
_UNKNOWN_RATE = 25.0  # of files without a frame rate


def frames_of(path: Path, folder: Path) -> tuple[Path, float]:
    """Return the folder of a video's frames, and the frames per second.

    The frames are JPEG files, ``000000.jpg`` and so on. They are written once: a video of the same
    bytes has them in the same folder, ``<12 digits of the checksum>/<stem>``. One frame at a time
    is in memory. A video that is stored rotated, as telephones do, is turned upright.

    Args:
        path: the video.
        folder: the parent folder of all folders of frames.

    Raises:
        ValueError: PyAV is missing; or the file has another suffix than :data:`FORMATS`, is
            damaged, or has frames of more than ``PIL.Image.MAX_IMAGE_PIXELS`` pixels.
    """
    if path.suffix.lower() not in FORMATS:
        raise ValueError(
            f"{path} is no video that can be read ({', '.join(FORMATS)}): convert it, or "
            "name a folder of its frames with --params video=<folder>"
        )
    place = folder / checksum(path)[:12] / path.stem
    rate = place / _RATE
    if not rate.exists():
        with _opened(path) as (container, stream), replacing(place) as new:
            new.mkdir()
            count = 0
            for pixels in _decoded(container, stream):
                picture = Image.fromarray(pixels)
                picture.save(new / f"{count:06d}.jpg", quality=95, subsampling=0)
                count += 1
            if not count:
                raise ValueError(f"{path} has no frames: choose another video")
            per_second = float(stream.average_rate or _UNKNOWN_RATE)
            (new / _RATE).write_text(json.dumps(per_second))
    return place, float(json.loads(rate.read_text()))


def pyav() -> Any:
    """Return the module of PyAV.

    Raises:
        ValueError: it is not installed.
    """
    try:
        import av
    except ImportError as error:
        raise ValueError(
            "video files are read by PyAV, which is not installed: `pip install av` (or this "
            "project with its extra, `[video]`), or name a folder of frames with --params "
            "video=<folder>"
        ) from error
    return av


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, Any]]:
    """Yield an open container and its video stream; errors name the file."""
    av = pyav()
    try:
        # An open file is passed, so that FFmpeg itself opens no file.
        with open(path, "rb") as file, av.open(file, format=FORMATS[path.suffix.lower()]) as opened:
            if not opened.streams.video:
                raise ValueError(f"{path} has sound but no picture: choose another video")
            stream = opened.streams.video[0]
            limit = Image.MAX_IMAGE_PIXELS
            if limit is not None and stream.width * stream.height > limit:
                raise ValueError(
                    f"{path} has frames of more than {limit} pixels, which may be an attempt to "
                    "fill the memory; if it is genuine, raise PIL.Image.MAX_IMAGE_PIXELS"
                )
            stream.thread_type = "AUTO"
            yield opened, stream
    except av.FFmpegError as error:
        raise ValueError(
            f"{path} cannot be read as a video ({error}): it is damaged or of another format than "
            "its suffix says; fetch or convert it again"
        ) from error


def _decoded(container: Any, stream: Any) -> Iterator[np.ndarray]:
    """Yield frames, uint8 [H, W, 3], upright."""
    for each in container.decode(stream):
        pixels = each.to_ndarray(format="rgb24")
        yield np.ascontiguousarray(np.rot90(pixels, round(each.rotation / 90)))
