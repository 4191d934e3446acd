import dataclasses

import numpy as np
import pandas as pd
import pytest
from made_up import (
    HEIGHT,
    WIDTH,
    annotations,
    measured,
    predictions,
    random_scene,
    rectangles,
)

from amodal_pipeline.annotations import rle
from amodal_pipeline.metrics import completion
from amodal_pipeline.metrics.completion import completions, in_all, match_detections
from amodal_pipeline.metrics.evidence import Evidence


def completion_rows(truth, found, matches=None, common=None):
    evidence = Evidence(truth, found)
    tallies = completion.tallies(evidence, completions(evidence, matches), common)
    return measured(tallies, len(truth.images))


def values(rows):
    assert rows["metric"].is_unique
    return {m: (v, n) for m, v, n in zip(rows["metric"], rows["value"], rows["n"], strict=True)}


def detections(truth, corners, scores=None, **columns):
    corners = np.asarray(corners).reshape(-1, 4)
    n = len(corners)
    metadata = {k: columns.pop(k) for k in ("method", "inputs") if k in columns}
    defaults = {
        "image_id": [1] * n,
        "category_id": [3] * n,
        "score": np.linspace(0.9, 0.1, n) if scores is None else scores,
        "amodal_rle": rectangles(corners),
    }
    return predictions(truth, defaults | columns, **metadata)


def test_closed_form():
    # The object is 10 x 8, its left 4 columns hidden; the prediction has 2 of these 4.
    truth = annotations([[0, 0, 10, 8], [15, 0, 25, 8]], [4, 0])
    found = values(completion_rows(truth, detections(truth, [2, 0, 10, 8])))
    assert found["mIoU_full_matched"] == (pytest.approx(80), 1)
    assert found["mIoU_occluded_matched"] == (pytest.approx(50), 1)
    assert found["mIoU_full"] == (pytest.approx(40), 2)  # the second object was missed
    assert found["mIoU_occluded"] == (pytest.approx(50), 1)
    assert found["IoU_dataset"] == (pytest.approx(100 * 64 / 160), 2)
    assert found["IoU_dataset_matched"] == (pytest.approx(80), 1)
    assert "mIoU_full_post" not in found  # no visible mask was completed


def test_dataset_level_iou_of_hidden_parts_is_a_ratio_of_sums():
    # Hidden are 4 x 8 pixels of one object, 10 x 2 of the other; found are a half and all of them.
    truth = annotations([[0, 0, 10, 8], [15, 0, 25, 2]], [4, 9])
    found = detections(truth, [[2, 0, 10, 8], [15, 0, 25, 2]], image_id=[1, 1], category_id=[3, 3])
    rows = values(completion_rows(truth, found))
    assert rows["mIoU_occluded"] == (pytest.approx(75), 2)
    assert rows["IoU_dataset_occluded"] == (pytest.approx(100 * (16 + 18) / (32 + 18)), 2)


def test_post_adds_the_visible_mask_that_was_completed():
    truth = annotations([[0, 0, 10, 8]], [4])
    # Predicted are columns 2-7; seen, by the method, were columns 6-9 and a column too many.
    found = detections(truth, [2, 0, 8, 8], visible_rle=rectangles([6, 0, 11, 8]))
    rows = values(completion_rows(truth, found))
    assert rows["mIoU_full"] == (pytest.approx(60), 1)
    assert rows["mIoU_full_post"] == (pytest.approx(100 * 8 / 11), 1)
    assert rows["mIoU_occluded"] == (pytest.approx(50), 1)
    assert rows["mIoU_occluded_post"] == (pytest.approx(100 * 2 / 5), 1)


def test_a_methods_own_mask_of_the_hidden_part_is_scored_beside_its_amodal_mask():
    # Hidden are columns 0-3 of the first object, 15-18 of the second; nobody found the third.
    truth = annotations([[0, 0, 10, 8], [15, 0, 25, 8], [0, 12, 10, 20]], [4, 4, 4])
    own = rectangles([[2, 0, 7, 8], [15, 0, 19, 8]])
    given = {"image_id": [1, 1], "category_id": [3, 3], "invisible_rle": own}
    found = detections(truth, [[4, 0, 10, 8], [15, 0, 25, 8]], **given)
    rows = values(completion_rows(truth, found))
    # Its columns 4-6 are visible: errors there do not count.
    assert rows["mIoU_occluded_head"] == (pytest.approx((50 + 100 + 0) / 3), 3)
    assert rows["mIoU_occluded_head_matched"] == (pytest.approx(75), 2)
    assert rows["mIoU_occluded_matched"] == (pytest.approx(50), 2)
    given["invisible_rle"] = [None, None]
    found = detections(truth, [[4, 0, 10, 8], [15, 0, 25, 8]], **given)
    assert not any("_head" in metric for metric in values(completion_rows(truth, found)))


def test_mean_over_categories_is_not_the_mean_over_objects():
    truth = annotations(
        [[0, 0, 10, 8], [0, 10, 10, 18], [15, 0, 25, 8]], category_ids=np.array([3, 3, 1])
    )
    found = detections(
        truth, [[0, 0, 10, 8], [0, 10, 10, 18], [15, 0, 21, 8]], category_id=[3, 3, 1]
    )
    rows = values(completion_rows(truth, found))
    assert rows["mIoU_full"] == (pytest.approx(100 * 2.6 / 3), 3)
    assert rows["mIoU_full_per_category"] == (pytest.approx(80), 3)


def test_objects_that_several_detectors_found_have_figures_of_their_own():
    truth = annotations([[0, 0, 10, 8], [12, 0, 22, 8], [0, 12, 10, 20]], [5, 5, 5])
    one = detections(truth, [[0, 0, 10, 8], [12, 0, 20, 8]], method="one")
    other = detections(truth, [[12, 0, 22, 8], [0, 12, 10, 20]], method="other")
    common = in_all([match_detections(truth, one), match_detections(truth, other)])
    assert common.note == "objects matched by one, other"
    rows = completion_rows(truth, one, common=common)
    found = values(rows)
    assert found["mIoU_full_common"] == (pytest.approx(80), 1)
    assert found["mIoU_full"] == (pytest.approx(60), 3)
    assert set(rows.loc[rows["metric"].str.endswith("_common"), "note"]) == {common.note}


@pytest.mark.parametrize("seed", range(4))
def test_equals_dense_masks(seed):
    truth, found = random_scene(seed)
    matches = match_detections(truth, found)
    drawn = dict(
        zip(
            found.predictions["prediction_id"],
            rle.decode(found.predictions["amodal_rle"].tolist(), (HEIGHT, WIDTH)).astype(bool),
            strict=True,
        )
    )
    paired = dict(zip(matches.instance_id, matches.prediction_id, strict=True))
    full, occluded = [], []
    for _, row in truth.instances[~truth.instances["ignore"].astype(bool)].iterrows():
        amodal, visible = rle.decode([row["amodal_rle"], row["visible_rle"]], (HEIGHT, WIDTH)) > 0
        mask = np.zeros_like(amodal)
        if row["instance_id"] in paired:
            mask = drawn[paired[row["instance_id"]]]
        full.append((mask & amodal).sum() / (mask | amodal).sum())
        hidden, rest = amodal & ~visible, mask & ~visible
        if hidden.any():
            occluded.append((hidden & rest).sum() / (hidden | rest).sum())
    rows = values(completion_rows(truth, found))
    assert rows["mIoU_full"] == (pytest.approx(100 * np.mean(full)), len(full))
    assert rows["mIoU_occluded"] == (pytest.approx(100 * np.mean(occluded)), len(occluded))


def test_matching_is_greedy_one_to_one_and_by_category():
    truth = annotations([[0, 0, 10, 8], [12, 0, 22, 8]], category_ids=np.array([3, 1]))
    found = detections(
        truth,
        [[1, 0, 10, 8], [0, 0, 10, 8], [12, 0, 22, 8], [0, 0, 4, 8]],
        category_id=[3, 3, 3, 3],
    )
    matches = match_detections(truth, found)
    # The best score wins although the second overlaps more; the third is of another category.
    assert dict(zip(matches.prediction_id, matches.instance_id, strict=True)) == {1: 1}
    assert matches.method == "detector"


def test_visible_masks_are_matched_to_visible_masks_where_there_are_no_others():
    truth = annotations([[0, 0, 10, 8], [12, 0, 22, 8], [0, 12, 10, 20]], [8, 3, 0])
    seen = [[8, 0, 10, 8], [15, 0, 22, 8], [0, 12, 10, 20]]
    whole = detections(truth, seen, visible_rle=rectangles(seen))
    table = whole.predictions.assign(amodal_rle=pd.array([None] * 3, "string[pyarrow]"))
    matches = match_detections(truth, dataclasses.replace(whole, predictions=table))
    assert dict(zip(matches.prediction_id, matches.instance_id, strict=True)) == {1: 1, 2: 2, 3: 3}
    # One that has amodal masks is matched by these, whatever is seen.
    assert sorted(match_detections(truth, whole).instance_id) == [2, 3]


def test_more_than_100_detections_are_matched():
    truth = annotations([[0, 0, 10, 8]])
    corners = np.tile([0, 12, 4, 16], (120, 1))
    corners[-1] = [0, 0, 10, 8]
    assert match_detections(truth, detections(truth, corners)).prediction_id.tolist() == [120]


def test_ignored_objects_take_matches_but_are_not_averaged():
    truth = annotations([[0, 0, 10, 8], [0, 2, 10, 10]], [2, 2], ignore=np.array([True, False]))
    both = detections(truth, [[0, 0, 10, 8], [0, 1, 10, 9]])
    matches = match_detections(truth, both)
    # The first detection takes the object that counts although the ignored one fits better.
    assert dict(zip(matches.prediction_id, matches.instance_id, strict=True)) == {1: 2, 2: 1}
    found = values(completion_rows(truth, both))
    assert found["mIoU_full"] == (pytest.approx(100 * 6 / 10), 1)
    assert found["mIoU_full_matched"][1] == 1


def test_completed_true_objects_are_paired_by_their_id():
    truth = annotations([[0, 0, 10, 8], [12, 0, 22, 8]], [5, 5])
    # Far below IoU 0.5: matching by overlap would find nothing.
    found = detections(
        truth, [[12, 0, 16, 8], [0, 0, 4, 8]], instance_id=[2, 1], inputs="true", method="completer"
    )
    rows = values(completion_rows(truth, found))
    assert rows["mIoU_full"] == (pytest.approx(40), 2)
    assert rows["mIoU_occluded"] == (pytest.approx(80), 2)


def test_completions_stand_on_the_detections_of_their_detector():
    truth = annotations([[0, 0, 10, 8], [12, 0, 22, 8]], [6, 0])
    detector = detections(truth, [[0, 0, 10, 8], [12, 0, 22, 8]])
    matches = match_detections(truth, detector)
    # What is left visible has IoU 0.4 with the object: alone, it would not be matched.
    baseline = detections(
        truth,
        [[12, 0, 22, 8], [6, 0, 10, 8]],
        prediction_id=[70, 71],
        source_id=[2, 1],
        method="visible_mask",
        inputs="detector",
    )
    rows = values(completion_rows(truth, baseline, matches))
    assert rows["mIoU_full_matched"] == (pytest.approx(70), 2)
    assert rows["mIoU_occluded_matched"] == (0, 1)
    assert values(completion_rows(truth, baseline))["mIoU_full_matched"][1] == 1
    assert values(completion_rows(truth, detector, matches))["mIoU_full_matched"] == (100, 2)


def test_matches_of_another_detector_are_refused():
    truth = annotations([[0, 0, 10, 8]])
    matches = match_detections(truth, detections(truth, [0, 0, 10, 8]))
    other = detections(truth, [0, 0, 10, 8], method="completer", inputs="another", source_id=[1])
    with pytest.raises(ValueError, match="matches are of the detector 'detector'"):
        completion_rows(truth, other, matches)


def test_matches_of_another_training_of_the_method_are_refused():
    truth = annotations([[0, 0, 10, 8]])
    matches = match_detections(truth, detections(truth, [0, 0, 10, 8]))
    other = detections(truth, [0, 0, 10, 8])
    metadata = other.metadata.model_copy(update={"checkpoint": "another"})
    with pytest.raises(ValueError, match="seed 0, checkpoint ''"):
        completion_rows(truth, dataclasses.replace(other, metadata=metadata), matches)


@pytest.mark.parametrize(
    ("ids", "message"),
    [([1, 1], "have the instance_id 1"), ([1, None], "no instance_id"), ([1, 9], "instance 9")],
)
def test_wrong_instance_ids_are_named(ids, message):
    truth = annotations([[0, 0, 10, 8], [12, 0, 22, 8]])
    found = detections(truth, [[0, 0, 10, 8], [12, 0, 22, 8]], instance_id=ids)
    with pytest.raises(ValueError, match=message):
        completion_rows(truth, found)


def test_nothing_predicted_is_zero():
    truth = annotations([[0, 0, 10, 8]], [2])
    rows = completion_rows(truth, detections(truth, np.zeros((0, 4), int)))
    found = values(rows)
    assert found["mIoU_full"] == (0, 1)
    assert rows.loc[rows["metric"] == "mIoU_full_matched", "value"].isna().all()
