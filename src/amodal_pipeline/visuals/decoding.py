"""Pictures of how C2F-Seg completes an object: steps of decoding, coarse and refined mask."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from PIL import Image

from amodal_pipeline.annotations import AmodalAnnotations
from amodal_pipeline.methods.c2f_seg.decoding import masked_after
from amodal_pipeline.methods.c2f_seg.method import C2FSeg
from amodal_pipeline.visuals.objects import Seen, caption
from amodal_pipeline.visuals.selection import half_hidden
from amodal_pipeline.visuals.shape_prior import shape_cell
from amodal_pipeline.visuals.sheet import CELL, sheet

_SHOWN = 4  # steps of decoding, the last among them


def decoding_sheet(model: C2FSeg, annotations: AmodalAnnotations, count: int) -> Image.Image:
    """Draw one row per object: photograph, true visible mask, the decoded mask of each step (the
    last is the coarse mask), refined mask, and the truth (the paper's Fig. 8).

    At most four steps are shown. Objects are those of
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
    seen = Seen.of(annotations, record, model.config.crop)
    key = torch.tensor(record["instance_id"].to_numpy(np.int64))
    with torch.inference_mode():
        found = model.explain(
            seen.crop(model.config.crop.image_side)[None], {"input": seen.visible, "key": key}
        )
    shapes = [seen.visible[0], *found.steps[shown.tolist(), 0]]
    masks = {"coarse": found.coarse}
    if model.config.refinement:
        shapes.append(found.amodal[0])
        masks["refined"] = found.amodal
    shapes.append(seen.amodal[0])
    cells = [shape_cell(s.float().numpy(), CELL, rim=False) for s in shapes]
    return [seen.photograph(CELL), *cells], caption(annotations, seen, masks)
