"""Values that `--params` gives: whom they reach, and which are refused before anything runs."""

import re

import pytest
from kedro.framework.session import KedroSession
from omegaconf import OmegaConf

from amodal_pipeline.pipelines.parameters import ParameterError, Parameters, check, check_place
from tests.pipelines.conftest import ENVIRONMENTS, ROOT, configuration


def load(env=None, runtime_params=None):
    return configuration(env, **runtime_params or {})["parameters"]


@pytest.fixture(scope="module")
def plain():
    return load()


def marks(tree, name):
    """A new value for every mapping of ``tree``, at any depth."""
    return {k: marks(v, name) for k, v in tree.items() if isinstance(v, dict)} | {name: 1}


def unmarked(tree):
    return {
        k: unmarked(v) if isinstance(v, dict) else v
        for k, v in tree.items()
        if not str(k).startswith("of_")
    }


def merged(tree, changes):
    both = {k: merged(tree.get(k, {}), v) for k, v in changes.items() if isinstance(v, dict)}
    return tree | changes | both


@pytest.mark.parametrize("env", ENVIRONMENTS)
def test_every_environment_is_right_and_values_of_a_method_reach_no_other(env):
    plain = load(env)
    jobs = [
        job for job, value in sorted(plain.items()) if isinstance(value, dict) and "model" in value
    ]
    jobs.remove("pretrain_a3d")
    assert {"mask_rcnn", "mask_rcnn_visible", "orcnn", "vrsp", "sln", "c2f_seg"} < set(jobs)
    given = {
        j: {k: marks(plain[j].get(k, {}), f"of_{j}") for k in ("model", "training")} for j in jobs
    }
    first, second = ({job: given[job] for job in half} for half in (jobs[::2], jobs[1::2]))
    one, other = load(env, first), load(env, second)
    check(unmarked(one))
    # The network that A3D starts from is its own: that is meant. Its schedule is not.
    first["pretrain_a3d"] = {"model": given["a3d"]["model"]}
    assert merged(one, second) == merged(other, first)


def test_orcnn_on_kins_has_the_steps_of_its_released_configuration():
    values = load("kins")
    steps = {
        name: values[name]["training"]["milestones"] for name in ("orcnn", "mask_rcnn", "vrsp")
    }
    assert steps == {"orcnn": [40000, 44000], "mask_rcnn": [30000, 40000], "vrsp": [30000, 40000]}


def test_every_runtime_parameter_of_the_configuration_is_known():
    files = [*(ROOT / "conf").rglob("*.yml")]
    names = {n for f in files for n in re.findall(r"\$\{runtime_params:(\w+)", f.read_text())}
    assert {"raw_root", "method", "images", "row"} <= names <= set(Parameters.model_fields)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("orcn.training.iterations=3", "orcn is unknown; the nearest name is orcnn"),
        ("restrat=true", "restrat is unknown; the nearest name is restart"),
        ("orcnn.training.learning_rat=1", r"orcnn\.training: learning_rat .* learning_rate"),
        ("orcnn.model.detector.boxhead=1", r"orcnn\.model\.detector: boxhead .* box_head"),
        ("row=class_agnostik", "row: .*'class_agnostik'; the nearest name is class_agnostic"),
        ("restart=maybe", "restart: .*'maybe'"),
        ("restart=1", "restart: .*1"),
        ("tracking=no-thanks", "tracking: .*'no-thanks'"),
        ("workers=-2", "workers: .*greater than or equal to 0.*-2"),
        ("pictures=x", "pictures: .*integer.*'x'"),
        ("score_threshold=nan", "score_threshold: .*number.*nan"),
        ("score_threshold=.nan", "score_threshold: .*finite.*nan"),
        ("score_threshold=50", "score_threshold: .*less than or equal to 1.*50"),
        ("orcnn.training.learning_rate=inf", r"orcnn\.training\.learning_rate: .*finite.*inf"),
        ("orcnn.training.seed=-1", r"seed: .*-1"),
        (f"orcnn.training.seed={2**63}", f"seed: .*{2**63}"),
        ("orcnn.training.betas=[0.9,1.0]", r"betas\.1: .*less than 1.*1\.0"),
        ("orcnn.training.augmentation.min_sizes=[160,0]", r"min_sizes\.1: .*greater than 0"),
        ("source.scenes.config.crowding=nan", "crowding: .*finite"),
        ("images=2024", "images: .*string.*2024"),
        ("images=s3://bucket/photographs", "images: s3://bucket/photographs is remote"),
        ("raw_root=gs://bucket", "raw_root: gs://bucket is remote"),
        ("orcnn.pretrained=https://host/x", r"orcnn\.pretrained: https://host/x is remote"),
    ],
)
def test_wrong_parameters_are_named_one_a_line(plain, given, message):
    with pytest.raises(ParameterError) as error:
        check(OmegaConf.to_container(OmegaConf.merge(plain, OmegaConf.from_dotlist([given]))))
    first, second = error.value.message.splitlines()
    assert "nothing was run" in first and re.search(message, second)


@pytest.mark.parametrize(
    "given", ["inputs=true", "inputs=orcnn", "score_threshold=1", "workers=0", "row=layers_2"]
)
def test_what_the_command_line_makes_of_right_values_is_taken(plain, given):
    check(OmegaConf.to_container(OmegaConf.merge(plain, OmegaConf.from_dotlist([given]))))


@pytest.fixture(scope="module")
def project(empty_project):
    return empty_project


def test_nothing_is_deleted_where_a_parameter_is_wrong(project):
    card = project / "data/06_models/scenes/orcnn/method.json"
    card.parent.mkdir(parents=True)
    card.write_text("a finished training")
    before = sorted(project.rglob("*"))
    with (
        pytest.raises(ParameterError, match="restart"),
        KedroSession.create(project, runtime_params={"restart": "maybe"}) as session,
    ):
        session.run(pipeline_names=["train_orcnn"])
    assert sorted(project.rglob("*")) == before and card.read_text() == "a finished training"


def test_the_order_of_parameters_does_not_matter(project):
    given = {"pretrain_a3d": {"model": {"cross_view": False}}, "a3d": {"model": {"code": 7}}}
    for ordered in (given, dict(reversed(given.items()))):
        with KedroSession.create(project, runtime_params=ordered) as session:
            model = session.load_context().config_loader["parameters"]["pretrain_a3d"]["model"]
        assert (model["code"], model["cross_view"]) == (7, False)


@pytest.mark.parametrize(("name", "value"), [("WORLD_SIZE", "2"), ("LOCAL_RANK", "1")])
def test_a_run_that_was_started_several_times_is_refused(project, monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    with (
        pytest.raises(ParameterError, match=f"{name}={value} .* torchrun"),
        KedroSession.create(project) as session,
    ):
        session.run(pipeline_names=["prepare"])
    assert not (project / "data/03_primary").exists()


def test_one_process_under_torchrun_is_let_through(project, monkeypatch):
    for name, value in (("WORLD_SIZE", "1"), ("RANK", "0"), ("LOCAL_RANK", "0")):
        monkeypatch.setenv(name, value)
    with KedroSession.create(project) as session:
        assert session.load_context().params["dataset"] == "scenes"


@pytest.mark.parametrize("pipeline", ["evaluate", "predict", "occluder_consistency"])
def test_an_unknown_method_is_named_before_data_are_looked_for(project, pipeline):
    with (
        pytest.raises(ParameterError, match=r"method=orcn is no method.*nearest name is orcnn"),
        KedroSession.create(project, runtime_params={"method": "orcn"}) as session,
    ):
        session.run(pipeline_names=[pipeline])


def test_evaluate_without_data_says_what_comes_first(project):
    with (
        pytest.raises(ParameterError, match=r"annotations_val is missing.*--env=d2sa .*prepare`"),
        KedroSession.create(project, env="d2sa") as session,
    ):
        session.run(pipeline_names=["evaluate"])


def test_a_project_that_kedro_does_not_find_is_named(tmp_path):
    for name in ("[mine]", "[", "mine]"):
        (tmp_path / name).mkdir()
    check_place(tmp_path / "[")
    check_place(tmp_path / "mine]")
    with pytest.raises(ParameterError, match=r"\[mine\] for a pattern .*: rename"):
        check_place(tmp_path / "[mine]")
