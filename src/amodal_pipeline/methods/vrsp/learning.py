"""Learning a shape prior from tables of annotations, and measuring its reconstructions."""

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset

from amodal_pipeline.annotations import AmodalAnnotations, Predictions, rle
from amodal_pipeline.annotations.tables import boxes, strings
from amodal_pipeline.methods.configs import ShapePriorConfig
from amodal_pipeline.methods.training_config import TrainingConfig
from amodal_pipeline.methods.vrsp.auto_encoder import SIDE, turned
from amodal_pipeline.methods.vrsp.codebook import ShapePrior, build_codebook
from amodal_pipeline.samples.images import TrainingBatch, batch_indices

_BATCH = 512  # masks per look-up in the codebook


@dataclass(frozen=True)
class Shapes:
    """Masks cropped to their boxes, bool [N, 28, 28], with their categories, int64 [N] from 0, and
    the names of their images, object [N]."""

    masks: Tensor
    category: np.ndarray
    names: np.ndarray

    def __add__(self, other: "Shapes") -> "Shapes":
        return Shapes(
            torch.cat([self.masks, other.masks]),
            np.concatenate([self.category, other.category]),
            np.concatenate([self.names, other.names]),
        )


def true_shapes(annotations: AmodalAnnotations) -> Shapes:
    """Return the true amodal masks of a split within their amodal boxes.

    Ignored objects, and objects too thin to be seen at 28x28, are left out.
    """
    counted = ~annotations.instances["ignore"].to_numpy(dtype=bool)
    objects = annotations.instances[counted]
    crops = rle.crop(
        strings(objects["amodal_rle"]),
        boxes(objects["amodal_box"]),
        annotations.sizes[counted],
        SIDE,
    )
    return _shapes(crops, objects, annotations)


def predicted_shapes(
    annotations: AmodalAnnotations, predictions: Predictions, config: ShapePriorConfig
) -> Shapes:
    """Return predicted amodal masks, within their predicted boxes, that match an object closely.

    Mask and box must overlap an object of their category with an IoU above ``config.min_mask_iou``
    and ``config.min_box_iou``. The released code adds these masks to the true ones.

    Raises:
        ValueError: the predictions are for other annotations, or have no amodal masks.
    """
    if predictions.metadata.annotations != annotations.fingerprint:
        raise ValueError(
            f"the predictions of {predictions.metadata.method} are for other annotations than "
            f"those of {annotations.metadata.dataset}, {annotations.metadata.split}"
        )
    found = predictions.predictions
    if found["amodal_rle"].isna().any():
        raise ValueError(
            f"{predictions.metadata.method} predicts no amodal masks: it has no shapes to add"
        )
    truth = annotations.instances
    image_ids = np.sort(annotations.images["image_id"].to_numpy(dtype=np.int64))
    groups = [
        np.searchsorted(table["image_id"].to_numpy(dtype=np.int64), [*image_ids, image_ids[-1] + 1])
        for table in (found, truth)
    ]
    order = annotations.images["image_id"].to_numpy(dtype=np.int64).argsort()
    heights = annotations.images["height"].to_numpy(dtype=np.int64)[order]
    i, j, overlap = rle.close_pairs(
        strings(found["amodal_rle"]),
        groups[0],
        strings(truth["amodal_rle"]),
        groups[1],
        heights,
        config.min_mask_iou,
    )
    predicted, true = boxes(found["amodal_box"]), boxes(truth["amodal_box"])
    kind = found["category_id"].to_numpy(dtype=np.int64)
    good = (
        (overlap > config.min_mask_iou)
        & (_box_iou(predicted[i], true[j]) > config.min_box_iou)
        & (kind[i] == truth["category_id"].to_numpy(dtype=np.int64)[j])
        & ~truth["ignore"].to_numpy(dtype=bool)[j]
    )
    rows = np.unique(i[good])
    objects = found.iloc[rows]
    crops = rle.crop(strings(objects["amodal_rle"]), predicted[rows], predictions.sizes[rows], SIDE)
    return _shapes(crops, objects, annotations)


class ShapeBatches(Dataset):
    """Batches of masks, float [B, 28, 28]; item ``i`` is the batch of iteration ``i``.

    Masks are drawn at random, all of them before any comes again, and turned in one of eight ways
    where the configuration says so.

    Raises:
        ValueError: there is no mask.
    """

    def __init__(self, shapes: Shapes, config: ShapePriorConfig, batch_size: int, seed: int):
        if len(shapes.masks) == 0:
            raise ValueError("no mask to learn shapes from: the training split has no objects")
        self.shapes, self.turned = shapes, config.turned
        self.batch_size, self.seed = batch_size, seed

    def __getitem__(self, iteration: int) -> TrainingBatch:
        rows = batch_indices(len(self.shapes.masks), self.batch_size, self.seed, iteration)
        masks = self.shapes.masks[rows].float()
        if self.turned:
            masks = turned(masks, int(np.random.default_rng([self.seed, iteration]).integers(8)))
        return TrainingBatch(masks, {}, self.shapes.names[rows].tolist())


def batches(
    config: ShapePriorConfig,
    training: TrainingConfig,
    annotations: AmodalAnnotations,
    detected: Predictions | None = None,
) -> ShapeBatches:
    """Return batches of a split's true masks and of a detector's masks that are very close to them.

    Raises:
        ValueError: there are no masks; or see :func:`predicted_shapes`.
    """
    shapes = true_shapes(annotations)
    if detected is not None:
        shapes = shapes + predicted_shapes(annotations, detected, config)
    return ShapeBatches(shapes, config, training.batch_size, training.seed)


class LearntShapePrior(nn.Module):
    """A shape prior in training; a detector takes over its ``network``.

    The auto-encoder learns to reconstruct masks, by the mean squared error; :meth:`finish` builds
    the codebook of its codes.
    """

    def __init__(self, config: ShapePriorConfig, classes: int) -> None:
        super().__init__()
        self.config = config
        self.network = ShapePrior(config, classes)
        # The encoder's input has one channel: only the layout of weights decides; see decode.
        self.network.auto_encoder.requires_grad_(True).to(memory_format=torch.channels_last)

    def forward(self, images: Tensor, targets: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"loss_reconstruction": F.mse_loss(self.network.auto_encoder(images), images)}

    def finish(self, batches: ShapeBatches) -> None:
        """Make the codebook of all training masks on a CPU, where it always has the same bits."""
        model = deepcopy(self.network.auto_encoder).to("cpu", memory_format=torch.contiguous_format)
        shapes, categories = batches.shapes, len(self.network.count)
        self.network.take(
            build_codebook(
                model.eval(), shapes.masks, shapes.category, categories, self.config, batches.seed
            )
        )


@torch.no_grad()
def describe(
    prior: ShapePrior,
    annotations: AmodalAnnotations,
    poor_below: int,
    on_progress: Callable[[int, int], None] | None = None,
) -> pd.DataFrame:
    """Measure how well the masks of a split are reconstructed, by category and over all objects.

    Returns:
        Columns split, category ("all" first), objects, entries, the smallest, median and largest
        number of masks per entry, ``iou_auto_encoder`` (masks decoded from their own codes) and
        ``iou_codebook`` (from the nearest entry), means over objects of 0–100 and NaN without
        objects, and ``note``: "no entries", or fewer than ``poor_below``.
    """
    shapes = true_shapes(annotations)
    category = torch.from_numpy(shapes.category)
    own, nearest = [np.zeros(0)], [np.zeros(0)]
    for start in range(0, len(category), _BATCH):
        masks = shapes.masks[start : start + _BATCH]
        back = prior.auto_encoder(masks.float())
        entry = prior.nearest(masks.float(), category[start : start + _BATCH], 1).masks[:, 0]
        own.append(_iou(back > 0.5, masks))
        nearest.append(_iou(entry > 0.5, masks))
        if on_progress:
            on_progress(start + len(masks), len(category))
    own, nearest = np.concatenate(own), np.concatenate(nearest)
    # A category without entries returns the queried mask itself, which is no reconstruction.
    nearest[~(prior.count > 0).numpy()[shapes.category]] = np.nan
    count, members = prior.count.numpy(), prior.members.numpy()
    rows = []
    for position, each in [
        (None, "all"),
        *enumerate(c.name for c in annotations.metadata.categories),
    ]:
        chosen = slice(None) if position is None else shapes.category == position
        every = members[members > 0] if position is None else members[position, : count[position]]
        entries = len(every)
        low, middle, high = (every.min(), np.median(every), every.max()) if entries else (0, 0.0, 0)
        rows.append(
            {
                "split": annotations.metadata.split,
                "category": each,
                "objects": len(own[chosen]),
                "entries": entries,
                "smallest_cluster": low,
                "median_cluster": middle,
                "largest_cluster": high,
                "iou_auto_encoder": _mean(own[chosen]),
                "iou_codebook": _mean(nearest[chosen]),
                "note": "" if position is None else _note(entries, poor_below),
            }
        )
    return pd.DataFrame(rows)


def _shapes(crops: np.ndarray, objects: pd.DataFrame, annotations: AmodalAnnotations) -> Shapes:
    seen = crops.any(axis=(1, 2))
    kinds = [category.id for category in annotations.metadata.categories]
    category = _positions(kinds, objects["category_id"])[seen]
    image = _positions(annotations.images["image_id"], objects["image_id"])[seen]
    names = annotations.images["file_name"].to_numpy(dtype=object)[image]
    return Shapes(torch.from_numpy(crops[seen]), category, names)


def _positions(known: Sequence[int], wanted: pd.Series) -> np.ndarray:
    """Return the position of each of ``wanted`` in ``known``, int64."""
    ids = np.array(known, np.int64)
    order = ids.argsort()
    return order[np.searchsorted(ids[order], wanted.to_numpy(dtype=np.int64))]


def _note(entries: int, enough: int) -> str:
    if entries == 0:
        return "no entries: a mask stands for its own prior"
    return f"fewer than {enough} entries: they are repeated" if entries < enough else ""


def _mean(values: np.ndarray) -> float:
    values = values[~np.isnan(values)]
    return 100 * float(values.mean()) if len(values) else float("nan")


def _iou(a: Tensor, b: Tensor) -> np.ndarray:
    shared, joined = (a & b).flatten(1).sum(1), (a | b).flatten(1).sum(1)
    return (shared.double() / joined.clamp(min=1)).numpy()


def _box_iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the IoU of two lists of boxes (x, y, width, height), row by row."""
    low = np.maximum(a[:, :2], b[:, :2])
    high = np.minimum(a[:, :2] + a[:, 2:], b[:, :2] + b[:, 2:])
    shared = np.maximum(high - low, 0).prod(axis=1)
    return shared / (a[:, 2:].prod(axis=1) + b[:, 2:].prod(axis=1) - shared)
