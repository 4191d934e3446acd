"""Pairs of objects: what is seen of them, who is in front, and what is predicted for them."""

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image

from amodal_pipeline.annotations import rle
from amodal_pipeline.annotations.images import read_image
from amodal_pipeline.annotations.known_objects import true_objects_with_order
from amodal_pipeline.annotations.tables import PREDICTION_ORDER, PREDICTIONS, boxes, frame
from amodal_pipeline.layers.crops import crop_image, crop_masks, windows
from amodal_pipeline.methods.configs import OrderNetConfig
from amodal_pipeline.methods.training_config import InferenceConfig
from amodal_pipeline.metrics.config import EvaluationConfig
from amodal_pipeline.metrics.evaluate import evaluate
from amodal_pipeline.samples.pairs import PairBatches, PairCrops, true_pairs
from amodal_pipeline.training import loop, ordering
from tests.conftest import tiny_training
from tests.tables import annotations, predictions

CPU = InferenceConfig(workers=0, device="cpu", objects_per_batch=3)


def config(**changes):
    return OrderNetConfig.model_validate({"side": 32, "flip": 0.0, **changes})


def rectangle(*box, size=(40, 60)):
    left, top, right, bottom = box
    mask = np.zeros(size, bool)
    mask[top:bottom, left:right] = True
    return mask


@pytest.fixture
def three(tmp_path):
    """A lies over B and B over C; C comes up through both in one column."""
    a, b, c = rectangle(4, 4, 24, 30), rectangle(14, 10, 40, 36), rectangle(20, 14, 56, 24)
    through = rectangle(20, 14, 21, 24)
    visible = [a & ~through, b & ~a, (c & ~b) | through]
    noise = np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "1.png")
    return annotations(
        {1: (40, 60)},
        {
            "instance_id": [10, 20, 30],
            "image_id": [1, 1, 1],
            "amodal_rle": rle.encode(np.stack([a, b, c])),
            "visible_rle": rle.encode(np.stack(visible)),
        },
        [(1, 10, 20), (1, 20, 30), (1, 10, 30), (1, 30, 10)],
        dataset="three",
        split="train",
        image_root=str(tmp_path),
    )


def scores(annotations, predictions):
    only = EvaluationConfig(protocols=("order",), resamples=0, headline_resamples=0)
    return evaluate(annotations, predictions, only).results.set_index("metric")["value"]


class Larger(torch.nn.Module):
    """Stands for a network: how much larger the first mask is than the second."""

    def __init__(self, form):
        super().__init__()
        self.config = form

    def forward(self, images, targets):
        size = targets["objects"].sum(dim=(2, 3))
        return {"logits": size[:, 0] - size[:, 1]}


@pytest.mark.parametrize("inputs", ["amodal", "visible"])
def test_both_objects_are_seen_in_the_square_around_them(shapes, inputs):
    objects = true_objects_with_order(shapes)
    batch = PairBatches(shapes, objects, config(inputs=inputs), 4, seed=1)[0]
    assert batch.images.shape == (4, 3, 32, 32) and batch.images.dtype == torch.uint8
    table = objects.predictions
    for k, pair in enumerate(batch.targets["pair"].tolist()):
        corners = boxes(table["amodal_box"].iloc[pair])
        low = corners[:, :2].min(axis=0)
        high = (corners[:, :2] + corners[:, 2:]).max(axis=0)
        around = np.concatenate([low, high - low])[None]
        window = windows(around, (64, 64), config().crop)
        extent = window[0, 2:] - window[0, :2]
        assert extent[0] == pytest.approx(extent[1])
        assert extent[0] == pytest.approx(1.2 * (high - low).max(), rel=1e-5)
        for j, row in enumerate(pair):
            mask = crop_masks([table[f"{inputs}_rle"].iloc[row]], window, (64, 64), 32)[0]
            assert np.array_equal(batch.targets["objects"][k, j].numpy(), mask)
        name = f"{table['image_id'].iloc[pair[0]]}.png"
        image = torch.from_numpy(read_image(shapes.metadata.image_root, name)).permute(2, 0, 1)
        assert torch.equal(batch.images[k], crop_image(image, window[0], 32))
        assert batch.names[k] == name


def test_who_is_in_front_is_what_the_annotations_state_in_either_direction(shapes):
    objects = true_objects_with_order(shapes)
    batches = PairBatches(shapes, objects, config(flip=0.5), 4, seed=0)
    directions = set()
    for i in range(4):
        targets = batches[i].targets
        for pair, first in zip(targets["pair"].tolist(), targets["first_in_front"], strict=True):
            ids = objects.predictions["instance_id"].iloc[pair].tolist()
            assert ids[1 - int(first)] % 2 == 0  # the red square, of even number, is in front
            directions.add(float(first))
    assert directions == {0.0, 1.0}
    assert len({tuple(sorted(p)) for i in (0, 1) for p in batches[i].targets["pair"].tolist()}) == 8


def test_mirroring_moves_image_and_masks_together(shapes):
    objects = true_objects_with_order(shapes)
    plain = PairBatches(shapes, objects, config(), 8, seed=0)[0]
    mirrored = PairBatches(shapes, objects, config(flip=1.0), 8, seed=0)[0]
    assert torch.equal(plain.images.flip(-1), mirrored.images)
    assert torch.equal(plain.targets["objects"].flip(-1), mirrored.targets["objects"])
    assert torch.equal(plain.targets["first_in_front"], mirrored.targets["first_in_front"])


def test_a_batch_is_a_function_of_seed_and_iteration(shapes):
    objects = true_objects_with_order(shapes)
    form = config(flip=0.5, inputs="maps")
    loaded = list(
        loop._loader(PairBatches(shapes, objects, form, 3, 5), 2, tiny_training(workers=2))
    )
    again = PairBatches(shapes, objects, form, 3, 5)
    for i, batch in enumerate(loaded, start=2):
        assert torch.equal(batch.images, again[i].images)
        assert all(torch.equal(v, again[i].targets[k]) for k, v in batch.targets.items())
    other = PairBatches(shapes, objects, form, 3, 6)[2]
    assert not torch.equal(other.images, loaded[0].images)


def test_maps_have_the_levels_of_the_truth_and_nothing_in_between(shapes):
    objects = true_objects_with_order(shapes)
    targets = PairBatches(shapes, objects, config(inputs="maps", layers=2), 8, seed=0)[0].targets
    c = 1 - 2**-10
    assert set(targets["objects"].unique().tolist()) == {c - 1, 0.0, c}
    for maps, first in zip(targets["objects"], targets["first_in_front"].tolist(), strict=True):
        front, back = (maps[0], maps[1]) if first else (maps[1], maps[0])
        assert not (front == c - 1).any() and (back == c - 1).any()
        assert ((back == c - 1) <= (front == c)).all()  # hidden where the other one is


def test_without_image_no_file_is_opened(shapes):
    objects = true_objects_with_order(shapes)
    gone = objects.metadata.model_copy(update={"image_root": "/nowhere"})
    objects = dataclasses.replace(objects, metadata=gone)
    assert PairBatches(shapes, objects, config(image=False), 2, 0)[0].images.shape == (2, 3, 0, 0)
    with pytest.raises(ValueError, match=r"/nowhere/\d\.png is missing"):
        PairBatches(shapes, objects, config(), 2, 0)[0]


def test_mutual_pairs_are_counted_and_left_out_or_learnt_as_undecided(three):
    objects = true_objects_with_order(three)
    found = true_pairs(three, objects)
    assert found.pairs.tolist() == [[0, 1], [1, 2], [0, 2]]
    assert found.mutual.tolist() == [False, False, True]
    left_out = PairBatches(three, objects, config(), 2, 0)
    assert left_out.mutual_pairs == 1
    assert sorted(map(sorted, left_out[0].targets["pair"].tolist())) == [[0, 1], [1, 2]]
    learnt = PairBatches(three, objects, config(mutual=True), 3, 0)[0].targets
    halves = learnt["first_in_front"] == 0.5
    assert sorted(learnt["pair"][halves].squeeze(0).tolist()) == [0, 2] and int(halves.sum()) == 1


def test_what_cannot_be_learnt_from_is_said(three, shapes):
    objects = true_objects_with_order(three)
    without = dataclasses.replace(three, order=three.order.iloc[2:])
    with pytest.raises(
        ValueError, match=r"three/train has no order .* \(and 1 pairs in both directions\)"
    ):
        PairBatches(without, objects, config(), 2, 0)
    columns = {name: objects.predictions[name] for name in objects.predictions.columns}
    blind = frame(PREDICTIONS, columns | {"visible_rle": [None] * 3})
    blind = dataclasses.replace(objects, predictions=blind)
    for inputs in ("visible", "maps"):
        with pytest.raises(ValueError, match="3 of 3 objects of 'truth' have no visible mask"):
            PairCrops(blind, config(inputs=inputs))
    assert PairCrops(blind, config())(np.array([[0, 1]]))[1].any()


def test_ignored_objects_are_in_no_pair(shapes):
    table = shapes.instances.copy()
    table["ignore"] = [i == 3 for i in range(len(table))]
    some = dataclasses.replace(shapes, instances=table)
    objects = true_objects_with_order(some)
    assert len(objects.predictions) == len(objects.order) + 8 == 15
    assert len(true_pairs(some, objects).pairs) == 7
    assert len(ordering.pairs_of_truth(some, objects)) == 7


def test_the_order_of_the_truth_is_right_and_its_maps_say_the_same(shapes, three):
    objects = true_objects_with_order(shapes)
    assert scores(shapes, objects)["order_accuracy"] == 100
    found = ordering.by_relative_map(objects)
    assert scores(shapes, found)["order_accuracy"] == 100
    assert found.order["source"].unique().tolist() == ["relative map"]
    # What stands in both directions states nothing; of the maps the larger region decides.
    mutual = true_objects_with_order(three)
    assert scores(three, mutual)["order_coverage"] == pytest.approx(200 / 3)
    found = ordering.by_relative_map(mutual)
    assert set(zip(*_ends(found), strict=True)) == {(10, 20), (20, 30), (10, 30)}
    assert scores(three, found)["order_accuracy"] == 100


def test_networks_order_all_pairs_of_any_batch_size(shapes):
    objects = true_objects_with_order(shapes)
    pairs = ordering.pairs_of_truth(shapes, objects)
    assert {tuple(p) for p in pairs} == {tuple(p) for p in ordering.overlapping_pairs(objects)}
    turned = np.where(np.arange(len(pairs))[:, None] % 2, pairs, pairs[:, ::-1])
    for given in (None, turned):
        done = []
        found = ordering.order(
            Larger(config(inputs="visible")),
            objects,
            CPU,
            pairs=given,
            variant="visible",
            on_progress=lambda *now, done=done: done.append(now),
        )
        assert done == [(3, 8), (6, 8), (8, 8)]
        visible = rle.area(objects.predictions["visible_rle"].tolist())
        area = dict(zip(objects.predictions["prediction_id"], visible, strict=True))
        assert all(area[f] > area[b] for f, b in zip(*_ends(found), strict=True))
        assert found.order["source"].unique().tolist() == ["order_net"]
        assert (found.order["score"] > 0.5).all()
        made = found.metadata
        assert (made.method, made.variant, made.inputs) == ("order_net", "visible", "true")
        assert scores(shapes, found)["order_accuracy"] == 100


def _ends(found):
    return found.order["front_id"], found.order["back_id"]


def predicted(truth, masks, **columns):
    n = len(masks)
    table = {
        "prediction_id": np.arange(n) + 500,
        "image_id": [1] * n,
        "category_id": [1] * n,
        "score": np.linspace(0.9, 0.1, n),
        "amodal_rle": masks,
        "visible_rle": masks,
        "amodal_box": rle.box(masks, (40, 60)),
        **columns,
    }
    order = {
        "image_id": [1, 1],
        "front_id": [501, 502],
        "back_id": [502, 500],
        "score": [0.9, 0.8],
        "source": ["them"] * 2,
    }
    return predictions(truth, table, order, method="them", annotations=truth.fingerprint)


def test_each_true_object_has_the_prediction_that_overlaps_it_most(three):
    shifted = [rectangle(5, 4, 25, 30), rectangle(14, 10, 38, 36), rectangle(20, 14, 56, 23)]
    masks = rle.encode(np.stack([rectangle(50, 36, 60, 40), *shifted]))
    found = ordering.best_matches(three, predicted(three, masks))
    assert found.predictions["instance_id"].tolist() == [10, 20, 30]
    assert found.predictions["source_id"].tolist() == [501, 502, 503]
    assert found.predictions["amodal_rle"].tolist() == masks[1:]
    assert found.metadata.variant == "best_match" and found.metadata.inputs == "them"
    # 501 over 502 becomes 10 over 20; 500 is nobody's.
    assert list(zip(*_ends(found), strict=True)) == [(10, 20)]
    assert found.order["source"].tolist() == ["them"]
    result = scores(three, found)
    assert result["order_coverage"] == pytest.approx(100 / 3)
    assert result["order_accuracy_decided"] == 100


def test_one_prediction_may_stand_for_two_objects_which_then_look_alike(three):
    masks = rle.encode(np.stack([rectangle(4, 4, 56, 36), rectangle(0, 38, 2, 40)]))
    order = frame(PREDICTION_ORDER, {})
    given = dataclasses.replace(predicted(three, masks), order=order)
    found = ordering.best_matches(three, given)
    assert found.predictions["source_id"].tolist() == [500, 500, 500]

    class Sure(Larger):
        def forward(self, images, targets):
            return {"logits": torch.ones(len(images))}

    told = ordering.order(Sure(config()), found, CPU, pairs=ordering.pairs_of_truth(three, found))
    assert len(told.order) == 0


def test_objects_that_no_prediction_touches_are_left_out(three):
    masks = rle.encode(np.stack([rectangle(4, 4, 10, 8), rectangle(50, 36, 60, 40)]))
    given = dataclasses.replace(predicted(three, masks), order=frame(PREDICTION_ORDER, {}))
    found = ordering.best_matches(three, given)
    assert found.predictions["instance_id"].tolist() == [10]
    assert ordering.pairs_of_truth(three, found).shape == (0, 2)
    told = ordering.order(Larger(config()), found, CPU)
    assert len(told.order) == 0
