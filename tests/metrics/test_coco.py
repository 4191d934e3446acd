import contextlib
import dataclasses
import io

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up import (
    HEIGHT,
    WIDTH,
    annotations,
    measured,
    predictions,
    random_scene,
    rectangles,
    truth_as_predictions,
    value_of,
)
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from amodal_pipeline.annotations import rle
from amodal_pipeline.annotations.tables import PREDICTIONS, boxes, frame
from amodal_pipeline.metrics import protocols
from amodal_pipeline.metrics.coco import candidates, match
from amodal_pipeline.metrics.evidence import Evidence
from tests import tables

STATS = {"AP": 0, "AP50": 1, "AP75": 2, "AR1": 6, "AR10": 7, "AR100": 8}


class IgnoringEval(COCOeval):
    """pycocotools takes ``ignore`` from ``iscrowd``; here the flag that was given is kept."""

    def _prepare(self):
        super()._prepare()
        for objects in self._gts.values():
            for instance in objects:
                instance["ignore"] = instance["left_out"]


def pycocotools_results(truth, found, target, left_out, class_agnostic=False):
    """The oracle: its 12 numbers and its evaluation, on the same tables."""
    column = {"amodal": "amodal_rle", "visible": "visible_rle", "box": "amodal_box"}[target]

    def records(table):
        shapes = table[column]
        given = boxes(shapes).astype(float).tolist() if target == "box" else shapes.tolist()
        for i, (image, category, shape) in enumerate(
            zip(table["image_id"], table["category_id"], given, strict=True)
        ):
            record = {"id": i + 1, "image_id": int(image), "category_id": int(category)}
            if target == "box":
                record |= {"bbox": shape, "area": shape[2] * shape[3]}
            else:
                record["segmentation"] = {"size": [HEIGHT, WIDTH], "counts": shape.encode()}
                record["area"] = int(rle.area([shape])[0])
                record["bbox"] = [0, 0, 1, 1]
            yield record

    ground_truth, detections = COCO(), COCO()
    with contextlib.redirect_stdout(io.StringIO()):
        ground_truth.dataset = {
            "images": [
                {"id": int(i), "height": HEIGHT, "width": WIDTH} for i in truth.images["image_id"]
            ],
            "categories": [{"id": c.id, "name": c.name} for c in truth.metadata.categories],
            "annotations": [
                r | {"iscrowd": 0, "left_out": int(left_out[r["id"] - 1])}
                for r in records(truth.instances)
            ],
        }
        ground_truth.createIndex()
        detections.dataset = ground_truth.dataset | {
            # A detection that says that nothing is visible is no detection of a visible mask.
            "annotations": [
                r | {"score": float(found.predictions["score"].iloc[r["id"] - 1]), "iscrowd": 0}
                for r in records(found.predictions)
                if target != "visible" or r["area"] > 0
            ]
        }
        detections.createIndex()
        run = IgnoringEval(ground_truth, detections, "bbox" if target == "box" else "segm")
        run.params.useCats = int(not class_agnostic)
        run.evaluate()
        run.accumulate()
        run.summarize()
    return run


def coco_rows(truth, found, thresholds=(0.15,), class_agnostic=False):
    """COCO's figures, and those of occluded objects."""
    evidence = Evidence(truth, found)
    tallies = [
        *protocols.coco(evidence, class_agnostic=class_agnostic, per_category=True),
        *protocols.vrsp(evidence, thresholds),
    ]
    return measured(tallies, len(truth.images))


def flags_of(truth, target, threshold=None):
    instances = truth.instances
    left_out = instances["ignore"].to_numpy(bool)
    if target == "visible":
        left_out = left_out | (rle.area(instances["visible_rle"].tolist()) == 0)
    if threshold is not None:
        amodal = rle.area(instances["amodal_rle"].tolist())
        visible = rle.area(instances["visible_rle"].tolist())
        left_out = left_out | (amodal - visible <= threshold * amodal + 1e-9)
    return left_out


@settings(max_examples=200, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    class_agnostic=st.booleans(),
    target=st.sampled_from(["amodal", "visible", "box"]),
    size=st.tuples(st.integers(4, 40), st.integers(0, 150), st.integers(1, 6)),
)
def test_equals_pycocotools(seed, class_agnostic, target, size):
    truth, found = random_scene(seed, *size)
    rows = coco_rows(truth, found, class_agnostic=class_agnostic)
    left_out = flags_of(truth, target)
    oracle = pycocotools_results(truth, found, target, left_out, class_agnostic)
    for name, place in STATS.items():
        row = value_of(rows, f"{name}_{target}")
        expected = 100 * oracle.stats[place] if (~left_out).any() else np.nan
        assert row["value"] == pytest.approx(expected, abs=1e-9, nan_ok=True)
        assert row["n"] == (~left_out).sum()
    if class_agnostic:
        assert set(rows["category"]) == {"all"}
        return
    for k, category_id in enumerate(oracle.params.catIds):
        precision = oracle.eval["precision"][:, :, k, 0, -1]
        name = {c.id: c.name for c in truth.metadata.categories}[category_id]
        own = rows[(rows["metric"] == f"AP_{target}") & (rows["category"] == name)]
        if (precision < 0).all():
            assert own.empty
        else:
            assert own["value"].item() == pytest.approx(100 * precision.mean(), abs=1e-9)


@pytest.mark.parametrize("target", ["amodal", "visible", "box"])
@pytest.mark.parametrize("seed", range(4))
def test_occluded_objects_equal_pycocotools(seed, target):
    truth, found = random_scene(seed)
    left_out = flags_of(truth, target, 0.15)
    oracle = pycocotools_results(truth, found, target, left_out)
    rows = coco_rows(truth, found)
    for name, place in STATS.items():
        row = value_of(rows, f"{name}_{target}_occluded15")
        assert row["value"] == pytest.approx(100 * oracle.stats[place], abs=1e-9)
        assert row["n"] == (~left_out).sum()


@pytest.mark.parametrize("seed", range(3))
def test_equals_pycocotools_with_more_detections_than_count(seed):
    truth, found = random_scene(seed, objects=12, detections=500, images=2)
    assert (found.predictions.groupby(["image_id", "category_id"]).size() > 100).any()
    rows = coco_rows(truth, found)
    oracle = pycocotools_results(truth, found, "amodal", flags_of(truth, "amodal"))
    for name, place in STATS.items():
        expected = 100 * oracle.stats[place]
        assert value_of(rows, f"{name}_amodal")["value"] == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("seed", range(4))
def test_each_match_is_the_one_pycocotools_makes(seed):
    truth, found = random_scene(seed)
    left_out = flags_of(truth, "amodal")
    oracle = pycocotools_results(truth, found, "amodal", left_out)
    expected = {}
    for image in oracle.evalImgs:
        if image is not None and image["aRng"] == oracle.params.areaRng[0]:
            for detection, matches in zip(image["dtIds"], image["dtMatches"].T, strict=True):
                expected[detection - 1] = matches.astype(int) - 1
    evidence = Evidence(truth, found)
    c = candidates(evidence.by_category, evidence.amodal)
    matched = match(c, left_out[c.ranking.truth_row])
    rows = np.where(matched >= 0, c.ranking.truth_row[matched], -1)
    assert len(expected) == len(c.ranking.detection_row)
    for place, row in enumerate(c.ranking.detection_row):
        np.testing.assert_array_equal(rows[:, place], expected[row])


@pytest.mark.parametrize("seed", range(3))
def test_an_image_that_weighs_twice_counts_as_two(seed):
    """Every weighting equals the figures of a data set with images repeated and left out."""
    truth, found = random_scene(seed, detections=200)
    random = np.random.default_rng(seed)
    weights = random.integers(0, 3, 6)
    # Of equal scores it is open which comes first, and copies of an image would be told apart.
    scores = pd.Series(random.permutation(200) / 200)
    table = frame(PREDICTIONS, found.predictions.assign(score=scores))
    found = dataclasses.replace(found, predictions=table)
    tallies = list(protocols.coco(Evidence(truth, found), per_category=True))
    repeated, again = _repeat(truth, found, weights)
    for tally, expected in zip(tallies, protocols.coco(Evidence(repeated, again)), strict=True):
        n = len(expected.rows)
        given = tally.values(np.stack([np.ones(6), weights]))[1, :n]
        plain = expected.values(np.ones((1, weights.sum())))[0]
        np.testing.assert_allclose(given, plain, atol=1e-9)


def test_truth_against_itself_is_exactly_100():
    truth = annotations(
        [[0, 0, 8, 8], [4, 4, 20, 20], [1, 1, 9, 12], [15, 1, 23, 12]],
        [0, 4, 8, 0],
        np.array([1, 1, 2, 2]),
        np.array([3, 3, 1, 1]),
        images=2,
    )
    rows = coco_rows(truth, truth_as_predictions(truth))
    reached = rows[~rows["metric"].str.contains("AR1_")]
    assert (reached["value"] == 100).all()
    assert value_of(rows, "AR1_amodal")["value"] == 50  # one of two cars, one of two riders
    # A rider is fully hidden: it does not count among the visible masks, nor does its detection.
    assert value_of(rows, "AP_visible")["n"] == 3
    assert value_of(rows, "AP_amodal_occluded15")["n"] == 2


def test_closed_form_average_precision():
    """Two of four objects found, first and third of four detections: precisions 1 and 2/3."""
    corners = np.array([[0, 0, 5, 5], [6, 0, 11, 5], [12, 0, 17, 5], [18, 0, 23, 5]])
    truth = annotations(corners)
    drawn = corners.copy()
    drawn[[1, 3], 1] += 12
    drawn[[1, 3], 3] += 12
    found = predictions(
        truth,
        {
            "image_id": [1] * 4,
            "category_id": [3] * 4,
            "score": [0.9, 0.8, 0.7, 0.6],
            "amodal_rle": rectangles(drawn),
        },
    )
    rows = coco_rows(truth, found)
    # Recalls 0 … 0.25 (26 points) at precision 1, 0.26 … 0.5 (25 points) at 2/3.
    expected = 100 * (26 + 25 * 2 / 3) / 101
    assert value_of(rows, "AP_amodal")["value"] == pytest.approx(expected, abs=1e-12)
    assert value_of(rows, "AR100_amodal")["value"] == 50
    assert value_of(rows, "AR1_amodal")["value"] == 25


def test_detection_of_an_ignored_object_counts_neither_way_but_a_stray_one_is_false():
    truth = annotations([[0, 0, 8, 8], [10, 0, 18, 8]], [0, 4])
    columns = {"image_id": [1, 1], "category_id": [3, 3], "score": [0.9, 0.5]}
    both = predictions(truth, columns | {"amodal_rle": rectangles([[0, 0, 8, 8], [10, 0, 18, 8]])})
    stray = predictions(
        truth, columns | {"amodal_rle": rectangles([[0, 12, 8, 20], [10, 0, 18, 8]])}
    )
    assert value_of(coco_rows(truth, both), "AP_amodal_occluded15")["value"] == 100
    assert value_of(coco_rows(truth, stray), "AP_amodal_occluded15")["value"] == 50


def test_no_rows_of_masks_a_method_does_not_have():
    truth = annotations([[0, 0, 8, 8]])
    found = predictions(
        truth,
        {"image_id": [1], "category_id": [3], "score": [1.0], "amodal_rle": rectangles([0] * 4)},
    )
    metrics = set(coco_rows(truth, found)["metric"])
    assert "AP_amodal" in metrics
    assert not any("visible" in name or "box" in name for name in metrics)


def test_nothing_predicted_is_zero_and_nothing_to_find_is_null():
    truth = annotations([[0, 0, 8, 8]])
    nothing = predictions(truth, {"image_id": [], "category_id": [], "score": []})
    rows = coco_rows(truth, nothing)
    assert value_of(rows, "AP_amodal")["value"] == 0
    row = value_of(rows, "AP_amodal_occluded15")
    assert row["n"] == 0
    assert rows["value"].isna().sum() == 18  # the occluded metrics: nothing is occluded

    empty = annotations(np.zeros((0, 4), int))
    rows = coco_rows(empty, nothing, thresholds=())
    assert rows["value"].isna().all()
    assert (rows["n"] == 0).all()


def test_threshold_of_one_allows_for_rounding():
    truth = annotations([[0, 0, 8, 8]])
    evidence = Evidence(truth, truth_as_predictions(truth))
    c = candidates(evidence.by_category, evidence.amodal)
    c = dataclasses.replace(c, iou=np.array([1 - 1e-12]))
    assert match(c, np.array([False]), np.array([1.0])).tolist() == [[0]]


def _repeat(truth, found, weights):
    """Both tables with each image as often as ``weights`` says, in the order of the ids."""
    image_ids = np.sort(truth.images["image_id"].to_numpy(np.int64))
    copies = [(i, image) for i, w in zip(image_ids, weights, strict=True) for image in range(w)]
    instances, rows, new = [], [], 0
    for image, _ in copies:
        new += 1
        instances.append(truth.instances[truth.instances["image_id"] == image].assign(image_id=new))
        own = found.predictions[found.predictions["image_id"] == image]
        rows.append(own.assign(image_id=new))
    instances, rows = pd.concat(instances), pd.concat(rows)
    columns = ["image_id", "category_id", "amodal_rle", "visible_rle", "ignore"]
    again = tables.annotations(
        dict.fromkeys(range(1, new + 1), (HEIGHT, WIDTH)),
        {c: instances[c].tolist() for c in columns},
        categories=truth.metadata.categories,
    )
    columns = ["image_id", "category_id", "score", "amodal_rle", "visible_rle"]
    described = {c: rows[c].tolist() for c in columns}
    described["amodal_box"] = boxes(rows["amodal_box"])
    return again, predictions(again, described)
