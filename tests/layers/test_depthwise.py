"""Depthwise convolutions in float32 within a network in bf16."""

import copy

import pytest
import torch
from timm.layers import Conv2dSame
from torch import nn

from amodal_pipeline.layers.backbone import PyramidBackbone
from amodal_pipeline.layers.depthwise import keep_exact
from amodal_pipeline.layers.folding import fold


@pytest.mark.parametrize("kind", [nn.Conv2d, Conv2dSame])
def test_only_the_result_is_rounded(kind):
    torch.manual_seed(0)
    plain = nn.Sequential(kind(6, 6, 3, 2, groups=6), nn.Conv2d(6, 4, 1), nn.Conv2d(4, 4, 1))
    kept = copy.deepcopy(plain)
    assert keep_exact(kept) == 1 and plain.state_dict().keys() == kept.state_dict().keys()
    kept = copy.deepcopy(kept)  # a copy computes with weights of its own
    x = torch.randn(2, 6, 9, 9)
    assert torch.equal(kept(x), plain(x))
    with torch.autocast("cpu", torch.bfloat16):
        found = kept[0](x)
        found.float().square().sum().backward()
    expected = plain[0](x)
    assert torch.equal(found, expected.bfloat16())
    expected.bfloat16().float().square().sum().backward()
    torch.testing.assert_close(kept[0].weight.grad, plain[0].weight.grad)


def test_a_folded_network_stays_close_to_float32():
    torch.manual_seed(0)
    backbone = PyramidBackbone("tf_efficientnet_lite0", None, 2, 8).train()
    images = torch.rand(1, 3, 64, 64)
    expected = backbone(images)
    fold(backbone.body)
    assert keep_exact(backbone) == 16
    with torch.autocast("cpu", torch.bfloat16):
        found = backbone(images)
    for name, values in expected.items():
        error = (found[name].float() - values).norm() / values.norm()
        assert error < 0.05, name
