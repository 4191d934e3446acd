"""What the backbones of the published environments start from, without fetching it."""

import pytest
import timm

from amodal_pipeline.layers.backbone import timm_body
from amodal_pipeline.layers.configs import BackboneConfig, EncoderConfig
from amodal_pipeline.pipelines.parameters import check
from tests.pipelines.conftest import ENVIRONMENTS, SMALL_ENVIRONMENTS, configuration

# torchvision's "IMAGENET1K_V1" of both networks that the papers use.
FILES = {"resnet50": "resnet50-0676ba61.pth", "resnet101": "resnet101-63fe2227.pth"}


def networks(values):
    """Name and weights of every network in a tree of parameters."""
    if isinstance(values, dict):
        if {"name", "weights"} <= set(values):
            yield values["name"], values["weights"]
        for below in values.values():
            yield from networks(below)


@pytest.mark.parametrize("env", ENVIRONMENTS)
def test_residual_networks_start_from_torchvisions_first_weights(env):
    found = set(networks(check(configuration(env)["parameters"]).model_dump()))
    if env in SMALL_ENVIRONMENTS:
        assert found == {("tf_efficientnet_lite0", "embedded")}
    else:
        # ViTA-Seg's encoder, the plain completer's, is a transformer with weights of its own.
        assert found == {("resnet50", "tv_in1k"), ("vit_base_patch16_224.mae", "mae")}


@pytest.mark.parametrize(
    "config", [BackboneConfig(), BackboneConfig(name="resnet50"), EncoderConfig()]
)
def test_the_tag_is_one_that_timm_fetches_from_torchvision(config, monkeypatch):
    fetched = []
    monkeypatch.setattr(
        timm.models._builder,
        "load_pretrained",
        lambda *_, pretrained_cfg, **__: fetched.append(pretrained_cfg),
    )
    timm_body(config.name, config.weights, (4, 8, 16, 32))
    (weights,) = fetched
    assert weights["tag"] == "tv_in1k" and weights["url"].endswith(FILES[config.name])
