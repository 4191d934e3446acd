"""A project of its own for each module of tests that runs jobs."""

import shutil
from pathlib import Path

import pytest
from kedro.framework.startup import bootstrap_project

from amodal_pipeline.configuration import LayeredConfigLoader
from amodal_pipeline.settings import CONFIG_LOADER_ARGS

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENTS = sorted({p.parent.name for p in ROOT.glob("conf/*/globals.yml")} - {"base", "local"})
# Those with small networks; the others have the papers'.
SMALL_ENVIRONMENTS = (
    "composed_clips",
    "composed_coco",
    "moving_scenes",
    "photographs",
    "scenes",
    "views",
    "views_unseen",
)


def configuration(env=None, **runtime_params):
    """Return the configuration of an environment as `kedro run` has it."""
    return LayeredConfigLoader(
        str(ROOT / "conf"), env, runtime_params=runtime_params, **CONFIG_LOADER_ARGS
    )


# A detector that trains in seconds, and how; each module takes what it needs of it.
DETECTOR = {
    "backbone": {"name": "test_resnet", "weights": None, "pyramid_channels": 16},
    "proposals": {"after_nms_train": 40, "after_nms_test": 40},
    "box_head": {"channels": 32, "samples_per_image": 32, "score_threshold": 0.0},
    "min_size": 64,
    "max_size": 64,
}
TRAINING = {
    "iterations": 2,
    "warmup_iterations": 1,
    "checkpoint_every": 1,
    "log_every": 1,
    "augmentation": {"min_sizes": [64], "max_size": 64},
}
METHOD = {
    "model": {"detector": DETECTOR, "mask_head": {"convolutions": 1, "channels": 16}},
    "training": TRAINING,
}


@pytest.fixture(scope="module")
def empty_project(tmp_path_factory):
    """A folder with this project's configuration and no data, which is where the tests run."""
    folder = tmp_path_factory.mktemp("project")
    shutil.copytree(ROOT / "conf", folder / "conf")
    for name in ("pyproject.toml", ".telemetry"):
        shutil.copy(ROOT / name, folder)
    (folder / "src").mkdir()  # Kedro wants one; the package is imported from where it is installed
    bootstrap_project(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        # No handler may write info.log where the tests were started.
        patch.chdir(folder)
        yield folder
