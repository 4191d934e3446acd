"""The job `shape_prior` on a handful of rendered scenes."""

import shutil

import pandas as pd
import pytest
from kedro.framework.session import KedroSession
from PIL import Image

from amodal_pipeline import methods
from amodal_pipeline.methods.checkpoints import MethodCard
from amodal_pipeline.training.state import ChangedTrainingError
from tests.pipelines.conftest import METHOD

SMALL = {
    "source": {"scenes": {"train": 6, "val": 3, "config": {"image_size": 96}}},
    "shape_prior": {
        "model": {"clusters": 3},
        "training": {"iterations": 10, "batch_size": 8, "checkpoint_every": 5},
    },
    "workers": 1,
    "tracking": False,
}


@pytest.fixture(scope="module")
def project(empty_project):
    run(empty_project)
    return empty_project


def run(project, parameters=SMALL, job="shape_prior", **options):
    with KedroSession.create(project, runtime_params=parameters) as session:
        return session.run(pipeline_names=[job], **options)


def changed(**values):
    return {**SMALL, "shape_prior": SMALL["shape_prior"] | {"model": {"clusters": 3} | values}}


def weights_of(project):
    return (project / "data/06_models/scenes/shape_prior/model.safetensors").read_bytes()


def test_from_nothing_to_a_shape_prior_its_table_and_pictures(project):
    model = methods.load(project / "data/06_models/scenes/shape_prior")
    assert model.network.count.sum() > 3 >= model.network.count.max() > 0
    folder = project / "data/08_reporting/scenes/shape_prior"
    table = pd.read_csv(folder / "shape_prior.csv")
    names = [c.name for c in model.categories]
    assert table["category"].tolist() == ["all", *names] * 2
    assert table["split"].unique().tolist() == ["train", "val"]
    assert table["note"].str.startswith("fewer than 16 entries").sum() > 0
    for name in ("entries", "map"):
        picture = Image.open(folder / f"{name}.png")
        assert min(picture.size) > 300 and len(picture.getcolors(10**7)) > 50


def test_what_exists_is_kept_and_made_again_the_same(project):
    before = weights_of(project)
    run(project, only_missing_outputs=True)
    run(project)  # nothing has changed: nothing is learnt again
    assert weights_of(project) == before
    run(project, {**SMALL, "restart": True})
    assert weights_of(project) == before
    shutil.rmtree(project / "data/06_models/scenes/shape_prior")
    run(project, only_missing_outputs=True)
    assert weights_of(project) == before


def test_what_was_made_from_something_else_is_refused(project):
    for options in ({}, {"only_missing_outputs": True}):
        with pytest.raises(ChangedTrainingError, match=r"clusters: 3 -> 2\n.*restart=true"):
            run(project, changed(clusters=2), **options)
    # A choice about the report is none about the shape prior.
    before = weights_of(project)
    run(project, changed(poor_below=1))
    assert weights_of(project) == before
    table = pd.read_csv(project / "data/08_reporting/scenes/shape_prior/shape_prior.csv")
    assert not table["note"].fillna("").str.startswith("fewer").any()


def test_masks_that_a_detector_predicts_are_learnt_too(project):
    made = MethodCard.load(project / "data/06_models/scenes/shape_prior")
    assert "detected" not in made.fingerprint.parts
    values = SMALL | {"shape_prior": SMALL["shape_prior"] | {"detector": "mask_rcnn"}}
    values |= {"mask_rcnn": METHOD, "restart": True}
    with pytest.raises(ValueError, match="holds no detector: train it with"):
        run(project, values)
    run(project, values, job="train_mask_rcnn", to_nodes=["mask_rcnn.train"])
    run(project, values)
    models = project / "data/06_models/scenes"
    made, detector = (MethodCard.load(models / name) for name in ("shape_prior", "mask_rcnn"))
    assert made.fingerprint.parts["detected"] == detector.fingerprint.digest
    run(project, {**SMALL, "restart": True})


def test_what_is_damaged_is_made_again_from_its_training_state(project):
    path = project / "data/06_models/scenes/shape_prior/model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:100])
    with pytest.raises(ValueError, match=r"is damaged.*model\.safetensors"):
        methods.load(path.parent)
    run(project)
    assert path.read_bytes() == whole


def test_names_of_earlier_versions_say_the_new_one(project):
    given = {"clusters": 3, "batch_size": 8, "predicted_by": "orcnn"}
    names = ("model.clusters", "training.batch_size", "detector")
    for (key, value), name in zip(given.items(), names, strict=True):
        wrong = {**SMALL, "shape_prior": {**SMALL["shape_prior"], key: value}}
        with pytest.raises(ValueError, match=f"shape_prior: {key} is unknown: its name is {name}"):
            run(project, wrong)


def test_unknown_parameters_are_refused_before_anything_runs(project):
    with pytest.raises(Exception, match=r"shape_prior[\s\S]*cluster_count"):
        run(project, changed(cluster_count=2))


@pytest.mark.parametrize(
    ("env", "convolutions"), [("kins", 2), ("d2sa", 3), ("cocoa_cls", 3), ("scenes_large", 3)]
)
def test_published_data_sets_have_the_published_form(project, env, convolutions):
    with KedroSession.create(project, env=env) as session:
        job = session.load_context().catalog.load("params:shape_prior")
    config = job.model.root
    assert (config.convolutions, config.clusters) == (convolutions, 1024)
