"""The notebooks run, and show what they show when they are run.

`python -m tests.test_notebooks` (all, or those that it is given) runs them in this project, after
`kedro run`, and stores what they show: without paths of the machine, and with small pictures.
"""

import functools
import io
import json
import re
import shutil
import sys
from base64 import b64decode, b64encode
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
from kedro.framework.session import KedroSession
from kedro.framework.startup import bootstrap_project
from nbclient import NotebookClient
from PIL import Image

from amodal_pipeline.annotations import AmodalAnnotations, Predictions, rle
from amodal_pipeline.metrics.config import EvaluationConfig
from amodal_pipeline.metrics.evaluate import evaluate
from amodal_pipeline.metrics.score_files import save_scores
from amodal_pipeline.scenes.config import ScenesConfig
from amodal_pipeline.scenes.dataset import render_split
from tests.tables import predictions

ROOT = Path(__file__).resolve().parents[1]
NAMES = sorted(path.name for path in (ROOT / "notebooks").glob("*.ipynb"))
PLACES = re.compile(r"/(?:tmp|home|root|work|Users|var|mnt)/[\w.-]+|\bat 0x[0-9a-fA-F]+")
# What a notebook makes, made smaller.
SMALLER = {
    "own_data.ipynb": {
        'make_export("train", 40)': 'make_export("train", 4)',
        'make_export("val", 8)': 'make_export("val", 2)',
        "  iterations: 200\n": "  iterations: 2\n  warmup_iterations: 1\n  batch_size: 2\n",
    }
}


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
    parts = folder / "data" / "08_reporting" / "scenes" / "parts"
    for method, shift in (("orcnn", 1), ("mask_rcnn", 3)):
        found = evaluate(scenes, _shifted(scenes, method, shift), EvaluationConfig())
        save_scores(parts, method, found)
    bootstrap_project(folder)
    with pytest.MonkeyPatch.context() as patch:
        # No handler may write info.log where the tests were started.
        patch.chdir(folder)
        with KedroSession.create(folder) as session:
            session.load_context().catalog.save("annotations_train", scenes)
    return folder


def _shifted(truth, method, pixels):
    """The truth, some pixels to the right, as a method that finds every object."""
    instances, size = truth.instances, tuple(truth.sizes[0])
    masks = {
        kind: rle.encode(np.roll(rle.decode(instances[kind].tolist(), size), pixels, axis=2))
        for kind in ("amodal_rle", "visible_rle")
    }
    table = {
        "score": np.linspace(1, 0.5, len(instances)),
        **{name: instances[name] for name in ("image_id", "category_id")},
        **masks,
    }
    return predictions(truth, table, method=method)


@pytest.fixture(scope="module")
def executed(project):
    """A function that runs a notebook, once, and gives it with its outputs."""

    @functools.cache
    def run(name):
        notebook = nbformat.read(project / "notebooks" / name, as_version=4)
        for written, smaller in SMALLER.get(name, {}).items():
            (cell,) = (cell for cell in notebook.cells if written in cell.source)
            cell.source = cell.source.replace(written, smaller)
        NotebookClient(notebook, timeout=120).execute(cwd=str(project / "notebooks"))
        return notebook

    return run


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_shows_what_it_shows_when_it_is_run(name, executed):
    path = ROOT / "notebooks" / name
    stored = nbformat.read(path, as_version=4)
    for cells in zip(code_cells(stored), code_cells(executed(name)), strict=True):
        before, now = (list(map(kinds, shown(cell))) for cell in cells)
        assert before == now, f"python -m tests.test_notebooks stores it anew:\n{cells[0].source}"
    counts = [cell.execution_count for cell in code_cells(stored)]
    assert counts == list(range(1, len(counts) + 1))
    assert path.stat().st_size < 350_000
    outputs = [output for cell in code_cells(stored) for output in cell.outputs]
    assert not any(output.output_type == "error" for output in outputs)
    said = [text for output in outputs for text in texts(output).values()]
    assert not [text for text in said if PLACES.search(text)]


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def texts(output):
    """What an output says, by the kind of its text."""
    data = output.get("data", output)
    return {kind: text for kind, text in data.items() if kind.startswith("text")}


def shown(cell):
    """The outputs of a cell without warnings of libraries, which differ between machines."""
    return [output for output in cell.outputs if output.get("name") != "stderr"]


def kinds(output):
    """What an output is, whatever it says."""
    pictures = {"image/jpeg": "image/png"}
    return {pictures.get(kind, kind) for kind in output.get("data", {"text": None})}


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


def test_methods_are_compared_with_their_intervals(executed):
    cells = executed("compare_methods.ipynb").cells
    shown = [o["data"] for cell in cells for o in cell.get("outputs", []) if "data" in o]
    assert sum("image/png" in data for data in shown) == 1
    (paired,) = (d["text/html"] for d in shown if "probability" in d.get("text/html", ""))
    # One pixel off is better than three, in every resample.
    assert paired.count("<td>1.0</td>") == 3


def newest(table, folder):
    return table.load(max(folder.iterdir()) / folder.name)


def test_a_labelled_export_becomes_a_data_set_and_a_trained_model(executed, project):
    cells = executed("own_data.ipynb").cells
    shown = [o["data"] for cell in cells for o in cell.get("outputs", []) if "data" in o]
    assert sum("image/png" in data for data in shown) == 3  # truth, predictions, the new image
    assert any("a polygon has fewer than three points" in d.get("text/html", "") for d in shown)
    assert any("visible_masks" in data["text/plain"] for data in shown)

    data = project / "data"
    train = newest(AmodalAnnotations, data / "03_primary/worked_example/annotations_train")
    new = newest(Predictions, data / "07_model_output/worked_example/orcnn/user_predictions")
    export = json.loads((data / "01_raw/worked_example/train/instances_default.json").read_text())
    assert train.rejected["record"].tolist() == ["instance 1"]
    assert len(train.instances) == len(export["annotations"]) - 1
    assert any(record["iscrowd"] for record in export["annotations"])
    assert not train.instances["ignore"].any()
    assert new.images["file_name"].tolist() == ["000000.png"]
    results = pd.read_csv(data / "08_reporting/worked_example/results.csv")
    # (Objects that do not overlap have no order.)
    baselines = {"visible_mask", "convex_hull"}
    assert {"orcnn"} | baselines == set(results["method"][results["protocol"] != "order"])


def test_the_masks_of_the_export_are_those_of_its_scenes(executed, project):
    executed("own_data.ipynb")
    data = project / "data"
    labelled = newest(AmodalAnnotations, data / "03_primary/worked_example/annotations_train")
    config = ScenesConfig(image_size=160, categories=("car", "house", "teapot", "tree"))
    scenes = render_split(config, "train", 2, data / "02_intermediate/again")
    outlines, seen = [], []
    for image_id in (0, 1):
        ours, true = labelled.of_image(image_id), scenes.of_image(image_id)
        overlap = rle.iou(ours["amodal_rle"].tolist(), true["amodal_rle"].tolist(), (160, 160))
        matched = true.iloc[overlap.argmax(axis=1)]
        assert ours["category_id"].tolist() == matched["category_id"].tolist()
        outlines += overlap.max(axis=1).tolist()
        visible = (table["visible_rle"].tolist() for table in (ours, matched))
        seen += rle.pair_iou(*visible).tolist()
    # Corners three pixels apart, and nearness told from the lowest pixel.
    assert np.mean(outlines) > 0.93 and np.mean(seen) > 0.9
    assert labelled.instances["occlusion_rate"].max() > 0.3

    # Hidden is what lies under an object in front, and nothing else is.
    instances, order = labelled.instances, labelled.order
    whole = dict(zip(instances["instance_id"], instances["amodal_rle"], strict=True))
    visible = dict(whole)
    for front, back in zip(order["occluder_id"], order["occludee_id"], strict=True):
        (visible[back],) = rle.difference([visible[back]], [whole[front]])
    assert list(visible.values()) == instances["visible_rle"].tolist()


def store(names):
    """Run each notebook as it is, and write what it shows into it."""
    for name in names:
        path = ROOT / "notebooks" / name
        notebook = nbformat.read(path, as_version=4)
        described = dict(notebook.metadata)
        NotebookClient(notebook, timeout=3600, record_timing=False).execute(cwd=str(path.parent))
        notebook.metadata = described  # the version of Python that ran it is not among them
        for cell in code_cells(notebook):
            cell.outputs = shown(cell)
            for output in cell.outputs:
                data = output.get("data", output)
                for kind, text in texts(output).items():
                    data[kind] = PLACES.sub("…", text.replace(str(ROOT), "…"))
                if "image/png" in data:
                    data |= smaller(data.pop("image/png"))
        nbformat.write(notebook, path)


def smaller(png):
    """The picture as JPEG at most 800 pixels wide, or as it is where that is the smaller file."""
    buffer, picture = io.BytesIO(), Image.open(io.BytesIO(b64decode(png))).convert("RGB")
    picture.thumbnail((800, 1300))
    picture.save(buffer, "JPEG", quality=60)
    jpeg = b64encode(buffer.getvalue()).decode()
    return {"image/jpeg": jpeg} if len(jpeg) < len(png) else {"image/png": png}


if __name__ == "__main__":
    store(sys.argv[1:] or NAMES)
