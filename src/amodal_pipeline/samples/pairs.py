"""Training batches of pairs of objects with their order, for OrderNet.

As in :mod:`.images`, a batch is a pure function of (seed, iteration), and the random draws for a
pair are one of (seed, iteration, index).
"""

from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor
from torch.utils.data import Dataset

from amodal_pipeline.annotations import AmodalAnnotations, Predictions, rle
from amodal_pipeline.annotations.distance_maps import true_distance_maps
from amodal_pipeline.annotations.levels import VisibilityLevels, visibility_levels
from amodal_pipeline.annotations.tables import strings
from amodal_pipeline.layers.configs import CropConfig
from amodal_pipeline.layers.crops import crop_masks, windows
from amodal_pipeline.samples.images import TrainingBatch, batch_indices, image_crops


class PairView(Protocol):
    """The input that a network needs for pairs.

    :class:`~amodal_pipeline.methods.configs.OrderNetConfig` has these fields and explains them.
    """

    inputs: Literal["amodal", "visible", "maps"]
    image: bool
    layers: int
    side: int
    mutual: bool
    flip: float

    @property
    def crop(self) -> CropConfig: ...


class PairCrops:
    """Crops of pairs of objects in a table, as OrderNet sees them.

    The visible mask is used if a prediction has no amodal one. Distance maps are derived from the
    masks and the order in the table (:func:`levels_of_predictions`).

    Args:
        objects: with the masks that ``config.inputs`` names; "maps" needs amodal and visible masks
            and the order, which defines the levels of hidden parts.
        config: the input that the network needs.

    Raises:
        ValueError: an object lacks a mask that is needed.
    """

    def __init__(self, objects: Predictions, config: PairView) -> None:
        self.objects, self.config, self.sizes = objects, config, objects.sizes
        table = objects.predictions
        amodal, visible = (strings(table[f"{kind}_rle"]) for kind in ("amodal", "visible"))
        whole = pc.coalesce(amodal, visible)
        lacking = visible if config.inputs != "amodal" else whole
        if lacking.null_count:
            raise ValueError(
                f"{lacking.null_count} of {len(table)} objects of {objects.metadata.method!r} have "
                f"no {'visible ' * (config.inputs != 'amodal')}mask, which order_net.model.inputs="
                f"{config.inputs} needs: use a method that predicts it, or inputs=amodal"
            )
        self.masks = visible if config.inputs == "visible" else whole
        self.boxes = rle.box(whole, self.sizes).astype(np.float64)
        self.image_ids = table["image_id"].to_numpy(dtype=np.int64)
        images = objects.images
        self.names = dict(zip(images["image_id"], images["file_name"], strict=True))

    def __call__(self, pairs: np.ndarray) -> tuple[Tensor, Tensor]:
        """Return crops around pairs, in their order.

        Args:
            pairs: int64 [N, 2], rows of the table, each pair within one image.

        Returns:
            Images uint8 [N, 3, S, S], or [N, 3, 0, 0] if the network does not use them; and masks
            (0 or 1) or distance maps, float32 [N, 2, S, S].
        """
        sizes = self.sizes[pairs[:, 0]]
        seen = windows(_around(self.boxes[pairs]), sizes, self.config.crop)
        return self._images(pairs, seen), torch.from_numpy(self._inputs(pairs, seen, sizes))

    def _images(self, pairs: np.ndarray, seen: np.ndarray) -> Tensor:
        if not self.config.image:
            return torch.zeros(len(pairs), 3, 0, 0, dtype=torch.uint8)
        root, rows = self.objects.metadata.image_root, pairs[:, 0]
        names = [self.names[image_id] for image_id in self.image_ids[rows]]
        return image_crops(root, names, self.sizes[rows], seen, self.config.side)

    def _inputs(self, pairs: np.ndarray, seen: np.ndarray, sizes: np.ndarray) -> np.ndarray:
        side = self.config.side
        if self.config.inputs != "maps":
            masks = self.masks.take(pa.array(pairs.reshape(-1)))
            both = crop_masks(masks, seen.repeat(2, axis=0), sizes.repeat(2, axis=0), side)
            return both.reshape(-1, 2, side, side).astype(np.float32)
        maps, last = np.zeros((len(pairs), 2, side, side), np.float32), None
        for k, (pair, window) in enumerate(zip(pairs, seen, strict=True)):
            if self.image_ids[pair[0]] != last:
                last = self.image_ids[pair[0]]
                rows, levels = levels_of_predictions(self.objects, int(last))
            of = np.searchsorted(rows, pair)
            found = true_distance_maps(levels.amodal[of], levels.level[of], self.config.layers)
            maps[k] = _sampled(found, window, side)
        return maps


def levels_of_predictions(
    objects: Predictions, image_id: int
) -> tuple[np.ndarray, VisibilityLevels]:
    """Return an image's rows in a table, int64 [N], and the visibility levels of its objects.

    Levels follow from masks and order (:mod:`~amodal_pipeline.annotations.levels`). Visible pixels
    outside the amodal mask are left out. If the order has a pair in both directions, the one with
    the higher score is used, and neither if they are equal.

    Raises:
        ValueError: an object has no visible mask.
    """
    rows = np.flatnonzero(objects.predictions["image_id"].to_numpy(dtype=np.int64) == image_id)
    table, order = objects.predictions.iloc[rows], objects.order
    amodal, visible = (strings(table[f"{kind}_rle"]) for kind in ("amodal", "visible"))
    if visible.null_count:
        raise ValueError(
            f"{visible.null_count} objects of {objects.metadata.method!r} in image {image_id} have "
            "no visible mask, which levels need: use a method that predicts visible masks"
        )
    amodal = pc.coalesce(amodal, visible)
    own = order[order["image_id"].to_numpy(dtype=np.int64) == image_id]
    ids = pd.Index(table["prediction_id"].to_numpy(dtype=np.int64))
    front, back = (ids.get_indexer(own[name]) for name in ("front_id", "back_id"))
    score = np.full((len(table), len(table)), -np.inf)
    stated = own["score"].to_numpy(dtype=np.float64, na_value=-np.inf)
    known = (front >= 0) & (back >= 0)
    np.maximum.at(score, (front[known], back[known]), stated[known])
    pairs = np.argwhere(score > score.T).astype(np.int64)
    size = tuple(map(int, objects.sizes[rows[0]]))
    return rows, visibility_levels(amodal, rle.intersection(amodal, visible), pairs, size)


@dataclass(frozen=True, eq=False)
class TruePairs:
    """Pairs of objects whose order the annotations state.

    Attributes:
        pairs: int64 [P, 2], rows of ``objects``, the front one first unless ``mutual``.
        mutual: bool [P], whether each of the two is in front of the other; such a pair comes once.
    """

    pairs: np.ndarray
    mutual: np.ndarray


def true_pairs(annotations: AmodalAnnotations, objects: Predictions) -> TruePairs:
    """Return the order pairs of the annotations, inferred ones too, between objects of a table.

    Args:
        annotations: the true order.
        objects: with the ``instance_id`` of their true objects.
    """
    ids = pd.Index(objects.predictions["instance_id"].to_numpy(dtype=np.int64))
    ends = [ids.get_indexer(annotations.order[c]) for c in ("occluder_id", "occludee_id")]
    pairs = np.stack(ends, axis=1).astype(np.int64)
    pairs = pairs[(pairs >= 0).all(axis=1)]
    forth, back = (pairs[:, i] * len(ids) + pairs[:, 1 - i] for i in (0, 1))
    mutual = np.isin(forth, back)
    once = ~mutual | (pairs[:, 0] < pairs[:, 1])
    return TruePairs(pairs[once], mutual[once])


class PairBatches(Dataset):
    """Batches of pairs of overlapping objects: item ``i`` is the batch of iteration ``i``.

    Each pair whose order the annotations state comes once per epoch, in random direction, and
    mirrored at random. ``images`` and the target "objects" are those of :class:`PairCrops`.
    "first_in_front", float32 [N], is 1, 0, or 0.5 for a mutual pair. "pair", int64 [N, 2], has the
    rows of ``objects``. ``mutual_pairs`` is the number of pairs in both directions, which are left
    out unless ``config.mutual``.

    Args:
        annotations: the training split, which states the order.
        objects: the true objects (annotations.known_objects.true_objects_with_order), or
            predictions for them (training.ordering.best_matches).
        config: the input that the network needs.
        batch_size: pairs per batch.
        seed: of order, direction and mirroring.

    Raises:
        ValueError: no pair is left, or an object lacks a mask that is needed.
    """

    def __init__(
        self,
        annotations: AmodalAnnotations,
        objects: Predictions,
        config: PairView,
        batch_size: int,
        seed: int,
    ) -> None:
        self.crops, self.config = PairCrops(objects, config), config
        self.batch_size, self.seed = batch_size, seed
        found = true_pairs(annotations, objects)
        kept = ~found.mutual | config.mutual
        self.pairs, self.undecided = found.pairs[kept], found.mutual[kept]
        self.mutual_pairs = int(found.mutual.sum())
        if len(self.pairs) == 0:
            raise ValueError(
                f"{annotations.metadata.dataset}/{annotations.metadata.split} has no order between "
                f"{len(objects.predictions)} objects (and {self.mutual_pairs} pairs in both "
                "directions): OrderNet needs a data set with depth order"
            )

    def __getitem__(self, iteration: int) -> TrainingBatch:
        indices = batch_indices(len(self.pairs), self.batch_size, self.seed, iteration)
        draws = [np.random.default_rng([self.seed, iteration, i]) for i in indices]
        swapped = np.array([draw.random() < 0.5 for draw in draws])
        mirrored = np.array([draw.random() < self.config.flip for draw in draws])
        pairs = np.where(swapped[:, None], self.pairs[indices][:, ::-1], self.pairs[indices])
        images, objects = self.crops(pairs)
        first = np.where(self.undecided[indices], 0.5, ~swapped)
        return TrainingBatch(
            _mirrored(images, mirrored),
            {
                "objects": _mirrored(objects, mirrored),
                "first_in_front": torch.from_numpy(first.astype(np.float32)),
                "pair": torch.from_numpy(np.ascontiguousarray(pairs)),
            },
            [self.crops.names[self.crops.image_ids[row]] for row in pairs[:, 0]],
        )


def _around(pair_boxes: np.ndarray) -> np.ndarray:
    """Return boxes [N, 4] (x, y, width, height) around pairs of boxes [N, 2, 4].

    A NaN box is ignored.
    """
    low = np.nanmin(pair_boxes[..., :2], axis=1)
    high = np.nanmax(pair_boxes[..., :2] + pair_boxes[..., 2:], axis=1)
    return np.concatenate([low, high - low], axis=1)


def _sampled(maps: np.ndarray, window: np.ndarray, side: int) -> np.ndarray:
    """Return the values of maps [K, H, W] in a window, [K, side, side]; 0 outside the maps.

    Values are not interpolated, because those between two levels have no meaning.
    """
    at = window[:2, None] + (window[2:] - window[:2])[:, None] * (np.arange(side) + 0.5) / side
    x, y = np.floor(at).astype(np.int64)
    height, width = maps.shape[1:]
    within = ((y >= 0) & (y < height))[:, None] & ((x >= 0) & (x < width))
    return maps[:, y.clip(0, height - 1)[:, None], x.clip(0, width - 1)] * within


def _mirrored(pixels: Tensor, which: np.ndarray) -> Tensor:
    return torch.where(torch.from_numpy(which)[:, None, None, None], pixels.flip(-1), pixels)
