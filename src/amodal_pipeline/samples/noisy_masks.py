"""True visible masks with faults such as a detector's: moved edges, lost details, missing parts.

Completers are scored on them (``inputs=noisy``), because nobody has true masks of photographs.
"""

import dataclasses

import numpy as np
import pyarrow as pa
import torch

from amodal_pipeline.annotations import Given, KnownObjects, rle
from amodal_pipeline.layers.configs import CorruptionConfig, CropConfig
from amodal_pipeline.layers.corruption import corrupt
from amodal_pipeline.layers.crops import crop_masks, paste_masks, windows
from amodal_pipeline.samples.objects import boxes_around

# An object is about as many pixels large as in a detector's mask head (28 for Mask R-CNN).
_WINDOW = CropConfig(side=56, enlarge=1.6, clipped=False)
_FAULTS = CorruptionConfig(
    blur=0.3, morphology=0.6, dilation=0.5, kernel=(2, 4), iterations=(1, 1), sigma=1.5
)
_MISSING = 0.2  # share of objects that lose a part
_RADIUS = (0.2, 0.4)  # of the disc that is lost, in sides of a square as large as the object


def with_noise(
    objects: KnownObjects, faults: CorruptionConfig = _FAULTS, missing: float = _MISSING
) -> KnownObjects:
    """Return true objects with noisy visible masks, given as NOISY_MASKS.

    Each mask is sampled at the resolution of a detector's, dilated, eroded or blurred there
    (:func:`~..layers.corruption.corrupt`), and may lose a disc around one of its pixels. A mask
    that would vanish stays as it was. Draws are seeded by ``prediction_id``: they do not depend on
    the other objects. Noisy masks may overlap, or leave gaps between objects.

    Args:
        objects: true ones, with visible masks.
        faults: of a window of 56 pixels, in which an object is up to 35 long.
        missing: share of objects that lose a part, 0–1.
    """
    table, sizes = objects.table.predictions, objects.table.sizes
    masks = pa.array(table["visible_rle"].tolist(), pa.string())
    seen = np.flatnonzero(rle.area(masks) > 0)
    around = windows(boxes_around(objects.table, "visible")[seen], sizes[seen], _WINDOW)
    crops = crop_masks(masks.take(pa.array(seen)), around, sizes[seen], _WINDOW.side)
    ids = table["prediction_id"].to_numpy(dtype=np.int64)
    noisy = table["visible_rle"].tolist()
    for row, window, crop in zip(seen, around, crops, strict=True):
        draw = np.random.default_rng(int(ids[row]))
        spoiled = _without_a_part(corrupt(crop, faults, draw), missing, draw)
        probability = torch.from_numpy(spoiled[None].astype(np.float32))
        (made,) = paste_masks(probability, window[None], tuple(map(int, sizes[row])))
        if rle.area([made])[0]:
            noisy[row] = made
    boxes = rle.box(noisy, sizes)
    made = objects.with_columns(visible_rle=noisy, visible_box=boxes).table
    metadata = made.metadata.model_copy(update={"inputs": Given.NOISY_MASKS.value})
    return KnownObjects(dataclasses.replace(made, metadata=metadata), Given.NOISY_MASKS)


def _without_a_part(mask: np.ndarray, share: float, draw: np.random.Generator) -> np.ndarray:
    """Return bool [S, S] without a disc, with the probability ``share``."""
    if draw.random() >= share or not mask.any():
        return mask
    y, x = np.argwhere(mask)[draw.integers(mask.sum())]
    radius = draw.uniform(*_RADIUS) * np.sqrt(mask.sum())
    rows, columns = np.ogrid[: mask.shape[0], : mask.shape[1]]
    left = mask & ((rows - y) ** 2 + (columns - x) ** 2 > radius**2)
    return left if left.any() else mask
