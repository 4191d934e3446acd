"""Who is in front, of objects that are given: by a trained OrderNet, or read off distance maps."""

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import nullcontext

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
    """Return what was predicted for each true object: the prediction whose mask overlaps it most.

    As SLN's paper chooses masks (section 5.2): by the largest IoU of amodal masks, whatever the
    category, the score, and who else has the same. True objects that no prediction touches, and
    those that are ignored, are left out.

    Args:
        annotations: the truth.
        predictions: detections in the same images; of one without an amodal mask the visible one
            counts.

    Returns:
        The predictions under the ids of the true objects (``prediction_id``, ``instance_id``;
        ``source_id`` is the prediction's), with the order that was predicted between them;
        variant "best_match", ``inputs`` the detector.
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
    # The largest first, of equal ones the first prediction; the first of each true object stays.
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
    """Order objects with OrderNet.

    Args:
        model: an OrderNet.
        objects: with the masks that it looks at, and images that can be read.
        config: how to run it; ``objects_per_batch`` pairs at once.
        pairs: int64 [P, 2], rows of ``objects``, two of one image each, each pair once; by default
            those whose amodal masks overlap (:func:`overlapping_pairs`).
        variant, seed, checkpoint: whose order it is.
        on_progress: called with (done, all) pairs.

    Returns:
        The same objects; of each pair the likelier direction, with its probability (above 0.5) as
        score and the source "order_net". A pair of two objects that look the same to the network
        states nothing. Method "order_net", ``inputs`` as they are.

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
        with (
            torch.inference_mode(),
            torch.autocast(device, torch.bfloat16) if bf16 else nullcontext(),
        ):
            found = model(images.to(device), {"objects": seen.to(device)})["logits"].float().cpu()
        alike = (seen[:, 0] == seen[:, 1]).flatten(1).all(dim=1)
        logits.append(found.masked_fill(alike, 0))
        done += len(seen)
        if on_progress:
            on_progress(done, len(pairs))
    made = {"method": "order_net", "variant": variant, "seed": seed, "checkpoint": checkpoint}
    return _ordered(objects, pairs, torch.cat(logits).double(), "order_net", made)


def by_relative_map(objects: Predictions, pairs: np.ndarray | None = None) -> Predictions:
    """Order by R (eq. 4): of two objects, by the largest region of their overlap.

    Distance maps are made from the masks and the order of the table. Method
    "order_by_relative_map".

    Args and raises: as :func:`order`.
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
    # A direction is as certain as certain can be.
    certain = torch.from_numpy(np.where(signs == 0, 0, signs * np.inf))
    made = {"method": "order_by_relative_map", "variant": "full", "checkpoint": ""}
    return _ordered(objects, pairs, certain, "relative map", made)


def overlapping_pairs(objects: Predictions) -> np.ndarray:
    """Rows of objects whose amodal masks (the visible one where there is no other) share a pixel,
    int64 [P, 2]; none of images that are too crowded to look at all pairs."""
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
    """Rows of ``objects`` that stand for two true objects that overlap, int64 [P, 2]: the pairs of
    the protocol "order", whether or not what was predicted for them overlaps."""
    counted = annotations.instances[~annotations.instances["ignore"].to_numpy(dtype=bool)]
    ids = pd.Index(objects.predictions["instance_id"].to_numpy(dtype=np.int64))
    i, j, _ = overlapping(counted)
    place = ids.get_indexer(counted["instance_id"])
    pairs = np.stack([place[i], place[j]], axis=1)
    return pairs[(pairs >= 0).all(axis=1)].astype(np.int64)


class _Batches(Dataset):
    """What is seen of pairs, so many at once."""

    def __init__(self, crops: PairCrops, pairs: np.ndarray, size: int) -> None:
        self.crops, self.pairs, self.size = crops, pairs, size

    def __len__(self) -> int:
        return -(-len(self.pairs) // self.size)

    def __getitem__(self, batch: int) -> tuple[Tensor, Tensor]:
        if batch >= len(self):
            raise IndexError(batch)
        return self.crops(self.pairs[batch * self.size : (batch + 1) * self.size])


def _by_image(image_ids: np.ndarray) -> Iterator[tuple[int, slice]]:
    """Each image of sorted ids, and where it stands."""
    starts = np.flatnonzero(np.diff(image_ids, prepend=np.nan))
    for start, stop in zip(starts, [*starts[1:], len(image_ids)], strict=True):
        yield int(image_ids[start]), slice(int(start), int(stop))


def _ordered(
    objects: Predictions, pairs: np.ndarray, logits: Tensor, source: str, made: dict[str, object]
) -> Predictions:
    """Objects with the order of pairs (A, B) whose logit, float64 [P], is above 0 for A."""
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
