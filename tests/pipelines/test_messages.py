"""Names with brackets in what is logged and printed, and folders that are remote."""

import io
import logging
from pathlib import Path

import pytest
import yaml
from kedro.logging import RichHandler
from rich.console import Console

from amodal_pipeline.datasets import (
    CheckpointDataset,
    MeshDataset,
    PageDataset,
    PictureDataset,
    ScoresDataset,
    TableDataset,
)
from amodal_pipeline.hooks.start import show_markup
from amodal_pipeline.jobs.progress import plain_console, progress

ROOT = Path(__file__).resolve().parents[2]
NAME = "/data [red]/[/mine]"


def test_logged_names_keep_their_brackets():
    settings = yaml.safe_load((ROOT / "conf/logging.yml").read_text())["handlers"]["rich"]
    console = Console(width=200, record=True, file=io.StringIO())
    handler = RichHandler(console=console, markup=settings["markup"])
    logger = logging.Logger("amodal_pipeline.here")
    logger.addHandler(handler)
    logger.warning("before a run: %s", NAME)
    handler.addFilter(show_markup)
    logger.warning("overlays of %d images are in %s", 3, NAME)
    logger.warning("Loading data from %s", "results", extra={"rich_format": ["dark_orange"]})
    shown = console.export_text()
    assert f"before a run: {NAME}" in shown
    assert f"overlays of 3 images are in {NAME}" in shown
    assert "Loading data from results" in shown


def test_printed_names_keep_their_brackets(capsys):
    plain_console().print(NAME)
    console = Console(width=200, record=True, force_terminal=True)
    with progress(NAME, console) as on_progress:
        on_progress(1, 2)
    assert NAME in capsys.readouterr().out and NAME in console.export_text()


@pytest.mark.parametrize(
    "kind",
    [
        *(CheckpointDataset, MeshDataset, PageDataset, PictureDataset),
        *(ScoresDataset, TableDataset),
    ],
)
def test_remote_folders_are_refused(kind):
    with pytest.raises(ValueError, match=r"s3://bucket/x is remote, .* copy or mount"):
        kind(filepath="s3://bucket/x")
    kind(filepath="/data/a:b/x")
