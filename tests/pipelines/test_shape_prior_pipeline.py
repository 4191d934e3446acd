"""The job `shape_prior` on a handful of rendered scenes."""

import shutil

import pandas as pd
import pytest
from kedro.framework.session import KedroSession
from PIL import Image

from amodal_pipeline.methods.vrsp.stored import StoredShapePrior
from amodal_pipeline.training.state import ChangedTrainingError

SMALL = {
    "source": {"scenes": {"train": 6, "val": 3, "config": {"image_size": 96}}},
    "shape_prior": {"iterations": 10, "clusters": 3, "batch_size": 8},
    "workers": 1,
    "tracking": False,
}


@pytest.fixture(scope="module")
def project(empty_project):
    run(empty_project)
    return empty_project


def run(project, parameters=SMALL, **options):
    with KedroSession.create(project, runtime_params=parameters) as session:
        return session.run(pipeline_names=["shape_prior"], **options)


def changed(**values):
    return {**SMALL, "shape_prior": {**SMALL["shape_prior"], **values}}


def weights_of(project):
    return (project / "data/06_models/scenes/shape_prior/shape_prior.safetensors").read_bytes()


def test_from_nothing_to_a_shape_prior_its_table_and_pictures(project):
    stored = StoredShapePrior.load(project / "data/06_models/scenes/shape_prior")
    assert stored.card.dataset == "scenes" and sum(stored.card.entries) > 3
    assert max(stored.card.entries) <= 3
    folder = project / "data/08_reporting/scenes/shape_prior"
    table = pd.read_csv(folder / "shape_prior.csv")
    names = [c.name for c in stored.card.categories]
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


def test_masks_of_a_method_that_is_not_there_are_asked_for(project):
    with pytest.raises(ValueError, match="orcnn holds no trained method"):
        run(project, changed(predicted_by="orcnn"))


def test_damage_says_how_to_get_another(project):
    path = project / "data/06_models/scenes/shape_prior/shape_prior.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:100])
    with pytest.raises(ValueError, match=r"is damaged.*shape_prior\.safetensors.*restart=true"):
        run(project)
    run(project, {**SMALL, "restart": True})
    assert path.read_bytes() == whole


def test_unknown_parameters_are_refused_before_anything_runs(project):
    with pytest.raises(Exception, match=r"shape_prior[\s\S]*cluster_count"):
        run(project, changed(cluster_count=2))


@pytest.mark.parametrize(
    ("env", "convolutions"), [("kins", 2), ("d2sa", 3), ("cocoa_cls", 3), ("scenes_large", 3)]
)
def test_published_data_sets_have_the_published_form(project, env, convolutions):
    with KedroSession.create(project, env=env) as session:
        config = session.load_context().catalog.load("params:shape_prior")
    assert (config.convolutions, config.clusters) == (convolutions, 1024)
