"""Known objects: what was given, and how tables spell it."""

import dataclasses
import json

import pytest

from amodal_pipeline.annotations import Given, KnownObjects, Predictions
from amodal_pipeline.annotations.known_objects import no_objects, true_objects
from amodal_pipeline.methods.baselines import visible_mask


def detections(shapes, **columns):
    objects = true_objects(shapes).with_columns(
        prediction_id=shapes.instances["instance_id"] + 100,
        instance_id=[None] * len(shapes.instances),
        **columns,
    )
    described = {"method": "finder", "inputs": "image"}
    metadata = objects.table.metadata.model_copy(update=described)
    return dataclasses.replace(objects.table, metadata=metadata)


@pytest.mark.parametrize(
    ("inputs", "given"),
    [
        ("image", Given.IMAGE),
        ("true", Given.TRUE_MASKS),
        (True, Given.TRUE_MASKS),  # as a command line hands "true" on
        ("true_boxes", Given.TRUE_BOXES),
        ("none", Given.NOTHING),
        ("orcnn", Given.DETECTIONS),
        ("results/theirs.json", Given.DETECTIONS),
        ("", Given.DETECTIONS),
        (float("nan"), Given.DETECTIONS),
    ],
)
def test_what_was_given_is_read_from_its_spelling(inputs, given):
    assert Given.of(inputs) is given
    assert given.from_truth == (inputs in ("true", True, "true_boxes"))


def test_true_objects_and_detections_say_what_they_are(shapes):
    masks, boxes = true_objects(shapes), true_objects(shapes, boxes=True)
    assert (masks.given, masks.inputs) == (Given.TRUE_MASKS, "true")
    assert (boxes.given, boxes.inputs) == (Given.TRUE_BOXES, "true_boxes")
    assert (no_objects(shapes).given, no_objects(shapes).inputs) == (Given.NOTHING, "none")
    assert masks.table.predictions["amodal_box"].isna().all() and masks.source_id.isna().all()
    found = KnownObjects.of(detections(shapes))
    assert (found.given, found.detector, found.inputs) == (Given.DETECTIONS, "finder", "finder")
    assert found.source_id.equals(found.table.predictions["prediction_id"])
    assert KnownObjects.of(found) is found and KnownObjects.of(masks.table) == masks


def test_what_is_made_of_known_objects_holds_the_same_ones(shapes):
    for objects in (true_objects(shapes), true_objects(shapes, boxes=True), detections(shapes)):
        once = visible_mask(objects)
        again = KnownObjects.of(once)
        before = KnownObjects.of(objects)
        assert (again.given, again.inputs) == (before.given, before.inputs)
        assert again.source_id.equals(before.source_id)
        assert visible_mask(again).predictions.equals(once.predictions)


def test_detections_that_name_only_some_sources_are_a_detectors_own(shapes):
    some = [1, *[None] * (len(shapes.instances) - 1)]
    found = KnownObjects.of(detections(shapes, source_id=some))
    assert found.inputs == "finder"
    assert found.source_id.equals(found.table.predictions["prediction_id"])


def test_tables_store_the_same_text_as_before(shapes, tmp_path):
    for objects, text in (
        (true_objects(shapes), "true"),
        (true_objects(shapes, boxes=True), "true_boxes"),
        (no_objects(shapes), "none"),
    ):
        objects.table.save(tmp_path / text)
        assert json.loads((tmp_path / text / "metadata.json").read_text())["inputs"] == text
        assert Predictions.load(tmp_path / text).metadata.given is objects.given
