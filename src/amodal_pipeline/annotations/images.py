"""The one way an image file is read: by the trainer, the metrics and the pictures alike."""

import io
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

from amodal_pipeline.annotations.storage import inside

# Formats that hold pixels and nothing else; others that Pillow opens start programs (EPS) or
# follow references to other files.
FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "PPM")

_DAMAGE = (OSError, EOFError, SyntaxError, ValueError, TypeError, IndexError, struct.error)


def read_image(
    root: str | os.PathLike, file_name: str, size: tuple[int, int] | None = None
) -> np.ndarray:
    """Return the pixels of an image on the grid of its annotations.

    Grey, palette, CMYK and one-bit images become RGB. An alpha channel is dropped without blending.
    Of 16 bits per channel the upper eight are kept, of an animation the first frame. The EXIF
    orientation is *not* applied, because masks and boxes refer to the stored pixels.

    Args:
        root: the folder that ``file_name`` is relative to.
        file_name: relative path as a data file writes it.
        size: expected (height, width) in pixels, as in the table of images; checked before any
            pixel is decoded.

    Returns:
        uint8 [H, W, 3], RGB, writable.

    Raises:
        ValueError: the name leaves ``root``; the file is missing, no image, damaged, or has more
            pixels than ``PIL.Image.MAX_IMAGE_PIXELS``; or its size is not ``size``.
    """
    with _opened(root, file_name) as image:
        if size is not None and (image.height, image.width) != tuple(size):
            raise _NotThisImageError(
                f"{inside(root, file_name)} is {image.height}x{image.width} pixels "
                f"(height x width), its record in the table of images says {size[0]}x{size[1]}: "
                "the annotations belong to another version of this image"
            )
        return _rgb(image)


def read_size(root: str | os.PathLike, file_name: str) -> tuple[int, int]:
    """Return (height, width) of an image, from its header only.

    Raises:
        ValueError: see :func:`read_image`; damage after the header is not noticed.
    """
    with _opened(root, file_name) as image:
        return image.height, image.width


def read_labels(
    root: str | os.PathLike, file_name: str, size: tuple[int, int] | None = None
) -> np.ndarray:
    """Return the stored values of an image of one channel of 1, 8 or 16 bits, uint16 [H, W].

    The values of a palette image are the numbers of its colours.

    Raises:
        ValueError: as :func:`read_image`; or it has several channels, or values beyond 16 bits.
    """
    with _opened(root, file_name) as image:
        if size is not None and (image.height, image.width) != tuple(size):
            raise _NotThisImageError(
                f"{inside(root, file_name)} is {image.height}x{image.width} pixels "
                f"(height x width), its image {size[0]}x{size[1]}: a mask lies on the pixels of "
                "its image as they are stored"
            )
        return _labels(image, inside(root, file_name))


def labels_of(data: bytes, name: str, size: tuple[int, int]) -> np.ndarray:
    """Read labels as :func:`read_labels` does, of an image in memory; messages call it ``name``.

    Args:
        size: the largest (height, width) in pixels that it may have; checked before any pixel is
            decoded.
    """
    with _decoding(io.BytesIO(data), name) as image:
        if image.height > size[0] or image.width > size[1]:
            raise _NotThisImageError(
                f"{name} is {image.height}x{image.width} pixels (height x width), which is more "
                f"than the {size[0]}x{size[1]} of its image"
            )
        return _labels(image, name)


def _labels(image: Image.Image, name: str | os.PathLike) -> np.ndarray:
    if image.mode not in ("1", "L", "P") and not image.mode.startswith("I"):
        raise _NotThisImageError(
            f"{name} has the channels {image.mode}: save masks as an image of one channel of 8 or "
            "16 bits"
        )
    values = np.asarray(image)
    if values.dtype != bool and (values.min() < 0 or values.max() > 65535):
        raise _NotThisImageError(f"{name} has values beyond 16 bits")
    return values.astype(np.uint16)


@contextmanager
def _opened(root: str | os.PathLike, file_name: str) -> Iterator[Image.Image]:
    """An open image below ``root``."""
    path = inside(root, file_name)
    try:
        with _decoding(path, path) as image:
            yield image
    except FileNotFoundError as error:
        raise ValueError(
            f"{path} is missing: check the image root {str(root)!r} of the data set"
        ) from error


@contextmanager
def _decoding(source: Path | BinaryIO, name: str | os.PathLike) -> Iterator[Image.Image]:
    """An open image within the pixel limit; whatever goes wrong names it and the remedy."""
    try:
        with Image.open(source, formats=FORMATS) as image:
            # Pillow refuses only twice the limit and warns between; one clear limit is easier.
            limit = Image.MAX_IMAGE_PIXELS
            if limit is not None and image.width * image.height > limit:
                raise _too_large(name)
            yield image
    except (_NotThisImageError, FileNotFoundError):
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _too_large(name) from error
    except _DAMAGE as error:
        raise ValueError(
            f"{name} cannot be read as an image ({error}): it is damaged or none of "
            f"{', '.join(FORMATS)}; fetch it again"
        ) from error


class _NotThisImageError(ValueError):
    """The file is readable and still not what was asked for."""


def _too_large(path: os.PathLike) -> ValueError:
    return _NotThisImageError(
        f"{path} has more than {Image.MAX_IMAGE_PIXELS} pixels, which may be an attempt to fill "
        "the memory; if it is genuine, raise PIL.Image.MAX_IMAGE_PIXELS"
    )


def _rgb(image: Image.Image) -> np.ndarray:
    if image.mode == "F":
        raise ValueError("floating-point pixels have no defined range")
    if image.mode.startswith("I"):
        grey = np.clip(np.asarray(image, dtype=np.int64), 0, 65535) >> 8
        return np.repeat(grey.astype(np.uint8)[..., None], 3, axis=2)
    if image.mode == "P":
        # Through RGBA: straight to RGB warns where transparency is stored with the palette.
        image = image.convert("RGBA")
    return np.array(image.convert("RGB"))
