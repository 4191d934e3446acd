"""Batches of objects for completers: what is seen of each, within its surroundings.

Pure functions of (seed, iteration), and what is drawn for an object of (seed, iteration, index), as
:mod:`.images` has them for detectors.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from torch import Tensor
from torch.utils.data import Dataset

from amodal_pipeline.annotations import AmodalAnnotations, Predictions, rle
from amodal_pipeline.annotations.images import read_image
from amodal_pipeline.annotations.tables import boxes, strings
from amodal_pipeline.layers.configs import CorruptionConfig, CropConfig
from amodal_pipeline.layers.corruption import corrupt
from amodal_pipeline.layers.crops import (
    FITTING,
    around_amodal,
    aspects,
    crop_image,
    crop_masks,
    windows,
)
from amodal_pipeline.samples.images import TrainingBatch, permutation

_AT_ONCE = 16  # masks whose tokens are found at once: each has 75 MB at the size of the paper


def boxes_around(predictions: Predictions, around: Literal["visible", "amodal"]) -> np.ndarray:
    """Boxes of predicted objects that their windows are put around, float64 [N, 4] (x, y, width,
    height): the tight one of the visible mask, or that united with the amodal one; NaN where
    nothing is visible.

    Raises:
        ValueError: an object with a visible part has no amodal box that windows can be put around.
    """
    table = predictions.predictions
    masks = pa.array(table["visible_rle"].tolist(), pa.string())
    visible = rle.box(masks, predictions.sizes).astype(np.float64)
    if around == "visible":
        return visible
    amodal = boxes(table["amodal_box"]).astype(np.float64)
    around = around_amodal(amodal, visible, predictions.sizes)
    wrong = np.isnan(around[:, 0]) & ~np.isnan(visible[:, 0])
    if wrong.any():
        at = int(np.flatnonzero(wrong)[0])
        first, box = table.iloc[at], amodal[at]
        has = "none" if np.isnan(box).any() else box.tolist()
        raise ValueError(
            f"{wrong.sum()} of {len(table)} objects of {predictions.metadata.method!r} have no "
            f"amodal box that fits (the first: {first['prediction_id']} in image "
            f"{first['image_id']} has {has}), and crop.around is amodal, which takes {FITTING}: "
            "take true objects with their boxes, detections of a method with amodal boxes, or have "
            "stage one estimate them (training.completing.estimate_boxes)"
        )
    return around


class ObjectBatches(Dataset):
    """Item ``i`` is the batch of iteration ``i``: objects that are not ignored and have a visible
    part, every one once before any comes again.

    ``images`` uint8 [N, 3, image_side, image_side] (no pixels, [N, 3, 0, 0], without images).
    ``targets``: "input", the visible mask that the method is given (true or predicted, and
    corrupted), "visible" and "amodal", the truth: uint8 [N, side, side] of 0 and 1; "labels" int64
    [N], the position of the category from 1; "index" int64 [N], the row of ``instances``;
    "aspect" float32 [N, 2], width and height of the window over the longer; "predicted" bool [N],
    whether "input" is what a detector predicted: then the window, too, is around that; "partner"
    int64 [N], the position in the batch of another view of the same object, -1 where none.

    In pairs, an object that is seen several times is followed by another view of it (one of the
    same ``track_id``), which is drawn at random and counts towards the batch; where a batch ends
    between the two, neither has a partner.

    Args:
        annotations: the training split.
        crop: what is seen of an object.
        batch_size: objects an iteration.
        seed: of order, enlargement, corruption, and of who gets a predicted mask.
        corruption: of the input; None leaves it as it is.
        enlargement: range that ``crop.enlarge`` is drawn from instead.
        box_noise: boxes are shifted and scaled, in width and height each, by up to this share of
            their sides.
        paired: give objects partners.
        detected: what a detector has found of these objects: visible masks, each with its
            ``instance_id``.
        predicted_share: of the objects that were detected, how many get the predicted mask.
        with_images: read them; otherwise no file is opened.

    Raises:
        ValueError: no object has a visible part; or ``detected`` is of other annotations, names an
            object twice or one that is not there, or lacks visible masks, or boxes to crop around.
    """

    def __init__(
        self,
        annotations: AmodalAnnotations,
        crop: CropConfig,
        batch_size: int,
        seed: int,
        *,
        corruption: CorruptionConfig | None = None,
        enlargement: tuple[float, float] | None = None,
        box_noise: float = 0.0,
        paired: bool = False,
        detected: Predictions | None = None,
        predicted_share: float = 0.0,
        with_images: bool = True,
    ) -> None:
        self.annotations, self.crop, self.sizes = annotations, crop, annotations.sizes
        self.batch_size, self.seed = batch_size, seed
        self.corruption, self.enlargement, self.box_noise = corruption, enlargement, box_noise
        self.predicted_share, self.with_images = predicted_share, with_images
        truth = annotations.instances
        self.boxes = boxes(truth[f"{crop.around}_box"]).astype(np.float64)
        seen = ~np.isnan(boxes(truth["visible_box"])[:, 0])
        self.rows = np.flatnonzero(seen & ~truth["ignore"].to_numpy(dtype=bool))
        if len(self.rows) == 0:
            raise ValueError(
                f"{annotations.metadata.dataset}/{annotations.metadata.split} has no object with a "
                "visible part to train on: check its table of rejected records"
            )
        self.masks = {kind: strings(truth[f"{kind}_rle"]) for kind in ("amodal", "visible")}
        ids = np.array([c.id for c in annotations.metadata.categories])
        order = np.argsort(ids)
        category = truth["category_id"].to_numpy(dtype=np.int64)
        self.labels = order[np.searchsorted(ids[order], category)] + 1
        image_ids = annotations.images["image_id"].to_numpy(dtype=np.int64)
        order = np.argsort(image_ids)
        of = truth["image_id"].to_numpy(dtype=np.int64)
        self.image_rows = order[np.searchsorted(image_ids[order], of)]
        self.names = annotations.images["file_name"].tolist()
        self.views = _Views(truth["track_id"].iloc[self.rows], paired)
        self.places = int(self.views.places.sum())  # of an epoch
        self.epochs: dict[int, np.ndarray] = {}
        # The row of the detection that is each object, and those detections.
        self.detections = np.full(len(truth), -1, np.int64)
        self.predicted_masks, self.predicted_boxes = pa.array([], pa.string()), np.zeros((0, 4))
        self.tokens: Tensor | None = None
        if detected is not None:
            self._add(detected)

    def _add(self, detected: Predictions) -> None:
        table, made = detected.predictions, detected.metadata
        if made.annotations and made.annotations != self.annotations.fingerprint:
            raise ValueError(
                f"the predictions of {made.method!r} are for other annotations than these: predict "
                f"the objects of {self.annotations.metadata.dataset}, "
                f"{self.annotations.metadata.split} again"
            )
        if table[["instance_id", "visible_rle"]].isna().any(axis=None):
            raise ValueError(
                f"predictions of {made.method!r} without instance_id or visible mask: give those "
                "that are matched to true objects, of a method that predicts visible masks"
            )
        truth = self.annotations.instances["instance_id"].to_numpy(dtype=np.int64)
        ids = table["instance_id"].to_numpy(dtype=np.int64)
        order = np.argsort(truth)
        at = order[np.searchsorted(truth[order], ids).clip(max=len(truth) - 1)]
        wrong = (truth[at] != ids) | pd.Series(ids).duplicated().to_numpy()
        if wrong.any():
            raise ValueError(
                f"the predictions of {made.method!r} name the object {ids[wrong][0]} twice, or it "
                "is not in the annotations: match them to these objects one to one"
            )
        self.predicted_masks = strings(table["visible_rle"])
        self.predicted_boxes = boxes_around(detected, self.crop.around)
        there = ~np.isnan(self.predicted_boxes[:, 0])
        self.detections[at[there]] = np.flatnonzero(there)

    def keep_tokens(self, tokenize: Callable[[Iterable[Tensor]], Tensor]) -> None:
        """Give batches the tokens of amodal masks, "amodal_tokens" int64 [N, T, T], found once.

        Args:
            tokenize: batches of masks [n, side, side] of 0 and 1 to tokens [all n, T, T].

        Raises:
            ValueError: windows are drawn anew in every batch.
        """
        if self.enlargement or self.box_noise:
            raise ValueError("no tokens can be kept of crops whose enlargement or box is drawn")
        found = self.rows[self.detections[self.rows] >= 0]
        true, predicted = self.boxes, self.predicted_boxes[self.detections[found]]
        tokens = tokenize(
            itertools.chain(
                self._amodal_crops(self.rows, true[self.rows]), self._amodal_crops(found, predicted)
            )
        )
        place = np.full((2, len(self.boxes)), -1, np.int64)
        place[0, self.rows] = np.arange(len(self.rows))
        place[1, found] = len(self.rows) + np.arange(len(found))
        self.tokens, self.token_places = tokens, place

    def _amodal_crops(self, rows: np.ndarray, boxes: np.ndarray) -> Iterator[Tensor]:
        for start in range(0, len(rows), _AT_ONCE):
            own = rows[start : start + _AT_ONCE]
            seen = windows(boxes[start : start + _AT_ONCE], self.sizes[own], self.crop)
            counts = self.masks["amodal"].take(pa.array(own))
            yield torch.from_numpy(crop_masks(counts, seen, self.sizes[own], self.crop.side))

    def __getitem__(self, iteration: int) -> TrainingBatch:
        indices, draws, partner = self._drawn(iteration)
        rows = self.rows[indices]
        sizes, side = self.sizes[rows], self.crop.side
        enlarge = (
            np.array([d.uniform(*self.enlargement) for d in draws]) if self.enlargement else None
        )
        predicted = np.array([d.random() < self.predicted_share for d in draws])
        predicted &= self.detections[rows] >= 0
        detections = self.detections[rows[predicted]]
        boxes = self.boxes[rows]
        boxes[predicted] = self.predicted_boxes[detections]
        if self.box_noise:
            boxes = _shaken(boxes, np.stack([d.uniform(-1, 1, 4) for d in draws]) * self.box_noise)
        seen = windows(boxes, sizes, self.crop, enlarge)
        truth = {
            kind: crop_masks(masks.take(pa.array(rows)), seen, sizes, side)
            for kind, masks in self.masks.items()
        }
        given = truth["visible"].copy()
        given[predicted] = crop_masks(
            self.predicted_masks.take(pa.array(detections)), seen[predicted], sizes[predicted], side
        )
        if self.corruption:
            given = np.stack(
                [corrupt(m, self.corruption, d) for m, d in zip(given, draws, strict=True)]
            )
        masks = {"input": given, **truth}
        kept = {}
        if self.tokens is not None:
            places = self.token_places[predicted.astype(int), rows]
            kept["amodal_tokens"] = self.tokens[torch.from_numpy(places)].long()
        return TrainingBatch(
            self._images(rows, seen),
            {
                **{kind: torch.from_numpy(mask.astype(np.uint8)) for kind, mask in masks.items()},
                "labels": torch.from_numpy(self.labels[rows]),
                "index": torch.from_numpy(rows),
                "aspect": aspects(seen),
                "predicted": torch.from_numpy(predicted),
                "partner": torch.from_numpy(partner),
                **kept,
            },
            [self.names[self.image_rows[row]] for row in rows],
        )

    def _drawn(self, iteration: int) -> tuple[np.ndarray, list[np.random.Generator], np.ndarray]:
        """Of a batch: positions in ``rows``, what else is drawn for each, and partners."""
        first, total = iteration * self.batch_size, self.places
        last = first + self.batch_size
        parts = [
            self._epoch(e)[:, max(first - e * total, 0) : last - e * total]
            for e in range(first // total, -(-last // total))
        ]
        indices, other = np.concatenate(parts, axis=1)
        draws = [
            np.random.default_rng([self.seed, iteration, i, 1] if o else [self.seed, iteration, i])
            for i, o in zip(indices, other, strict=True)
        ]
        partner = np.full(self.batch_size, -1)
        for at in np.flatnonzero(other):
            indices[at] = self.views.another(indices[at], draws[at])
            if at:
                partner[at - 1 : at + 1] = at, at - 1
        return indices, draws, partner

    def _epoch(self, epoch: int) -> np.ndarray:
        """Places of an epoch [2, P]: whose turn it is, and whether with another view."""
        if epoch not in self.epochs:
            order = permutation(len(self.rows), self.seed, epoch)
            turns = np.repeat(order, self.views.places[order])
            # A batch may reach from one epoch into the next: two are kept.
            self.epochs = {e: kept for e, kept in self.epochs.items() if abs(e - epoch) == 1}
            self.epochs[epoch] = np.stack([turns, np.diff(turns, prepend=-1) == 0])
        return self.epochs[epoch]

    def _images(self, rows: np.ndarray, seen: np.ndarray) -> Tensor:
        if not self.with_images:
            return torch.zeros(len(rows), 3, 0, 0, dtype=torch.uint8)
        root, crops = self.annotations.metadata.image_root, []
        for row, window in zip(rows, seen, strict=True):
            pixels = read_image(root, self.names[self.image_rows[row]], tuple(self.sizes[row]))
            image = torch.from_numpy(pixels).permute(2, 0, 1)
            crops.append(crop_image(image, window, self.crop.image_side))
        return torch.stack(crops)


class _Views:
    """Which objects are views of the same: ``places`` int64 [N] is 2 for those that have another
    view, 1 for others; all of them if not ``paired``."""

    def __init__(self, tracks: pd.Series, paired: bool) -> None:
        track, _ = pd.factorize(tracks)
        self.order = np.argsort(track, kind="stable")
        self.place = np.argsort(self.order)
        self.first, self.last = (
            np.searchsorted(track[self.order], track, side) for side in ("left", "right")
        )
        several = (track >= 0) & (self.last - self.first > 1)
        self.places = 1 + (several & paired)

    def another(self, index: int, draw: np.random.Generator) -> int:
        at = draw.integers(self.first[index], self.last[index] - 1)
        return self.order[at + (at >= self.place[index])]


def _shaken(boxes: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """Boxes whose centre is shifted, and whose sides grow, by shares of the sides [N, 4]."""
    sides = boxes[:, 2:]
    centre, grown = boxes[:, :2] + sides * (0.5 + noise[:, :2]), sides * (1 + noise[:, 2:])
    return np.concatenate([centre - grown / 2, grown], axis=1)
