"""Batches of objects for completers: what is seen of each, within its surroundings.

Pure functions of (seed, iteration), and what is drawn for an object of (seed, iteration, index), as
:mod:`.data` has them for detectors.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator

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
from amodal_pipeline.layers.crops import crop_image, crop_masks, windows
from amodal_pipeline.training.data import TrainingBatch, batch_indices

_AT_ONCE = 16  # masks whose tokens are found at once: each has 75 MB at the size of the paper


class ObjectBatches(Dataset):
    """Item ``i`` is the batch of iteration ``i``: objects that are not ignored and have a visible
    part, every one once before any comes again.

    ``images`` uint8 [N, 3, image_side, image_side] (no pixels, [N, 3, 0, 0], without images).
    ``targets``: "input", the visible mask that the method is given (true or predicted, and
    corrupted), "visible" and "amodal", the truth: uint8 [N, side, side] of 0 and 1; "labels" int64
    [N], the position of the category from 1; "index" int64 [N], the row of ``instances``;
    "predicted" bool [N], whether "input" is what a detector predicted: then the window, too, is
    around that.

    Args:
        annotations: the training split.
        crop: what is seen of an object.
        batch_size: objects an iteration.
        seed: of order, enlargement, corruption, and of who gets a predicted mask.
        corruption: of the input; None leaves it as it is.
        enlargement: range that ``crop.enlarge`` is drawn from instead.
        detected: what a detector has found of these objects: visible masks, each with its
            ``instance_id``.
        predicted_share: of the objects that were detected, how many get the predicted mask.
        with_images: read them; otherwise no file is opened.

    Raises:
        ValueError: no object has a visible part; or ``detected`` is of other annotations, names an
            object twice or one that is not there, or lacks visible masks.
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
        detected: Predictions | None = None,
        predicted_share: float = 0.0,
        with_images: bool = True,
    ) -> None:
        self.annotations, self.crop, self.sizes = annotations, crop, annotations.sizes
        self.batch_size, self.seed = batch_size, seed
        self.corruption, self.enlargement = corruption, enlargement
        self.predicted_share, self.with_images = predicted_share, with_images
        truth = annotations.instances
        self.boxes = boxes(truth["visible_box"]).astype(np.float64)
        seen = ~np.isnan(self.boxes[:, 0]) & ~truth["ignore"].to_numpy(dtype=bool)
        self.rows = np.flatnonzero(seen)
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
        self.predicted_boxes = rle.box(self.predicted_masks, detected.sizes).astype(np.float64)
        there = ~np.isnan(self.predicted_boxes[:, 0])
        self.detections[at[there]] = np.flatnonzero(there)

    def keep_tokens(self, tokenize: Callable[[Iterable[Tensor]], Tensor]) -> None:
        """Give batches the tokens of amodal masks, "amodal_tokens" int64 [N, T, T], found once.

        Args:
            tokenize: batches of masks [n, side, side] of 0 and 1 to tokens [all n, T, T].

        Raises:
            ValueError: windows are drawn anew in every batch.
        """
        if self.enlargement:
            raise ValueError("no tokens can be kept of crops whose enlargement is drawn")
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
        indices = batch_indices(len(self.rows), self.batch_size, self.seed, iteration)
        draws = [np.random.default_rng([self.seed, iteration, i]) for i in indices]
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
                "predicted": torch.from_numpy(predicted),
                **kept,
            },
            [self.names[self.image_rows[row]] for row in rows],
        )

    def _images(self, rows: np.ndarray, seen: np.ndarray) -> Tensor:
        if not self.with_images:
            return torch.zeros(len(rows), 3, 0, 0, dtype=torch.uint8)
        root, crops = self.annotations.metadata.image_root, []
        for row, window in zip(rows, seen, strict=True):
            pixels = read_image(root, self.names[self.image_rows[row]], tuple(self.sizes[row]))
            image = torch.from_numpy(pixels).permute(2, 0, 1)
            crops.append(crop_image(image, window, self.crop.image_side))
        return torch.stack(crops)
