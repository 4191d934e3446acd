"""Folded batch norms against the plain network."""

import copy

import pytest
import torch
from torch import nn

from amodal_pipeline.layers.backbone import PyramidBackbone
from amodal_pipeline.layers.configs import EncoderConfig
from amodal_pipeline.layers.encoder import Encoder
from amodal_pipeline.layers.folding import fold


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "resnet18", "test_resnet"])
def test_a_folded_network_gives_the_same_maps_gradients_and_state(name):
    torch.manual_seed(0)
    plain = PyramidBackbone(name, None, 2, 8).train().double()
    norms = [m for m in plain.body.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.weight.data.uniform_(0.5, 1.5)
        norm.bias.data.normal_()
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
    folded = copy.deepcopy(plain)
    assert fold(folded.body) == len(norms)
    folded = copy.deepcopy(folded).train()  # a copy has norms of its own
    images = torch.rand(2, 3, 70, 96, dtype=torch.float64)
    for model in (plain, folded):
        maps = model(images)
        sum((m * torch.linspace(0, 1, m.shape[-1])).mean() for m in maps.values()).backward()
    for expected, found in zip(plain(images).values(), folded(images).values(), strict=True):
        torch.testing.assert_close(found, expected)
    for (key, expected), (other, found) in zip(
        plain.named_parameters(), folded.named_parameters(), strict=True
    ):
        assert key == other and (expected.grad is None) == (found.grad is None)
        if expected.grad is not None:
            torch.testing.assert_close(found.grad, expected.grad)
    assert plain.state_dict().keys() == folded.state_dict().keys()


def test_norms_that_train_are_not_folded():
    encoder = Encoder(EncoderConfig(name="test_resnet", weights=None)).train()
    assert fold(encoder.body) == 0


def test_a_network_may_see_more_than_three_channels():
    body = nn.Sequential(nn.Conv2d(4, 2, 3), nn.BatchNorm2d(2)).eval().requires_grad_(False)
    image = torch.rand(1, 4, 8, 8)
    plain = body(image)
    assert fold(body) == 1
    torch.testing.assert_close(body(image), plain)
