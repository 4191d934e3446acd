import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from amodal_pipeline.annotations import rle
from amodal_pipeline.layers.configs import MaskHeadConfig
from amodal_pipeline.layers.masks import MaskHead, mask_targets, of_class, paste


def slow_paste(masks, boxes, size, threshold=0.5):
    """Each mask on a canvas of its own, through grid_sample; and where the value is too close."""
    height, width = size
    pasted, unsure = [], []
    for mask, (x1, y1, x2, y2) in zip(masks, boxes.tolist(), strict=True):
        x = (torch.arange(width) + 0.5 - x1) / (x2 - x1) * 2 - 1
        y = (torch.arange(height) + 0.5 - y1) / (y2 - y1) * 2 - 1
        grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1)[None]
        value = F.grid_sample(mask[None, None], grid, align_corners=False)[0, 0]
        inside = torch.zeros(size, dtype=torch.bool)
        top, left = max(int(np.floor(y1)), 0), max(int(np.floor(x1)), 0)
        inside[top : max(int(np.ceil(y2)), 0), left : max(int(np.ceil(x2)), 0)] = True
        pasted.append(((value > threshold) & inside).numpy())
        unsure.append(((value - threshold).abs() < 1e-4).numpy())
    return np.stack(pasted), np.stack(unsure)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 50), st.integers(1, 50), st.integers(1, 5), st.integers(0, 10_000))
def test_paste_agrees_with_a_canvas_for_each_mask(height, width, count, seed):
    draw = torch.Generator().manual_seed(seed)
    masks = torch.rand(count, 7, 7, generator=draw)
    corners = torch.rand(count, 4, generator=draw) * 1.6 - 0.3
    corners = corners * torch.tensor([width, height, width, height])
    low = torch.minimum(corners[:, :2], corners[:, 2:])
    boxes = torch.cat([low, torch.maximum(corners[:, :2], corners[:, 2:]) + 0.5], dim=1)
    boxes[0] = torch.tensor([-1.0, -1.0, width + 1.0, height + 1.0])  # joins whole columns

    strings = paste(masks, boxes, (height, width))

    assert list(rle.problems(strings, (height, width))) == [None] * count
    found = rle.decode(strings, (height, width)).astype(bool)
    expected, unsure = slow_paste(masks, boxes, (height, width))
    assert ((found == expected) | unsure).all()
    assert strings == rle.encode(found)  # in the one form that COCO's own writer gives


def test_paste_of_full_and_empty_masks():
    boxes = torch.tensor([[0.0, 0, 8, 6], [2.0, 1, 5, 4], [20.0, 20, 30, 30], [3.0, 3, 3, 3]])
    strings = paste(torch.ones(4, 28, 28), boxes, (6, 8))
    # The outermost half cell of a mask fades to "outside": 28 cells over a few pixels stay above.
    assert rle.area(strings).tolist() == [48, 9, 0, 0]
    assert paste(torch.zeros(0, 28, 28), torch.zeros(0, 4), (6, 8)) == []


def test_mask_targets_are_what_the_roi_sees():
    mask = torch.zeros(2, 40, 40, dtype=torch.uint8)
    mask[1, 8:24, 8:24] = 1
    target = {"amodal_masks": mask, "mask_scale": (2.0, 2.0)}  # masks at twice the input's size
    exact = torch.tensor([[4.0, 4, 12, 12]])
    wide = torch.tensor([[0.0, 4, 8, 12]])  # the object fills its right half
    crops = mask_targets([target], "amodal", [torch.cat([exact, wide])], [torch.tensor([1, 1])], 8)
    assert crops[0].eq(1).all()
    assert crops[1, :, 4:].eq(1).all() and crops[1, :, :4].eq(0).all()
    empty = mask_targets([target], "amodal", [exact], [torch.tensor([0])], 8)
    assert empty.eq(0).all()
    none = mask_targets([target], "amodal", [exact[:0]], [torch.zeros(0, dtype=torch.long)], 8)
    assert none.shape == (0, 8, 8)


@pytest.mark.parametrize("classes", [1, 3])
def test_mask_head_doubles_the_resolution_and_picks_the_class(classes):
    head = MaskHead(8, MaskHeadConfig(channels=4, convolutions=2), classes)
    logits = head(torch.randn(2, 8, 14, 14))
    assert logits.shape == (2, classes, 28, 28)
    picked = of_class(logits, torch.tensor([1, 3]))
    assert torch.equal(picked[1], logits[1, 0 if classes == 1 else 2])
