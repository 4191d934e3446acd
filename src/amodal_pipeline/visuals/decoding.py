"""Pictures of how C2F-Seg completes an object: every step of decoding, coarse and refined mask."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Tensor

from amodal_pipeline.annotations import AmodalAnnotations, rle
from amodal_pipeline.annotations.tables import boxes
from amodal_pipeline.layers.crops import crop_image, crop_masks, paste_masks, windows
from amodal_pipeline.methods.c2f_seg.decoding import masked_after
from amodal_pipeline.methods.c2f_seg.method import C2FSeg
from amodal_pipeline.visuals.selection import half_hidden, image_of
from amodal_pipeline.visuals.shape_prior import shape_cell
from amodal_pipeline.visuals.sheet import CELL, sheet

_SHOWN = 4  # steps of decoding, the last among them


def decoding_sheet(model: C2FSeg, annotations: AmodalAnnotations, count: int) -> Image.Image:
    """One row an object, as the model sees it: photograph, true visible mask, what all tokens
    decode to at each step (the last is the coarse mask), refined mask, and the truth (the paper's
    Fig. 8).

    Of many steps, four are shown. Objects are those of
    :func:`~amodal_pipeline.visuals.selection.half_hidden`.

    Args:
        model: on the CPU, in evaluation mode.
        annotations: the images and their truth.
        count: rows.
    """
    steps = model.config.steps
    shown = np.unique(np.linspace(0, steps - 1, min(steps, _SHOWN)).round().astype(int))
    rows = [_row(model, annotations, record, shown) for record in half_hidden(annotations, count)]
    headings = ["Image", "Visible", *(f"Step {i + 1}" for i in shown[:-1]), "Coarse"]
    headings += ["Refined"] if model.config.refinement else []
    length = model.transformer.length
    kept = [1 - masked_after(length, steps)[i] / length for i in shown]
    return sheet(
        f"{annotations.metadata.dataset}, {annotations.metadata.split}: coarse to fine",
        [*headings, "Truth"],
        rows,
        f"tokens decided: {', '.join(f'{share:.0%}' for share in kept)} of {length}",
    )


def _row(
    model: C2FSeg, annotations: AmodalAnnotations, record: pd.DataFrame, shown: np.ndarray
) -> tuple[list[Image.Image], str]:
    pixels = image_of(annotations, record)
    size, crop = pixels.shape[:2], model.config.crop
    image = torch.from_numpy(pixels).permute(2, 0, 1)
    window = windows(boxes(record["visible_box"]), size, crop)
    visible, truth = (
        torch.from_numpy(crop_masks(record[f"{kind}_rle"].tolist(), window, size, crop.side))
        for kind in ("visible", "amodal")
    )
    with torch.inference_mode():
        found = model.explain(
            crop_image(image, window[0], crop.image_side)[None],
            {"input": visible, "key": torch.tensor(record["instance_id"].to_numpy(np.int64))},
        )
    shapes = [visible[0], *found.steps[shown.tolist(), 0]]
    shapes += [found.amodal[0]] if model.config.refinement else []
    cells = [shape_cell(s.float().numpy(), CELL, rim=False) for s in (*shapes, truth[0])]
    photograph = Image.fromarray(crop_image(image, window[0], CELL).permute(1, 2, 0).numpy())
    return [photograph, *cells], _caption(model, annotations, record, found, window, size)


def _caption(model, annotations, record, found, window, size) -> str:
    names = {c.id: c.name for c in annotations.metadata.categories}
    truth = record["amodal_rle"].tolist()

    def overlap(masks: Tensor) -> float:
        return rle.pair_iou(paste_masks(masks, window, size), truth)[0]

    seen = rle.pair_iou(record["visible_rle"].tolist(), truth)[0]
    parts = [f"visible {seen:.2f}", f"coarse {overlap(found.coarse):.2f}"]
    parts += [f"refined {overlap(found.amodal):.2f}"] if model.config.refinement else []
    return (
        f"{names[record['category_id'].item()]}, {record['occlusion_rate'].item():.0%} occluded, "
        f"IoU: {', '.join(parts)}"
    )
