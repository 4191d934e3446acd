"""Pictures of a mask tokenizer: masks, their tokens, and the decoded masks."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image, ImageDraw

from amodal_pipeline.annotations import AmodalAnnotations
from amodal_pipeline.methods.c2f_seg.reconstruction import Reconstruction, amodal_crops
from amodal_pipeline.methods.c2f_seg.tokenizer import Tokenizer
from amodal_pipeline.visuals.colours import EMPTY, FAINT, INK, PALETTE, PAPER
from amodal_pipeline.visuals.text import font, shortened

_BOTH, _MISSED, _ADDED = PALETTE[6], PALETTE[0], PALETTE[5]  # blue, orange, reddish purple
_MARGIN, _GAP, _CELL, _NAMES = 24, 8, 96, 110
_SHOWN = 8  # objects of a group


def reconstructions_sheet(
    network: Tokenizer, annotations: AmodalAnnotations, found: Reconstruction
) -> Image.Image:
    """Draw the objects whose masks are decoded worst, middling and best.

    Each has the true amodal mask in its crop, its tokens (one colour per code), and the decoded
    mask over the true one, with their IoU.

    Args:
        network: on any device.
        annotations: the split that ``found`` is of.
        found: the tokenizer's IoU on at least one object.
    """
    order = np.argsort(found.iou, kind="stable")
    middle = max(0, (len(order) - _SHOWN) // 2)
    groups = {
        "Worst": order[:_SHOWN],
        "Median": order[middle : middle + _SHOWN],
        "Best": order[-_SHOWN:],
    }
    across = max(map(len, groups.values()))
    block = 3 * (_CELL + _GAP) + 64
    width = max(2 * _MARGIN + _NAMES + across * (_CELL + _GAP) - _GAP, 700)
    page = Image.new("RGB", (width, _MARGIN + 76 + len(groups) * block), PAPER)
    draw = ImageDraw.Draw(page)
    truth = annotations.metadata
    title = f"{truth.dataset}, {truth.split}: masks, their tokens, and the decoded masks"
    room = width - 2 * _MARGIN
    draw.text((_MARGIN, _MARGIN - 6), shortened(title, font(18, True), room), INK, font(18, True))
    _legend(draw, _MARGIN + 28)
    for g, (name, chosen) in enumerate(groups.items()):
        y = _MARGIN + 76 + g * block
        draw.text((_MARGIN, y - 22), name, INK, font(15, True))
        for line, label in enumerate(("mask", "tokens", "decoded")):
            at = (_MARGIN, y + line * (_CELL + _GAP) + _CELL // 2 - 8)
            draw.text(at, label, FAINT, font(13))
        masks = amodal_crops(annotations, found.rows[chosen], network.config.crop)
        with torch.inference_mode():
            tokens = network.encode(masks.to(network.codes.device))
            back = (network.decode(tokens) > 0.5).cpu().numpy()
        for i, of in enumerate(chosen):
            x = _MARGIN + _NAMES + i * (_CELL + _GAP)
            cells = (
                _compared(masks[i].numpy(), masks[i].numpy()),
                _colours(len(network.codes))[tokens[i].cpu().numpy()],
                _compared(masks[i].numpy(), back[i]),
            )
            for line, pixels in enumerate(cells):
                cell = Image.fromarray(pixels).resize((_CELL, _CELL), Image.Resampling.NEAREST)
                page.paste(cell, (x, y + line * (_CELL + _GAP)))
            category = truth.categories[found.category[of]].name
            below = y + 3 * (_CELL + _GAP) - 4
            draw.text((x, below), shortened(category, font(12), _CELL), FAINT, font(12))
            draw.text((x, below + 15), f"IoU {found.iou[of]:.2f}", FAINT, font(12))
    return page


def _legend(draw: ImageDraw.ImageDraw, y: int) -> None:
    x = _MARGIN
    for colour, text in ((_BOTH, "both"), (_MISSED, "only in the mask"), (_ADDED, "only decoded")):
        draw.rectangle((x, y + 3, x + 11, y + 14), tuple(map(int, colour)))
        draw.text((x + 17, y), text, FAINT, font(13))
        x += 40 + int(font(13).getlength(text))


def _compared(truth: np.ndarray, back: np.ndarray) -> np.ndarray:
    """Draw one mask, bool [S, S], over the other; returns uint8 [S, S, 3]."""
    pixels = np.full((*truth.shape, 3), EMPTY, np.uint8)
    pixels[truth & back], pixels[truth & ~back], pixels[~truth & back] = _BOTH, _MISSED, _ADDED
    return pixels


def _colours(codes: int) -> np.ndarray:
    """Return a colour for each code, uint8 [codes, 3], always the same."""
    return np.random.default_rng(0).integers(40, 236, (codes, 3), np.uint8)
