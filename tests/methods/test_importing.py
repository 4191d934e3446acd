"""Detectors of other libraries as checkpoints, against those libraries' own arithmetic."""

import copy
import math
import pickle
import re
from dataclasses import replace
from functools import partial

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision.models import resnet18
from torchvision.models.detection import MaskRCNN, maskrcnn_resnet50_fpn
from torchvision.models.detection.backbone_utils import _resnet_fpn_extractor
from torchvision.models.detection.faster_rcnn import (
    FastRCNNConvFCHead,
    FastRCNNPredictor,
    TwoMLPHead,
)
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.rpn import RPNHead
from torchvision.ops import FrozenBatchNorm2d, roi_align
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from amodal_pipeline.annotations import Category
from amodal_pipeline.methods import build, importing
from amodal_pipeline.methods.configs import ORCNNConfig
from amodal_pipeline.methods.importing import COCO, import_detector
from amodal_pipeline.methods.pretrained import restore, start_from
from amodal_pipeline.methods.registry import MethodConfig

IMAGE = torch.rand(3, 96, 128, generator=torch.Generator().manual_seed(3))


def small_v2(**options):
    """maskrcnn_resnet50_fpn_v2 as torchvision makes it, with fewer layers and narrower heads."""
    norm = {"norm_layer": nn.BatchNorm2d}
    body = resnet18(weights=None)
    backbone = _resnet_fpn_extractor(body, 3, extra_blocks=LastLevelMaxPool(), **norm)
    return MaskRCNN(
        backbone,
        rpn_head=RPNHead(256, 3, conv_depth=2),
        box_head=FastRCNNConvFCHead((256, 7, 7), [256] * 2, [64], **norm),
        box_predictor=FastRCNNPredictor(64, 91),
        mask_head=MaskRCNNHeads(256, [32] * 3, 1, **norm),
        mask_predictor=MaskRCNNPredictor(32, 32, 91),
        **options,
    )


def of_torchvision(make):
    """A detector with random weights and statistics that finds several objects in ``IMAGE``."""
    torch.manual_seed(0)
    options = {"min_size": 96, "max_size": 128, "box_detections_per_img": 20}
    model = make(**options)
    for module in model.modules():
        if isinstance(module, (FrozenBatchNorm2d, nn.BatchNorm2d)):
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
            nn.init.uniform_(module.weight, 0.3, 0.9)
            nn.init.uniform_(module.bias, -0.1, 0.1)
    nn.init.normal_(model.roi_heads.box_predictor.cls_score.weight, std=4)
    nn.init.normal_(model.rpn.head.bbox_pred.weight, std=0.05)
    return model.eval()


@torch.no_grad()
def compare(theirs, checkpoint, tolerance, seen=IMAGE):
    own = restore(checkpoint)
    own.detector.min_size, own.detector.max_size = 96, 128
    own.detector.roi_heads.detections_per_img = 20
    theirs.transform.postprocess = lambda found, *_: found  # masks as they are, not pasted
    (expected,), (found,) = theirs([seen]), own([IMAGE])
    assert len(expected["scores"]) == 20 and (expected["boxes"].std(dim=0) > 1).all()
    assert torch.equal(found["labels"], expected["labels"])
    options = {"rtol": tolerance, "atol": tolerance}
    torch.testing.assert_close(found["scores"], expected["scores"], **options)
    torch.testing.assert_close(found["boxes"], expected["boxes"], **options)
    torch.testing.assert_close(found["visible_masks"], expected["masks"][:, 0], **options)


@pytest.fixture(scope="module")
def v1():
    return of_torchvision(partial(maskrcnn_resnet50_fpn, weights_backbone=None))


def test_detections_are_those_of_torchvision_to_the_bit(tmp_path, v1):
    save_file(v1.state_dict(), tmp_path / "model.safetensors")
    file = tmp_path / "model.safetensors"
    compare(v1, import_detector("torchvision", file), tolerance=0)


def test_v2_has_the_detections_of_torchvision(tmp_path):
    theirs = of_torchvision(small_v2)
    torch.save(theirs.state_dict(), tmp_path / "model.pth")
    compare(theirs, import_detector("torchvision", tmp_path / "model.pth"), tolerance=2e-4)


def test_published_weights_run_with_the_epsilon_of_torchvision(tmp_path):
    def small_v1(**options):
        body = resnet18(norm_layer=FrozenBatchNorm2d)
        return MaskRCNN(
            _resnet_fpn_extractor(body, 3, extra_blocks=LastLevelMaxPool()),
            box_head=TwoMLPHead(256 * 7 * 7, 64),
            box_predictor=FastRCNNPredictor(64, 91),
            mask_head=MaskRCNNHeads(256, [32], 1),
            mask_predictor=MaskRCNNPredictor(32, 32, 91),
            **options,
        )

    theirs = of_torchvision(small_v1)
    for module in theirs.modules():
        if isinstance(module, FrozenBatchNorm2d):
            module.eps = 0.0
    theirs.backbone.body.bn1.running_var[:8] = 1e-4  # where 1e-5 more would tell
    # The published file is older than some of the names.
    state = {_old_name(name): tensor for name, tensor in theirs.state_dict().items()}
    assert len(state.keys() - theirs.state_dict().keys()) == 2 * (8 + 1 + 1)
    torch.save({"model": state}, tmp_path / "model.pth")
    compare(theirs, import_detector("torchvision", tmp_path / "model.pth"), tolerance=5e-3)


def _old_name(name):
    name = re.sub(r"(fpn\.(?:inner|layer)_blocks\.\d|rpn\.head\.conv)(?:\.0){1,2}\.", r"\1.", name)
    return name.replace("mask_head.0.0.", "mask_head.mask_fcn1.")


class Pool(nn.Module):
    """RoIAlign of detectron2 ("ROIAlignV2", sampling ratio 0), level by level."""

    def __init__(self, size):
        super().__init__()
        self.size = size

    def forward(self, features, boxes, _):
        (rois,) = boxes
        area = (rois[:, 2] - rois[:, 0]) * (rois[:, 3] - rois[:, 1])
        level = torch.floor(4 + torch.log2(area.sqrt() / 224 + 1e-8)).clamp(2, 5)
        pooled = torch.zeros(len(rois), 256, self.size, self.size)
        for number, name in enumerate("0123", 2):
            here = level == number
            pooled[here] = roi_align(
                features[name], [rois[here]], self.size, 0.5**number, 0, aligned=True
            )
        return pooled


class Anchors(nn.Module):
    """detectron2's DefaultAnchorGenerator for one image."""

    def forward(self, _, features):
        anchors = []
        for m, stride in zip(features, (4, 8, 16, 32, 64), strict=True):
            for y in range(m.shape[-2]):
                for x in range(m.shape[-1]):
                    for ratio in (0.5, 1, 2):
                        width = math.sqrt((8.0 * stride) ** 2 / ratio)
                        height = ratio * width
                        centre = torch.tensor([x, y, x, y]) * stride
                        half = torch.tensor([-width, -height, width, height]) / 2
                        anchors.append(centre + half)
        return [torch.stack(anchors)]


def as_detectron2(model):
    """torchvision's Mask R-CNN rebuilt to compute as detectron2's, with images in BGR, 0-255."""
    model = copy.deepcopy(model)
    for number in (2, 3, 4):
        block = getattr(model.backbone.body, f"layer{number}")[0]
        block.conv1.stride, block.conv2.stride = (2, 2), (1, 1)
    model.rpn.anchor_generator = Anchors()
    model.roi_heads.box_roi_pool, model.roi_heads.mask_roi_pool = Pool(7), Pool(14)
    model.transform.image_mean, model.transform.image_std = [103.53, 116.28, 123.675], [1.0] * 3
    model.backbone.body.conv1.weight.data /= 57
    return model


def file_of_detectron2(model):
    """The tensors of such a model by the names of detectron2's model zoo."""
    state = {}
    for name, tensor in model.state_dict().items():
        part = name.split(".")
        kind = part[-1]
        match part:
            case "backbone", "body", "conv1", _:
                new = "backbone.bottom_up.stem.conv1.weight"
            case "backbone", "body", "bn1", _:
                new = f"backbone.bottom_up.stem.conv1.norm.{kind}"
            case "backbone", "body", layer, block, "downsample", at, _:
                norm = ".norm" if at == "1" else ""
                stage = int(layer[-1]) + 1
                new = f"backbone.bottom_up.res{stage}.{block}.shortcut{norm}.{kind}"
            case "backbone", "body", layer, block, inner, _:
                norm = ".norm" if inner.startswith("bn") else ""
                stage = int(layer[-1]) + 1
                new = f"backbone.bottom_up.res{stage}.{block}.conv{inner[-1]}{norm}.{kind}"
            case "backbone", "fpn", "inner_blocks", at, _, _:
                new = f"backbone.fpn_lateral{int(at) + 2}.{kind}"
            case "backbone", "fpn", "layer_blocks", at, _, _:
                new = f"backbone.fpn_output{int(at) + 2}.{kind}"
            case "rpn", "head", inner, *_:
                own = {"cls_logits": "objectness_logits", "bbox_pred": "anchor_deltas"}
                new = f"proposal_generator.rpn_head.{own.get(inner, inner)}.{kind}"
            case "roi_heads", "box_head", inner, _:
                new = f"roi_heads.box_head.fc{int(inner[-1]) - 5}.{kind}"
            case "roi_heads", "box_predictor", "cls_score", _:
                new, tensor = name, torch.cat([tensor[1:], tensor[:1]])
            case "roi_heads", "box_predictor", "bbox_pred", _:
                new, tensor = name, tensor[4:]
            case "roi_heads", "mask_head", at, *_:
                new = f"roi_heads.mask_head.mask_fcn{int(at) + 1}.{kind}"
            case "roi_heads", "mask_predictor", "conv5_mask", _:
                new = f"roi_heads.mask_head.deconv.{kind}"
            case "roi_heads", "mask_predictor", "mask_fcn_logits", _:
                new, tensor = f"roi_heads.mask_head.predictor.{kind}", tensor[1:]
        state[new] = tensor.numpy()
    state["proposal_generator.anchor_generator.cell_anchors.0"] = torch.zeros(3, 4).numpy()
    return {"model": state, "__author__": "Detectron2 Model Zoo"}


def test_detections_are_those_of_detectron2(tmp_path, v1):
    theirs = as_detectron2(v1)
    (tmp_path / "model.pkl").write_bytes(pickle.dumps(file_of_detectron2(theirs)))
    checkpoint = import_detector(
        "detectron2", tmp_path / "model.pkl", [f"name {i}" for i in range(90)]
    )
    seen = IMAGE.flip(0) * 255
    compare(theirs, checkpoint, tolerance=2e-4, seen=seen)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A checkpoint with COCO's categories, of a file of torchvision."""
    file = tmp_path_factory.mktemp("small") / "model.pth"
    torch.save(of_torchvision(small_v2).state_dict(), file)
    return import_detector("torchvision", file)


def test_methods_start_from_it_by_the_names_of_categories(small):
    assert [(c.id, c.name) for c in small.card.categories[:13:4]] == [
        (1, "person"),
        (5, "airplane"),
        (9, "boat"),
        (13, "stop sign"),
    ]
    source = small.card.method.root
    model = build(ORCNNConfig(detector=source.detector, mask_head=source.mask_head), 3)
    own = [Category(id=7, name="car"), Category(id=8, name="tram"), Category(id=9, name="person")]
    reuse = start_from(model, tuple(own), small)
    assert reuse.categories == {"car": "car", "person": "person"}
    boxes = small.weights["detector.roi_heads.box_predictor.bbox_pred.weight"]
    masks = small.weights["mask_head.predictor.mask_fcn_logits.weight"]
    # car is COCO's third category and person its first; background is none of the masks'.
    found = model.detector.roi_heads.box_predictor.bbox_pred.weight
    assert torch.equal(found[4:8], boxes[12:16]) and torch.equal(found[12:], boxes[4:8])
    for head in (model.amodal_head, model.visible_head):
        assert torch.equal(head.predictor.mask_fcn_logits.weight[[0, 2]], masks[[2, 0]])


def test_a_start_that_computes_otherwise_is_refused_or_warned_of(small, caplog):
    source = small.card.method.root
    backbone = source.detector.backbone.model_copy(update={"stride_in_1x1": True})
    moved = source.detector.model_copy(update={"backbone": backbone})
    card = small.card.model_copy(
        update={"method": MethodConfig(source.model_copy(update={"detector": moved}))}
    )
    aligned = source.detector.model_copy(update={"aligned": True})
    model = build(ORCNNConfig(detector=aligned, mask_head=source.mask_head), 90)
    with pytest.raises(ValueError, match=r"orcnn\.model\.detector\.backbone\.stride_in_1x1=true"):
        start_from(model, small.card.categories, replace(small, card=card))
    start_from(model, small.card.categories, small)
    assert "orcnn.model.detector.aligned=false" in caplog.text


def test_what_is_no_such_detector_is_named(tmp_path):
    torch.save(slice(0, 1), tmp_path / "code.pth")
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pth")
    (tmp_path / "call.pkl").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    (tmp_path / "names.pkl").write_bytes(pickle.dumps({"model": {"stem.weight": 1}}))
    for name, library, reason in (
        ("code.pth", "torchvision", "not a file of named tensors"),
        ("other.pth", "torchvision", "no roi_heads.box_predictor"),
        ("other.pth", "detectron2", "no place for a"),
        ("call.pkl", "detectron2", "it wants to call os.system"),
        ("names.pkl", "detectron2", "'stem.weight' is of type int, not an array"),
    ):
        with pytest.raises(ValueError, match=f"{name}.*{reason}"):
            import_detector(library, tmp_path / name)
    with pytest.raises(FileNotFoundError, match=r"none\.pth"):
        import_detector("torchvision", tmp_path / "none.pth")


def test_eighty_classes_are_those_of_coco():
    found = importing._categories(80, None, "model.pkl")
    assert [c.id for c in found] == [i for i, name in enumerate(COCO) if i and name != "N/A"]
    assert (found[79].id, found[79].name) == (90, "toothbrush")


def test_one_box_for_all_classes_and_a_stored_deviation():
    state = {
        "pixel_std": torch.tensor([57.375, 57.12, 58.395]).view(3, 1, 1),
        "backbone.bottom_up.stem.conv1.weight": torch.arange(3.0).view(1, 3, 1, 1),
        "roi_heads.box_predictor.cls_score.weight": torch.tensor([[1.0], [2], [0]]),
        "roi_heads.box_predictor.cls_score.bias": torch.tensor([1.0, 2, 0]),
        "roi_heads.box_predictor.bbox_pred.weight": torch.tensor([[5.0], [6], [7], [8]]),
        "roi_heads.box_predictor.bbox_pred.bias": torch.tensor([5.0, 6, 7, 8]),
    }
    found = importing._from_detectron2(state)
    assert found["roi_heads.box_predictor.cls_score.bias"].tolist() == [0, 1, 2]
    one = [5.0, 6, 7, 8]
    assert found["roi_heads.box_predictor.bbox_pred.bias"].tolist() == [0, 0, 0, 0, *one, *one]
    # These deviations are torchvision's own, so that channels are turned and nothing is scaled.
    first = found["backbone.body.conv1.weight"].flatten()
    torch.testing.assert_close(first, torch.tensor([2.0, 1, 0]))
