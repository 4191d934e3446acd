"""The environments of single-object views, as a user runs them, with few and small objects."""

from pathlib import Path

import numpy as np
import pytest
from kedro.config import OmegaConfigLoader
from kedro.framework.session import KedroSession

from amodal_pipeline.annotations import AmodalAnnotations
from amodal_pipeline.pipelines.prepare.sources import Source
from amodal_pipeline.settings import CONFIG_LOADER_ARGS
from tests.scenes.test_nmr import objects

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def project(empty_project):
    return empty_project


def prepare(project, env, pipeline="prepare", **parameters):
    values = {"tracking": False, "workers": 1, **parameters}
    with KedroSession.create(project, env=env, runtime_params=values) as session:
        session.run(pipeline_names=[pipeline])


def table(project, dataset, split):
    versions = sorted((project / f"data/03_primary/{dataset}/annotations_{split}").iterdir())
    return AmodalAnnotations.load(versions[-1] / f"annotations_{split}")


@pytest.mark.parametrize(("env", "shown"), [("views", (24, 24)), ("views_unseen", (14, 10))])
def test_views(project, env, shown):
    few = {"train": 3, "val": 2, "config": {"categories": ["car", "mug"]}}
    prepare(project, env, source={"views": few})
    for split, count, views in zip(("train", "val"), (3, 2), shown, strict=True):
        found = table(project, env, split)
        assert found.metadata.dataset == env and len(found.images) == count * views
        folder = project / f"data/02_intermediate/{env}/{split}"
        assert sum(1 for _ in folder.glob("*/*.png")) == count * views
        assert (project / f"data/08_reporting/{env}/audit_{split}.html").is_file()


@pytest.mark.parametrize("env", ["views", "views_unseen"])
def test_a_folder_of_meshes_joins_the_families(env):
    loader = OmegaConfigLoader(
        str(ROOT / "conf"), env, runtime_params={"meshes": "my/meshes"}, **CONFIG_LOADER_ARGS
    )
    config = Source.model_validate(loader["parameters"]["source"]).chosen.config
    assert config.meshes == "my/meshes" and config.families
    assert config.distance * np.sin(np.radians(config.field_of_view / 2)) > config.radius


def test_shapenet(project, tmp_path):
    folder = tmp_path / "mesh_reconstruction"
    folder.mkdir()
    for k, split in enumerate(("train", "val", "test")):
        np.savez(folder / f"02958343_{split}_images.npz", objects(k + 2, k))
    values = {
        "raw_root": str(tmp_path),
        "source": {"nmr": {"config": {"classes": {"02958343": "car"}}}},
    }
    prepare(project, "shapenet", **values)
    prepare(project, "shapenet", "prepare_test", **values)
    for k, split in enumerate(("train", "val", "test")):
        found = table(project, "shapenet", split)
        assert len(found.images) == 24 * (k + 2)
        assert [c.name for c in found.metadata.categories] == ["car"]
        root = Path(found.metadata.image_root)
        assert all((root / name).is_file() for name in found.images["file_name"])


def test_missing_archives_are_named_with_their_origin(project, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"02691156_train_images\.npz") as error:
        prepare(project, "shapenet", raw_root=str(tmp_path))
    assert "raw_root" in str(error.value) and "SoftRas" in str(error.value)
