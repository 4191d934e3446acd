"""PCNet-M: its crops, samples and network, order by dual completion, and what it learns."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from amodal_pipeline import methods
from amodal_pipeline.annotations import KnownObjects, rle
from amodal_pipeline.annotations.known_objects import true_objects
from amodal_pipeline.annotations.tables import INSTANCES, boxes, frame
from amodal_pipeline.jobs.complete import complete_true
from amodal_pipeline.layers.crops import crop_masks, windows
from amodal_pipeline.methods import completer
from amodal_pipeline.methods.baselines import convex_hull, convex_hull_in_order
from amodal_pipeline.methods.pcnet_m.config import PCNetMConfig
from amodal_pipeline.methods.training_config import InferenceConfig
from amodal_pipeline.samples import erasers
from amodal_pipeline.samples.erasers import EraserBatches
from amodal_pipeline.training import loop
from amodal_pipeline.training.completing import complete
from tests.conftest import TINY_RIVALS, tiny_method, tiny_training
from tests.tables import annotations

CPU = InferenceConfig(workers=0, device="cpu")
SIZE = (64, 80)
TINY = TINY_RIVALS["pcnet_m"]


def config(**changes):
    return PCNetMConfig.model_validate({**TINY, **changes})


def build(**changes):
    torch.manual_seed(0)
    return methods.build(config(**changes), classes=2)


def drawn(*layers, ids=None):
    """Return annotations of rectangles (top, bottom, left, right), the nearest one first."""
    amodal = np.zeros((len(layers), *SIZE), np.uint8)
    for mask, (top, bottom, left, right) in zip(amodal, layers, strict=True):
        mask[top:bottom, left:right] = 1
    covered = np.cumsum(amodal, axis=0) - amodal > 0
    return as_table(amodal, amodal * ~covered)


def as_table(amodal, visible, pairs=()):
    columns = {
        "image_id": [1] * len(amodal),
        "amodal_rle": rle.encode(amodal),
        "visible_rle": rle.encode(visible),
    }
    return annotations({1: SIZE}, columns, pairs)


class Network(nn.Module):
    """Gives logits as a function of the planes does, in place of a network."""

    def __init__(self, logits):
        super().__init__()
        self.forward = logits


class Ideal(nn.Module):
    """Completes each object to its true amodal mask, as far as that is visible or in front."""

    def __init__(self, truth, **changes):
        super().__init__()
        fine = {**TINY["crop"], "side": 128, "image_side": 128}
        self.config = config(**{"crop": fine, **changes})
        self.truth, self.calls = truth.instances.set_index("instance_id"), 0
        self.weight = nn.Parameter(torch.zeros(1))

    def _whole(self, targets):
        rows = self.truth.loc[targets["key"].tolist()]
        seen = windows(rle.box(rows["visible_rle"].tolist(), SIZE), SIZE, self.config.crop)
        side = self.config.crop.side
        return torch.from_numpy(crop_masks(rows["amodal_rle"].tolist(), seen, SIZE, side))

    def gains(self, images, targets):
        self.calls += len(targets["key"])
        eraser, given = targets["in_front"].bool(), targets["input"].bool()
        return {"gains": (self._whole(targets) & eraser & ~given).float().mean(dim=(1, 2))}

    def forward(self, images, targets):
        known = targets["input"].bool() | targets["in_front"].bool()
        return {"amodal_masks": (self._whole(targets) & known).float()}


def completed(truth, objects=None, size=32, **changes):
    model = Ideal(truth, **changes)
    known = true_objects(truth) if objects is None else objects
    settings = CPU.model_copy(update={"objects_per_batch": size})
    return model, complete(model, known, settings, method="pcnet_m")


def order_of(found):
    return sorted(zip(found.order["front_id"], found.order["back_id"], strict=True))


def ious(found, truth):
    rows = truth.instances.set_index("instance_id").loc[found.predictions["instance_id"]]
    return rle.pair_iou(found.predictions["amodal_rle"].tolist(), rows["amodal_rle"].tolist())


# C is behind B, and A, which lies within B and touches no pixel of C, hides some of it, too.
ROW = ((12, 28, 32, 50), (4, 40, 30, 60), (10, 30, 10, 36))


def test_what_is_in_front_of_an_occluder_is_an_occluder():
    truth = drawn(*ROW)
    model, found = completed(truth)
    assert order_of(found) == [(1, 2), (2, 3)] and model.calls == 4
    assert (found.order["score"] == 1).all() and set(found.order["source"]) == {"pcnet_m"}
    assert ious(found, truth).min() > 0.97
    # Neighbours without an order complete as much here, and have no order.
    _, beside = completed(truth, order="none")
    assert len(beside.order) == 0 and ious(beside, truth)[1] > 0.97
    assert ious(beside, truth)[2] < 0.9  # A is no neighbour of C
    # By the order that is stated: (A, C) alone says nothing of B.
    stated = as_table(
        *(rle.decode(truth.instances[f"{k}_rle"].tolist(), SIZE) for k in ("amodal", "visible")),
        pairs=[(1, 1, 3)],
    )
    model, told = completed(stated, order="true")
    assert model.calls == 0 and len(told.order) == 0
    assert ious(told, stated)[2] < 0.9
    with pytest.raises(ValueError, match="have no order"):
        completed(truth, order="true")


def test_a_ring_of_three_ends_and_leaves_nobody_out():
    amodal, visible = np.zeros((2, 3, *SIZE), np.uint8)
    amodal[0, 10:20, 10:60], amodal[1, 10:50, 10:20] = 1, 1  # a triangle of three bars
    amodal[2] = np.tri(*SIZE, k=5) - np.tri(*SIZE, k=-8)
    amodal[2, :12] = amodal[2, 50:] = 0
    front, back = [0, 1, 2], [1, 2, 0]
    visible[:] = amodal
    for i, j in zip(front, back, strict=True):
        visible[j] &= 1 - amodal[i]
    amodal[:, visible.sum(0) == 0] &= 0
    truth = as_table(amodal, visible)
    _, found = completed(truth, order="own")
    assert set(order_of(found)) <= {(1, 2), (2, 3), (3, 1)}
    assert ious(found, truth).min() > 0.9


@pytest.mark.parametrize("size", [1, 3, 100])
def test_completion_and_order_do_not_depend_on_the_batch(size, shapes, trained):
    model = methods.build(trained.card.method.root, 2)
    model.load_state_dict(trained.weights)
    expected = complete(model, true_objects(shapes), CPU, method="pcnet_m")
    assert len(expected.order) > 4
    rows = np.random.default_rng(size).permutation(len(shapes.instances))
    mixed = true_objects(shapes).table
    mixed = dataclasses.replace(mixed, predictions=mixed.predictions.iloc[rows])
    settings = CPU.model_copy(update={"objects_per_batch": size, "workers": size % 2})
    found = complete(model, KnownObjects.of(mixed), settings, method="pcnet_m")
    assert order_of(found) == order_of(expected)
    again = found.predictions.sort_values("prediction_id")["amodal_rle"].tolist()
    assert again == expected.predictions["amodal_rle"].tolist()
    # The same for the objects of one image, in memory.
    first = shapes.instances[shapes.instances["image_id"] == 1]
    masks = rle.decode(first["visible_rle"].tolist(), (64, 64))
    image = np.zeros((64, 64, 3), np.uint8)
    whole = completer.complete(model.eval(), image, masks, raw=True)
    table = expected.predictions
    own = table[table["image_id"] == 1]["amodal_rle"].tolist()
    assert rle.encode(whole) == own


def test_of_two_detections_of_one_object_neither_is_in_front():
    truth = drawn((10, 40, 10, 40), (20, 50, 30, 70))
    table = truth.instances
    visible = rle.decode(table["visible_rle"].tolist(), SIZE)
    visible[1, 12:44, 12:42] |= 1  # most of the first one, too
    objects = true_objects(truth).with_columns(visible_rle=rle.encode(visible))
    assert completed(truth, objects)[0].calls == 0
    assert completed(truth, objects, most_shared=1.0)[0].calls == 2
    unsure = true_objects(truth).with_columns(score=np.array([0.9, 0.4]))
    assert completed(truth, unsure)[0].calls == 0
    assert completed(truth, unsure, score_threshold=0.3)[0].calls == 2
    # A user's masks have no score, and are certain.
    assert completed(truth, true_objects(truth).with_columns(score=[np.nan] * 2))[0].calls == 2


def test_hulls_end_where_nothing_is_in_front():
    truth = drawn(*ROW)
    _, found = completed(truth)
    hulls = rle.decode(convex_hull(found).predictions["amodal_rle"].tolist(), SIZE)
    seen = rle.decode(truth.instances["visible_rle"].tolist(), SIZE)
    cut = convex_hull_in_order(found)
    ahead = np.stack([seen[:0].any(0), seen[0] > 0, seen[:2].any(0)])
    expected = hulls * (seen.astype(bool) | ahead)
    assert cut.predictions["amodal_rle"].tolist() == rle.encode(expected)
    made = cut.metadata
    assert (made.method, made.inputs) == ("convex_hull_in_order", "true") and len(cut.order) == 0
    with pytest.raises(ValueError, match="have no order"):
        convex_hull_in_order(dataclasses.replace(found, order=found.order.iloc[:0]))


def batches(truth, behind=0.2, seed=3, **options):
    return EraserBatches(truth, config().crop, 8, seed, behind=behind, **options)


def test_a_sample_is_an_object_cut_by_another(shapes):
    found = batches(shapes, behind=0.0)
    cut = []
    for i in range(12):
        targets = found[i].targets
        visible, eraser, given = (targets[k].bool() for k in ("visible", "in_front", "input"))
        assert targets["input"].dtype == torch.uint8 and given.shape == (8, 32, 32)
        assert torch.equal(given, visible & ~eraser)
        cut += (1 - given.sum((1, 2)) / visible.sum((1, 2))).tolist()
    cut = np.array(cut)
    assert ((cut >= 0.001) & (cut < 0.9)).mean() > 0.95
    assert cut.std() > 0.15  # of all sizes
    for i in range(4):
        targets = batches(shapes, behind=1.0)[i].targets
        assert torch.equal(targets["input"], targets["visible"])
        assert not (targets["in_front"] & targets["visible"]).any()
    some = [batches(shapes)[i].targets for i in range(40)]
    whole = [(t["input"] == t["visible"]).flatten(1).all(dim=1) for t in some]
    share = torch.cat(whole).float().mean()
    assert 0.1 < share < 0.3


def test_samples_depend_on_seed_and_iteration_and_on_visible_masks_alone(shapes):
    loaded = list(loop._loader(batches(shapes), 2, tiny_training(workers=2)))
    nothing = rle.encode(np.ones((1, 64, 64), np.uint8)) * len(shapes.instances)
    columns = {name: shapes.instances[name] for name in shapes.instances.columns}
    blind = frame(
        INSTANCES, {**columns, "amodal_rle": nothing, "amodal_box": np.full((16, 4), np.nan)}
    )
    blind = dataclasses.replace(shapes, instances=blind)
    for i, batch in enumerate(loaded, start=2):
        again = batches(blind)[i].targets
        assert all(torch.equal(again[name], batch.targets[name]) for name in again)
    other = batches(shapes, seed=4)[2].targets
    assert not torch.equal(other["in_front"], loaded[0].targets["in_front"])


def test_masks_are_moved_by_whole_pixels():
    mask = np.random.default_rng(0).random((7, 7)) < 0.5
    for right in range(-7, 8):
        for down in range(-7, 8):
            wide = np.zeros((30, 30), bool)
            wide[11 + down : 18 + down, 11 + right : 18 + right] = mask
            moved = erasers.shifted(mask, right, down)
            assert np.array_equal(moved, wide[11:18, 11:18])


def test_images_are_shown_as_masks_are(shapes):
    batch = EraserBatches(shapes, config().crop, 16, 0, behind=0.0, with_images=True)[0]
    red = batch.images[:, 0].int() - batch.images[:, 2].int()
    masks, labels = batch.targets["visible"], batch.targets["labels"]
    for image, mask, label in zip(red, masks, labels, strict=True):
        inside = -nn.functional.max_pool2d(-mask[None].float(), 3, 1, 1)[0] > 0
        assert ((image[inside] > 0) == (label == 1)).all() and inside.any()


def test_windows_are_square_by_area_and_end_nowhere():
    crop = config().crop
    around = np.array([[0.0, 0, 10, 10], [60, 2, 20, 4], [5, 5, 30, 20]])
    found = windows(around, SIZE, crop)
    for (x, y, w, h), (x1, y1, x2, y2) in zip(around, found, strict=True):
        side = max((3 * w * h) ** 0.5, 1.1 * w, 1.1 * h)
        expected = (x + w / 2 - side / 2, y + h / 2 - side / 2, side, side)
        assert np.allclose((x1, y1, x2 - x1, y2 - y1), expected)
    assert found[0, 0] < 0 and found[1, 2] > SIZE[1]


@pytest.mark.parametrize("image", [False, True])
def test_every_parameter_learns_and_errors_within_the_eraser_weigh_more(image, shapes):
    model = build(image=image).train()
    batch = batches(shapes, with_images=image)[0]
    loss = model(batch.images, batch.targets)["loss_mask"]
    loss.backward()
    lazy = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum()]
    # A bias before batch normalisation changes nothing.
    assert all(name.endswith(("0.bias", "3.bias")) for name in lazy)
    targets = batch.targets
    planes = [targets["input"], targets["in_front"]]
    planes = torch.stack(planes, dim=1).float()
    if image:
        seen = batch.images / 255 * (1 - targets["in_front"][:, None])
        planes = torch.cat([planes, seen], dim=1)
    chance = model.network(planes).softmax(1)
    right = torch.where(targets["visible"] > 0, chance[:, 1], chance[:, 0])
    slow = -(right.log() * (1 + 4 * targets["in_front"])).sum() / (8 * 32 * 32)
    torch.testing.assert_close(loss, slow)


def test_an_ideal_network_grows_only_where_its_object_is_hidden(shapes):
    model = build(crop={**TINY["crop"], "enlarge": 1.1}).eval()
    for behind in (0.0, 1.0):
        batch = batches(shapes, behind=behind)[0]
        whole = batch.targets["visible"].float() * 20 - 10
        model.network = Network(lambda _, whole=whole: torch.stack([-whole, whole], dim=1))
        hidden = (batch.targets["visible"] & ~batch.targets["input"].bool()).float()
        gains = model.gains(batch.images, batch.targets)["gains"]
        assert torch.equal(gains, hidden.mean(dim=(1, 2)))
        assert gains.any() != behind


def test_what_is_kept_of_the_input():
    given, eraser, grown = torch.zeros(3, 1, 32, 32, dtype=torch.uint8)
    given[:, 4:20, 4:20], eraser[:, 4:20, 16:28] = 1, 1
    grown[:, 8:24, 8:24] = 1
    targets = {"input": given, "in_front": eraser}
    for keep, expected in {
        "none": grown,
        "visible": grown | given,
        "eraser": given | (grown & eraser),
    }.items():
        model = build(keep=keep).eval()
        logits = torch.stack([10.0 - 20 * grown, 20.0 * grown - 10], dim=1)
        model.network = Network(lambda _, logits=logits: logits)
        found = model(None, targets)["amodal_masks"]
        assert torch.allclose(found, expected.float(), atol=1e-6)
        # What is as probable as the threshold is on the edge of the mask.
        at = torch.logit(torch.full((1, 32, 32), model.config.amodal_threshold)) / 2
        logits = torch.stack([-at, at], dim=1)
        model.network = Network(lambda _, logits=logits: logits)
        edge = model(None, {**targets, "input": given * 0, "in_front": eraser | 1})
        assert torch.allclose(edge["amodal_masks"], torch.tensor(0.5))
    seen = []
    model = build(dilation=2, use_category=True).eval()
    model.network = Network(lambda planes: seen.append(planes) or torch.zeros(1, 2, 32, 32))
    model(None, {**targets, "labels": torch.tensor([7])})
    assert seen[0][0, 1].nonzero().min(0).values.tolist() == [2, 14]
    assert seen[0][0, 0].unique().tolist() == [0, 7]
    assert seen[0][0, 0].nonzero().max(0).values.tolist() == [19, 13]
    with pytest.raises(ValueError, match="needs the categories of objects"):
        model(None, targets)


@pytest.fixture(scope="module")
def trained(shapes, tmp_path_factory):
    """A network that has seen visible masks only, of a table that says so."""
    table = shapes.instances
    columns = {name: table[name] for name in table.columns}
    columns |= {"amodal_rle": table["visible_rle"], "amodal_box": boxes(table["visible_box"])}
    modal = dataclasses.replace(
        shapes,
        metadata=shapes.metadata.model_copy(update={"modal": True, "image_root": "/nowhere"}),
        instances=frame(INSTANCES, columns),
        order=shapes.order.iloc[:0],
    )
    settings = tiny_training(
        iterations=100, batch_size=8, learning_rate=0.01, optimizer="adamw", checkpoint_every=100
    )
    return loop.train(tiny_method("pcnet_m"), settings, modal, tmp_path_factory.mktemp("pcnet_m"))


def test_visible_masks_teach_it_what_is_hidden_and_who_hides(shapes, trained):
    found = complete_true(trained, shapes, CPU)
    right = set(zip(shapes.order["occluder_id"], shapes.order["occludee_id"], strict=True))
    assert len(right & set(order_of(found))) >= 7  # of 8
    behind = (shapes.instances["occlusion_rate"] > 0).to_numpy()
    before = rle.pair_iou(
        *(shapes.instances[f"{kind}_rle"].tolist() for kind in ("visible", "amodal"))
    )
    assert ious(found, shapes)[behind].mean() > before[behind].mean() + 0.1


def test_a_form_that_does_not_fit_is_refused():
    for changes, message in (
        ({"crop": {"side": 40}}, "cannot be halved 4 times"),
        ({"image": True, "crop": {"side": 32}}, "must be the same"),
        ({"crop": {"side": 32, "around": "amodal"}}, "set crop.around to visible"),
        ({"width": 0.3}, "whole channels"),
    ):
        with pytest.raises(ValueError, match=message):
            build(**changes)
