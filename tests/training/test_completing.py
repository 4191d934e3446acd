"""A completer over known objects, with a stand-in that gives back what it sees."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import nn

from amodal_pipeline import methods
from amodal_pipeline.annotations import Category, Given, KnownObjects, build, rle
from amodal_pipeline.annotations.known_objects import true_objects
from amodal_pipeline.annotations.tables import boxes
from amodal_pipeline.layers.configs import CropConfig
from amodal_pipeline.layers.crops import crop_masks, paste_masks, windows
from amodal_pipeline.methods import completer
from amodal_pipeline.methods.baselines import convex_hull, visible_mask
from amodal_pipeline.methods.contract import Description
from amodal_pipeline.methods.training_config import InferenceConfig
from amodal_pipeline.metrics.config import EvaluationConfig
from amodal_pipeline.metrics.evaluate import evaluate
from amodal_pipeline.samples import images as images_of
from amodal_pipeline.training import completing
from amodal_pipeline.training.completing import complete, estimate_boxes
from tests.conftest import tiny_method

CPU = InferenceConfig(workers=0, device="cpu")


def configured(crop, sees="itself"):
    """Return what inference reads of a completer's configuration."""
    return SimpleNamespace(
        crop=crop, DESCRIPTION=Description("complete", "", sees=lambda config: sees)
    )


class Echo(nn.Module):
    """Gives back its input, ``grown`` by as many pixels, and remembers what it was given."""

    def __init__(self, crop, grown=0, sees="itself"):
        super().__init__()
        self.config, self.grown, self.batches = configured(crop, sees), grown, []

    def forward(self, images, targets):
        assert not self.training
        self.batches.append((images, targets))
        masks = targets["input"][:, None].float()
        return {"amodal_masks": F.max_pool2d(masks, 2 * self.grown + 1, 1, self.grown)[:, 0]}


def run(model, objects, **config):
    return complete(model, KnownObjects.of(objects), CPU.model_copy(update=config), method="echo")


def test_a_hidden_part_that_the_model_predicts_is_kept(shapes):
    class TwoHeads(Echo):
        def forward(self, images, targets):
            whole = super().forward(images, targets)["amodal_masks"]
            return {"amodal_masks": whole, "invisible_masks": whole * (targets["input"] == 0)}

    crop = CropConfig(side=128, image_side=8)
    found = run(TwoHeads(crop, grown=3), true_objects(shapes)).predictions
    masks = {k: found[f"{k}_rle"].tolist() for k in ("amodal", "visible", "invisible")}
    expected = rle.difference(masks["amodal"], masks["visible"])
    assert np.mean(rle.pair_iou(masks["invisible"], expected)) > 0.6
    alone = run(Echo(crop, grown=3), true_objects(shapes)).predictions
    assert alone["invisible_rle"].isna().all()
    assert alone["amodal_rle"].equals(found["amodal_rle"])


@settings(max_examples=60, deadline=None)
@given(st.data(), st.integers(1, 40), st.integers(1, 40))
def test_paste_back_is_exact_also_beyond_the_border(data, height, width):
    mask = np.random.default_rng(data.draw(st.integers(0, 99))).random((1, height, width)) < 0.5
    side = data.draw(st.integers(1, 48))
    left, top = data.draw(st.integers(-9, width)), data.draw(st.integers(-9, height))
    window = np.array([[left, top, left + side, top + side]], float)
    counts = rle.encode(mask)
    seen = crop_masks(counts, window, (height, width), side)
    within = np.zeros_like(mask)
    within[:, max(top, 0) : max(top + side, 0), max(left, 0) : max(left + side, 0)] = True
    back = paste_masks(torch.from_numpy(seen).float(), window, (height, width))
    assert back == rle.encode(mask & within)


def test_nothing_fades_at_the_rim_of_a_window():
    # Cells of eight pixels, and a mask that is hardly sure of itself.
    window, size = np.array([[0.0, 0, 64, 64]]), (64, 64)
    assert rle.area(paste_masks(torch.full((1, 8, 8), 0.51), window, size)).tolist() == [64 * 64]
    assert rle.area(paste_masks(torch.full((1, 8, 8), 0.49), window, size)).tolist() == [0]


def make_objects(root, sizes):
    """An image of each size with two rectangles each, one at its border."""
    masks = {"image_id": [], "instance_id": [], "amodal_rle": [], "visible_rle": []}
    for i, (height, width) in enumerate(sizes, start=1):
        Image.fromarray(np.full((height, width, 3), 10 * i, np.uint8)).save(root / f"{i}.png")
        for k, (rows, columns) in enumerate(
            [(slice(0, height // 2), slice(0, 9)), (slice(5, 17), slice(width - 14, width - 3))]
        ):
            amodal = np.zeros((1, height, width), np.uint8)
            amodal[:, rows, columns] = 1
            visible = amodal.copy()
            visible[:, :8] = 0
            masks["image_id"].append(i)
            masks["instance_id"].append(10 * i + k)
            masks["amodal_rle"] += rle.encode(amodal)
            masks["visible_rle"] += rle.encode(visible)
    images = {
        "image_id": range(1, len(sizes) + 1),
        "file_name": [f"{i + 1}.png" for i in range(len(sizes))],
        "height": [h for h, _ in sizes],
        "width": [w for _, w in sizes],
    }
    return build(
        dataset="rectangles",
        split="val",
        categories=[Category(id=4, name="door"), Category(id=2, name="wall")],
        image_root=str(root),
        images=images,
        instances={**masks, "category_id": [2, 4] * len(sizes)},
    )


@pytest.fixture
def rectangles(tmp_path):
    return make_objects(tmp_path, [(40, 50), (32, 64), (40, 50), (25, 31)])


# Windows at a whole multiple of the crop's pixels come back to the pixel; others nearly do.
@pytest.mark.parametrize("clipped", [True, False])
@pytest.mark.parametrize("square", [True, False])
def test_what_is_seen_comes_back_in_its_place(rectangles, clipped, square):
    crop = CropConfig(side=96, image_side=24, clipped=clipped, square=square)
    found = run(Echo(crop), true_objects(rectangles))
    table, truth = found.predictions, rectangles.instances
    assert (table["prediction_id"] == truth["instance_id"]).all()
    assert (table["instance_id"] == truth["instance_id"]).all()
    assert table["source_id"].isna().all()
    assert table["visible_rle"].tolist() == truth["visible_rle"].tolist()
    assert rle.pair_iou(table["amodal_rle"].tolist(), truth["visible_rle"].tolist()).min() > 0.97
    assert np.array_equal(
        boxes(table["amodal_box"]), rle.box(table["amodal_rle"].tolist(), found.sizes)
    )
    made = found.metadata
    assert (made.method, made.inputs, made.annotations) == ("echo", "true", rectangles.fingerprint)


def test_completion_does_not_depend_on_who_is_in_the_batch(rectangles):
    objects, crop = true_objects(rectangles), CropConfig(side=16, image_side=16)
    model = Echo(crop, grown=2)
    expected = run(model, objects, objects_per_batch=100).predictions
    assert [len(images) for images, _ in model.batches] == [8]
    assert not expected["amodal_rle"].equals(expected["visible_rle"])
    for size in (1, 3, 5):
        model = Echo(crop, grown=2)
        found = run(model, objects, objects_per_batch=size, workers=size % 2 * 2)
        assert found.predictions.equals(expected)
        # Whole images where they fit.
        assert [len(images) for images, _ in model.batches] == {1: [1] * 8, 3: [2] * 4, 5: [4] * 2}[
            size
        ]
    # In whatever order the objects come.
    shuffled = objects.table.predictions.sample(frac=1, random_state=0).reset_index(drop=True)
    found = run(model, objects.with_columns(**shuffled)).predictions
    again = found.sort_values("prediction_id").reset_index(drop=True)
    assert again["amodal_rle"].tolist() == expected["amodal_rle"].tolist()


def test_each_image_is_read_once_and_what_a_model_is_given(rectangles, monkeypatch):
    read, names = images_of.read_image, []
    monkeypatch.setattr(
        images_of,
        "read_image",
        lambda root, name, size: names.append(name) or read(root, name, size),
    )
    model, steps = Echo(CropConfig(side=16, image_side=12)), []
    complete(
        model,
        true_objects(rectangles),
        CPU.model_copy(update={"objects_per_batch": 3}),
        method="echo",
        on_progress=lambda done, total: steps.append((done, total)),
    )
    assert names == ["1.png", "2.png", "3.png", "4.png"]
    assert steps == [(2, 8), (4, 8), (6, 8), (8, 8)]
    images, targets = model.batches[1]
    assert images.shape == (2, 3, 12, 12) and images.unique().tolist() == [20]
    assert targets["labels"].tolist() == [2, 1]  # positions of the categories 2 and 4
    assert targets["key"].tolist() == [20, 21]
    assert targets["input"].dtype == torch.uint8 and targets["input"].shape == (2, 16, 16)


def test_a_model_that_sees_other_objects_is_given_them(rectangles):
    crop = CropConfig(side=32, image_side=8, enlarge=3, clipped=False)
    objects = true_objects(rectangles)
    table, sizes = objects.table.predictions, objects.table.sizes
    masks, images = table["visible_rle"].tolist(), table["image_id"].tolist()
    # The second object of the first image overlaps the first one, as detections may.
    over = np.zeros((1, 40, 50), np.uint8)
    over[:, 6:14, 4:20] = 1
    masks[1] = rle.encode(over)[0]
    model = Echo(crop, sees="others")
    run(model, objects.with_columns(visible_rle=masks), objects_per_batch=3)
    given = torch.cat([targets["others"] for _, targets in model.batches])
    drawn = [rle.decode([m], tuple(s))[0] for m, s in zip(masks, sizes.tolist(), strict=True)]
    for row in range(8):
        beside = np.zeros_like(drawn[row])
        for other in range(8):
            if other != row and images[other] == images[row]:
                beside |= drawn[other]
        counts = rle.encode((beside & ~drawn[row])[None])
        window = windows(rle.box([masks[row]], sizes[row]), sizes[row], crop)
        expected = crop_masks(counts, window, sizes[row], 32)[0]
        assert np.array_equal(given[row], expected) and given[row].dtype == torch.uint8
        assert expected.any() or row >= 2
    # The same for the objects of one image, in memory; one object has nothing beside it.
    model = Echo(crop, sees="others").eval()
    model.weight = nn.Parameter(torch.zeros(1))
    image = np.zeros((40, 50, 3), np.uint8)
    completer.complete(model, image, np.stack(drawn[:2]))
    assert torch.equal(model.batches[-1][1]["others"], given[:2])
    completer.complete(model, image, drawn[0])
    assert not model.batches[-1][1]["others"].any()


def test_an_image_with_more_objects_than_a_batch_is_cut(rectangles):
    batches = list(
        completing._batches(np.arange(12), np.array([1, 1, 2, 2, 2, 2, 2, 2, 2, 3, 4, 4]), 3)
    )
    assert [b.tolist() for b in batches] == [[0, 1], [2, 3, 4], [5, 6, 7], [8, 9], [10, 11]]
    assert list(completing._batches(np.zeros(0, int), np.zeros(0, int), 3)) == []


def test_what_cannot_be_seen_stays_empty(rectangles):
    objects = true_objects(rectangles)
    masks = objects.table.predictions["visible_rle"].tolist()
    nothing = rle.encode(np.zeros((1, 40, 50), np.uint8))[0]
    model = Echo(CropConfig(side=32, image_side=8))
    found = run(model, objects.with_columns(visible_rle=[nothing, *masks[1:]])).predictions
    assert sum(len(images) for images, _ in model.batches) == 7
    assert found["amodal_rle"].iloc[0] == nothing and found["amodal_box"].isna().tolist()[0]
    assert not found["amodal_box"].isna().iloc[1:].any()
    with pytest.raises(ValueError, match="8 of 8 predictions of 'truth' have no visible mask"):
        run(model, objects.with_columns(visible_rle=[None] * 8))
    none = run(model, empty(objects))
    assert len(none.predictions) == 0 and none.metadata.given is Given.TRUE_MASKS


def empty(objects):
    table = objects.table
    table = dataclasses.replace(table, predictions=table.predictions.iloc[:0])
    return dataclasses.replace(objects, table=table)


def test_ignored_objects_are_not_completed(rectangles):
    table = rectangles.instances.assign(ignore=[True] + [False] * 7)
    objects = true_objects(dataclasses.replace(rectangles, instances=table))
    assert objects.table.predictions["instance_id"].tolist() == [11, 20, 21, 30, 31, 40, 41]


def test_detections_keep_their_ids_scores_and_classes(rectangles):
    objects = true_objects(rectangles).table
    table = objects.predictions.assign(
        instance_id=[None] * 8, prediction_id=np.arange(8) + 70, score=np.linspace(0.9, 0.2, 8)
    )
    detector = dataclasses.replace(
        objects,
        predictions=table.astype(objects.predictions.dtypes),
        metadata=objects.metadata.model_copy(update={"method": "finder", "inputs": "image"}),
    )
    found = complete(
        Echo(CropConfig(side=32, image_side=8)),
        KnownObjects.of(detector),
        CPU,
        method="echo",
        seed=3,
        checkpoint="c",
    )
    assert found.metadata.inputs == "finder"
    assert (found.metadata.seed, found.metadata.checkpoint) == (3, "c")
    assert found.predictions["source_id"].tolist() == list(range(70, 78))
    for name in ("prediction_id", "image_id", "category_id", "score"):
        assert found.predictions[name].equals(detector.predictions[name])


class Truth(nn.Module):
    """Gives each object its true amodal mask."""

    def __init__(self, annotations, crop):
        super().__init__()
        self.config, self.annotations = configured(crop), annotations

    def forward(self, images, targets):
        truth = self.annotations.instances
        rows = [truth["instance_id"].tolist().index(key) for key in targets["key"].tolist()]
        sizes = self.annotations.sizes[rows]
        seen = windows(boxes(truth["visible_box"])[rows], sizes, self.config.crop)
        masks = crop_masks(
            truth["amodal_rle"].iloc[rows].tolist(), seen, sizes, self.config.crop.side
        )
        return {"amodal_masks": torch.from_numpy(masks).float()}


def test_truth_scores_as_itself_and_completing_nothing_as_the_baseline(shapes):
    config = EvaluationConfig(headline_resamples=0, resamples=0)
    crop = CropConfig(side=128, image_side=8, enlarge=4)

    def scored(found):
        rows = evaluate(shapes, found, config).results
        rows = rows[(rows["category"] == "all") & (rows["protocol"] == "completion")]
        return dict(zip(rows["metric"], rows["value"], strict=True))

    objects = true_objects(shapes)
    perfect = scored(run(Truth(shapes, crop), objects))
    assert perfect["mIoU_full"] > 99 and perfect["mIoU_occluded"] > 97
    as_seen = scored(run(Echo(crop), objects))
    baseline = scored(visible_mask(objects))
    assert as_seen["mIoU_full"] == pytest.approx(baseline["mIoU_full"], abs=0.7)
    assert baseline["mIoU_full"] < scored(convex_hull(objects))["mIoU_full"] < 99


AMODAL = CropConfig(around="amodal", enlarge=1.0, clipped=False, side=48, image_side=8)


class Full(nn.Module):
    """Fills its windows, and remembers what it was given."""

    def __init__(self, crop):
        super().__init__()
        self.config, self.targets = configured(crop), []

    def forward(self, images, targets):
        self.targets.append(targets)
        return {"amodal_masks": torch.ones(targets["input"].shape)}


def test_objects_are_completed_within_their_amodal_boxes(rectangles):
    model = Full(AMODAL)
    found = run(model, true_objects(rectangles, boxes=True), objects_per_batch=100)
    truth = rectangles.instances
    # The objects are rectangles.
    assert found.predictions["amodal_rle"].tolist() == truth["amodal_rle"].tolist()
    sides = boxes(truth["amodal_box"])[:, 2:]
    assert np.allclose(model.targets[0]["aspect"], sides / sides.max(axis=1, keepdims=True))
    assert found.metadata.inputs == "true_boxes"
    assert found.predictions["instance_id"].tolist() == truth["instance_id"].tolist()
    # What was completed before is, too, and is told by its name.
    assert run(Full(AMODAL), found).metadata.inputs == "true_boxes"


def test_an_object_without_an_amodal_box_is_refused(rectangles):
    with pytest.raises(
        ValueError, match=r"8 of 8 objects of 'truth' have no suitable amodal box"
    ) as error:
        run(Full(AMODAL), true_objects(rectangles))
    assert "(the first: 10 in image 1 has none)" in str(error.value)
    assert "estimate_boxes" in str(error.value)
    # One of which nothing is seen needs none.
    objects = true_objects(rectangles, boxes=True)
    nothing = rle.encode(np.zeros((1, 40, 50), np.uint8))[0]
    table = objects.table.predictions
    known = boxes(table["amodal_box"])
    known[0] = np.nan
    hidden = objects.with_columns(
        visible_rle=[nothing, *table["visible_rle"][1:]], amodal_box=known
    )
    found = run(Full(AMODAL), hidden).predictions
    assert found["amodal_rle"].iloc[0] == nothing
    assert (rle.area(found["amodal_rle"].tolist()[1:]) > 0).all()


def stage_one(*names, wider=()):
    """A detector that makes boxes so many times as wide and high as it is given, by category."""
    model = methods.build(tiny_method("mask_rcnn"), len(names))
    predictor = model.detector.roi_heads.box_predictor.bbox_pred
    nn.init.zeros_(predictor.weight)
    nn.init.zeros_(predictor.bias)
    weights = model.detector.roi_heads.box_coder.weights
    for label, factors in enumerate(wider, start=1):
        for axis, factor in enumerate(factors, start=2):
            predictor.bias.data[4 * label + axis] = weights[axis] * np.log(factor)
    model.categories = tuple(Category(id=50 + i, name=name) for i, name in enumerate(names))
    return model


def grown(truth, factors):
    """Visible boxes grown around their centres, cut off at the image, at least as large."""
    tight = boxes(truth.instances["visible_box"]).astype(float)
    centre = tight[:, :2] + tight[:, 2:] / 2
    half = tight[:, 2:] * np.maximum(factors, 1) / 2
    corner, opposite = np.maximum(centre - half, 0), np.minimum(centre + half, truth.sizes[:, ::-1])
    return np.concatenate([corner, opposite - corner], axis=1)


def test_a_box_head_estimates_amodal_boxes_from_visible_ones(rectangles):
    # The doors are 4, the walls 2; the detector knows them by name, in another order.
    model = stage_one("window", "wall", "door", wider=[(9, 9), (2, 0.5), (1, 3)])
    objects, steps = true_objects(rectangles), []
    config = CPU.model_copy(update={"batch_size": 3})
    found = estimate_boxes(model, objects, config, lambda *step: steps.append(step))
    walls = (rectangles.instances["category_id"] == 2).to_numpy()[:, None]
    expected = grown(rectangles, np.where(walls, (2, 0.5), (1, 3)))
    assert np.abs(boxes(found.table.predictions["amodal_box"]) - expected).max() < 1e-3
    assert steps == [(6, 8), (8, 8)]
    before, after = objects.table.predictions, found.table.predictions
    others = [name for name in before.columns if name != "amodal_box"]
    assert after[others].equals(before[others])
    assert found.table.metadata == objects.table.metadata
    run(Full(AMODAL), found)  # which has what it needs
    # One that knows a single category takes everything for it.
    found = estimate_boxes(stage_one("object", wider=[(2, 2)]), objects, CPU)
    assert np.abs(boxes(found.table.predictions["amodal_box"]) - grown(rectangles, 2)).max() < 1e-3


def test_a_detector_may_say_what_objects_are(rectangles):
    model = stage_one("window", "door", wider=[(2, 2), (3, 1)])
    score = model.detector.roi_heads.box_predictor.cls_score
    nn.init.zeros_(score.weight)
    score.bias.data = torch.tensor([9.0, 0.0, 1.0])  # background is no answer
    found = estimate_boxes(model, true_objects(rectangles), CPU, categories=False)
    expected = grown(rectangles, (3, 1))
    assert np.abs(boxes(found.table.predictions["amodal_box"]) - expected).max() < 1e-3


def test_what_cannot_be_seen_gets_no_box(rectangles):
    objects = true_objects(rectangles)
    masks = objects.table.predictions["visible_rle"].tolist()
    nothing = rle.encode(np.zeros((1, 40, 50), np.uint8))[0]
    some = objects.with_columns(visible_rle=[nothing, nothing, *masks[2:]])
    model = stage_one("wall", "door", wider=[(2, 2), (2, 2)])
    found = boxes(estimate_boxes(model, some, CPU).table.predictions["amodal_box"])
    assert np.isnan(found[:2]).all()
    assert np.abs(found[2:] - grown(rectangles, 2)[2:]).max() < 1e-3
    assert len(estimate_boxes(model, empty(objects), CPU).table.predictions) == 0


def test_detectors_that_cannot_estimate_boxes_are_refused(rectangles):
    objects = true_objects(rectangles)
    with pytest.raises(ValueError, match=r"category 'wall', which mask_rcnn .* \(window, door\)"):
        estimate_boxes(stage_one("window", "door"), objects, CPU)
    for name in ("mask_rcnn_visible", "sln", "a3d"):
        model = methods.build(tiny_method(name), 2)
        with pytest.raises(ValueError, match="cannot estimate amodal boxes"):
            estimate_boxes(model, objects, CPU)
    with pytest.raises(ValueError, match="8 of 8 predictions of 'truth' have no visible mask"):
        estimate_boxes(stage_one("wall", "door"), objects.with_columns(visible_rle=[None] * 8), CPU)
