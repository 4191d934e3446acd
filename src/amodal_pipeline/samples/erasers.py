"""Training batches of visible masks that are cut by other masks, "erasers".

From these a network learns to complete objects without any amodal mask (Zhan et al., CVPR 2020,
section 3.2; numbers as in the released code). Only visible masks are read. As in :mod:`.objects`, a
batch is a pure function of (seed, iteration), and the random draws for an object are one of (seed,
iteration, index).
"""

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor
from torch.utils.data import Dataset

from amodal_pipeline.annotations import AmodalAnnotations
from amodal_pipeline.annotations.tables import boxes, strings
from amodal_pipeline.layers.configs import CropConfig
from amodal_pipeline.layers.crops import crop_masks, windows
from amodal_pipeline.samples.images import TrainingBatch, batch_indices, image_crops, labels_of

SHIFT = 0.2  # of the window, in units of its side, at most
SCALE = (0.8, 1.2)  # of the object within its window
OVERLAP = (0.4, 1.0)  # share of the window that the eraser's displaced window covers
CUT = (0.001, 0.9)  # share of the object that an eraser may cut away
TRIES = 100
SMALLEST = 5.0  # side of a window, in pixels of the image; smaller objects are left out


class EraserBatches(Dataset):
    """Batches of objects, each with the mask of another one as eraser: item ``i`` is iteration i.

    Objects that are ignored, have no visible part or a window below 5 pixels are left out; each
    other one comes once per epoch, in its window, shifted, scaled and mirrored at random. Its
    eraser is a random object of the split in its own window, scaled and mirrored at random, and
    displaced so that it cuts a share of 0.001 to 0.9 of the object (:func:`displacement`).

    ``targets``, of which the first three are uint8 [N, side, side] of 0 and 1:

    - "visible": the object's visible mask V
    - "in_front": the eraser E; with the probability ``behind`` E \\ V, an eraser that hides nothing
    - "input": V \\ E
    - "labels": int64 [N], position of the category from 1
    - "index": int64 [N], row of ``instances``

    Args:
        annotations: the training split.
        crop: the window around a visible mask.
        batch_size: objects per batch.
        seed: of all random choices.
        behind: the share of objects that are in front of their eraser.
        with_images: whether to read images, uint8 [N, 3, image_side, image_side]; otherwise no file
            is opened, and images are [N, 3, 0, 0].

    Raises:
        ValueError: there is no such object.
    """

    def __init__(
        self,
        annotations: AmodalAnnotations,
        crop: CropConfig,
        batch_size: int,
        seed: int,
        *,
        behind: float,
        with_images: bool = False,
    ) -> None:
        self.annotations, self.crop, self.sizes = annotations, crop, annotations.sizes
        self.batch_size, self.seed, self.behind = batch_size, seed, behind
        self.with_images = with_images
        truth = annotations.instances
        self.windows = windows(boxes(truth["visible_box"]), self.sizes, crop)
        large = (self.windows[:, 2:] - self.windows[:, :2]).min(axis=1) >= SMALLEST
        self.rows = np.flatnonzero(large & ~truth["ignore"].to_numpy(dtype=bool))
        if len(self.rows) == 0:
            raise ValueError(
                f"{annotations.metadata.dataset}/{annotations.metadata.split} has no object with a "
                f"visible part of some {SMALLEST:.0f} pixels to train on: check its table of "
                "rejected records"
            )
        self.masks = strings(truth["visible_rle"])
        self.labels = labels_of(annotations.metadata.categories, truth["category_id"])
        images = annotations.images.set_index("image_id")["file_name"]
        self.names = images.loc[truth["image_id"]].tolist()

    def __getitem__(self, iteration: int) -> TrainingBatch:
        indices = batch_indices(len(self.rows), self.batch_size, self.seed, iteration)
        draws = [np.random.default_rng([self.seed, iteration, i]) for i in indices]
        rows = self.rows[indices]
        others = self.rows[[int(draw.integers(len(self.rows))) for draw in draws]]
        # Shift in x and y, scale and mirroring of the object; scale and mirroring of the eraser.
        shift = np.stack([draw.uniform(-SHIFT, SHIFT, 2) for draw in draws])
        scale = np.stack([draw.uniform(*SCALE, 2) for draw in draws])
        mirrored = np.stack([draw.random(2) < 0.5 for draw in draws])
        hides = np.array([draw.random() >= self.behind for draw in draws])

        seen = varied(self.windows[rows], shift, scale[:, 0])
        visible = self._crops(rows, seen, mirrored[:, 0])
        around = varied(self.windows[others], np.zeros_like(shift), scale[:, 1])
        erasers = self._crops(others, around, mirrored[:, 1])
        erasers = np.stack(
            [
                shifted(e, *displacement(e, v, draw))
                for e, v, draw in zip(erasers, visible, draws, strict=True)
            ]
        )
        erasers &= hides[:, None, None] | ~visible
        masks = {"visible": visible, "in_front": erasers, "input": visible & ~erasers}
        return TrainingBatch(
            self._images(rows, seen, mirrored[:, 0]),
            {
                **{name: torch.from_numpy(mask.astype(np.uint8)) for name, mask in masks.items()},
                "labels": torch.from_numpy(self.labels[rows]),
                "index": torch.from_numpy(rows),
            },
            [self.names[row] for row in rows],
        )

    def _crops(self, rows: np.ndarray, seen: np.ndarray, mirrored: np.ndarray) -> np.ndarray:
        masks = self.masks.take(pa.array(rows))
        crops = crop_masks(masks, seen, self.sizes[rows], self.crop.side)
        return np.where(mirrored[:, None, None], crops[:, :, ::-1], crops)

    def _images(self, rows: np.ndarray, seen: np.ndarray, mirrored: np.ndarray) -> Tensor:
        if not self.with_images:
            return torch.zeros(len(rows), 3, 0, 0, dtype=torch.uint8)
        names, root = [self.names[row] for row in rows], self.annotations.metadata.image_root
        images = image_crops(root, names, self.sizes[rows], seen, self.crop.image_side)
        return torch.where(torch.from_numpy(mirrored)[:, None, None, None], images.flip(-1), images)


def varied(windows: np.ndarray, shift: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Return windows shifted, and shrunk so that what they show is ``scale`` times as large.

    Args:
        windows: [N, 4] (x1, y1, x2, y2) in pixels.
        shift: in x and y, in units of the window's sides, [N, 2].
        scale: [N].
    """
    sides = windows[:, 2:] - windows[:, :2]
    centre = windows[:, :2] + sides * (0.5 + shift)
    half = sides / scale[:, None] / 2
    return np.concatenate([centre - half, centre + half], axis=1)


def displacement(
    eraser: np.ndarray, mask: np.ndarray, draw: np.random.Generator
) -> tuple[int, int]:
    """Return how to move an eraser, right and down, to cut a share within :data:`CUT` of a mask.

    The displaced frame covers a share within :data:`OVERLAP` of the frame. After :data:`TRIES`
    attempts the last one is taken as it is.

    Args:
        eraser, mask: bool [S, S].
        draw: of displacements.
    """
    side, area = len(mask), max(np.count_nonzero(mask), 1)
    for _ in range(TRIES):
        covers = draw.uniform(*OVERLAP)
        across = draw.uniform(covers - 1, 1 - covers)
        down = (1 - covers / (1 - abs(across))) * draw.choice([-1, 1])
        move = round(across * side), round(down * side)
        moved = shifted(eraser, *move)
        if CUT[0] <= np.count_nonzero(moved & mask) / area < CUT[1]:
            break
    return move


def shifted(mask: np.ndarray, right: int, down: int) -> np.ndarray:
    """Return a mask [S, S] moved by whole pixels; nothing comes in from beyond its border."""
    height, width = mask.shape
    moved = np.zeros_like(mask)
    moved[max(down, 0) : height + min(down, 0), max(right, 0) : width + min(right, 0)] = mask[
        max(-down, 0) : height - max(down, 0), max(-right, 0) : width - max(right, 0)
    ]
    return moved
