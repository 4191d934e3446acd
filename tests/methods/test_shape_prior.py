from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.ops import roi_align

from amodal_pipeline.annotations import Predictions, PredictionsMetadata, rle
from amodal_pipeline.annotations.tables import (
    IMAGES,
    INSTANCES,
    PREDICTION_ORDER,
    PREDICTIONS,
    boxes,
    frame,
)
from amodal_pipeline.methods.checkpoints import Checkpoint
from amodal_pipeline.methods.configs import ShapePriorConfig, VRSPConfig
from amodal_pipeline.methods.pretrained import restore
from amodal_pipeline.methods.training_config import TrainingConfig
from amodal_pipeline.methods.vrsp import learning
from amodal_pipeline.methods.vrsp.auto_encoder import SIDE, AutoEncoder, turned
from amodal_pipeline.methods.vrsp.codebook import Codebook, ShapePrior, build_codebook
from amodal_pipeline.methods.vrsp.learning import (
    LearntShapePrior,
    ShapeBatches,
    Shapes,
    describe,
    predicted_shapes,
    true_shapes,
)
from amodal_pipeline.training import loop
from tests.conftest import tiny_training

TINY = ShapePriorConfig(clusters=4)
RECIPE = dict(ShapePriorConfig.DESCRIPTION.recipe)
SHORT = TrainingConfig(
    **RECIPE | {"iterations": 20, "batch_size": 8}, workers=0, checkpoint_every=10
)


def fit(masks, config=TINY, iterations=20, batch_size=8) -> AutoEncoder:
    """An auto-encoder that has seen so many batches of the masks."""
    torch.manual_seed(0)
    model = LearntShapePrior(config, 1)
    shapes = Shapes(masks, np.zeros(len(masks), np.int64), np.full(len(masks), "a.png", object))
    batches = ShapeBatches(shapes, config, batch_size, 0)
    optimizer = torch.optim.Adam(model.network.auto_encoder.parameters(), 0.01)
    for iteration in range(iterations):
        for group in optimizer.param_groups:
            group["lr"] = 0.005 * (1 + np.cos(np.pi * iteration / iterations))
        loss = model(batches[iteration].images, {})["loss_reconstruction"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.network.auto_encoder.eval().requires_grad_(False)


def learn(annotations, folder, config=TINY, training=SHORT, **options) -> Checkpoint:
    return loop.train(config, training, annotations, folder, **options)


def prior_in(checkpoint: Checkpoint) -> ShapePrior:
    return restore(checkpoint).network


@pytest.fixture(scope="module")
def learnt(shapes, tmp_path_factory):
    return learn(shapes, tmp_path_factory.mktemp("prior"))


def some_masks(count, seed=0) -> torch.Tensor:
    """Ellipses within their boxes, bool [count, 28, 28]: no two alike."""
    draw = np.random.default_rng(seed)
    y, x = np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2
    angle, long, wide = draw.random(count) * np.pi, 14.0, draw.uniform(4, 13, count)
    c, s = np.cos(angle)[:, None, None], np.sin(angle)[:, None, None]
    inside = ((c * x + s * y) / long) ** 2 + ((c * y - s * x) / wide[:, None, None]) ** 2 < 1
    return torch.from_numpy(inside)


def prior_of(counts, clusters, convolutions=3, seed=0) -> ShapePrior:
    """A shape prior with random entries."""
    torch.manual_seed(seed)
    config = ShapePriorConfig(convolutions=convolutions, clusters=clusters)
    model = AutoEncoder(convolutions, 8)
    count = torch.tensor(counts)
    codes = torch.rand(len(counts), clusters, model.code_size)
    there = torch.arange(clusters) < count[:, None]
    prior = ShapePrior(config, len(counts))
    prior.auto_encoder.load_state_dict(model.state_dict())
    prior.take(Codebook(codes * there[..., None], count, there.long()))
    return prior.eval()


def slowly_nearest(prior, masks, category, k):
    """One mask and one entry at a time."""
    shapes, distances = [], []
    for mask, c in zip(masks, category.tolist(), strict=True):
        own = prior.auto_encoder.encode(mask[None])[0]
        entries = prior.codes[c, : prior.count[c]]
        found = sorted((float((entry - own).square().sum()), i) for i, entry in enumerate(entries))
        ranked = [found[i % len(found)] for i in range(k)] if found else [(0.0, None)] * k
        distances.append([d for d, _ in ranked])
        shapes.append(
            torch.stack(
                [
                    mask if i is None else prior.auto_encoder.decode(entries[i, None])[0]
                    for _, i in ranked
                ]
            )
        )
    return torch.stack(shapes), torch.tensor(distances)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 40), st.integers(1, 12), st.integers(0, 1000), st.sampled_from([2, 3]))
def test_retrieval_agrees_with_a_loop(count, k, seed, convolutions):
    prior = prior_of([9, 0, 1, 3, 9], 9, convolutions, seed)
    draw = torch.Generator().manual_seed(seed)
    masks = torch.rand(count, SIDE, SIDE, generator=draw)
    category = torch.randint(5, (count,), generator=draw)
    found = prior.nearest(masks, category, k)
    shapes, distances = slowly_nearest(prior, masks, category, k)
    assert found.known.tolist() == (category != 1).tolist()
    torch.testing.assert_close(found.distance, distances, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.masks, shapes, rtol=1e-4, atol=1e-5)


def test_a_category_without_enough_entries_repeats_them_in_turn():
    prior = prior_of([3, 0], 8)
    found = prior.nearest(some_masks(1).float(), torch.tensor([0]), 16)
    assert (found.distance[0].diff()[:2] >= 0).all()
    for rank in range(3, 16):
        assert found.distance[0, rank] == found.distance[0, rank % 3]
        assert torch.equal(found.masks[0, rank], found.masks[0, rank % 3])


def test_a_category_without_entries_gives_the_mask_itself():
    masks = torch.rand(2, SIDE, SIDE)
    found = prior_of([3, 0], 8).nearest(masks, torch.tensor([1, 1]), 5)
    assert not found.known.any() and (found.distance == 0).all()
    assert torch.equal(found.masks, masks[:, None].expand(2, 5, SIDE, SIDE))


def test_retrieval_of_nothing_and_without_gradients():
    prior = prior_of([3, 2], 4)
    none = prior.nearest(torch.zeros(0, SIDE, SIDE), torch.zeros(0, dtype=torch.int64), 2)
    assert none.masks.shape == (0, 2, SIDE, SIDE) and none.distance.shape == (0, 2)
    masks = torch.rand(1, SIDE, SIDE, requires_grad=True)
    assert not prior.nearest(masks, torch.tensor([0]), 2).masks.requires_grad
    assert not any(p.requires_grad for p in prior.parameters())


@pytest.mark.parametrize(("convolutions", "size", "weights"), [(3, 128, 3073), (2, 392, 1905)])
def test_the_form_of_the_auto_encoder_is_the_released_one(convolutions, size, weights):
    model = AutoEncoder(convolutions, 8)
    codes = model.encode(torch.rand(5, SIDE, SIDE))
    assert codes.shape == (5, size) and model.code_size == size
    assert model.decode(codes).shape == (5, SIDE, SIDE)
    assert sum(p.numel() for p in model.parameters()) == weights


@pytest.mark.parametrize("convolutions", [2, 3])
def test_the_auto_encoder_learns_a_few_masks_by_heart(convolutions):
    masks = some_masks(4)
    config = ShapePriorConfig(convolutions=convolutions)
    back = fit(masks, config, iterations=300, batch_size=4)(masks.float()) > 0.5
    assert ((back & masks).sum((1, 2)) / (back | masks).sum((1, 2)) > 0.95).all()


def test_a_turned_auto_encoder_learns_shapes_it_was_not_shown(monkeypatch):
    ways = []
    monkeypatch.setattr(
        learning, "turned", lambda masks, way: ways.append(way) or turned(masks, way)
    )
    mask = torch.zeros(1, SIDE, SIDE, dtype=torch.bool)
    mask[0, :, :9] = True  # a bar at the left
    lying = {}
    for way in (False, True):
        model = fit(mask, ShapePriorConfig(turned=way), iterations=200, batch_size=1)
        back = model(mask.mT.float()) > 0.5
        lying[way] = ((back & mask.mT).sum() / (back | mask.mT).sum()).item()
    assert set(ways) == set(range(8))
    assert lying[True] > 0.8 > lying[False]


def test_turning_gives_eight_different_masks():
    mask = torch.zeros(1, SIDE, SIDE, dtype=torch.bool)
    mask[0, 2, 9] = True
    places = {tuple(turned(mask, way)[0].nonzero()[0].tolist()) for way in range(8)}
    assert len(places) == 8


def test_a_codebook_keeps_few_masks_and_clusters_many():
    model = fit(some_masks(8), TINY)
    few, many = some_masks(3, seed=1), some_masks(30, seed=2)
    masks = torch.cat([few, few[:2], many])
    category = np.repeat([0, 2], [5, 30])
    codebook = build_codebook(model, masks, category, 3, TINY, 0)
    assert codebook.count.tolist() == [3, 0, 4]
    # Duplicates are one entry; entries with most masks come first.
    assert codebook.members[0].tolist() == [2, 2, 1, 0]
    kept = {tuple(row) for row in codebook.codes[0, :3].tolist()}
    assert kept == {tuple(row) for row in model.encode(few.float()).tolist()}
    assert int(codebook.members[2].sum()) == 30
    assert (codebook.members[2].diff() <= 0).all()
    assert (codebook.codes[1] == 0).all() and (codebook.codes[0, 3] == 0).all()


def test_a_codebook_of_turned_masks_has_them_all():
    config = TINY.model_copy(update={"turned": True, "clusters": 8})
    model = fit(some_masks(8), config)
    mask = some_masks(1)
    mask[0, :9, :20] = False
    codebook = build_codebook(model, mask, np.zeros(1, np.int64), 1, config, 0)
    assert codebook.count.tolist() == [8]


def test_centres_lie_among_their_masks():
    """Mini-batch K-means ends near the means of its clusters, not on them."""
    model = fit(some_masks(8), TINY)
    masks = some_masks(60, seed=3)
    codebook = build_codebook(model, masks, np.zeros(60, np.int64), 1, TINY, 0)
    own = model.encode(masks.float())
    apart = torch.cdist(own, codebook.codes[0])
    nearest = apart.argmin(1)
    assert sorted(nearest.bincount().tolist()) == sorted(codebook.members[0].tolist())
    to_mean = (own - own.mean(0)).square().sum()
    assert apart.min(1).values.square().sum() < 0.7 * to_mean
    for entry, centre in enumerate(codebook.codes[0]):
        members = own[nearest == entry]
        spread = (members - members.mean(0)).square().sum(1).mean().sqrt()
        assert (centre - members.mean(0)).norm() < 0.5 * spread


def test_a_codebook_is_the_same_bits_every_time():
    masks, nothing = some_masks(60, seed=3), np.zeros(60, np.int64)
    first, second = (build_codebook(fit(masks), masks, nothing, 1, TINY, 0) for _ in range(2))
    assert torch.equal(first.codes, second.codes) and torch.equal(first.members, second.members)


def test_learning_twice_gives_the_same_bits(shapes, learnt, tmp_path):
    again = learn(shapes, tmp_path / "again")
    assert again.card == learnt.card
    assert again.weights.keys() == learnt.weights.keys()
    assert all(torch.equal(again.weights[k], learnt.weights[k]) for k in again.weights)
    other = learn(shapes, tmp_path / "other", training=SHORT.model_copy(update={"seed": 1}))
    assert not torch.equal(other.weights["network.codes"], learnt.weights["network.codes"])


def test_a_training_killed_before_the_codebook_makes_it_from_its_state(
    shapes, learnt, tmp_path, monkeypatch
):
    monkeypatch.setattr(LearntShapePrior, "finish", lambda *_: (_ for _ in ()).throw(SystemExit))
    with pytest.raises(SystemExit):
        learn(shapes, tmp_path)
    assert (tmp_path / "state-000000020").is_dir()
    monkeypatch.undo()
    found = learn(shapes, tmp_path)
    assert all(torch.equal(found.weights[k], learnt.weights[k]) for k in found.weights)
    assert prior_in(found).count.tolist() == [1, 1]


def test_every_mask_comes_before_any_comes_again():
    masks = some_masks(10)
    shapes = Shapes(masks, np.zeros(10, np.int64), np.arange(10).astype(str).astype(object))
    batches = ShapeBatches(shapes, TINY, 4, 3)
    names = [name for i in range(5) for name in batches[i].names]
    assert sorted(names[:10]) == sorted(names[10:]) == sorted(shapes.names)
    assert all(
        torch.equal(mask > 0.5, masks[int(name)])
        for i in range(5)
        for mask, name in zip(batches[i].images, batches[i].names, strict=True)
    )


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 90), st.integers(1, 90), st.booleans(), st.integers(0, 10_000))
def test_crops_agree_with_roi_align(height, width, tight, seed):
    draw = np.random.default_rng(seed)
    coarse = draw.random((3, -(-height // 6), -(-width // 6))) < 0.5
    masks = coarse.repeat(6, 1).repeat(6, 2)[:, :height, :width]
    masks[:, height // 2, width // 2] = True
    counts = rle.encode(masks)
    box = rle.box(counts, (height, width)).astype(np.float64)
    if not tight:  # as predicted boxes are, and over the rim of the image too
        box += draw.uniform(-3, 3, box.shape)
        box[:, 2:] = np.abs(box[:, 2:]) + 0.5
    rois = np.concatenate([np.arange(3)[:, None], box[:, :2], box[:, :2] + box[:, 2:]], axis=1)
    shares = roi_align(
        torch.from_numpy(masks)[:, None].double(), torch.from_numpy(rois), SIDE, aligned=True
    )[:, 0].numpy()
    found = rle.crop(counts, box, (height, width), SIDE)
    assert ((found == (shares >= 0.5)) | (np.abs(shares - 0.5) < 1e-6)).all()


def test_true_shapes_are_crops_of_the_true_masks(shapes):
    found = true_shapes(shapes)
    truth = rle.decode(shapes.instances["amodal_rle"].tolist(), (64, 64))
    box = torch.from_numpy(boxes(shapes.instances["amodal_box"]))
    rois = torch.cat([torch.arange(len(box))[:, None], box[:, :2], box[:, :2] + box[:, 2:]], 1)
    masks = torch.from_numpy(truth)[:, None].float()
    expected = roi_align(masks, rois.float(), SIDE, aligned=True)[:, 0] >= 0.5
    assert torch.equal(found.masks, expected)
    assert (found.category + 1).tolist() == shapes.instances["category_id"].tolist()


def test_no_objects_is_said(shapes, tmp_path):
    instances = {n: shapes.instances[n] for n in shapes.instances}
    instances["ignore"] = np.ones(len(shapes.instances), bool)
    ignored = replace(shapes, instances=frame(INSTANCES, instances))
    with pytest.raises(ValueError, match="no mask to learn"):
        learn(ignored, tmp_path)


def test_categories_are_positions_whatever_their_ids(shapes):
    categories = tuple(
        category.model_copy(update={"id": i})
        for category, i in zip(shapes.metadata.categories, (70, 20), strict=True)
    )
    columns = {name: shapes.instances[name] for name in shapes.instances}
    columns["category_id"] = np.where(columns["category_id"] == 1, 70, 20)
    renamed = replace(
        shapes,
        metadata=shapes.metadata.model_copy(update={"categories": categories}),
        instances=frame(INSTANCES, columns),
    )
    assert true_shapes(renamed).category.tolist() == true_shapes(shapes).category.tolist()


def predictions_for(shapes, amodal, box=None, category=None, annotations=None) -> Predictions:
    """One prediction for each object of the first image."""
    objects = shapes.of_image(1)
    table = frame(
        PREDICTIONS,
        {
            "prediction_id": [1, 2],
            "image_id": [1, 1],
            "category_id": category or objects["category_id"],
            "score": [0.9, 0.8],
            "amodal_rle": amodal,
            "amodal_box": boxes(objects["amodal_box"]) if box is None else box,
        },
    )
    metadata = PredictionsMetadata(
        dataset="shapes",
        split="train",
        method="orcnn",
        categories=shapes.metadata.categories,
        image_root="",
        annotations=shapes.fingerprint if annotations is None else annotations,
        checkpoint="digest",
    )
    images = frame(IMAGES, {n: shapes.images[n] for n in shapes.images})
    return Predictions(metadata, images, table, frame(PREDICTION_ORDER, {}))


def test_predicted_masks_are_added_where_mask_box_and_category_agree(shapes):
    objects = shapes.of_image(1)
    true = rle.decode(objects["amodal_rle"].tolist(), (64, 64))
    close, loose = true.copy(), true.copy()
    row, column = np.argwhere(true[0])[0]
    close[0, row, column] = 0
    loose[1, np.argwhere(true[1])[0][0] : np.argwhere(true[1])[0][0] + 4] = 0

    mixed = rle.encode(np.stack([close[0], loose[1]]))
    found = predicted_shapes(shapes, predictions_for(shapes, mixed), TINY)
    assert found.category.tolist() == [0] and len(found.masks) == 1

    same = objects["amodal_rle"].tolist()
    box = boxes(objects["amodal_box"])
    box[0, 2:] *= 1.2  # IoU 0.69
    assert predicted_shapes(shapes, predictions_for(shapes, same, box), TINY).category.tolist() == [
        1
    ]
    swapped = predictions_for(shapes, same, category=[2, 1])
    assert len(predicted_shapes(shapes, swapped, TINY).masks) == 0


def test_predicted_masks_of_ignored_objects_are_left_out(shapes):
    columns = {name: shapes.instances[name] for name in shapes.instances}
    columns["ignore"] = np.arange(len(shapes.instances)) == 0
    marked = replace(shapes, instances=frame(INSTANCES, columns))
    same = shapes.of_image(1)["amodal_rle"].tolist()
    predictions = predictions_for(shapes, same, annotations=marked.fingerprint)
    assert predicted_shapes(marked, predictions, TINY).category.tolist() == [1]


def test_predictions_change_what_is_learnt_and_its_fingerprint(shapes, learnt, tmp_path):
    predictions = predictions_for(shapes, shapes.of_image(1)["amodal_rle"].tolist())
    found = learn(shapes, tmp_path, detected=predictions)
    assert int(prior_in(found).members.sum()) == len(shapes.instances) + 2
    assert found.card.fingerprint.differences(learnt.card.fingerprint) == [
        "detected: absent -> digest"
    ]


def test_predictions_for_other_annotations_are_refused(shapes):
    same = shapes.of_image(1)["amodal_rle"].tolist()
    with pytest.raises(ValueError, match="other annotations"):
        predicted_shapes(shapes, predictions_for(shapes, same, annotations="x"), TINY)
    with pytest.raises(ValueError, match="no amodal masks"):
        predicted_shapes(shapes, predictions_for(shapes, [same[0], None]), TINY)


def test_what_is_saved_comes_back(learnt, tmp_path):
    learnt.save(tmp_path / "prior")
    again = Checkpoint.load(tmp_path / "prior")
    masks, category = some_masks(3).float(), torch.tensor([0, 1, 1])
    before, after = (prior_in(each).nearest(masks, category, 3) for each in (learnt, again))
    assert torch.equal(before.masks, after.masks)


def test_a_shape_prior_of_an_earlier_version_says_how_to_make_it_anew(shapes, tmp_path):
    older = [tmp_path / f"shape_prior.{kind}" for kind in ("json", "safetensors")]
    for file in older:
        file.write_text("{}")
    for attempt in (lambda: learn(shapes, tmp_path), lambda: Checkpoint.load(tmp_path)):
        with pytest.raises(ValueError, match=r"earlier version.*pipeline=shape_prior.*restart"):
            attempt()
    learn(shapes, tmp_path, restart=True).save(tmp_path)
    assert not any(file.exists() for file in older)
    Checkpoint.load(tmp_path)


def test_a_form_that_an_earlier_version_wrote_is_read_and_unknown_names_are_not():
    older = {"clusters": 8, "turned": True, "iterations": 5, "predicted_by": None, "seed": 0}
    assert ShapePriorConfig.model_validate(older) == ShapePriorConfig(clusters=8, turned=True)
    with pytest.raises(ValueError, match="iterations is unknown"):
        ShapePriorConfig.model_validate({"name": "shape_prior", "iterations": 5})


def test_the_table_says_how_well_shapes_come_back(shapes, learnt):
    table = describe(prior_in(learnt), shapes, 16).set_index("category")
    assert table["objects"].to_dict() == {"all": 16, "red": 8, "blue": 8}
    # All squares fill their boxes: one shape.
    assert table["entries"].to_dict() == {"all": 2, "red": 1, "blue": 1}
    assert table.loc["red", "largest_cluster"] == 8
    assert table["iou_codebook"].between(0, 100).all()
    assert table.loc["red", "note"].startswith("fewer than 16") and table.loc["all", "note"] == ""
    assert (describe(prior_in(learnt), shapes, 1)["note"] == "").all()


def test_a_category_without_objects_is_in_the_table(shapes, learnt):
    prior = prior_in(learnt)
    prior.count.copy_(torch.tensor([0, 1]))
    table = describe(prior, shapes, 16).set_index("category")
    assert np.isnan(table.loc["red", "iou_codebook"])
    assert table.loc["red", "note"].startswith("no entries")
    assert table.loc["all", "iou_codebook"] == table.loc["blue", "iou_codebook"]


def test_a_fingerprint_leaves_out_what_changes_nothing(shapes):
    same = TINY.model_copy(update={"poor_below": 3})
    for kind in (lambda prior: prior, lambda prior: VRSPConfig(prior=prior)):
        first, second = (
            loop.fingerprint(kind(prior), tiny_training(), shapes) for prior in (same, TINY)
        )
        assert first == second
    other = TINY.model_copy(update={"clusters": 5})
    marks = [loop.fingerprint(prior, tiny_training(), shapes) for prior in (other, TINY)]
    assert marks[0].differences(marks[1]) == ["model.clusters: 4 -> 5"]
