"""Objects under several occluders as a user runs it, with everything small."""

import pandas as pd
import pytest
from kedro.framework.session import KedroSession
from mlflow import MlflowClient
from PIL import Image

from amodal_pipeline.annotations import AmodalAnnotations
from amodal_pipeline.metrics.score_files import load_scores
from amodal_pipeline.visuals.definitions import PROTOCOLS, definition
from tests.pipelines.conftest import DETECTOR

SMALL = {
    "source": {"scenes": {"train": 3, "val": 4, "config": {"image_size": 64}}},
    "orcnn": {
        "model": {"detector": DETECTOR, "mask_head": {"convolutions": 1, "channels": 16}},
        "training": {
            "iterations": 2,
            "warmup_iterations": 1,
            "checkpoint_every": 2,
            "log_every": 1,
            "augmentation": {"min_sizes": [64], "max_size": 64},
        },
        "pretrained": None,
    },
    "evaluation": {"resamples": 20, "headline_resamples": 20},
    "occluder_consistency": {"variants": 2, "min_area": 60, "max_occlusion_rate": 0.3},
    "workers": 1,
    "pictures": 2,
    "method": "orcnn",
}


@pytest.fixture(scope="module")
def project(empty_project):
    run(empty_project, "train_orcnn", to_outputs=["orcnn.results"], tracking=False)
    run(empty_project, "occluder_consistency")
    return empty_project


def run(project, pipeline, only_missing_outputs=False, to_outputs=None, **changes):
    with KedroSession.create(project, runtime_params=SMALL | changes) as session:
        return session.run(
            pipeline_names=[pipeline],
            only_missing_outputs=only_missing_outputs,
            to_outputs=to_outputs,
        )


def newest(project, name):
    versions = sorted((project / "data/03_primary/scenes" / name).iterdir())
    return AmodalAnnotations.load(versions[-1] / name)


def pictures(project):
    folder = project / "data/02_intermediate/scenes/consistency"
    return {p.name: p.stat().st_mtime_ns for p in folder.glob("*.png")}


def test_pictures_predictions_and_results(project):
    val, variants = (newest(project, f"annotations_{s}") for s in ("val", "consistency"))
    assert set(variants.images["file_name"]) == set(pictures(project))
    assert set(variants.images["video_id"]) <= set(val.images["image_id"])
    scores = load_scores(project / "data/08_reporting/scenes/parts", "orcnn.consistency")
    rows = scores.results[["method", "inputs", "protocol", "metric"]].to_numpy().tolist()
    assert sorted(rows) == sorted(
        [method, inputs, "consistency", f"occluder_consistency{suffix}"]
        for method, inputs in (
            ("orcnn", "image"),
            ("visible_mask", "orcnn"),
            ("convex_hull", "orcnn"),
        )
        for suffix in ("", "_all")
    )
    targets = variants.instances["track_id"].nunique()
    of_all = scores.results["metric"] == "occluder_consistency_all"
    assert set(scores.results["n"][of_all.to_numpy(bool)]) == {targets}
    made = scores.results["run_id"].unique()
    assert [i.split("-")[1:] for i in made] == [
        [variants.fingerprint[:12], val.fingerprint[:12]],
    ]
    picture = project / "data/08_reporting/scenes/orcnn/occluder_consistency.png"
    assert Image.open(picture).size[0] > 700


def test_tracked_under_the_method(project):
    client = MlflowClient(f"sqlite:///{project / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("scenes")
    runs = client.search_runs([experiment.experiment_id])
    (child,) = (r for r in runs if r.data.tags.get("method") == "orcnn")
    assert "occluder_consistency_all" in child.data.metrics
    (baseline,) = (r for r in runs if r.data.tags.get("method") == "visible_mask")
    assert "occluder_consistency_all" in baseline.data.metrics


def test_the_report_has_them_beside_the_other_results(project):
    run(project, "report", tracking=False)
    results = pd.read_csv(project / "data/08_reporting/scenes/results.csv")
    of_orcnn = results[(results["method"] == "orcnn") & (results["inputs"] == "image")]
    assert {"coco", "completion", "consistency"} <= set(of_orcnn["protocol"])
    page = (project / "data/08_reporting/scenes/report.html").read_text()
    assert "occluder_consistency_all" in page
    assert definition("occluder_consistency") != definition("occluder_consistency_all") != ""
    assert "under different pasted occluders" in PROTOCOLS["consistency"]


def test_pictures_are_made_once_and_of_one_split(project):
    before = pictures(project)
    run(project, "occluder_consistency", tracking=False)
    assert pictures(project) == before

    other = {"scenes": {"train": 3, "val": 4, "config": {"image_size": 64, "seed": 7}}}
    run(project, "prepare", tracking=False, source=other)
    with pytest.raises(ValueError, match="another version of the validation data: run again"):
        run(project, "occluder_consistency", only_missing_outputs=True, tracking=False)
    run(project, "occluder_consistency", tracking=False)
    variants, val = (newest(project, f"annotations_{s}") for s in ("consistency", "val"))
    assert variants.metadata.sources["annotations_val"] == val.fingerprint
