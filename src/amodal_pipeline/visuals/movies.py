"""Videos of pictures: MP4 through PyAV where it is installed, an animated WebP otherwise."""

import logging
from collections.abc import Callable, Iterable
from fractions import Fraction
from importlib.util import find_spec
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image

from amodal_pipeline.visuals.clips import animated

_LONGEST, _WIDEST = 240, 480  # frames, and pixels of the longer side, of a WebP: it is in memory

_log = logging.getLogger(__name__)


def suffix() -> str:
    """Return the suffix of the videos that can be written here."""
    return ".mp4" if find_spec("av") else ".webp"


def write_movie(
    path: Path,
    pictures: Iterable[Image.Image],
    frames_per_second: float,
    on_progress: Callable[[int], None] = lambda done: None,
) -> int:
    """Write pictures as a video; return how many.

    An MP4 (H.264) holds all of them, and one at a time is in memory. A WebP holds the first 240, of
    at most 480 pixels on the longer side.

    Args:
        path: with :func:`suffix`.
        pictures: those after the first are brought to its size, cut to even sides.
        frames_per_second: how fast they follow each other.
        on_progress: called with the number of pictures that are written.
    """
    write = _write_mp4 if path.suffix == ".mp4" else _write_webp
    return write(path, pictures, frames_per_second, on_progress)


def _write_mp4(
    path: Path,
    pictures: Iterable[Image.Image],
    frames_per_second: float,
    on_progress: Callable[[int], None],
) -> int:
    import av

    codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
    count, stream = 0, None
    with av.open(str(path), "w", format="mp4") as container:
        for picture in pictures:
            if stream is None:
                rate = Fraction(frames_per_second).limit_denominator(1001)
                stream = container.add_stream(codec, rate=rate)
                stream.width, stream.height = (max(2, side // 2 * 2) for side in picture.size)
                stream.pix_fmt = "yuv420p"
            fitted = picture.convert("RGB").resize((stream.width, stream.height))
            frame = av.VideoFrame.from_ndarray(np.asarray(fitted), format="rgb24")
            container.mux(stream.encode(frame))
            count += 1
            on_progress(count)
        if stream is not None:
            container.mux(stream.encode())
    return count


def _write_webp(
    path: Path,
    pictures: Iterable[Image.Image],
    frames_per_second: float,
    on_progress: Callable[[int], None],
) -> int:
    kept = []
    for picture in islice(pictures, _LONGEST):
        picture.thumbnail((_WIDEST, _WIDEST))
        kept.append(picture)
        on_progress(len(kept))
    _log.warning(
        "%s: the first %d frames at most, in small; `pip install av` for an MP4 of all",
        path.name,
        _LONGEST,
    )
    path.write_bytes(animated(kept, round(1000 / frames_per_second)))
    return len(kept)
