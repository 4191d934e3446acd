"""What a wheel has beside the code, and that it runs in an empty folder."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest
import torch

from amodal_pipeline.annotations import Category
from amodal_pipeline.jobs.ship import in_half
from amodal_pipeline.methods import build
from amodal_pipeline.methods.checkpoints import Checkpoint, Fingerprint, MethodCard
from amodal_pipeline.methods.pcnet_m.config import PCNetMConfig
from amodal_pipeline.methods.pretrained import weights_of
from amodal_pipeline.methods.registry import MethodConfig

ROOT = Path(__file__).resolve().parents[1]
BUILT_FROM = ("setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE", "src", "conf")
SHIPPED = {
    path.relative_to(ROOT)
    for path in [*ROOT.glob("conf/**/*.yml"), ROOT / "docs/published.csv"]
    if path.parent != ROOT / "conf/local"
}


def small_weights(folder):
    """Write untrained weights of a small completer, as `ship` lays them out."""
    torch.manual_seed(0)
    crop = {"side": 16, "image_side": 16}
    config = PCNetMConfig(width=0.25, crop=crop)
    card = MethodCard(
        method=MethodConfig(config),
        categories=(Category(id=1, name="object"),),
        dataset="photographs",
        fingerprint=Fingerprint(parts={}),
        iterations=1,
        seed=0,
    )
    in_half(Checkpoint(card, weights_of(build(config, 1)))).save(folder)
    (folder / "README.md").write_text("# stand_in")


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder that has what a wheel installs, built by way of a source distribution."""
    copy, place = (tmp_path_factory.mktemp(name) for name in ("clone", "installed"))
    for name in BUILT_FROM:
        take = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        take(ROOT / name, copy / name)
    (copy / "docs").mkdir()
    shutil.copy(ROOT / "docs/published.csv", copy / "docs")
    (copy / "conf/local/parameters.yml").write_text("seed: 1")  # the user's own
    small_weights(copy / "src/amodal_pipeline/weights/stand_in")
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(place)]
    subprocess.run([*build, str(copy)], check=True, capture_output=True)
    (wheel,) = place.glob("*.whl")
    with ZipFile(wheel) as files:
        files.extractall(place)
    return place


def run(installed, folder, *arguments):
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    environment.pop("KEDRO_LOGGING_CONFIG", None)
    return subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True
    )


def test_the_configuration_and_the_published_numbers_travel(installed):
    package = installed / "amodal_pipeline"
    found = [*package.glob("conf/**/*.*"), *package.glob("docs/*")]
    assert {path.relative_to(package) for path in found} == SHIPPED
    for name in SHIPPED:
        assert (package / name).read_bytes() == (ROOT / name).read_bytes(), name


def test_a_wheel_runs_in_an_empty_folder(installed, tmp_path):
    done = run(installed, tmp_path, "-m", "amodal_pipeline", "--pipeline=report")
    # The configuration was read, and the data looked for.
    assert done.returncode == 1 and "annotations_train is missing" in done.stderr, done.stderr
    assert "deprecated" not in done.stdout + done.stderr
    log = (tmp_path / "info.log").read_text()
    assert str(installed / "amodal_pipeline/conf/logging.yml") in log


def test_python_finds_the_published_data_sets(installed, tmp_path):
    program = "import amodal_pipeline as ap; ap.read('kins', 'nowhere')"
    done = run(installed, tmp_path, "-c", program)
    assert "nowhere" in done.stderr and "no data set is called" not in done.stderr, done.stderr


def test_weights_travel_and_complete_without_a_network(installed, tmp_path):
    program = """
import socket, sys
def refuse(*arguments): raise OSError("no network")
socket.socket.connect = refuse
import numpy as np
import amodal_pipeline as ap
masks = np.zeros((2, 60, 80), bool)
masks[0, 10:50, 10:40] = masks[1, 20:40, 40:60] = True
found = ap.load("stand_in").complete(np.zeros((60, 80, 3), np.uint8), masks)
assert (found.masks >= masks).all()
assert "kedro" not in sys.modules and "mlflow" not in sys.modules
print(ap.__file__)
"""
    done = run(installed, tmp_path, "-c", program)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(installed / "amodal_pipeline/__init__.py")
    weights = installed / "amodal_pipeline/weights"
    for folder in (ROOT / "src/amodal_pipeline/weights").glob("*/"):
        files = {file.name: file.read_bytes() for file in folder.iterdir()}
        assert files == {f.name: f.read_bytes() for f in (weights / folder.name).iterdir()}
        assert {"README.md", "method.json", "model.safetensors"} <= files.keys()
        assert sum(map(len, files.values())) <= 12e6
    assert (weights / "stand_in/README.md").exists()


def test_the_deprecation_of_pipeline_is_not_printed(tmp_path):
    for name in ("pyproject.toml", ".telemetry"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "conf", tmp_path / "conf")
    (tmp_path / "src").mkdir()
    command = ["-m", "kedro", "run", "--pipeline=report", "--params", "orcn=1"]
    done = run(ROOT / "src", tmp_path, *command)
    assert "orcn is unknown" in done.stderr, done.stderr
    assert "deprecated" not in done.stdout + done.stderr
