"""What a wheel has beside the code, and that it runs in an empty folder."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest

ROOT = Path(__file__).resolve().parents[1]
BUILT_FROM = ("setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE", "src", "conf")
SHIPPED = {
    path.relative_to(ROOT)
    for path in [*ROOT.glob("conf/**/*.yml"), ROOT / "docs/published.csv"]
    if path.parent != ROOT / "conf/local"
}


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


def test_the_deprecation_of_pipeline_is_not_printed(tmp_path):
    for name in ("pyproject.toml", ".telemetry"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "conf", tmp_path / "conf")
    (tmp_path / "src").mkdir()
    command = ["-m", "kedro", "run", "--pipeline=report", "--params", "orcn=1"]
    done = run(ROOT / "src", tmp_path, *command)
    assert "orcn is unknown" in done.stderr, done.stderr
    assert "deprecated" not in done.stdout + done.stderr
