"""Nodes of the training template, without a project around them."""

import dataclasses
import json

import numpy as np
import pytest
from pydantic import ValidationError

from amodal_pipeline.annotations import Given
from amodal_pipeline.annotations.known_objects import true_objects
from amodal_pipeline.annotations.tables import PREDICTIONS, frame
from amodal_pipeline.jobs.ablate import Materials, _inputs
from amodal_pipeline.jobs.parts import Parts
from amodal_pipeline.jobs.rows import Row
from amodal_pipeline.jobs.train import (
    Job,
    detect,
    find_detector,
    on_true_objects,
    train_part,
)
from amodal_pipeline.methods.training_config import InferenceConfig
from tests.conftest import tiny_training


def detections(shapes, rows, **changes):
    """The true objects of some rows, in another order, as a detector would have found them."""
    truth = true_objects(shapes).table
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


def completer_job(**values):
    return Job.model_validate({"model": {"name": "c2f_seg"}, **values})


def test_a_completer_learns_from_another_programs_visible_masks(shapes, tmp_path):
    """A results file per split; its one mask is the visible one, and matches objects too."""
    truth = shapes.instances
    records = [
        {
            "image_id": int(truth["image_id"].iloc[row]),
            "category_id": int(truth["category_id"].iloc[row]),
            "score": 0.9,
            "segmentation": {"size": [64, 64], "counts": truth["visible_rle"].iloc[row]},
        }
        for row in (5, 0, 3)
    ]
    (tmp_path / "theirs_train.json").write_text(json.dumps(records))
    job = completer_job(detector=str(tmp_path / "theirs_{split}.json"))
    assert find_detector(shapes, job, tmp_path) == []
    found = detect([], shapes, InferenceConfig(workers=0), job)
    assert found.metadata.method == "theirs"
    learnt = on_true_objects(shapes, found).predictions
    masks = truth.set_index("instance_id")["visible_rle"]
    assert sorted(learnt["instance_id"]) == sorted(truth["instance_id"].iloc[[5, 0, 3]])
    assert learnt["visible_rle"].tolist() == masks[learnt["instance_id"]].tolist()

    val = dataclasses.replace(shapes, metadata=shapes.metadata.model_copy(update={"split": "val"}))
    with pytest.raises(ValueError, match=r"theirs_val\.json"):
        detect([], val, InferenceConfig(workers=0), job)
    with pytest.raises(ValidationError, match=r"\{split\}"):
        completer_job(detector="theirs.json")


def test_without_a_detector_nothing_is_found(shapes):
    found = detect([], shapes, InferenceConfig(workers=0), completer_job())
    assert len(found.predictions) == 0 and len(found.images) == len(shapes.images)
    assert on_true_objects(shapes, found) is None


def test_restart_leaves_a_finished_part_that_is_unchanged(shapes, tmp_path):
    model = {
        "name": "mask_tokenizer",
        "crop": {"side": 16, "image_side": 16},
        "channels": 4,
        "multipliers": [1, 1],
        "codes": 4,
        "code_size": 4,
        "adversarial": 0.0,
    }
    job = Job.model_validate({"model": model, "training": tiny_training(iterations=2).model_dump()})
    first, _ = train_part(shapes, job, tmp_path, False, [])
    first.save(tmp_path)
    history = (tmp_path / "history.jsonl").read_text()
    train_part(shapes, job, tmp_path, True, [])
    assert (tmp_path / "history.jsonl").read_text() == history  # its speed would be another
    other = job.model_copy(update={"training": tiny_training(iterations=3)})
    again, _ = train_part(shapes, other, tmp_path, True, [])
    assert again.card.iterations == 3


def test_a_row_that_completes_detections_needs_a_detector(shapes, tmp_path):
    nothing = detect([], shapes, None, completer_job())
    given = Materials(Parts(), detections=nothing)
    row = Row("on_detections", completer_job())
    assert _inputs(row, given) == "image"
    assert _inputs(dataclasses.replace(row, completes=Given.TRUE_MASKS), given) == "true"
    with pytest.raises(ValueError, match=r"rows\.on_detections"):
        _inputs(dataclasses.replace(row, completes=Given.DETECTIONS), given)
