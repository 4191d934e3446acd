"""SaVos against slow versions: translations by hand, what a frame may see and what is learnt."""

import numpy as np
import pytest
import torch

from amodal_pipeline import methods
from amodal_pipeline.jobs.complete import complete_true
from amodal_pipeline.methods.configs import SaVosConfig
from amodal_pipeline.methods.savos.method import (
    _Clip,
    _consistency,
    _photometric,
    batches,
    fused,
)
from amodal_pipeline.methods.savos.network import PATCH
from amodal_pipeline.methods.savos.warping import amodal_flow, looked_up, places, warped, within
from amodal_pipeline.methods.training_config import InferenceConfig
from amodal_pipeline.samples.clips import ClipBatches
from amodal_pipeline.samples.motion import MotionBatches
from amodal_pipeline.training.loop import train
from tests.conftest import TINY_RIVALS, tiny_method, tiny_training


def build(**changes):
    torch.manual_seed(0)
    config = SaVosConfig.model_validate({**TINY_RIVALS["savos"], **changes})
    model = methods.build(config, classes=2)
    for layer in model.modules():  # codes that matter to what comes out
        if isinstance(layer, torch.nn.Linear | torch.nn.LSTM):
            for parameter in layer.parameters():
                torch.nn.init.normal_(parameter, std=0.3)
    return model


def a_batch(lengths=(5, 5), seed=0, side=32):
    made, shape = torch.Generator().manual_seed(seed), (len(lengths), max(lengths))

    def random(*size, high=2):
        return torch.randint(high, (*shape, *size), generator=made, dtype=torch.uint8)

    steps = torch.arange(shape[1])
    real = steps < torch.tensor(lengths)[:, None]
    corner = torch.rand(*shape, 2, generator=made) * 20 + 10
    own = torch.cat([corner, corner + torch.tensor([30.0, 20.0])], dim=2)
    drawn = own + torch.tensor([0.0, 0.0, 6.0, 4.0])
    targets = {
        **{name: random(side, side) for name in ("input", "amodal", "others")},
        **{n: torch.randn(*shape, 2, side, side, generator=made) for n in ("forward", "backward")},
        "own": own,
        "windows": drawn,
        "canvas": torch.tensor([90.0, 70.0]).expand(*shape, 2),
        "time": torch.minimum(steps, torch.tensor(lengths)[:, None] - 1) + 7,
        "real": real,
        "counts": real.float(),
    }
    targets["visible"] = targets["input"]
    return random(3, side, side, high=256), targets


# A frame of 40 x 60 pixels; windows whose cells are pixels.
CANVAS = torch.tensor([[60.0, 40.0]])


def window_of(x, y, height, width):
    return torch.tensor([[x, y, x + width, y + height]], dtype=torch.float32)


@pytest.mark.parametrize("shift", [(3, -2), (-4, 5), (0, 0)])
def test_a_warp_is_a_translation_of_the_full_frame(shift):
    """By hand: the patch laid onto an empty frame, moved, and cut out at the other window."""
    dx, dy = shift
    patch = torch.rand(1, 2, 12, 16)
    frame = torch.zeros(1, 2, 40, 60)
    frame[:, :, 0:12, 20:36] = patch
    source, target, size = window_of(20, 0, 12, 16), window_of(18, 0, 14, 20), (14, 20)
    flow = torch.tensor([dx, dy], dtype=torch.float32)[None, :, None, None].expand(1, 2, *size)
    found = warped(patch, source, places(target, size), flow, CANVAS)
    slow = torch.zeros_like(found)
    for y in range(14):
        for x in range(20):
            # Beyond the frame is what is at its border.
            row, column = (min(max(v, 0), n) for v, n in ((y - dy, 39), (x + 18 - dx, 59)))
            slow[:, :, y, x] = frame[:, :, row, column]
    torch.testing.assert_close(found, slow, atol=1e-4, rtol=1e-4)
    assert slow.any() and (slow == 0).any()


def test_a_warp_between_pixels_is_interpolated():
    patch = torch.arange(20.0).expand(1, 1, 10, 20)
    window = window_of(5, 5, 10, 20)
    flow = torch.tensor([0.25, 0.0])[None, :, None, None].expand(1, 2, 10, 20)
    found = warped(patch, window, places(window, (10, 20)), flow, CANVAS)
    torch.testing.assert_close(found[0, 0, :, 2:18], patch[0, 0, :, 2:18] - 0.25)


def test_the_flow_of_the_whole_object():
    """The given one where it is visible, else the mean of that, and the change in its window."""
    window, size = window_of(10, 10, 6, 8), (6, 8)
    flow, change = torch.randn(1, 2, *size), torch.randn(1, 2, *size)
    visible = torch.zeros(1, *size)
    visible[0, 2:4, 1:6] = 1
    wider = places(window_of(8, 9, 8, 12), (8, 12))
    found = amodal_flow(flow, visible, change, window, wider)
    mean = torch.stack([flow[0, c][visible[0] > 0].mean() for c in (0, 1)])
    slow = mean[:, None, None].expand(2, 8, 12).clone()
    for y in range(6):
        for x in range(8):
            given = flow[0, :, y, x] if visible[0, y, x] else mean
            slow[:, y + 1, x + 2] = given + change[0, :, y, x]
    torch.testing.assert_close(found[0], slow, atol=1e-4, rtol=1e-4)
    nothing = amodal_flow(flow, visible * 0, change * 0, window, wider)
    assert not nothing.any()


def test_what_lies_beyond_the_objects_own_window():
    own, drawn = window_of(2, 3, 4, 5), window_of(2, 3, 8, 10)
    inside = within(own, drawn, (8, 10))[0]
    assert inside[:4, :5].all() and not inside[4:].any() and not inside[:, 5:].any()
    patch = torch.ones(1, 1, 8, 10)
    assert looked_up(patch, drawn, places(window_of(0, 0, 3, 10), (3, 10))).sum() == 0


@torch.no_grad()
def test_forward_in_time_a_frame_sees_only_the_past():
    model, (images, targets) = build(bidirectional=False).eval(), a_batch()
    said = model._predict(_Clip.of(images, targets))
    found = model(images, targets)["amodal_masks"]
    changed = targets | {name: targets[name].clone() for name in ("input", "forward")}
    images = images.clone()
    images[:, 3], changed["input"][:, 3] = 255 - images[:, 3], 1 - changed["input"][:, 3]
    changed["forward"][:, 3] += 1
    after = model._predict(_Clip.of(images, changed))
    differs = [
        (a - b).abs().amax(dim=(0, 2, 3)) > 1e-6
        for a, b in ((said.mask, after.mask), (said.prediction, after.prediction))
    ]
    assert differs[0].tolist() == [False, False, False, True, True]
    assert differs[1].tolist() == [False, False, False, False, True]
    # The first frame has its own mask, each other one what the frame before says.
    again = model(images, changed)["amodal_masks"]
    assert torch.equal(again[:, :4], found[:, :4])
    assert not torch.equal(again[:, 4], found[:, 4])


@torch.no_grad()
def test_first_and_last_frame_have_one_side_and_the_others_two():
    model, (images, targets) = build().eval(), a_batch((5, 4))
    clip = _Clip.of(images, targets)
    forward, backward = (model._predict(view) for view in (clip, clip.turned()))
    found = model(images, targets)["amodal_masks"]

    def crops(patches):
        return torch.nn.functional.interpolate(patches, (32, 32), mode="bilinear")

    for own, length in ((0, 5), (1, 4)):
        for t in range(length):
            # In its own direction frame t of L is the frame L − 1 − t.
            ahead, back = forward.prediction[own, t], backward.prediction[own, length - 1 - t]
            alphas = (
                forward.prediction_alpha[own, t],
                backward.prediction_alpha[own, length - 1 - t],
            )
            share = torch.stack(alphas).softmax(dim=0)
            slow = ahead * share[0] + back * share[1]
            slow = back if t == 0 else ahead if t == length - 1 else slow
            torch.testing.assert_close(found[own, t], crops(slow[None, None])[0, 0])
    assert not found[1, 4].any()
    assert (
        fused(
            torch.ones(2, 1, 1, 2, 2), torch.randn(2, 1, 1, 2, 2), torch.tensor([[[1]], [[0]]]) > 0
        )
        .eq(1)
        .all()
    )


@pytest.mark.parametrize("bidirectional", [True, False])
@torch.no_grad()
def test_what_comes_out_for_a_clip_depends_on_its_own_frames_alone(bidirectional):
    model, (images, targets) = build(bidirectional=bidirectional).eval(), a_batch((3, 5))
    together = model(images, targets)["amodal_masks"]
    assert together.shape == (2, 5, 32, 32)
    own = {name: values[:1, :3] for name, values in targets.items()}
    alone = model(images[:1, :3], own)["amodal_masks"]
    torch.testing.assert_close(together[0, :3], alone[0], atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_frames_that_are_not_neighbours_say_nothing_of_each_other():
    model, (images, targets) = build().eval(), a_batch((5,))
    whole = model(images, targets)["amodal_masks"]
    targets["time"] = targets["time"] + 9 * (torch.arange(5) > 2)
    cut = model(images, targets)["amodal_masks"]
    same = [torch.equal(cut[0, t], whole[0, t]) for t in range(5)]
    assert same == [True, True, False, False, True]


@pytest.mark.parametrize("supervised", [False, True])
def test_no_amodal_mask_is_learnt_from(supervised):
    model, (images, targets) = build(supervised=supervised).train(), a_batch()
    losses = model(images, targets)
    other = model(images, targets | {"amodal": 1 - targets["amodal"]})
    hidden = {name: values for name, values in targets.items() if name != "amodal"}
    assert (losses["loss_visible_mask"] == other["loss_visible_mask"]) != supervised
    if not supervised:
        without = model(images, hidden)
        assert all(losses[n] == other[n] == without[n] for n in losses)


def test_pixels_of_other_objects_are_not_learnt_from():
    model, (images, targets) = build(photometric=0).train(), a_batch()
    model.zero_grad()
    everywhere = targets | {"others": torch.ones_like(targets["others"])}
    assert model(images, everywhere)["loss_visible_mask"] == 0
    loss = model(images, targets)["loss_visible_mask"]
    turned = targets["visible"] ^ targets["others"]
    # Crops are smaller than patches here, so every cell is of one pixel.
    after = model(images, targets | {"visible": turned})["loss_visible_mask"]
    torch.testing.assert_close(loss, after)


def test_losses_are_sums_over_pixels_and_time():
    model, (images, targets) = build().train(), a_batch((5, 4))
    clip = _Clip.of(images, targets)
    said = model._predict(clip)
    moved = clip.moved(said.mask[:, :, None], said.flow)[:, :, 0]
    slow, up_to = 0.0, [0.0, 0.0]
    for t in range(4):
        for own in range(2):
            if t + 1 < (5, 4)[own]:
                a, b = moved[own, t], said.mask[own, t + 1]
                up_to[own] += 1 - (a * b).sum() / (a + b - a * b).sum()
                slow += up_to[own] / 2
    torch.testing.assert_close(_consistency(clip, said), slow)

    pixels, visible = (clip.moved(x, said.flow) for x in (clip.image, clip.mask[:, :, None]))
    parts = []
    for own in range(2):
        for t in range((5, 4)[own] - 1):
            both = (visible[own, t, 0] > 0.5) * clip.mask[own, t + 1]
            difference = (pixels[own, t] - clip.image[own, t + 1]).abs().sum(dim=0) * both
            parts.append(difference.sum() * 36 * 24 / (PATCH[0] * PATCH[1]))
    found = _photometric(clip, said, targets["counts"])
    torch.testing.assert_close(found, sum(parts) / len(parts), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("variant", [{}, {"bidirectional": False}, {"flow_for_mask": True}])
def test_every_parameter_learns(variant):
    model, (images, targets) = build(**variant).train(), a_batch()
    sum(model(images, targets).values()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


@torch.no_grad()
def test_as_released_the_mask_decoder_sees_the_flow():
    images, targets = a_batch()
    for released in (False, True):
        model, seen = build(flow_for_mask=released), []
        model.mask_encoder.register_forward_hook(lambda _, args, out, own=seen: own.append(args[0]))
        clip = _Clip.of(images, targets)
        model._predict(clip)
        given = clip.flow[:, :, 0] if released else clip.mask
        assert torch.equal(seen[0][:, 0], given.flatten(0, 1))


def test_the_published_network_has_the_released_sizes():
    model = methods.build(SaVosConfig(), classes=1)
    patches = torch.zeros(1, 6, *PATCH)
    sizes = []
    for layer in model.encoder.convolutions:
        patches = layer(patches)
        if isinstance(layer, torch.nn.Conv2d):
            sizes.append(tuple(patches.shape[2:]))
    assert sizes == [(32, 64), (16, 32), (8, 16), (4, 8), (4, 4), (1, 1)]
    assert model.mask_decoder(torch.zeros(1, 512)).shape == (1, 2, *PATCH)


def test_it_learns_from_clips_and_completes_tracks(moving, tmp_path):
    method = tiny_method("savos")
    config = tiny_training(iterations=3, optimizer="adam", learning_rate=1e-3)
    checkpoint = train(method, config, moving, tmp_path)
    found = complete_true(checkpoint, moving, InferenceConfig(workers=0, device="cpu"))
    assert found.metadata.method == "savos"
    assert found.predictions["amodal_rle"].notna().all()
    # What a clip of the whole of a short track is given is what its training is.
    batch = MotionBatches(ClipBatches(moving, method.crop, 5, 2, 0))[0]
    model = methods.build(method, classes=2).eval()
    assert model(batch.images, batch.targets)["amodal_masks"].shape == (2, 5, 32, 32)
    visible = torch.zeros(40, 50)
    visible[5:20, 5:20] = 1
    assert model.complete(torch.zeros(3, 40, 50, dtype=torch.uint8), visible).shape == (40, 50)


def test_it_learns_from_tracks_that_change_only(moving):
    """One square passes behind a pillar, the other grows."""
    training = tiny_training(batch_size=1)
    every = batches(build().config, training, moving)
    assert len(every.clips.tracks) == 5
    rules = {"iou_below": 0.6, "apart": 1, "longer_than": 3}
    chosen = batches(build(training_tracks=rules).config, training, moving)
    track = moving.instances["track_id"].to_numpy(dtype=np.int64)
    assert sorted(int(track[rows[0]]) for rows in chosen.clips.tracks) == [1, 4]
    with pytest.raises(ValueError, match=r"more than 20 frames.*training_tracks to null"):
        batches(build(training_tracks={}).config, training, moving)
