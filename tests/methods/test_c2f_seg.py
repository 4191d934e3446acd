"""C2F-Seg against slow versions written from the paper's equations."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from amodal_pipeline import methods
from amodal_pipeline.methods.c2f_seg import decoding, refinement
from amodal_pipeline.methods.c2f_seg.method import C2FSeg, tokenize_all
from amodal_pipeline.methods.c2f_seg.transformer import Block
from amodal_pipeline.methods.configs import C2FSegConfig

TINY = {
    "encoder": {"name": "test_resnet", "weights": None},
    "crop": {"side": 32, "image_side": 64},
    "tokenizer": {
        "crop": {"side": 32},
        "channels": 8,
        "multipliers": [1, 2, 2, 2],
        "blocks": 1,
        "codes": 16,
        "code_size": 8,
        "adversarial": 0,
    },
    "width": 16,
    "layers": 2,
    "heads": 2,
    "refinement_channels": [8, 8, 8, 4, 4],
}
VARIANTS = {
    "paper": {},
    "channels": {"fusion": "channels"},
    "coarse": {"refinement": False},
    "single_branch": {"visible_branch": False},
    "without_attention": {"attention": False},
    "given_mask": {"given_mask": "joined"},
    "released": {
        "fusion": "channels",
        "attention_map": True,
        "refinement_adapter": True,
        "cosine_mask_ratio": True,
        "loss_on_all_tokens": True,
        "label_smoothing": 0.1,
    },
    "one_step": {"steps": 1},
}


def config(**changes):
    return C2FSegConfig.model_validate({**TINY, **changes})


def build(**changes):
    torch.manual_seed(0)
    model = methods.build(config(**changes), classes=2)
    # Codes as far apart as a trained tokenizer's: fresh ones all decode to nearly the same.
    torch.nn.init.normal_(model.tokenizer.codes)
    return model


def a_batch(count=3, seed=0):
    draw = torch.Generator().manual_seed(seed)
    masks = torch.zeros(count, 32, 32, dtype=torch.uint8)
    for mask in masks:
        y, x = torch.randint(2, 14, (2,), generator=draw).tolist()
        mask[y : y + 14, x : x + 16] = 1
    visible = masks.clone()
    visible[:, 16:] = 0
    images = torch.randint(0, 256, (count, 3, 64, 64), generator=draw, dtype=torch.uint8)
    labels = torch.ones(count, dtype=torch.int64)
    targets = {"input": visible, "visible": visible, "amodal": masks, "labels": labels}
    return images, targets | {"key": torch.arange(count)}


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_parameter_but_the_tokenizer_learns(variant):
    """Biases and norms too: the released code leaves them as they are initialised."""
    model = build(**VARIANTS[variant]).train()
    # A fresh encoder's residual branches are multiplied with 0, which nothing passes through.
    for parameter in model.encoder.parameters():
        parameter.data += 0.01
    sum(model(*a_batch()).values()).backward()
    for name, parameter in model.named_parameters():
        own = name.startswith("tokenizer.")
        assert (parameter.grad is None) == own, name
        assert own or parameter.grad.abs().sum() > 0, name


def test_the_tokenizer_is_never_in_training_mode():
    model = build().train()
    assert not any(module.training for module in model.tokenizer.modules())
    assert model.transformer.training
    assert model.refinement.training


def test_losses_are_those_of_the_parts_in_use():
    images, targets = a_batch()
    names = {k: set(build(**v).train()(images, targets)) for k, v in VARIANTS.items()}
    assert names["paper"] == {"loss_tokens", "loss_amodal_mask", "loss_visible_mask"}
    assert names["single_branch"] == {"loss_tokens", "loss_amodal_mask"}
    assert names["coarse"] == {"loss_tokens"}


@pytest.mark.parametrize("everywhere", [False, True])
def test_token_loss_is_the_mean_over_masked_tokens(everywhere):
    """Eq. 6 in a loop, with the logits and the mask of the very same pass."""
    model = build(loss_on_all_tokens=everywhere, refinement=False, dropout=0).train()
    images, targets = a_batch()
    seen = {}
    model.transformer.register_forward_hook(
        lambda _, args, logits: seen.update(tokens=args[1], logits=logits)
    )
    loss = model(images, targets)["loss_tokens"]
    truth = model.tokenizer.encode(targets["amodal"].float()).flatten(1)
    terms = [
        -seen["logits"][n, i].log_softmax(dim=0)[truth[n, i]]
        for n in range(3)
        for i in range(16)
        if everywhere or seen["tokens"][n, i] == 16
    ]
    assert 3 * 8 <= (seen["tokens"] == 16).sum() <= 3 * 16
    torch.testing.assert_close(loss, sum(terms) / len(terms))


def test_tokens_may_come_from_outside():
    model = build(dropout=0, refinement=False).train()
    images, targets = a_batch()
    torch.manual_seed(3)
    encoded = model(images, targets)["loss_tokens"]
    known = tokenize_all(model.tokenizer, targets["amodal"].split(2), "cpu")
    assert known.dtype == torch.int16 and known.shape == (3, 4, 4)
    torch.manual_seed(3)
    targets |= {"amodal_tokens": known, "amodal": targets["amodal"] * 0}
    assert torch.equal(model(images, targets)["loss_tokens"], encoded)


@given(st.floats(0, 1), st.floats(0, 1), st.booleans(), st.integers(1, 70))
def test_masked_share_is_in_its_range(a, b, cosine, length):
    low, high = sorted((a, b))
    own = config(mask_ratio=(low, high), cosine_mask_ratio=cosine)
    masked = decoding.masked_in_training(20, length, own, "cpu")
    share, rim = masked.sum(dim=1) / length, 0.5 / length + 1e-6
    assert (masked.sum(dim=1) >= 1).all()
    assert (share >= low - rim).all()
    assert (share <= max(1 if cosine else high, 1 / length) + rim).all()


def test_mask_ratio_is_uniform_or_a_clamped_cosine():
    torch.manual_seed(0)
    uniform = decoding.masked_in_training(20_000, 100, config(), "cpu").float().mean(dim=1)
    assert abs(uniform.mean() - 0.75) < 0.005 and abs(uniform.std() - 0.5 / 12**0.5) < 0.005
    cosine = config(cosine_mask_ratio=True)
    share = decoding.masked_in_training(20_000, 100, cosine, "cpu").float().mean(dim=1)
    # cos(pi u / 2) falls to a half at u = 2/3: a third of all objects has the lower end.
    assert abs((share == 0.5).float().mean() - 1 / 3) < 0.02
    assert abs(share.mean() - (2 / math.pi * math.sin(math.pi / 3) + 1 / 6)) < 0.005


@given(st.integers(1, 300), st.integers(1, 20))
def test_masks_decrease_along_the_cosine(length, steps):
    left = decoding.masked_after(length, steps)
    assert len(left) == steps and left[-1] == 0
    assert all(a >= b for a, b in zip([length, *left], left, strict=False))
    assert all(n >= 1 for n in left[:-1])
    for step, n in enumerate(left[:-1], 1):
        assert n <= max(1, length * math.cos(math.pi / 2 * step / steps))


def logits_of(tokens, codes=7, seed=0):
    """Any function of the tokens that differs from place to place."""
    draw = torch.Generator().manual_seed(seed)
    table = torch.randn(codes + 1, tokens.shape[1], codes, generator=draw)
    around = table[tokens.roll(1, dims=1), torch.arange(tokens.shape[1])]
    return 2 * around + table[codes, torch.arange(tokens.shape[1])]


@given(st.integers(1, 12), st.integers(1, 30), st.integers(1, 9), st.floats(0, 9))
def test_all_tokens_are_decided_and_none_changes(steps, length, top_k, temperature):
    own = config(steps=steps, top_k=top_k, temperature=temperature)
    found = decoding.decode(logits_of, torch.arange(3), length, 7, own)
    assert found.decided[-1].all()
    assert found.tokens.min() >= 0 and found.tokens.max() < 7
    left = decoding.masked_after(length, steps)
    for step in range(steps):
        assert ((~found.decided[step]).sum(dim=1) == left[step]).all()
        if step:
            before = found.decided[step - 1]
            assert found.decided[step][before].all()
            assert torch.equal(found.tokens[step][before], found.tokens[step - 1][before])


def test_one_step_is_the_one_shot_prediction():
    own = config(steps=1, top_k=1, temperature=4.5)
    found = decoding.decode(logits_of, torch.arange(2), 10, 7, own)
    blank = torch.full((2, 10), 7)
    assert torch.equal(found.tokens[0], logits_of(blank).argmax(dim=-1))


@given(st.integers(1, 9), st.integers(0, 5))
def test_without_chance_decoding_is_a_plain_loop(steps, seed):
    """A.2 step by step: predict, take the likeliest, keep the surest."""
    length, codes = 11, 7
    own = config(steps=steps, top_k=1, temperature=0)
    found = decoding.decode(lambda t: logits_of(t, seed=seed), torch.arange(1), length, codes, own)
    tokens = [codes] * length
    for step in range(steps):
        probabilities = logits_of(torch.tensor([tokens]), seed=seed)[0].softmax(dim=-1)
        sure, candidates = {}, list(tokens)
        for i in range(length):
            if tokens[i] == codes:
                candidates[i] = int(probabilities[i].argmax())
                sure[i] = float(probabilities[i].max())
        ratio = (step + 1) / steps
        left = min(math.floor(length * math.cos(math.pi / 2 * ratio)), len(sure) - 1)
        left = 0 if ratio == 1 else max(1, left)
        masked = sorted(sure, key=lambda i: sure[i])[:left]
        tokens = [codes if i in masked else candidates[i] for i in range(length)]
        assert found.tokens[step, 0].tolist() == candidates
    assert found.tokens[-1, 0].tolist() == tokens


def test_tokens_are_drawn_from_the_likeliest_by_their_probability():
    logits = torch.tensor([2.0, 0.5, 1.0, -1.0]).log_softmax(dim=0).expand(1, 4000, 4)
    noise = decoding._gumbel(0, torch.arange(1), (1, 4000, 2))[:, 0]
    tokens = decoding.drawn(logits, noise)
    share = (tokens == 0).float().mean()
    assert set(tokens.unique().tolist()) == {0, 2}
    assert abs(share - 1 / (1 + math.exp(-1))) < 0.03


def test_an_object_is_completed_alike_in_any_company():
    model = build(steps=3).eval()
    images, targets = a_batch(5)
    targets["key"] = torch.tensor([9, 4, 2**40, 0, 7])
    with torch.inference_mode():
        together = model(images, targets)
        for own in ([3], [4, 1], [2, 0, 3]):
            apart = model(images[own], {k: v[own] for k, v in targets.items()})
            for name, masks in apart.items():
                torch.testing.assert_close(masks, together[name][own])


def test_chance_has_its_seed_and_its_key():
    keys = torch.tensor([5, 6])

    def noise(seed):
        return decoding._gumbel(seed, keys, (2, 4, 3))

    assert torch.equal(noise(0), noise(0))
    assert not torch.equal(noise(0), noise(1))
    assert not torch.equal(noise(0)[0], noise(0)[1])
    torch.testing.assert_close(noise(0)[1:], decoding._gumbel(0, keys[1:], (2, 4, 3)))


@pytest.mark.parametrize("scaled", [False, True])
def test_attention_is_equation_eight_in_a_loop(scaled):
    torch.manual_seed(0)
    features, masks = torch.randn(2, 5, 3, 4), torch.rand(2, 1, 3, 4)
    weights = refinement.attention(features, masks, scaled=scaled)
    for n in range(2):
        query = torch.zeros(5)
        for y in range(3):
            for x in range(4):
                query += masks[n, 0, y, x] * features[n, :, y, x] / masks[n].sum()
        alike = torch.zeros(3, 4)
        for y in range(3):
            for x in range(4):
                alike[y, x] = query @ features[n, :, y, x] / (5**0.5 if scaled else 1)
        expected = alike.exp() / alike.exp().sum()
        torch.testing.assert_close(weights[n, 0], expected)
        attended = weights[n] * features[n]
        torch.testing.assert_close(attended[:, 1, 2], expected[1, 2] * features[n, :, 1, 2])


def test_an_empty_coarse_mask_attends_to_all_alike():
    weights = refinement.attention(torch.randn(1, 5, 3, 4), torch.zeros(1, 1, 3, 4))
    torch.testing.assert_close(weights, torch.full((1, 1, 3, 4), 1 / 12))


@pytest.mark.parametrize("joins_map", [False, True])
def test_refinement_sees_the_features_that_are_attended_to(joins_map):
    torch.manual_seed(0)
    module = refinement.Refinement(config(attention_map=joins_map), [4, 5, 6, 7]).eval()
    maps = [torch.randn(2, c, s, s) for c, s in ((4, 16), (5, 8), (6, 4), (7, 4))]
    mask, seen = torch.rand(2, 32, 32), []
    module.joined.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    found = module(maps, mask, 32)
    assert found.amodal.shape == found.visible.shape == (2, 32, 32)
    small = F.adaptive_avg_pool2d(mask[:, None], 4)
    weights = refinement.attention(maps[-1], small, scaled=not joins_map)
    last = weights if joins_map else module.attended(16 * weights * maps[-1])
    torch.testing.assert_close(seen[0], torch.cat([module.features(maps[-1]), small, last], dim=1))


def test_joined_masks_come_in_at_each_stride():
    """Written out: the masks' own kernels, applied to their means, are added to the plain form."""
    torch.manual_seed(0)
    joined = refinement.Refinement(config(given_mask="joined"), [4, 5, 6, 7]).eval()
    plain = refinement.Refinement(config(), [4, 5, 6, 7]).eval()
    own = joined.state_dict()
    plain.load_state_dict(
        {
            n: own[n][:, : p.shape[1]] if p.ndim > 1 else own[n]
            for n, p in plain.state_dict().items()
        }
    )
    maps = [torch.randn(2, c, s, s) for c, s in ((4, 16), (5, 8), (6, 4), (7, 4))]
    mask, given = torch.rand(2, 2, 32, 32)
    for name in ("amodal", "visible"):
        branch, from_masks = getattr(plain, name), getattr(joined, name)
        for layer, other in (
            (branch.middle, from_masks.middle),
            (branch.fine, from_masks.fine),
            (branch.to_mask[0], from_masks.to_mask[0]),
        ):
            kernel = other.weight[:, layer.in_channels :]

            def with_masks(layer, args, out, kernel=kernel):
                small = F.adaptive_avg_pool2d(torch.stack([mask, given], 1), out.shape[-1])
                return out + F.conv2d(small, kernel, padding=layer.padding)

            layer.register_forward_hook(with_masks)
    found, expected = joined(maps, mask, 32, given), plain(maps, mask, 32)
    torch.testing.assert_close(found.amodal, expected.amodal)
    torch.testing.assert_close(found.visible, expected.visible)
    assert not torch.equal(joined(maps, mask, 32, 1 - given).amodal, found.amodal)


def test_fused_attention_is_attention():
    torch.manual_seed(0)
    block = Block(8, 2, 0.0).eval()
    x = torch.randn(2, 5, 8)
    query, key, value = block.query_key_value(block.attention_norm(x)).chunk(3, dim=-1)
    heads = []
    for part in (slice(0, 4), slice(4, 8)):
        alike = query[..., part] @ key[..., part].transpose(1, 2) / 4**0.5
        heads.append(alike.softmax(dim=-1) @ value[..., part])
    y = x + block.projection(torch.cat(heads, dim=-1))
    torch.testing.assert_close(block(x), y + block.perceptron(y))


@pytest.mark.parametrize("fusion", ["sequence", "channels"])
def test_amodal_tokens_look_at_image_visible_mask_and_each_other(fusion):
    model = build(fusion=fusion).eval().transformer
    torch.manual_seed(0)
    features = torch.randn(1, 96, 4, 4, requires_grad=True)
    visible, tokens = torch.randint(0, 16, (2, 1, 16))

    def logits(features=features, visible=visible, tokens=tokens):
        return model(model.context(features, visible), tokens)

    plain = logits()
    assert plain.shape == (1, 16, 16)
    plain[0, 0].sum().backward()
    assert (features.grad.abs().sum(dim=1) > 0).all()
    # A change at the last place is seen at the first.
    other = tokens.clone()
    other[0, -1] = 16
    assert not torch.equal(logits(tokens=other)[0, 0], plain[0, 0])
    other = visible.clone()
    other[0, -1] = (other[0, -1] + 1) % 16
    assert not torch.equal(logits(visible=other)[0, 0], plain[0, 0])


def test_a_step_goes_on_from_the_tokens_decided_before():
    """Every step of the pictures is what its tokens decode to, and the last is the coarse mask."""
    model = build(steps=4).eval()
    images, targets = a_batch()
    with torch.inference_mode():
        found = model.explain(images, targets)
        masks = model(images, targets)
    assert found.steps.shape == (4, 3, 32, 32)
    assert torch.equal(found.steps[-1], found.coarse)
    torch.testing.assert_close(found.amodal, masks["amodal_masks"])
    torch.testing.assert_close(found.visible, masks["visible_masks"])
    left = torch.tensor(decoding.masked_after(16, 4))
    torch.testing.assert_close(found.decided, (1 - left / 16)[:, None].expand(4, 3))


def test_without_refinement_the_coarse_mask_is_the_result():
    model = build(refinement=False).eval()
    images, targets = a_batch()
    with torch.inference_mode():
        masks, found = model(images, targets), model.explain(images, targets)
    assert set(masks) == {"amodal_masks"} and found.visible is None
    assert torch.equal(masks["amodal_masks"], found.coarse)


def shown(model):
    """The refinement gives back the coarse mask, which is the visible one of the crop."""
    model.refinement = None
    model._refine = lambda maps, coarse, given: refinement.Refined(coarse, None)
    model._decode = lambda images, targets: (None, decoding.Decoding(targets["input"][None], None))
    model._mask = lambda tokens: tokens.float()
    return model.eval()


def test_masks_come_back_to_their_place():
    """Crop and paste of a mask that fills whole pixels of the crop is that mask, at any border."""
    model = shown(build(crop={"side": 32, "image_side": 64, "clipped": False}))
    masks = np.zeros((4, 50, 60), bool)
    masks[0, 10:26, 20:36] = True
    masks[1, 0:16, 44:60] = True
    masks[3, 34:50, 0:16] = True
    image = np.zeros((50, 60, 3), np.uint8)
    completed = model.complete(image, masks)
    assert completed.dtype == bool and np.array_equal(completed, masks)
    assert np.array_equal(model.complete(torch.zeros(3, 50, 60, dtype=torch.uint8), masks), masks)
    assert np.array_equal(model.complete(image, masks[0]), masks[0])
    assert not model.complete(image, masks[2]).any()


def test_completing_refuses_what_does_not_fit():
    model = build().eval()
    image = np.zeros((50, 60, 3), np.uint8)
    with pytest.raises(ValueError, match=r"pixels .*, the mask"):
        model.complete(image, np.zeros((60, 50), bool))
    for wrong in (image[..., :2], image.astype(np.float32), image.transpose(2, 0, 1)):
        with pytest.raises(ValueError, match="complete takes an image"):
            model.complete(wrong, np.zeros((50, 60), bool))


def test_what_cannot_work_is_refused():
    with pytest.raises(ValueError, match="tokenizer is None"):
        C2FSeg(config(tokenizer=None))
    with pytest.raises(ValueError, match="masks of 32 pixels"):
        C2FSeg(config(crop={"side": 64, "image_side": 64}))
    with pytest.raises(ValueError, match="image_side / 16"):
        C2FSeg(config(fusion="channels", crop={"side": 32, "image_side": 128}))
    for changes in (
        {"mask_ratio": (0.9, 0.5)},
        {"fusion": "channels", "width": 18, "heads": 2},
        {"attention": False, "attention_map": True},
    ):
        with pytest.raises(ValidationError):
            config(**changes)
