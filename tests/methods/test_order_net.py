"""OrderNet: sees a pair, and says the opposite of the pair turned round."""

import numpy as np
import pytest
import torch
from torch import nn

from amodal_pipeline import methods
from amodal_pipeline.annotations.known_objects import true_objects_with_order
from amodal_pipeline.layers.configs import EncoderConfig
from amodal_pipeline.layers.encoder import Encoder
from amodal_pipeline.methods.configs import OrderNetConfig
from amodal_pipeline.methods.pretrained import restore
from amodal_pipeline.methods.training_config import InferenceConfig
from amodal_pipeline.metrics.config import EvaluationConfig
from amodal_pipeline.metrics.evaluate import evaluate
from amodal_pipeline.training import ordering
from amodal_pipeline.training.loop import train
from amodal_pipeline.training.state import ChangedTrainingError
from tests.conftest import tiny_training

TINY = {"encoder": {"name": "test_resnet", "weights": None}, "side": 32}


def config(**changes):
    return OrderNetConfig.model_validate({**TINY, **changes})


def trained_away(model):
    """Weights that are no longer those of a fresh network, which is undecided on everything."""
    nn.init.normal_(model.classifier.weight)
    return model


def pair(count=3, side=32):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 3, side, side), generator=generator, dtype=torch.uint8)
    objects = (torch.rand(count, 2, side, side, generator=generator) > 0.5).float()
    return images, {"objects": objects, "first_in_front": torch.tensor([1.0, 0.0, 0.5])}


@pytest.mark.parametrize("image", [True, False])
def test_forward_backward_and_the_turned_pair_has_the_opposite_sign(image):
    torch.manual_seed(0)
    model = methods.build(config(image=image), classes=2).train()
    images, targets = pair()
    losses = model(images, targets)
    # Undecided at first, but for a bias that the turned pair takes away.
    assert losses["loss_order"].item() == pytest.approx(np.log(2), abs=0.2)
    trained_away(model)(images, targets)["loss_order"].backward()
    assert all(p.grad is not None for p in model.parameters())
    model.eval()
    with torch.no_grad():
        logits = model(images, targets)["logits"]
        turned = model(images, {"objects": targets["objects"].flip(1)})["logits"]
        raw = model.logits(images, targets["objects"]) if image else None
    assert logits.shape == (3,) and logits.abs().min() > 0
    assert torch.equal(turned, -logits)
    if image:
        assert not torch.allclose(raw, logits)  # by itself the network is not so


def test_the_image_is_seen_only_where_it_is_asked_for():
    images, targets = pair()
    for image in (True, False):
        torch.manual_seed(0)
        model = trained_away(methods.build(config(image=image), classes=2)).eval()
        with torch.no_grad():
            same = torch.equal(*(model(i, targets)["logits"] for i in (images, 255 - images)))
        assert same is not image


def test_the_loss_is_that_of_the_stated_direction():
    torch.manual_seed(0)
    model = trained_away(methods.build(config(), classes=2)).train()
    images, targets = pair()
    logits = model.logits(images, targets["objects"])
    truth = targets["first_in_front"]
    p = logits.sigmoid()
    expected = -(truth * p.log() + (1 - truth) * (1 - p).log()).mean()
    assert torch.allclose(model(images, targets)["loss_order"], expected, atol=1e-6)


def test_a_wider_first_convolution_sees_the_image_as_before():
    torch.manual_seed(0)
    plain = Encoder(EncoderConfig(name="test_resnet", weights=None), strides=(32,))
    torch.manual_seed(0)
    wide = Encoder(EncoderConfig(name="test_resnet", weights=None), strides=(32,), beside=2)
    first = next(m for m in wide.modules() if isinstance(m, nn.Conv2d))
    assert first.weight.shape[1] == 5 and first.weight[:, 3:].std() > 0
    images, beside = torch.rand(2, 3, 64, 64), torch.zeros(2, 2, 64, 64)
    plain.eval(), wide.eval()
    with torch.no_grad():
        (before,), (after,) = plain(images), wide(images, beside)
        (seen,) = wide(images, beside + 1)
    assert before.shape == (2, plain.channels[0], 2, 2)
    assert torch.allclose(before, after, atol=1e-5)
    assert not torch.allclose(seen, after)


def test_overfits_the_order_of_a_few_pairs_and_comes_back_from_its_checkpoint(shapes, tmp_path):
    training = tiny_training(
        iterations=30, batch_size=8, optimizer="adamw", learning_rate=0.01, checkpoint_every=100
    )
    form = config(inputs="maps", image=False)
    train(form, training, shapes, tmp_path).save(tmp_path)
    model = methods.load(tmp_path)
    objects = true_objects_with_order(shapes)
    cpu = InferenceConfig(workers=0, device="cpu")
    found = ordering.order(model, objects, cpu)
    only = EvaluationConfig(protocols=("order",), resamples=0, headline_resamples=0)
    results = evaluate(shapes, found, only).results.set_index("metric")["value"]
    assert results["order_accuracy"] == 100


def test_a_training_that_was_cut_goes_on_to_the_same_bits(shapes, tmp_path):
    form = config(inputs="amodal", flip=0.5)

    class CutError(Exception):
        pass

    def cut(step):
        if step.iteration == 4:
            raise CutError

    whole = train(form, tiny_training(), shapes, tmp_path / "whole")
    with pytest.raises(CutError):
        train(form, tiny_training(), shapes, tmp_path / "cut", on_step=cut)
    resumed = train(form, tiny_training(), shapes, tmp_path / "cut")
    assert all(torch.equal(v, resumed.weights[k]) for k, v in whole.weights.items())
    assert restore(resumed).config.inputs == "amodal"
    for changes in ({"inputs": "maps"}, {"mutual": True}):
        with pytest.raises(ChangedTrainingError):
            train(config(flip=0.5, **changes), tiny_training(), shapes, tmp_path / "cut")
