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
    loggers = [logging.getLogger(name) for name in ("kedro", "kedro_viz")]
    for logger in loggers:
        logger.addHandler(handler)
    load_and_populate_data(empty_project)
    for logger in loggers:
        logger.removeHandler(handler)
    wrong = ("Cannot find", "ircular", "type hint")
    assert not [each for each in messages if any(text in each for text in wrong)]
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
    # A shape prior may learn from predictions of what VRSP starts from; its own job trains no
    # detector.
    for name in ("train_vrsp", "ablate_vrsp"):
        (found,) = (n for n in pipelines[name].nodes if n.name == "shape_prior.find_detector")
        assert "mask_rcnn.checkpoint" in found.inputs
    (found,) = (n for n in pipelines["shape_prior"].nodes if n.name == "shape_prior.find_detector")
    assert not [each for each in found.inputs if each.endswith(".checkpoint")]
    detectors = {
        job for job in jobs() if describe(job).task == "detect" and not describe(job).parts
    }
    (found,) = (n for n in pipelines["train_c2f_seg"].nodes if n.name == "c2f_seg.find_detector")
    assert {f"{job}.checkpoint" for job in detectors} <= set(found.inputs)


def test_predictions_are_shown_beside_the_namespace_that_makes_them(shown):
    for name, method in (("train_vrsp", "vrsp"), ("train_c2f_seg", "c2f_seg")):
        nodes = {node.id: node.name for node in shown.get_nodes_for_registered_pipeline(name)}
        edges = shown.get_edges_for_registered_pipeline(name)
        links = {(nodes.get(edge.source), nodes.get(edge.target)) for edge in edges}
        assert (f"{method}.predictions", "compare") in links
        assert (f"{method}.predictions", "evaluate") in links
