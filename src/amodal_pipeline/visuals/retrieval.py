"""Pictures of how VRSP segments an object: coarse mask, nearest known shapes, refined mask."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from PIL import Image

from amodal_pipeline.annotations import AmodalAnnotations, rle
from amodal_pipeline.annotations.tables import boxes
from amodal_pipeline.layers.masks import paste
from amodal_pipeline.methods.vrsp.method import VRSP
from amodal_pipeline.visuals.selection import half_hidden, image_of
from amodal_pipeline.visuals.shape_prior import shape_cell
from amodal_pipeline.visuals.sheet import CELL, sheet

_SHOWN = 4  # shapes of an object
_CONTEXT = 0.25  # of the box's sides, shown around it


def retrieval_sheet(model: VRSP, annotations: AmodalAnnotations, count: int) -> Image.Image:
    """Draw one row per object: photograph, coarse amodal mask, its four nearest known shapes,
    refined visible and amodal masks, and the truth, all within the true amodal box.

    Objects are those of :func:`~amodal_pipeline.visuals.selection.half_hidden`, of which enough is
    hidden for known shapes to matter and enough is visible to choose among them.

    Args:
        model: on the CPU, in evaluation mode, with a shape prior.
        annotations: the images and their truth.
        count: rows.
    """
    rows = [_row(model, annotations, record) for record in half_hidden(annotations, count)]
    headings = ["Image", "Coarse", *["Nearest shapes"] + [""] * (_SHOWN - 1)]
    headings += ["Visible", "Amodal", "Truth"]
    title = f"{annotations.metadata.dataset}, {annotations.metadata.split}: known shapes at work"
    return sheet(title, headings, rows)


def _row(
    model: VRSP, annotations: AmodalAnnotations, record: pd.DataFrame
) -> tuple[list[Image.Image], str]:
    pixels = image_of(annotations, record)
    categories = annotations.metadata.categories
    category = [c.id for c in categories].index(record["category_id"].item())
    box = boxes(record["amodal_box"])
    corners = torch.from_numpy(np.concatenate([box[:, :2], box[:, :2] + box[:, 2:]], axis=1))
    image = torch.from_numpy(pixels).permute(2, 0, 1)
    with torch.inference_mode():
        found = model.explain(image, corners, torch.tensor([category + 1]))
    prior = found.prior[0, :_SHOWN] if found.prior is not None else []
    truth = rle.crop(record["amodal_rle"].tolist(), box, pixels.shape[:2], 28)[0]
    shapes = [
        found.coarse_amodal.logits[0].sigmoid(),
        *prior,
        *[torch.zeros(28, 28)] * (_SHOWN - len(prior)),
        found.visible.logits[0].sigmoid(),
        found.amodal.logits[0].sigmoid(),
        torch.from_numpy(truth).float(),
    ]
    drawn = paste(found.amodal.logits.sigmoid(), corners, pixels.shape[:2])
    overlap = rle.pair_iou(drawn, record["amodal_rle"].tolist())[0]
    caption = (
        f"{categories[category].name}, {record['occlusion_rate'].item():.0%} occluded, "
        f"IoU {overlap:.2f}"
    )
    return [_photograph(pixels, box[0]), *(shape_cell(s.numpy(), CELL) for s in shapes)], caption


def _photograph(pixels: np.ndarray, box: np.ndarray) -> Image.Image:
    x, y, w, h = box.tolist()
    around = (x - _CONTEXT * w, y - _CONTEXT * h, x + (1 + _CONTEXT) * w, y + (1 + _CONTEXT) * h)
    picture = Image.fromarray(pixels).crop(tuple(round(v) for v in around))
    return picture.resize((CELL, CELL), Image.Resampling.LANCZOS)
