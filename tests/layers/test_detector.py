import torch
from torchvision.models.detection.image_list import ImageList

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
