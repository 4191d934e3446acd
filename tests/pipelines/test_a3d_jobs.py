"""`train_a3d`, its pretraining, `evaluate`, `predict` and `ablate_a3d` with everything small."""

import json

import numpy as np
import pandas as pd
import pytest
import yaml
from kedro.framework.session import KedroSession
from mlflow import MlflowClient
from PIL import Image

from amodal_pipeline.annotations import AmodalAnnotations, Predictions, rle
from amodal_pipeline.annotations.tables import boxes
from amodal_pipeline.jobs.rows import AblationConfig, resolve
from amodal_pipeline.jobs.sources import Source
from amodal_pipeline.jobs.train import Job, Pretraining
from amodal_pipeline.methods.checkpoints import Checkpoint, MethodCard
from amodal_pipeline.metrics.score_files import load_scores
from amodal_pipeline.training.state import ChangedTrainingError
from tests.pipelines.conftest import ENVIRONMENTS, METHOD, SMALL_ENVIRONMENTS, configuration

OBJECTS = {"iterations": 2, "batch_size": 4, "checkpoint_every": 1, "log_every": 1}
MODEL = {
    "crop": {"side": 16, "image_side": 16},
    "channels": [4, 8],
    "hidden": [16, 16],
    "code": 8,
    "decoder": [16, 16],
    "subdivisions": 1,
    "refinement_channels": 4,
}
A3D = {"model": MODEL, "training": OBJECTS}
CATEGORIES = ["mug", "vase"]
SMALL = {
    "source": {
        "scenes": {"train": 5, "val": 3, "config": {"image_size": 64, "categories": CATEGORIES}}
    },
    "pretraining_views": {
        "views": {
            "train": 2,
            "val": 2,
            "config": {"image_size": 32, "azimuths": 2, "categories": ["vase", "bowl"]},
        }
    },
    "mask_rcnn": METHOD,
    "mask_rcnn_visible": METHOD,
    "pretrain_a3d": A3D,
    "a3d": A3D,
    "evaluation": {"resamples": 20, "headline_resamples": 20},
    "workers": 1,
    "pictures": 2,
    "tracking": False,
}
KEPT = ("a3d", "without_3d", "on_detections", "on_true_masks")


@pytest.mark.parametrize("env", ENVIRONMENTS)
def test_every_environment_has_a_pretraining_that_fits_and_rows(env):
    values = configuration(env)["parameters"]
    job, before = (Job.model_validate(values[name]) for name in ("a3d", "pretrain_a3d"))
    stage_one = Job.model_validate(values["mask_rcnn_visible"])
    assert job.detector == stage_one.name == "mask_rcnn_visible" and values["stage_one"] is None
    assert job.model == before.model
    if env not in SMALL_ENVIRONMENTS:
        assert (job.model.root.code, job.training.learning_rate) == (512, 1e-4)
    pretraining = Pretraining(before, Source.model_validate(values["pretraining_views"]))
    ablation = AblationConfig.model_validate(values["ablate_a3d"])
    rows = resolve(ablation, {"a3d": job}, pretraining)
    assert rows["a3d"].job == job
    assert len({row.job.training.model_dump_json() for row in rows.values()}) == 1
    trained = [row for row in rows.values() if not row.weights_of]
    starts = [row.upstream.job.model if row.upstream else None for row in trained]
    different = {(str(row.job), str(start)) for row, start in zip(trained, starts, strict=True)}
    assert len(different) == len(trained) >= 3
    for row, start in zip(trained, starts, strict=True):
        # Of its own kind: what it starts from is never shaped by a part that the row is without.
        apart = {"cross_view"}
        assert start is None or (
            start.root.model_dump(exclude=apart) == row.job.model.root.model_dump(exclude=apart)
        )


def test_views_of_the_pretraining_may_be_those_of_others_or_of_own_meshes():
    asked = {"meshes": "mine", "pretraining_views": {"kind": "nmr"}}
    parameters = configuration("kins", **asked)["parameters"]
    views = Source.model_validate(parameters["pretraining_views"])
    assert views.chosen is views.nmr and views.nmr.folder
    assert (views.views.config.meshes, views.views.train) == ("mine", 2000)


@pytest.fixture(scope="module")
def project(empty_project):
    run(empty_project, "train_a3d", SMALL | {"tracking": True})
    return empty_project


def run(project, pipeline, parameters=SMALL, **options):
    with KedroSession.create(project, runtime_params=parameters) as session:
        return session.run(pipeline_names=[pipeline], **options)


def newest(project, name):
    folder = project / "data/07_model_output/scenes/a3d" / name
    return Predictions.load(sorted(folder.iterdir())[-1] / name)


def card(project, name="a3d"):
    path = project / "data/06_models/scenes" / name / "method.json"
    return MethodCard.model_validate_json(path.read_bytes())


def parts(project, name="a3d"):
    return load_scores(project / "data/08_reporting/scenes/parts", name).results


def test_from_nothing_to_results_on_three_kinds_of_inputs(project):
    folder = project / "data/08_reporting/scenes"
    results = pd.read_csv(folder / "results.csv")
    own = results[results["method"] == "a3d"]
    assert set(own["inputs"]) == {"true_boxes", "true", "mask_rcnn_visible"}
    for inputs in set(own["inputs"]):
        beside = results[results["inputs"] == inputs]
        assert {"a3d", "visible_mask", "convex_hull"} <= set(beside["method"])
    metrics = own.set_index(["inputs", "protocol", "category", "metric"])["value"]
    assert metrics["true_boxes", "completion", "all", "mIoU_full"] > 0
    assert ("mask_rcnn_visible", "coco", "all", "AP_amodal") in metrics.index
    assert set(own["category"]) == {"all", *CATEGORIES}
    assert Image.open(folder / "a3d/reconstructions.png").size[1] > 200
    index = pd.read_csv(folder / "a3d/meshes/index.csv")
    assert len(index) and all((folder / "a3d/meshes" / name).exists() for name in index["file"])
    history = pd.read_csv(folder / "a3d/history.csv")
    assert {"loss_coarse_mask", "loss_edge", "loss_category"} <= set(history)


def test_objects_are_completed_within_true_and_within_estimated_boxes(project):
    within, estimated = (newest(project, f"predictions_{kind}") for kind in ("true_boxes", "true"))
    truth = next((project / "data/03_primary/scenes/annotations_val").iterdir())
    objects = AmodalAnnotations.load(truth / "annotations_val").instances
    objects = objects.set_index("instance_id").loc[list(within.predictions["instance_id"])]
    true, found = boxes(objects["amodal_box"]), boxes(within.predictions["amodal_box"])
    known = ~np.isnan(found[:, 0])
    assert known.any()
    # No mask reaches beyond the box that it was given, to whole pixels.
    assert (found[known, :2] >= np.floor(true[known, :2])).all()
    assert (
        found[known].reshape(-1, 2, 2).sum(1) <= np.ceil(true[known, :2] + true[known, 2:])
    ).all()
    assert (within.metadata.inputs, estimated.metadata.inputs) == ("true_boxes", "true")
    assert set(within.predictions["instance_id"]) == set(estimated.predictions["instance_id"])
    completed = newest(project, "predictions")
    assert completed.metadata.inputs == "mask_rcnn_visible"
    assert len(newest(project, "detections").predictions) == len(completed.predictions)


def test_it_starts_from_views_and_says_what_it_took(project):
    own, before = card(project), card(project, "pretrain_a3d")
    assert before.dataset == "scenes_views"
    assert own.fingerprint.parts["pretrained"] == before.fingerprint.digest
    assert own.reuse.categories == {"vase": "vase"} and own.reuse.copied > 10
    page = (project / "data/08_reporting/scenes/report.html").read_text()
    assert f"{own.reuse.copied} tensors taken whole" in page
    assert card(project, "mask_rcnn_visible").method.root.masks == "visible"


def test_mlflow_has_what_was_measured_on_which_inputs_and_what_was_reused(project):
    client = MlflowClient(f"sqlite:///{project / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("scenes").experiment_id
    runs = {r.info.run_name: r for r in client.search_runs([experiment])}
    own = runs["a3d"]
    for inputs in ("true_boxes", "true", "mask_rcnn_visible"):
        assert f"on_{inputs}/mIoU_full" in own.data.metrics
        assert "mIoU_full" in runs[f"convex_hull on {inputs}"].data.metrics
    assert own.data.tags["pretrained.copied"] == str(card(project).reuse.copied)
    assert json.loads(own.data.tags["pretrained.categories"]) == {"vase": "vase"}
    steps = client.get_metric_history(own.info.run_id, "train/loss_coarse_mask")
    assert [m.step for m in steps] == [1, 2]


def test_what_it_costs_names_stage_one(project):
    folder = project / "data/08_reporting/scenes"
    cost = json.loads((folder / "a3d/cost.json").read_text())
    weights = Checkpoint.load(project / "data/06_models/scenes/a3d").weights
    learnt = [w for name, w in weights.items() if "running" not in name and w.ndim]
    assert cost["parameters"] == sum(w.numel() for w in learnt)
    assert cost["flops"] > 0 and cost["stage_one"]["method"] == "mask_rcnn_visible"
    assert cost["stage_one"]["flops"] > cost["flops"]
    assert "after mask_rcnn_visible" in (folder / "report.html").read_text()


def test_a_second_run_trains_nothing(project):
    before = card(project), card(project, "pretrain_a3d"), card(project, "mask_rcnn_visible")
    run(project, "train_a3d", only_missing_outputs=True)
    assert before == (
        card(project),
        card(project, "pretrain_a3d"),
        card(project, "mask_rcnn_visible"),
    )
    other = {"model": MODEL | {"hidden_weight": 0.25}, "training": OBJECTS}
    for changed, difference in (
        ({"a3d": other}, "hidden_weight"),
        ({"a3d": A3D | {"pretrained": None}}, "pretrained: .* -> none"),
        ({"pretrain_a3d": other}, "pretrain_a3d belongs to another training.*(?s:.*)hidden_weight"),
    ):
        with pytest.raises(ChangedTrainingError, match=difference):
            run(project, "train_a3d", SMALL | changed, only_missing_outputs=True)


def test_another_stage_one_is_refused_where_things_are_skipped(project):
    path = project / "data/06_models/scenes/mask_rcnn_visible/method.json"
    kept = path.read_text()
    other = json.loads(kept)
    del other["sha256"]  # a card of an earlier version, which has none
    other["fingerprint"]["parts"]["training.seed"] = "1"
    path.write_text(json.dumps(other))
    try:
        with pytest.raises(ValueError, match="a3d completes was detected by another checkpoint"):
            run(project, "train_a3d", only_missing_outputs=True)
    finally:
        path.write_text(kept)


def test_the_pretraining_is_scored_on_views_apart_from_the_results(project):
    before = card(project, "pretrain_a3d")
    run(project, "pretrain_a3d")
    assert card(project, "pretrain_a3d") == before
    folder = project / "data/08_reporting/scenes"
    rows = load_scores(folder / "pretrain_a3d", "results").results
    own = rows[rows["method"] == "a3d"]
    assert set(rows["dataset"]) == {"scenes_views"} and set(own["inputs"]) == {"true_boxes"}
    assert {"vase", "bowl"} <= set(own["category"])
    assert not list((folder / "parts").glob("pretrain*"))
    run(project, "report")
    assert set(pd.read_csv(folder / "results.csv")["dataset"]) == {"scenes"}
    page = (folder / "report.html").read_text()
    assert "a3d: overlays" in page and "pretrain_a3d: " not in page
    assert (folder / "pretrain_a3d/overlays.png").exists()
    run(project, "pretrain_a3d", only_missing_outputs=True)


def test_stage_one_is_a_method_with_results_of_its_own(project):
    run(project, "train_mask_rcnn_visible")
    own = parts(project, "mask_rcnn_visible")
    own = own[own["method"] == "mask_rcnn_visible"]
    assert set(own["inputs"]) == {"image"}
    metrics = own.set_index(["protocol", "metric", "category"])["value"]
    assert pd.notna(metrics["coco", "AP_visible", "all"])
    assert ("coco", "AP_amodal", "all") not in metrics.dropna().index
    folder = project / "data/08_reporting/scenes/mask_rcnn_visible"
    assert Image.open(folder / "overlays.png").size[0] > 100
    assert "mask_rcnn_visible" in (folder.parent / "report.html").read_text()


@pytest.mark.parametrize(
    ("chosen", "inputs"),
    [
        (None, {"true_boxes", "true", "mask_rcnn_visible"}),
        ("true_boxes", {"true_boxes"}),
        (True, {"true"}),
        ("mask_rcnn_visible", {"mask_rcnn_visible"}),
    ],
)
def test_evaluate_completes_what_it_is_told_to(project, chosen, inputs):
    # Scores on other inputs are kept; here only those of this run are wanted.
    for path in (project / "data/08_reporting/scenes/parts").glob("a3d*"):
        path.unlink()
    run(project, "evaluate", SMALL | {"method": "a3d", "inputs": chosen})
    rows = parts(project)
    assert set(rows["inputs"]) == inputs
    assert set(rows["inputs"][rows["method"] == "a3d"]) == inputs


def test_a_stage_one_that_is_not_there_is_named_with_the_remedy(project):
    asked = SMALL | {"method": "a3d", "stage_one": "orcnn"}
    for inputs in (None, True):
        with pytest.raises(ValueError, match=r"(?s)--pipeline=train_orcnn.*stage_one=<detector>"):
            run(project, "evaluate", asked | {"inputs": inputs})


def test_predict_estimates_the_boxes_of_a_users_own_masks(project, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (50, 70, 3), np.uint8)
    labels = np.zeros((50, 70), np.uint8)
    labels[10:30, 20:40] = 1
    for name, values in (("images", pixels), ("masks", labels)):
        (tmp_path / name).mkdir()
        Image.fromarray(values).save(tmp_path / name / "mine.png")
    asked = SMALL | {"method": "a3d", "images": str(tmp_path / "images")}
    run(project, "predict", asked | {"masks": str(tmp_path / "masks")})
    found = newest(project, "user_predictions")
    assert rle.area(found.predictions["visible_rle"].tolist()).tolist() == [400]
    with pytest.raises(ValueError, match="train_orcnn"):
        run(project, "predict", asked | {"masks": str(tmp_path / "masks"), "stage_one": "orcnn"})


MALFORMED = ([1, 2, 3], [20, 10, 0, 5], "box", [20, 10, float("inf"), 5], [True, 1, 2, 3])


def test_predict_takes_boxes_that_are_given(project, tmp_path):
    (tmp_path / "images").mkdir()
    Image.fromarray(np.full((50, 70, 3), 90, np.uint8)).save(tmp_path / "images/mine.png")
    square = [20, 10, 40, 10, 40, 30, 20, 30]
    record = {"file_name": "mine.png", "segmentation": [square], "amodal_bbox": [20, 10, 40, 30]}
    file = tmp_path / "masks.json"
    asked = {"method": "a3d", "images": str(tmp_path / "images"), "masks": str(file)}
    asked = SMALL | asked | {"stage_one": "none"}  # is not asked
    file.write_text(json.dumps([record]))
    run(project, "predict", asked)
    assert len(newest(project, "user_predictions").predictions) == 1
    beside, large = [41, 10, 20, 20], ([0, 0, side, side] for side in (281, 2e4, 3e38, 10**400))
    for wrong in (*MALFORMED, beside, *large):
        file.write_text(json.dumps([record | {"amodal_bbox": wrong}]))
        with pytest.raises(ValueError, match=r"position 0: amodal_bbox is .*leave it out"):
            run(project, "predict", asked)


def test_rows_of_the_ablation(project):
    text = (project / "conf/base/parameters_ablate_a3d.yml").read_text()
    rows = yaml.safe_load(text.replace("${runtime_params:row, null}", "null"))
    unwanted = set(rows["ablate_a3d"]["rows"]) - set(KEPT)
    asked = SMALL | {"ablate_a3d": {"rows": dict.fromkeys(unwanted)}}
    run(project, "ablate_a3d", asked)
    table = pd.read_csv(project / "data/08_reporting/scenes/ablation_a3d.csv")
    assert set(table["row"]) == set(KEPT)
    models = "ablate_a3d"
    assert card(project, f"{models}/a3d").fingerprint == card(project).fingerprint
    flat = card(project, f"{models}/without_3d")
    before = card(project, f"{models}/without_3d.pretraining")
    assert not flat.method.root.mesh and not before.method.root.mesh
    assert flat.fingerprint.parts["pretrained"] == before.fingerprint.digest
    found = {row: parts(project, f"a3d.{row}")["inputs"].unique().tolist() for row in KEPT}
    assert found == {
        "a3d": ["true_boxes"],
        "without_3d": ["true_boxes"],
        "on_detections": ["mask_rcnn_visible"],
        "on_true_masks": ["true"],
    }


def test_without_a_stage_one_only_true_boxes_are_measured(project):
    run(project, "train_a3d", SMALL | {"a3d": A3D | {"detector": None}})
    assert set(parts(project)["inputs"]) == {"true_boxes"}
    cost = json.loads((project / "data/08_reporting/scenes/a3d/cost.json").read_text())
    assert "stage_one" not in cost


def test_views_are_a_data_set_that_it_learns_from_without_a_pretraining(project):
    views = SMALL["pretraining_views"]["views"]
    asked = {key: value for key, value in SMALL.items() if key != "source"}
    asked["source"] = {"views": views | {"config": {"image_size": 32, "azimuths": 2}}}
    with KedroSession.create(project, env="views", runtime_params=asked) as session:
        session.run(pipeline_names=["train_a3d"])
    found = MethodCard.model_validate_json(
        (project / "data/06_models/views/a3d/method.json").read_bytes()
    )
    assert found.reuse is None and found.fingerprint.parts["pretrained"] == "none"
    results = pd.read_csv(project / "data/08_reporting/views/results.csv")
    assert {"true_boxes", "true", "mask_rcnn_visible"} == set(
        results["inputs"][results["method"] == "a3d"]
    )


def test_a_pretraining_that_a_row_does_not_start_from_is_refused():
    job = Job.model_validate({"model": {"name": "a3d"}})
    views = Source.model_validate({"kind": "views", "views": {}})
    row = {"job": "a3d", "pretraining": {"model": {"cross_view": False}}}
    ablation = {"reference": "it", "metrics": ["coco/AP"], "rows": {"it": row}}
    with pytest.raises(ValueError, match=r"rows\.it has a pretraining of its own"):
        resolve(AblationConfig.model_validate(ablation), {"a3d": job}, Pretraining(job, views))
    row["pretrained"] = "pretrain_a3d"
    (found,) = resolve(
        AblationConfig.model_validate(ablation), {"a3d": job}, Pretraining(job, views)
    ).values()
    assert not found.upstream.job.model.root.cross_view and found.job.model.root.cross_view
    row["pretraining"] = {"views": {"views": {"config": {"azimuts": 3}}}}
    with pytest.raises(ValueError, match=r"rows\.it\.pretraining: (?s:.*)azimuts"):
        resolve(AblationConfig.model_validate(ablation), {"a3d": job}, Pretraining(job, views))
