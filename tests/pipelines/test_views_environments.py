"""The environments of single-object views, as a user runs them, with few and small objects."""

from pathlib import Path

import numpy as np
import pytest
from kedro.framework.session import KedroSession

from amodal_pipeline.annotations import AmodalAnnotations
from amodal_pipeline.jobs.sources import Source
from amodal_pipeline.jobs.train import Job
from amodal_pipeline.methods.configs import A3DConfig
from amodal_pipeline.scenes.view_config import SYNSETS
from tests.pipelines.conftest import configuration
from tests.scenes.test_nmr import objects

PASCAL3D = {
    *("aeroplane", "bicycle", "boat", "bottle", "bus", "car", "chair", "diningtable"),
    *("motorbike", "sofa", "train", "tvmonitor"),
}


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
    parameters = configuration(env, meshes="my/meshes")["parameters"]
    config = Source.model_validate(parameters["source"]).chosen.config
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


def resolved(env, **parameters):
    return configuration(env, **parameters)["parameters"]


def test_pascal3d(project, tmp_path):
    corners, faces = "0 0 0\n2 0 0\n0 1 0\n0 0 1\n", "3 0 2 1\n3 0 1 3\n3 1 2 3\n3 0 3 2\n"
    for class_ in ("aeroplane", "car", "sofa"):
        (tmp_path / "CAD" / class_).mkdir(parents=True)
        for number in ("01", "02"):
            path = tmp_path / "CAD" / class_ / f"{number}.off"
            path.write_text(f"OFF\n4 4 0\n{corners}{faces}")
        (tmp_path / "CAD" / f"{class_}.mat").write_bytes(b"not read")
    few = {"train": 3, "val": 3, "config": {"azimuths": 2, "image_size": 32}}
    prepare(project, "pascal3d", raw_root=str(tmp_path), source={"views": few})
    for split in ("train", "val"):
        found = table(project, "pascal3d", split)
        assert [c.name for c in found.metadata.categories] == ["aeroplane", "car", "sofa"]
        assert len(found.images) == 3 * 2


def test_views_are_learnt_without_viewpoints_and_from_all_around():
    for env in ("shapenet", "pascal3d", "shapenet_pascal3d"):
        model = Job.model_validate(resolved(env)["a3d"]).model.root
        assert (model.camera, model.spread, model.fitted) == ("softras_estimated", True, False)
        assert model == A3DConfig(camera="softras_estimated", spread=True)
    for env in ("views", "views_unseen"):
        assert Job.model_validate(resolved(env)["a3d"]).model.root.spread


def test_pascal3d_goes_on_from_what_shapenet_has_taught():
    alone, both = (resolved(env) for env in ("pascal3d", "shapenet_pascal3d"))
    assert alone["source"] == both["source"] and both["dataset"] == "shapenet_pascal3d"
    for method in ("a3d", "mask_rcnn", "orcnn", "vrsp"):
        jobs = [Job.model_validate(values[method]) for values in (alone, both)]
        assert jobs[0].pretrained is None
        assert jobs[1].pretrained == f"data/06_models/shapenet/{method}"
        assert jobs[0].model == jobs[1].model and jobs[0].training == jobs[1].training
        names = jobs[1].pretrained_categories
        assert set(names) <= PASCAL3D and set(names.values()) <= set(SYNSETS.values())
        # The classes that both have: aeroplane, boat, car, chair, diningtable, sofa, tvmonitor.
        assert len({names.get(name, name) for name in PASCAL3D} & set(SYNSETS.values())) == 7


def test_missing_archives_are_named_with_their_origin(project, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"02691156_train_images\.npz") as error:
        prepare(project, "shapenet", raw_root=str(tmp_path))
    assert "raw_root" in str(error.value) and "SoftRas" in str(error.value)
