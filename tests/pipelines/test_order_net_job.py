"""`train_order_net` as a user runs it, with everything small."""

import json

import pandas as pd
import pytest
from kedro.framework.session import KedroSession
from mlflow import MlflowClient
from PIL import Image

from amodal_pipeline import methods
from amodal_pipeline.annotations import Predictions
from amodal_pipeline.jobs.detect import check_detector
from amodal_pipeline.methods.checkpoints import Checkpoint
from amodal_pipeline.methods.configs import OrderNetConfig
from amodal_pipeline.metrics.results import read
from amodal_pipeline.training.state import ChangedTrainingError
from tests.pipelines.conftest import DETECTOR

OBJECTS = {"iterations": 3, "batch_size": 4, "checkpoint_every": 1, "log_every": 1}
ORDER_NET = {
    "model": {"encoder": {"name": "test_resnet", "weights": None}, "side": 32},
    "training": {**OBJECTS, "device": "cpu"},
}
METHOD = {
    "model": {"detector": DETECTOR, "mask_head": {"convolutions": 1, "channels": 16}},
    "training": {
        **OBJECTS,
        "warmup_iterations": 1,
        "augmentation": {"min_sizes": [64], "max_size": 64},
    },
}
SMALL = {
    "source": {"scenes": {"train": 6, "val": 4, "config": {"image_size": 96}}},
    "order_net": ORDER_NET,
    "mask_rcnn": METHOD,
    "orcnn": METHOD,
    "evaluation": {"resamples": 20, "headline_resamples": 20},
    "workers": 1,
    "pictures": 2,
    "tracking": False,
}


@pytest.fixture(scope="module")
def project(empty_project):
    run(empty_project, parameters=SMALL | {"tracking": True})
    return empty_project


def run(project, pipeline="train_order_net", parameters=SMALL, **options):
    with KedroSession.create(project, runtime_params=parameters) as session:
        return session.run(pipeline_names=[pipeline], **options)


def changed(**values):
    return {**SMALL, "order_net": {**ORDER_NET, **values}}


def table_of(project):
    table = pd.read_csv(project / "data/08_reporting/scenes/order_net/table.csv")
    return table.fillna({"inputs": ""}).set_index(["objects", "order", "inputs"])


def digests(project):
    models = project / "data/06_models/scenes/order_net"
    return {
        path.parent.name: json.loads(path.read_text())["fingerprint"]
        for path in models.glob("*/method.json")
    }


def test_from_nothing_to_a_table_of_networks_and_rules(project):
    table = table_of(project)
    assert table.index.tolist() == [
        ("truth", "OrderNet", "amodal"),
        ("truth", "OrderNet", "maps"),
        ("truth", "R of the maps", ""),
        ("truth", "larger one in front", ""),
        ("truth", "lower one in front", ""),
    ]
    assert table["pairs"].iloc[0] > 4 and (table["pairs"] == table["pairs"].iloc[0]).all()
    assert (table["pairs_occluding"] <= table["pairs"]).all()
    truth = table.loc[("truth", "R of the maps", "")]
    assert truth["accuracy"] == truth["accuracy_occluding"] == truth["coverage"] == 100
    assert table.loc[[("truth", "OrderNet", "maps")], "coverage"].item() > 99
    assert table["accuracy"].between(0, 100).all() and (table["low"] <= table["accuracy"]).all()
    parts = project / "data/08_reporting/scenes/parts"
    results = read(parts / "order_net.maps.csv")
    assert set(results["protocol"]) == {"order"} and set(results["inputs"]) == {"true"}
    assert set(results["method"]) == {"order_net"} and set(results["variant"]) == {"maps"}
    folder = project / "data/08_reporting/scenes/order_net"
    assert Image.open(folder / "overlays.png").size[0] > 1500  # four columns and more
    assert min(Image.open(folder / "loss_curves.png").size) > 100


def test_a_network_is_a_checkpoint_and_its_order_a_table(project):
    model = methods.load(project / "data/06_models/scenes/order_net/maps")
    assert model.config.inputs == "maps" and model.config.side == 32
    place = project / "data/07_model_output/scenes/order_net/maps/predictions"
    found = Predictions.load(place)
    assert found.order["source"].unique().tolist() == ["order_net"]
    assert found.predictions["instance_id"].notna().all()
    card = Checkpoint.load(project / "data/06_models/scenes/order_net/maps").card
    assert found.metadata.checkpoint == card.fingerprint.digest
    with pytest.raises(ValueError, match="orders objects that it is given and finds none"):
        check_detector(card)


def test_each_network_has_a_child_run_with_losses_and_results(project):
    client = MlflowClient(f"sqlite:///{project / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("scenes")
    runs = client.search_runs([experiment.experiment_id], "tags.method = 'order_net'")
    assert {r.data.tags["variant"] for r in runs} == {"amodal", "maps"}
    for child in runs:
        assert child.info.status == "FINISHED"
        assert {"train/loss_order", "order_accuracy"} <= set(child.data.metrics)
        assert len(client.get_metric_history(child.info.run_id, "train/loss_order")) == 3


def test_what_is_finished_is_kept_and_what_changed_is_refused(project):
    before = digests(project)
    assert set(before) == {"amodal", "maps"}
    run(project)
    run(project, only_missing_outputs=True)
    assert digests(project) == before
    with pytest.raises(ChangedTrainingError, match=r"side: 32 -> 48\n.*restart=true"):
        run(project, parameters=changed(model={**ORDER_NET["model"], "side": 48}))


def test_the_objects_of_a_detector_have_networks_and_rows_of_their_own(project):
    with pytest.raises(ValueError, match=r"--pipeline=train_orcnn.* order_net.source to null"):
        run(project, parameters=changed(source="orcnn"))
    run(project, "train_orcnn")
    run(project, parameters=changed(source="orcnn", inputs=["visible"]))
    table = table_of(project)
    assert ("orcnn", "OrderNet", "visible") in table.index
    assert ("orcnn", "larger one in front", "") in table.index
    assert ("orcnn", "R of the maps", "") not in table.index  # it states no order
    assert ("truth", "OrderNet", "amodal") in table.index  # those of before stay
    assert digests(project)["orcnn_visible"]["parts"]["detected"]
    assert "detected" not in digests(project)["maps"]["parts"]
    run(project, "report")
    results = read(project / "data/08_reporting/scenes/results.csv")
    own = results[results["method"] == "order_net"]
    assert set(own["inputs"]) == {"true", "orcnn"}


@pytest.mark.parametrize("env", ["cocoa", "cocoa_bsds", "d2sa", "scenes_large"])
def test_published_data_sets_have_the_papers_network(project, env):
    with KedroSession.create(project, env=env) as session:
        job = session.load_context().catalog.load("params:order_net")
    assert job.model == OrderNetConfig()
    assert job.inputs == ("amodal", "maps") and job.source is None
