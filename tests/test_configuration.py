"""Layers of conf/: which folder wins, and which file set a value."""

from pathlib import Path

import pytest

from amodal_pipeline.configuration import LayeredConfigLoader, explain
from amodal_pipeline.pipelines.parameters import ParameterError
from amodal_pipeline.settings import CONFIG_LOADER_ARGS

CONF = Path(__file__).resolve().parents[1] / "conf"
FILES = {
    "base/globals.yml": "{shared: {p: base, q: base}}",
    "base/parameters.yml": "{a: {x: base, y: base, z: '${oc.create:${globals:shared}}'}}",
    "base/catalog.yml": "{raw: {type: base, versioned: true}, kept: {type: base}}",
    "profiles/small/globals.yml": "{shared: {p: small, q: small}}",
    "profiles/small/parameters.yml": "{a: {x: small, y: small}}",
    "scenes/globals.yml": "{extends: profiles/small, shared: {q: scenes}}",
    "scenes/parameters.yml": "{a: {x: scenes, z: {r: scenes}}}",
    "other/globals.yml": "{extends: scenes}",
    "other/catalog.yml": "{raw: {type: other}}",
    "local/parameters.yml": "{a: {x: local}}",
}


@pytest.fixture
def conf(tmp_path):
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def load(conf, env=None, **runtime_params):
    return LayeredConfigLoader(str(conf), env, runtime_params=runtime_params, **CONFIG_LOADER_ARGS)


@pytest.mark.parametrize(
    ("env", "x"), [(None, "local"), ("local", "local"), ("scenes", "scenes"), ("other", "scenes")]
)
def test_later_layers_win_and_local_is_on_top_of_the_default_environment_alone(conf, env, x):
    shared = {"p": "small", "q": "scenes", "r": "scenes"}
    assert load(conf, env)["parameters"] == {"a": {"x": x, "y": "small", "z": shared}}


def test_what_is_given_to_a_run_wins_and_reaches_no_shared_mapping(conf):
    loader = load(conf, "other", a={"x": "run", "z": {"p": "run"}})
    a = loader["parameters"]["a"]
    assert (a["x"], a["y"], a["z"]["p"], a["z"]["q"]) == ("run", "small", "run", "scenes")
    assert loader["globals"]["shared"] == {"p": "small", "q": "scenes"}


def test_an_entry_of_the_catalog_takes_the_place_of_the_one_before(conf):
    assert load(conf, "other")["catalog"] == {"raw": {"type": "other"}, "kept": {"type": "base"}}


def test_a_project_without_local_runs(conf):
    (conf / "local/parameters.yml").unlink()
    (conf / "local").rmdir()
    assert load(conf)["parameters"]["a"]["x"] == "scenes"


def test_what_conf_lacks_is_what_the_package_ships(tmp_path, monkeypatch):
    conf = tmp_path / "conf"
    (conf / "mine").mkdir(parents=True)
    (conf / "mine/globals.yml").write_text("{extends: scenes, dataset: mine}")
    (conf / "mine/parameters.yml").write_text("occluder_consistency: {variants: 7}")
    loader = load(conf, "mine")
    assert loader.layers() == ["base", "profiles/small", "scenes", "mine"]
    # Outside of a clone, which has the file itself.
    monkeypatch.chdir(tmp_path)
    published = load(conf, "mine")["parameters"]["folders"]["published"]
    assert Path(published) == CONF.parent / "docs/published.csv"
    consistency = explain(loader, "occluder_consistency")
    assert "occluder_consistency.variants: 7  (conf/mine/parameters.yml)" in consistency
    shipped = CONF / "base/parameters_consistency.yml"
    assert f"occluder_consistency.seed: 0  ({shipped})" in consistency
    # A folder is taken as a whole; conf/local is the user's alone.
    (conf / "base").mkdir()
    assert load(conf, "base")["globals"] == {}
    assert load(conf)._get_conf_env_path("local") == str(conf / "local")


def test_an_environment_that_extends_itself_is_named(conf):
    (conf / "profiles/small/globals.yml").write_text("extends: other")
    with pytest.raises(ValueError, match=r"conf/other/globals\.yml extends itself"):
        load(conf, "other")


def test_the_file_that_set_a_value_is_named():
    lines = explain(LayeredConfigLoader(str(CONF), "cocoa_bsds", **CONFIG_LOADER_ARGS), "vrsp")
    for line in (
        'vrsp.model.name: "vrsp"  (conf/base/parameters_vrsp.yml)',
        "vrsp.model.detector.max_size: 1333  (conf/base/globals.yml)",
        "vrsp.model.alpha: 2.0  (the method's default)",
        "vrsp.training.learning_rate: 0.0005  (conf/profiles/cocoa/globals.yml)",
        "vrsp.training.milestones: [5000, 8000]  (conf/cocoa/globals.yml)",
    ):
        assert line in lines


def test_an_unknown_name_is_answered_with_the_nearest():
    loader = LayeredConfigLoader(str(CONF), **CONFIG_LOADER_ARGS)
    with pytest.raises(ParameterError, match=r"orcn\.training; the nearest is orcnn\.training"):
        explain(loader, "orcn.training")
