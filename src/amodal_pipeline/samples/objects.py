"""Training batches of objects in their surroundings, for completers.

As in :mod:`.images`, a batch is a pure function of (seed, iteration), and the random draws for an
object are one of (seed, iteration, index).
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
import torch.nn.functional as F
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
    crop_masks,
    windows,
)
from amodal_pipeline.samples.erasers import displacement, shifted, varied
from amodal_pipeline.samples.images import (
    TrainingBatch,
    image_crops,
    labels_of,
    permutation,
)

_AT_ONCE = 16  # masks encoded at once; one takes 75 MB at the paper's size
IMAGES_LIMIT = 2**29  # bytes of kept images; the 400 of the scenes have 0.12 GB
PASTED_SCALE = (0.5, 1.5)  # of an object pasted over another, within a window like its own
MAPS_LIMIT = 2 * 2**30  # bytes of kept maps; the 3,362 objects of the scenes have 0.8 GB


def boxes_around(predictions: Predictions, around: Literal["visible", "amodal"]) -> np.ndarray:
    """Return the boxes around which windows are put, float64 [N, 4] (x, y, width, height).

    They are tight around the visible masks; with ``around`` "amodal", united with the amodal boxes.
    They are NaN if nothing is visible.

    Raises:
        ValueError: an object with a visible part has no suitable amodal box.
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
            f"suitable amodal box (the first: {first['prediction_id']} in image "
            f"{first['image_id']} has {has}), but crop.around=amodal needs {FITTING}: use true "
            "objects with their boxes, detections with amodal boxes, or estimate the boxes with "
            "stage one (training.completing.estimate_boxes)"
        )
    return around


class VisibleOthers:
    """The pixels at which other objects of an image are visible, as run lengths.

    Pixels of an object's own mask are left out, also where masks overlap.

    Args:
        masks: visible masks of all objects of the images, N run lengths.
        images: the image of each, by any number, int64 [N].
    """

    def __init__(self, masks: rle.Masks, images: np.ndarray) -> None:
        self.masks = masks if isinstance(masks, pa.Array) else pa.array(masks, pa.string())
        _, self.image = np.unique(images, return_inverse=True)
        self.order = np.argsort(self.image, kind="stable")
        counts = np.bincount(self.image)
        self.ends = np.cumsum(counts)
        self.starts = self.ends - counts

    def __call__(self, rows: np.ndarray) -> list[str]:
        """Return the visible pixels of all objects of the image but each of M, int64 [M]."""
        # One union per image, which an object's own mask is cut out of.
        images, of = np.unique(self.image[rows], return_inverse=True)
        members = [self.order[self.starts[i] : self.ends[i]] for i in images]
        _, union = _united(self.masks, members)
        return rle.difference([union[i] for i in of], self.masks.take(pa.array(rows)))


class VisibleInFront:
    """The pixels at which the occluders of an object are visible, as run lengths.

    Args:
        masks: visible masks of all objects, N run lengths.
        front, back: pairs of rows, each pair once, int64 [E].
    """

    def __init__(self, masks: rle.Masks, front: np.ndarray, back: np.ndarray) -> None:
        self.masks = masks if isinstance(masks, pa.Array) else pa.array(masks, pa.string())
        order = np.argsort(back, kind="stable")
        self.front, self.back = front[order], back[order]

    def __call__(self, rows: np.ndarray) -> list[str]:
        """Return the union of the visible masks of all occluders of each of M, int64 [M]."""
        starts, ends = (np.searchsorted(self.back, rows, side) for side in ("left", "right"))
        members = [self.front[a:b] for a, b in zip(starts, ends, strict=True)]
        own = self.masks.take(pa.array(rows))
        found = rle.difference(own, own)  # nothing, on the canvas of each
        for at, union in zip(*_united(self.masks, members), strict=True):
            found[at] = union
        return found


def _united(masks: pa.Array, members: list[np.ndarray]) -> tuple[list[int], list[str]]:
    """Return the positions of the members that are not empty, and the union of each one's masks."""
    owner = np.repeat(np.arange(len(members)), [len(each) for each in members])
    every = np.concatenate([np.zeros(0, np.int64), *members])
    return rle.united(owner, masks.take(pa.array(every)).to_pylist())


@dataclass(frozen=True)
class _Pasted:
    """Objects pasted over others: the windows of those [N, 4]; in these windows the masks of the
    pasted ones, bool [N, S, S], and their images, uint8 [N, 3, I, I]."""

    windows: np.ndarray
    masks: np.ndarray
    images: Tensor

    def over(self, images: Tensor) -> Tensor:
        """Return images [N, 3, I, I] with the objects pasted."""
        where = F.interpolate(torch.from_numpy(self.masks)[:, None].float(), images.shape[-2:])
        return torch.where(where > 0, self.images, images)


class ObjectBatches(Dataset):
    """Batches of objects: item ``i`` is the batch of iteration ``i``.

    Objects that are ignored, or have no visible part, are left out; each other one comes once per
    epoch. ``images`` are uint8 [N, 3, image_side, image_side], or [N, 3, 0, 0] without images.
    ``targets``:

    - "input": uint8 [N, side, side], the visible mask that the method sees: true or predicted, and
      corrupted
    - "visible", "amodal": uint8 [N, side, side], the true masks
    - "labels": int64 [N], position of the category from 1
    - "index": int64 [N], row of ``instances``
    - "aspect": float32 [N, 2], width and height of the window divided by the longer of them
    - "predicted": bool [N], whether "input" and the window come from a detector
    - "amodal_tokens", "maps": see :meth:`keep_tokens` and :meth:`keep_maps`
    - "partner": int64 [N], position in the batch of another view of the same object, or -1
    - "others", with ``others``: uint8 [N, side, side], where other objects of the image, ignored
      ones too, are truly visible, and the object itself is not

    With ``paired``, an object that is seen several times is followed by another view of it (the
    same ``track_id``), which is drawn at random and counts as an item of the batch. If a batch ends
    between the two, neither has a partner.

    Args:
        annotations: the training split.
        crop: the window around an object.
        batch_size: objects per batch.
        seed: of order, enlargement, corruption, and the choice of predicted masks.
        corruption: of the input; None: no corruption.
        enlargement: range from which the enlargement is drawn, instead of ``crop.enlarge``.
        box_noise: largest shift and scaling of a box, as a share of its width and height.
        paired: whether objects have partners.
        detected: predictions for these objects, with visible masks and ``instance_id``.
        predicted_share: share of the detected objects that get the predicted mask.
        with_images: whether to read images; otherwise no file is opened.
        others: whether to add the target "others".
        erased: share of the objects of which another object of the split, at a random place over
            them, hides a part more: its pixels are pasted on the image and belong to "others", and
            what it covers is in neither "visible" nor "input".

    Raises:
        ValueError: no object has a visible part; or ``detected`` belongs to other annotations, has
            an unknown object or one twice, or lacks visible masks or boxes.
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
        others: bool = False,
        erased: float = 0.0,
    ) -> None:
        self.erased = erased
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
        self.labels = labels_of(annotations.metadata.categories, truth["category_id"])
        images = pd.Index(annotations.images["image_id"].to_numpy(dtype=np.int64))
        self.image_rows = images.get_indexer(truth["image_id"].to_numpy(dtype=np.int64))
        self.names = annotations.images["file_name"].tolist()
        self.others = VisibleOthers(self.masks["visible"], self.image_rows) if others else None
        # Decoded once, if all of them fit: each is read for every object in it in every epoch.
        height, width = self.annotations.images[["height", "width"]].to_numpy(dtype=np.int64).T
        fit = 3 * int((height * width).sum()) <= IMAGES_LIMIT
        self.read = cache(read_image) if fit else read_image
        self.views = _Views(truth["track_id"].iloc[self.rows], paired)
        self.places = int(self.views.places.sum())  # of an epoch
        self.epochs: dict[int, np.ndarray] = {}
        # The row of each object's detection, or -1, and the masks and boxes of the detections.
        self.detections = np.full(len(truth), -1, np.int64)
        self.predicted_masks, self.predicted_boxes = pa.array([], pa.string()), np.zeros((0, 4))
        self.tokens: Tensor | None = None
        self.maps: list[Tensor] | None = None
        if detected is not None:
            self._add(detected)

    def _add(self, detected: Predictions) -> None:
        table, made = detected.predictions, detected.metadata
        if made.annotations and made.annotations != self.annotations.fingerprint:
            raise ValueError(
                f"the predictions of {made.method!r} belong to other annotations: predict the "
                f"objects of {self.annotations.metadata.dataset}, "
                f"{self.annotations.metadata.split} again"
            )
        if table[["instance_id", "visible_rle"]].isna().any(axis=None):
            raise ValueError(
                f"some predictions of {made.method!r} have no instance_id or no visible mask: use "
                "predictions matched to true objects, of a method that predicts visible masks"
            )
        truth = self.annotations.instances["instance_id"].to_numpy(dtype=np.int64)
        ids = table["instance_id"].to_numpy(dtype=np.int64)
        order = np.argsort(truth)
        at = order[np.searchsorted(truth[order], ids).clip(max=len(truth) - 1)]
        wrong = (truth[at] != ids) | pd.Series(ids).duplicated().to_numpy()
        if wrong.any():
            raise ValueError(
                f"the predictions of {made.method!r} have the object {ids[wrong][0]} twice, or it "
                "is not in the annotations: match them to these objects one to one"
            )
        self.predicted_masks = strings(table["visible_rle"])
        self.predicted_boxes = boxes_around(detected, self.crop.around)
        there = ~np.isnan(self.predicted_boxes[:, 0])
        self.detections[at[there]] = np.flatnonzero(there)

    def keep_tokens(self, tokenize: Callable[[Iterable[Tensor]], Tensor]) -> None:
        """Compute the tokens of all amodal masks, and add them to the targets of every batch.

        The target is "amodal_tokens", int64 [N, T, T].

        Args:
            tokenize: maps batches of masks [n, side, side] of 0 and 1 to tokens [all n, T, T].

        Raises:
            ValueError: windows are drawn at random, so that masks differ in every batch.
        """
        self.tokens = tokenize(
            torch.from_numpy(self._crops("amodal", rows, seen))
            for _, rows, seen in self._fixed_windows()
        )

    def keep_maps(self, encode: Callable[[Tensor], list[Tensor]]) -> bool:
        """Compute the maps of all images once, and add them to the targets of every batch.

        The target is "maps", a list of [N, C, h, w]; ``images`` are [N, 3, 0, 0] then, and no file
        is opened. Maps that need more than :data:`MAPS_LIMIT` bytes together are not kept.

        Args:
            encode: maps images uint8 [n, 3, image_side, image_side] to their maps, each
                [n, C, h, w].

        Returns:
            Whether they are kept.

        Raises:
            ValueError: windows are drawn at random, so that images differ in every batch.
        """
        if not self.with_images:
            return False
        kept: list[Tensor] | None = None
        total = 1 + int(self.fixed_places.max())
        for start, rows, seen in self._fixed_windows():
            # As channels-last, in which the convolutions that read them are faster.
            maps = [m.movedim(1, -1).contiguous().cpu() for m in encode(self._images(rows, seen))]
            if kept is None:
                if total * sum(m[0].nbytes for m in maps) > MAPS_LIMIT:
                    return False
                kept = [m.new_empty(total, *m.shape[1:]) for m in maps]
            for whole, part in zip(kept, maps, strict=True):
                whole[start : start + len(part)] = part
        self.maps = kept
        return True

    @cached_property
    def fixed_places(self) -> np.ndarray:
        """Return each true [0] and predicted [1] window's place among all, int64 [2, N], or -1.

        Raises:
            ValueError: windows are drawn at random.
        """
        if self.enlargement or self.box_noise or self.erased:
            raise ValueError(
                "tokens and maps of random crops cannot be kept: leave out enlargement, box_noise "
                "and erased"
            )
        used = np.zeros((2, len(self.boxes)), bool)
        used[0, self.rows] = True
        if self.predicted_share:
            used[1] = used[0] & (self.detections >= 0)
        return np.where(used, np.cumsum(used).reshape(used.shape) - 1, -1)

    def _fixed_windows(self) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """Yield the first place, the rows [n] and the windows [n, 4] of all objects in pieces."""
        kinds, rows = np.nonzero(self.fixed_places >= 0)
        boxes = self.boxes[rows]
        boxes[kinds == 1] = self.predicted_boxes[self.detections[rows[kinds == 1]]]
        for start in range(0, len(rows), _AT_ONCE):
            own = rows[start : start + _AT_ONCE]
            seen = windows(boxes[start : start + _AT_ONCE], self.sizes[own], self.crop)
            yield start, own, seen

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
        pasted = None
        if self.erased:
            pasted = self._pasted(rows, draws, seen, enlarge)
            seen = pasted.windows
        truth = {kind: self._crops(kind, rows, seen) for kind in self.masks}
        given = truth["visible"].copy()
        given[predicted] = crop_masks(
            self.predicted_masks.take(pa.array(detections)), seen[predicted], sizes[predicted], side
        )
        if pasted is not None:
            truth["visible"] = truth["visible"] & ~pasted.masks
            given &= ~pasted.masks
        if self.corruption:
            given = np.stack(
                [corrupt(m, self.corruption, d) for m, d in zip(given, draws, strict=True)]
            )
        masks = {"input": given, **truth}
        if self.others is not None:
            others = crop_masks(self.others(rows), seen, sizes, side)
            if pasted is not None:
                others |= pasted.masks
            masks["others"] = others & ~truth["visible"]
        kept = {}
        if self.tokens is not None or self.maps is not None:
            places = torch.from_numpy(self.fixed_places[predicted.astype(int), rows])
        if self.tokens is not None:
            kept["amodal_tokens"] = self.tokens[places].long()
        if self.maps is not None:
            kept["maps"] = [maps[places].movedim(-1, 1) for maps in self.maps]
        images = self._no_images(rows) if self.maps is not None else self._images(rows, seen)
        if pasted is not None and images.numel():
            images = pasted.over(images)
        return TrainingBatch(
            images,
            {
                **{kind: torch.from_numpy(mask.astype(np.uint8)) for kind, mask in masks.items()},
                "labels": torch.from_numpy(self.labels[rows]),
                "index": torch.from_numpy(rows),
                "aspect": aspects(seen),
                "predicted": torch.from_numpy(predicted),
                "partner": torch.from_numpy(partner),
                **kept,
            },
            self._names(rows),
        )

    def _pasted(
        self,
        rows: np.ndarray,
        draws: list[np.random.Generator],
        seen: np.ndarray,
        enlarge: np.ndarray | None,
    ) -> _Pasted:
        """Return another object over each row's, and the window around what it leaves visible.

        It is moved over the object as an eraser is, in a window like the object's ``seen`` [N, 4].
        """
        others = self.rows[[int(draw.integers(len(self.rows))) for draw in draws]]
        scale = np.array([draw.uniform(*PASTED_SCALE) for draw in draws])
        mirrored = np.array([draw.random() < 0.5 for draw in draws])
        hides = np.array([draw.random() < self.erased for draw in draws])
        frames = windows(self.boxes[others], self.sizes[others], self.crop)
        frames = varied(frames, np.zeros((len(rows), 2)), scale)
        visible = self._crops("visible", rows, seen)
        erasers = _turned(self._crops("visible", others, frames), mirrored)
        moves = [displacement(e, v, d) for e, v, d in zip(erasers, visible, draws, strict=True)]
        left = visible & ~np.stack([shifted(e, *m) for e, m in zip(erasers, moves, strict=True)])
        hides &= left.any((1, 2))

        # Only what is left tells where the object is: its window must not tell more.
        side = self.crop.side
        box = _boxes_of(left[hides]) / side
        origin, extent = seen[hides, :2], seen[hides, 2:] - seen[hides, :2]
        box = np.concatenate([origin + box[:, :2] * extent, box[:, 2:] * extent], axis=1)
        factor = None if enlarge is None else enlarge[hides]
        seen = seen.copy()
        seen[hides] = windows(box, self.sizes[rows[hides]], self.crop, factor)

        # The same place in the frame of the pasted object, which is mirrored in its frame.
        at = (seen[hides].reshape(-1, 2, 2) - origin[:, None]) / extent[:, None]
        at -= np.array(moves)[hides, None] / side
        at[mirrored[hides], :, 0] = 1 - at[mirrored[hides], ::-1, 0]
        start, reach = frames[hides, :2], frames[hides, 2:] - frames[hides, :2]
        frames = (start[:, None] + at * reach[:, None]).reshape(-1, 4)

        masks = np.zeros_like(visible)
        masks[hides] = _turned(self._crops("visible", others[hides], frames), mirrored[hides])
        pixels = self.crop.image_side if self.with_images else 0
        images = torch.zeros(len(rows), 3, pixels, pixels, dtype=torch.uint8)
        if self.with_images and hides.any():
            found = self._images(others[hides], frames)
            flip = torch.from_numpy(mirrored[hides])[:, None, None, None]
            images[torch.from_numpy(hides)] = torch.where(flip, found.flip(-1), found)
        return _Pasted(seen, masks, images)

    def _drawn(self, iteration: int) -> tuple[np.ndarray, list[np.random.Generator], np.ndarray]:
        """Return a batch's positions in ``rows``, a random generator for each, and partners."""
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
        """Return the P places of an epoch, [2, P]: position in ``rows``, and 1 if another view."""
        if epoch not in self.epochs:
            order = permutation(len(self.rows), self.seed, epoch)
            turns = np.repeat(order, self.views.places[order])
            # Two epochs are kept, because a batch may have places of both.
            self.epochs = {e: kept for e, kept in self.epochs.items() if abs(e - epoch) == 1}
            self.epochs[epoch] = np.stack([turns, np.diff(turns, prepend=-1) == 0])
        return self.epochs[epoch]

    def _crops(self, kind: str, rows: np.ndarray, seen: np.ndarray) -> np.ndarray:
        masks = self.masks[kind].take(pa.array(rows))
        return crop_masks(masks, seen, self.sizes[rows], self.crop.side)

    def _images(self, rows: np.ndarray, seen: np.ndarray) -> Tensor:
        if not self.with_images:
            return self._no_images(rows)
        root, names = self.annotations.metadata.image_root, self._names(rows)
        return image_crops(root, names, self.sizes[rows], seen, self.crop.image_side, self.read)

    def _no_images(self, rows: np.ndarray) -> Tensor:
        return torch.zeros(len(rows), 3, 0, 0, dtype=torch.uint8)

    def _names(self, rows: np.ndarray) -> list[str]:
        return [self.names[image] for image in self.image_rows[rows]]


class _Views:
    """The objects that are views of the same one.

    ``places`` int64 [N] is 2 for objects with another view if ``paired``, and 1 otherwise.
    """

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


def _turned(masks: np.ndarray, mirrored: np.ndarray) -> np.ndarray:
    """Return masks [N, S, S] of which those ``mirrored`` [N] are turned left to right."""
    return np.where(mirrored[:, None, None], masks[:, :, ::-1], masks)


def _boxes_of(masks: np.ndarray) -> np.ndarray:
    """Return the boxes (x, y, width, height) of masks with pixels, bool [N, S, S], in pixels."""
    found = []
    for axis in (1, 2):
        there = masks.any(axis)
        first = there.argmax(1)
        found.append((first, there.shape[1] - there[:, ::-1].argmax(1) - first))
    (x, width), (y, height) = found
    return np.stack([x, y, width, height], axis=1).astype(np.float64)


def _shaken(boxes: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """Return boxes [N, 4] shifted and enlarged by ``noise`` [N, 4], shares of their sides."""
    sides = boxes[:, 2:]
    centre, grown = boxes[:, :2] + sides * (0.5 + noise[:, :2]), sides * (1 + noise[:, 2:])
    return np.concatenate([centre - grown / 2, grown], axis=1)
