import dataclasses

import numpy as np
import pandas as pd
import pytest
from made_up import annotations, predictions, random_scene, rectangles, truth_as_predictions
from pydantic import ValidationError

from amodal_pipeline.annotations.tables import PREDICTIONS, frame
from amodal_pipeline.metrics.completion import match_detections
from amodal_pipeline.metrics.config import EvaluationConfig
from amodal_pipeline.metrics.evaluate import evaluate
from amodal_pipeline.metrics.scores import SCHEMAS, join


def changed(found, metadata=None, **columns):
    table = frame(PREDICTIONS, found.predictions.assign(**columns))
    described = found.metadata.model_copy(update=metadata or {})
    return dataclasses.replace(found, metadata=described, predictions=table)


QUICK = EvaluationConfig(headline_resamples=0, resamples=0)
COCO_ROWS = 6 * 3
ORCNN_ROWS = 6 * 3 * 2 + 1
AMODALAPI_ROWS = 4 * 5
COMPLETION_ROWS = 6 * 2 * 2


def test_all_rows_of_a_detector():
    truth, found = random_scene(1)
    scores = evaluate(truth, found, QUICK, match_detections(truth, found), run_id="r1")
    rows = scores.results
    overall = rows[rows["category"] == "all"]
    assert overall.groupby("protocol").size().to_dict() == {
        "coco": COCO_ROWS,
        "coco_agnostic": COCO_ROWS,
        "vrsp": COCO_ROWS,
        "orcnn": ORCNN_ROWS,
        "amodalapi": AMODALAPI_ROWS,
        "completion": COMPLETION_ROWS,
    }
    assert not overall.duplicated(["protocol", "metric"]).any()
    assert set(rows["run_id"]) == {"r1"}
    assert set(rows["category"]) == {"all", "car", "rider"}  # there is no cow
    assert len(scores.objects) == (~truth.instances["ignore"].astype(bool)).sum()
    assert set(scores.curves["target"]) == {"amodal", "visible"}


def test_results_on_visible_masks_alone_say_so():
    truth, found = random_scene(1)
    plain = evaluate(truth, found, QUICK).results["note"].tolist()
    modal = truth.metadata.model_copy(update={"modal": True})
    noted = evaluate(dataclasses.replace(truth, metadata=modal), found, QUICK).results["note"]
    assert not any(note.startswith("truth: visible") for note in plain) and any(plain)
    assert all(
        note == "; ".join(filter(None, ["truth: visible masks only, whole objects unknown", old]))
        for note, old in zip(noted, plain, strict=True)
    )


def test_config_chooses_the_rows():
    truth, found = random_scene(1)
    config = EvaluationConfig(
        occlusion_thresholds=(0.0, 0.125), per_category=False, vrsp_released=True, resamples=0
    )
    rows = evaluate(truth, found, config).results
    assert {"AP_amodal_occluded0", "AP_box_occluded12.5"} <= set(rows["metric"])
    assert "AP_amodal_occluded15" not in set(rows["metric"])
    assert set(rows["category"]) == {"all"}
    assert "vrsp_released" in set(rows["protocol"])
    with pytest.raises(ValidationError):
        EvaluationConfig(occlusion_thresholds=(1.5,))


def test_truth_against_itself_is_exactly_100_in_every_metric():
    truth, _ = random_scene(2)
    # Objects that fill the same pixels cannot be told apart, nor those of one place and score.
    keep = ~truth.instances.duplicated(["image_id", "amodal_rle"]).to_numpy()
    truth = dataclasses.replace(truth, instances=truth.instances[keep].reset_index(drop=True))
    found = truth_as_predictions(truth)
    rows = evaluate(truth, found, EvaluationConfig(vrsp_released=True)).results
    # One detection an image, or ten, cannot find more objects than that.
    full = rows[~rows["metric"].str.match("AR10?_")]
    assert (full["value"].dropna() == 100).all(), full[full["value"] != 100]
    assert len(full["value"].dropna()) > 100
    intervals = full.dropna(subset=["low"])
    assert (intervals["low"] == 100).all()
    assert (intervals["high"] == 100).all()


def test_nothing_predicted_is_0_in_every_metric():
    truth, found = random_scene(2)
    nothing = dataclasses.replace(found, predictions=found.predictions.iloc[:0])
    rows = evaluate(truth, nothing, EvaluationConfig(vrsp_released=True)).results
    assert set(rows["protocol"]) >= {"coco", "orcnn", "amodalapi", "completion"}
    assert (rows["value"].dropna() == 0).all()
    none_matched = rows["metric"].str.endswith("_matched")
    assert (rows["value"].isna() == (none_matched | (rows["n"] == 0))).all()


def test_completed_true_objects_get_no_average_precision():
    truth = annotations([[0, 0, 8, 8]], [3])
    found = changed(truth_as_predictions(truth, inputs="true"), instance_id=[1])
    assert set(evaluate(truth, found, QUICK).results["protocol"]) == {"completion"}


def test_a_method_with_visible_masks_alone_is_marked_where_they_stand_for_amodal_ones():
    truth = annotations([[0, 0, 8, 8]], [3])
    found = predictions(
        truth,
        {"image_id": [1], "category_id": [3], "score": [1.0]}
        | {"visible_rle": rectangles([3, 0, 8, 8])},
    )
    rows = evaluate(truth, found, QUICK).results
    assert set(rows["protocol"]) == {"coco", "coco_agnostic", "vrsp", "orcnn"}
    assert rows[rows["protocol"] == "coco"]["metric"].str.contains("visible").all()
    ours = rows[rows["protocol"] == "orcnn"].set_index("metric")
    assert ours.loc["AP_both", "note"] == "no amodal masks: scored with the visible ones"
    assert ours.loc["AP_visible", "note"] == ""
    assert ours.loc["AP50_amodal", "value"] == 100  # 5 of 8 columns: IoU 0.625
    assert "AP50_invisible" not in ours.index


def test_intervals_hold_the_value_and_draws_belong_to_the_rows():
    truth, found = random_scene(3, objects=60, detections=200, images=20)
    config = EvaluationConfig(headline_resamples=120, resamples=60)
    scores = evaluate(truth, found, config)
    rows = scores.results[scores.results["category"] == "all"]
    row = rows[(rows["protocol"] == "coco") & (rows["metric"] == "AP_amodal")].iloc[0]
    assert 0 <= row["low"] < row["value"] < row["high"] <= 100
    draws = scores.draws.set_index(["protocol", "metric"])
    assert len(draws) == len(rows)
    sample = np.array(draws.loc[("coco", "AP_amodal"), "values"])
    assert len(sample) == 120
    assert len(draws.loc[("orcnn", "AP_both"), "values"]) == 60
    np.testing.assert_allclose(np.quantile(sample, 0.025), row["low"], rtol=1e-5)
    assert draws.loc[("coco", "AP_amodal"), "value"] == row["value"]
    again = evaluate(truth, found, config)
    pd.testing.assert_frame_equal(scores.results, again.results)


def test_objects_name_the_prediction_that_was_taken_for_them():
    truth = annotations([[0, 0, 10, 8], [15, 0, 25, 8]], [4, 0])
    found = changed(truth_as_predictions(truth), prediction_id=[8, 9])
    lost = dataclasses.replace(found, predictions=found.predictions.iloc[:1])
    objects = evaluate(truth, lost, QUICK).objects
    assert objects["prediction_id"].tolist() == [8, pd.NA]
    assert objects["matched"].tolist() == [True, False]
    assert objects["iou_full"].tolist() == [1, 0]
    assert objects["iou_occluded"].tolist() == [1, pd.NA]


@pytest.mark.parametrize(
    ("metadata", "columns", "message"),
    [
        ({"split": "test"}, {}, "are for made_up/test, not for the annotations made_up/val"),
        ({"dataset": "kins"}, {}, "are for kins/val"),
        ({}, {"category_id": None}, "150 have no category_id"),
        ({}, {"image_id": 99}, "e.g. image 99: predict again"),
        ({}, {"category_id": 5}, "use the category 5"),
        ({}, {"prediction_id": 1}, "use a prediction_id twice"),
        ({}, {"score": np.nan}, "no finite score"),
        ({}, {"score": None}, "no finite score"),
        (
            {},
            {"amodal_rle": "0"},
            "prediction 1 of 'detector': amodal_rle: run lengths cover 0 pixels",
        ),
        ({}, {"visible_rle": "~"}, "visible_rle: the run-length string is damaged"),
    ],
)
def test_predictions_that_do_not_belong_are_refused(metadata, columns, message):
    truth, found = random_scene(1)
    n = len(found.predictions)
    found = changed(found, metadata, **{k: pd.Series([v] * n) for k, v in columns.items()})
    with pytest.raises(ValueError, match=message):
        evaluate(truth, found, QUICK)
    with pytest.raises(ValueError, match=message):
        match_detections(truth, found)


def test_predictions_that_leave_out_images_are_refused():
    truth, found = random_scene(1)
    found = dataclasses.replace(found, images=found.images.iloc[1:])
    with pytest.raises(ValueError, match="leave out 1 of 6 images"):
        evaluate(truth, found, QUICK)


def test_what_several_parts_say_alike_is_kept_once():
    truth, found = random_scene(1)
    config = EvaluationConfig(headline_resamples=3, resamples=3)
    once = evaluate(truth, found, config, match_detections(truth, found))
    twice = join([once, once])
    for name in SCHEMAS:
        assert len(getattr(twice, name)) == len(getattr(once, name)) > 0
    half = once.results.assign(value=once.results["value"] / 2, low=np.nan, high=np.nan)
    with pytest.raises(ValueError, match="twice"):
        join([once, dataclasses.replace(once, results=half)])
