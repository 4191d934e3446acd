"""Running a trained completer of clips over known objects: as :mod:`.completing`, by tracks."""

import logging
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from amodal_pipeline.annotations import KnownObjects, Predictions
from amodal_pipeline.annotations.tracks import frame_of
from amodal_pipeline.layers.crops import paste_masks
from amodal_pipeline.methods.baselines import visible_masks, with_amodal
from amodal_pipeline.methods.training_config import InferenceConfig
from amodal_pipeline.samples.clips import (
    ClipWindows,
    FrameCache,
    Places,
    clip_windows,
    interpolated,
    object_tracks,
    places,
)
from amodal_pipeline.samples.motion import Motion
from amodal_pipeline.samples.objects import boxes_around
from amodal_pipeline.training.device import resolve_device, wants_bfloat16

_log = logging.getLogger(__name__)


def complete(
    model: nn.Module,
    objects: KnownObjects,
    config: InferenceConfig,
    *,
    method: str,
    variant: str = "full",
    seed: int = 0,
    checkpoint: str = "",
    on_progress: Callable[[int, int], None] | None = None,
) -> Predictions:
    """Complete known objects over time: give each its amodal mask in each frame.

    Rows of one ``track_id`` are an object. A track that is longer than the model takes at once is
    completed in overlapping stretches (:func:`stretches`), so that memory grows with the number of
    objects, not with the length of videos or the size of frames.

    Args:
        model: called with clips of crops and "input", "real", "key" (``prediction_id``), "labels"
            and "windows" as :class:`~..samples.clips.ClipBatches` has them, and what
            :class:`~..samples.motion.Motion` knows if its description has ``sees_flow``; returns
            "amodal_masks" float [n, T, S, S]. ``model.config.crop`` says what is seen of objects,
            ``model.config.stretch`` how many frames together, ``model.config.overlap`` by
            how many stretches overlap.
        objects: true ones or a detector's.
        config: how to run it; at least one clip at once, and no more than have
            ``objects_per_batch`` frames together.
        method, variant, seed, checkpoint: whose masks these are.
        on_progress: called with (done, all) rows of objects that are seen in some frame.

    Returns:
        What :func:`.completing.complete` returns. Where an object is not seen, but is in another
        frame, it is completed too, within a window between those that it is seen in. One that is
        never seen keeps empty masks.

    Raises:
        ValueError: an object has no visible mask, or a frame cannot be read.
    """
    visible = visible_masks(objects, method)
    device = resolve_device(config.device)
    bf16 = wants_bfloat16(config.precision, device)
    model = model.to(device).eval()
    clips = _Clips(objects.table, model.config, config.objects_per_batch)
    loader = DataLoader(clips, batch_size=None, num_workers=config.workers)
    amodal, done = list(visible), 0
    for batch in loader:
        targets = {name: values.to(device) for name, values in batch.targets.items()}
        with (
            torch.inference_mode(),
            torch.autocast(device, torch.bfloat16) if bf16 else nullcontext(),
        ):
            found = model(batch.images.to(device), targets)["amodal_masks"].float().cpu()
        for row, mask in zip(batch.rows[batch.kept], _pasted(found, batch), strict=True):
            amodal[row] = mask
        done += int(batch.kept.sum())
        if on_progress:
            on_progress(done, clips.count)
    made = {"method": method, "variant": variant, "seed": seed, "checkpoint": checkpoint}
    return with_amodal(objects, amodal, made)


def stretches(length: int, frames: int, overlap: int) -> list[tuple[slice, slice]]:
    """Return stretches of a track that it is completed in, and which frames each decides.

    A frame in two stretches is decided by the one in whose middle it rather is. The last stretch
    ends where the track does, and overlaps with the one before it by more where need be.

    Args:
        length: of the track.
        frames: of a stretch; a shorter track is one.
        overlap: of two stretches, less than ``frames``.

    Returns:
        (stretch, decided) pairs, positions in the track; the latter are a partition of it.
    """
    last = max(length - frames, 0)
    starts = [*range(0, last, frames - overlap), last]
    cuts = [0, *((a + b + frames) // 2 for a, b in pairwise(starts)), length]
    return [
        (slice(start, min(start + frames, length)), slice(first, stop))
        for start, (first, stop) in zip(starts, pairwise(cuts), strict=True)
    ]


@dataclass(frozen=True)
class _Batch:
    """What a completer is given of some stretches, M frames in a row.

    ``rows`` of the table, int64 [M]; which of them are ``kept``, bool [M]; their ``sizes`` int64
    [M, 2], ``windows`` and ``places``; ``images`` uint8 [n, T, 3, I, I] and ``targets``.
    """

    rows: np.ndarray
    kept: np.ndarray
    sizes: np.ndarray
    windows: ClipWindows
    places: Places
    images: Tensor
    targets: dict[str, Tensor]


def _pasted(found: Tensor, batch: _Batch) -> list[str]:
    """Run lengths of the kept frames' masks [n, T, S, S]."""
    kept = torch.from_numpy(batch.kept)
    within = torch.from_numpy(batch.windows.covered(found.shape[-1]))
    masks = (found[torch.from_numpy(batch.places.real)] * within)[kept]
    drawn, sizes = batch.windows.drawn[batch.kept], batch.sizes[batch.kept]
    pasted = [""] * len(masks)
    for size in np.unique(sizes, axis=0):
        own = np.flatnonzero((sizes == size).all(axis=1))
        canvas = (int(size[0]), int(size[1]))
        for at, mask in zip(own, paste_masks(masks[own], drawn[own], canvas), strict=True):
            pasted[at] = mask
    return pasted


class _Clips(Dataset):
    """Stretches of the tracks of objects that are seen, in batches; those of one video together."""

    def __init__(self, predictions: Predictions, config, batch: int) -> None:
        table, images = predictions.predictions, predictions.images
        self.crop, self.sizes = config.crop, predictions.sizes
        self.frames = config.stretch
        self.masks = pa.array(table["visible_rle"].tolist(), pa.string())
        around = boxes_around(predictions, config.crop.around)
        seen, (frame, _) = ~np.isnan(around[:, 0]), frame_of(table, images)
        tracks = [rows for rows in object_tracks(table, images) if seen[rows].any()]
        self.count = sum(map(len, tracks))
        self.boxes = np.full_like(around, np.nan)
        for rows in tracks:
            self.boxes[rows] = interpolated(around[rows], frame[rows])
        alone = int(table["track_id"].isna().sum())
        if alone:
            _log.warning(
                "%d of %d objects of %r have no track_id: each is completed as a clip of one frame",
                alone,
                len(table),
                predictions.metadata.method,
            )
        parts = [
            (rows[stretch], np.isin(rows[stretch], rows[decided]))
            for rows in tracks
            for stretch, decided in stretches(len(rows), self.frames, config.overlap)
        ]
        by_id = images.set_index("image_id")
        video = by_id["video_id"].fillna(-1)
        of = table["image_id"]
        self.names = by_id["file_name"].loc[of].tolist()
        videos = video.loc[of].to_numpy(dtype=np.int64)
        # Objects of one video are cut out of the same frames, which are decoded once.
        parts.sort(key=lambda part: (videos[part[0][0]], frame[part[0][0]]))
        at_once = max(batch // self.frames, 1)
        self.batches = [parts[start : start + at_once] for start in range(0, len(parts), at_once)]
        self.keys = table["prediction_id"].to_numpy(dtype=np.int64)
        ids = np.array([c.id for c in predictions.metadata.categories], np.int64)
        order = np.argsort(ids)
        category = table["category_id"].to_numpy(dtype=np.int64)
        self.labels = order[np.searchsorted(ids[order], category)] + 1
        self.cache = FrameCache(Path(predictions.metadata.image_root))
        flow = config.DESCRIPTION.sees_flow
        self.motion = Motion(images, table["image_id"], self.cache) if flow else None

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, batch: int) -> _Batch:
        clips = [rows for rows, _ in self.batches[batch]]
        rows, kept = (np.concatenate(part) for part in zip(*self.batches[batch], strict=True))
        place = places(clips, max(map(len, clips)))
        of = np.repeat(np.arange(len(clips)), [len(clip) for clip in clips])
        sizes, at = self.sizes[rows], place.at
        seen = clip_windows(self.boxes[rows], sizes, of, self.crop)
        masks = seen.crop_masks(self.masks.take(pa.array(rows)), sizes, self.crop.side)
        names = [self.names[row] for row in rows]
        canvases = [(int(height), int(width)) for height, width in sizes]
        images = seen.crop_images(self.cache, names, canvases, self.crop.image_side)
        targets = {
            "input": torch.from_numpy(masks.astype(np.uint8)[at]),
            "real": torch.from_numpy(place.real),
            "key": torch.from_numpy(self.keys[rows][at]),
            "labels": torch.from_numpy(self.labels[[clip[0] for clip in clips]]),
            "windows": torch.from_numpy(seen.drawn[at].astype(np.float32)),
        }
        if self.motion:
            motion = self.motion.targets(rows, seen, self.crop.side)
            targets |= {name: values[torch.from_numpy(at)] for name, values in motion.items()}
        return _Batch(rows, kept, sizes, seen, place, images[torch.from_numpy(at)], targets)
