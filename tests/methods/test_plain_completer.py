"""The plain completer: its inputs, heads and losses, and that it learns hidden parts."""

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from pydantic import ValidationError

from amodal_pipeline import methods
from amodal_pipeline.annotations import Category, KnownObjects, rle
from amodal_pipeline.annotations.known_objects import true_objects
from amodal_pipeline.layers.configs import EncoderConfig
from amodal_pipeline.layers.distance import signed_distance
from amodal_pipeline.layers.encoder import Encoder, TokenEncoder, encoder_of_all_strides
from amodal_pipeline.methods.plain_completer.config import PlainCompleterConfig
from amodal_pipeline.methods.plain_completer.method import Predicted, composed, dice_loss
from amodal_pipeline.methods.pretrained import restore
from amodal_pipeline.methods.training_config import InferenceConfig
from amodal_pipeline.training.completing import complete
from amodal_pipeline.training.loop import train
from tests.conftest import TINY_PLAIN, tiny_training
from tests.tables import annotations

CPU = InferenceConfig(workers=0, device="cpu")
VIT = {
    "encoder": {"name": "test_vit", "weights": None},
    "crop": {"side": 32, "image_side": 32},
    "shared": [16, 8],
    "branch": [8, 8],
    "skips": False,
}
EVERYTHING = {
    "distance": True,
    "others": True,
    "others_dilation": 2,
    "iou_head": True,
    "prototypes": 4,
    "flip": 0.5,
}
VARIANTS = {
    "plain": {},
    "vita_seg": VIT,
    "everything": EVERYTHING,
    "everything_on_tokens": VIT | EVERYTHING | {"skips": True},
    "masks_alone": {"image": False, "mask": False, "distance": True},
    "one_head": {"heads": 1, "batch_dice": True, "prototypes": 4, "prototype_gate": "open"},
    "larger_image": {"crop": {"side": 16, "image_side": 40}, "fusion": False},
}


def build(**changes):
    torch.manual_seed(0)
    config = PlainCompleterConfig.model_validate({**TINY_PLAIN, **changes})
    return methods.build(config, classes=2)


def a_batch(model, count=4):
    draw = torch.Generator().manual_seed(1)
    crop = model.config.crop
    amodal = torch.zeros(count, crop.side, crop.side, dtype=torch.uint8)
    for mask in amodal:
        y, x = torch.randint(1, crop.side // 2, (2,), generator=draw).tolist()
        mask[y : y + crop.side // 2, x : x + crop.side // 3] = 1
    visible = amodal.clone()
    visible[:, crop.side // 2 :] = 0
    others = 1 - amodal
    shape = (count, 3, crop.image_side, crop.image_side)
    images = torch.randint(256, shape, generator=draw, dtype=torch.uint8)
    if not model.config.image:
        images = images[..., :0, :0]
    return images, {"input": visible, "visible": visible, "amodal": amodal, "others": others}


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_parameter_learns(variant):
    model = build(**VARIANTS[variant]).train()
    # What begins at zero lets nothing through.
    for parameter in model.parameters():
        parameter.data += 0.01
    losses = model(*a_batch(model))
    sum(losses.values()).backward()
    assert ("loss_iou" in losses) == model.config.iou_head
    assert ("loss_hidden_mask" in losses) == (model.config.heads == 2)
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("variant", VARIANTS)
@torch.no_grad()
def test_an_object_is_completed_alike_in_any_company(variant):
    model = build(**VARIANTS[variant])
    images, targets = a_batch(model)
    model.train()(images, targets)  # statistics other than the fresh ones
    together = model.eval()(images, targets)
    side = model.config.crop.side
    assert together["amodal_masks"].shape == (4, side, side)
    for own in ([2], [3, 0]):
        apart = model(images[own], {name: values[own] for name, values in targets.items()})
        for name, values in apart.items():
            torch.testing.assert_close(values, together[name][own], atol=1e-5, rtol=1e-4)


def test_the_hidden_mask_is_never_inside_the_visible_one():
    given = torch.zeros(2, 4, 4, dtype=torch.uint8)
    given[:, :2] = 1
    amodal = torch.full((2, 4, 4), 50.0)
    masks = composed(Predicted(amodal, amodal, None), given)
    assert torch.equal(masks["invisible_masks"] > 0.5, given == 0)
    assert (masks["amodal_masks"] > 0.5).all()


@pytest.mark.parametrize("name", ["test_efficientnet", "test_vit"])
@torch.no_grad()
def test_without_a_mask_the_widened_network_is_that_of_the_image(name):
    config = EncoderConfig(name=name, weights=None)
    torch.manual_seed(0)
    plain = encoder_of_all_strides(config, 32, 0).eval()
    torch.manual_seed(0)
    widened = encoder_of_all_strides(config, 32, 2).eval()
    images = torch.randint(256, (2, 3, 32, 32), dtype=torch.uint8)
    nothing = torch.zeros(2, 2, 32, 32)
    for own, other in zip(plain(images), widened(images, nothing), strict=True):
        torch.testing.assert_close(own, other)
    first, wide = (
        next(m for m in e.modules() if isinstance(m, torch.nn.Conv2d)).weight
        for e in (plain, widened)
    )
    assert torch.equal(wide[:, :3], first)
    assert torch.equal(wide[:, 3], first.mean(dim=1)) and torch.equal(wide[:, 3], wide[:, 4])


def test_encoders_have_all_maps_of_the_network():
    efficient, vit = (
        encoder_of_all_strides(EncoderConfig(name=n, weights=None), 32, 1)
        for n in ("test_efficientnet", "test_vit")
    )
    assert isinstance(efficient, Encoder) and efficient.strides == (2, 4, 8, 16, 32)
    assert isinstance(vit, TokenEncoder) and vit.strides == (16,) and vit.channels == [64]
    with pytest.raises(ValueError, match="take a multiple of 16"):
        TokenEncoder(EncoderConfig(name="test_vit", weights=None), 30)


def test_losses_are_those_of_a_loop():
    model = build(amodal_weight=2.0, hidden_weight=0.5)
    truth = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(0)) > 0.6
    visible = truth & (torch.arange(8)[:, None] < 4)
    amodal, hidden = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    losses = model._losses(
        Predicted(amodal, hidden, None), {"amodal": truth.byte(), "visible": visible.byte()}
    )
    for kind, logits, target, weight in (
        ("amodal", amodal, truth, 2.0),
        ("hidden", hidden, truth & ~visible, 0.5),
    ):
        entropy = F.binary_cross_entropy(logits.sigmoid(), target.float())
        dice = [
            1 - (2 * (p * t).sum() + 1) / (p.sum() + t.sum() + 1)
            for p, t in zip(logits.sigmoid(), target.float(), strict=True)
        ]
        torch.testing.assert_close(losses[f"loss_{kind}_mask"], weight * entropy)
        torch.testing.assert_close(losses[f"loss_{kind}_dice"], weight * sum(dice) / 3)
    found, target = amodal.sigmoid().flatten(), truth.float().flatten()
    over_batch = 1 - (2 * (found * target).sum() + 1) / (found.sum() + target.sum() + 1)
    torch.testing.assert_close(dice_loss(amodal, truth.float(), True), over_batch)


def test_the_network_is_given_mask_distance_and_grown_others():
    model = build(**EVERYTHING)
    _, targets = a_batch(model)
    targets["others"] = torch.zeros_like(targets["others"])
    targets["others"][:, 10, 10] = 1
    given, distance = model._given(targets)
    assert torch.equal(given[:, 0], targets["input"].float())
    assert torch.equal(given[:, 1], signed_distance(targets["input"]))
    assert torch.equal(distance, given[:, 1])
    grown = torch.zeros_like(given[:, 2])
    grown[:, 8:13, 8:13] = 1
    assert torch.equal(given[:, 2], grown)


def make_discs(root, count=24, side=64):
    """Grey discs whose right half is behind a black bar: their radius says what is hidden."""
    draw = np.random.default_rng(0)
    rows, columns = np.ogrid[:side, :side]
    amodal, bars = [], []
    for i in range(1, count + 1):
        y, x, radius = draw.integers(24, 40), draw.integers(20, 32), draw.integers(8, 16)
        disc = (rows - y) ** 2 + (columns - x) ** 2 <= radius**2
        bar = np.broadcast_to(columns >= x + draw.integers(-2, 4), disc.shape)
        pixels = np.full((side, side, 3), 220, np.uint8)
        pixels[disc], pixels[bar] = 128, 20
        Image.fromarray(pixels).save(root / f"{i}.png")
        amodal.append(disc)
        bars.append(bar)
    amodal, bars = np.stack(amodal).astype(np.uint8), np.stack(bars).astype(np.uint8)
    ids = list(range(1, count + 1))
    return annotations(
        dict.fromkeys(ids, (side, side)),
        {
            "instance_id": ids,
            "image_id": ids,
            "category_id": [1] * count,
            "amodal_rle": rle.encode(amodal),
            "visible_rle": rle.encode(amodal * (1 - bars)),
        },
        [],
        dataset="discs",
        split="train",
        categories=[Category(id=1, name="disc")],
        image_root=str(root),
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    discs = make_discs(tmp_path_factory.mktemp("discs"))
    config = PlainCompleterConfig.model_validate({**TINY_PLAIN, "iou_head": True, "flip": 0.0})
    training = tiny_training(
        iterations=100, batch_size=8, optimizer="adamw", learning_rate=0.01, checkpoint_every=100
    )
    folder = tmp_path_factory.mktemp("plain")
    return discs, restore(train(config, training, discs.subset(range(1, 17)), folder))


def test_it_learns_the_hidden_half_of_discs(trained):
    discs, model = trained
    unseen = discs.subset(range(17, 25))
    found = complete(model, true_objects(unseen), CPU, method="plain_completer").predictions
    truth = unseen.instances
    hidden, completed = (
        rle.difference(table["amodal_rle"].tolist(), truth["visible_rle"].tolist())
        for table in (truth, found)
    )
    assert rle.pair_iou(completed, hidden).mean() > 0.5


def test_one_image_in_memory_gives_the_masks_of_the_table(trained):
    discs, model = trained
    table = complete(model, true_objects(discs), CPU, method="plain_completer").predictions
    for row in (0, 5):
        image = np.array(Image.open(f"{discs.metadata.image_root}/{row + 1}.png"))
        visible = rle.decode([discs.instances["visible_rle"][row]], (64, 64))[0]
        own = model.complete(image, visible, raw=True)
        assert rle.encode(own[None])[0] == table["amodal_rle"][row]


def test_scores_of_detections_are_multiplied_by_the_estimated_iou(trained):
    discs, model = trained
    true = true_objects(discs)
    found = complete(model, true, CPU, method="plain_completer").predictions
    assert (found["score"] == 1).all()
    made = true.table.metadata.model_copy(update={"method": "theirs", "inputs": "image"})
    columns = true.table.predictions.assign(instance_id=None, score=0.5)
    detections = dataclasses.replace(true.table, metadata=made, predictions=columns)
    rescored = complete(model, KnownObjects.of(detections), CPU, method="plain_completer")
    scores = rescored.predictions["score"].to_numpy(dtype=float)
    assert (scores > 0).all() and (scores < 0.5).all() and len(set(scores.round(4))) > 1
    assert rescored.predictions["amodal_rle"].tolist() == found["amodal_rle"].tolist()


def test_without_an_image_no_file_is_read(trained):
    discs, _ = trained
    elsewhere = dataclasses.replace(
        discs, metadata=discs.metadata.model_copy(update={"image_root": "nowhere"})
    )
    model = build(image=False, others=True, flip=0.5)
    batch = methods.make_batches(model.config, tiny_training(batch_size=4), elsewhere)[0]
    assert all(torch.isfinite(v) for v in model.train()(batch.images, batch.targets).values())
    found = complete(model.eval(), true_objects(elsewhere), CPU, method="plain_completer")
    assert len(found.predictions) == len(discs.instances)


def test_forms_that_do_not_fit_are_refused():
    for changes, message in (
        ({"image": False, "mask": False}, "has no input"),
        ({"others_dilation": 2}, "no effect without others"),
        ({"shared": []}, "has no stage"),
    ):
        with pytest.raises(ValidationError, match=message):
            build(**changes)
    with pytest.raises(ValueError, match="leave out some"):
        build(branch=[4] * 5)
