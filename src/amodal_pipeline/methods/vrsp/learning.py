"""From the tables to a shape prior, and how well it gives shapes back."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from amodal_pipeline.annotations import AmodalAnnotations, Predictions, rle
from amodal_pipeline.annotations.tables import boxes, strings
from amodal_pipeline.methods.checkpoints import git_revision, versions
from amodal_pipeline.methods.configs import ShapePriorConfig
from amodal_pipeline.methods.vrsp.auto_encoder import SIDE, fit
from amodal_pipeline.methods.vrsp.codebook import ShapePrior, build_codebook
from amodal_pipeline.methods.vrsp.stored import ShapePriorCard, StoredShapePrior, fingerprint

Progress = Callable[[int, int], None]
Progresses = Callable[[str], AbstractContextManager[Progress | None]]

_BATCH = 512  # masks looked up at once


@dataclass(frozen=True)
class Shapes:
    """Masks cropped to their boxes, bool [N, 28, 28], and their categories, int64 [N] from 0."""

    masks: Tensor
    category: np.ndarray

    def __add__(self, other: "Shapes") -> "Shapes":
        return Shapes(
            torch.cat([self.masks, other.masks]), np.concatenate([self.category, other.category])
        )


def true_shapes(annotations: AmodalAnnotations) -> Shapes:
    """Return the true amodal masks of a split within their amodal boxes.

    Without ignored objects, and without what is too thin to be seen at 28x28.
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
    """Predicted amodal masks, within their predicted boxes, that are very close to an object.

    Those whose mask and box overlap an object of their category by more than
    ``config.min_mask_iou`` and ``config.min_box_iou`` (the masks that the released code adds).

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


def learn(
    annotations: AmodalAnnotations,
    config: ShapePriorConfig,
    predictions: Predictions | None = None,
    device: str = "cpu",
    progress: Progresses | None = None,
) -> StoredShapePrior:
    """Return a shape prior from the masks of the training split.

    On a CPU, equal arguments give equal bits.

    Args:
        annotations: the training split.
        predictions: for its images; None for true masks only.
        device: where the auto-encoder is trained.
        progress: gives a context with a callback (done, total) for the step of a title.

    Raises:
        ValueError: there are no masks; or as :func:`predicted_shapes`.
    """
    from contextlib import nullcontext

    progress = progress or (lambda title: nullcontext())
    shapes = true_shapes(annotations)
    if predictions is not None:
        shapes = shapes + predicted_shapes(annotations, predictions, config)
    categories = annotations.metadata.categories
    with progress("train the mask auto-encoder") as on_progress:
        model = fit(shapes.masks, config, device, on_progress)
    with progress("cluster the shapes of each category") as on_progress:
        codebook = build_codebook(
            model, shapes.masks, shapes.category, len(categories), config, on_progress
        )
    card = ShapePriorCard(
        config=config,
        categories=categories,
        entries=tuple(codebook.count.tolist()),
        masks=len(shapes.masks),
        dataset=annotations.metadata.dataset,
        fingerprint=fingerprint(
            config, annotations, predictions.metadata.checkpoint if predictions else "none"
        ),
        git_revision=git_revision(),
        versions=versions(),
    )
    return StoredShapePrior(card, ShapePrior.of(config, model, codebook).state_dict())


def describe(
    stored: StoredShapePrior,
    annotations: AmodalAnnotations,
    poor_below: int,
    on_progress: Progress | None = None,
) -> pd.DataFrame:
    """Return how well the masks of a split come back, by category and over all objects.

    Columns: split, category ("all" first), objects, entries, the smallest, median and largest
    number of masks of an entry, ``iou_auto_encoder`` (masks decoded from their own codes) and
    ``iou_codebook`` (from the nearest entry), means over objects of 0–100 and NaN without any, and
    ``note``: "no entries", or fewer than ``poor_below``.
    """
    prior, shapes = stored.restore(), true_shapes(annotations)
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
    # An empty category gives back the mask it is asked for: no entry did that.
    nearest[~(prior.count > 0).numpy()[shapes.category]] = np.nan
    count, members = prior.count.numpy(), prior.members.numpy()
    rows = []
    for position, each in [(None, "all"), *enumerate(c.name for c in stored.card.categories)]:
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
    ids = np.array([c.id for c in annotations.metadata.categories], np.int64)
    order = ids.argsort()
    of = objects["category_id"].to_numpy(dtype=np.int64)
    seen = crops.any(axis=(1, 2))
    category = order[np.searchsorted(ids[order], of[seen])]
    return Shapes(torch.from_numpy(crops[seen]), category)


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
    """IoU row by row of boxes (x, y, width, height)."""
    low = np.maximum(a[:, :2], b[:, :2])
    high = np.minimum(a[:, :2] + a[:, 2:], b[:, :2] + b[:, 2:])
    shared = np.maximum(high - low, 0).prod(axis=1)
    return shared / (a[:, 2:].prod(axis=1) + b[:, 2:].prod(axis=1) - shared)
