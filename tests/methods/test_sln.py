"""SLN: its maps, its losses, its detections and their order."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.ops import box_iou

from amodal_pipeline import methods
from amodal_pipeline.annotations import Category, rle
from amodal_pipeline.annotations.distance_maps import (
    amodal_mask,
    true_distance_maps,
    visible_mask,
)
from amodal_pipeline.annotations.levels import levels_of_image
from amodal_pipeline.methods import sln
from amodal_pipeline.methods.configs import SLNConfig
from amodal_pipeline.methods.pretrained import start_from
from amodal_pipeline.samples.images import TrainingBatches, sample
from amodal_pipeline.training.loop import _freeze
from tests.conftest import SIZE, tiny_method, tiny_training
from tests.methods.test_methods import batch, checkpoint_of, overfitted

BOTH = pytest.mark.parametrize("activation", ["softmax", "sigmoid"])


def build(name="sln", **changes):
    config = tiny_method(name).model_dump() | changes
    torch.manual_seed(0)
    return methods.build(SLNConfig.model_validate(config), classes=2)


def layers_of(levels, layers):
    """Each object in the layers of its levels (section 4.4), bool [N, L, H, W]; the last has all
    deeper ones."""
    clipped = np.minimum(levels.level, layers - 1)[:, None]
    return (clipped == np.arange(layers)[:, None, None]) & levels.amodal[:, None]


def maps_of(layers) -> sln.LayerMaps:
    """Layers that are sure of ``layers``, bool [N, L, H, W]."""
    logits = torch.as_tensor(layers).float() * 40 - 20
    return sln.LayerMaps(F.logsigmoid(logits), F.logsigmoid(-logits))


@BOTH
def test_layer_probabilities_are_those_of_the_activation(activation):
    config = tiny_method("sln").model_copy(update={"layer_activation": activation})
    module = sln.LayeringModule(5, 8, config).eval()
    maps = 30 * torch.randn(2, 5, 6, 6)
    logits = module.convolutions(maps)
    found = module(maps)
    if activation == "softmax":
        expected = logits.softmax(dim=1)[:, :-1]
        assert logits.shape[1] == config.layers + 1
    else:
        expected = logits.sigmoid()
    assert torch.allclose(found.probability, expected, atol=1e-6)
    assert torch.allclose(found.absent.exp(), 1 - expected, atol=1e-5)


@BOTH
def test_the_loss_is_binary_cross_entropy_and_never_infinite(activation):
    config = tiny_method("sln").model_copy(update={"layer_activation": activation})
    module = sln.LayeringModule(5, 8, config).eval()
    truth = (torch.rand(2, config.layers, 6, 6) > 0.5).float()
    found = module(torch.randn(2, 5, 6, 6))
    expected = F.binary_cross_entropy(found.probability, truth, reduction="none").sum(dim=1)
    assert torch.allclose(found.loss(truth), expected, atol=1e-5)
    with torch.no_grad():
        module.convolutions[-1].weight.mul_(1e6)
    maps = torch.randn(2, 5, 6, 6, requires_grad=True)
    loss = module(maps).loss(truth).mean()
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(maps.grad).all()


@pytest.mark.parametrize(("dilated", "coarsest"), [(False, (2, 3)), (True, (4, 6))])
def test_the_encoder_is_a_convolution_of_concatenated_maps(dilated, coarsest):
    """Section 4.2: of maps of 256, 128, 64 and 32 cells, each half the size of the one before."""
    torch.manual_seed(0)
    config = tiny_method("sln").model_copy(update={"dilated": dilated})
    encoder = sln.ConcatenatedEncoder(config).eval()
    images = torch.randn(1, 3, 64, 96)
    maps = encoder.body(images)
    assert [tuple(m.shape[-2:]) for m in maps] == [(16, 24), (8, 12), (4, 6), coarsest]
    scaled = [F.interpolate(m, (16, 24), mode="bilinear", align_corners=False) for m in maps]
    weight = torch.cat([layer.weight for layer in encoder.reduce], dim=1)
    expected = F.conv2d(torch.cat(scaled, dim=1), weight, encoder.reduce[0].bias)
    found = encoder(images)["0"]
    assert found.shape == (1, 16, 16, 24)
    assert torch.allclose(found, expected, atol=1e-4)
    found.sum().backward()
    assert all(layer.weight.grad.abs().sum() > 0 for layer in encoder.reduce)
    assert encoder.body.conv1.weight.grad.abs().sum() > 0


def test_the_truth_comes_back_from_its_layers(shapes):
    levels = levels_of_image(shapes, 1)
    layers = layers_of(levels, 3)
    maps = build().distance_maps(maps_of(layers)).numpy()
    expected = true_distance_maps(levels.amodal, levels.level, 3)
    assert abs(maps - expected).max() < 1e-3
    assert (amodal_mask(maps) == levels.amodal).all()
    assert (visible_mask(maps) == levels.visible).all()


def test_confidence_is_that_of_the_likeliest_layer_or_of_any():
    probability = torch.tensor([0.4, 0.45, 0.05])[None, :, None, None]
    layers = sln.LayerMaps(probability.log(), (1 - probability).log())
    found = {
        (activation, confidence): float(
            build(layer_activation=activation, confidence=confidence).distance_maps(layers)
        )
        for activation in ("softmax", "sigmoid")
        for confidence in ("max", "any")
    }
    # Up to c a pixel is of no object, and of level 0.
    assert found["softmax", "max"] == found["sigmoid", "max"] == pytest.approx(0.45)
    assert found["softmax", "any"] == pytest.approx(0.9 - 1)
    assert found["sigmoid", "any"] == pytest.approx(1 - 0.6 * 0.55 * 0.95 - 1)


def test_the_expected_level_lets_gradients_through():
    logits = torch.randn(1, 3, 4, 4, requires_grad=True)
    layers = sln.LayerMaps(F.logsigmoid(logits), F.logsigmoid(-logits))
    found = build().distance_maps(layers, expected=True)
    number = torch.arange(3.0)[:, None, None]
    p = layers.probability
    assert torch.allclose(found, p.amax(1) - (p * number).sum(1) / p.sum(1), atol=1e-6)
    found.sum().backward()
    assert (logits.grad != 0).all()


def test_global_truth_is_the_global_layering_map(shapes):
    levels = levels_of_image(shapes, 1)
    _, target, _ = sample(shapes, 0, levels=True)
    one, target = sln.with_layers(target, 1), sln.with_layers(target, 3)
    found = sln.global_truth(target, (SIZE, SIZE), 1, 3)
    assert (found.numpy() == layers_of(levels, 3).any(axis=0)).all()
    assert found[1].any() and not found[2].any()
    # One layer holds all; a coarse map has its pixels' centres; input of half the size.
    assert (sln.global_truth(one, (SIZE, SIZE), 1, 1)[0].numpy() == levels.amodal.any(0)).all()
    coarse = sln.global_truth(target, (16, 16), 4, 3)
    assert torch.equal(coarse, found[:, 2::4, 2::4])
    half = sln.global_truth({**target, "mask_scale": (2.0, 2.0)}, (8, 8), 4, 3)
    assert torch.equal(half, found[:, 4::8, 4::8])


def test_levels_flip_with_their_image(shapes):
    augmentation = tiny_training(
        augmentation={"flip": 1.0, "min_sizes": [64], "max_size": 64}
    ).augmentation
    flipped = TrainingBatches(shapes, augmentation, 8, 0, levels=True)[0]
    plain = TrainingBatches(
        shapes, augmentation.model_copy(update={"flip": 0.0}), 8, 0, levels=True
    )[0]
    for one, other in zip(flipped.targets, plain.targets, strict=True):
        assert torch.equal(one["levels"], other["levels"].flip(-1))
        assert torch.equal(one["levels"] > 0, (one["amodal_masks"] > one["visible_masks"]))
    assert "levels" not in TrainingBatches(shapes, augmentation, 2, 0)[0].targets[0]


def test_padding_is_no_part_of_the_global_loss(shapes):
    model = build(global_input="features").train()
    (image, *_), (target, *_) = batch(shapes)
    small = {**sln.with_layers(target, 3), "mask_scale": (2.0, 2.0)}
    _, sizes = model.detector.stack([image[:, ::2, ::2]])
    layers = sln.LayerMaps(-torch.rand(1, 3, 16, 16), -torch.rand(1, 3, 16, 16))
    found = model._global_loss(layers, sizes, [small])
    truth = sln.global_truth(small, (8, 8), 4, 3)
    window = sln.LayerMaps(layers.present[..., :8, :8], layers.absent[..., :8, :8])
    assert float(found) == pytest.approx(float(window.loss(truth[None]).mean()))


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.tuples(*[st.floats(-5, 30)] * 2, *[st.floats(1, 20)] * 2), min_size=1, max_size=3)
)
def test_pasted_maps_are_the_cells_that_pixels_are_in(corners):
    boxes = torch.tensor([[x, y, x + w, y + h] for x, y, w, h in corners])
    maps = torch.rand(len(boxes), 3, 3) + 1
    found = sln.paste_nearest(maps, boxes, (20, 24))
    for number, (x1, y1, x2, y2) in enumerate(boxes.tolist()):
        for y in range(20):
            for x in range(24):
                column, row = (x + 0.5 - x1) / (x2 - x1) * 3, (y + 0.5 - y1) / (y2 - y1) * 3
                # Rounding decides on a rim.
                if min(abs(column - round(column)), abs(row - round(row))) < 1e-3:
                    continue
                inside = 0 <= column < 3 and 0 <= row < 3
                expected = maps[number, int(row), int(column)] if inside else 0
                assert found[number, y, x] == expected


def test_order_of_three_objects():
    near, hidden, far = 0.9, 0.9 - 1, 0.9 - 2
    maps = torch.full((4, 4, 4), near)
    maps[1, :, 2:], maps[2, :, 2:] = hidden, far  # of the right half, three share the left one's
    boxes = torch.tensor([[10.0, 0, 20, 20], [0.0, 0, 20, 20], [0.0, 0, 20, 20], [60.0, 0, 70, 9]])
    maps[1, :, :2] = 0
    found = {tuple(pair) for pair in sln.order_of(maps, boxes, (640, 400)).tolist()}
    assert found == {(0, 1), (0, 2), (1, 2)}
    assert sln.order_of(maps[:1], boxes[:1], (640, 400)).shape == (0, 2)
    assert sln.order_of(maps[:0], boxes[:0], (640, 400)).shape == (0, 2)


def test_without_a_box_head_detections_are_the_best_proposals(shapes):
    model = build().eval()
    model.detector.roi_heads.detections_per_img = most = 8
    images, _ = batch(shapes)
    with torch.no_grad():
        encoded, _ = model._encoded(*model.detector.stack(images))
        scored = model.detector.rpn.scored(encoded)
        found = model(images)
    close = []
    for (boxes, scores), own in zip(scored, found, strict=True):
        assert len(boxes) > most == len(own["boxes"])
        assert (own["labels"] == 1).all()
        # Proposals were suppressed at 0.7, and are not again at the box head's 0.5.
        assert torch.equal(own["boxes"], boxes[:most])
        assert torch.equal(own["scores"], scores[:most])
        close.append(float(box_iou(own["boxes"], own["boxes"]).triu(1).max()))
    assert 0.5 < max(close) <= 0.7, close
    assert not any("box_predictor" in name for name, _ in model.named_parameters())


TRAINED_AND_LOSSES = [
    (("global_module.",), {"loss_global_layers"}),
    (("detector.",), {"loss_objectness", "loss_rpn_box_reg"}),
    (
        ("instance_",),
        {"loss_instance_layers", "loss_distance_map"},
    ),
    (("instance_refinement.",), {"loss_distance_map"}),
]


@pytest.mark.parametrize("global_input", ["image", "features"])
@pytest.mark.parametrize(("trained", "expected"), TRAINED_AND_LOSSES)
def test_what_does_not_train_has_no_loss(trained, expected, global_input, shapes):
    model = build(global_input=global_input).train()
    tops = {f"{name}." for name, _ in model.named_children()} - {"pool."}
    _freeze(model, tuple(name for name in tops if not name.startswith(trained)))
    losses = model(*batch(shapes))
    assert losses.keys() == expected
    sum(losses.values()).backward()
    touched = {name for name, p in model.named_parameters() if p.grad is not None}
    assert touched and all(name.startswith(trained) for name in touched)


def test_an_image_without_an_object_to_learn_has_no_instance_loss(shapes):
    model = build().train()
    images, targets = batch(shapes)
    for target in targets:
        target["labels"][:] = -1
    losses = model(images, targets)
    assert "loss_instance_layers" not in losses
    assert all(torch.isfinite(loss) for loss in losses.values())


def test_it_starts_from_the_encoder_of_another_detector():
    config = tiny_method("mask_rcnn")
    source = methods.build(config, classes=2)
    model = build()
    categories = (Category(id=1, name="red"), Category(id=2, name="blue"))
    start_from(model, categories, checkpoint_of(source))
    theirs = source.detector.backbone.body.state_dict()
    ours = model.detector.backbone.body.state_dict()
    assert theirs.keys() == ours.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize(
    "changes",
    [
        {"global_module": False, "global_input": "image"},
        {"refinement": False, "expected_level": True},
        {"layers": 9},
    ],
)
def test_values_without_effect_are_refused(changes):
    with pytest.raises(ValueError, match=next(iter(changes))):
        SLNConfig(**changes)


def test_the_papers_model_overfits_two_images_and_tells_their_order(shapes, tmp_path):
    stages = [{"iterations": 20, "trained": ["global_module."]}]
    two, found = overfitted("sln", shapes, tmp_path, iterations=200, stages=stages, seed=1)
    assert set(found.order["source"]) == {"sln"}
    for image_id in (1, 2):
        # Section 5.2: of each object the detection that overlaps it most.
        own, objects = found.of_image(image_id), two.of_image(image_id)
        overlap = rle.iou(list(own["amodal_rle"]), list(objects["amodal_rle"]), (SIZE, SIZE))
        assert (overlap.max(axis=0) > 0.75).all()
        best = own["prediction_id"].to_numpy()[overlap.argmax(axis=0)]
        # The red square is lower, and in front: its box ends farther down.
        low = [box[1] + box[3] for box in objects["amodal_box"]]
        front, back = best[np.argsort(low)[::-1]]
        order = found.order[found.order["image_id"] == image_id]
        assert (front, back) in set(zip(order["front_id"], order["back_id"], strict=True))


def test_what_is_not_visible_is_hidden_where_the_configuration_says_so():
    """The first layer is likelier than each other one, and has less than one half."""
    layers = torch.tensor([[0.6, 0.2, 0.1], [0.4, 0.1, 0.3], [0.1, 0.2, 0.1]])
    found = sln.LayerMaps(layers.log(), (1 - layers).log())
    found = sln.LayerMaps(*(m.T[None, :, None] for m in (found.present, found.absent)))
    config = {"layers": 3, "confidence": "any", "hidden_unless_visible": True}
    model = sln.SLN(SLNConfig.model_validate(tiny_method("sln").model_dump() | config), 2)
    maps = model.distance_maps(found, result=True)[0, 0]
    assert torch.allclose(maps, torch.tensor([0.9, 0.8 - 2, 0.4]))
    assert torch.allclose(model.distance_maps(found)[0, 0], torch.tensor([0.9, 0.8, 0.4]))
