"""Order of known objects: by a trained OrderNet, or from distance maps."""

import dataclasses
from collections.abc import Callable, Iterator

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from amodal_pipeline.annotations import AmodalAnnotations, Predictions, rle
from amodal_pipeline.annotations.distance_maps import depth_order, true_distance_maps
from amodal_pipeline.annotations.order import overlapping
from amodal_pipeline.annotations.tables import (
    INSTANCES,
    PREDICTION_ORDER,
    PREDICTIONS,
    boxes,
    frame,
    strings,
)
from amodal_pipeline.methods.training_config import InferenceConfig
from amodal_pipeline.samples.pairs import PairCrops, levels_of_predictions
from amodal_pipeline.training.device import resolve_device, wants_bfloat16

_ANY_OVERLAP = 1e-9  # intersection over union


def best_matches(annotations: AmodalAnnotations, predictions: Predictions) -> Predictions:
    """Return for each true object the prediction whose mask overlaps it most.

    This is how SLN's paper chooses masks (section 5.2): by the largest IoU of amodal masks,
    regardless of category and score; a prediction may be chosen for several objects. True objects
    that are ignored, or overlap no prediction, are left out.

    Args:
        annotations: the true objects.
        predictions: detections in the same images; the visible mask is used if a detection has no
            amodal one.

    Returns:
        The predictions with the ids of the true objects as ``prediction_id`` and ``instance_id``,
        their own as ``source_id``, and the predicted order between them. The variant is
        "best_match", ``inputs`` names the detector.
    """
    truth, table = annotations.instances, predictions.predictions
    whole = pc.coalesce(*(strings(table[f"{kind}_rle"]) for kind in ("amodal", "visible")))
    counted = np.flatnonzero(~truth["ignore"].to_numpy(dtype=bool))
    images = np.unique(annotations.images["image_id"].to_numpy(dtype=np.int64))
    found = table["image_id"].to_numpy(dtype=np.int64)
    by_image = np.argsort(found, kind="stable")
    of = truth["image_id"].to_numpy(dtype=np.int64)[counted]
    ends = [np.append(np.searchsorted(x, images), len(x)) for x in (found[by_image], of)]
    heights = annotations.images.set_index("image_id")["height"].loc[images]
    i, j, iou = rle.close_pairs(
        *(whole.take(pa.array(by_image)), ends[0]),
        *(strings(truth["amodal_rle"]).take(pa.array(counted)), ends[1]),
        *(heights.to_numpy(dtype=np.int64), _ANY_OVERLAP),
    )
    # Per true object the largest IoU, and among equal ones the first prediction.
    largest = np.lexsort((by_image[i], -iou, j))
    _, first = np.unique(j[largest], return_index=True)
    chosen = largest[first]
    rows, objects = by_image[i[chosen]], counted[j[chosen]]
    same = ("score", "amodal_rle", "visible_rle", "invisible_rle", "amodal_box", "visible_box")
    ids = truth["instance_id"].iloc[objects]
    matched = {
        "prediction_id": ids,
        "instance_id": ids,
        "source_id": table["prediction_id"].iloc[rows],
        **{name: truth[name].iloc[objects] for name in ("image_id", "category_id")},
        **{name: table[name].iloc[rows] for name in same},
    }
    made = predictions.metadata
    metadata = made.model_copy(update={"variant": "best_match", "inputs": made.method})
    named = pd.DataFrame(
        {"id": ids.to_numpy(np.int64), "source": matched["source_id"].to_numpy(np.int64)}
    )
    order = predictions.order
    for end in ("front", "back"):
        order = order.merge(named, left_on=f"{end}_id", right_on="source")
        order = order.assign(**{f"{end}_id": order["id"]}).drop(columns=["id", "source_y"])
        order = order.rename(columns={"source_x": "source"})
    return Predictions(
        metadata, annotations.images, frame(PREDICTIONS, matched), frame(PREDICTION_ORDER, order)
    )


def order(
    model: nn.Module,
    objects: Predictions,
    config: InferenceConfig,
    *,
    pairs: np.ndarray | None = None,
    variant: str = "full",
    seed: int = 0,
    checkpoint: str = "",
    on_progress: Callable[[int, int], None] | None = None,
) -> Predictions:
    """Return objects with the order that OrderNet predicts.

    Args:
        model: a trained OrderNet.
        objects: with the masks that the model needs, and readable images.
        config: device, precision, and pairs per batch (``objects_per_batch``).
        pairs: int64 [P, 2], rows of ``objects``, each pair once and within one image; by default
            the pairs whose amodal masks overlap (:func:`overlapping_pairs`).
        variant, seed, checkpoint: entries of the result's metadata.
        on_progress: called with (done, all) pairs.

    Returns:
        The same objects with the likelier direction of each pair, scored by its probability (above
        0.5), from the source "order_net". There is no order between two objects with the same
        input. The method is "order_net"; ``inputs`` is unchanged.

    Raises:
        ValueError: an object lacks a mask that is needed, or an image cannot be read.
    """
    crops = PairCrops(objects, model.config)
    pairs = overlapping_pairs(objects) if pairs is None else pairs
    pairs = pairs[np.argsort(crops.image_ids[pairs[:, 0]], kind="stable")]
    device = resolve_device(config.device)
    bf16 = wants_bfloat16(config.precision, device)
    model = model.to(device).eval()
    batches = _Batches(crops, pairs, config.objects_per_batch)
    logits, done = [torch.zeros(0)], 0
    for images, seen in DataLoader(batches, batch_size=None, num_workers=config.workers):
        with torch.inference_mode(), torch.autocast(device, torch.bfloat16, enabled=bf16):
            found = model(images.to(device), {"objects": seen.to(device)})["logits"].float().cpu()
        alike = (seen[:, 0] == seen[:, 1]).flatten(1).all(dim=1)
        logits.append(found.masked_fill(alike, 0))
        done += len(seen)
        if on_progress:
            on_progress(done, len(pairs))
    made = {"method": "order_net", "variant": variant, "seed": seed, "checkpoint": checkpoint}
    return _ordered(objects, pairs, torch.cat(logits).double(), "order_net", made)


def by_relative_map(objects: Predictions, pairs: np.ndarray | None = None) -> Predictions:
    """Return objects with the order by SLN's R (eq. 4) in the largest region of each overlap.

    Distance maps are derived from the masks and the order in the table. The method is
    "order_by_relative_map". Arguments and errors are the same as for :func:`order`.
    """
    pairs = overlapping_pairs(objects) if pairs is None else pairs
    image_ids = objects.predictions["image_id"].to_numpy(dtype=np.int64)[pairs[:, 0]]
    pairs = pairs[np.argsort(image_ids, kind="stable")]
    whole = boxes(objects.predictions["amodal_box"])
    signs = np.zeros(len(pairs))
    for image_id, own in _by_image(np.sort(image_ids)):
        rows, levels = levels_of_predictions(objects, image_id)
        maps = true_distance_maps(levels.amodal, levels.level)
        signs[own] = depth_order(maps, whole[rows], np.searchsorted(rows, pairs[own]))
    # Infinite logits, because a direction is certain.
    certain = torch.from_numpy(np.where(signs == 0, 0, signs * np.inf))
    made = {"method": "order_by_relative_map", "variant": "full", "checkpoint": ""}
    return _ordered(objects, pairs, certain, "relative map", made)


def overlapping_pairs(objects: Predictions) -> np.ndarray:
    """Return pairs of rows whose amodal masks share a pixel, int64 [P, 2].

    The visible mask is used if an object has no amodal one. Images that are too crowded to compare
    all pairs give none.
    """
    table = objects.predictions
    whole = pc.coalesce(*(strings(table[f"{kind}_rle"]) for kind in ("amodal", "visible")))
    instances = {
        "image_id": table["image_id"],
        "amodal_rle": pd.Series(whole, dtype=pd.ArrowDtype(pa.string())),
        "amodal_box": rle.box(whole, objects.sizes),
    }
    i, j, _ = overlapping(frame(INSTANCES, instances))
    return np.stack([i, j], axis=1)


def pairs_of_truth(annotations: AmodalAnnotations, objects: Predictions) -> np.ndarray:
    """Return the rows of ``objects`` for each pair of true objects that overlap, int64 [P, 2].

    These are the pairs of the protocol "order", also if the predicted masks do not overlap.
    """
    counted = annotations.instances[~annotations.instances["ignore"].to_numpy(dtype=bool)]
    ids = pd.Index(objects.predictions["instance_id"].to_numpy(dtype=np.int64))
    i, j, _ = overlapping(counted)
    place = ids.get_indexer(counted["instance_id"])
    pairs = np.stack([place[i], place[j]], axis=1)
    return pairs[(pairs >= 0).all(axis=1)].astype(np.int64)


class _Batches(Dataset):
    """Crops of pairs, ``size`` pairs per batch."""

    def __init__(self, crops: PairCrops, pairs: np.ndarray, size: int) -> None:
        self.crops, self.pairs, self.size = crops, pairs, size

    def __len__(self) -> int:
        return -(-len(self.pairs) // self.size)

    def __getitem__(self, batch: int) -> tuple[Tensor, Tensor]:
        if batch >= len(self):
            raise IndexError(batch)
        return self.crops(self.pairs[batch * self.size : (batch + 1) * self.size])


def _by_image(image_ids: np.ndarray) -> Iterator[tuple[int, slice]]:
    """Yield each image id of a sorted array, and the slice of its rows."""
    starts = np.flatnonzero(np.diff(image_ids, prepend=np.nan))
    for start, stop in zip(starts, [*starts[1:], len(image_ids)], strict=True):
        yield int(image_ids[start]), slice(int(start), int(stop))


def _ordered(
    objects: Predictions, pairs: np.ndarray, logits: Tensor, source: str, made: dict[str, object]
) -> Predictions:
    """Return objects with the order of pairs (A, B): A is in front if its logit is above 0.

    ``logits`` is float64 [P]; a pair with the logit 0 has no order.
    """
    decided = (logits != 0).numpy()
    pairs, logits = pairs[decided], logits.numpy()[decided]
    nearer = logits > 0
    table = objects.predictions
    ids, image_id = (table[name].to_numpy(dtype=np.int64) for name in ("prediction_id", "image_id"))
    front = np.where(nearer, pairs[:, 0], pairs[:, 1])
    back = np.where(nearer, pairs[:, 1], pairs[:, 0])
    return dataclasses.replace(
        objects,
        metadata=objects.metadata.model_copy(update=made),
        order=frame(
            PREDICTION_ORDER,
            {
                "image_id": image_id[front],
                "front_id": ids[front],
                "back_id": ids[back],
                "score": torch.from_numpy(np.abs(logits)).sigmoid().numpy(),
                "source": [source] * len(front),
            },
        ),
    )
