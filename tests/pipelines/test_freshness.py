"""What a checkpoint depends on, walked on cards alone."""

import dataclasses

import pytest

from amodal_pipeline.jobs.freshness import Plan, Project, finished, look
from amodal_pipeline.jobs.train import Job
from amodal_pipeline.methods.checkpoints import (
    ChangedTrainingError,
    Checkpoint,
    Fingerprint,
    MethodCard,
)
from amodal_pipeline.methods.registry import MethodConfig


def job(name, **values):
    return Job.model_validate({"model": {"name": name, **values.pop("model", {})}, **values})


JOBS = {
    "mask_rcnn": job("mask_rcnn"),
    "shape_prior": job("shape_prior", model={"clusters": 4}),
    "vrsp": job("vrsp", pretrained="mask_rcnn"),
    "orcnn": job("orcnn", pretrained=None),
    "mask_tokenizer": job("mask_tokenizer"),
    "c2f_seg": job("c2f_seg", detector="vrsp"),
}


def save(folder, method, mark):
    card = MethodCard(
        method=MethodConfig(method),
        categories=(),
        dataset="shapes",
        fingerprint=mark,
        iterations=1,
        seed=0,
    )
    Checkpoint(card, {}).save(folder)
    return card


@pytest.fixture
def project(tmp_path):
    """All of them trained, each from those before it."""
    digests: dict[str, str] = {}
    for name, sources in {
        "mask_rcnn": {},
        "shape_prior": {},
        "vrsp": {"pretrained": "mask_rcnn", "prior": "shape_prior"},
        "orcnn": {},
        "mask_tokenizer": {},
        "c2f_seg": {"tokenizer": "mask_tokenizer", "detected": "vrsp"},
    }.items():
        method = JOBS[name].model.root
        form = {key: JOBS[of].model.root for key, of in sources.items() if hasattr(method, key)}
        method = method.model_copy(update=form)
        made = {key: digests[of] for key, of in sources.items()}
        mark = Fingerprint.of_training(method, JOBS[name].training, "data", made)
        digests[name] = save(tmp_path / name, method, mark).fingerprint.digest
    return Project(JOBS, tmp_path, "data")


def changed(project, name, **values):
    return dataclasses.replace(project, jobs={**JOBS, name: job(name, **values)})


def test_what_nothing_has_changed_for_is_fresh(project):
    for name in JOBS:
        assert look(project.plan(name)).fresh
    unprepared = dataclasses.replace(project, annotations=None)
    assert all(look(unprepared.plan(name)).fresh for name in JOBS)


@pytest.mark.parametrize(
    ("name", "values", "stale"),
    [
        ("mask_rcnn", {"training": {"seed": 1}}, {"mask_rcnn", "vrsp"}),
        ("shape_prior", {"model": {"clusters": 5}}, {"shape_prior", "vrsp"}),
        # A detector is taken as it is, however it is configured now.
        ("vrsp", {"pretrained": None}, {"vrsp"}),
        ("mask_tokenizer", {"model": {"codes": 5}}, {"mask_tokenizer", "c2f_seg"}),
        ("c2f_seg", {"detector": "orcnn"}, {"c2f_seg"}),
        ("c2f_seg", {"detector": "vrsp", "training": {"workers": 7}}, set()),
    ],
)
def test_a_change_makes_all_stale_that_depend_on_it(project, name, values, stale):
    now = changed(project, name, **values)
    assert {each for each in JOBS if not look(now.plan(each)).fresh} == stale
    for each in stale:
        with pytest.raises(
            ChangedTrainingError, match=rf"{name} belongs to another .*(?s:.*)restart"
        ):
            finished(now.plan(each))


def test_other_data_make_all_stale(project):
    other = dataclasses.replace(project, annotations="other")
    assert not any(look(other.plan(name)).fresh for name in JOBS)


def test_a_start_that_was_trained_again_is_named(project):
    now = changed(project, "mask_rcnn", training={"seed": 1})
    values = now.jobs["mask_rcnn"]
    mark = Fingerprint.of_training(values.model.root, values.training, "data")
    save(project.models / "mask_rcnn", values.model.root, mark)
    assert look(now.plan("mask_rcnn")).fresh
    found = look(now.plan("vrsp"))
    assert found.changes == ("mask_rcnn, which it starts from, was trained again",)


def test_what_is_not_there_or_damaged_is_to_be_made(project):
    (project.models / "mask_rcnn" / "method.json").write_text("{")
    (project.models / "orcnn" / "method.json").unlink()
    for name in ("mask_rcnn", "orcnn"):
        plan = project.plan(name)
        assert isinstance(plan, Plan) and finished(plan) is None
    assert look(project.plan("vrsp")).fresh  # made again, it is what it was
