"""Nodes of the training template, without a project around them."""

import dataclasses

import numpy as np
import pytest

from amodal_pipeline.annotations.tables import PREDICTIONS, frame
from amodal_pipeline.pipelines.train.nodes import detect, on_true_objects
from amodal_pipeline.training.completing import true_objects
from amodal_pipeline.training.configs import InferenceConfig


def detections(shapes, rows, **changes):
    """The true objects of some rows, in another order, as a detector would have found them."""
    truth = true_objects(shapes)
    table = truth.predictions.iloc[rows]
    columns = {name: table[name] for name in table.columns}
    columns |= {
        "prediction_id": np.arange(len(rows)) + 1000,
        "instance_id": [None] * len(rows),
        "amodal_rle": shapes.instances["amodal_rle"].iloc[rows].tolist(),
        **changes,
    }
    return dataclasses.replace(truth, predictions=frame(PREDICTIONS, columns))


def test_detections_get_the_objects_that_they_are(shapes):
    rows = [5, 0, 3]
    found = on_true_objects(shapes, detections(shapes, rows)).predictions
    expected = shapes.instances["instance_id"].iloc[rows]
    by_detection = found.set_index("prediction_id")["instance_id"].sort_index()
    assert by_detection.tolist() == expected.tolist()
    masks = shapes.instances.set_index("instance_id")["visible_rle"]
    assert found["visible_rle"].tolist() == masks[found["instance_id"]].tolist()


def test_a_detection_of_nothing_is_no_object(shapes):
    twice = detections(shapes, [0, 0, 2])
    assert len(on_true_objects(shapes, twice).predictions) == 2


def test_a_detector_without_visible_masks_is_refused(shapes):
    with pytest.raises(ValueError, match="orcnn, vrsp"):
        on_true_objects(shapes, detections(shapes, [0, 1], visible_rle=[None, None]))


def test_without_a_detector_nothing_is_found(shapes):
    found = detect([], shapes, InferenceConfig(workers=0))
    assert len(found.predictions) == 0 and len(found.images) == len(shapes.images)
    assert on_true_objects(shapes, found) is None
