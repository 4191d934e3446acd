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
from amodal_pipeline.methods.configs import ShapePriorConfig, VRSPConfig
from amodal_pipeline.methods.vrsp import auto_encoder
from amodal_pipeline.methods.vrsp.auto_encoder import SIDE, AutoEncoder, fit, turned
from amodal_pipeline.methods.vrsp.codebook import Codebook, ShapePrior, build_codebook
from amodal_pipeline.methods.vrsp.learning import (
    describe,
    learn,
    predicted_shapes,
    true_shapes,
)
from amodal_pipeline.methods.vrsp.stored import StoredShapePrior, fingerprint
from amodal_pipeline.training import loop
from tests.conftest import tiny_training

TINY = ShapePriorConfig(clusters=4, iterations=20, batch_size=8)


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
    return ShapePrior.of(config, model, Codebook(codes * there[..., None], count, there.long()))


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
    config = ShapePriorConfig(
        convolutions=convolutions, iterations=300, batch_size=4, learning_rate=0.01
    )
    back = fit(masks, config)(masks.float()) > 0.5
    assert ((back & masks).sum((1, 2)) / (back | masks).sum((1, 2)) > 0.95).all()


def test_a_turned_auto_encoder_learns_shapes_it_was_not_shown(monkeypatch):
    ways, learnt = [], auto_encoder.turned
    monkeypatch.setattr(
        auto_encoder, "turned", lambda masks, way: ways.append(way) or learnt(masks, way)
    )
    mask = torch.zeros(1, SIDE, SIDE, dtype=torch.bool)
    mask[0, :, :9] = True  # a bar at the left
    config = ShapePriorConfig(iterations=200, batch_size=1)
    lying = {}
    for way in (False, True):
        model = fit(mask, config.model_copy(update={"turned": way}))
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
    codebook = build_codebook(model, masks, category, 3, TINY)
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
    codebook = build_codebook(model, mask, np.zeros(1, np.int64), 1, config)
    assert codebook.count.tolist() == [8]


def test_centres_lie_among_their_masks():
    """Mini-batch K-means ends near the means of its clusters, not on them."""
    model = fit(some_masks(8), TINY)
    masks = some_masks(60, seed=3)
    codebook = build_codebook(model, masks, np.zeros(60, np.int64), 1, TINY)
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
    first, second = (build_codebook(fit(masks, TINY), masks, nothing, 1, TINY) for _ in range(2))
    assert torch.equal(first.codes, second.codes) and torch.equal(first.members, second.members)


def test_learning_twice_gives_the_same_bits(shapes):
    first, second = learn(shapes, TINY), learn(shapes, TINY)
    assert first.card == second.card
    assert first.weights.keys() == second.weights.keys()
    assert all(torch.equal(first.weights[k], second.weights[k]) for k in first.weights)
    other = learn(shapes, TINY.model_copy(update={"seed": 1}))
    assert not torch.equal(first.weights["codes"], other.weights["codes"])


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


def test_no_objects_is_said(shapes):
    instances = {n: shapes.instances[n] for n in shapes.instances}
    instances["ignore"] = np.ones(len(shapes.instances), bool)
    ignored = replace(shapes, instances=frame(INSTANCES, instances))
    with pytest.raises(ValueError, match="no mask to learn"):
        learn(ignored, TINY)


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


def test_predictions_change_what_is_learnt_and_its_fingerprint(shapes):
    predictions = predictions_for(shapes, shapes.of_image(1)["amodal_rle"].tolist())
    stored = learn(shapes, TINY, predictions)
    assert stored.card.masks == len(shapes.instances) + 2
    assert stored.card.fingerprint == fingerprint(TINY, shapes, "digest")
    assert stored.card.fingerprint != fingerprint(TINY, shapes)


def test_predictions_for_other_annotations_are_refused(shapes):
    same = shapes.of_image(1)["amodal_rle"].tolist()
    with pytest.raises(ValueError, match="other annotations"):
        predicted_shapes(shapes, predictions_for(shapes, same, annotations="x"), TINY)
    with pytest.raises(ValueError, match="no amodal masks"):
        predicted_shapes(shapes, predictions_for(shapes, [same[0], None]), TINY)


def test_what_is_saved_comes_back(shapes, tmp_path):
    stored = learn(shapes, TINY)
    stored.save(tmp_path / "prior")
    again = StoredShapePrior.load(tmp_path / "prior")
    assert again.card == stored.card
    masks, category = some_masks(3).float(), torch.tensor([0, 1, 1])
    before, after = (s.restore().nearest(masks, category, 3) for s in (stored, again))
    assert torch.equal(before.masks, after.masks)
    stored.save(tmp_path / "prior")  # over the one that is there
    assert {p.name for p in tmp_path.rglob("*") if p.is_file()} == {
        "shape_prior.json",
        "shape_prior.safetensors",
    }


def test_damage_is_named_with_the_remedy(shapes, tmp_path):
    folder = tmp_path / "prior"
    with pytest.raises(ValueError, match=r"no shape prior.*pipeline=shape_prior"):
        StoredShapePrior.load(folder)
    stored = learn(shapes, TINY)
    stored.save(folder)
    weights, card = folder / "shape_prior.safetensors", folder / "shape_prior.json"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"damaged.*shape_prior\.safetensors.*restart=true"):
        StoredShapePrior.load(folder)
    weights.unlink()
    with pytest.raises(ValueError, match=r"shape_prior\.safetensors is\s+missing"):
        StoredShapePrior.load(folder)
    weights.write_bytes(whole)
    card.write_text(card.read_text().replace('"clusters": 4', '"clusters": 5'))
    with pytest.raises(ValueError, match=r"damaged.*shape_prior\.json was changed after"):
        StoredShapePrior.load(folder)
    card.write_text("{")
    with pytest.raises(ValueError, match=r"damaged.*shape_prior\.json[\s\S]*restart=true"):
        StoredShapePrior.load(folder)


def test_the_weights_must_be_those_of_the_card(shapes, tmp_path):
    stored = learn(shapes, TINY)
    other = stored.card.model_copy(update={"entries": (2, 1)})
    StoredShapePrior(other, stored.weights).save(tmp_path / "prior")
    with pytest.raises(ValueError, match="entries by category"):
        StoredShapePrior.load(tmp_path / "prior")


def test_the_table_says_how_well_shapes_come_back(shapes):
    table = describe(learn(shapes, TINY), shapes, 16).set_index("category")
    assert table["objects"].to_dict() == {"all": 16, "red": 8, "blue": 8}
    # All squares fill their boxes: one shape.
    assert table["entries"].to_dict() == {"all": 2, "red": 1, "blue": 1}
    assert table.loc["red", "largest_cluster"] == 8
    assert table["iou_codebook"].between(0, 100).all()
    assert table.loc["red", "note"].startswith("fewer than 16") and table.loc["all", "note"] == ""
    assert (describe(learn(shapes, TINY), shapes, 1)["note"] == "").all()


def test_a_category_without_objects_is_in_the_table(shapes):
    stored = learn(shapes, TINY)
    weights = {**stored.weights, "count": torch.tensor([0, 1])}
    card = stored.card.model_copy(update={"entries": (0, 1)})
    table = describe(StoredShapePrior(card, weights), shapes, 16).set_index("category")
    assert np.isnan(table.loc["red", "iou_codebook"])
    assert table.loc["red", "note"].startswith("no entries")
    assert table.loc["all", "iou_codebook"] == table.loc["blue", "iou_codebook"]


def test_a_fingerprint_leaves_out_what_changes_nothing(shapes):
    same = TINY.model_copy(update={"device": "cpu", "poor_below": 3})
    assert fingerprint(same, shapes) == fingerprint(TINY, shapes)
    detectors = [
        loop.fingerprint(VRSPConfig(prior=prior), tiny_training(), shapes) for prior in (same, TINY)
    ]
    assert detectors[0] == detectors[1]
    other = TINY.model_copy(update={"clusters": 5})
    assert fingerprint(other, shapes).differences(fingerprint(TINY, shapes)) == [
        "shape_prior.clusters: 4 -> 5"
    ]
