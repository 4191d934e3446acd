"""C2F-Seg for videos against slow versions: windows in a loop, literal rolls, single frames."""

import pytest
import torch

from amodal_pipeline import methods
from amodal_pipeline.methods.c2f_seg.space_time import (
    Clips,
    SpaceTimeBlock,
    SpaceTimeBlocks,
    from_windows,
    windows,
)
from amodal_pipeline.methods.c2f_seg.transformer import MaskTransformer
from amodal_pipeline.methods.configs import C2FSegVideoConfig
from amodal_pipeline.methods.pretrained import restore, start_from
from amodal_pipeline.samples.clips import ClipBatches
from tests.conftest import TINY_CLIPS, tiny_method
from tests.methods import test_c2f_seg as image_tests
from tests.methods.test_methods import CATEGORIES, checkpoint_of

VARIANTS = {
    "default": {},
    "whole_window": {"window": 8},
    "sequence": {"fusion": "sequence"},
    "without_st": {"temporal": False},
    "without_roll": {"roll": False},
    "embedded": {"temporal_embedding": True},
    "masks_only": {"image": False},
    "all_frames": {"all_frames": True},
    "coarse": {"refinement": False},
    "single_branch": {"visible_branch": False},
}


def config(**changes):
    return C2FSegVideoConfig.model_validate({**TINY_CLIPS, **changes})


def build(seed=0, **changes):
    torch.manual_seed(seed)
    model = methods.build(config(**changes), classes=2)
    torch.nn.init.normal_(model.tokenizer.codes)
    # Attention that is far from even, so that what it is given matters.
    for parameter in model.transformer.blocks.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return model


def a_batch(lengths=(8, 8), frames=8, seed=0):
    images, targets = image_tests.a_batch(len(lengths) * frames, seed)
    shape = (len(lengths), frames)
    targets = {k: targets[k].unflatten(0, shape) for k in ("input", "visible", "amodal", "key")}
    real = torch.arange(frames) < torch.tensor(lengths)[:, None]
    return images.unflatten(0, shape), targets | {"real": real, "counts": real.float()}


def slow_window_attention(block, x, shift):
    """Step 2 of the block for the frames [T, L, C] of one clip, window by window, head by head."""
    length, width = len(x), x.shape[-1]
    normed = block.temporal_norm(x)
    query, key, value = block.temporal_query_key_value(normed).chunk(3, dim=-1)
    padded = -(-length // block.frames) * block.frames
    found = torch.zeros_like(x)
    token = 0
    for height, columns in block.grids:
        for start in range(0, padded, block.frames):
            inside = [
                t for t in range(length) if start <= (t + shift) % padded < start + block.frames
            ]
            for y in range(0, height, block.places):
                for left in range(0, columns, block.places):
                    places = [
                        token + columns * (y + i) + left + j
                        for i in range(block.places)
                        for j in range(block.places)
                    ]
                    at = [(t, p) for t in inside for p in places]
                    size = width // block.heads
                    for head in range(0, width, size):
                        own = slice(head, head + size)
                        q, k, v = (
                            torch.stack([part[t, p, own] for t, p in at]) if at else None
                            for part in (query, key, value)
                        )
                        if at:
                            weights = (q @ k.T / size**0.5).softmax(dim=1)
                            for (t, p), attended in zip(at, weights @ v, strict=True):
                                found[t, p, own] = attended
        token += height * columns
    return x + block.temporal_projection(found)


@pytest.mark.parametrize(
    ("lengths", "grids", "shift"),
    [
        ((8,), ((4, 4),), 0),
        ((8, 8), ((4, 4),), 2),
        ((7, 3, 8), ((4, 4),), 2),
        ((5, 6), ((4, 4), (2, 4), (2, 4)), 6),
    ],
)
@torch.no_grad()
def test_attention_across_frames_is_a_loop_over_windows(lengths, grids, shift):
    torch.manual_seed(0)
    block = SpaceTimeBlock(config(), grids).eval()
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    real = torch.arange(8) < torch.tensor(lengths)[:, None]
    x = torch.randn(int(real.sum()), sum(h * w for h, w in grids), 16)
    found = block(x, Clips.where(real), shift)
    for own, result in zip(x.split(lengths), found.split(lengths), strict=True):
        after = block.mapped(slow_window_attention(block, block.attended(own), shift))
        torch.testing.assert_close(result, after, atol=2e-5, rtol=1e-4)


def stack(seed=0, **changes):
    torch.manual_seed(seed)
    blocks = SpaceTimeBlocks(config(layers=3, **changes), ((4, 4),)).eval()
    for parameter in blocks.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return blocks


@torch.no_grad()
def test_rolled_windows_are_rolled_tokens():
    """As released: tokens are rolled by half a window after every block, and back at the end."""
    blocks, x = stack(), torch.randn(8, 16, 16)
    clips = Clips.where(torch.ones(1, 8, dtype=torch.bool))
    rolled = x
    for block in blocks:
        rolled = block(rolled, clips).roll(2, 0)
    torch.testing.assert_close(blocks(x, clips), rolled.roll(-6, 0), atol=1e-5, rtol=1e-5)


def test_windows_come_back_to_their_places():
    x = torch.randn(2, 8, 8, 4, 3)
    cut = windows(x, (4, 2, 2))
    assert cut.shape == (2 * 2 * 4 * 2, 16, 3)
    assert torch.equal(cut[0], x[0, :4, :2, :2].flatten(0, 2))
    assert torch.equal(from_windows(cut, (2, 8, 8, 4), (4, 2, 2)), x)
    clips = Clips.where(torch.arange(8) < torch.tensor([[8], [5]]))
    values = torch.randn(13, 3)
    for shift in (0, 2, 6):
        rolled = clips.rolled(shift, 4)
        assert torch.equal(rolled.spread(values).flatten(0, 1)[rolled.places], values)


@torch.no_grad()
def test_with_a_window_of_all_frames_the_roll_changes_nothing():
    """Attention does not know the order of what it attends to."""
    clips, x = Clips.where(torch.ones(1, 8, dtype=torch.bool)), torch.randn(8, 16, 16)
    for window, same in ((8, True), (4, False)):
        rolled, still = (stack(window=window, roll=roll)(x, clips) for roll in (True, False))
        difference = float((rolled - still).abs().max() / still.abs().max())
        assert (difference < 1e-6) == same
        assert same or difference > 1e-2


@torch.no_grad()
def test_only_an_embedding_tells_the_order_of_frames():
    clips, x = Clips.where(torch.ones(1, 8, dtype=torch.bool)), torch.randn(8, 16, 16)
    for embedded in (False, True):
        blocks = stack(window=8, temporal_embedding=embedded)
        forward, backward = blocks(x, clips), blocks(x.flip(0), clips).flip(0)
        assert torch.allclose(forward, backward, atol=1e-5) != embedded


@pytest.mark.parametrize("variant", [name for name in VARIANTS if name != "all_frames"])
@torch.no_grad()
def test_what_comes_out_for_a_clip_depends_on_its_own_frames_alone(variant):
    model = build(**VARIANTS[variant]).eval()
    images, targets = a_batch((5, 8))
    together = model(images, targets)["amodal_masks"]
    assert together.shape == (2, 8, 32, 32)
    assert (together[0, 5:] == 0).all()
    for clip, length in ((0, 5), (1, 8)):
        own = {name: values[clip : clip + 1, :length] for name, values in targets.items()}
        alone = model(images[clip : clip + 1, :length], own)["amodal_masks"]
        torch.testing.assert_close(together[clip, :length], alone[0], atol=1e-5, rtol=1e-4)
    targets = targets | {k: targets[k].clone() for k in ("input", "key")}
    images[0, 5:], targets["input"][0, 5:], targets["key"][0, 5:] = 7, 1, 99
    torch.testing.assert_close(model(images, targets)["amodal_masks"], together)


@torch.no_grad()
def test_frames_of_a_clip_see_each_other_and_without_st_they_do_not():
    images, targets = a_batch((8,))
    for temporal in (True, False):
        model, logits = build(temporal=temporal, steps=1).eval(), []
        model.transformer.register_forward_hook(lambda _, args, out, own=logits: own.append(out))
        model(images, targets)
        changed = images.clone()
        changed[0, 3] = 255 - changed[0, 3]
        model(changed, targets)
        differs = (logits[0] - logits[1]).abs().amax(dim=(1, 2)) > 1e-5
        assert differs.tolist() == [temporal or t == 3 for t in range(8)]


@torch.no_grad()
def test_images_without_an_axis_of_time_are_clips_of_one_frame():
    model = build().eval()
    images, targets = a_batch((1, 1, 1), frames=1)
    clips = model(images, targets)["amodal_masks"]
    alone = {name: targets[name][:, 0] for name in ("input", "key")}
    torch.testing.assert_close(model(images[:, 0], alone)["amodal_masks"], clips[:, 0])
    image = torch.zeros(3, 40, 50, dtype=torch.uint8)
    visible = torch.zeros(40, 50)
    visible[5:20, 5:20] = 1
    assert model.complete(image, visible).shape == (40, 50)
    assert model.explain(images[:, 0], alone).steps.shape == (3, 3, 32, 32)


@torch.no_grad()
def test_the_score_is_the_sum_of_refined_and_coarse_mask():
    images, targets = a_batch()
    combined, alone = (build(combined=c).eval() for c in (True, False))
    sums, refined = (m(images, targets)["amodal_masks"] for m in (combined, alone))
    coarse = build(refinement=False).eval()
    coarse.load_state_dict(
        {k: v for k, v in alone.state_dict().items() if not k.startswith("refinement.")}
    )
    torch.testing.assert_close(sums, refined + coarse(images, targets)["amodal_masks"])


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_parameter_but_the_tokenizer_learns(variant):
    model = build(**VARIANTS[variant]).train()
    for parameter in model.encoder.parameters():
        parameter.data += 0.01
    sum(model(*a_batch((8, 5))).values()).backward()
    for name, parameter in model.named_parameters():
        own = name.startswith("tokenizer.") or not parameter.requires_grad
        assert (parameter.grad is None) == own, name
        assert own or parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("all_frames", [False, True])
def test_frames_that_do_not_count_are_not_learnt_from(all_frames):
    """Neither repeated ones nor those in which nothing is seen; as released they all are."""
    model = build(all_frames=all_frames, dropout=0).train()
    images, targets = a_batch((6, 8))
    targets["counts"][1, 2] = 0

    def losses(targets):
        torch.manual_seed(1)
        return {name: float(loss.detach()) for name, loss in model(images, targets).items()}

    before, truth = losses(targets), targets["amodal"].clone()
    truth[0, 6:] = 1 - truth[0, 6:]
    truth[1, 2] = 1 - truth[1, 2]
    after = losses(targets | {"amodal": truth})
    # Without counts every loss has them: what is masked of tokens does not depend on the truth.
    assert (before == pytest.approx(after)) != all_frames


def test_counted_frames_have_the_mean_of_their_losses():
    model = build(dropout=0).train()
    images, targets = a_batch((8,))
    targets["counts"][0, 4:] = 0
    seen = {}
    model.transformer.register_forward_hook(lambda _, args, out: seen.update(args=args, out=out))
    model.refinement.register_forward_hook(lambda _, args, out: seen.update(refined=out))
    losses = model(images, targets)
    truth = model.tokenizer.encode(targets["amodal"].flatten(0, 1).float()).flatten(1)
    masked = seen["args"][1] == 16
    share = masked.sum(dim=1)
    assert (share == share[0]).all()
    assert not (masked == masked[0]).all()
    terms = [
        -seen["out"][t, i].log_softmax(dim=0)[truth[t, i]]
        for t in range(4)
        for i in range(16)
        if masked[t, i]
    ]
    torch.testing.assert_close(losses["loss_tokens"], sum(terms) / len(terms))
    wanted = targets["amodal"][0, :4].float()
    logits = seen["refined"].amodal[:4]
    slow = torch.nn.functional.binary_cross_entropy_with_logits(logits, wanted)
    torch.testing.assert_close(losses["loss_amodal_mask"], slow)


def test_it_starts_from_the_image_model():
    """Encoder, tokenizer, refinement, embeddings and the attention within frames."""
    image = methods.build(image_tests.config(fusion="channels", layers=3), classes=2)
    model = build()
    reuse = start_from(model, CATEGORIES, checkpoint_of(image))
    ours, theirs = model.state_dict(), image.state_dict()
    fresh = {name for name in ours if ".temporal_" in name}
    assert reuse.copied == len(ours) - len(fresh)
    assert reuse.fresh == len(fresh) > 0
    assert all(torch.equal(ours[name], theirs[name]) for name in ours.keys() - fresh)


def test_a_form_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="window_places to a divisor"):
        build(window_places=3)
    for changes, message in (
        ({"window": 9}, "more frames than a clip"),
        ({"temporal": False, "temporal_embedding": True}, "no effect without temporal"),
        ({"temporal_embedding": True, "inference_frames": 20}, "knows 8 frames"),
        ({"crop": {"around": "amodal", "side": 32}}, "set crop.around to visible"),
    ):
        with pytest.raises(ValueError, match=message):
            config(**changes)
    assert config().window_frames == 4
    assert config().overlap == 2
    assert C2FSegVideoConfig().window_frames == 8


def test_the_published_transformer_has_the_released_ones_number_of_parameters():
    """83.8 million, 9.45 of them per block."""
    with torch.device("meta"):
        blocks = SpaceTimeBlocks(C2FSegVideoConfig(), ((16, 16),))
        model = MaskTransformer(C2FSegVideoConfig(), 256, 256, 2048, 256, blocks)
    own, block = (sum(p.numel() for p in m.parameters()) for m in (model, blocks[0]))
    assert round(own / 1e6, 1) == 83.8
    assert round(block / 1e6, 2) == 9.45


def test_it_learns_from_clips_and_comes_back(moving, tmp_path):
    model = methods.build(tiny_method("c2f_seg_video"), classes=2).train()
    batch = ClipBatches(moving, model.config.crop, model.config.frames, 2, 0)[0]
    losses = model(batch.images, batch.targets)
    assert all(torch.isfinite(loss) for loss in losses.values())
    loaded = restore(checkpoint_of(model))
    model.eval()
    given = {k: batch.targets[k] for k in ("input", "real")} | {"key": batch.targets["index"]}
    with torch.no_grad():
        own, other = model(batch.images, given), loaded(batch.images, given)
    assert all(torch.equal(own[k], other[k]) for k in own)
