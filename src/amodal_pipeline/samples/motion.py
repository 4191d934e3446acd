"""Clips with motion: optical flow, times of frames, and visible pixels of other objects.

Flow is read from the files of a data set or, without them, estimated by OpenCV's DIS (Kroeger
et al., "Fast Optical Flow using Dense Inverse Search", ECCV 2016).
"""

from collections import OrderedDict

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

from amodal_pipeline.annotations.flow import flow_file, read_flow
from amodal_pipeline.annotations.tables import strings
from amodal_pipeline.layers.crops import windows
from amodal_pipeline.samples.clips import ClipBatches, ClipWindows, FrameCache
from amodal_pipeline.samples.images import TrainingBatch

_CACHED_BYTES = 256 * 2**20  # bytes of flow, per loading process
_NONE = -1


class Flows:
    """Optical flow of the frames of a table, float32 [2, H, W] of (dx, dy) in pixels each.

    Flow is read from the frame's file if the table has the next (backward: the previous) frame of
    the video; otherwise it is estimated from the images of both frames. Unknown flow is 0. The last
    frame of a video has the forward flow of the previous one, the first frame the backward flow of
    the next one (the rule of SaVos's files). A single frame has flow 0 everywhere.

    Args:
        images: rows of IMAGES.
        frames: reads their pixels.
        limit: bytes kept at most.
    """

    def __init__(
        self, images: pd.DataFrame, frames: FrameCache, limit: int = _CACHED_BYTES
    ) -> None:
        self.frames, self.limit, self.held = frames, limit, 0
        self.kept: OrderedDict[tuple[int, bool], Tensor] = OrderedDict()
        self.names = images["file_name"].tolist()
        self.sizes = list(zip(images["height"].tolist(), images["width"].tolist(), strict=True))
        video = images["video_id"].fillna(_NONE).to_numpy(dtype=np.int64)
        self.frame = images["frame"].fillna(0).to_numpy(dtype=np.int64)
        order = np.lexsort([self.frame, video])
        follows = (np.diff(video[order]) == 0) & (video[order][1:] != _NONE)
        self.next, self.previous = (np.full(len(images), _NONE) for _ in range(2))
        self.next[order[:-1][follows]] = order[1:][follows]
        self.previous[order[1:][follows]] = order[:-1][follows]
        # Neighbouring frames of a video are one apart, others are not.
        self.time = np.zeros(len(images), np.int64)
        self.time[order] = np.cumsum(np.concatenate([[0], np.where(follows, 1, 2)])[: len(order)])

    def read(self, image: int, *, backward: bool = False) -> Tensor:
        """Return the flow of a row of the table; it must not be written to.

        Raises:
            ValueError: its file is damaged, or it has no file and OpenCV is missing.
        """
        other, opposite = (self.previous, self.next) if backward else (self.next, self.previous)
        if other[image] == _NONE:
            image = int(opposite[image])
            if image == _NONE:
                return torch.zeros(2, 1, 1)
        key = (image, backward)
        if key in self.kept:
            self.kept.move_to_end(key)
            return self.kept[key]
        flow = self._found(image, int(other[image]), backward)
        self.kept[key] = flow
        self.held += flow.nbytes
        while self.held > self.limit and len(self.kept) > 1:
            _, oldest = self.kept.popitem(last=False)
            self.held -= oldest.nbytes
        return flow

    def _found(self, image: int, other: int, backward: bool) -> Tensor:
        size, name = self.sizes[image], self.names[image]
        file = None
        if abs(int(self.frame[other] - self.frame[image])) == 1:
            frame = int(self.frame[image])
            file = flow_file(self.frames.root, name, frame, backward=backward)
        if file:
            flow = np.nan_to_num(read_flow(file, size))
        else:
            if self.sizes[other] != size:
                raise ValueError(
                    f"{name} is of {size} pixels, {self.names[other]} of {self.sizes[other]}: "
                    "frames of one video have one size"
                )
            pair = (self.frames.read(self.names[i], size) for i in (image, other))
            flow = estimated(*pair, name)
        return torch.from_numpy(np.ascontiguousarray(flow.transpose(2, 0, 1)))


def estimated(image: Tensor, other: Tensor, name: str = "") -> np.ndarray:
    """Estimate the optical flow from one image to another by OpenCV's DIS, float32 [H, W, 2].

    Args:
        image, other: uint8 [3, H, W], RGB.
        name: of the first one, for the error.

    Raises:
        ValueError: OpenCV is not installed.
    """
    try:
        import cv2
    except ImportError as error:
        raise ValueError(
            f"{name} has no file of optical flow, and OpenCV, which can estimate it, is not "
            "installed: pip install opencv-python-headless (or 'amodal-pipeline[flow]'), or write "
            "the files that docs/data_sets.md names"
        ) from error
    # OpenCV splits the image into a strip per thread, which changes the result.
    cv2.setNumThreads(1)
    grey = [
        cv2.cvtColor(np.ascontiguousarray(x.permute(1, 2, 0).numpy()), cv2.COLOR_RGB2GRAY)
        for x in (image, other)
    ]
    return cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM).calc(*grey, None)


class Motion:
    """Optical flow, windows and times of the frames of clips.

    Args:
        images: rows of IMAGES.
        image_ids: the image of each row of objects.
        frames: reads pixels.
    """

    def __init__(self, images: pd.DataFrame, image_ids: pd.Series, frames: FrameCache) -> None:
        self.flows = Flows(images, frames)
        position = pd.Series(np.arange(len(images)), index=images["image_id"].to_numpy())
        self.image = position.loc[image_ids].to_numpy(dtype=np.int64)

    def targets(self, rows: np.ndarray, seen: ClipWindows, side: int) -> dict[str, Tensor]:
        """Return the motion of M rows.

        - "forward" and "backward" float32 [M, 2, side, side]: optical flow to the next and to the
          previous frame, (dx, dy) in pixels of the frame, 0 beyond the object's own window;
        - "own" float32 [M, 4]: the own window;
        - "canvas" float32 [M, 2]: width and height of the frame;
        - "time" int64 [M]: greater by one for the next frame of a video.

        Args:
            rows: positions of rows, int64 [M].
            seen: their windows.
            side: of the crops.
        """
        images = self.image[rows]
        within = torch.from_numpy(seen.covered(side))[:, None]
        sizes = np.array([self.flows.sizes[image] for image in images]).reshape(-1, 2)
        flows = {
            name: torch.stack(
                [
                    crop_flow(self.flows.read(int(image), backward=name == "backward"), *place)
                    for image, *place in zip(
                        images, seen.drawn, sizes, [side] * len(images), strict=True
                    )
                ]
            )
            * within
            for name in ("forward", "backward")
        }
        return flows | {
            "own": torch.from_numpy(seen.own.astype(np.float32)),
            "canvas": torch.from_numpy(sizes[:, ::-1].astype(np.float32)),
            "time": torch.from_numpy(self.flows.time[images]),
        }


def crop_flow(flow: Tensor, window: np.ndarray, size: np.ndarray, side: int) -> Tensor:
    """Return the flow at the centres of a window's cells, float32 [2, side, side], in pixels.

    Args:
        flow: [2, H, W], or [2, 1, 1] where it is the same everywhere.
        window: [4] (x1, y1, x2, y2) in pixels; beyond the frame the flow of its border continues.
        size: (height, width) of the frame.
        side: of the result.
    """
    steps = (np.arange(side) + 0.5) / side
    x = (window[0] + steps * (window[2] - window[0])) / size[1] * 2 - 1
    y = (window[1] + steps * (window[3] - window[1])) / size[0] * 2 - 1
    at = torch.from_numpy(np.stack(np.meshgrid(x, y), axis=-1).astype(np.float32))
    return F.grid_sample(flow[None], at[None], padding_mode="border", align_corners=False)[0]


class MotionBatches(Dataset):
    """Batches of clips with motion: item ``i`` adds targets to item ``i`` of ``clips``.

    These are the targets of :class:`Motion` as [n, T, …], and "others", uint8 [n, T, side, side]:
    pixels at which other objects are visible.

    Args:
        clips: of a training split.
    """

    def __init__(self, clips: ClipBatches) -> None:
        self.clips = clips
        truth, images = clips.annotations.instances, clips.annotations.images
        self.motion = Motion(images, truth["image_id"], clips.cache)
        self.visible = strings(truth["visible_rle"])
        image = self.motion.image
        self.order = np.argsort(image, kind="stable")
        self.bounds = np.searchsorted(image[self.order], np.arange(len(images) + 1))

    def __getitem__(self, iteration: int) -> TrainingBatch:
        batch, clips = self.clips[iteration], self.clips
        index = batch.targets["index"]
        rows, drawn = index.flatten().numpy(), batch.targets["windows"].flatten(0, 1)
        own = windows(clips.boxes[rows], clips.sizes[rows], clips.crop)
        seen = ClipWindows(own, drawn.numpy().astype(np.float64))
        found = self.motion.targets(rows, seen, clips.crop.side)
        found["others"] = torch.from_numpy(self._others(rows, seen).astype(np.uint8))
        more = {name: values.unflatten(0, tuple(index.shape)) for name, values in found.items()}
        return TrainingBatch(batch.images, batch.targets | more, batch.names)

    def _others(self, rows: np.ndarray, seen: ClipWindows) -> np.ndarray:
        """Return pixels of each row's window at which other objects are visible, bool
        [M, side, side]."""
        side, images = self.clips.crop.side, self.motion.image[rows]
        beside = [self.order[self.bounds[image] : self.bounds[image + 1]] for image in images]
        of = np.repeat(np.arange(len(rows)), [len(each) for each in beside])
        other = np.concatenate(beside)
        of, other = of[other != rows[of]], other[other != rows[of]]
        repeated = ClipWindows(seen.own[of], seen.drawn[of])
        masks = repeated.crop_masks(
            self.visible.take(pa.array(other)), self.clips.sizes[other], side
        )
        found = np.zeros((len(rows), side, side), bool)
        np.logical_or.at(found, of, masks)
        return found
