"""VRSP against slow versions written from the paper's equations."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F

from amodal_pipeline import methods
from amodal_pipeline.methods.configs import VRSPConfig
from amodal_pipeline.methods.vrsp import method as vrsp
from amodal_pipeline.samples.images import sample
from amodal_pipeline.training.loop import train
from tests.conftest import tiny_method, tiny_training


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
    losses = model._mask_losses(found, amodal, visible)
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


def test_released_weighting_compares_the_masks_of_all_classes():
    found, (amodal, visible) = segmentation(), truth()
    draw = torch.Generator().manual_seed(3)
    channels = torch.randn(2, 5, 2, 28, 28, generator=draw)
    found = dataclasses.replace(
        found,
        coarse_amodal=dataclasses.replace(found.coarse_amodal, channels=channels[0]),
        coarse_visible=dataclasses.replace(found.coarse_visible, channels=channels[1]),
    )
    model = build(all_channel_weighting=True)
    losses = model._mask_losses(found, amodal, visible)
    for refined, target, seen_through, true, name in (
        (found.visible, visible, channels[0], amodal, "loss_visible_mask"),
        (found.amodal, amodal, channels[1], visible, "loss_amodal_mask"),
    ):
        expected = 0.0
        for i in range(5):
            shared = joined = 0
            for channel in seen_through[i] > 0:
                shared += (channel & (true[i] > 0)).sum()
                joined += (channel | (true[i] > 0)).sum()
            loss = F.binary_cross_entropy_with_logits(refined.logits[i], target[i])
            expected += shared / joined * loss / 5
        torch.testing.assert_close(losses[name], expected)


@pytest.mark.parametrize("every", [True, False])
def test_channels_are_kept_of_the_coarse_masks_where_the_weighting_asks_for_them(every):
    model = build(all_channel_weighting=every)
    found = model.segment(torch.rand(3, 16, 14, 14), torch.tensor([1, 2, 1]))
    for coarse in (found.coarse_amodal, found.coarse_visible):
        if every:
            assert torch.equal(coarse.channels[1, 1], coarse.logits[1])
        else:
            assert coarse.channels is None
    assert found.visible.channels is None and found.amodal.channels is None


def test_without_weighting_every_roi_counts_the_same():
    found, (amodal, visible) = segmentation(), truth()
    losses = build(weighting=False)._mask_losses(found, amodal, visible)
    expected = F.binary_cross_entropy_with_logits(found.visible.logits, visible)
    torch.testing.assert_close(losses["loss_visible_mask"], expected)


def test_reclassification_is_a_quarter_of_the_cross_entropy():
    found, (_, visible) = segmentation(), truth()
    labels = torch.tensor([1, 2, 1, 2, 2])
    loss = build()._reclassification_loss(found, torch.zeros(5, 16, 14, 14), visible, labels)
    torch.testing.assert_close(loss, 0.25 * F.cross_entropy(found.classes, labels - 1))


def test_released_reclassification_also_learns_from_the_true_visible_masks():
    found, (_, visible) = segmentation(), truth()
    labels = torch.tensor([1, 2, 1, 2, 2])
    features = torch.rand(5, 16, 14, 14)
    model = build(reclassification_true_weight=0.1, reclassification_weight=0.3)
    loss = model._reclassification_loss(found, features, visible, labels)
    seen = features * visible.unflatten(1, (14, 2)).unflatten(3, (14, 2)).mean(dim=(2, 4))[:, None]
    total = F.cross_entropy(found.classes, labels - 1, reduction="sum")
    total += 0.1 * F.cross_entropy(model.reclassifier(seen), labels - 1, reduction="sum")
    torch.testing.assert_close(loss, 0.3 * total / 10)


@pytest.mark.parametrize("kind", ["probability", "logits"])
def test_released_reclassification_looks_through_logits_and_stops_their_gradient(kind):
    model = build(reclassification_input=kind, prior_refinement=False)
    seen = []
    model.reclassifier.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    features = torch.rand(3, 16, 14, 14, requires_grad=True)
    found = model.segment(features, torch.tensor([1, 2, 1]))
    mask = found.visible.logits if kind == "logits" else found.visible.logits.sigmoid()
    torch.testing.assert_close(seen[0], features * F.avg_pool2d(mask[:, None], 2))
    found.classes.logsumexp(dim=1).sum().backward()
    taught = [p.grad for p in model.visible_head.parameters() if p.grad is not None]
    assert any(gradient.abs().sum() > 0 for gradient in taught) == (kind == "probability")
    assert features.grad.abs().sum() > 0


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
    losses = model._mask_losses(found, amodal, visible)
    losses |= model._feature_matching(found, None)
    features = torch.zeros(0, 16, 14, 14)
    losses["loss_reclassification"] = model._reclassification_loss(found, features, visible, labels)
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


def detections_of(model, logits, label=1):
    """What the model gives out for a box of a score of 0.9 where its heads say ``logits`` of coarse
    and refined masks."""
    found = {"boxes": torch.tensor([[4.0, 4.0, 40.0, 40.0]]), "labels": torch.tensor([label])}
    found["scores"] = torch.tensor([0.9])
    model.detector.candidates = lambda batch, most: [dict(found)]

    def segment(features, labels):
        shown = [vrsp.Pass(m.expand(len(labels), 28, 28), features, features) for m in logits]
        classes = torch.tensor([[0.0, 1.0]]).expand(len(labels), 2)
        return vrsp.Segmentation(*shown, classes, None, None)

    model.segment = segment
    (kept,) = model.eval()([torch.zeros(3, 64, 64)])
    return kept


def test_refined_masks_are_given_out():
    said = [torch.full((28, 28), v) for v in (-2.0, -1.0, 1.0, 2.0)]
    kept = detections_of(build(prior_post_process=False), said)
    torch.testing.assert_close(kept["visible_masks"], said[2].sigmoid()[None])
    torch.testing.assert_close(kept["amodal_masks"], said[3].sigmoid()[None])


@pytest.mark.parametrize("label", [1, 2])
@pytest.mark.parametrize(
    ("kind", "expected"),
    [("product", lambda p: p), ("released", lambda p: 0.4 * p + 0.6), ("none", lambda p: 1.0)],
)
def test_what_reclassification_does_to_a_score(kind, expected, label):
    model = with_shapes(build(reclassification_score=kind), torch.zeros(1, 28, 28))
    kept = detections_of(model, [torch.full((28, 28), -1.0)] * 4, label)
    own = torch.tensor([0.0, 1.0]).softmax(0)[label - 1].item()
    # The mask is that of the known shape, or none is known: the post-process takes nothing away.
    assert kept["scores"].item() == pytest.approx(0.9 * expected(own))


def test_scores_that_nothing_corrects_are_suppressed_before_masks_are_predicted():
    model = build(prior_post_process=False, reclassification_score="none").eval()
    model.detector.roi_heads.score_thresh = 0.0
    pooled = []
    model.mask_pool.register_forward_hook(lambda m, inputs, output: pooled.append(len(output)))
    with torch.no_grad():
        (kept,) = model([torch.rand(3, 64, 64)])
        model.config = model.config.model_copy(update={"reclassification_score": "product"})
        model([torch.rand(3, 64, 64)])
    assert pooled[0] == len(kept["boxes"]) > 0
    assert pooled[1] > pooled[0]


@pytest.mark.parametrize("alpha", [2.0, 3.0])
def test_alpha_is_where_no_likelihood_is_left(alpha):
    model = with_shapes(build(reclassification=False, alpha=alpha), square(28)[None])
    kept = detections_of(model, [square(14) * 18 - 9] * 4)
    expected = 0.9 * torch.log(torch.tensor(alpha - 0.75)) / torch.log(torch.tensor(alpha))
    assert kept["scores"].item() == pytest.approx(expected.item(), abs=1e-6)


def test_reclassification_sees_the_refined_visible_region():
    model = build(prior_refinement=False)
    model.amodal_head, model.visible_head = Recorder([1.0, 0.0]), Recorder([2.0, -0.4])
    seen = []
    model.reclassifier.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    features = torch.rand(2, 16, 14, 14)
    model.segment(features, torch.tensor([1, 2]))
    torch.testing.assert_close(seen[0], features * torch.tensor(-0.4).sigmoid())


@pytest.mark.parametrize(
    ("kind", "expected"), [("mask", 1.0), ("probability", 0.8807971), ("logits", 2.0)]
)
def test_what_the_encoder_of_shapes_gets(kind, expected):
    model = build(prior_input=kind)
    model.amodal_head, model.visible_head = Recorder([2.0, 0.0]), Recorder([0.0, 0.0])
    asked, nearest = [], model.prior.nearest
    model.prior.nearest = lambda masks, *rest: asked.append(masks) or nearest(masks, *rest)
    model.segment(torch.rand(1, 16, 14, 14), torch.tensor([1]))
    torch.testing.assert_close(asked[0], torch.full((1, 28, 28), expected))


def test_reclassification_weighs_by_the_refined_visible_mask():
    found, (_, visible) = segmentation(), truth()
    labels = torch.tensor([1, 2, 1, 2, 2])
    model = build(reclassification_weighting=True)
    loss = model._reclassification_loss(found, torch.zeros(5, 16, 14, 14), visible, labels)
    expected = sum(
        iou(found.visible.logits[i], visible[i]) * F.cross_entropy(found.classes[i], labels[i] - 1)
        for i in range(5)
    )
    torch.testing.assert_close(loss, 0.25 * expected / 5)


@pytest.mark.parametrize(
    ("changes", "of_visible", "of_amodal"),
    [
        ({"attention": "cross"}, "coarse_amodal", "coarse_visible"),
        ({"attention": "visible"}, "coarse_visible", "coarse_visible"),
        ({"attention": "self"}, "coarse_visible", "coarse_amodal"),
        ({"visible_attention": False}, "coarse_amodal", None),
    ],
)
def test_each_scheme_weighs_by_the_mask_it_looks_through(changes, of_visible, of_amodal):
    found, (amodal, visible) = segmentation(), truth()
    losses = build(**changes)._mask_losses(found, amodal, visible)
    true = {"coarse_amodal": amodal, "coarse_visible": visible}
    for refined, target, by, name in (
        (found.visible, visible, of_visible, "loss_visible_mask"),
        (found.amodal, amodal, of_amodal, "loss_amodal_mask"),
    ):
        each = [
            (iou(getattr(found, by).logits[i], true[by][i]) if by else 1)
            * F.binary_cross_entropy_with_logits(refined.logits[i], target[i])
            for i in range(5)
        ]
        torch.testing.assert_close(losses[name], sum(each) / 5)


def test_released_feature_matching_is_not_divided_by_the_layers():
    found, model = segmentation(), build()
    same = model._feature_matching(found, (found.amodal, found.visible))
    divided = model._feature_matching(found, None)
    torch.testing.assert_close(same["loss_amodal_matching"], 3 * divided["loss_amodal_matching"])


def test_true_attention_looks_through_the_true_masks():
    model = build(true_attention=True, prior_refinement=False)
    model.amodal_head, model.visible_head = Recorder([0.0]), Recorder([0.0])
    features = torch.rand(1, 16, 14, 14)
    whole, seen = square(28)[None], square(14)[None]
    model._true_attention(features, torch.tensor([1]), whole, seen, None)
    torch.testing.assert_close(model.visible_head.inputs[0], features)
    torch.testing.assert_close(model.amodal_head.inputs[0], features * seen[:, None, ::2, ::2])


def test_fusing_starts_by_passing_the_features():
    model = build()
    features = torch.rand(1, 16, 14, 14)
    nothing = torch.zeros(1, model.config.neighbours, 14, 14)
    torch.testing.assert_close(model.fuse(torch.cat([features, nothing], dim=1)), features)


def test_true_attention_is_given_the_shapes_that_the_coarse_mask_has_found(shapes):
    model = with_shapes(build(true_attention=True), torch.stack([square(6), square(28)])).train()
    fused = []
    model.fuse.register_forward_hook(lambda m, inputs, output: fused.append(inputs[0]))
    # It says empty masks, to which the small square is nearest; the truth is the large one's.
    model.amodal_head = Recorder([-1.0, -1.0, -1.0])
    image, target, _ = sample(shapes, 0)
    model([image], [target])
    first, second = (inputs[:, 16:] for inputs in fused)
    assert torch.equal(first, second)
    assert any(torch.equal(prior[0], square(6)[::2, ::2]) for prior in second)


def test_each_head_is_taught_its_own_mask_behind_the_true_attention(shapes):
    """The released code teaches the visible head the amodal mask there."""
    model = build(true_attention=True, prior_refinement=False, feature_matching=False).train()
    taught = []
    image, target, _ = sample(shapes, 0)
    model._true_attention = lambda features, labels, amodal, visible, prior: (
        taught.append((amodal, visible))
        or [vrsp.Pass(18 * mask - 9, features, features) for mask in (amodal, visible)]
    )
    losses = model([image], [target])
    amodal, visible = taught[0]
    assert not torch.equal(amodal, visible)
    for kind in ("amodal", "visible"):
        assert losses[f"loss_{kind}_mask_true"] < 0.001  # what is said is what is taught


@pytest.mark.parametrize("kind", ["mask", "probability", "logits"])
def test_where_no_shape_is_known_the_coarse_mask_stands_in(kind):
    model = build(prior_input=kind)
    model.prior.count.zero_()
    model.amodal_head = Recorder([-7.0, 0.0])
    assert (model.segment(torch.rand(2, 16, 14, 14), torch.tensor([1, 2])).prior == 0).all()
    model.amodal_head = Recorder([7.0, 0.0])
    found = model.segment(torch.rand(2, 16, 14, 14), torch.tensor([1, 2]))
    assert (found.prior == 1).all() and not found.known.any()


def test_given_objects_are_explained_in_pixels_of_their_image():
    """An image of twice the size that the network sees it in."""
    model = build().eval()
    pooled = []
    model.mask_pool.register_forward_pre_hook(lambda module, inputs: pooled.append(inputs[1]))
    boxes = torch.tensor([[8.0, 20.0, 100.0, 88.0]])
    with torch.no_grad():
        model.explain(torch.rand(3, 128, 128), boxes, torch.tensor([1]))
    torch.testing.assert_close(pooled[0][0], boxes / 2)


def test_training_without_a_shape_prior_is_refused(tmp_path, shapes):
    with pytest.raises(ValueError, match=r"part 'prior'.*pipeline=shape_prior"):
        train(tiny_method("vrsp"), tiny_training(), shapes, tmp_path)
    assert not list(tmp_path.iterdir())


def test_what_matters_after_training_changes_no_loss(shapes):
    after = {
        "prior_post_process": False,
        "alpha": 3.0,
        "candidates_per_image": 5,
        "reclassification_score": "none",
        "geometric_mean": True,
    }
    assert after.keys() == VRSPConfig.DESCRIPTION.after_training
    image, target, _ = sample(shapes, 0)
    losses = []
    for changes in ({}, after):
        model = build(**changes).train()
        torch.manual_seed(1)
        losses.append(model([image], [target]))
    assert losses[0].keys() == losses[1].keys()
    assert all(torch.equal(losses[0][name], losses[1][name]) for name in losses[0])
