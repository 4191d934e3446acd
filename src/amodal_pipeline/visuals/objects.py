"""Objects as a completer sees them, and the IoU of its masks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Tensor

from amodal_pipeline.annotations import AmodalAnnotations, rle
from amodal_pipeline.annotations.tables import boxes
from amodal_pipeline.layers.configs import CropConfig
from amodal_pipeline.layers.crops import crop_image, crop_masks, paste_masks, windows
from amodal_pipeline.visuals.selection import image_of


@dataclass(frozen=True)
class Seen:
    """Hold a true object in its window.

    ``record``: its row of ``instances``; ``image`` uint8 [3, H, W]; ``window`` float64 [1, 4] (x1,
    y1, x2, y2) in pixels; ``visible`` and ``amodal`` bool [1, S, S].
    """

    record: pd.DataFrame
    image: Tensor
    window: np.ndarray
    visible: Tensor
    amodal: Tensor

    @classmethod
    def of(cls, annotations: AmodalAnnotations, record: pd.DataFrame, crop: CropConfig) -> Seen:
        pixels = image_of(annotations, record)
        size = pixels.shape[:2]
        window = windows(boxes(record[f"{crop.around}_box"]), size, crop)
        visible, amodal = (
            torch.from_numpy(crop_masks(record[f"{kind}_rle"].tolist(), window, size, crop.side))
            for kind in ("visible", "amodal")
        )
        return cls(record, torch.from_numpy(pixels).permute(2, 0, 1), window, visible, amodal)

    def crop(self, side: int) -> Tensor:
        """Return the image in the window, uint8 [3, side, side]."""
        return crop_image(self.image, self.window[0], side)

    def photograph(self, side: int) -> Image.Image:
        """Return the image in the window as a picture."""
        return Image.fromarray(self.crop(side).permute(1, 2, 0).numpy())

    def iou(self, mask: Tensor) -> float:
        """Return the IoU, on the whole image, of the true amodal mask and a mask in the window,
        float [1, S, S] of 0–1."""
        found = paste_masks(mask, self.window, tuple(self.image.shape[1:]))
        return rle.pair_iou(found, self.record["amodal_rle"].tolist())[0]


def caption(annotations: AmodalAnnotations, seen: Seen, masks: Mapping[str, Tensor]) -> str:
    """Return a line on category, occlusion rate and IoU of the visible mask and of ``masks``."""
    names = {c.id: c.name for c in annotations.metadata.categories}
    record = seen.record
    visible = rle.pair_iou(record["visible_rle"].tolist(), record["amodal_rle"].tolist())[0]
    shares = {"visible": visible} | {name: seen.iou(mask) for name, mask in masks.items()}
    return (
        f"{names[record['category_id'].item()]}, {record['occlusion_rate'].item():.0%} occluded, "
        f"IoU: {', '.join(f'{name} {share:.2f}' for name, share in shares.items())}"
    )
