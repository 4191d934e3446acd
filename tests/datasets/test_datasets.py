import errno
import os
from signal import SIGKILL
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from kedro.io import DatasetError, Version
from matplotlib.figure import Figure
from PIL import Image

from amodal_pipeline.datasets import (
    CheckpointDataset,
    PictureDataset,
    TableDataset,
)
from amodal_pipeline.methods.checkpoints import Checkpoint, Fingerprint, MethodCard, NotMade
from amodal_pipeline.methods.configs import ORCNNConfig
from amodal_pipeline.methods.registry import MethodConfig
from amodal_pipeline.training.loop import train
from tests.annotations.test_processes import killed
from tests.conftest import tiny_method, tiny_training


def test_annotations_are_versioned_and_previewed(shapes, tmp_path):
    # Brackets are no pattern, wherever a project lies.
    path = tmp_path / "[my] data" / "a"
    dataset = TableDataset(filepath=str(path), version=Version(None, "2026-01-01"))
    assert not dataset.exists()
    dataset.save(shapes)
    dataset = TableDataset(filepath=str(path), version=Version(None, "2026-01-01"))
    assert (
        dataset.exists() and TableDataset(filepath=str(path), version=Version(None, None)).exists()
    )
    assert dataset.load().fingerprint == shapes.fingerprint
    preview = dataset.preview(nrows=3)
    assert len(preview["data"]) == 3 and "occlusion_rate" in preview["columns"]
    with pytest.raises(DatasetError, match="must not exist"):
        TableDataset(filepath=str(path), version=Version(None, "2026-01-01")).save(shapes)
    next(tmp_path.rglob("instances.parquet")).write_bytes(b"PAR1")
    with pytest.raises(DatasetError, match=r"instances\.parquet.*run the pipeline"):
        dataset.load()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and signals")
def test_a_version_that_was_killed_goes_with_the_next(shapes, tmp_path, monkeypatch):
    def dataset(version):
        return TableDataset(filepath=str(tmp_path / "a"), version=Version(None, version))

    def die():
        monkeypatch.setattr(pq, "write_table", lambda *_, **__: os.kill(os.getpid(), SIGKILL))
        dataset("2026-01-01").save(shapes)

    killed(die)
    assert len(list(tmp_path.glob("a/2026-01-01/.*"))) == 1
    dataset("2026-01-02").save(shapes)
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["2026-01-02"]
    dataset("2026-01-03").save(shapes)
    assert len(list((tmp_path / "a").iterdir())) == 2


def versions(folder):
    return sorted(path.name for path in (folder / "a").iterdir())


def save(shapes, folder, version, keep, load=None):
    dataset = TableDataset(
        filepath=str(folder / "a"), version=Version(load, version), keep_versions=keep
    )
    dataset.save(shapes)
    return dataset


def test_old_versions_of_a_table_are_removed_after_a_new_one_is_saved(shapes, tmp_path):
    for version in ("1", "2", "3"):
        save(shapes, tmp_path, version, keep=0)
    save(shapes, tmp_path, "4", keep=None)
    assert versions(tmp_path) == ["1", "2", "3", "4"]
    (tmp_path / "a" / "2" / "a" / "metadata.json").unlink()  # does not count as a version
    save(shapes, tmp_path, "5", keep=3)
    assert versions(tmp_path) == ["3", "4", "5"]
    oldest = TableDataset(filepath=str(tmp_path / "a"), version=Version("3", None)).load()
    assert oldest.fingerprint == shapes.fingerprint
    with pytest.raises(DatasetError, match=r"keep_versions .* is -1: give the number"):
        TableDataset(filepath="a", keep_versions=-1)


def test_a_version_in_use_or_just_saved_is_never_removed(shapes, tmp_path):
    for version in ("2", "3", "4"):
        save(shapes, tmp_path, version, keep=0)
    save(shapes, tmp_path, "5", keep=1, load="2")  # pinned, as with --load-versions
    assert versions(tmp_path) == ["2", "5"]
    save(shapes, tmp_path, "1", keep=1)  # saved under a name that sorts before the others
    assert versions(tmp_path) == ["1", "5"]
    reader = TableDataset(filepath=str(tmp_path / "a"), version=Version(None, "6"), keep_versions=1)
    reader.load()
    reader.save(shapes)
    assert versions(tmp_path) == ["5", "6"]


def test_checkpoints_round_trip_and_show_their_card(shapes, tmp_path):
    checkpoint = train(
        tiny_method("mask_rcnn"), tiny_training(iterations=2), shapes, tmp_path / "t"
    )
    dataset = CheckpointDataset(filepath=str(tmp_path / "c"))
    assert not dataset.exists()
    with pytest.raises(DatasetError, match="kedro run --pipeline=train_<method>"):
        dataset.load()
    dataset.save(checkpoint)
    assert dataset.exists() and dataset.load().card == checkpoint.card
    assert '"mask_rcnn"' in dataset.preview()


def test_pictures_come_from_images_and_figures(tmp_path):
    dataset = PictureDataset(filepath=str(tmp_path / "p.png"))
    dataset.save(Image.fromarray(np.full((8, 9, 3), 7, np.uint8)))
    assert np.asarray(dataset.load()).tolist() == np.full((8, 9, 3), 7).tolist()
    figure = Figure()
    figure.subplots().plot([1, 2])
    dataset.save(figure)
    assert dataset.load().size[0] > 100
    assert dataset.preview().startswith("iVBOR")  # a PNG in base64
    assert [p.name for p in tmp_path.iterdir()] == ["p.png"]


def test_a_checkpoint_that_a_run_has_no_use_for_leaves_what_is_there(shapes, tmp_path):
    config = ORCNNConfig()
    card = MethodCard(
        method=MethodConfig(config),
        categories=shapes.metadata.categories,
        dataset="shapes",
        fingerprint=Fingerprint(parts={}),
        iterations=1,
        seed=0,
    )
    dataset = CheckpointDataset(filepath=str(tmp_path))
    dataset.save(NotMade())
    assert isinstance(dataset.load(), NotMade) and not dataset.exists()
    dataset.save(Checkpoint(card, {}))
    assert dataset.load().card.dataset == "shapes"
    dataset.save(NotMade())
    assert isinstance(dataset.load(), NotMade)
    assert CheckpointDataset(filepath=str(tmp_path)).load().card.dataset == "shapes"


def test_a_version_that_another_run_has_found_is_never_removed(shapes, tmp_path):
    save(shapes, tmp_path, "1", keep=1)
    other = TableDataset(filepath=str(tmp_path / "a"), version=Version("1", None))
    assert other.exists()  # as a run asks at its start for what it loads at its end
    for version in ("2", "3"):
        save(shapes, tmp_path, version, keep=1)
    assert versions(tmp_path) == ["1", "3"]
    assert other.load().fingerprint == shapes.fingerprint
    del other
    save(shapes, tmp_path, "4", keep=1)
    assert versions(tmp_path) == ["4"]


def test_a_full_disk_costs_no_scores_that_were_there(tmp_path, monkeypatch):
    from amodal_pipeline.metrics import score_files

    (tmp_path / "orcnn.csv").write_text("before")

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(score_files, "write_parquet", full)
    scores = SimpleNamespace(results=pd.DataFrame(), draws=None, curves=None, objects=None)
    with pytest.raises(OSError, match="the disk is full"):
        score_files.save_scores(tmp_path, "orcnn", scores)
    assert [path.name for path in tmp_path.iterdir()] == ["orcnn.csv"]
    assert (tmp_path / "orcnn.csv").read_text() == "before"
