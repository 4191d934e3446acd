"""VRSP against slow versions written from the paper's equations."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F

from amodal_pipeline import methods
from amodal_pipeline.methods.vrsp import method as vrsp
from amodal_pipeline.training.data import sample
from tests.conftest import tiny_method


def build(**changes):
    torch.manual_seed(0)
    config = tiny_method("vrsp").model_copy(update=changes)
    return methods.build(config, classes=2)


def a_pass(count=5, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return vrsp.Pass(
        torch.randn(count, 28, 28, generator=draw),
        torch.randn(count, 16, 14, 14, generator=draw),
        torch.randn(count, 16, 28, 28, generator=draw),
    )


def segmentation(count=5):
    passes = [a_pass(count, seed) for seed in range(4)]
    classes = torch.randn(count, 2, generator=torch.Generator().manual_seed(9))
    return vrsp.Segmentation(*passes, classes, None, None)


def truth(count=5, seed=7):
    draw = torch.Generator().manual_seed(seed)
    return (torch.rand(2, count, 28, 28, generator=draw) > 0.5).float()


def iou(a, b):
    a, b = a > 0, b > 0.5
    return (a & b).sum() / max((a | b).sum(), 1)


def test_weighting_is_the_coarse_masks_overlap_with_the_truth():
    model, found, (amodal, visible) = build(), segmentation(), truth()
    losses = model._mask_losses(found, amodal, visible, torch.tensor([1, 2, 1, 2, 2]))
    refined_visible, refined_amodal, plain = 0.0, 0.0, 0.0
    for i in range(5):

        def cross_entropy(pass_, target, i=i):
            return F.binary_cross_entropy_with_logits(pass_.logits[i], target[i], reduction="sum")

        # What the visible mask is looked at through is the coarse amodal mask, and the reverse.
        weight = iou(found.coarse_amodal.logits[i], amodal[i])
        refined_visible += weight * cross_entropy(found.visible, visible)
        weight = iou(found.coarse_visible.logits[i], visible[i])
        refined_amodal += weight * cross_entropy(found.amodal, amodal)
        plain += cross_entropy(found.coarse_amodal, amodal)
    pixels = 5 * 28 * 28
    torch.testing.assert_close(losses["loss_visible_mask"], refined_visible / pixels)
    torch.testing.assert_close(losses["loss_amodal_mask"], refined_amodal / pixels)
    torch.testing.assert_close(losses["loss_amodal_mask_coarse"], plain / pixels)


def test_without_weighting_every_roi_counts_the_same():
    found, (amodal, visible) = segmentation(), truth()
    labels = torch.ones(5, dtype=torch.int64)
    losses = build(weighting=False)._mask_losses(found, amodal, visible, labels)
    expected = F.binary_cross_entropy_with_logits(found.visible.logits, visible)
    torch.testing.assert_close(losses["loss_visible_mask"], expected)


def test_reclassification_is_a_quarter_of_the_cross_entropy():
    found, (amodal, visible) = segmentation(), truth()
    labels = torch.tensor([1, 2, 1, 2, 2])
    losses = build()._mask_losses(found, amodal, visible, labels)
    expected = 0.25 * F.cross_entropy(found.classes, labels - 1)
    torch.testing.assert_close(losses["loss_reclassification"], expected)


def test_feature_matching_is_that_of_equations_3_and_5():
    found, model = segmentation(), build()
    losses = model._feature_matching(found, None)
    layers = 3  # the tiny head: two convolutions and the deconvolution
    for name, coarse, refined in (
        ("visible", found.coarse_visible, found.visible),
        ("amodal", found.coarse_amodal, found.amodal),
    ):
        total = 0.0
        for i in range(5):
            for weight, layer in ((0.01, "convolved"), (0.05, "enlarged")):
                a, b = (getattr(p, layer)[i].flatten() for p in (coarse, refined))
                total += weight * (1 - a @ b / (a.norm() * b.norm()))
        torch.testing.assert_close(losses[f"loss_{name}_matching"], total / (5 * layers))


def test_released_feature_matching_teaches_the_coarse_pass_only():
    found, model = segmentation(), build()
    teacher = a_pass(seed=11)
    for tensor in (teacher.convolved, found.coarse_amodal.convolved):
        tensor.requires_grad_()
    losses = model._feature_matching(found, (teacher, teacher))
    sum(losses.values()).backward()
    assert teacher.convolved.grad is None
    assert found.coarse_amodal.convolved.grad.abs().sum() > 0


def test_no_rois_give_losses_of_zero():
    model, found = build(), segmentation(0)
    labels = torch.zeros(0, dtype=torch.int64)
    amodal, visible = truth(0)
    losses = model._mask_losses(found, amodal, visible, labels)
    losses |= model._feature_matching(found, None)
    assert len(losses) == 7
    assert all(value == 0 for value in losses.values())


@pytest.mark.parametrize("name", ["vrsp", "vrsp_released", "vrsp_without_prior"])
def test_an_image_without_objects_and_one_without_detections(name, shapes):
    torch.manual_seed(0)
    model = methods.build(tiny_method(name), classes=2).train()
    image, target, _ = sample(shapes, 0)
    nothing = {k: v[:0] if isinstance(v, torch.Tensor) else v for k, v in target.items()}
    losses = model([image], [nothing])
    assert all(torch.isfinite(value) for value in losses.values())
    sum(losses.values()).backward()
    model.eval().detector.roi_heads.score_thresh = 1.0
    with torch.no_grad():
        (found,) = model([image])
    assert found["boxes"].shape == (0, 4)
    assert found["amodal_masks"].shape == found["visible_masks"].shape == (0, 28, 28)


class Recorder(torch.nn.Module):
    """A mask head that keeps what it is given and says what it is told."""

    def __init__(self, logits):
        super().__init__()
        self.inputs, self.logits = [], logits

    def with_features(self, features):
        self.inputs.append(features)
        shape = (len(features), 2, 28, 28)
        logits = torch.full(shape, float(self.logits[len(self.inputs) - 1]))
        return logits, features, features


@pytest.mark.parametrize(
    ("attention", "of_visible", "of_amodal"),
    [("vrsp", "a", "v'"), ("cross", "a", "v"), ("visible", "v", "v'"), ("self", "v", "a")],
)
def test_each_scheme_looks_through_its_masks(attention, of_visible, of_amodal):
    """Table 3: a, v are the coarse masks, v' the refined visible one."""
    model = build(attention=attention, prior_refinement=False)
    said = {"a": 0.3, "v": -0.7, "v'": 1.9}
    model.amodal_head = Recorder([said["a"], 0.0])
    model.visible_head = Recorder([said["v"], said["v'"]])
    features = torch.rand(3, 16, 14, 14)
    model.segment(features, torch.tensor([1, 2, 1]))
    for head, mask in ((model.visible_head, of_visible), (model.amodal_head, of_amodal)):
        expected = features * torch.tensor(said[mask]).sigmoid()
        torch.testing.assert_close(head.inputs[1], expected)


def test_without_visible_attention_the_amodal_mask_is_refined_from_the_whole_roi():
    model = build(visible_attention=False, prior_refinement=False)
    model.amodal_head, model.visible_head = Recorder([1.0, 0.0]), Recorder([1.0, 2.0])
    features = torch.rand(2, 16, 14, 14)
    model.segment(features, torch.tensor([1, 2]))
    torch.testing.assert_close(model.amodal_head.inputs[1], features)


def with_shapes(model, shapes):
    """The model with a prior that knows exactly these masks [n, 28, 28] of the first category, and
    nothing of the second."""

    def nearest(masks, category, k):
        distance = (masks[:, None] - shapes).square().sum(dim=(2, 3))
        order = distance.argsort(dim=1)[:, torch.arange(k) % len(shapes)]
        known = category == 0
        found = torch.where(known[:, None, None, None], shapes[order], masks[:, None])
        return dataclasses.make_dataclass("Found", ["masks", "distance", "known"])(
            found, distance.gather(1, order), known
        )

    model.prior.nearest = nearest
    return model


def test_shapes_are_those_nearest_to_the_coarse_mask_of_the_class():
    model = build()
    shapes = torch.zeros(2, 28, 28)
    shapes[0, :14], shapes[1, 14:] = 1, 1
    model = with_shapes(model, shapes)
    model.amodal_head = Recorder([1.0, 0.0])
    model.visible_head = Recorder([1.0, 1.0])
    fused = []
    model.fuse.register_forward_hook(lambda m, inputs, output: fused.append(inputs[0]))
    found = model.segment(torch.rand(2, 16, 14, 14), torch.tensor([1, 2]))
    assert found.known.tolist() == [True, False]
    assert torch.equal(fused[0][0, 16], shapes[0, ::2, ::2])
    # Of the second category no shape is known: its own coarse mask, all foreground, stands in.
    assert (fused[0][1, 16:] == 1).all()


def square(side):
    mask = torch.zeros(28, 28)
    mask[:side, :side] = 1
    return mask


@pytest.mark.parametrize("post_process", [True, False])
def test_suppression_keeps_the_better_shape(post_process):
    """Fig. 3: of two boxes on one object the better class score has the worse shape."""
    model = build(
        prior_post_process=post_process, reclassification=False, prior_refinement=False
    ).eval()
    if post_process:
        model = with_shapes(model, square(28)[None])
    boxes = torch.tensor([[4.0, 4.0, 40.0, 40.0], [5.0, 4.0, 41.0, 40.0]])
    found = {
        "boxes": boxes,
        "labels": torch.tensor([1, 1]),
        "scores": torch.tensor([0.99, 0.97]),
    }
    model.detector.candidates = lambda batch, most: [dict(found)]
    model.detector.detect = lambda batch: [model.detector.suppress(dict(found))]
    drawn = torch.stack([square(14), square(27)])  # distances 0.75 and 0.07 to the known shape

    def segment(features, labels):
        logits = torch.where(drawn[: len(labels)] > 0, 9.0, -9.0)
        shown = vrsp.Pass(logits, features, features)
        return vrsp.Segmentation(shown, shown, shown, shown, None, None, None)

    model.segment = segment
    (kept,) = model([torch.zeros(3, 64, 64)])
    assert len(kept["boxes"]) == 1
    assert kept["boxes"][0, 0].item() == (5.0 if post_process else 4.0)
    if post_process:
        distance = 1 - 27**2 / 28**2
        expected = 0.97 * torch.log(torch.tensor(2 - distance)) / torch.log(torch.tensor(2.0))
        assert kept["scores"].item() == pytest.approx(expected.item(), abs=1e-6)
        assert kept["amodal_masks"].sum() > 600
    assert model.without_prior == 0


def test_detections_of_a_class_without_shapes_keep_their_score_and_are_counted(shapes):
    model = with_shapes(build(reclassification=False), square(28)[None]).eval()
    with torch.no_grad():
        model([sample(shapes, 0)[0]])
    assert model.without_prior > 0


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, 0.8 * 0.5 * 0.25),
        ({"geometric_mean": True}, (0.8 * 0.5 * 0.25) ** (1 / 3)),
    ],
)
def test_how_scores_are_combined(changes, expected):
    scores = build(**changes)._combine(torch.tensor([0.8]), torch.tensor([[0.5, 0.25]]))
    assert scores.item() == pytest.approx(expected)


def test_a_prior_is_needed_where_it_is_used():
    with pytest.raises(ValueError, match="prior is None"):
        build(prior=None)
