"""The 3D U-Net over clips: what it sees, what it learns from, and that it learns to complete."""

import pytest
import torch

from amodal_pipeline import methods
from amodal_pipeline.annotations import rle
from amodal_pipeline.jobs.complete import complete_true
from amodal_pipeline.methods.configs import MaskUNetVideoConfig
from amodal_pipeline.methods.training_config import InferenceConfig
from amodal_pipeline.training.loop import train
from tests.conftest import TINY_RIVALS, tiny_method, tiny_training


def build(**changes):
    torch.manual_seed(0)
    config = MaskUNetVideoConfig.model_validate({**TINY_RIVALS["mask_unet_video"], **changes})
    return methods.build(config, classes=2)


def a_batch(lengths=(6, 4), seed=0):
    made, shape = torch.Generator().manual_seed(seed), (len(lengths), max(lengths))
    masks = torch.randint(2, (2, *shape, 32, 32), generator=made, dtype=torch.uint8)
    images = torch.randint(256, (*shape, 3, 32, 32), generator=made, dtype=torch.uint8)
    real = torch.arange(shape[1]) < torch.tensor(lengths)[:, None]
    targets = {"input": masks[0], "amodal": masks[1], "real": real, "counts": real.float()}
    return images, targets


@pytest.mark.parametrize("image", [False, True])
@torch.no_grad()
def test_what_comes_out_for_a_clip_depends_on_its_own_frames_alone(image):
    model = build(image=image).eval()
    images, targets = a_batch()
    together = model(images, targets)["amodal_masks"]
    assert together.shape == (2, 6, 32, 32)
    assert (together[1, 4:] == 0).all()
    alone = model(images[1:, :4], {"input": targets["input"][1:, :4]})["amodal_masks"]
    torch.testing.assert_close(together[1, :4], alone[0], atol=1e-5, rtol=1e-4)
    images[0, 3] = 255 - images[0, 3]
    targets["input"][0, 3] = 1 - targets["input"][0, 3]
    changed = model(images, targets)["amodal_masks"]
    differs = (changed - together).abs().amax(dim=(2, 3)) > 1e-6
    assert differs.tolist() == [[True] * 6, [False] * 6]
    images[0, 3] = 255 - images[0, 3]
    assert torch.equal(changed, model(images, targets)["amodal_masks"]) != image


def test_frames_that_do_not_count_are_not_learnt_from():
    model = build(dice=1.0).train()
    images, targets = a_batch()
    targets["counts"][0, 2] = 0
    losses = model(images, targets)
    changed = targets["amodal"].clone()
    changed[0, 2], changed[1, 4:] = 1 - changed[0, 2], 0
    after = model(images, targets | {"amodal": changed})
    assert losses.keys() == {"loss_amodal_mask", "loss_dice"}
    assert all(torch.equal(losses[name], after[name]) for name in losses)
    counted = targets["counts"] > 0
    found = model.eval()(images, targets)["amodal_masks"][counted]
    slow = torch.nn.functional.binary_cross_entropy(found, targets["amodal"][counted].float())
    torch.testing.assert_close(losses["loss_amodal_mask"], slow)
    sum(losses.values()).backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in model.parameters())


@torch.no_grad()
def test_images_without_an_axis_of_time_are_clips_of_one_frame():
    model = build(image=True).eval()
    images, targets = a_batch((1, 1))
    clips = model(images, targets)["amodal_masks"]
    alone = model(images[:, 0], {"input": targets["input"][:, 0]})["amodal_masks"]
    torch.testing.assert_close(alone, clips[:, 0])
    visible = torch.zeros(40, 50)
    visible[5:20, 5:20] = 1
    assert model.complete(torch.zeros(3, 40, 50, dtype=torch.uint8), visible).shape == (40, 50)


def test_it_learns_to_complete_what_was_seen_before(moving, tmp_path):
    config = tiny_training(
        iterations=120, batch_size=2, learning_rate=0.01, optimizer="adamw", workers=0
    )
    checkpoint = train(tiny_method("mask_unet_video"), config, moving, tmp_path)
    found = complete_true(checkpoint, moving, InferenceConfig(workers=0, device="cpu")).predictions
    truth = moving.instances.set_index("instance_id").loc[found["instance_id"]]
    hidden = ((truth["occlusion_rate"] > 0.2) & (truth["occlusion_rate"] < 1)).to_numpy(dtype=bool)
    true = truth["amodal_rle"][hidden].tolist()
    masks = rle.union(*(found[f"{kind}_rle"][hidden].tolist() for kind in ("amodal", "visible")))
    completed = rle.pair_iou(masks, true)
    visible = rle.pair_iou(found["visible_rle"][hidden].tolist(), true)
    assert completed.mean() > visible.mean() + 0.05


def test_a_form_that_does_not_fit_is_refused():
    for changes, message in (
        ({"crop": {"side": 34}}, "cannot be halved 2 times"),
        ({"image": True, "crop": {"side": 32}}, "must be the same"),
        ({"crop": {"side": 32, "around": "amodal"}}, "set crop.around to visible"),
    ):
        with pytest.raises(ValueError, match=message):
            build(**changes)
