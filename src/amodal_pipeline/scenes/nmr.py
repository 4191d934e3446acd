"""Reading of ShapeNet's pictures as SoftRas and the Neural 3D Mesh Renderer distribute them.

A file ``<class>_<split>_images.npz`` holds one array (objects, 24 views, 4 channels, H, W) of
uint8, RGBA. View i is seen from azimuth -15 i degrees, elevation 30 and distance 2.732, as SoftRas
counts them, with an opening angle of 30 degrees (Liu et al., ICCV 2019, and its released code).
"""

import hashlib
import io
import json
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import numpy as np
from joblib import Parallel, delayed
from numpy.lib import format as npy

from amodal_pipeline.annotations import AmodalAnnotations
from amodal_pipeline.annotations.processes import working
from amodal_pipeline.scenes.render import Cutout
from amodal_pipeline.scenes.scene import generator
from amodal_pipeline.scenes.view_config import RenderedArchiveConfig
from amodal_pipeline.scenes.view_records import (
    ArchiveSource,
    Candidate,
    ObjectViews,
    Viewpoint,
    existing,
    reported,
    table_of,
    write_object,
)

ARCHIVE_VERSION = 1
"""Raise this with every change that alters a picture or a mask: old ones are written again."""

VIEWS = 24
_SIDES = range(8, 1025)  # allowed heights and widths of pictures, pixels
_HEADER = 10_000  # largest size of an array's header, bytes
_PER_CLASS = 100_000  # object numbers reserved per class
_BANK = 8  # objects per class whose views may be pasted in front of others
_CANDIDATES = 8  # views drawn from the bank for every object

_DAMAGE = (zipfile.BadZipFile, zlib.error, OSError, EOFError, ValueError, KeyError, RuntimeError)


@dataclass(frozen=True)
class _Drawn:
    """A view in the bank of occluders, with the object that it shows."""

    source: ArchiveSource
    view: int
    pixels: np.ndarray


def read_archives(
    config: RenderedArchiveConfig,
    split: str,
    archives: Path,
    folder: Path,
    workers: int = 1,
    on_progress: Callable[[int, int], None] | None = None,
    dataset: str = "shapenet",
) -> AmodalAnnotations:
    """Write the pictures of a split, some with an occluder, and return their annotations.

    Files are read one object at a time. Pictures go to ``<folder>/<split>/`` in the layout of
    :mod:`.views`; existing ones made from the same object in the same way are kept. An amodal mask
    is every pixel that is drawn at all (alpha above 0): the silhouette that SoftRas compares with.
    Occluders are views of the first objects of every class.

    Args:
        config: the classes, and how much is occluded.
        split: "train", "val" or "test".
        archives: the folder of the archives.
        folder: where pictures are written.
        workers: processes; the result does not depend on their number.
        on_progress: called with (done, total) after every object.

    Returns:
        The validated table (:func:`.view_records.table_of`). An object's number is 100,000 times
        the place of its class, plus its place in the file.

    Raises:
        FileNotFoundError: the file of a class is missing.
        ValueError: a file is damaged or has other contents; names it, its array and the remedy.
    """
    paths = {name: archives / f"{id_}_{split}_images.npz" for id_, name in config.classes.items()}
    missing = [path.name for path in paths.values() if not path.is_file()]
    if missing:
        raise FileNotFoundError(
            f"{archives} lacks {', '.join(missing)}: put these files there, or name only the "
            "classes whose files you have in source.nmr.config.classes"
        )
    target = folder / split
    target.mkdir(parents=True, exist_ok=True)
    bank, total = _bank(paths, config)
    tasks = _tasks(config, split, paths, bank, target)
    made = reported(_run(tasks, min(workers, total)), total, on_progress)
    return table_of(made, list(config.classes.values()), dataset, split, folder, "nmr")


def write_views(
    config: RenderedArchiveConfig,
    split: str,
    index: int,
    source: ArchiveSource,
    pictures: np.ndarray,
    drawn: Sequence[_Drawn],
    target: Path,
) -> ObjectViews:
    """Write the views of one object, uint8 [24, 4, H, W], or keep old ones; return the record."""
    described = {
        "version": ARCHIVE_VERSION,
        "config": config.model_dump(mode="json", exclude={"classes", "objects_per_class"}),
        "source": source.model_dump(),
        "pictures": [_digest(p.tobytes()) for p in (pictures, *(d.pixels for d in drawn))],
        "occluders": [(d.source.model_dump(), d.view) for d in drawn],
    }
    fingerprint = _digest(json.dumps(described, sort_keys=True).encode())
    record = existing(target, split, index, fingerprint)
    if record is not None:
        return record
    seen = [(view, _viewpoint(view), _cutout(pictures[view])) for view in range(VIEWS)]
    candidates: list[Candidate] = [
        (d.source, _viewpoint(d.view), _opaque(_cutout(d.pixels))) for d in drawn
    ]
    rng = generator(config.seed, split, index)
    return write_object(target, split, index, fingerprint, source, seen, candidates, config, rng)


def _tasks(
    config: RenderedArchiveConfig,
    split: str,
    paths: dict[str, Path],
    bank: list[_Drawn],
    target: Path,
) -> Iterator[tuple]:
    for place, (category, path) in enumerate(paths.items()):
        for position, pictures in enumerate(islice(stream(path), config.objects_per_class)):
            index = _PER_CLASS * place + position
            source = ArchiveSource(category=category, file=path.name, position=position)
            rng = generator(config.seed, split, index, 1)
            others = [d for d in bank if d.source != source]
            chosen = rng.integers(len(others), size=_CANDIDATES) if others else ()
            drawn = [others[k] for k in chosen]
            yield config, split, index, source, pictures, drawn, target


def _run(tasks: Iterator[tuple], workers: int) -> Iterator[ObjectViews]:
    if workers <= 1:
        for task in tasks:
            yield write_views(*task)
        return
    with working(workers):
        parallel = Parallel(return_as="generator")
        # In batches, because an error in the stream must not be raised in a thread of the pool.
        while batch := list(islice(tasks, 32 * workers)):
            yield from parallel(delayed(write_views)(*task) for task in batch)


def _bank(paths: dict[str, Path], config: RenderedArchiveConfig) -> tuple[list[_Drawn], int]:
    """Return the views that may be pasted in front of others, and the number of all objects."""
    bank: list[_Drawn] = []
    total = 0
    for category, path in paths.items():
        with _array(path) as (_, shape):
            total += min(shape[0], config.objects_per_class or shape[0])
        for position, pictures in enumerate(islice(stream(path), _BANK)):
            source = ArchiveSource(category=category, file=path.name, position=position)
            bank += [
                _Drawn(source, view, picture)
                for view, picture in enumerate(pictures)
                if picture[3].any()
            ]
    return bank, total


def stream(path: Path) -> Iterator[np.ndarray]:
    """Yield the objects of a file one by one, uint8 [24, 4, H, W].

    Raises:
        ValueError: the file is damaged, or its array has another type or shape.
    """
    with _array(path) as (data, shape):
        size = int(np.prod(shape[1:]))
        for position in range(shape[0]):
            content = data.read(size)
            if len(content) < size:
                raise ValueError(f"it ends within object {position} of {shape[0]}")
            yield np.frombuffer(content, np.uint8).reshape(shape[1:])


@contextmanager
def _array(path: Path) -> Iterator[tuple[BinaryIO, tuple[int, ...]]]:
    """Give the data stream of the array in a file, at its first value, and the array's shape.

    Only what is read from the stream is in memory. Errors name the file, the array and the remedy.
    """
    name = "its array"
    try:
        with zipfile.ZipFile(path) as archive:
            arrays = [entry for entry in archive.infolist() if entry.filename.endswith(".npy")]
            if len(arrays) != 1:
                raise ValueError(f"it has {len(arrays)} arrays, not 1")
            name = f"array {arrays[0].filename!r}"
            with archive.open(arrays[0]) as data:
                shape = _header(data, arrays[0].file_size)
                yield data, shape
    except _DAMAGE as error:
        raise ValueError(
            f"{path}, {name}: {error}. It should hold rendered views, uint8 (objects, {VIEWS}, 4, "
            "H, W); fetch the file again"
        ) from error


def _header(data: BinaryIO, size: int) -> tuple[int, ...]:
    version = npy.read_magic(data)
    if version != (1, 0):  # headers of later versions have no limit of length
        raise ValueError(f"its format {version} is not (1, 0)")
    length = data.read(2)
    if int.from_bytes(length, "little") > _HEADER:
        raise ValueError(f"its header is longer than {_HEADER} bytes")
    described = io.BytesIO(length + data.read(int.from_bytes(length, "little")))
    try:
        shape, by_columns, dtype = npy.read_array_header_1_0(described)
    except (tokenize.TokenError, SyntaxError, MemoryError, RecursionError) as error:
        raise ValueError(f"its header cannot be read ({error})") from error
    if dtype != np.uint8 or by_columns:
        raise ValueError(
            f"it holds {dtype}{' by columns' if by_columns else ''}, not uint8 by rows"
        )
    pictures = len(shape) == 5 and shape[1:3] == (VIEWS, 4)
    if not pictures or any(side not in _SIDES for side in shape[3:]):
        raise ValueError(f"its shape is {shape}")
    if not 0 < shape[0] <= _PER_CLASS:
        raise ValueError(f"it has {shape[0]} objects, allowed are 1 to {_PER_CLASS}")
    if size - data.tell() != np.prod(shape, dtype=np.int64):
        raise ValueError(f"its shape {shape} is not that of {size} bytes")
    return shape


def _cutout(picture: np.ndarray) -> Cutout:
    """Return a view [4, H, W] as a cutout: pixels, white where nothing is drawn, and their mask."""
    pixels = picture.transpose(1, 2, 0).copy()
    mask = pixels[..., 3] > 0
    pixels[~mask] = (255, 255, 255, 0)
    return Cutout(pixels, mask)


def _opaque(cutout: Cutout) -> Cutout:
    """Return the cutout with full opacity on its mask.

    It is not known whether the files' colours are blended at edges, so nothing shines through.
    """
    pixels = cutout.pixels.copy()
    pixels[..., 3] = 255 * cutout.mask
    return Cutout(pixels, cutout.mask)


def _viewpoint(view: int) -> Viewpoint:
    return Viewpoint(azimuth=-15.0 * view, elevation=30.0, distance=2.732, field_of_view=30.0)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
