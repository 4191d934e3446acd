"""Pairs of objects for OrderNet: what is seen of both, and which one is in front.

Pure functions of (seed, iteration), and what is drawn for a pair of (seed, iteration, index), as
:mod:`.images` has them for detectors.
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
from amodal_pipeline.annotations.images import read_image
from amodal_pipeline.annotations.levels import VisibilityLevels, visibility_levels
from amodal_pipeline.annotations.tables import strings
from amodal_pipeline.layers.configs import CropConfig
from amodal_pipeline.layers.crops import crop_image, crop_masks, windows
from amodal_pipeline.samples.images import TrainingBatch, batch_indices


class PairView(Protocol):
    """What a network is shown of pairs; OrderNet's configuration has these fields and says what
    they mean."""

    inputs: Literal["amodal", "visible", "maps"]
    image: bool
    layers: int
    side: int
    mutual: bool
    flip: float

    @property
    def crop(self) -> CropConfig: ...


class PairCrops:
    """What OrderNet sees of pairs of the objects of a table.

    Where a prediction has no amodal mask its visible one stands for it. Distance maps are made from
    the masks and the order of the table (:func:`levels_of_predictions`).

    Args:
        objects: with masks of the kind that ``config.inputs`` names; for "maps" amodal ones,
            visible ones, and the order that puts hidden parts on their levels.
        config: what is seen.

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
                f"{config.inputs} needs: name a method that predicts them, or use inputs=amodal"
            )
        self.masks = visible if config.inputs == "visible" else whole
        self.boxes = rle.box(whole, self.sizes).astype(np.float64)
        self.image_ids = table["image_id"].to_numpy(dtype=np.int64)
        images = objects.images
        self.names = dict(zip(images["image_id"], images["file_name"], strict=True))

    def __call__(self, pairs: np.ndarray) -> tuple[Tensor, Tensor]:
        """Crops around pairs, in their order.

        Args:
            pairs: int64 [N, 2], rows of the table, each two of one image.

        Returns:
            images uint8 [N, 3, S, S], without any pixel ([N, 3, 0, 0]) where the network looks at
            none; and masks (0 or 1) or distance maps, float32 [N, 2, S, S].
        """
        sizes = self.sizes[pairs[:, 0]]
        seen = windows(_around(self.boxes[pairs]), sizes, self.config.crop)
        return self._images(pairs, seen), torch.from_numpy(self._inputs(pairs, seen, sizes))

    def _images(self, pairs: np.ndarray, seen: np.ndarray) -> Tensor:
        if not self.config.image:
            return torch.zeros(len(pairs), 3, 0, 0, dtype=torch.uint8)
        root, crops, last = self.objects.metadata.image_root, [], None
        for row, window in zip(pairs[:, 0], seen, strict=True):
            if self.image_ids[row] != last:
                last = self.image_ids[row]
                pixels = read_image(root, self.names[last], tuple(self.sizes[row]))
                image = torch.from_numpy(pixels).permute(2, 0, 1)
            crops.append(crop_image(image, window, self.config.side))
        return torch.stack(crops)

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
    """The rows of a table that are of one image, and their visibility levels by its masks and
    order, int64 [N] and :func:`~amodal_pipeline.annotations.levels.visibility_levels`.

    Visible pixels outside the amodal mask are left out. Of a pair that stands in both directions
    the one with the higher score counts; equal ones count neither.

    Raises:
        ValueError: an object has no visible mask.
    """
    rows = np.flatnonzero(objects.predictions["image_id"].to_numpy(dtype=np.int64) == image_id)
    table, order = objects.predictions.iloc[rows], objects.order
    amodal, visible = (strings(table[f"{kind}_rle"]) for kind in ("amodal", "visible"))
    if visible.null_count:
        raise ValueError(
            f"{visible.null_count} objects of {objects.metadata.method!r} in image {image_id} have "
            "no visible mask: levels need a method that predicts visible masks"
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
    """Pairs of objects of which the annotations state who is in front.

    ``pairs``: int64 [P, 2], rows of ``objects``, the nearer one first where ``mutual`` (bool [P])
    is false; of a mutual pair each is in front of the other, and it is there once.
    """

    pairs: np.ndarray
    mutual: np.ndarray


def true_pairs(annotations: AmodalAnnotations, objects: Predictions) -> TruePairs:
    """Return the order pairs of the annotations, inferred ones too, between objects of a table.

    Args:
        objects: each with the ``instance_id`` of the true object that it stands for.
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
    """Item ``i`` is the batch of iteration ``i``: pairs of overlapping objects whose order the
    annotations state, every one once before any comes again.

    ``images`` and the target "objects" are those of :class:`PairCrops`; "first_in_front" float32
    [N] is 1, 0, or one half of a mutual pair; "pair" int64 [N, 2], the rows of ``objects``. Which
    of the two comes first is drawn, and whether the crop is mirrored.

    Args:
        annotations: the training split, which states the order.
        objects: the true objects (annotations.known_objects.true_objects_with_order) or what was
            predicted for them (training.ordering.best_matches).
        config: of the network. ``mutual_pairs`` counts the pairs that stand in both directions;
            they are left out unless ``config.mutual``.
        batch_size: pairs an iteration.
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
                f"{annotations.metadata.dataset}/{annotations.metadata.split} states the order of "
                f"no two of {len(objects.predictions)} objects ({self.mutual_pairs} pairs in both "
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
    """Boxes [N, 4] (x, y, width, height) around two each, [N, 2, 4]; one that is NaN is none."""
    low = np.nanmin(pair_boxes[..., :2], axis=1)
    high = np.nanmax(pair_boxes[..., :2] + pair_boxes[..., 2:], axis=1)
    return np.concatenate([low, high - low], axis=1)


def _sampled(maps: np.ndarray, window: np.ndarray, side: int) -> np.ndarray:
    """The values [K, side, side] of maps [K, H, W] at the pixels of a window; 0 beyond them.

    Nothing is interpolated: between a level and the next one lies no value that means anything.
    """
    at = window[:2, None] + (window[2:] - window[:2])[:, None] * (np.arange(side) + 0.5) / side
    x, y = np.floor(at).astype(np.int64)
    height, width = maps.shape[1:]
    within = ((y >= 0) & (y < height))[:, None] & ((x >= 0) & (x < width))
    return maps[:, y.clip(0, height - 1)[:, None], x.clip(0, width - 1)] * within


def _mirrored(pixels: Tensor, which: np.ndarray) -> Tensor:
    return torch.where(torch.from_numpy(which)[:, None, None, None], pixels.flip(-1), pixels)
