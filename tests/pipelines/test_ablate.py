"""Ablations as a user runs them, with everything small."""

import dataclasses
import io
from pathlib import Path

import numpy as np
import orjson
import pandas as pd
import pytest
from kedro.framework.session import KedroSession
from mlflow import MlflowClient
from PIL import Image
from rich.console import Console

from amodal_pipeline.annotations import rle
from amodal_pipeline.compose import ComposeConfig
from amodal_pipeline.compose.source import read_source
from amodal_pipeline.jobs.ablate import Materials, Workplace, _score, ablate, plan_of_row
from amodal_pipeline.jobs.ablation_table import compare_rows, print_table
from amodal_pipeline.jobs.freshness import look
from amodal_pipeline.jobs.modal import compose_modal, write_modal
from amodal_pipeline.jobs.parts import Parts
from amodal_pipeline.jobs.rows import AblationConfig, Row, resolve
from amodal_pipeline.jobs.sources import Source
from amodal_pipeline.jobs.train import Job, Pretraining
from amodal_pipeline.methods.checkpoints import Checkpoint, Fingerprint
from amodal_pipeline.metrics.results import validate
from amodal_pipeline.training.state import ChangedTrainingError, read_history
from tests.pipelines.conftest import DETECTOR, ENVIRONMENTS, configuration
from tests.pipelines.test_evaluate_nodes import CPU, QUICK
from tests.pipelines.test_evaluate_nodes import checkpoint as as_checkpoint
from tests.pipelines.test_evaluate_nodes import predictions as as_predictions

TRAINING = {
    "iterations": 2,
    "schedule": "cosine",
    "warmup_iterations": 1,
    "checkpoint_every": 1,
    "log_every": 1,
    "augmentation": {"min_sizes": [64], "max_size": 64},
}
METHOD = {
    "model": {"detector": DETECTOR, "mask_head": {"convolutions": 1, "channels": 16}},
    "training": TRAINING,
}
UNWANTED = (
    "mask_rcnn_class_agnostic",
    "without_invisible_loss",
    "visible_by_difference",
    "without_invisible_loss_by_difference",
    "without_visible_loss",
    "independent",
)
SMALL = {
    "source": {"scenes": {"train": 5, "val": 3, "config": {"image_size": 64}}},
    "mask_rcnn": METHOD,
    "orcnn": METHOD,
    "evaluation": {"resamples": 20, "headline_resamples": 20},
    "workers": 1,
    "ablate_orcnn": {
        "trunk": {"training": {"iterations": 3, "warmup_iterations": 1, "checkpoint_every": 1}},
        "rows": dict.fromkeys(UNWANTED) | {"pasted_modal": {"composed": {"min_source_area": 30}}},
    },
}
ROWS = ("mask_rcnn_visible", "mask_rcnn", "orcnn", "class_agnostic", "pasted_modal")


@pytest.fixture(scope="module")
def project(empty_project):
    return empty_project


def run(project, changes=None, pipeline="ablate_orcnn", **options):
    parameters = SMALL | (changes or {})
    options = options or {"namespaces": ["ablate_orcnn"]}  # the data are prepared
    with KedroSession.create(project, runtime_params=parameters) as session:
        return session.run(pipeline_names=[pipeline], **options)


def rows_changed(**rows):
    ablation = SMALL["ablate_orcnn"]
    return {"ablate_orcnn": ablation | {"rows": ablation["rows"] | rows}}


def models(project):
    return project / "data/06_models/scenes/ablate_orcnn"


def written(project):
    return {p: p.stat().st_mtime_ns for p in models(project).rglob("*.safetensors")}


def children(project):
    client = MlflowClient(f"sqlite:///{project / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("scenes")
    runs = client.search_runs(
        [experiment.experiment_id], order_by=["attributes.start_time ASC"], max_results=500
    )
    parents = [r for r in runs if "mlflow.parentRunId" not in r.data.tags]
    of = {p.info.run_id: [] for p in parents}
    for each in runs:
        if "mlflow.parentRunId" in each.data.tags:
            of[each.data.tags["mlflow.parentRunId"]].append(each)
    return client, parents[-1], of[parents[-1].info.run_id]


def test_one_row_alone(project):
    run(project, {"row": "class_agnostic", "tracking": False}, only_missing_outputs=True)
    assert [p.name for p in models(project).iterdir()] == ["class_agnostic"]
    table = pd.read_csv(project / "data/08_reporting/scenes/ablation_orcnn.csv")
    assert set(table["row"]) == {"class_agnostic"}
    assert table["difference"].isna().all()  # there is no reference yet


def test_all_rows_from_data_to_a_table_and_a_chart(project):
    before = written(project)
    run(project, {"tracking": False})
    folder = project / "data/08_reporting/scenes"
    assert {p.name for p in models(project).iterdir()} == set(ROWS)
    assert before.items() <= written(project).items()  # the row that was there is as it was
    table = pd.read_csv(folder / "ablation_orcnn.csv")
    assert list(dict.fromkeys(table["row"])) == list(ROWS)
    measured = table[table["row"].eq("class_agnostic") & table["value"].notna()]
    reference = table[table["row"] == "orcnn"].set_index("metric")
    assert len(measured) and reference["difference"].isna().all()
    for row in measured.itertuples():
        expected = row.value - reference.loc[row.metric, "value"]
        assert row.difference == pytest.approx(expected, abs=1e-9)
        assert row.difference_low <= row.difference_high
    for name in ("chart", "loss_curves"):
        assert Image.open(folder / "ablate_orcnn" / f"{name}.png").size[0] > 100
    for row, method in zip(ROWS, 2 * ["mask_rcnn"] + 3 * ["orcnn"], strict=True):
        part = validate(pd.read_csv(folder / "parts" / f"{method}.{row}.csv"))
        assert set(part["variant"]) == {row} and set(part["method"]) == {method}
    run(project, {"tracking": False}, pipeline="report", to_nodes=["join_results"])
    assert set(ROWS) <= set(pd.read_csv(folder / "results.csv")["variant"])


def test_rows_on_the_trunk_share_its_detector_and_others_do_not(project):
    from safetensors.torch import load_file

    trunk = load_file(project / "data/06_models/scenes/mask_rcnn/model.safetensors")
    for name in ROWS:
        weights = load_file(models(project) / name / "model.safetensors")
        shared = [(weights[k] == v).all() for k, v in trunk.items() if k.startswith("detector.")]
        assert all(shared) == (name not in ("mask_rcnn_visible", "pasted_modal"))
        assert len(read_history(models(project) / name / "history.jsonl")) == 3 - (
            name in ("mask_rcnn_visible", "pasted_modal")
        )


def test_mlflow_has_a_child_run_for_each_row_with_losses_and_results(project):
    run(project, {"restart": True})
    client, parent, rows = children(project)
    assert parent.info.status == "FINISHED"
    assert [r.data.tags["variant"] for r in rows] == list(ROWS)
    assert all(r.info.status == "FINISHED" for r in rows)
    for row in rows:
        losses = client.get_metric_history(row.info.run_id, "train/loss")
        assert [m.step for m in losses] == list(range(1, len(losses) + 1)) and losses
        assert row.data.metrics["AP_both"] >= 0
        assert parent.data.metrics[f"{row.info.run_name}/AP_both"] == row.data.metrics["AP_both"]
        assert "orcnn.AP_amodal" in row.data.metrics  # one that this ablation compares
        data = {each.dataset.name for each in row.inputs.dataset_inputs}
        assert data == {"scenes train", "scenes val"}
        assert {f.path for f in client.list_artifacts(row.info.run_id)} == {
            "checkpoint",
            "results.csv",
        }
    by_name = {r.data.tags["variant"]: r for r in rows}
    assert by_name["class_agnostic"].data.params["model.mask_head.class_agnostic"] == "True"
    assert by_name["mask_rcnn"].data.tags["method"] == "mask_rcnn"


def test_what_is_finished_is_not_trained_again_but_scored(project):
    before = written(project)
    part = project / "data/08_reporting/scenes/parts/orcnn.orcnn.csv"
    part.unlink()
    annotations = project / "data/03_primary/scenes/annotations_train"
    versions = list(annotations.iterdir())
    run(project, only_missing_outputs=True)  # the data are, the rows are looked after
    assert list(annotations.iterdir()) == versions
    assert written(project) == before
    assert part.exists()
    _, _, rows = children(project)
    assert len(rows) == len(ROWS) and "AP_both" in rows[0].data.metrics


def test_a_changed_row_is_refused_with_the_remedy_and_left_out_of_the_table(project):
    changed = rows_changed(orcnn={"training": {"learning_rate": 0.5}})
    remedy = r"learning_rate[\s\S]*--params row=orcnn,restart=true"
    with pytest.raises(ChangedTrainingError, match=remedy):
        run(project, changed)
    _, parent, rows = children(project)
    assert parent.info.status == "FAILED" and "learning_rate" in parent.data.tags["error"]
    assert [r.data.tags["variant"] for r in rows] == ["mask_rcnn_visible", "mask_rcnn"]
    assert {r.info.status for r in rows} == {"FINISHED"}  # these were through
    run(project, changed | {"row": "mask_rcnn"})
    table = pd.read_csv(project / "data/08_reporting/scenes/ablation_orcnn.csv")
    assert set(table["row"]) == set(ROWS) - {"orcnn"}


def test_a_row_that_was_cut_goes_on_in_its_middle(project, monkeypatch):
    from amodal_pipeline.training import loop

    saved = loop.save_state

    def cut(folder, *state):
        saved(folder, *state)
        if folder.name == "independent" and state[2] == 2:
            raise OSError("cut")

    added = rows_changed(independent={"job": "orcnn", "model": {"independent": True}})
    added |= {"row": "independent"}
    monkeypatch.setattr(loop, "save_state", cut)
    with pytest.raises(OSError, match="cut"):
        run(project, added)
    _, _, (row,) = children(project)
    assert row.info.status == "FAILED"
    monkeypatch.setattr(loop, "save_state", saved)
    run(project, added)
    client, _, (row,) = children(project)
    assert row.info.status == "FINISHED"
    steps = [m.step for m in client.get_metric_history(row.info.run_id, "train/loss")]
    assert steps == [1, 2, 3]
    # The last two states are kept.
    states = sorted(p.name for p in models(project).glob("independent/state-*"))
    assert states == ["state-000000002", "state-000000003"]


# Plain COCO has no amodal masks to compare methods on.
AMODAL = [env for env in ENVIRONMENTS if env != "coco_modal"]


@pytest.mark.parametrize("env", AMODAL)
def test_rows_of_every_environment_are_rows(env):
    values = configuration(env)["parameters"]
    ablation = AblationConfig.model_validate(values["ablate_orcnn"])
    jobs = {name: Job.model_validate(values[name]) for name in ("mask_rcnn", "orcnn")}
    rows = resolve(ablation, jobs)
    # No two rows are the same training: they would be trained twice.
    trainings = [(repr(row.job), row.composed) for row in rows.values()]
    assert len(trainings) == len({repr(t) for t in trainings}) >= 7


@pytest.mark.parametrize("env", AMODAL)
def test_rows_of_vrsp_are_trained_alike(env):
    """Else the table would compare budgets, and not methods."""
    values = configuration(env)["parameters"]
    ablation = AblationConfig.model_validate(values["ablate_vrsp"])
    jobs = {name: Job.model_validate(values[name]) for name in ("mask_rcnn", "orcnn", "vrsp")}
    rows = resolve(ablation, jobs)
    assert len(rows) == 15
    # What finds visible boxes cannot stand on a trunk that finds amodal ones.
    alone = {"mask_rcnn_visible"} if ablation.trunk else set()
    means = {budget(row.job) for name, row in rows.items() if name not in alone}
    assert len(means) == 1


@pytest.mark.parametrize("env", AMODAL)
@pytest.mark.parametrize(("method", "count"), [("aisformer", 12), ("bcnet", 6)])
def test_rows_of_mask_heads_are_trained_alike(env, method, count):
    values = configuration(env)["parameters"]
    ablation = AblationConfig.model_validate(values[f"ablate_{method}"])
    jobs = {name: Job.model_validate(values[name]) for name in ("mask_rcnn", method)}
    rows = resolve(ablation, jobs)
    assert len({repr(row.job) for row in rows.values()}) == len(rows) == count
    assert len({budget(row.job) for row in rows.values()}) == 1


def budget(job):
    detector, training = job.model.root.detector, job.training
    return (
        job.pretrained,
        training.model_copy(update={"milestones": ()}).model_dump_json(),
        detector.proposals,
        (detector.min_size, detector.max_size),
    )


def test_every_row_begins_where_the_ablation_says():
    ablation = config(
        other={"job": "mask_rcnn"}, fresh={"job": "orcnn", "pretrained": None}
    ).model_copy(update={"pretrained": "/coco"})
    rows = resolve(AblationConfig.model_validate(ablation.model_dump(exclude_unset=True)), JOBS)
    assert [row.job.pretrained for row in rows.values()] == ["/coco", "/coco", None]
    on_trunk = config({"job": "mask_rcnn"}, alone={"job": "orcnn", "trunk": False})
    values = on_trunk.model_dump(exclude_unset=True) | {"pretrained": None}
    rows = resolve(AblationConfig.model_validate(values), JOBS)
    assert rows["base"].upstream is JOBS["mask_rcnn"] and rows["alone"].job.pretrained is None


@pytest.mark.parametrize(
    ("method", "kept", "learnt"),
    [
        ("vrsp", "alpha", {"attention": "cross"}),
        ("vrsp", "reclassification_score", {"feature_matching": False}),
        ("vrsp", "prior_post_process", {"mask_head": {"channels": 8}}),
        ("c2f_seg", "steps", {"top_k": 1}),
        ("orcnn", None, {"invisible_loss": False}),
    ],
)
def test_weights_are_used_with_other_values_that_change_no_weight_only(method, kept, learnt):
    other = {
        "alpha": 3.0,
        "reclassification_score": "none",
        "prior_post_process": False,
        "steps": 8,
    }
    jobs = {method: Job.model_validate({"model": {"name": method}})}

    def used(model):
        rows = {
            "base": {"job": method},
            "used": {"job": method, "weights_of": "base", "model": model},
        }
        return resolve(config(**rows), jobs)["used"]

    if kept:
        row = used({kept: other[kept]})
        assert getattr(row.job.model.root, kept) == other[kept]
        assert row.weights_of.job == jobs[method]
    with pytest.raises(ValueError, match=rf"rows\.used: {next(iter(learnt))} matters in training"):
        used(learnt)


JOBS = {
    name: Job.model_validate(METHOD | {"model": METHOD["model"] | {"name": name}})
    for name in ("mask_rcnn", "orcnn")
}


def config(trunk=None, **rows):
    rows = {"base": {"job": "orcnn"}} | rows
    values = {"reference": "base", "metrics": ["orcnn/AP_both"], "trunk": trunk, "rows": rows}
    return AblationConfig.model_validate(values)


def test_overrides_are_nested_and_null_rows_are_gone():
    ablation = config(
        other={
            "job": "orcnn",
            "model": {"mask_head": {"channels": 8}},
            "training": {"augmentation": {"flip": 0.0}},
        },
        gone=None,
    )
    rows = resolve(ablation, JOBS)
    assert list(rows) == ["base", "other"]
    assert rows["base"].job == JOBS["orcnn"]
    other = rows["other"].job
    assert other.model.root.mask_head.channels == 8
    assert other.model.root.mask_head.convolutions == 1
    assert other.training.augmentation.flip == 0 and other.training.augmentation.max_size == 64


def test_what_a_row_starts_from():
    trunk = {"job": "mask_rcnn", "training": {"iterations": 7}}
    rows = resolve(
        config(
            trunk,
            first={"job": "mask_rcnn", "trunk": False},
            second={"job": "orcnn", "trunk": False, "pretrained": "first"},
            fresh={"job": "orcnn", "trunk": False, "pretrained": None},
        ),
        JOBS,
    )
    assert rows["base"].upstream is JOBS["mask_rcnn"]
    assert rows["base"].job.training.frozen == ("detector.",)
    assert rows["base"].job.training.iterations == 7
    assert rows["second"].upstream == rows["first"]
    assert rows["second"].job.training == JOBS["orcnn"].training
    assert rows["fresh"].upstream is None and rows["fresh"].job.pretrained is None


@pytest.mark.parametrize(
    ("rows", "trunk", "message"),
    [
        ({"a": {"job": "vrsp"}}, None, r"rows\.a: no job is called 'vrsp'; mask_rcnn, orcnn are"),
        ({"a": {"job": "orcnn", "model": {"los": 1}}}, None, r"rows\.a:[\s\S]*los"),
        ({"a": {"job": "orcnn", "pretrained": "a"}}, None, r"rows\.a starts from itself"),
        (
            {"a": {"job": "orcnn", "model": {"detector": {"min_size": 32}}}},
            {"job": "mask_rcnn"},
            r"rows\.a has another detector",
        ),
        (
            {"a": {"job": "orcnn", "pretrained": None}},
            {"job": "mask_rcnn"},
            r"rows\.a starts from the trunk",
        ),
        ({"a.b": {"job": "orcnn"}}, None, "pattern"),
    ],
)
def test_wrong_rows_are_named(rows, trunk, message):
    with pytest.raises(ValueError, match=message):
        resolve(config(trunk, **rows), JOBS)


def test_an_unknown_row_names_the_nearest_before_anything_runs(project):
    with pytest.raises(Exception, match=r"no ablation has a row 'agnostic'.*class_agnostic"):
        run(project, {"row": "agnostic"})


def test_a_row_on_detections_of_visible_masks_only_has_what_was_detected(shapes):
    detections = as_predictions(shapes, amodal_rle=[None] * 16)
    completed = as_predictions(
        shapes, "c2f_seg", "detector", source_id=detections.predictions["prediction_id"]
    )
    job = Job.model_validate({"model": {"name": "c2f_seg"}})
    row = Row("on_detections", job, completes="detections")
    given = Materials(Parts(), detections=detections)
    rows = _score(row, shapes, completed, given, QUICK).results
    rows = rows[rows["category"] == "all"].set_index("metric")
    for metric in ("mIoU_full", "mIoU_full_matched"):
        assert rows.loc[metric, ["value", "n"]].tolist() == [100, 16]


def test_a_row_that_needs_an_order_is_left_out_where_none_is_stated(
    shapes, tmp_path, monkeypatch, caplog
):
    values = configuration("scenes")["parameters"]
    jobs = {"pcnet_m": Job.model_validate(values["pcnet_m"])}
    row = resolve(AblationConfig.model_validate(values["ablate_pcnet_m"]), jobs)["true_order"]
    trained = []
    monkeypatch.setattr(
        "amodal_pipeline.jobs.ablate.train_row", lambda row, *_, **__: trained.append(row.name)
    )
    monkeypatch.setattr(
        "amodal_pipeline.jobs.ablate._predict",
        lambda *_: as_predictions(shapes, "pcnet_m", "true"),
    )

    def run(val):
        place = Workplace(*(tmp_path / name for name in ("rows", "models", "output", "scores")))
        return ablate([row], shapes, val, place, Materials(Parts()), CPU, QUICK)

    assert run(dataclasses.replace(shapes, order=shapes.order.iloc[:0])) == trained == []
    assert "row true_order is left out: it needs to know which object is in front" in caplog.text
    assert run(shapes) == trained == ["true_order"]


def test_a_row_whose_start_is_another_now_is_left_out(shapes, tmp_path):
    def pretraining(**model):
        job = Job.model_validate({"model": {"name": "a3d", **model}})
        return Pretraining(job, Source.model_validate({"kind": "views", "views": {}}))

    def save(folder, job, **parts):
        mark = Fingerprint.of_training(job.model.root, job.training, "", parts)
        card = as_checkpoint(shapes, job.model.root).card.model_copy(update={"fingerprint": mark})
        Checkpoint(card, {}).save(tmp_path / folder)
        return card

    def changes(row, card):
        found = look(plan_of_row(row, tmp_path / "rows", tmp_path))
        assert found.card.fingerprint == card.fingerprint
        return [f"{found.folder.name}: {change}" for change in found.changes]

    usual, other = pretraining(), pretraining(cross_view=False)
    before = save("pretrain_a3d", usual.job)
    job = Job.model_validate({"model": {"name": "a3d"}, "pretrained": "pretrain_a3d"})
    card = save("rows/it", job, pretrained=before.fingerprint.digest)
    row = Row("it", job, usual)
    assert changes(row, card) == []
    assert changes(Row("it", job, other), card) == ["pretrain_a3d: model.cross_view: True -> False"]
    fresh = job.model_copy(update={"pretrained": None})
    assert changes(Row("it", fresh), card)[0].endswith(" -> none")
    used = save("rows/used", job, weights_of=card.fingerprint.digest)
    assert changes(Row("used", job, weights_of=row), used) == []
    assert "cross_view" in changes(Row("used", job, weights_of=Row("it", job, other)), used)[0]
    own = save("rows/it.pretraining", other.job)
    card = save("rows/it", job, pretrained=own.fingerprint.digest)
    assert changes(Row("it", job, other), card) == []
    assert "cross_view" in changes(Row("used", job, weights_of=row), used)[0]
    assert changes(Row("used", job, weights_of=Row("it", job, other)), used) == [
        "used: it, which it starts from, was trained again"
    ]
    folder = job.model_copy(update={"pretrained": str(tmp_path / "pretrain_a3d")})
    assert "pretrained: " in changes(Row("it", folder), card)[0]


def test_composites_know_visible_masks_only(shapes, tmp_path):
    write_modal(shapes, tmp_path / "visible.json")
    assert b"amodal" not in (tmp_path / "visible.json").read_bytes()
    source = read_source(tmp_path / "visible.json", Path(shapes.metadata.image_root), "train")
    assert source.metadata.categories == shapes.metadata.categories
    assert source.instances["amodal_rle"].tolist() == shapes.instances["visible_rle"].tolist()

    wanted = ComposeConfig(
        touching_is_incomplete=False, exclude_incomplete=False, min_source_area=30, max_side=64
    )
    composed = compose_modal(shapes, wanted, tmp_path, 1)
    assert composed.metadata.dataset == shapes.metadata.dataset
    assert len(composed.images) == len(shapes.images)
    assert (composed.instances["occlusion_rate"] > 0).any()
    visible = set(shapes.instances["visible_rle"])
    amodal = composed.instances.groupby("image_id")["amodal_rle"].head(2)
    assert set(amodal) <= visible  # the objects that were there, as far as they were seen
    again = compose_modal(shapes, wanted, tmp_path, 1)
    assert again.fingerprint == composed.fingerprint


def test_an_object_that_is_hidden_wholly_is_not_exported(shapes, tmp_path):
    import dataclasses

    hidden = shapes.instances.copy()
    empty = rle.encode(np.zeros((1, 64, 64), np.uint8))[0]
    hidden.loc[1, "visible_rle"] = empty
    write_modal(dataclasses.replace(shapes, instances=hidden), tmp_path / "visible.json")
    document = orjson.loads((tmp_path / "visible.json").read_bytes())
    ids = [a["id"] for a in document["annotations"]]
    assert ids == [i for i in hidden["instance_id"] if i != hidden["instance_id"][1]]


def test_the_printed_table_breaks_where_the_terminal_ends():
    names = ["base", "a_row_with_a_long_name"]
    numbers = {"low": 49.0, "high": 53.0, "n": 9, "probability": 0.9, "note": "", "method": "orcnn"}
    table = pd.DataFrame(
        [
            {"row": row, "protocol": "orcnn", "metric": metric, "value": 51.25, **numbers}
            | {"difference": np.nan if row == "base" else -0.04}
            | {"difference_low": -1.0, "difference_high": 0.9}
            for row in names
            for metric in ("AP_both", "AP_amodal")
        ]
    )
    metrics = ["orcnn/AP_both", "orcnn/AP_amodal", "completion/mIoU_full"]
    ablation = config(a_row_with_a_long_name={"job": "orcnn"}).model_copy(
        update={"metrics": metrics}
    )
    for width, tables in ((100, 2), (45, 3)):
        console = Console(width=width, record=True, file=io.StringIO())
        print_table(ablation, table, "scenes", console)
        text = console.export_text()
        assert text.count("scenes, ") == tables  # protocols never share one
        assert max(map(len, text.splitlines())) <= width
        assert text.count("a_row_with_a_long_name") == tables
        assert text.count("51.2") == 4 and text.count("49.0–53.0") == 4
        assert text.count("+0.0") == 2 and "-0.0" not in text


def test_no_rows_give_an_empty_table():
    table, shown = compare_rows(config(), {})
    assert len(table) == len(shown) == 0 and "difference_low" in table
