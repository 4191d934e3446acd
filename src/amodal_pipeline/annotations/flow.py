"""Optical flow of video frames: finding its file, reading and writing it as float32 [H, W, 2].

The flow (dx, dy) of a pixel is the shift of its point, in pixels to the right and down, to the next
frame (forward) or to the previous one (backward). Flow is not part of the tables: a method that
uses it asks for the file of a frame.

Two formats are read: Middlebury's .flo (Baker et al., "A Database and Evaluation Methodology for
Optical Flow", IJCV 2011), which FISHBOWL's files and our own scenes have, and Kubric's PNG of 16
bits, whose range of values is in a ``data_ranges.json`` in the same folder.
"""

import os
import struct
from pathlib import Path

import numpy as np
import orjson

from amodal_pipeline.annotations.images import read_size
from amodal_pipeline.annotations.storage import inside, replacing

_MAGIC = b"PIEH"  # 202021.25 as a float of 32 bits
_HEADER = struct.Struct("<4sii")
_UNKNOWN, _UNKNOWN_ABOVE = 1e10, 1e9  # Middlebury's values for a pixel without flow
_RANGES = "data_ranges.json"
_SMALL = 1 << 16  # bytes


def flow_file(
    root: str | os.PathLike, file_name: str, frame: int, *, backward: bool = False
) -> Path | None:
    """Return the file with the optical flow of a frame; None if it does not exist.

    Searched in this order:

    - next to the image, ``<name>.forward.flo`` and ``<name>.backward.flo``: our own scenes;
    - Kubric's ``forward_flow_*`` and ``backward_flow_*.png`` next to ``rgba_*.png``;
    - SaVos's ``<mode>_flow`` and ``<mode>_flow_reverse/inference/run.epoch-0-flow-field/<video>/``
      of ``<mode>_frames/<video>/``, next to that folder or next to its parent. A video of N frames
      has N − 1 files: the last (backward: the first) frame takes its neighbour's file.

    Args:
        root: the folder that ``file_name`` is relative to.
        file_name: of the image, as the table of images has it.
        frame: its number within the video, from 0.
        backward: flow to the previous frame instead of to the next one.

    Raises:
        ValueError: ``file_name`` leaves ``root``.
    """
    image = inside(root, file_name)
    direction = "backward" if backward else "forward"
    kubric = image.name.replace("rgba_", f"{direction}_flow_", 1)
    for path in (image.with_suffix(f".{direction}.flo"), image.with_name(kubric)):
        if path != image and path.is_file():
            return path
    frames = image.parent.parent
    if not frames.name.endswith("_frames"):
        return None
    mode = frames.name.removesuffix("_frames")
    stored = Path(f"{mode}_flow{'_reverse' if backward else ''}/inference/run.epoch-0-flow-field")
    for above in (frames.parent, frames.parent.parent):
        files = sorted((above / stored / image.parent.name).glob("*.flo"))
        if files:
            return files[min(max(frame - backward, 0), len(files) - 1)]
    return None


def read_flow(path: str | os.PathLike, size: tuple[int, int]) -> np.ndarray:
    """Return the optical flow of a frame.

    Args:
        path: a Middlebury .flo file, or a PNG of Kubric's named ``forward_flow_*`` or
            ``backward_flow_*``.
        size: (height, width) of the frame in pixels; checked before anything is decoded.

    Returns:
        float32 [H, W, 2] of (dx, dy) in pixels; NaN where the file says that it is unknown.

    Raises:
        ValueError: the file is missing, damaged, or of another size; names it.
    """
    path = Path(path)
    try:
        return _read_png(path, size) if path.suffix == ".png" else _read_flo(path, size)
    except FileNotFoundError as error:
        raise ValueError(f"{error.filename} is missing: fetch or compute the flow again") from error


def write_flow(path: str | os.PathLike, flow: np.ndarray) -> None:
    """Write an optical flow as a Middlebury .flo file, as a whole or not at all.

    Args:
        path: ends in ``.flo``.
        flow: [H, W, 2] of (dx, dy) in pixels, below 10⁹; NaN where it is unknown.

    Raises:
        ValueError: another name, another shape, or values too large.
    """
    path, flow = Path(path), np.asarray(flow)
    if path.suffix != ".flo":
        raise ValueError(f"{path} is not a name for Middlebury's format: let it end in .flo")
    if flow.ndim != 3 or flow.shape[2] != 2:
        raise ValueError(f"{path}: a flow has the shape [height, width, 2], not {flow.shape}")
    if (np.abs(flow) > _UNKNOWN_ABOVE).any():
        raise ValueError(f"{path}: a flow above {_UNKNOWN_ABOVE:.0e} pixels would read as unknown")
    height, width = flow.shape[:2]
    stored = np.where(np.isnan(flow), _UNKNOWN, flow).astype("<f4")
    with replacing(path) as temporary:
        temporary.write_bytes(_HEADER.pack(_MAGIC, width, height) + stored.tobytes())


def _read_flo(path: Path, size: tuple[int, int]) -> np.ndarray:
    height, width = size
    with path.open("rb") as file:
        header = file.read(_HEADER.size)
        if len(header) < _HEADER.size or header[:4] != _MAGIC:
            raise ValueError(f"{path} is not a Middlebury .flo file: fetch or compute it again")
        _, w, h = _HEADER.unpack(header)
        if (h, w) != (height, width):
            raise ValueError(
                f"{path} is {h}x{w} pixels (height x width), its frame {height}x{width}: compute "
                "it from the frames of this data set"
            )
        content = file.read(8 * height * width + 1)
    if len(content) != 8 * height * width:
        raise ValueError(
            f"{path} has {'more' if len(content) > 8 * height * width else 'fewer'} bytes than "
            f"{height}x{width} pixels need: fetch or compute it again"
        )
    flow = np.frombuffer(content, "<f4").reshape(height, width, 2).astype(np.float32)
    flow[~(np.abs(flow) <= _UNKNOWN_ABOVE)] = np.nan
    return flow


def _read_png(path: Path, size: tuple[int, int]) -> np.ndarray:
    found, pixels = read_size(path.parent, path.name), size[0] * size[1]
    if found != tuple(size):
        raise ValueError(
            f"{path} is {found[0]}x{found[1]} pixels (height x width), its frame "
            f"{size[0]}x{size[1]}: it belongs to another video"
        )
    data = _bytes_of(path, 12 * pixels + _SMALL)  # twice what the pixels need
    low, high = _range(path)
    # Not Pillow, which drops the lower eight bits of colours.
    import torch
    from torchvision.io import ImageReadMode, decode_png

    try:
        image = decode_png(torch.frombuffer(data, dtype=torch.uint8), ImageReadMode.UNCHANGED)
    except RuntimeError as error:
        raise ValueError(f"{path} cannot be read as a PNG ({error}): fetch it again") from error
    values = image.numpy()
    if values.dtype != np.uint16 or len(values) < 2:
        raise ValueError(
            f"{path} has {len(values)} channels of {8 * values.itemsize} bits; Kubric's flow has "
            "two or three of 16: fetch it again"
        )
    # Kubric stores (rows, columns) and scales low…high to 0…65535.
    scaled = values[1::-1].transpose(1, 2, 0) * ((high - low) / 65535) + low
    return scaled.astype(np.float32)


def _range(path: Path) -> tuple[float, float]:
    """Return the flow that the values 0 and 65535 of one of Kubric's files stand for."""
    ranges, key = path.with_name(_RANGES), path.name.partition("_flow")[0] + "_flow"
    try:
        found = orjson.loads(_bytes_of(ranges, _SMALL))[key]
        low, high = float(found["min"]), float(found["max"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{ranges} has no min and max of {key} ({error!r}), without which {path.name} means "
            "nothing: fetch it again"
        ) from error
    if not -_UNKNOWN_ABOVE < low <= high < _UNKNOWN_ABOVE:
        raise ValueError(f"{ranges}: {key} from {low} to {high} is no range: fetch it again")
    return low, high


def _bytes_of(path: Path, limit: int) -> bytearray:
    """Return the content of a file of at most ``limit`` bytes."""
    with path.open("rb") as file:
        data = bytearray(file.read(limit + 1))
    if len(data) > limit:
        raise ValueError(f"{path} has more than {limit} bytes, more than its content can need")
    return data
