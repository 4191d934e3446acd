"""Scoring trained methods, completers and predictions from elsewhere, as the job does it."""

import dataclasses
import json

import numpy as np
import pandas as pd
import pytest
from kedro.io import DatasetError

from amodal_pipeline.annotations import Predictions, PredictionsMetadata, rle
from amodal_pipeline.annotations.tables import PREDICTION_ORDER, PREDICTIONS, frame
from amodal_pipeline.datasets import PerMethodDataset
from amodal_pipeline.datasets.scores_dataset import load_scores, save_scores
from amodal_pipeline.metrics.config import EvaluationConfig
from amodal_pipeline.pipelines.evaluate.nodes import evaluate, evaluate_each, predict_or_read
from amodal_pipeline.training.configs import InferenceConfig

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
    return predict_or_read(models / "orcnn", truth, InferenceConfig(), str(path), "amodal")


def test_predictions_from_elsewhere_are_scored_under_the_names_of_their_files(shapes, tmp_path):
    for name in ("001", "NA", "theirs"):
        write(shapes, tmp_path / "results" / f"{name}.json", None if name == "001" else 5)
    found = read(tmp_path / "results", shapes, tmp_path / "models")
    parts = tmp_path / "parts"
    entry = PARTS | {"filepath": f"{parts}/{{method}}.csv"}
    dataset = PerMethodDataset(dataset=entry)
    with pytest.raises(DatasetError, match="nothing was saved in this run"):
        dataset.load()
    for one in evaluate_each(shapes, found, QUICK, tmp_path):
        dataset.save(one)
    loaded = dataset.load()
    assert sorted(loaded) == ["001", "NA", "theirs"]
    for name, scores in loaded.items():
        methods = set(scores.results["method"]) - {"order_by_area", "order_by_lowest_point"}
        assert methods == {name}
        assert name in set(scores.draws["method"])
        value = scores.results.query("metric == 'AP_amodal' and category == 'all'")["value"]
        assert (value == 100).all() == (name == "001")


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
    with pytest.raises(DatasetError, match="the draws are of another evaluation"):
        load_scores(tmp_path, "detector")
    (tmp_path / "detector.draws.parquet").write_bytes(b"PAR1")
    with pytest.raises(DatasetError, match=r"detector\.draws\.parquet cannot be read as draws"):
        load_scores(tmp_path, "detector")
