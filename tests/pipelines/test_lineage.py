"""What Kedro-Viz shows of every job: layers, and where each data set comes from."""

import logging

import pytest
from kedro_viz.data_access import data_access_manager
from kedro_viz.models.flowchart.nodes import DataNode
from kedro_viz.server import load_and_populate_data

from amodal_pipeline.methods.registry import describe, jobs
from amodal_pipeline.pipeline_registry import register_pipelines

# What a run reads that another job has made, or the user has brought: tables and a checkpoint.
BROUGHT = {"annotations_train", "annotations_val", "chosen.annotations", "chosen.checkpoint"}


@pytest.fixture(scope="module")
def shown(empty_project):
    messages: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())
    logging.getLogger("kedro_viz").addHandler(handler)
    load_and_populate_data(empty_project)
    logging.getLogger("kedro_viz").removeHandler(handler)
    assert not [each for each in messages if "Cannot find" in each or "ircular" in each]
    return data_access_manager


@pytest.mark.parametrize("name", register_pipelines())
def test_a_job_has_layers_and_shows_where_its_data_come_from(shown, name):
    order = shown.get_sorted_layers_for_registered_pipeline(name)
    assert {"primary", "models", "model_output", "reporting"} >= set(order) != set()
    data = [
        node for node in shown.get_nodes_for_registered_pipeline(name) if isinstance(node, DataNode)
    ]
    kept = [
        node for node in data if node.kedro_obj and type(node.kedro_obj).__name__ != "MemoryDataset"
    ]
    assert not [node.name for node in kept if node.layer is None]
    made = {edge.target for edge in shown.get_edges_for_registered_pipeline(name)}
    assert {node.name for node in data if node.id not in made} <= BROUGHT


def test_what_is_trained_first_is_a_namespace_of_its_own():
    pipelines = register_pipelines()
    starts = {"train_orcnn": "mask_rcnn", "train_vrsp": "mask_rcnn", "train_sln": "mask_rcnn"}
    starts |= {"train_a3d": "pretrain_a3d", "ablate_orcnn": "mask_rcnn"}
    for name, upstream in starts.items():
        (made,) = (
            node for node in pipelines[name].nodes if f"{upstream}.checkpoint" in node.outputs
        )
        assert made.namespace == upstream
    parts = {"train_vrsp": "shape_prior", "train_c2f_seg": "mask_tokenizer"}
    for name, part in parts.items():
        (trained,) = (n for n in pipelines[name].nodes if n.name == f"{part}.train")
        assert f"{part}.checkpoint" in trained.outputs
    detectors = {
        job for job in jobs() if describe(job).task == "detect" and not describe(job).parts
    }
    (found,) = (n for n in pipelines["train_c2f_seg"].nodes if n.name == "c2f_seg.find_detector")
    assert {f"{job}.checkpoint" for job in detectors} <= set(found.inputs)
