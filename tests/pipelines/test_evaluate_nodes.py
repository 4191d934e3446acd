"""Scoring trained methods, completers and predictions from elsewhere, as the job does it."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from kedro.io import DatasetError

from amodal_pipeline.annotations import Predictions, PredictionsMetadata, rle
from amodal_pipeline.annotations.known_objects import true_objects
from amodal_pipeline.annotations.tables import PREDICTION_ORDER, PREDICTIONS, frame
from amodal_pipeline.datasets import PerMethodDataset
from amodal_pipeline.jobs import chosen, complete
from amodal_pipeline.jobs.chosen import Choice, predict_chosen, predict_or_read
from amodal_pipeline.jobs.complete import (
    complete_detections,
    complete_true,
    complete_true_at_cost,
)
from amodal_pipeline.jobs.detect import predict
from amodal_pipeline.jobs.evaluate import (
    draw_each,
    evaluate,
    evaluate_completions,
    evaluate_each,
)
from amodal_pipeline.methods import pretrained
from amodal_pipeline.methods.checkpoints import Checkpoint, Fingerprint, MethodCard
from amodal_pipeline.methods.configs import C2FSegConfig, MaskTokenizerConfig
from amodal_pipeline.methods.registry import MethodConfig
from amodal_pipeline.methods.training_config import InferenceConfig
from amodal_pipeline.metrics.config import EvaluationConfig
from amodal_pipeline.metrics.score_files import load_scores, save_scores
from tests.training.test_completing import Echo

ROOT = Path(__file__).parents[2]
QUICK = EvaluationConfig(headline_resamples=60, resamples=60)
PARTS = {
    "type": "amodal_pipeline.datasets.ScoresDataset",
    "filepath": "{folder}/{method}.csv",
}


def predictions(truth, method="detector", inputs="image", **columns):
    """The truth as detections; ``columns`` say what was completed."""
    table = truth.instances
    columns = {
        "prediction_id": np.arange(len(table)) + 10,
        "score": np.linspace(1, 0.5, len(table)),
        **{name: table[name] for name in ("image_id", "category_id", "amodal_rle", "visible_rle")},
        **columns,
    }
    described = truth.metadata.model_dump(include={"dataset", "split", "categories", "image_root"})
    metadata = PredictionsMetadata(
        method=method, inputs=inputs, annotations=truth.fingerprint, **described
    )
    order = frame(PREDICTION_ORDER, {})
    return Predictions(metadata, truth.images, frame(PREDICTIONS, columns), order)


def keep(found, folder):
    found.save(folder / found.metadata.method / "predictions" / "2026-01-01" / "predictions")


def lines(scores):
    return set(scores.results[["method", "inputs"]].itertuples(index=False, name=None))


def test_a_detector_has_its_baselines_beside_it(shapes, tmp_path):
    scores = evaluate(shapes, predictions(shapes), QUICK, tmp_path)
    assert lines(scores) == {
        ("detector", "image"),
        ("visible_mask", "detector"),
        ("convex_hull", "detector"),
        ("order_by_area", "detector"),
        ("order_by_lowest_point", "detector"),
    }
    rules = scores.results[scores.results["method"].str.startswith("order_by")]
    assert set(rules["protocol"]) == {"order"}
    assert (scores.results["run_id"].str.endswith(shapes.fingerprint[:12])).all()


def test_a_completer_stands_on_the_detections_it_completed(shapes, tmp_path):
    detector = predictions(shapes)
    source = detector.predictions["prediction_id"]
    # Shrunk to a corner, no completion would be matched by its own mask.
    corner = np.zeros((len(source), 64, 64), np.uint8)
    corner[:, :2, :2] = 1
    completer = predictions(
        shapes, "completer", "detector", source_id=source, amodal_rle=rle.encode(corner)
    )
    with pytest.raises(ValueError, match="'detector' has no predictions in"):
        evaluate(shapes, completer, QUICK, tmp_path)
    keep(detector, tmp_path)
    scores = evaluate(shapes, completer, QUICK, tmp_path)
    assert {inputs for _, inputs in lines(scores)} == {"detector"}
    rows = scores.results[scores.results["metric"] == "mIoU_full_matched"]
    assert (rows["n"] == len(source)).all()


def test_completed_true_masks_are_never_said_to_rest_on_a_detector(shapes, tmp_path):
    found = predictions(shapes, "completer", "true", instance_id=shapes.instances["instance_id"])
    assert {inputs for _, inputs in lines(evaluate(shapes, found, QUICK, tmp_path))} == {"true"}


def test_figures_over_objects_that_all_named_methods_found(shapes, tmp_path):
    half = predictions(shapes, "half")
    half = dataclasses.replace(half, predictions=half.predictions.iloc[:6])
    config = QUICK.model_copy(update={"matched_by": ("half", "detector")})
    keep(half, tmp_path)
    with pytest.raises(ValueError, match="--params method=detector"):
        evaluate(shapes, half, config, tmp_path)
    keep(predictions(shapes), tmp_path)
    rows = evaluate(shapes, predictions(shapes), config, tmp_path).results
    row = rows[(rows["metric"] == "mIoU_full_common") & (rows["method"] == "detector")].iloc[0]
    assert (row["n"], row["note"]) == (6, "objects matched by half, detector")


def test_what_a_detector_of_visible_masks_found_can_be_a_common_population(shapes, tmp_path):
    keep(predictions(shapes, "seen", amodal_rle=[None] * 16), tmp_path)
    keep(predictions(shapes, "blind", amodal_rle=[None] * 16, visible_rle=[None] * 16), tmp_path)
    config = QUICK.model_copy(update={"matched_by": ("seen",)})
    rows = evaluate(shapes, predictions(shapes), config, tmp_path).results
    assert set(rows["n"][rows["metric"] == "mIoU_full_common"]) == {16}
    config = QUICK.model_copy(update={"matched_by": ("seen", "blind")})
    with pytest.raises(ValueError, match="'blind', which predicts no masks"):
        evaluate(shapes, predictions(shapes), config, tmp_path)


def write(truth, path, count=None):
    table = truth.instances.iloc[:count]
    records = [
        {
            "image_id": image,
            "category_id": category,
            "score": 0.5,
            "segmentation": {"size": [64, 64], "counts": counts},
        }
        for image, category, counts in zip(
            *(table[c] for c in ("image_id", "category_id", "amodal_rle")), strict=True
        )
    ]
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(records))


def read(path, truth, models):
    choice = Choice(models / "orcnn", str(path))
    found, *others = predict_chosen(choice, truth, InferenceConfig(), models)
    assert others == [{}, {}, {}, {}]
    return found


def test_predictions_from_elsewhere_are_scored_under_the_names_of_their_files(shapes, tmp_path):
    for name in ("001", "NA", "theirs"):
        write(shapes, tmp_path / "results" / f"{name}.json", None if name == "001" else 5)
    found = read(tmp_path / "results", shapes, tmp_path / "models")
    parts = tmp_path / "parts"
    entry = PARTS | {"filepath": f"{parts}/{{method}}.csv"}
    dataset = PerMethodDataset(dataset=entry)
    with pytest.raises(DatasetError, match="nothing was saved in this run"):
        dataset.load()
    dataset.save({})
    assert dataset.load() == {}
    for one in evaluate_each(shapes, {}, QUICK, tmp_path, found):
        dataset.save(one)
    loaded = dataset.load()
    assert sorted(loaded) == ["001", "NA", "theirs"]
    for name, scores in loaded.items():
        methods = set(scores.results["method"]) - {"order_by_area", "order_by_lowest_point"}
        assert methods == {name}
        assert name in set(scores.draws["method"])
        value = scores.results.query("metric == 'AP_amodal' and category == 'all'")["value"]
        assert (value == 100).all() == (name == "001")


def test_scores_on_one_input_leave_those_on_others(shapes, tmp_path, caplog):
    def score(inputs, checkpoint="first", amodal="amodal_rle"):
        source = {"source_id": np.arange(len(shapes.instances)) + 10}
        if inputs == "true":
            source = {"instance_id": shapes.instances["instance_id"]}
        rles = shapes.instances[amodal]
        found = predictions(shapes, "completer", inputs, amodal_rle=rles, **source)
        made = found.metadata.model_copy(update={"checkpoint": checkpoint})
        found = dataclasses.replace(found, metadata=made)
        detector = predictions(shapes, "orcnn")
        return evaluate_completions(shapes, detector, QUICK, tmp_path, found)

    catalog = yaml.safe_load((ROOT / "conf/base/catalog.yml").read_text())
    entry = catalog["chosen.results"]["dataset"] | {"filepath": f"{tmp_path}/{{method}}.csv"}
    save = PerMethodDataset(dataset=entry).save
    on_true, on_orcnn = score("true"), score("orcnn")
    save({"completer": on_true})
    save({"completer": on_orcnn})
    kept = load_scores(tmp_path, "completer")
    for field in dataclasses.fields(kept):
        expected = [getattr(on_orcnn, field.name), getattr(on_true, field.name)]
        expected = pd.concat(expected, ignore_index=True)
        pd.testing.assert_frame_equal(getattr(kept, field.name), expected)
    # The same input again replaces what was there.
    save({"completer": score("orcnn", amodal="visible_rle")})
    again = load_scores(tmp_path, "completer").results
    own = again[(again["method"] == "completer") & (again["metric"] == "mIoU_full")]
    own = own[own["category"] == "all"].set_index("inputs")["value"]
    assert len(own) == 2 and own["orcnn"] < own["true"] == 100
    # Scores of another checkpoint go, and files that cannot be read.
    save({"completer": score("true", checkpoint="second")})
    assert set(load_scores(tmp_path, "completer").results["inputs"]) == {"true"}
    (tmp_path / "completer.draws.parquet").write_bytes(b"")
    save({"completer": on_orcnn})
    assert set(load_scores(tmp_path, "completer").results["inputs"]) == {"orcnn"}
    assert "completer.draws.parquet cannot be read" in caplog.text


@pytest.mark.parametrize("name", ["orcnn", "orcnn.no_prior"])
def test_results_of_a_method_trained_here_are_not_replaced(shapes, tmp_path, name):
    write(shapes, tmp_path / "results" / f"{name}.json")
    card = tmp_path / "models" / "orcnn" / "method.json"
    card.parent.mkdir(parents=True)
    card.write_text("{}")
    for path in (tmp_path / "results", tmp_path / "results" / f"{name}.json"):
        with pytest.raises(ValueError, match="orcnn is trained here"):
            read(path, shapes, tmp_path / "models")


def test_scores_come_back_as_they_were_and_damage_is_named(shapes, tmp_path):
    scores = evaluate(shapes, predictions(shapes), QUICK, tmp_path)
    save_scores(tmp_path, "detector", scores)
    again = load_scores(tmp_path, "detector")
    for field in dataclasses.fields(scores):
        pd.testing.assert_frame_equal(getattr(scores, field.name), getattr(again, field.name))
    assert pd.read_parquet(tmp_path / "detector.draws.parquet")["values"].map(len).eq(60).all()

    other = predictions(shapes)
    other = dataclasses.replace(
        other, metadata=other.metadata.model_copy(update={"checkpoint": "another"})
    )
    save_scores(tmp_path, "other", evaluate(shapes, other, QUICK, tmp_path))
    (tmp_path / "other.draws.parquet").replace(tmp_path / "detector.draws.parquet")
    with pytest.raises(ValueError, match="the draws are of another evaluation"):
        load_scores(tmp_path, "detector")
    (tmp_path / "detector.draws.parquet").write_bytes(b"PAR1")
    with pytest.raises(ValueError, match=r"detector\.draws\.parquet cannot be read as draws"):
        load_scores(tmp_path, "detector")


CPU = InferenceConfig(device="cpu", workers=0)
CROP = {"side": 64, "image_side": 8, "enlarge": 3.0}


def checkpoint(truth, config=None, **parts):
    config = config or C2FSegConfig(crop=CROP)
    card = MethodCard(
        method=MethodConfig(config),
        categories=truth.metadata.categories,
        dataset="shapes",
        fingerprint=Fingerprint(parts={"name": config.name, **parts}),
        iterations=1,
        seed=4,
    )
    return Checkpoint(card, {})


@pytest.fixture
def completer(shapes, monkeypatch):
    """A completer that makes each object four pixels larger all around."""
    made = checkpoint(shapes)
    crop = made.card.method.root.crop
    monkeypatch.setattr(pretrained, "restore", lambda checkpoint: Echo(crop, grown=6).eval())
    return made


def test_a_completer_has_its_baselines_on_true_masks_and_on_a_detector(shapes, completer, tmp_path):
    detections = predictions(shapes)
    true, cost = complete_true_at_cost(completer, shapes, CPU)
    assert true.predictions.equals(complete_true(completer, shapes, CPU).predictions)
    assert (cost["height"], cost["width"], cost["parameters"]) == (8, 8, 0)
    assert cost["images_per_second"] > 0
    found = complete_detections(completer, shapes, detections, CPU)
    made = found.metadata
    assert (made.method, made.inputs, made.seed) == ("c2f_seg", "detector", 4)
    assert made.checkpoint == completer.card.fingerprint.digest
    scores = evaluate_completions(shapes, detections, QUICK, tmp_path, true, found)
    assert lines(scores) == {
        (method, inputs)
        for inputs in ("true", "detector")
        for method in (
            "c2f_seg",
            "visible_mask",
            "convex_hull",
            "convex_hull_in_order",  # that of the completed masks
            "order_by_area",
            "order_by_lowest_point",
        )
    }
    table = scores.results
    table = table[(table["category"] == "all") & table["protocol"].isin(["coco", "completion"])]
    rows = table.set_index(["method", "inputs", "metric"])["value"]
    # Nothing was detected where the objects are given; boxes are those of completed masks.
    assert ("c2f_seg", "true", "AP_amodal") not in rows.index
    assert rows["c2f_seg", "detector", "AP_amodal"] < 100
    for inputs in ("true", "detector"):
        assert (
            rows["c2f_seg", inputs, "mIoU_occluded"] > rows["visible_mask", inputs, "mIoU_occluded"]
        )
    # Detections that are the truth are completed as the truth is.
    assert rows["c2f_seg", "detector", "mIoU_full"] == pytest.approx(
        rows["c2f_seg", "true", "mIoU_full"]
    )
    alone = evaluate_completions(shapes, None, QUICK, tmp_path, true)
    assert {inputs for _, inputs in lines(alone)} == {"true"}


def test_an_order_has_hulls_that_keep_to_it(shapes, completer, tmp_path):
    true = complete_true(completer, shapes, CPU)
    ordered = dataclasses.replace(true, order=true_objects(shapes).table.order)
    rows = evaluate_completions(shapes, None, QUICK, tmp_path, ordered).results
    rows = rows[rows["category"] == "all"].set_index(["method", "metric"])
    value, run_id = rows["value"], rows["run_id"]
    assert value["c2f_seg", "order_accuracy_touching"] == 100
    # Squares whose hidden corner is a hull's half.
    within, hull = (
        [value[name, metric] for metric in ("mIoU_full", "IoU_dataset_occluded")]
        for name in ("convex_hull_in_order", "convex_hull")
    )
    assert np.allclose(within, hull) and 20 < hull[1] < 60
    assert run_id["convex_hull_in_order", "mIoU_full"] == run_id["c2f_seg", "mIoU_full"]
    assert run_id["convex_hull", "mIoU_full"] != run_id["c2f_seg", "mIoU_full"]


def test_without_a_detector_only_true_masks_are_scored(shapes, completer, tmp_path):
    none = predictions(shapes, "none")
    none = dataclasses.replace(none, predictions=none.predictions.iloc[:0])
    found = complete_detections(completer, shapes, none, CPU)
    true = complete_true(completer, shapes, CPU)
    scores = evaluate_completions(shapes, none, QUICK, tmp_path, true, found)
    assert {inputs for _, inputs in lines(scores)} == {"true"}


def test_a_detector_of_visible_masks_only_is_matched_by_these(shapes, completer, tmp_path):
    detections = predictions(shapes, amodal_rle=[None] * 16)
    found = complete_detections(completer, shapes, detections, CPU)
    scores = evaluate_completions(shapes, detections, QUICK, tmp_path, found)
    rows = scores.results[scores.results["metric"] == "mIoU_full_matched"]
    assert set(rows["n"]) == {16}


def test_what_a_completer_is_given_must_fit(shapes, completer, caplog):
    with pytest.raises(ValueError, match="'detector' are for other annotations"):
        complete_detections(completer, shapes.subset([1]), predictions(shapes), CPU)
    with pytest.raises(ValueError, match="have no visible mask, which c2f_seg needs"):
        complete_detections(completer, shapes, predictions(shapes, visible_rle=[None] * 16), CPU)
    nothing = rle.encode(np.zeros((1, 64, 64), np.uint8))
    masks = [*nothing, *shapes.instances["visible_rle"][1:]]
    complete_detections(completer, shapes, predictions(shapes, visible_rle=masks), CPU)
    assert "1 of 16 objects of 'detector' have no visible pixel" in caplog.text
    with pytest.raises(ValueError, match="c2f_seg completes objects that it is given"):
        predict(completer, shapes, CPU)
    with pytest.raises(ValueError, match="mask_tokenizer is a part of a method"):
        predict(checkpoint(shapes, MaskTokenizerConfig()), shapes, CPU)


def complete_chosen(truth, models, output, inputs):
    """Return (found, noisy, true, true_boxes, detections) by method."""
    return predict_chosen(Choice(models / "c2f_seg", inputs=inputs), truth, CPU, output)


def test_the_job_completes_what_it_is_told_to(shapes, completer, tmp_path, monkeypatch):
    models, output = tmp_path / "models", tmp_path / "output"
    detector = checkpoint(shapes, MethodConfig.model_validate({"name": "orcnn"}).root)
    digest = detector.card.fingerprint.digest
    dataclasses.replace(completer, card=checkpoint(shapes, detected=digest).card).save(
        models / "c2f_seg"
    )
    with pytest.raises(ValueError, match="any more: name the one whose detections"):
        complete_chosen(shapes, models, output, None)
    detector.save(models / "mine")
    stored = predictions(shapes, "mine")
    stored = dataclasses.replace(
        stored, metadata=stored.metadata.model_copy(update={"checkpoint": digest})
    )
    keep(stored, output)
    # The detector that it was trained with, as it was evaluated.
    found, noisy, true, true_boxes, detections = complete_chosen(shapes, models, output, None)
    assert true_boxes == noisy == {}
    assert found["c2f_seg"].metadata.inputs == "mine"
    assert true["c2f_seg"].metadata.inputs == "true"
    assert detections["c2f_seg"].predictions.equals(stored.predictions)
    scored = dict(next(evaluate_each(shapes, detections, QUICK, output, true, found)))
    assert {inputs for _, inputs in lines(scored["c2f_seg"])} == {"mine", "true"}
    assert draw_each(shapes, 1, true, found)["c2f_seg"].width > 3 * 300
    # Kedro hands "true" on as a truth value.
    for inputs in ("true", True):
        found, _, true, *others = complete_chosen(shapes, models, output, inputs)
        assert (found, list(true), others) == ({}, ["c2f_seg"], [{}, {}])
    with pytest.raises(ValueError, match="c2f_seg looks around visible boxes"):
        complete_chosen(shapes, models, output, "true_boxes")
    write(shapes, tmp_path / "results" / "theirs.json")
    theirs = str(tmp_path / "results" / "theirs.json")
    found, _, true, *_ = complete_chosen(shapes, models, output, theirs)
    assert found["c2f_seg"].metadata.inputs == "theirs" and not true
    # What was predicted by another checkpoint is predicted again.
    keep(predictions(shapes, "mine"), output)
    monkeypatch.setattr(
        "amodal_pipeline.jobs.chosen.predict",
        lambda made, *_: predictions(shapes, "again") if made.card == detector.card else None,
    )
    assert complete_chosen(shapes, models, output, "mine")[0]["c2f_seg"].metadata.inputs == "again"


def test_predictions_of_another_program_are_scored_without_images(shapes, tmp_path, caplog):
    absent = shapes.metadata.model_copy(update={"image_root": str(tmp_path / "absent")})
    truth = dataclasses.replace(shapes, metadata=absent)
    write(truth, tmp_path / "results" / "theirs.json")
    found = read(tmp_path / "results", truth, tmp_path / "models")
    assert lines(dict(next(evaluate_each(truth, {}, QUICK, tmp_path, found)))["theirs"])
    assert draw_each(truth, 2, found) == {}
    assert "pictures are left out: 2 of the 2 images to draw on" in caplog.text
    assert set(draw_each(shapes, 2, found)) == {"theirs"}


def test_a_detector_is_given_nothing_to_complete(shapes, tmp_path):
    checkpoint(shapes, MethodConfig.model_validate({"name": "orcnn"}).root).save(tmp_path / "orcnn")
    with pytest.raises(ValueError, match="orcnn finds objects itself"):
        predict_or_read(Choice(tmp_path / "orcnn", inputs="true"), shapes, CPU, tmp_path)


def boxed(truth, **parts):
    return checkpoint(
        truth, C2FSegConfig(crop=CROP | {"around": "amodal", "enlarge": 1.0}), **parts
    )


@pytest.fixture
def boxes_by(shapes, monkeypatch):
    """Names of detectors that are asked for boxes, each of which gives the true ones."""
    asked = []

    def with_true_boxes(stage_one, objects, inference, *, categories=True):
        asked.append(stage_one.card.method.root.name)
        asked_for, table = objects.table, shapes.instances
        box = {
            mask: box
            for kind in ("visible_rle", "amodal_rle")
            for mask, box in zip(table[kind], table["amodal_box"], strict=True)
        }
        given = [box[mask] for mask in asked_for.predictions["visible_rle"]]
        made = {"boxes_by": asked[-1], "boxes_checkpoint": stage_one.card.fingerprint.digest}
        metadata = asked_for.metadata.model_copy(update=made)
        table = dataclasses.replace(asked_for, metadata=metadata)
        return dataclasses.replace(objects, table=table).with_columns(amodal_box=given)

    for job in (chosen, complete):
        monkeypatch.setattr(job, "with_boxes", with_true_boxes)
    return asked


def test_boxes_are_estimated_by_the_detector_that_a_method_was_trained_with(
    shapes, completer, boxes_by, tmp_path
):
    models = tmp_path / "models"
    detector, other = (
        checkpoint(shapes, MethodConfig.model_validate({"name": name}).root)
        for name in ("orcnn", "mask_rcnn")
    )
    detector.save(models / "orcnn")
    other.save(models / "mask_rcnn")
    digest = detector.card.fingerprint.digest

    def made(stage_one=None, detector=None, inputs=True, **parts):
        boxed(shapes, **parts).save(models / "c2f_seg")
        choice = Choice(models / "c2f_seg", None, "amodal", inputs, stage_one, detector)
        return predict_or_read(choice, shapes, CPU, tmp_path)[0]

    run_ids = []
    for asked, expected in (
        ({"detected": digest, "detector": "mask_rcnn"}, "orcnn"),
        ({"detected": digest, "stage_one": "mask_rcnn"}, "mask_rcnn"),
        ({"detector": "mask_rcnn"}, "mask_rcnn"),
    ):
        (true,) = made(**asked)
        assert boxes_by[-1] == true.metadata.boxes_by == expected
        scores = evaluate_completions(shapes, None, QUICK, tmp_path, true)
        run_ids.append(dict(scores.results.groupby("method")["run_id"].first()))
    # Results tell by whose boxes; what is not completed rests on none.
    assert len({each["c2f_seg"] for each in run_ids[:2]}) == 2
    assert len({each["visible_mask"] for each in run_ids}) == 1
    with pytest.raises(ValueError, match="no detector is named that estimates them: name one"):
        made()
    (within,) = made(inputs=None)
    assert within.metadata.inputs == "true_boxes"


def test_detections_without_amodal_boxes_have_them_estimated(shapes, completer, boxes_by, tmp_path):
    models = tmp_path / "models"
    boxed(shapes).save(models / "c2f_seg")
    checkpoint(shapes, MethodConfig.model_validate({"name": "orcnn"}).root).save(models / "orcnn")
    write(shapes, tmp_path / "theirs.json")
    file = str(tmp_path / "theirs.json")
    choice = Choice(models / "c2f_seg", inputs=file, detector="orcnn")
    (found,), given = predict_or_read(choice, shapes, CPU, tmp_path)
    assert boxes_by == ["orcnn"] and given.predictions["amodal_box"].notna().all()
    assert (found.metadata.inputs, found.metadata.boxes_by) == ("theirs", "orcnn")
