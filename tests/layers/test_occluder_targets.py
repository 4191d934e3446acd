"""Targets of occluder masks against a slow reference on the masks of whole images."""

import numpy as np
import pytest
import torch

from amodal_pipeline.layers.detector import on_boxes
from amodal_pipeline.layers.masks import mask_loss, mask_targets
from amodal_pipeline.layers.occluders import occluder_loss, with_occluders
from amodal_pipeline.samples.images import scale_and_flip

HEIGHT, WIDTH = 60, 80


def scene(seed: int, hidden: bool = False) -> dict:
    """Return the target of an image of six rectangles, later ones in front of earlier ones.

    With ``hidden`` the first is behind all others and covered by them.
    """
    draw = np.random.default_rng(seed)
    amodal = np.zeros((6, HEIGHT, WIDTH), np.uint8)
    for mask in amodal:
        (y, x), (h, w) = draw.integers(0, (40, 55)), draw.integers(3, 30, 2)
        mask[y : y + h, x : x + w] = 1
    if hidden:
        amodal[0] = amodal[1]
    behind = np.stack([amodal[i + 1 :].any(axis=0) for i in range(6)])
    visible = amodal * (1 - behind.astype(np.uint8))
    boxes = {}
    for kind, masks in (("amodal", amodal), ("visible", visible)):
        boxes[f"{kind}_boxes"] = torch.tensor([_box(mask) for mask in masks])
    target = {
        **boxes,
        "labels": torch.ones(6, dtype=torch.int64),
        "amodal_masks": torch.from_numpy(amodal),
        "visible_masks": torch.from_numpy(visible),
        "mask_scale": (1.0, 1.0),
    }
    image = torch.zeros(3, HEIGHT, WIDTH, dtype=torch.uint8)
    return scale_and_flip(image, target, (90, 120), flip=bool(seed % 2))[1]


def _box(mask: np.ndarray) -> list[float]:
    rows, columns = np.nonzero(mask)
    if not len(rows):
        return [np.nan] * 4
    return [columns.min(), rows.min(), columns.max() + 1.0, rows.max() + 1.0]


def slow(target: dict, kind: str, in_front: bool, gate: float | None) -> np.ndarray:
    """Return the occluders of each object, looked at one pair after another."""
    amodal, visible, joined = (
        target[f"{name}_masks"].numpy().astype(bool) for name in ("amodal", "visible", kind)
    )
    found = np.zeros_like(amodal)
    for i, own in enumerate(found):
        y1, y2 = np.nonzero(amodal[i].any(axis=1))[0][[0, -1]]
        x1, x2 = np.nonzero(amodal[i].any(axis=0))[0][[0, -1]]
        for j in range(len(amodal)):
            if j == i or (in_front and not (visible[j] & amodal[i] & ~visible[i]).any()):
                continue
            if gate is not None and not _iou(_box(amodal[i]), _box(joined[j])) > gate:
                continue
            own |= joined[j]
        if kind == "visible":
            own &= ~visible[i]
        if gate is not None:
            inside = np.zeros_like(own)
            inside[y1 : y2 + 1, x1 : x2 + 1] = True
            own &= inside
            if own.sum() <= 20:
                own[:] = False
    return found


def _iou(a: list[float], b: list[float]) -> float:
    low, high = np.maximum(a[:2], b[:2]), np.minimum(a[2:], b[2:])
    shared = np.prod(np.clip(high - low, 0, None))
    areas = sum(np.prod(np.subtract(box[2:], box[:2])) for box in (a, b))
    return shared / (areas - shared)


@pytest.mark.parametrize("kind", ["visible", "amodal"])
@pytest.mark.parametrize("in_front", [False, True])
@pytest.mark.parametrize("gate", [None, 0.05])
def test_occluders_are_those_that_a_loop_over_pairs_finds(kind, in_front, gate):
    differing = 0
    for seed in range(8):
        target = scene(seed, hidden=seed > 5)
        (found,) = with_occluders([target], kind, in_front=in_front, gate=gate)
        masks = found["occluder_masks"]
        assert masks.dtype == torch.uint8 and masks.any()
        assert np.array_equal(masks.numpy() > 0, slow(target, kind, in_front, gate))
        (plain,) = with_occluders([target], kind)
        differing += not torch.equal(masks, plain["occluder_masks"])
    assert (differing > 0) == (in_front or gate is not None)


def test_within_a_roi_they_are_the_union_of_all_visible_masks_without_the_own_one():
    target = scene(3)
    (found,) = on_boxes(with_occluders([target], "visible"), "amodal")
    rois, matched = found["boxes"] + torch.tensor([-3.0, 2, 4, 5]), torch.arange(6)
    seen = {**found, "union_masks": found["visible_masks"].amax(0, keepdim=True).expand(6, -1, -1)}
    crops = {
        kind: mask_targets([seen], kind, [rois], [matched], 28)
        for kind in ("occluder", "union", "visible")
    }
    # At an outline a cell may be less than half of either mask and more than half of both.
    expected = crops["union"] * (1 - crops["visible"])
    assert (crops["occluder"] != expected).float().mean() < 0.02
    assert crops["occluder"].any()
    # The other targets do not depend on who occludes.
    for kind in ("amodal", "visible"):
        before = mask_targets(on_boxes([target], "amodal"), kind, [rois], [matched], 28)
        assert torch.equal(before, mask_targets([found], kind, [rois], [matched], 28))


def test_an_image_without_or_with_one_object_has_no_occluders():
    for count in (0, 1):
        target = {k: v[:count] if torch.is_tensor(v) else v for k, v in scene(0).items()}
        for gate in (None, 0.05):
            (found,) = with_occluders([target], "visible", in_front=True, gate=gate)
            assert found["occluder_masks"].shape == target["visible_masks"].shape
            assert not found["occluder_masks"].any()


def test_balance_is_over_the_occluded_rois_and_as_many_first_ones():
    torch.manual_seed(0)
    logits = torch.randn(7, 28, 28, requires_grad=True)
    truth = torch.zeros(7, 28, 28)
    truth[[1, 4, 6], 3:9, 5:20] = 1
    chosen = [1, 4, 6, 0, 1, 2]
    slow = torch.stack([mask_loss(logits[i], truth[i]) for i in chosen]).mean()
    torch.testing.assert_close(occluder_loss(logits, truth, balance=True), slow)
    assert torch.equal(occluder_loss(logits, truth, balance=False), mask_loss(logits, truth))
    nothing = occluder_loss(logits, torch.zeros_like(truth), balance=True)
    nothing.backward()
    assert nothing == 0 and not logits.grad.any()
