"""The project as a user runs it, in a folder of its own, with everything small."""

import inspect
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import get_type_hints

import pandas as pd
import pytest
import yaml
from kedro.framework.session import KedroSession
from mlflow import MlflowClient
from PIL import Image

from amodal_pipeline.annotations import AmodalAnnotations, Predictions
from amodal_pipeline.pipeline_registry import register_pipelines
from amodal_pipeline.training.state import ChangedTrainingError

ROOT = Path(__file__).resolve().parents[2]
PHOTOGRAPHS = ROOT.parent / "shared" / "data" / "coco_panoptic"

DETECTOR = {
    "backbone": {"name": "resnet18", "weights": None, "pyramid_channels": 16},
    "proposals": {"after_nms_train": 40, "after_nms_test": 40},
    "box_head": {"channels": 32, "samples_per_image": 32, "score_threshold": 0.0},
    "min_size": 64,
    "max_size": 64,
}
TRAINING = {
    "iterations": 4,
    "warmup_iterations": 1,
    "checkpoint_every": 2,
    "log_every": 1,
    "augmentation": {"min_sizes": [64], "max_size": 64},
}
METHOD = {
    "model": {"detector": DETECTOR, "mask_head": {"convolutions": 1, "channels": 16}},
    "training": TRAINING,
}
SMALL = {
    "source": {"scenes": {"train": 6, "val": 3, "config": {"image_size": 96}}},
    "mask_rcnn": METHOD,
    "orcnn": METHOD,
    "workers": 1,
    "pictures": 2,
}


@pytest.fixture(scope="module")
def project(empty_project):
    return empty_project


def run(project, pipeline="__default__", env=None, parameters=None, **options):
    with KedroSession.create(project, env=env, runtime_params=parameters or SMALL) as session:
        return session.run(pipeline_names=[pipeline], **options)


def client_of(project) -> MlflowClient:
    return MlflowClient(f"sqlite:///{project / 'mlflow.db'}")


def runs_of(project, dataset="scenes"):
    experiment = client_of(project).get_experiment_by_name(dataset)
    return client_of(project).search_runs(
        [experiment.experiment_id], order_by=["attributes.start_time ASC"]
    )


def test_registering_the_pipelines_imports_nothing_heavy():
    code = (
        "import os, sys; from amodal_pipeline.pipeline_registry import register_pipelines; "
        "register_pipelines(); import amodal_pipeline.settings; "
        "heavy = {'torch', 'mlflow', 'matplotlib', 'trimesh', 'timm', 'numba'} & set(sys.modules); "
        # OpenMP reads it with torch.
        "spins = os.environ.get('OMP_WAIT_POLICY') != 'PASSIVE'; "
        "sys.exit(str(heavy or 'threads spin') if heavy or spins else 0)"
    )
    environment = {k: v for k, v in os.environ.items() if k != "OMP_WAIT_POLICY"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr


def test_the_types_of_every_node_resolve():
    # Kedro passes plain dictionaries, with a warning at most, where they do not.
    for name, pipeline in register_pipelines().items():
        for node in pipeline.nodes:
            hints = get_type_hints(node.func)
            for parameter in inspect.signature(node.func).parameters.values():
                if parameter.kind is not parameter.VAR_POSITIONAL:
                    assert parameter.name in hints, (name, node.name, parameter.name)


def test_outputs_of_different_data_sets_never_share_a_path():
    catalog = yaml.safe_load((ROOT / "conf/base/catalog.yml").read_text())
    for name, entry in catalog.items():
        if entry["type"] == "MemoryDataset":
            continue
        path = entry.get("dataset", entry)["filepath"]
        brought = path.startswith(("${runtime_params", "docs/")) or "01_raw" in path
        assert brought or "${globals:dataset}" in path, name


def test_the_main_job_from_nothing_to_a_report(project):
    run(project)
    folder = project / "data" / "08_reporting" / "scenes"
    results = pd.read_csv(folder / "results.csv")
    methods = set(results["method"][results["protocol"] != "order"])
    assert methods == {"mask_rcnn", "orcnn", "visible_mask", "convex_hull"}
    assert {"AP_amodal", "AP75_amodal_occluded15", "mIoU_occluded"} <= set(results["metric"])
    assert results["value"].dropna().between(0, 100).all()
    page = (folder / "report.html").read_text()
    assert "convex_hull" in page and "data:image/" in page
    for picture in ("preview_train", "comparison", "orcnn/overlays", "orcnn/loss_curves"):
        assert Image.open(folder / f"{picture}.png").size[0] > 100
    for method in ("mask_rcnn", "orcnn"):
        model = project / "data/06_models/scenes" / method
        assert (model / "model.safetensors").exists() and (model / "method.json").exists()


def test_mlflow_has_a_child_run_for_each_method_with_losses_by_step(project):
    runs = runs_of(project)
    parents = [r for r in runs if "mlflow.parentRunId" not in r.data.tags]
    children = {r.info.run_name: r for r in runs if "mlflow.parentRunId" in r.data.tags}
    baselines = {"visible_mask", "convex_hull", "order_by_area", "order_by_lowest_point"}
    assert len(parents) == 1
    assert set(children) == {"mask_rcnn", "orcnn"} | {f"{name} on orcnn" for name in baselines}
    assert all(r.info.status == "FINISHED" for r in runs)
    client = client_of(project)
    losses = client.get_metric_history(children["orcnn"].info.run_id, "train/loss_invisible_mask")
    assert [m.step for m in losses] == [1, 2, 3, 4]
    metrics = children["orcnn"].data.metrics
    own = {"AP_amodal", "AP_visible", "AP_amodal_occluded15", "mIoU_full", "mIoU_occluded"}
    own |= {"AP_both"}
    assert {name for name in metrics if not name.startswith("train/")} == own
    assert own <= children["convex_hull on orcnn"].data.metrics.keys()
    assert {f"{name}/{m}" for name in ("orcnn", "convex_hull on orcnn") for m in own} <= parents[
        0
    ].data.metrics.keys()
    assert children["orcnn"].data.params["training.iterations"] == "4"
    assert parents[0].data.params["source.scenes.train"] == "6"
    assert parents[0].data.params["orcnn.training.iterations"] == "4"
    assert not [name for name in parents[0].data.params if name.startswith(("vrsp", "ablate"))]
    assert parents[0].data.tags["data.annotations_train.fingerprint"]
    assert parents[0].data.tags["data.annotations_train.version"]
    kept = {f.path for f in client.list_artifacts(children["orcnn"].info.run_id)}
    assert kept == {"pictures", "checkpoint", "results.csv"}
    assert "report.html" in {f.path for f in client.list_artifacts(parents[0].info.run_id)}


def test_mlflow_has_true_times_and_says_what_was_run_on_which_data(project):
    runs = runs_of(project)
    (parent,) = (r for r in runs if "mlflow.parentRunId" not in r.data.tags)
    children = {r.info.run_name: r for r in runs if r is not parent}
    first, second = children["mask_rcnn"], children["orcnn"]
    for run in (parent, first, second):
        assert run.data.tags["mlflow.source.name"] == "kedro run --pipelines=__default__"
        assert run.data.tags["mlflow.user"]
        data = {(i.dataset.name, i.tags[0].value) for i in run.inputs.dataset_inputs}
        assert data == {("scenes train", "training"), ("scenes val", "validation")}
    # Each is closed when its method is done, not when the run ends.
    assert first.info.end_time <= parent.info.end_time and first.info.start_time > 0
    assert second.info.end_time < parent.info.end_time  # the report comes after it
    for name in ("train/loss", "AP_amodal"):
        for metric in client_of(project).get_metric_history(second.info.run_id, name):
            assert second.info.start_time <= metric.timestamp <= second.info.end_time


def test_what_exists_is_skipped_and_opens_no_run(project):
    before = len(runs_of(project))
    versions = list((project / "data/03_primary/scenes/annotations_train").iterdir())
    run(project, only_missing_outputs=True)
    assert list((project / "data/03_primary/scenes/annotations_train").iterdir()) == versions
    assert len(runs_of(project)) == before


def test_what_was_made_from_something_else_is_not_skipped(project):
    changed = {**SMALL, "orcnn": {**METHOD, "training": {**TRAINING, "learning_rate": 0.5}}}
    with pytest.raises(ChangedTrainingError, match=r"training\.learning_rate.*\n.*restart=true"):
        run(project, parameters=changed, only_missing_outputs=True)
    with pytest.raises(ChangedTrainingError, match=r"learning_rate"):
        run(project, parameters=changed)


def test_a_failed_node_leaves_its_runs_failed_with_the_error(project):
    # The test before this one failed in the training of ORCNN.
    runs = runs_of(project)[-3:]
    failed = [r for r in runs if r.info.status == "FAILED"]
    assert {r.data.tags.get("method") for r in failed} == {None, "orcnn"}
    assert {r.info.status for r in runs} <= {"FAILED", "FINISHED", "KILLED"}
    assert all("learning_rate" in r.data.tags["error"] for r in failed)


def test_train_orcnn_alone_starts_from_the_mask_rcnn_that_is_there(project):
    card = (project / "data/06_models/scenes/orcnn/method.json").read_text()
    run(project, "train_orcnn")  # the same training: nothing is repeated, nothing changes
    again = (project / "data/06_models/scenes/orcnn/method.json").read_text()
    assert '"pretrained": "none"' not in card
    assert card == again


def test_evaluate_scores_a_trained_method_again(project):
    parts = project / "data/08_reporting/scenes/parts"
    before = (parts / "mask_rcnn.csv").read_text()
    (parts / "mask_rcnn.csv").unlink()
    run(project, "evaluate", parameters={**SMALL, "method": "mask_rcnn"})
    assert (parts / "mask_rcnn.csv").read_text() == before


def test_predict_on_a_folder_of_images(project, tmp_path, caplog):
    source = project / "data/02_intermediate/scenes/val"
    images = tmp_path / "mine"
    (images / "deeper").mkdir(parents=True)
    shutil.copy(source / "000000.png", images / "a.png")
    shutil.copy(source / "000001.png", images / "deeper" / "b.png")
    run(project, "predict", parameters={**SMALL, "images": str(images), "score_threshold": 0.0})
    made = sorted((project / "data/08_reporting/scenes/orcnn/user_images").rglob("*.png"))
    assert [p.name for p in made] == ["a.png", "b.png"]
    folder = project / "data/07_model_output/scenes/orcnn/user_predictions"
    (version,) = folder.iterdir()
    found = Predictions.load(version / "user_predictions")
    assert found.images["file_name"].tolist() == ["a.png", "deeper/b.png"]


def test_unknown_parameters_are_refused_before_anything_runs(project):
    wrong = {**SMALL, "orcnn": {**METHOD, "training": {**TRAINING, "learning_rat": 1}}}
    with pytest.raises(Exception, match=r"orcnn[\s\S]*learning_rat"):
        run(project, parameters=wrong)


def test_missing_raw_data_says_what_is_missing_and_where(project, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"instances_train2017\.json.*raw_root"):
        run(
            project,
            "prepare",
            env="composed_coco",
            parameters={"raw_root": str(tmp_path), "tracking": False},
        )


@pytest.mark.skipif(
    not PHOTOGRAPHS.exists(), reason="needs ../shared/data/coco_panoptic beside the project"
)
def test_photographs_are_composed_and_trained_on(project):
    small = {
        "raw_root": str(PHOTOGRAPHS),
        "source": {"composed": {"config": {"composites_per_image": 1, "max_side": 160}}},
        "orcnn": METHOD,
        "mask_rcnn": METHOD,
        "pictures": 2,
        "workers": 2,
        "tracking": False,
    }
    run(project, "train_orcnn", env="composed_coco", parameters=small)
    results = pd.read_csv(project / "data/08_reporting/composed_coco/results.csv")
    assert set(results["method"]) == {"orcnn", "visible_mask", "convex_hull"}
    splits = {}
    for split in ("train", "val"):
        (version,) = (project / f"data/03_primary/composed_coco/annotations_{split}").iterdir()
        splits[split] = AmodalAnnotations.load(version / f"annotations_{split}")
        assert [c.name for c in splits[split].metadata.categories] == ["object"]
        assert len(splits[split].images) == 100
    assert not set(splits["train"].images["file_name"]) & set(splits["val"].images["file_name"])


def test_own_data_as_the_docs_describe_it(project, shapes, tmp_path):
    import json

    from amodal_pipeline.annotations import rle

    root = Path(shapes.metadata.image_root)
    size = [64, 64]
    described = {
        "images": [
            {"id": int(i), "file_name": f, "height": 64, "width": 64}
            for i, f in zip(shapes.images["image_id"], shapes.images["file_name"], strict=True)
        ],
        "categories": [c.model_dump() for c in shapes.metadata.categories],
        "annotations": [
            {
                "id": int(row.instance_id),
                "image_id": int(row.image_id),
                "category_id": int(row.category_id),
                "segmentation": {"size": size, "counts": row.amodal_rle},
            }
            | (
                {"visible_mask": {"size": size, "counts": row.visible_rle}}
                if row.occlusion_rate > 0
                else {}
            )
            for row in shapes.instances.itertuples()
        ],
    }
    for split in ("train", "val"):
        (tmp_path / f"{split}.json").write_text(json.dumps(described))
        shutil.copytree(root, tmp_path / split)
        (tmp_path / split / "unused.txt").write_text("")
    folder = project / "conf" / "mine"
    folder.mkdir()
    (folder / "globals.yml").write_text("dataset: mine\n")
    files = {s: {"annotations": [f"{s}.json"], "images": [s]} for s in ("train", "val")}
    source = {"source": {"kind": "coco_amodal", "coco_amodal": files}}
    (folder / "parameters.yml").write_text(yaml.safe_dump(source))

    own = {"raw_root": str(tmp_path), "tracking": False}
    run(project, "prepare", env="mine", parameters=own)
    (version,) = (project / "data/03_primary/mine/annotations_train").iterdir()
    read = AmodalAnnotations.load(version / "annotations_train")
    assert read.metadata.dataset == "mine"
    assert read.instances["amodal_rle"].tolist() == shapes.instances["amodal_rle"].tolist()
    hidden = rle.area(shapes.instances["visible_rle"].tolist())
    assert rle.area(read.instances["visible_rle"].tolist()).tolist() == hidden.tolist()

    (tmp_path / "val" / "3.png").unlink()
    with pytest.raises(ValueError, match=r"1 of the 8 images .*3\.png, which is missing"):
        run(project, "prepare", env="mine", parameters=own)
