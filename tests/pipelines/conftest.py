"""A project of its own for each module of tests that runs jobs."""

import shutil
from pathlib import Path

import pytest
from kedro.framework.startup import bootstrap_project

ROOT = Path(__file__).resolve().parents[2]


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
