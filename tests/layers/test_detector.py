import copy

import pytest
import torch
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import fastrcnn_loss
from torchvision.models.detection.rpn import RegionProposalNetwork

from amodal_pipeline.layers import detector
from amodal_pipeline.layers.configs import DetectorConfig
from tests.conftest import TINY_DETECTOR


def build(**box_head):
    torch.manual_seed(0)
    values = {**TINY_DETECTOR, "box_head": {**TINY_DETECTOR["box_head"], **box_head}}
    return detector.build(DetectorConfig.model_validate(values), 3).eval()


@torch.no_grad()
def test_detections_are_those_of_torchvision():
    model = build(score_threshold=0.2, detections_per_image=15)
    draw = torch.Generator().manual_seed(1)
    batch = model.batch(list(torch.rand(3, 3, 64, 64, generator=draw)))
    found = model.detect(batch)
    proposals, _ = model.rpn(ImageList(batch.images, batch.sizes), batch.features)
    logits, deltas = model._box_head(batch, proposals)
    theirs = model.roi_heads.postprocess_detections(logits, deltas, proposals, batch.sizes)
    assert sum(len(d["boxes"]) for d in found) > 10
    for own, boxes, scores, labels in zip(found, *theirs, strict=True):
        torch.testing.assert_close(own["boxes"], boxes)
        torch.testing.assert_close(own["scores"], scores)
        assert torch.equal(own["labels"], labels)


@torch.no_grad()
def test_candidates_are_the_best_before_suppression():
    model = build(score_threshold=0.0)
    batch = model.batch([torch.rand(3, 64, 64)])
    (every,), (few,) = model.candidates(batch), model.candidates(batch, 7)
    assert len(every["boxes"]) > 50  # every class of every proposal
    assert (every["scores"].diff() <= 0).all()
    assert all(torch.equal(few[name], every[name][:7]) for name in few)


def regression(seed=0):
    """Logits [6, 4], box regressions [6, 16], labels and true regressions of six RoIs."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.tensor([0, 1, 3, 0, 2, 3])
    return (
        torch.randn(6, 4, generator=draw),
        torch.randn(6, 16, generator=draw),
        labels,
        torch.randn(6, 4, generator=draw),
    )


def test_losses_of_the_box_head_are_those_of_torchvision_and_of_detectron2():
    logits, deltas, labels, targets = regression()
    theirs = fastrcnn_loss(logits, deltas, [labels], [targets])
    own = detector.box_head_losses(logits, deltas, labels, targets, beta=1 / 9)
    assert torch.equal(own["loss_classifier"], theirs[0])
    assert torch.equal(own["loss_box_reg"], theirs[1])
    # detectron2: the absolute difference, over all RoIs.
    wanted = sum((deltas[i, 4 * c : 4 * c + 4] - targets[i]).abs().sum() for i, c in PAIRS) / 6
    linear = detector.box_head_losses(logits, deltas, labels, targets, beta=0.0)["loss_box_reg"]
    torch.testing.assert_close(linear, wanted)


PAIRS = ((1, 1), (2, 3), (4, 2), (5, 3))  # RoIs of objects and their classes


def test_losses_of_proposals_follow_their_beta():
    rpn = build().rpn
    labels = [torch.tensor([1.0, 0, -1, 1, 0])]
    draw = torch.Generator().manual_seed(2)
    given = torch.randn(5, 1, generator=draw), torch.randn(5, 4, generator=draw), labels
    targets = [torch.randn(5, 4, generator=draw)]
    rpn.box_loss_beta = 1 / 9
    theirs = RegionProposalNetwork.compute_loss(rpn, *given, targets)
    assert all(map(torch.equal, rpn.compute_loss(*given, targets), theirs))
    rpn.box_loss_beta = 0.0
    linear = (given[1] - targets[0])[[0, 3]].abs().sum() / 4
    torch.testing.assert_close(rpn.compute_loss(*given, targets)[1], linear)


def test_parameters_reach_the_losses():
    values = copy.deepcopy(TINY_DETECTOR)
    values["proposals"]["box_loss_beta"] = 0.25
    values["box_head"]["box_loss_beta"] = 0.75
    model = detector.build(DetectorConfig.model_validate(values), 3)
    assert (model.rpn.box_loss_beta, model.box_loss_beta) == (0.25, 0.75)


@pytest.mark.parametrize(("name", "of_boxes"), [("detectron", 0.001), ("torchvision", 0.1)])
def test_box_heads_start_as_those_of(name, of_boxes):
    heads = build(initialisation=name).roi_heads
    predictor, first = heads.box_predictor, heads.box_head.fc6
    # PyTorch's own: bounds of 1 / sqrt(inputs), here 32, and thus a deviation of 0.1.
    assert predictor.bbox_pred.weight.std().item() == pytest.approx(of_boxes, rel=0.15)
    factor = 3**0.5 if name == "detectron" else 1
    bound = factor / first.in_features**0.5
    assert first.weight.abs().max().item() == pytest.approx(bound, rel=0.02)
    assert bool(predictor.cls_score.bias.any()) == (name == "torchvision")
