"""Clips: crops of one object in consecutive frames of a video.

All functions are pure. Order depends on (seed, iteration) only, and random choices for a clip on
(seed, iteration, index), as in :mod:`.objects`.
"""

import logging
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from torch import Tensor
from torch.utils.data import Dataset

from amodal_pipeline.annotations import AmodalAnnotations
from amodal_pipeline.annotations.images import read_image
from amodal_pipeline.annotations.tables import boxes, strings
from amodal_pipeline.annotations.tracks import frame_of, track_rows
from amodal_pipeline.layers.configs import ClipCropConfig, CorruptionConfig
from amodal_pipeline.layers.corruption import corrupt
from amodal_pipeline.layers.crops import covered, crop_image, crop_masks, extended, windows
from amodal_pipeline.samples.images import TrainingBatch, batch_indices

_log = logging.getLogger(__name__)

_CACHED_BYTES = 256 * 2**20  # bytes of decoded frames, per loading process


class ClipBatches(Dataset):
    """Batches of clips: item ``i`` is the batch of iteration ``i``, n objects of T frames each.

    Every track comes once before any comes again. A clip is a random stretch of T consecutive
    frames of a track, in at least one of which the object is visible; frames without a row for the
    object are passed over. A shorter track repeats its last frame. Objects without a track are
    clips of one frame.

    Items have ``images``, uint8 [n, T, 3, image_side, image_side] (without pixels,
    [n, T, 3, 0, 0], if ``with_images`` is false), and ``targets``:

    - "input" uint8 [n, T, side, side] of 0 and 1: the visible mask that the method gets, corrupted
      independently per frame;
    - "visible" and "amodal": the truth, likewise;
    - "counts" float32 [n, T]: weights of frames, 0 for repeated frames and for those in which the
      object is invisible, else 1;
    - "real" bool [n, T]: false for repeated frames;
    - "labels" int64 [n]: position of the category, from 1;
    - "index" int64 [n, T]: row of ``instances``;
    - "windows" float32 [n, T, 4] (x1, y1, x2, y2): the part of the frame in the crop, in pixels.

    Where an object is invisible, its box is interpolated between the boxes of the nearest frames
    in which it is visible (:func:`interpolated`).

    Args:
        annotations: the training split.
        crop: how crops are cut out around an object.
        frames: T.
        batch_size: n, clips per iteration.
        seed: of order, stretches and corruption.
        corruption: of the input; None leaves it unchanged.
        chosen: the rows to learn from, bool; None: all. Ignored objects are left out of both.
        with_images: read them; otherwise no file is opened.

    Raises:
        ValueError: no object has a visible part.
    """

    def __init__(
        self,
        annotations: AmodalAnnotations,
        crop: ClipCropConfig,
        frames: int,
        batch_size: int,
        seed: int,
        *,
        corruption: CorruptionConfig | None = None,
        chosen: np.ndarray | None = None,
        with_images: bool = True,
    ) -> None:
        self.annotations, self.crop, self.frames = annotations, crop, frames
        self.batch_size, self.seed, self.corruption = batch_size, seed, corruption
        self.with_images = with_images
        truth, self.sizes = annotations.instances, annotations.sizes
        self.seen = ~np.isnan(boxes(truth["visible_box"])[:, 0])
        learnt = ~truth["ignore"].to_numpy(dtype=bool)
        learnt = np.flatnonzero(learnt if chosen is None else learnt & chosen)
        tracks = [learnt[of] for of in object_tracks(truth.iloc[learnt], annotations.images)]
        self.tracks = [rows for rows in tracks if self.seen[rows].any()]
        if not self.tracks:
            raise ValueError(
                f"{annotations.metadata.dataset}/{annotations.metadata.split} has no object with a "
                "visible part to train on: check its table of rejected records"
            )
        if max(map(len, self.tracks)) == 1:
            _log.warning(
                "%s/%s has no object in several frames (track_id, and frame of its images): every "
                "clip is one frame",
                annotations.metadata.dataset,
                annotations.metadata.split,
            )
        around = boxes(truth[f"{crop.around}_box"]).astype(np.float64)
        around[~self.seen] = np.nan
        frame, _ = frame_of(truth, annotations.images)
        self.boxes = np.full_like(around, np.nan)
        for rows in self.tracks:
            self.boxes[rows] = interpolated(around[rows], frame[rows])
        self.starts = [_starts(self.seen[rows], frames) for rows in self.tracks]
        self.masks = {kind: strings(truth[f"{kind}_rle"]) for kind in ("amodal", "visible")}
        ids = np.array([c.id for c in annotations.metadata.categories])
        order = np.argsort(ids)
        category = truth["category_id"].to_numpy(dtype=np.int64)
        self.labels = order[np.searchsorted(ids[order], category)] + 1
        names = annotations.images.set_index("image_id")["file_name"]
        self.names = names.loc[truth["image_id"]].tolist()
        self.cache = FrameCache(Path(annotations.metadata.image_root))

    def __getitem__(self, iteration: int) -> TrainingBatch:
        indices = batch_indices(len(self.tracks), self.batch_size, self.seed, iteration)
        draws = [np.random.default_rng([self.seed, iteration, i]) for i in indices]
        stretches = [self._stretch(i, draw) for i, draw in zip(indices, draws, strict=True)]
        rows, place = np.concatenate(stretches), places(stretches, self.frames)
        clips = np.repeat(np.arange(len(stretches)), [len(s) for s in stretches])
        seen = clip_windows(self.boxes[rows], self.sizes[rows], clips, self.crop)
        masks = {
            kind: seen.crop_masks(counts.take(pa.array(rows)), self.sizes[rows], self.crop.side)
            for kind, counts in self.masks.items()
        }
        given = masks["visible"]
        if self.corruption:
            given = np.stack(
                [
                    corrupt(mask, self.corruption, draws[clip])
                    for mask, clip in zip(given, clips, strict=True)
                ]
            )
        masks = {"input": given, **masks}
        real, at = place.real, place.at
        targets = {
            **{kind: torch.from_numpy(mask.astype(np.uint8)[at]) for kind, mask in masks.items()},
            "counts": torch.from_numpy((self.seen[rows][at] & real).astype(np.float32)),
            "real": torch.from_numpy(real),
            "labels": torch.from_numpy(self.labels[[stretch[0] for stretch in stretches]]),
            "index": torch.from_numpy(rows[at]),
            "windows": torch.from_numpy(seen.drawn[at].astype(np.float32)),
        }
        names = [self.names[row] for row in rows]
        if not self.with_images:
            empty = torch.zeros(*at.shape, 3, 0, 0, dtype=torch.uint8)
            return TrainingBatch(empty, targets, list(dict.fromkeys(names)))
        sizes = [tuple(size) for size in self.sizes[rows].tolist()]
        images = seen.crop_images(self.cache, names, sizes, self.crop.image_side)
        return TrainingBatch(images[torch.from_numpy(at)], targets, list(dict.fromkeys(names)))

    def _stretch(self, index: int, draw: np.random.Generator) -> np.ndarray:
        """Return the rows of a random stretch of at most T frames of a track."""
        start = int(draw.choice(self.starts[index]))
        return self.tracks[index][start : start + self.frames]


def object_tracks(table: pd.DataFrame, images: pd.DataFrame) -> list[np.ndarray]:
    """Return the rows of every object in the order of its frames, int64 [T] each.

    A row without a track, or in an image that is no frame of a video, is an object of its own.

    Args:
        table: rows of INSTANCES or PREDICTIONS.
        images: rows of IMAGES.
    """
    tracks = list(track_rows(table, images).values())
    alone = np.ones(len(table), bool)
    for rows in tracks:
        alone[rows] = False
    return [*tracks, *np.flatnonzero(alone)[:, None]]


def interpolated(boxes: np.ndarray, frames: np.ndarray) -> np.ndarray:
    """Return the boxes of one object with missing ones interpolated, float64 [T, 4].

    Between two known boxes all four numbers change linearly with time; before the first and after
    the last they are constant.

    Args:
        boxes: [T, 4] (x, y, width, height); NaN where the object is invisible, but not everywhere.
        frames: their times, ascending, int64 [T].
    """
    known = ~np.isnan(boxes[:, 0])
    filled = [np.interp(frames, frames[known], values[known]) for values in boxes.T]
    return np.stack(filled, axis=1)


def _starts(seen: np.ndarray, frames: int) -> np.ndarray:
    """Return the starts of stretches of ``frames`` that have a frame with the object visible."""
    before = np.concatenate([[0], np.cumsum(seen)])
    first = np.arange(max(len(seen) - frames, 0) + 1)
    return first[before[np.minimum(first + frames, len(seen))] > before[first]]


@dataclass(frozen=True)
class Places:
    """Positions of clips of different lengths in an array [n, T].

    Attributes:
        at: int64 [n, T], positions among the frames of all clips in a row; those beyond the end of
            a clip repeat its last frame.
        real: bool [n, T], false for repetitions.
    """

    at: np.ndarray
    real: np.ndarray


def places(clips: list[np.ndarray], frames: int) -> Places:
    """Return the places of clips, each of 1 to ``frames`` frames."""
    lengths = np.array([len(clip) for clip in clips])
    first = np.cumsum(lengths) - lengths
    steps = np.arange(frames)
    at = first[:, None] + np.minimum(steps, lengths[:, None] - 1)
    return Places(at, steps < lengths[:, None])


@dataclass(frozen=True)
class ClipWindows:
    """The windows of N frames, float64 [N, 4] (x1, y1, x2, y2) in pixels each.

    Attributes:
        own: around the object.
        drawn: what the crop shows; its part beyond ``own``, at the right and at the bottom, is
            black.
    """

    own: np.ndarray
    drawn: np.ndarray

    def covered(self, side: int) -> np.ndarray:
        """Return which pixels of crops lie within ``own``, bool [N, side, side]."""
        return covered(self.own, self.drawn, side)

    def crop_masks(self, counts: pa.Array, sizes: np.ndarray, side: int) -> np.ndarray:
        """Return masks within their windows, bool [N, side, side]."""
        return crop_masks(counts, self.drawn, sizes, side) & self.covered(side)

    def crop_images(
        self, cache: "FrameCache", names: list[str], sizes: list[tuple[int, int]], side: int
    ) -> Tensor:
        """Return the pixels of frames within their windows, uint8 [N, 3, side, side]."""
        crops = torch.stack(
            [
                crop_image(cache.read(name, size), window, side)
                for name, size, window in zip(names, sizes, self.drawn, strict=True)
            ]
        )
        return crops * torch.from_numpy(self.covered(side))[:, None]


def clip_windows(
    boxes: np.ndarray, sizes: np.ndarray, clips: np.ndarray, crop: ClipCropConfig
) -> ClipWindows:
    """Return the windows of objects in the frames of clips.

    Args:
        boxes: around the objects, [N, 4] (x, y, width, height) in pixels, without NaN.
        sizes: (height, width) of the frames, [N, 2].
        clips: the clip of each frame, int64 [N], from 0.
        crop: how boxes become windows, and whether the windows of a clip share one scale.
    """
    own = windows(boxes, sizes, crop)
    return ClipWindows(own, extended(own, clips) if crop.shared_scale else own)


class FrameCache:
    """A cache of decoded images, so that a frame is decoded once for all objects cut out of it.

    The images that were read last are kept.

    Args:
        root: the folder that names are relative to.
        limit: bytes kept at most; a single larger image is kept all the same.
    """

    def __init__(self, root: Path, limit: int = _CACHED_BYTES) -> None:
        self.root, self.limit, self.held = root, limit, 0
        self.images: OrderedDict[str, Tensor] = OrderedDict()

    def read(self, name: str, size: tuple[int, int]) -> Tensor:
        """Return an image of (height, width) pixels, uint8 [3, H, W]; it must not be written to.

        Raises:
            ValueError: see :func:`~amodal_pipeline.annotations.images.read_image`.
        """
        if name in self.images:
            self.images.move_to_end(name)
            return self.images[name]
        image = torch.from_numpy(read_image(self.root, name, size)).permute(2, 0, 1)
        self.images[name] = image
        self.held += image.nbytes
        while self.held > self.limit and len(self.images) > 1:
            _, oldest = self.images.popitem(last=False)
            self.held -= oldest.nbytes
        return image
