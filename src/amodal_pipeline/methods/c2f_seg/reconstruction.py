"""Quality of a mask tokenizer: reconstruction of masks from tokens, and use of the codes."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from amodal_pipeline.annotations import AmodalAnnotations
from amodal_pipeline.annotations.tables import boxes, strings
from amodal_pipeline.layers.configs import CropConfig
from amodal_pipeline.layers.crops import crop_masks, windows
from amodal_pipeline.methods.c2f_seg.tokenizer import Tokenizer
from amodal_pipeline.samples.images import labels_of

_BATCH = 16  # masks encoded at once; one takes 75 MB at the paper's size


@dataclass(frozen=True)
class Reconstruction:
    """How well the amodal masks of N objects were reconstructed.

    Attributes:
        rows: int64 [N], rows of ``instances``.
        category: int64 [N], position of the category, from 0.
        iou: float64 [N] in 0–1, with the crop of the true amodal mask.
        uses: int64 [categories, codes], how often each code was a token.
    """

    rows: np.ndarray
    category: np.ndarray
    iou: np.ndarray
    uses: np.ndarray


def some_objects(annotations: AmodalAnnotations, most: int, seed: int = 0) -> np.ndarray:
    """Return rows of ``instances`` that are not ignored and have a visible part, int64, ascending.

    If there are more than ``most``, that many are drawn at random.
    """
    unseen = annotations.instances["visible_box"].isna().to_numpy()
    ignored = annotations.instances["ignore"].to_numpy(dtype=bool)
    rows = np.flatnonzero(~unseen & ~ignored)
    if len(rows) > most:
        rows = np.sort(np.random.default_rng(seed).choice(rows, most, replace=False))
    return rows


def amodal_crops(annotations: AmodalAnnotations, rows: np.ndarray, crop: CropConfig) -> Tensor:
    """Return the true amodal masks in a completer's crops, bool [N, S, S]."""
    objects, sizes = annotations.instances.iloc[rows], annotations.sizes[rows]
    seen = windows(boxes(objects[f"{crop.around}_box"]), sizes, crop)
    return torch.from_numpy(crop_masks(strings(objects["amodal_rle"]), seen, sizes, crop.side))


@torch.inference_mode()
def reconstruct(
    network: Tokenizer,
    annotations: AmodalAnnotations,
    rows: np.ndarray,
    on_progress: Callable[[int, int], None] | None = None,
) -> Reconstruction:
    """Return how well objects are encoded and decoded, without those too thin for their crop.

    Args:
        network: a trained tokenizer.
        annotations: the true objects.
        rows: int64 [N], rows of ``instances``.
        on_progress: called with (done, all) objects.
    """
    network.eval()
    device, codes = network.codes.device, len(network.codes)
    categories = annotations.metadata.categories
    category = labels_of(categories, annotations.instances["category_id"].iloc[rows]) - 1
    uses = np.zeros((len(categories), codes), np.int64)
    overlaps = [np.zeros(0)]
    for start in range(0, len(rows), _BATCH):
        batch = slice(start, start + _BATCH)
        masks = amodal_crops(annotations, rows[batch], network.config.crop).to(device)
        tokens = network.encode(masks)
        back = network.decode(tokens) > 0.5
        shared, joined = ((masks & back).flatten(1).sum(1), (masks | back).flatten(1).sum(1))
        seen = masks.flatten(1).any(1).cpu().numpy()
        overlap = (shared / joined.clamp(min=1)).double().cpu().numpy()
        overlaps.append(np.where(seen, overlap, np.nan))
        kind = np.repeat(category[batch][seen], tokens[0].numel())
        np.add.at(uses, (kind, tokens.cpu().numpy()[seen].ravel()), 1)
        if on_progress:
            on_progress(start + len(masks), len(rows))
    iou = np.concatenate(overlaps)
    seen = ~np.isnan(iou)
    return Reconstruction(rows[seen], category[seen], iou[seen], uses)


def describe(found: Reconstruction, annotations: AmodalAnnotations) -> pd.DataFrame:
    """Return a table with one row for all objects ("all") and one per category.

    Columns: split, category, objects, ``iou`` (mean in 0–100, NaN without objects),
    ``used_codes``, ``dead_codes`` (never used), and ``perplexity`` (see :func:`perplexity`).
    """
    names = ["all", *(c.name for c in annotations.metadata.categories)]
    rows = []
    for position, name in enumerate(names, -1):
        chosen = slice(None) if position < 0 else found.category == position
        uses = found.uses.sum(axis=0) if position < 0 else found.uses[position]
        iou = found.iou[chosen]
        rows.append(
            {
                "split": annotations.metadata.split,
                "category": name,
                "objects": len(iou),
                "iou": 100 * float(iou.mean()) if len(iou) else float("nan"),
                "used_codes": int((uses > 0).sum()),
                "dead_codes": int((uses == 0).sum()),
                "perplexity": perplexity(uses),
            }
        )
    return pd.DataFrame(rows)


def perplexity(uses: np.ndarray) -> float:
    """Return exp(entropy) of the use of codes: 1 (one code) to their number (all equally often).

    NaN if no code was used.
    """
    share = uses[uses > 0] / max(uses.sum(), 1)
    return float(np.exp(-(share * np.log(share)).sum())) if len(share) else float("nan")
