"""The mask tokenizer: its quantiser, its two sides' gradients, and what it makes of masks."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.models import vgg16

from amodal_pipeline import methods
from amodal_pipeline.annotations import Category
from amodal_pipeline.methods.c2f_seg import tokenizer
from amodal_pipeline.methods.c2f_seg.tokenizer import (
    MaskTokenizer,
    PerceptualDistance,
    Tokenizer,
    adaptive_weight,
    nearest,
)
from amodal_pipeline.methods.checkpoints import Checkpoint, Fingerprint, MethodCard
from amodal_pipeline.methods.configs import MaskTokenizerConfig
from amodal_pipeline.methods.pretrained import weights_of
from amodal_pipeline.methods.registry import MethodConfig
from amodal_pipeline.training.loop import train
from tests.conftest import TINY_TOKENIZER, tiny_training


def tiny(**changes) -> MaskTokenizerConfig:
    return MaskTokenizerConfig.model_validate({**TINY_TOKENIZER, **changes})


def trained_model(**changes) -> MaskTokenizer:
    """A model in training mode, whose codes are as far apart as what the encoder gives."""
    torch.manual_seed(0)
    model = MaskTokenizer(tiny(**changes)).train()
    torch.nn.init.normal_(model.network.codes)
    return model


def some_masks(count=3, side=16, seed=0) -> torch.Tensor:
    """Rectangles, uint8 [count, side, side]."""
    masks = torch.zeros(count, side, side, dtype=torch.uint8)
    draw = torch.Generator().manual_seed(seed)
    for mask in masks:
        x, y = torch.randint(1, side // 2, (2,), generator=draw).tolist()
        mask[y : y + side // 2, x : x + side // 3] = 1
    return masks


def gradients(loss, module):
    return torch.autograd.grad(
        loss, list(module.parameters()), allow_unused=True, retain_graph=True
    )


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 30), st.integers(2, 20), st.integers(1, 9), st.integers(0, 1000))
def test_the_nearest_code_is_that_of_a_loop(count, codes, size, seed):
    draw = torch.Generator().manual_seed(seed)
    vectors = torch.randn(count, size, generator=draw)
    book = torch.randn(codes, size, generator=draw)
    slowly = [min(range(codes), key=lambda k: float((v - book[k]).square().sum())) for v in vectors]
    assert nearest(vectors, book).tolist() == slowly


def test_codes_that_are_alike_in_bf16_are_told_apart():
    codes = torch.tensor([[1.0, 0.0], [1.001, 0.0], [1.002, 0.0]])
    assert len(codes.bfloat16().unique(dim=0)) == 1
    with torch.autocast("cpu", torch.bfloat16):
        assert nearest(codes.clone(), codes).tolist() == [0, 1, 2]
    assert nearest(torch.zeros(1, 2), torch.ones(3, 2)).tolist() == [0]


def test_the_gradient_passes_the_quantisation_as_if_it_were_not_there(monkeypatch):
    model = trained_model(adversarial=0, commitment=0)
    masks = some_masks()
    met = {}
    encode, decode = Tokenizer.vectors, Tokenizer.drawn

    def vectors(self, masks):
        met["encoded"] = encode(self, masks)
        return met["encoded"]

    def drawn(self, vectors):
        met["quantised"] = vectors
        return decode(self, vectors)

    monkeypatch.setattr(Tokenizer, "vectors", vectors)
    monkeypatch.setattr(Tokenizer, "drawn", drawn)
    losses = model(None, {"amodal": masks})
    encoded, quantised = torch.autograd.grad(
        losses["loss_reconstruction"], [met["encoded"], met["quantised"]], retain_graph=True
    )
    assert encoded.abs().sum() > 0
    assert torch.equal(encoded, quantised)
    # And the decoder sees codes, nothing between them.
    codes = F.embedding(nearest(met["encoded"], model.network.codes), model.network.codes)
    torch.testing.assert_close(met["quantised"], codes, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(met["encoded"], codes, atol=1e-2)


def test_codes_go_to_vectors_and_vectors_to_codes():
    model = trained_model(adversarial=0, commitment=0.25)
    losses = model(None, {"amodal": some_masks()})
    vectors = model.network.vectors(some_masks())
    codes = F.embedding(nearest(vectors, model.network.codes), model.network.codes)
    distance = (vectors - codes).square().mean()
    torch.testing.assert_close(losses["loss_codebook"], distance)
    torch.testing.assert_close(losses["loss_commitment"], 0.25 * distance)
    moved = torch.autograd.grad(losses["loss_codebook"], model.network.codes, retain_graph=True)[0]
    assert moved.abs().sum() > 0
    encoder, decoder = model.network.encoder, model.network.decoder
    assert all(g is None for g in gradients(losses["loss_codebook"], encoder))
    assert torch.autograd.grad(
        losses["loss_commitment"], model.network.codes, allow_unused=True, retain_graph=True
    ) == (None,)
    assert all(g is not None for g in gradients(losses["loss_commitment"], encoder))
    assert all(g is None for g in gradients(losses["loss_commitment"], decoder))


def test_generator_and_discriminator_learn_only_from_their_own_losses():
    model = trained_model()
    losses = model(None, {"amodal": some_masks()})
    own = losses["loss_discriminator"]
    assert all(g is None for g in gradients(own, model.network))
    assert all(g is not None for g in gradients(own, model.discriminator))
    others = sum(v for k, v in losses.items() if k != "loss_discriminator")
    assert all(g is None for g in gradients(others, model.discriminator))
    assert all(g is not None for g in gradients(losses["loss_adversarial"], model.network.decoder))
    # In the sum of all, as the loop takes it, neither changes the other.
    own = gradients(own, model.discriminator)
    apart = [*gradients(others, model.network), *own]
    sum(losses.values()).backward()
    joined = [p.grad for m in (model.network, model.discriminator) for p in m.parameters()]
    for a, b in zip(apart, joined, strict=True):
        torch.testing.assert_close(a, b)


def test_every_parameter_is_trained():
    model = trained_model()
    sum(model(None, {"amodal": some_masks()}).values()).backward()
    untrained = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    # True and false places weigh the same: as long as no margin is reached, both leave its bias.
    assert untrained in ([], ["discriminator.8.bias"])


def test_the_hinge_losses_are_those_of_the_discriminator():
    model = trained_model()
    masks = some_masks()
    losses = model(None, {"amodal": masks})
    network = model.network
    drawn = network.drawn(F.embedding(network.encode(masks), network.codes)).detach()
    true = model.discriminator(masks.float()[:, None])
    false = model.discriminator(drawn[:, None])
    hinge = 0.5 * ((1 - true).clamp(min=0).mean() + (1 + false).clamp(min=0).mean())
    torch.testing.assert_close(losses["loss_discriminator"], hinge, rtol=1e-4, atol=1e-5)
    # A patch sees 16 pixels at a stride of 4, as two layers give.
    assert model.discriminator(torch.zeros(1, 1, 256, 256)).shape == (1, 1, 62, 62)


def test_the_adversarial_loss_weighs_as_much_as_reconstruction():
    last = torch.tensor([3.0, 4.0], requires_grad=True)
    first, second = (last * torch.tensor([3.0, 4.0])).sum(), 10 * last.sum()
    weight = adaptive_weight(first, second, last, 1e-6)
    torch.testing.assert_close(weight, torch.tensor(5 / 200**0.5))
    assert not weight.requires_grad
    assert adaptive_weight(first, 0 * last.sum(), last, 1e-6) == 1e4
    half = adaptive_weight(first, second, last, 200**0.5)
    torch.testing.assert_close(half, weight / 2)


def test_the_discriminator_enters_when_its_time_has_come():
    model = trained_model(adversarial_start=2)
    for iteration in range(4):
        losses = model(None, {"amodal": some_masks(seed=iteration)})
        entered = losses["loss_discriminator"] != 0 and losses["loss_adversarial"] != 0
        assert entered == (iteration >= 2)
    assert model.state_dict()["iteration"] == 4


def test_unused_codes_come_back_and_used_ones_stay():
    model = trained_model(adversarial=0, revive_after=3)
    with torch.no_grad():
        model.network.codes[1:] += 100  # out of reach: all places use the first
    before = model.network.codes.detach().clone()
    for _ in range(2):
        model(None, {"amodal": some_masks(8)})
    assert torch.equal(model.network.codes, before)
    model(None, {"amodal": some_masks(8)})
    after = model.network.codes.detach()
    assert torch.equal(after[0], before[0])
    vectors = model.network.vectors(some_masks(8)).flatten(0, 2)
    assert torch.cdist(after[1:], vectors).min(1).values.max() < 1e-3
    assert len(model.network.encode(some_masks(8)).unique()) > 1
    # As in the paper otherwise.
    fixed = trained_model(adversarial=0)
    with torch.no_grad():
        fixed.network.codes[1:] += 100
    for _ in range(5):
        fixed(None, {"amodal": some_masks(8)})
    assert torch.equal(fixed.network.codes, before)


def test_codes_begin_as_in_the_paper():
    codes = Tokenizer(tiny(codes=64, code_size=32)).codes.detach()
    assert codes.abs().max() <= 1 / 64 and codes.std() == pytest.approx(1 / 64 / 3**0.5, rel=0.1)


def test_tokens_and_masks_have_the_stated_form():
    network = Tokenizer(tiny()).eval()
    tokens = network.encode(some_masks())
    assert tokens.shape == (3, 8, 8) and tokens.dtype == torch.int64
    assert tokens.min() >= 0 and tokens.max() < 8
    assert torch.equal(tokens, network.encode(some_masks().float()))
    with torch.no_grad():
        network.decoder[-1].bias += 5
        assert torch.equal(network.decode(tokens), torch.ones(3, 16, 16))
        assert network.drawn(F.embedding(tokens, network.codes)).min() > 1
    assert network.encode(some_masks(0)).shape == (0, 8, 8)
    assert network.decode(torch.zeros(0, 8, 8, dtype=torch.int64)).shape == (0, 16, 16)
    names = [type(m).__name__ for m in MaskTokenizer(tiny(adversarial=0)).modules()]
    assert not any("BatchNorm" in n or "Dropout" in n for n in names)


def test_the_paper_s_network_is_as_large_as_the_released_one():
    with torch.device("meta"):
        network = Tokenizer(MaskTokenizerConfig())
    assert network.config.tokens == 16
    count = sum(p.numel() for p in network.parameters())
    assert count == pytest.approx(64.6e6, rel=0.02)


def test_what_is_saved_gives_the_same_masks_back(tmp_path):
    model = trained_model(adversarial=0.5)
    model(None, {"amodal": some_masks()})
    card = MethodCard(
        method=MethodConfig(model.config),
        categories=(Category(id=1, name="red"),),
        dataset="shapes",
        fingerprint=Fingerprint(parts={}),
        iterations=1,
        seed=0,
    )
    Checkpoint(card, weights_of(model)).save(tmp_path)
    loaded = methods.load(tmp_path)
    with torch.no_grad():
        own = model.eval()(None, {"amodal": some_masks()})["amodal_masks"]
        other = loaded(None, {"amodal": some_masks()})["amodal_masks"]
    assert own.shape == (3, 16, 16) and torch.equal(own, other)
    # What C2F-Seg takes of it.
    weights = Checkpoint.load(tmp_path).weights
    alone = Tokenizer(model.config)
    alone.load_state_dict(
        {k.removeprefix("network."): v for k, v in weights.items() if k.startswith("network.")}
    )
    assert torch.equal(alone.decode(alone.encode(some_masks())), own)


def test_a_handful_of_masks_is_learnt():
    torch.manual_seed(0)
    model = MaskTokenizer(tiny(adversarial=0, codes=32, revive_after=10)).train()
    optimizer = torch.optim.Adam(model.parameters(), 5e-3, (0.5, 0.9))
    masks = some_masks(4)
    for _ in range(300):
        optimizer.zero_grad()
        sum(model(None, {"amodal": masks}).values()).backward()
        optimizer.step()
    found = model.eval()(None, {"amodal": masks})["amodal_masks"] > 0.5
    assert (found == masks.bool()).float().mean() > 0.99


def test_a_training_that_was_cut_goes_on_to_the_same_bits(shapes, tmp_path):
    config = tiny(revive_after=2, adversarial_start=3)
    whole = tiny_training(iterations=6, optimizer="adam", schedule="multistep", milestones=())

    def stop(step):
        if step.iteration == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(config, whole, shapes, tmp_path / "cut", on_step=stop)
    resumed = train(config, whole, shapes, tmp_path / "cut")
    through = train(config, whole, shapes, tmp_path / "through")
    assert resumed.weights["iteration"] == 6
    for name, tensor in through.weights.items():
        assert torch.equal(tensor, resumed.weights[name]), name


@pytest.fixture(scope="module")
def vgg(tmp_path_factory):
    """Random weights of VGG-16's convolutions, as torchvision names them, and of LPIPS."""
    torch.manual_seed(0)
    network = vgg16().eval()
    state = {k: v for k, v in network.state_dict().items() if k.startswith("features.")}
    linear = {
        f"lin{i}.model.1.weight": torch.rand(1, c, 1, 1)
        for i, c in enumerate((64, 128, 256, 512, 512))
    }
    folder = tmp_path_factory.mktemp("vgg")
    torch.save(state, folder / "vgg.pth")
    torch.save(state | linear, folder / "lpips.pth")
    broken = {k: v for k, v in state.items() if k != "features.7.bias"}
    torch.save(broken, folder / "broken.pth")
    (folder / "text.pth").write_text("no weights")
    return network, linear, folder


@pytest.mark.parametrize("weighted", [False, True])
def test_the_perceptual_distance_is_that_of_torchvisions_network(vgg, weighted):
    network, linear, folder = vgg
    distance = PerceptualDistance(folder / ("lpips.pth" if weighted else "vgg.pth"))
    a, b = some_masks(2, 32).float(), some_masks(2, 32, seed=1).float()
    expected = 0.0
    for mask, other in zip(a, b, strict=True):
        x, y = (m.expand(1, 3, -1, -1) for m in (mask, other))
        mean, std = (torch.tensor(v)[:, None, None] for v in (tokenizer._MEAN, tokenizer._STD))
        x, y = (x - mean) / std, (y - mean) / std
        for i, layer in enumerate(network.features[:30]):
            x, y = layer(x), layer(y)
            if i in (3, 8, 15, 22, 29):
                squared = (F.normalize(x, dim=1) - F.normalize(y, dim=1)).square()
                if weighted:
                    block = (3, 8, 15, 22, 29).index(i)
                    squared = squared * linear[f"lin{block}.model.1.weight"]
                expected += squared.sum(1).mean() / len(a)
    torch.testing.assert_close(distance(a, b), expected, rtol=1e-3, atol=1e-5)
    assert distance(a, a) == 0
    assert distance.state_dict() == {} and not list(distance.parameters())


def test_perceptual_weights_teach_and_stay_out_of_the_checkpoint(vgg):
    config = tiny(perceptual_weights=str(vgg[2] / "vgg.pth"), perceptual=2.0)
    model = MaskTokenizer(config.model_copy(update={"crop": config.crop}))
    assert model.perceptual is None  # a trained one works without the file
    torch.manual_seed(0)
    losses = model.train()(None, {"amodal": some_masks()})
    assert losses["loss_perceptual"] > 0
    sum(losses.values()).backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())
    assert not any("perceptual" in name for name in model.state_dict())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("absent.pth", r"absent\.pth cannot be read"),
        ("text.pth", r"text\.pth is not a file of named tensors"),
        ("broken.pth", r"broken\.pth: features\.7\.bias must be of shape \(128,\), found nothing"),
    ],
)
def test_other_perceptual_weights_are_refused(vgg, name, message):
    model = MaskTokenizer(tiny(perceptual_weights=str(vgg[2] / name)))
    with pytest.raises(ValueError, match=message):
        model.train()
