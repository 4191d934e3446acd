"""The job `mask_tokenizer` on a handful of rendered scenes."""

import shutil

import pandas as pd
import pytest
from kedro.framework.session import KedroSession
from PIL import Image

from amodal_pipeline.methods.checkpoints import Checkpoint
from amodal_pipeline.methods.configs import MaskTokenizerConfig
from amodal_pipeline.training.state import ChangedTrainingError

SMALL = {
    "source": {"scenes": {"train": 6, "val": 3, "config": {"image_size": 96}}},
    "mask_tokenizer": {
        "model": {
            "crop": {"side": 16, "image_side": 32},
            "multipliers": [1, 2],
            "codes": 16,
            "code_size": 8,
            "adversarial": 0.75,
        },
        "training": {"iterations": 6, "batch_size": 4, "checkpoint_every": 2, "device": "cpu"},
    },
    "inference": {"device": "cpu"},
    "workers": 1,
    "tracking": False,
}


@pytest.fixture(scope="module")
def project(empty_project):
    run(empty_project)
    return empty_project


def run(project, parameters=SMALL, **options):
    with KedroSession.create(project, runtime_params=parameters) as session:
        return session.run(pipeline_names=["mask_tokenizer"], **options)


def changed(**model):
    own = SMALL["mask_tokenizer"]
    return {**SMALL, "mask_tokenizer": {**own, "model": {**own["model"], **model}}}


def weights_of(project):
    return (project / "data/06_models/scenes/mask_tokenizer/model.safetensors").read_bytes()


def test_from_nothing_to_a_tokenizer_its_table_and_picture(project):
    checkpoint = Checkpoint.load(project / "data/06_models/scenes/mask_tokenizer")
    assert checkpoint.card.method.root.name == "mask_tokenizer"
    assert checkpoint.weights["network.codes"].shape == (16, 8)
    assert checkpoint.weights["iteration"] == 6
    folder = project / "data/08_reporting/scenes/mask_tokenizer"
    table = pd.read_csv(folder / "reconstruction.csv")
    names = [c.name for c in checkpoint.card.categories]
    assert table["category"].tolist() == ["all", *names] * 2
    assert table["split"].unique().tolist() == ["train", "val"]
    assert (table["used_codes"] + table["dead_codes"] == 16).all()
    overall = table[table["category"] == "all"]
    assert (overall["objects"] > 3).all() and overall["iou"].between(0, 100).all()
    history = pd.read_csv(folder / "history.csv")
    assert {"loss_reconstruction", "loss_discriminator"} <= set(history.columns)
    assert min(Image.open(folder / "reconstructions.png").size) > 600
    assert min(Image.open(folder / "loss_curves.png").size) > 100


def test_what_exists_is_kept_and_made_again_the_same(project):
    before = weights_of(project)
    run(project, only_missing_outputs=True)
    run(project)  # nothing has changed: nothing is trained again
    assert weights_of(project) == before
    shutil.rmtree(project / "data/06_models/scenes/mask_tokenizer")
    run(project)
    assert weights_of(project) == before


def test_what_was_trained_otherwise_is_refused_and_a_warning_is_no_training(project, caplog):
    for options in ({}, {"only_missing_outputs": True}):
        with pytest.raises(ChangedTrainingError, match=r"codes: 16 -> 8\n.*restart=true"):
            run(project, changed(codes=8), **options)
    run(project, changed(poor_below=0))
    assert "mean IoU" not in caplog.text
    run(project, changed(poor_below=100))
    assert "scenes: masks come back from their tokens with a mean IoU of" in caplog.text


@pytest.mark.parametrize("env", ["kins", "cocoa", "cocoa_cls", "d2sa", "scenes_large"])
def test_published_data_sets_have_the_published_form(project, env):
    with KedroSession.create(project, env=env) as session:
        job = session.load_context().catalog.load("params:mask_tokenizer")
    assert job.model.root == MaskTokenizerConfig()
    training = job.training
    assert (training.iterations, training.batch_size) == (100_000, 4)
    assert (training.optimizer, training.learning_rate, training.betas) == (
        "adam",
        5e-5,
        (0.5, 0.9),
    )
    assert (training.milestones, training.gamma) == ((30_000, 60_000, 90_000), 0.5)
    assert training.weight_decay == 0
