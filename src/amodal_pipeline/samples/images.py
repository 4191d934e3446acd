"""Training batches of images, for detectors.

A batch is a pure function of (seed, iteration), its augmentation of (seed, iteration, index). So a
continued training needs no state of the sampler, and gives the same weights for any number of
workers. Masks are decoded from run lengths at the image's own resolution; only the image is scaled.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.utils.data import Dataset

from amodal_pipeline.annotations import AmodalAnnotations, Category, rle
from amodal_pipeline.annotations.images import read_image
from amodal_pipeline.annotations.levels import levels_of_image
from amodal_pipeline.annotations.tables import boxes as box_array
from amodal_pipeline.layers.configs import AugmentationConfig
from amodal_pipeline.layers.crops import crop_image
from amodal_pipeline.layers.detector import resize, scaled_size


@dataclass(frozen=True)
class TrainingBatch:
    """The input of a method in one iteration, and the names of the image files.

    For a detector: images [3, H, W] uint8 and one target per image. For a completer: crops of
    objects, see :class:`~amodal_pipeline.samples.objects.ObjectBatches`.
    """

    images: list[Tensor] | Tensor
    targets: list[dict] | dict[str, Tensor]
    names: list[str]


@lru_cache(maxsize=2)
def permutation(n: int, seed: int, epoch: int) -> np.ndarray:
    """Return the random order of n items in an epoch, int64 [n]."""
    return np.random.default_rng([seed, epoch]).permutation(n)


def batch_indices(n: int, batch_size: int, seed: int, iteration: int) -> list[int]:
    """Return the items of batch ``iteration`` of n: each item comes once per epoch."""
    places = range(iteration * batch_size, (iteration + 1) * batch_size)
    return [int(permutation(n, seed, p // n)[p % n]) for p in places]


class TrainingBatches(Dataset):
    """Batches of images: item ``i`` is the batch of iteration ``i``.

    Images in which all objects are ignored, or without objects, are left out.

    Args:
        annotations: the training split.
        augmentation: flip and scale jitter.
        batch_size: images per batch.
        seed: of order and augmentation.
        levels: whether targets have the visibility levels of their objects.

    Raises:
        ValueError: no image has an object that is not ignored.
    """

    def __init__(
        self,
        annotations: AmodalAnnotations,
        augmentation: AugmentationConfig,
        batch_size: int,
        seed: int,
        *,
        levels: bool = False,
    ) -> None:
        self.annotations = annotations
        self.levels = levels
        self.augmentation = augmentation
        self.batch_size, self.seed = batch_size, seed
        wanted = annotations.instances.loc[~annotations.instances["ignore"], "image_id"]
        images = annotations.images
        useful = np.isin(images["image_id"].to_numpy(), wanted.unique().to_numpy())
        if not useful.any():
            raise ValueError(
                f"{annotations.metadata.dataset}/{annotations.metadata.split} has no object to "
                "train on: check its table of rejected records"
            )
        self.rows = np.flatnonzero(useful)

    def __getitem__(self, iteration: int) -> TrainingBatch:
        indices = batch_indices(len(self.rows), self.batch_size, self.seed, iteration)
        samples = [self._sample(iteration, i) for i in indices]
        images, targets, names = zip(*samples, strict=True)
        return TrainingBatch(list(images), list(targets), list(names))

    def _sample(self, iteration: int, index: int) -> tuple[Tensor, dict, str]:
        draw = np.random.default_rng([self.seed, iteration, index])
        flip = draw.random() < self.augmentation.flip
        min_size = int(draw.choice(self.augmentation.min_sizes))
        image, target, name = sample(self.annotations, int(self.rows[index]), self.levels)
        size = scaled_size(image.shape[-2:], min_size, self.augmentation.max_size)
        return *scale_and_flip(image, target, size, flip), name


def sample(
    annotations: AmodalAnnotations, row: int, levels: bool = False
) -> tuple[Tensor, dict, str]:
    """Return an image as uint8 [3, H, W], its target, and its file name.

    The target has:

    - amodal_boxes, visible_boxes: float32 [N, 4] (x1, y1, x2, y2), NaN if nothing is visible
    - labels: int64 [N], position of the category from 1; -1 for an object to ignore, which counts
      neither as object nor as background
    - amodal_masks, visible_masks: uint8 [N, H, W]
    - mask_scale: (1, 1)
    - levels (with ``levels``): uint8 [N, H, W], the number of objects in front of each pixel of an
      object (:mod:`~..annotations.levels`)

    Args:
        annotations: the training split.
        row: row of ``annotations.images``.
        levels: whether to add the visibility levels.
    """
    record = annotations.images.iloc[row]
    size = (int(record["height"]), int(record["width"]))
    pixels = read_image(annotations.metadata.image_root, record["file_name"], size)
    objects = annotations.of_image(int(record["image_id"]))
    labels = labels_of(annotations.metadata.categories, objects["category_id"])
    labels[objects["ignore"].to_numpy(dtype=bool)] = -1
    target = {
        "amodal_boxes": _corners(box_array(objects["amodal_box"])),
        "visible_boxes": _corners(box_array(objects["visible_box"])),
        "labels": torch.from_numpy(labels),
        "amodal_masks": _masks(objects["amodal_rle"], size),
        "visible_masks": _masks(objects["visible_rle"], size),
        "mask_scale": (1.0, 1.0),
    }
    if levels:
        found = levels_of_image(annotations, int(record["image_id"]))
        target["levels"] = torch.from_numpy(found.level)
    return torch.from_numpy(pixels).permute(2, 0, 1), target, record["file_name"]


def scale_and_flip(
    image: Tensor, target: dict, size: tuple[int, int], flip: bool
) -> tuple[Tensor, dict]:
    """Return image and target scaled to ``size`` (h, w), and flipped if ``flip``.

    Masks are flipped but keep their resolution; mask_scale changes instead.
    """
    height, width = image.shape[-2:]
    factors = torch.tensor([size[1] / width, size[0] / height] * 2, dtype=torch.float32)
    image = resize(image, size)
    target = dict(target, mask_scale=(width / size[1], height / size[0]))
    if flip:
        for name in {"amodal_masks", "visible_masks", "levels"} & target.keys():
            target[name] = target[name].flip(-1)
    for kind in ("amodal", "visible"):
        boxes = target[f"{kind}_boxes"] * factors
        if flip:
            boxes = torch.stack(
                [size[1] - boxes[:, 2], boxes[:, 1], size[1] - boxes[:, 0], boxes[:, 3]], dim=1
            )
        target[f"{kind}_boxes"] = boxes
    return (image.flip(-1) if flip else image).contiguous(), target


def image_crops(
    root: str,
    names: Sequence[str],
    sizes: np.ndarray,
    windows: np.ndarray,
    side: int,
    read: Callable[..., np.ndarray] | None = None,
) -> Tensor:
    """Return the pixels of windows of images, uint8 [N, 3, side, side].

    Consecutive windows of the same image read it once.

    Args:
        root: folder of the images.
        names: file name of the image of each window.
        sizes: (height, width) of each image, [N, 2].
        windows: [N, 4] (x1, y1, x2, y2) in pixels.
        side: height and width of the result.
        read: returns the pixels of an image, as :func:`~..annotations.images.read_image` does,
            which reads them by default.
    """
    read = read or read_image
    crops, last = [], None
    for name, size, window in zip(names, sizes, windows, strict=True):
        if name != last:
            image = torch.from_numpy(read(root, name, tuple(size.tolist()))).permute(2, 0, 1)
            last = name
        crops.append(crop_image(image, window, side))
    return torch.stack(crops)


def labels_of(categories: Sequence[Category], category_ids: pd.Series) -> np.ndarray:
    """Return the positions of category ids [N] among ``categories``, from 1, as int64 [N]."""
    known = pd.Index([category.id for category in categories])
    return known.get_indexer(category_ids.to_numpy(dtype=np.int64)).astype(np.int64) + 1


def _corners(boxes: np.ndarray) -> Tensor:
    corners = torch.from_numpy(boxes.copy())
    corners[:, 2:] += corners[:, :2]
    return corners


def _masks(column: Sequence[str], size: tuple[int, int]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(rle.decode(list(column), size)))
