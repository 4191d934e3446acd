"""Inference of completers on known objects: true objects, detections, or a user's objects."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from amodal_pipeline.annotations import Given, KnownObjects, Predictions, rle
from amodal_pipeline.annotations.tables import PREDICTIONS, frame
from amodal_pipeline.layers.configs import CropConfig
from amodal_pipeline.layers.crops import areas, aspects, crop_masks, paste_masks, windows
from amodal_pipeline.methods import dual_completion
from amodal_pipeline.methods.baselines import visible_masks, with_amodal
from amodal_pipeline.methods.training_config import InferenceConfig
from amodal_pipeline.samples.images import image_crops, labels_of
from amodal_pipeline.samples.objects import VisibleInFront, VisibleOthers, boxes_around
from amodal_pipeline.training.device import resolve_device, wants_bfloat16
from amodal_pipeline.training.inference import Images


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
    """Return known objects with the amodal masks of a completer.

    Each image is read once; a batch may have objects of several images. Masks are pasted at full
    resolution as run lengths, so that memory grows with the number of objects, not with the size of
    images. A completer that sees what is in front of an object first compares all pairs of objects
    that touch (:mod:`~..methods.dual_completion`), and then reads images a second time.

    Args:
        model: a completer, called with crops and "input", "labels", "key" (``prediction_id``),
            "aspect" (width and height of the window divided by the longer of them), and "others" or
            "in_front" where its description says so; ``model.config.crop`` defines the crops.
        objects: true ones or a detector's; with amodal boxes if the model crops around these.
        config: batch size, device and precision.
        method, variant, seed, checkpoint: entries of the result's metadata.
        on_progress: called with (done, all) objects that have a visible part, and views of pairs.

    Returns:
        The same objects with the same ids, scores, categories and visible masks, the ``inputs`` of
        the objects, and ``instance_id`` or ``source_id``. An empty visible mask gives an empty
        amodal mask without a box. If the model also returns "iou" [N], its estimate of how good
        each mask is, the scores of detections are multiplied by it; those of true objects are not.
        A hidden part that the model predicts on its own ("invisible_masks") is kept as it is.
        They have the order that was found by comparing pairs of objects, or else by how far their
        completed masks reach into each other's visible ones, if any.

    Raises:
        ValueError: an object has no visible mask, or no amodal box if the model needs one; objects
            have no order, and the model is configured to use it; or an image cannot be read.
    """
    visible = visible_masks(objects, method)
    run = _Runner(model, config, on_progress)
    known = _Objects(objects.table, model.config)
    run.total, amodal = len(known.seen), list(visible)
    hidden: list[str | None] = [None] * len(visible)
    beside, order = None, None
    sees = model.config.DESCRIPTION.sees(model.config)
    if sees == "others":
        beside = VisibleOthers(known.masks, known.image_ids)
    elif sees == "in_front":
        beside, order = _in_front(run, known, method)
    iou = np.ones(len(visible))
    for crops, outputs in run(_ByObject(known, beside, config.objects_per_batch), run.model):
        if "iou" in outputs:
            iou[crops.rows] = outputs["iou"].numpy()
        kinds = {"amodal_masks": amodal, "invisible_masks": hidden}
        for rows, own, size in _by_size(crops.rows, objects.table.sizes):
            for kind in kinds.keys() & outputs.keys():
                masks = paste_masks(outputs[kind][own], crops.windows[own], size)
                for row, mask in zip(rows, masks, strict=True):
                    kinds[kind][row] = mask
    made = {"method": method, "variant": variant, "seed": seed, "checkpoint": checkpoint}
    completed = with_amodal(_rescored(objects, iou), amodal, made)
    own = completed.predictions.assign(invisible_rle=hidden)
    completed = replace(completed, predictions=frame(PREDICTIONS, own))
    if sees != "in_front":
        table = completed.predictions
        scores = objects.table.predictions["score"].to_numpy(dtype=np.float64, na_value=np.nan)
        found = dual_completion.by_growth(
            known.image_ids, known.masks, pa.array(amodal, pa.string()), objects.table.sizes, scores
        )
        order = dual_completion.order_rows(table, *found, method)
    return completed if order is None else replace(completed, order=order)


def _rescored(objects: KnownObjects, iou: np.ndarray) -> KnownObjects:
    """Return detections with scores multiplied by ``iou`` [N], and other objects as they are."""
    if objects.given is not Given.DETECTIONS or (iou == 1).all():
        return objects
    score = objects.table.predictions["score"].to_numpy(dtype=np.float64)
    return objects.with_columns(score=score * iou)


def estimate_boxes(
    stage_one: nn.Module,
    objects: KnownObjects,
    config: InferenceConfig,
    on_progress: Callable[[int, int], None] | None = None,
    *,
    categories: bool = True,
) -> KnownObjects:
    """Return known objects with the amodal boxes that a detector estimates.

    The detector's box head refines the box of each visible mask, as if it were a proposal. The
    result is the union of this box and the refined one. An object without visible pixels has no
    box.

    Args:
        stage_one: a trained detector with amodal boxes and a box head, from
            :func:`~amodal_pipeline.methods.load`. Categories are matched by name; a detector of a
            single category takes all objects for it.
        objects: true ones, or a user's.
        config: batch size, device and precision.
        on_progress: called with (done, all) objects that have a visible part.
        categories: whether the objects' categories are known; if not, each box is refined for the
            detector's likeliest category.

    Raises:
        ValueError: an object has no visible mask, or a category that the detector does not know;
            the detector cannot refine amodal boxes; or an image cannot be read.
    """
    regresses = stage_one.config.DESCRIPTION.regresses_boxes
    if not regresses or getattr(stage_one, "box_kind", None) != "amodal":
        raise ValueError(
            f"{stage_one.config.name} cannot estimate amodal boxes of known objects: use a "
            "detector with a box head that regresses amodal ones (mask_rcnn, orcnn, vrsp)"
        )
    visible_masks(objects, "an amodal box")
    predictions = objects.table
    table, visible = predictions.predictions, boxes_around(predictions, "visible")
    seen = np.flatnonzero(~np.isnan(visible[:, 0]))
    labels = np.zeros(len(table), np.int64)
    if categories:
        labels[seen] = _labels(stage_one, predictions, seen)
    tight = np.concatenate([visible[:, :2], visible[:, :2] + visible[:, 2:]], axis=1)
    image_ids = table["image_id"].to_numpy(dtype=np.int64)
    of_image = {
        image_id: seen[at]
        for image_id, at in pd.Series(seen).groupby(image_ids[seen]).indices.items()
    }
    device = resolve_device(config.device)
    bf16 = wants_bfloat16(config.precision, device)
    stage_one = stage_one.to(device).eval()
    loader = DataLoader(
        Images(
            predictions.images[predictions.images["image_id"].isin(of_image)],
            predictions.metadata.image_root,
        ),
        batch_size=config.batch_size,
        num_workers=config.workers,
        collate_fn=list,
    )
    amodal, done = tight.copy(), 0
    for batch in loader:
        rows = [of_image[image_id] for image_id, _ in batch]
        with torch.inference_mode(), torch.autocast(device, torch.bfloat16, enabled=bf16):
            found = stage_one.detector.regress(
                [image.to(device) for _, image in batch],
                [torch.from_numpy(tight[own]).float().to(device) for own in rows],
                [torch.from_numpy(labels[own]).to(device) for own in rows],
            )
        own, corners = np.concatenate(rows), torch.cat(found).cpu().numpy()
        amodal[own, :2] = np.minimum(tight[own, :2], corners[:, :2])
        amodal[own, 2:] = np.maximum(tight[own, 2:], corners[:, 2:])
        done += len(own)
        if on_progress:
            on_progress(done, len(seen))
    corner, size = amodal[:, :2], amodal[:, 2:] - amodal[:, :2]
    return objects.with_columns(amodal_box=np.concatenate([corner, size], axis=1))


def _labels(stage_one: nn.Module, predictions: Predictions, seen: np.ndarray) -> np.ndarray:
    """Return the detector's 1-based classes of the objects in the rows ``seen``, int64 [M]."""
    known = [category.name for category in stage_one.categories]
    names = {category.id: category.name for category in predictions.metadata.categories}
    labels = np.zeros(len(seen), np.int64)
    categories = predictions.predictions["category_id"].to_numpy(dtype=np.int64)[seen]
    for category in np.unique(categories):
        name = names[int(category)]
        if len(known) > 1 and name not in known:
            raise ValueError(
                f"some objects have the category {name!r}, which {stage_one.config.name} does not "
                f"know ({', '.join(known)}): use a detector that was trained on it"
            )
        labels[categories == category] = 1 if len(known) == 1 else known.index(name) + 1
    return labels


@dataclass(frozen=True)
class _Crops:
    """The input of a completer for N objects.

    ``rows`` int64 [N] of the table, ``windows`` float64 [N, 4], ``images`` uint8 [N, 3, I, I],
    ``targets`` by name.
    """

    rows: np.ndarray
    windows: np.ndarray
    images: Tensor
    targets: dict[str, Tensor]


class _Objects:
    """The objects of a table, as a completer with a configuration is given them.

    ``seen``: rows with a visible part, sorted by image, int64 [S].
    """

    def __init__(self, predictions: Predictions, config: Any) -> None:
        self.predictions, self.config, self.sizes = predictions, config, predictions.sizes
        crop: CropConfig = config.crop
        table = predictions.predictions
        self.masks = pa.array(table["visible_rle"].tolist(), pa.string())
        self.boxes = boxes_around(predictions, crop.around)
        self.keys = table["prediction_id"].to_numpy(dtype=np.int64)
        self.labels = labels_of(predictions.metadata.categories, table["category_id"])
        self.image_ids = table["image_id"].to_numpy(dtype=np.int64)
        self.names = dict(
            zip(predictions.images["image_id"], predictions.images["file_name"], strict=True)
        )
        seen = np.flatnonzero(~np.isnan(self.boxes[:, 0]))
        self.seen = seen[np.argsort(self.image_ids[seen], kind="stable")]

    def crops(self, rows: np.ndarray, beside: rle.Masks | None = None) -> _Crops:
        """Return the crops of N rows; ``beside`` has N masks, the target that the method sees."""
        sizes, crop = self.sizes[rows], self.config.crop
        description = self.config.DESCRIPTION
        seen = windows(self.boxes[rows], sizes, crop)
        masks = crop_masks(self.masks.take(pa.array(rows)), seen, sizes, crop.side)
        targets = {
            "input": torch.from_numpy(masks.astype(np.uint8)),
            "labels": torch.from_numpy(self.labels[rows]),
            "key": torch.from_numpy(self.keys[rows]),
            "aspect": aspects(seen),
        }
        if beside is not None:
            shown = crop_masks(beside, seen, sizes, crop.side)
            sees = description.sees(self.config)
            if sees == "others":
                shown &= ~masks
            targets[sees] = torch.from_numpy(shown.astype(np.uint8))
        if not description.needs_pixels(self.config):
            nothing = torch.zeros(len(rows), 3, 0, 0, dtype=torch.uint8)
            return _Crops(rows, seen, nothing, targets)
        root = self.predictions.metadata.image_root
        names = [self.names[image_id] for image_id in self.image_ids[rows]]
        images = image_crops(root, names, sizes, seen, crop.image_side)
        return _Crops(rows, seen, images, targets)


class _ByObject(Dataset):
    """Batches of objects that have a visible part.

    A batch has all objects of its images, so that each image is read once; the objects of a crowded
    image are split into several batches.
    """

    def __init__(
        self, objects: _Objects, beside: VisibleOthers | VisibleInFront | None, batch: int
    ) -> None:
        self.objects, self.beside = objects, beside
        self.batches = list(_batches(objects.seen, objects.image_ids[objects.seen], batch))

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, batch: int) -> _Crops:
        rows = self.batches[batch]
        return self.objects.crops(rows, self.beside and self.beside(rows))


class _ByPair(Dataset):
    """Batches of pairs of rows (completed, eraser), int64 [P, 2], sorted by image."""

    def __init__(self, objects: _Objects, pairs: np.ndarray, batch: int) -> None:
        self.objects, self.pairs = objects, pairs
        at = np.arange(len(pairs))
        self.batches = list(_batches(at, objects.image_ids[pairs[:, 0]], batch))

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, batch: int) -> _Crops:
        rows, eraser = self.pairs[self.batches[batch]].T
        return self.objects.crops(rows, self.objects.masks.take(pa.array(eraser)))


class _Runner:
    """Runs a completer over batches of crops, and reports how many of ``total`` are done."""

    def __init__(
        self,
        model: nn.Module,
        config: InferenceConfig,
        on_progress: Callable[[int, int], None] | None,
    ) -> None:
        self.device = resolve_device(config.device)
        self.bf16 = wants_bfloat16(config.precision, self.device)
        self.model = model.to(self.device).eval()
        self.config, self.on_progress = config, on_progress
        self.total = self.done = 0

    def __call__(
        self, batches: Dataset, call: Callable[[Tensor, dict[str, Tensor]], dict[str, Tensor]]
    ) -> Iterator[tuple[_Crops, dict[str, Tensor]]]:
        """Yield the crops of each batch with the result of ``call``, float32 on the CPU."""
        for crops in DataLoader(batches, batch_size=None, num_workers=self.config.workers):
            targets = {name: values.to(self.device) for name, values in crops.targets.items()}
            with (
                torch.inference_mode(),
                torch.autocast(self.device, torch.bfloat16, enabled=self.bf16),
            ):
                found = call(crops.images.to(self.device), targets)
            yield crops, {name: values.float().cpu() for name, values in found.items()}
            self.done += len(crops.rows)
            if self.on_progress:
                self.on_progress(self.done, self.total)


def _in_front(
    run: _Runner, known: _Objects, method: str
) -> tuple[VisibleInFront, pd.DataFrame | None]:
    """Return what is visible in front of objects, and the order if it was found by comparing."""
    config, table = run.model.config, known.predictions.predictions
    scores = table["score"].to_numpy(dtype=np.float64, na_value=np.nan)
    pairs, order = np.zeros((0, 2), np.int64), None
    front, back = pairs.T
    if config.DESCRIPTION.needs_order(config):
        front, back = dual_completion.stated(known.predictions)
    else:
        pairs = dual_completion.neighbours(
            config, known.image_ids, known.masks, known.sizes, scores
        )
    if config.order == "own":
        ways = dual_completion.both_ways(pairs)
        by_image = np.argsort(known.image_ids[ways[:, 0]], kind="stable")
        batches = _ByPair(known, ways[by_image], run.config.objects_per_batch)
        run.total += len(ways)
        grown = [np.zeros(0)]
        for crops, found in run(batches, run.model.gains):
            grown.append(found["gains"].double().numpy() * areas(crops.windows))
        gains = np.empty(len(ways))
        gains[by_image] = np.concatenate(grown)
        front, back, score = dual_completion.decided(pairs, gains)
        order = dual_completion.order_rows(table, front, back, score, method)
    front, back = dual_completion.occluders(config.order, pairs, front, back)
    return VisibleInFront(known.masks, front, back), order


def _batches(rows: np.ndarray, image_ids: np.ndarray, batch: int) -> Iterator[np.ndarray]:
    """Yield rows sorted by image in batches of at most ``batch``, with whole images if possible."""
    start, cuts = 0, np.append(np.flatnonzero(np.diff(image_ids, prepend=np.nan)), len(rows))
    while start < len(rows):
        last = int(cuts[np.searchsorted(cuts, start + batch, side="right") - 1])
        stop = last if last > start else start + batch
        yield rows[start:stop]
        start = stop


def _by_size(
    rows: np.ndarray, sizes: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray, tuple[int, int]]]:
    """Yield rows whose images have the same size, their positions in ``rows``, and the size."""
    for size in np.unique(sizes[rows], axis=0):
        own = np.flatnonzero((sizes[rows] == size).all(axis=1))
        yield rows[own], own, (int(size[0]), int(size[1]))
