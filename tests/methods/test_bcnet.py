"""BCNet: what its two layers see, its boundaries, and what it learns from."""

import pytest
import torch
from scipy import ndimage

from amodal_pipeline import methods
from amodal_pipeline.layers.masks import mask_loss, mask_targets
from amodal_pipeline.layers.occluders import with_occluders
from amodal_pipeline.methods.bcnet.config import BCNetConfig
from amodal_pipeline.methods.bcnet.head import BCNetHead, GraphConvolution, boundary
from tests.conftest import TINY_DETECTOR, tiny_method
from tests.methods.test_aisformer import features, learnt, rois_of, targets_of

WIDTH = 16


def head(**changes) -> BCNetHead:
    """Return a small head whose layers all have an effect."""
    torch.manual_seed(0)
    made = BCNetHead(WIDTH, BCNetConfig.model_validate({"detector": TINY_DETECTOR, **changes}))
    for name, parameter in made.named_parameters():
        if "mask_fcn_logits.weight" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    return made


def test_boundaries_are_those_of_scipys_morphology():
    torch.manual_seed(0)
    masks = torch.nn.functional.interpolate(torch.rand(20, 1, 7, 7), 28)[:, 0].round()
    masks = torch.cat([masks, torch.zeros(1, 28, 28), torch.ones(1, 28, 28)])
    cross = ndimage.generate_binary_structure(2, 1)
    for mask, found in zip(masks.numpy(), boundary(masks), strict=True):
        # Reflected at the border, an outline ends there.
        grown = ndimage.grey_dilation(mask, footprint=cross)
        shrunk = ndimage.grey_erosion(mask, footprint=cross)
        assert (found.numpy() == (grown != shrunk)).all()
    assert boundary(masks)[:20].any(dim=(1, 2)).all() and not boundary(masks)[20:].any()
    # An edge has a line of two pixels.
    half = torch.zeros(1, 28, 28)
    half[:, :, 10:] = 1
    assert boundary(half)[0].sum(dim=1).tolist() == [2] * 28


@torch.no_grad()
def test_a_graph_convolution_joins_every_cell_to_every_other():
    torch.manual_seed(0)
    block = GraphConvolution(WIDTH, zero_init=False).eval()
    block.norm.running_mean.normal_()
    block.norm.running_var.uniform_(0.5, 2)
    x = torch.randn(2, WIDTH, 3, 4)
    query, key, value, output = (
        getattr(block, name).weight[:, :, 0, 0] for name in ("query", "key", "value", "output")
    )
    for cells, found in zip(x.flatten(2), block(x).flatten(2), strict=True):
        for place in range(12):
            own = query @ cells[:, place]
            weights = torch.stack([own @ (key @ cell) / WIDTH**0.5 for cell in cells.T]).softmax(0)
            joined = sum(w * (value @ cell) for w, cell in zip(weights, cells.T, strict=True))
            y = output @ joined
            normed = (y - block.norm.running_mean) / (block.norm.running_var + 1e-4).sqrt()
            torch.testing.assert_close(
                found[:, place], cells[:, place] + normed, atol=1e-5, rtol=1e-4
            )
    still = GraphConvolution(WIDTH, zero_init=True)
    assert torch.equal(still(x), x)  # in training mode, too


@torch.no_grad()
def test_the_object_is_segmented_from_the_features_and_what_the_occluder_layer_made_of_them():
    made = head().eval()
    x = features()
    occluder, occludee = made(x)
    assert occludee.mask.shape == occludee.boundary.shape == occluder.mask.shape == (3, 28, 28)
    assert torch.equal(made.amodal(x), occludee.mask)
    first = x
    for number, convolution in enumerate(made.occluder.convolutions):
        first = convolution(first)
        first = made.occluder.graph(first) if number == 1 else first
    assert torch.equal(made.occluder.segment(first).mask, occluder.mask)
    alone = made.occludee.segment(made.occludee(x + first))
    assert torch.equal(alone.boundary, occludee.boundary)
    # The reverse does not hold: the occluder's layer comes first.
    torch.nn.init.normal_(made.occludee.convolutions[0][0].weight)
    again = made(x)
    assert torch.equal(again[0].mask, occluder.mask)
    assert not torch.equal(again[1].mask, occludee.mask)


def test_every_parameter_of_the_head_learns(shapes):
    torch.manual_seed(0)
    model = methods.build(tiny_method("bcnet"), classes=2).train()
    images, targets = targets_of(shapes)
    losses = model(images, targets)
    sum(loss for name, loss in losses.items() if name.endswith(("_mask", "boundary"))).backward()
    still = [n for n, p in model.head.named_parameters() if p.grad is None or not p.grad.any()]
    assert still == []


def test_losses_have_their_weights(shapes):
    model = methods.build(tiny_method("bcnet"), classes=2)
    _, targets = targets_of(shapes)
    rois = rois_of(targets)
    occluder, occludee = model.head(features(4))
    losses = model.mask_losses(occluder, occludee, rois, targets)
    amodal = mask_targets(targets, "amodal", rois.boxes, rois.matched, 28)
    with_others = with_occluders(targets, "amodal")
    others = mask_targets(with_others, "occluder", rois.boxes, rois.matched, 28)
    # Occluder and object overlap: the other's whole mask is meant.
    assert (others * amodal).any() and others.any(dim=(1, 2)).all()
    slow = {
        "loss_amodal_mask": mask_loss(occludee.mask, amodal),
        "loss_occluder_mask": 0.25 * mask_loss(occluder.mask, others),
        "loss_boundary": mask_loss(occludee.boundary, boundary(amodal)),
        "loss_occluder_boundary": mask_loss(occluder.boundary, boundary(others)),
    }
    assert losses.keys() == slow.keys()
    for name, value in slow.items():
        torch.testing.assert_close(losses[name], value)


def test_masks_and_boundaries_are_learnt(shapes):
    torch.manual_seed(0)
    model = methods.build(tiny_method("bcnet"), classes=2).train()
    before, after, _ = learnt(model, targets_of(shapes)[1])
    assert all(after[name] < 0.4 * loss for name, loss in before.items()), (before, after)


@torch.no_grad()
def test_what_is_predicted_depends_on_no_other_image(shapes):
    torch.manual_seed(0)
    model = methods.build(tiny_method("bcnet"), classes=2)
    images, targets = targets_of(shapes)
    model.train()(images, targets)  # statistics of the graph convolutions
    model.eval().detector.roi_heads.score_thresh = 0.0
    both, alone = model(images), model(images[1:])
    assert len(alone[0]["boxes"]) and "visible_masks" not in alone[0]
    for name, values in both[1].items():
        torch.testing.assert_close(alone[0][name], values, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("switch", ["graph", "boundaries"])
def test_a_part_can_be_left_out(switch):
    whole = {name for name, _ in head().named_parameters()}
    without = {name for name, _ in head(**{switch: False}).named_parameters()}
    part = {"graph": ".graph.", "boundaries": ".boundary."}[switch]
    assert without == {name for name in whole if part not in name}
