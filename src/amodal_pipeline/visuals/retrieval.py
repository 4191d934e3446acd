"""Pictures of what VRSP makes of an object: coarse mask, nearest known shapes, refined mask."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image, ImageDraw

from amodal_pipeline.annotations import AmodalAnnotations, rle
from amodal_pipeline.annotations.images import read_image
from amodal_pipeline.annotations.tables import boxes
from amodal_pipeline.layers.masks import paste
from amodal_pipeline.methods.vrsp.method import VRSP
from amodal_pipeline.visuals.selection import most_occluded
from amodal_pipeline.visuals.shape_prior import shape_cell
from amodal_pipeline.visuals.text import font, shortened

_INK, _FAINT, _PAPER = (28, 32, 38), (104, 112, 124), (255, 255, 255)
_MARGIN, _GAP, _CELL = 24, 8, 112
_SHOWN = 4  # shapes of an object
_CONTEXT = 0.25  # of the box's sides, shown around it
_TYPICAL = 0.4  # occlusion rate


def retrieval_sheet(model: VRSP, annotations: AmodalAnnotations, count: int) -> Image.Image:
    """One row an object: photograph, coarse amodal mask, its four nearest known shapes, refined
    visible and amodal masks, and the truth, all within the true amodal box.

    Of each of the ``count`` images that hide most, the object whose occlusion rate is nearest to
    40 %: enough is hidden for known shapes to matter, enough is seen to choose among them.

    Args:
        model: on the CPU, in evaluation mode, with a shape prior.
        annotations: the images and their truth.
        count: rows.
    """
    rows = [_row(model, annotations, image_id) for image_id in most_occluded(annotations, count)]
    headings = ["Image", "Coarse", *["Nearest shapes"] + [""] * (_SHOWN - 1)]
    headings += ["Visible", "Amodal", "Truth"]
    width = 2 * _MARGIN + len(headings) * (_CELL + _GAP)
    height = 2 * _MARGIN + 62 + len(rows) * (_CELL + 30)
    page = Image.new("RGB", (width, height), _PAPER)
    draw = ImageDraw.Draw(page)
    title = f"{annotations.metadata.dataset}, {annotations.metadata.split}: known shapes at work"
    draw.text((_MARGIN, _MARGIN - 6), title, _INK, font(18, True))
    for i, heading in enumerate(headings):
        place = (_MARGIN + i * (_CELL + _GAP), _MARGIN + 30)
        draw.text(place, heading, _FAINT, font(13))
    for r, (cells, caption) in enumerate(rows):
        y = _MARGIN + 56 + r * (_CELL + 30)
        for i, cell in enumerate(cells):
            page.paste(cell, (_MARGIN + i * (_CELL + _GAP), y))
        draw.text((_MARGIN, y + _CELL + 4), shortened(caption, font(12), width), _FAINT, font(12))
    return page


def _row(
    model: VRSP, annotations: AmodalAnnotations, image_id: int
) -> tuple[list[Image.Image], str]:
    objects = annotations.of_image(image_id)
    rate = objects["occlusion_rate"].to_numpy(dtype=float)
    record = objects.iloc[[int(np.abs(rate - _TYPICAL).argmin())]]
    images = annotations.images
    name = images.loc[images["image_id"] == image_id, "file_name"].item()
    pixels = read_image(annotations.metadata.image_root, name)
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
    return [_photograph(pixels, box[0]), *(shape_cell(s.numpy(), _CELL) for s in shapes)], caption


def _photograph(pixels: np.ndarray, box: np.ndarray) -> Image.Image:
    x, y, w, h = box.tolist()
    around = (x - _CONTEXT * w, y - _CONTEXT * h, x + (1 + _CONTEXT) * w, y + (1 + _CONTEXT) * h)
    picture = Image.fromarray(pixels).crop(tuple(round(v) for v in around))
    return picture.resize((_CELL, _CELL), Image.Resampling.LANCZOS)
