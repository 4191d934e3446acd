"""Every method: forward, backward, save, load, overfit, start from another."""

import pytest
import torch

from amodal_pipeline import methods
from amodal_pipeline.annotations import Category
from amodal_pipeline.methods.checkpoints import Checkpoint, Fingerprint, MethodCard
from amodal_pipeline.methods.configs import ORCNNConfig
from amodal_pipeline.methods.pretrained import restore, start_from, weights_of
from amodal_pipeline.methods.registry import MethodConfig
from amodal_pipeline.methods.training_config import InferenceConfig
from amodal_pipeline.samples.images import sample
from amodal_pipeline.samples.objects import ObjectBatches
from amodal_pipeline.training.cost import cost
from amodal_pipeline.training.inference import predict
from amodal_pipeline.training.loop import train
from tests.conftest import TINY_COMPLETERS, TINY_METHODS, tiny_method, tiny_training
from tests.tables import metadata_for

CATEGORIES = (Category(id=1, name="red"), Category(id=2, name="blue"))


def checkpoint_of(model, categories=CATEGORIES) -> Checkpoint:
    card = MethodCard(
        method=MethodConfig(model.config),
        categories=categories,
        dataset="shapes",
        fingerprint=Fingerprint(parts={"a": "b"}),
        iterations=1,
        seed=0,
    )
    return Checkpoint(card, weights_of(model))


def batch(shapes, count=2):
    samples = [sample(shapes, i, levels=True) for i in range(count)]
    return [s[0] for s in samples], [s[1] for s in samples]


@pytest.mark.parametrize("name", TINY_METHODS)
def test_forward_backward_save_load(name, shapes, tmp_path):
    torch.manual_seed(0)
    model = methods.build(tiny_method(name), classes=2).train()
    images, targets = batch(shapes)
    losses = model(images, targets)
    assert all(v.ndim == 0 and torch.isfinite(v) for v in losses.values())
    sum(losses.values()).backward()
    untrained = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert untrained == []

    checkpoint_of(model).save(tmp_path)
    loaded = methods.load(tmp_path)
    assert loaded.categories == CATEGORIES
    assert cost(model.eval(), images[0]).flops > 0
    with torch.no_grad():
        for own, other in zip(model(images), loaded(images), strict=True):
            assert own.keys() == other.keys()
            assert all(torch.equal(own[k], other[k]) for k in own)


@pytest.mark.parametrize("name", TINY_COMPLETERS)
def test_completer_forward_backward_save_load(name, shapes, tmp_path):
    torch.manual_seed(0)
    model = methods.build(tiny_method(name), classes=2).train()
    batch = ObjectBatches(shapes, model.config.crop, 4, 0)[0]
    losses = model(batch.images, batch.targets)
    assert all(v.ndim == 0 and torch.isfinite(v) for v in losses.values())
    sum(losses.values()).backward()
    assert [n for n, p in model.named_parameters() if p.grad is None] == []

    checkpoint_of(model).save(tmp_path)
    loaded = methods.load(tmp_path)
    assert loaded.categories == CATEGORIES
    model.eval()
    with torch.no_grad():
        own, other = model(batch.images, batch.targets), loaded(batch.images, batch.targets)
    assert own.keys() == other.keys()
    assert all(torch.equal(own[k], other[k]) for k in own)


def overfitted(name, shapes, folder, iterations, **changes):
    """Two images, and what a method finds in them that was trained on nothing else."""
    two = shapes.subset([1, 2])
    config = tiny_training(
        iterations=iterations,
        checkpoint_every=iterations,
        learning_rate=0.02,
        warmup_iterations=10,
        augmentation={"flip": 0, "min_sizes": [64], "max_size": 64},
        gradient_clip=5.0,
        **changes,
    )
    model = restore(train(tiny_method(name), config, two, folder))
    options = InferenceConfig(workers=0, device="cpu")
    return two, predict(model, two.images, metadata_for(two, method=name), options)


@pytest.mark.parametrize("name", ["mask_rcnn", "orcnn", "vrsp_without_prior", "sln_with_classes"])
def test_overfits_two_images(name, shapes, tmp_path):
    two, found = overfitted(name, shapes, tmp_path, iterations=150)

    from amodal_pipeline.metrics.config import EvaluationConfig
    from amodal_pipeline.metrics.evaluate import evaluate

    results = evaluate(two, found, EvaluationConfig(resamples=0, headline_resamples=0)).results
    overall = results[results["category"] == "all"].drop_duplicates("metric")
    overall = overall.set_index("metric")["value"]
    assert overall["AP50_amodal"] > 90
    if name != "mask_rcnn":
        assert overall["AP50_visible"] > 90
    if name == "orcnn":
        assert found.predictions["invisible_rle"].notna().all()
        assert overall["mIoU_occluded_matched"] > 40


def test_orcnn_invisible_logits_are_amodal_minus_positive_visible(shapes):
    model = methods.build(tiny_method("orcnn"), classes=2)
    pooled, labels = torch.randn(3, 16, 14, 14), torch.tensor([1, 2, 1])
    masks = model._masks(pooled, labels)
    expected = masks["amodal"] - masks["visible"].clamp(min=0)
    assert torch.equal(masks["invisible"], expected)


def test_orcnn_visible_mask_can_be_the_amodal_one_without_the_invisible_one():
    torch.manual_seed(0)
    config = tiny_method("orcnn").model_copy(update={"visible": "amodal_minus_invisible"})
    model = methods.build(config, classes=2)
    for head in (model.amodal_head, model.visible_head):
        for parameter in head.parameters():
            torch.nn.init.normal_(parameter, std=0.3)  # masks of both signs
    pooled, labels = torch.randn(3, 16, 14, 14), torch.tensor([1, 2, 1])
    learning = model.train()._masks(pooled, labels)
    found = model.eval()._masks(pooled, labels)
    assert torch.equal(found["amodal"], learning["amodal"])
    amodal, invisible = found["amodal"] > 0, found["invisible"] > 0
    assert invisible.any() and (amodal & ~invisible).any()
    assert torch.equal(found["visible"] > 0, amodal & ~invisible)
    # In training the visible head stays what it is: one training serves both rows.
    assert torch.equal(learning["invisible"], learning["amodal"] - learning["visible"].relu())
    assert not torch.equal(learning["visible"], found["visible"])


@pytest.mark.parametrize("independent", [False, True])
def test_orcnn_independent_keeps_the_other_losses_from_the_amodal_head(independent):
    name = "orcnn_independent" if independent else "orcnn"
    model = methods.build(tiny_method(name), classes=2)
    pooled = torch.randn(3, 16, 14, 14, requires_grad=True)
    masks = model._masks(pooled, torch.tensor([1, 2, 1]))
    (masks["visible"].sum() + masks["invisible"].sum()).backward()
    reaches = pooled.grad is not None or any(
        p.grad is not None for p in model.amodal_head.parameters()
    )
    assert reaches is not independent
    assert all(p.grad is not None for p in model.visible_head.parameters())


@pytest.mark.parametrize("switch", ["visible_loss", "invisible_loss"])
def test_orcnn_losses_can_be_switched_off(switch, shapes):
    config = tiny_method("orcnn").model_copy(update={switch: False})
    model = methods.build(ORCNNConfig.model_validate(config.model_dump()), classes=2).train()
    losses = model(*batch(shapes))
    assert f"loss_{switch.removesuffix('_loss')}_mask" not in losses
    assert "loss_amodal_mask" in losses


def test_ignored_objects_are_neither_objects_nor_background(shapes):
    torch.manual_seed(0)
    model = methods.build(tiny_method("mask_rcnn"), classes=2).train()
    boxes = torch.tensor([[10.0, 10, 40, 40], [50.0, 50, 62, 62]])
    anchors = [torch.tensor([[11.0, 11, 40, 40], [48.0, 50, 62, 62], [0.0, 48, 14, 60]])]
    assign = model.detector.rpn.assign_targets_to_anchors
    both = [{"boxes": boxes, "labels": torch.tensor([1, 2])}]
    assert assign(anchors, both)[0][0].tolist() == [1, 1, 0]
    one_ignored = [{"boxes": boxes, "labels": torch.tensor([1, -1])}]
    assert assign(anchors, one_ignored)[0][0].tolist() == [1, -1, 0]

    images, targets = batch(shapes)
    for target in targets:
        target["labels"][0] = -1
    seen = []
    heads = model.detector.roi_heads
    sample_rois = heads.select_training_samples

    def record(*args):
        seen.append(sample_rois(*args))
        return seen[-1]

    heads.select_training_samples = record
    losses = model(images, targets)
    assert all(torch.isfinite(v) for v in losses.values())
    from torchvision.ops import box_iou

    for rois, labels, target in zip(seen[0][0], seen[0][2], targets, strict=True):
        assert labels.min() >= 0 and 1 not in labels
        on_ignored = box_iou(rois, target["amodal_boxes"]).argmax(1) == 0
        close = box_iou(rois, target["amodal_boxes"]).amax(1) >= 0.5
        assert not (on_ignored & close).any()


def test_unknown_keys_and_values_are_refused():
    with pytest.raises(
        ValueError, match="visible_los is unknown; the nearest name is visible_loss"
    ):
        MethodConfig.model_validate({"name": "orcnn", "visible_los": False})
    with pytest.raises(ValueError, match="tag"):
        MethodConfig.model_validate({"name": "yolo"})


def test_orcnn_heads_start_from_the_one_head_of_mask_rcnn():
    source = methods.build(tiny_method("mask_rcnn"), classes=2)
    model = methods.build(tiny_method("orcnn"), classes=2)
    reuse = start_from(model, CATEGORIES, checkpoint_of(source))
    assert reuse.fresh == 0
    ours, theirs = model.state_dict(), source.state_dict()
    for head in ("amodal_head", "visible_head"):
        for name, value in theirs.items():
            if name.startswith("mask_head."):
                assert torch.equal(ours[name.replace("mask_head", head)], value)


def test_start_matches_categories_by_name():
    source = methods.build(tiny_method("mask_rcnn"), classes=2)
    target = methods.build(tiny_method("mask_rcnn"), classes=3)
    fresh = weights_of(target)
    categories = (
        Category(id=7, name="green"),
        Category(id=8, name="blue"),
        Category(id=9, name="red"),
    )
    reuse = start_from(target, categories, checkpoint_of(source))
    assert reuse.partly == 6 and reuse.categories == {"blue": "blue", "red": "red"}
    own, other = target.state_dict(), source.state_dict()
    logits = "detector.roi_heads.box_predictor.cls_score.weight"
    assert torch.equal(own[logits][0], other[logits][0])  # background
    assert torch.equal(own[logits][2], other[logits][2])  # blue: row 2 in both
    assert torch.equal(own[logits][3], other[logits][1])  # red
    assert torch.equal(own[logits][1], fresh[logits][1])  # green is new
    masks = "mask_head.predictor.mask_fcn_logits.weight"
    assert torch.equal(own[masks][1], other[masks][1])
    assert torch.equal(own[masks][2], other[masks][0])
    boxes = "detector.roi_heads.box_predictor.bbox_pred.weight"
    assert torch.equal(own[boxes][12:16], other[boxes][4:8])


def test_start_from_a_stranger_is_refused():
    source = checkpoint_of(methods.build(tiny_method("mask_rcnn"), classes=2))
    stranger = Checkpoint(source.card, {"x": torch.zeros(1)})
    with pytest.raises(ValueError, match="shares no weights"):
        start_from(methods.build(tiny_method("orcnn"), classes=2), CATEGORIES, stranger)


def test_damaged_checkpoints_say_what_to_do(tmp_path):
    with pytest.raises(ValueError, match="holds no trained method"):
        methods.load(tmp_path)
    model = methods.build(tiny_method("mask_rcnn"), classes=2)
    checkpoint_of(model).save(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ValueError, match="damaged"):
        methods.load(tmp_path)
    (tmp_path / "method.json").write_text("{")
    with pytest.raises(ValueError, match="damaged"):
        methods.load(tmp_path)


def test_images_of_any_size_come_back_in_their_own_coordinates(shapes):
    model = methods.build(tiny_method("mask_rcnn"), classes=2).eval()
    model.detector.roi_heads.score_thresh = 0.0
    with torch.no_grad():
        found = model([torch.zeros(3, 30, 90, dtype=torch.uint8), torch.zeros(3, 200, 100)])
    assert found[0]["boxes"][:, 2].max() <= 90.01 and found[0]["boxes"][:, 3].max() <= 30.01
    assert found[1]["boxes"][:, 3].max() > 64
    with pytest.raises(ValueError, match=r"\[3, H, W\]"):
        model([torch.zeros(30, 90)])


@pytest.mark.parametrize("name", ["orcnn", "aisformer", "bcnet"])
def test_mask_heads_on_the_same_detector_find_the_same_boxes(name, shapes):
    torch.manual_seed(0)
    source = methods.build(tiny_method("mask_rcnn"), classes=2).eval()
    source.detector.roi_heads.score_thresh = 0.0
    model = methods.build(tiny_method(name), classes=2).eval()
    model.detector.roi_heads.score_thresh = 0.0
    start_from(model, CATEGORIES, checkpoint_of(source))
    images, _ = batch(shapes)
    with torch.no_grad():
        for found, expected in zip(model(images), source(images), strict=True):
            assert len(found["boxes"]) == len(found["amodal_masks"]) > 0
            for values in ("boxes", "labels", "scores"):
                assert torch.equal(found[values], expected[values])


def test_aisformer_and_bcnet_start_from_the_layers_that_mask_rcnn_has_too():
    source = methods.build(tiny_method("mask_rcnn"), classes=2)
    theirs = source.mask_head.state_dict()
    aisformer = methods.build(tiny_method("aisformer"), classes=2)
    start_from(aisformer, CATEGORIES, checkpoint_of(source))
    own = aisformer.head.state_dict()
    for name, value in own.items():
        if name.startswith("convolutions."):
            assert torch.equal(value, theirs[name.replace("convolutions", "layers", 1)])
        if name.startswith("deconvolution."):
            assert torch.equal(value, theirs[f"predictor.conv5_mask.{name.split('.')[-1]}"])
    bcnet = methods.build(tiny_method("bcnet"), classes=2)
    start_from(bcnet, CATEGORIES, checkpoint_of(source))
    own = bcnet.head.state_dict()
    for layer in (0, 1):
        name = f"convolutions.{layer}.0.weight"
        assert torch.equal(own[f"occludee.{name}"], theirs[name.replace("convolutions", "layers")])
        assert not torch.equal(own[f"occluder.{name}"], own[f"occludee.{name}"])
