"""Running a trained completer over known objects: true ones, those of a detector, or a user's."""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from amodal_pipeline.annotations import KnownObjects, Predictions
from amodal_pipeline.annotations.images import read_image
from amodal_pipeline.layers.configs import CropConfig
from amodal_pipeline.layers.crops import aspects, crop_image, crop_masks, paste_masks, windows
from amodal_pipeline.methods.baselines import visible_masks, with_amodal
from amodal_pipeline.methods.training_config import InferenceConfig
from amodal_pipeline.samples.objects import boxes_around
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
    """Complete known objects: give each its amodal mask.

    Each image is read once, and its objects are completed together with those of others. Masks are
    pasted at full resolution and kept as run lengths only: memory grows with the number of objects,
    not with the size of images.

    Args:
        model: called with crops and "input", "labels", "key" (``prediction_id``) and "aspect" (of
            the window: width and height over the longer) of objects; ``model.config.crop`` says
            what is seen of them.
        objects: true ones or a detector's; with amodal boxes where crops are around these.
        config: how to run it.
        method, variant, seed, checkpoint: whose masks these are.
        on_progress: called with (done, all) objects that have a visible part.

    Returns:
        The same objects under the same ids, scores and categories, with the ``inputs`` of the
        objects and ``instance_id`` or ``source_id``. ``visible_rle`` stays what was completed. An
        empty visible mask stays an empty amodal mask without a box.

    Raises:
        ValueError: an object has no visible mask, or no amodal box where crops are around these;
            or an image cannot be read.
    """
    visible = visible_masks(objects, method)
    device = resolve_device(config.device)
    bf16 = wants_bfloat16(config.precision, device)
    model = model.to(device).eval()
    crops_of = _Objects(objects.table, model.config.crop, config.objects_per_batch)
    loader = DataLoader(crops_of, batch_size=None, num_workers=config.workers)
    amodal, done = list(visible), 0
    for crops in loader:
        targets = {name: values.to(device) for name, values in crops.targets.items()}
        with (
            torch.inference_mode(),
            torch.autocast(device, torch.bfloat16) if bf16 else nullcontext(),
        ):
            found = model(crops.images.to(device), targets)["amodal_masks"].float().cpu()
        for rows, own, size in _by_size(crops.rows, objects.table.sizes):
            for row, mask in zip(
                rows, paste_masks(found[own], crops.windows[own], size), strict=True
            ):
                amodal[row] = mask
        done += len(crops.rows)
        if on_progress:
            on_progress(done, crops_of.count)
    made = {"method": method, "variant": variant, "seed": seed, "checkpoint": checkpoint}
    return with_amodal(objects, amodal, made)


def estimate_boxes(
    stage_one: nn.Module,
    objects: KnownObjects,
    config: InferenceConfig,
    on_progress: Callable[[int, int], None] | None = None,
    *,
    categories: bool = True,
) -> KnownObjects:
    """Return known objects with the amodal boxes that a detector estimates.

    The detector sees each image once, and its box head is given the boxes of the visible masks in
    place of proposals; what it makes of one, as an object of that category, is united with it. An
    object of which nothing is seen has no box.

    Args:
        stage_one: a trained detector with amodal boxes and a box head, as
            :func:`~amodal_pipeline.methods.load` gives it. Categories are matched by name; one that
            knows a single category takes all objects for it.
        objects: true ones, or a user's.
        config: how to run it.
        on_progress: called with (done, all) objects that have a visible part.
        categories: those of the objects are what they are; otherwise the detector says which of its
            own each is likeliest of.

    Raises:
        ValueError: an object has no visible mask, or is of a category that the detector does not
            know; the detector has no such boxes; or an image cannot be read.
    """
    regresses = stage_one.config.DESCRIPTION.regresses_boxes
    if not regresses or getattr(stage_one, "box_kind", None) != "amodal":
        raise ValueError(
            f"{stage_one.config.name} cannot estimate amodal boxes of known objects: take a "
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
        with (
            torch.inference_mode(),
            torch.autocast(device, torch.bfloat16) if bf16 else nullcontext(),
        ):
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
    """The 1-based class that the objects of the rows ``seen`` have for a detector, int64 [M]."""
    known = [category.name for category in stage_one.categories]
    names = {category.id: category.name for category in predictions.metadata.categories}
    labels = np.zeros(len(seen), np.int64)
    categories = predictions.predictions["category_id"].to_numpy(dtype=np.int64)[seen]
    for category in np.unique(categories):
        name = names[int(category)]
        if len(known) > 1 and name not in known:
            raise ValueError(
                f"objects are of the category {name!r}, which {stage_one.config.name} does not "
                f"know ({', '.join(known)}): take a detector that was trained on it"
            )
        labels[categories == category] = 1 if len(known) == 1 else known.index(name) + 1
    return labels


@dataclass(frozen=True)
class _Crops:
    """What a completer is given of some objects: ``rows`` of the table, int64 [N], their
    ``windows`` float64 [N, 4], ``images`` uint8 [N, 3, I, I] and ``targets``."""

    rows: np.ndarray
    windows: np.ndarray
    images: Tensor
    targets: dict[str, Tensor]


class _Objects(Dataset):
    """Objects that have a visible part, in batches of whole images; an image with more objects than
    a batch has several to itself."""

    def __init__(self, predictions: Predictions, crop: CropConfig, batch: int) -> None:
        self.predictions, self.crop, self.sizes = predictions, crop, predictions.sizes
        table = predictions.predictions
        self.masks = pa.array(table["visible_rle"].tolist(), pa.string())
        self.boxes = boxes_around(predictions, crop.around)
        self.keys = table["prediction_id"].to_numpy(dtype=np.int64)
        ids = np.array([c.id for c in predictions.metadata.categories], np.int64)
        order = np.argsort(ids)
        category = table["category_id"].to_numpy(dtype=np.int64)
        self.labels = order[np.searchsorted(ids[order], category)] + 1
        self.image_ids = table["image_id"].to_numpy(dtype=np.int64)
        self.names = dict(
            zip(predictions.images["image_id"], predictions.images["file_name"], strict=True)
        )
        seen = np.flatnonzero(~np.isnan(self.boxes[:, 0]))
        self.count = len(seen)
        seen = seen[np.argsort(self.image_ids[seen], kind="stable")]
        self.batches = list(_batches(seen, self.image_ids[seen], batch))

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, batch: int) -> _Crops:
        rows = self.batches[batch]
        sizes, crop = self.sizes[rows], self.crop
        seen = windows(self.boxes[rows], sizes, crop)
        masks = crop_masks(self.masks.take(pa.array(rows)), seen, sizes, crop.side)
        targets = {
            "input": torch.from_numpy(masks.astype(np.uint8)),
            "labels": torch.from_numpy(self.labels[rows]),
            "key": torch.from_numpy(self.keys[rows]),
            "aspect": aspects(seen),
        }
        return _Crops(rows, seen, self._images(rows, seen), targets)

    def _images(self, rows: np.ndarray, seen: np.ndarray) -> Tensor:
        root, crops, last = self.predictions.metadata.image_root, [], None
        for row, window in zip(rows, seen, strict=True):
            if self.image_ids[row] != last:
                last = self.image_ids[row]
                pixels = read_image(root, self.names[last], tuple(self.sizes[row]))
                image = torch.from_numpy(pixels).permute(2, 0, 1)
            crops.append(crop_image(image, window, self.crop.image_side))
        return torch.stack(crops)


def _batches(rows: np.ndarray, image_ids: np.ndarray, batch: int) -> Iterator[np.ndarray]:
    """Rows that are sorted by image, in batches of at most ``batch``."""
    start, cuts = 0, np.append(np.flatnonzero(np.diff(image_ids, prepend=np.nan)), len(rows))
    while start < len(rows):
        last = int(cuts[np.searchsorted(cuts, start + batch, side="right") - 1])
        stop = last if last > start else start + batch
        yield rows[start:stop]
        start = stop


def _by_size(
    rows: np.ndarray, sizes: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray, tuple[int, int]]]:
    """Rows whose canvases are of one size, their positions, and that size."""
    for size in np.unique(sizes[rows], axis=0):
        own = np.flatnonzero((sizes[rows] == size).all(axis=1))
        yield rows[own], own, (int(size[0]), int(size[1]))
