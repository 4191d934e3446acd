import functools
import shutil
from pathlib import Path

import nbformat
import pytest
from kedro.framework.session import KedroSession
from kedro.framework.startup import bootstrap_project
from nbclient import NotebookClient

from amodal_pipeline.scenes.config import ScenesConfig
from amodal_pipeline.scenes.dataset import render_split

ROOT = Path(__file__).resolve().parents[1]
NAMES = sorted(path.name for path in (ROOT / "notebooks").glob("*.ipynb"))


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A project with the embedded data as `prepare` leaves it, only less of it."""
    folder = tmp_path_factory.mktemp("project")
    for name in ("conf", "notebooks"):
        shutil.copytree(ROOT / name, folder / name)
    for name in ("pyproject.toml", ".telemetry"):
        shutil.copy(ROOT / name, folder)
    (folder / "src").mkdir()  # Kedro wants one; the package is imported from where it is installed
    scenes = render_split(
        ScenesConfig(image_size=96), "train", 5, folder / "data" / "02_intermediate" / "scenes"
    )
    bootstrap_project(folder)
    with pytest.MonkeyPatch.context() as patch:
        # No handler may write info.log where the tests were started.
        patch.chdir(folder)
        with KedroSession.create(folder) as session:
            session.load_context().catalog.save("annotations_train", scenes)
    return folder


@pytest.fixture(scope="module")
def executed(project):
    """A function that runs a notebook, once, and gives it with its outputs."""

    @functools.cache
    def run(name):
        notebook = nbformat.read(project / "notebooks" / name, as_version=4)
        NotebookClient(notebook, timeout=120).execute(cwd=str(project / "notebooks"))
        return notebook

    return run


@pytest.mark.parametrize("name", NAMES)
def test_notebook_runs(name, executed):
    stored = nbformat.read(ROOT / "notebooks" / name, as_version=4)
    assert all(not cell.get("outputs") for cell in stored.cells), "clear the outputs"
    executed(name)


def test_the_explorer_shows_tables_figures_and_pictures(executed):
    cells = executed("explore_dataset.ipynb").cells
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    shown = [output["data"] for output in outputs if "data" in output]
    # Three histograms, a sheet of images, two objects and an entangled image.
    assert sum("image/png" in data for data in shown) == 7
    assert any("percentage points" in data["text/plain"] for data in shown)
    accounting = next(
        d["text/html"] for d in shown if "<th>rejected</th>" in d.get("text/html", "")
    )
    assert "<th>instances</th>" in accounting and "<td>5</td>" in accounting  # five images
