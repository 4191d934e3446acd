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


def changed(found, metadata=None, **columns):
    table = frame(PREDICTIONS, found.predictions.assign(**columns))
    described = found.metadata.model_copy(update=metadata or {})
    return dataclasses.replace(found, metadata=described, predictions=table)


def test_all_rows_of_a_detector():
    truth, found = random_scene(1)
    rows = evaluate(truth, found, EvaluationConfig(), match_detections(truth, found), run_id="r1")
    assert set(rows["protocol"]) == {"coco", "completion"}
    overall = rows[rows["category"] == "all"]
    assert len(overall) == 6 * 3 * 2 + 4
    assert overall["metric"].is_unique
    assert set(rows["run_id"]) == {"r1"}
    assert set(rows["category"]) == {"all", "car", "rider"}  # there is no cow


def test_config_chooses_the_rows():
    truth, found = random_scene(1)
    config = EvaluationConfig(occlusion_thresholds=(0.0, 0.125), per_category=False)
    metrics = set(evaluate(truth, found, config)["metric"])
    assert {"AP_amodal_occluded0", "AP_box_occluded12.5"} <= metrics
    assert "AP_amodal_occluded15" not in metrics
    with pytest.raises(ValidationError):
        EvaluationConfig(occlusion_thresholds=(1.5,))


def test_completed_true_objects_get_no_average_precision():
    truth = annotations([[0, 0, 8, 8]], [3])
    found = changed(truth_as_predictions(truth, inputs="true"), instance_id=[1])
    assert set(evaluate(truth, found, EvaluationConfig())["protocol"]) == {"completion"}


def test_visible_masks_alone_get_no_completion_rows():
    truth = annotations([[0, 0, 8, 8]], [3])
    found = predictions(
        truth,
        {"image_id": [1], "category_id": [3], "score": [1.0]}
        | {"visible_rle": rectangles([3, 0, 8, 8])},
    )
    rows = evaluate(truth, found, EvaluationConfig())
    assert set(rows["protocol"]) == {"coco"}
    assert rows["metric"].str.contains("visible").all()


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
        evaluate(truth, found, EvaluationConfig())
    with pytest.raises(ValueError, match=message):
        match_detections(truth, found)


def test_predictions_that_leave_out_images_are_refused():
    truth, found = random_scene(1)
    found = dataclasses.replace(found, images=found.images.iloc[1:])
    with pytest.raises(ValueError, match="leave out 1 of 6 images"):
        evaluate(truth, found, EvaluationConfig())
