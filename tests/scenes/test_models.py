from pathlib import Path

import numpy as np
import pytest

from amodal_pipeline.scenes import models
from amodal_pipeline.scenes.config import ScenesConfig
from amodal_pipeline.scenes.families import FAMILIES
from amodal_pipeline.scenes.models import Models, ShapeSource, build_shape, load_mesh

MESHES = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "meshes"

PYRAMID = """mtllib pyramid.mtl
v 0 0 0
v 2 0 0
v 2 0 2
v 0 0 2
v 1 3 1
usemtl red
f 1 2 5
f 2 3 5
usemtl blue
f 3 4 5
f 4 1 5
f 1 2 3 4
"""
COLOURS = "newmtl red\nKd 1 0 0\nnewmtl blue\nKd 0 0 1\n"


@pytest.fixture
def pyramid(tmp_path):
    folder = tmp_path / "meshes" / "pyramid"
    folder.mkdir(parents=True)
    (folder / "pyramid.obj").write_text(PYRAMID)
    (folder / "pyramid.mtl").write_text(COLOURS)
    return folder / "pyramid.obj"


def test_obj_stands_upright_with_its_colours(pyramid):
    shape = load_mesh(pyramid)
    assert len(shape.faces) == 6  # the base has four corners
    assert shape.bounds[0, 2] == 0
    apex = shape.vertices[shape.vertices[:, 2].argmax()]
    np.testing.assert_allclose(apex[:2], 0, atol=1e-9)
    size = np.ptp(shape.bounds, axis=0)
    np.testing.assert_allclose(size / size[2], [2 / 3, 2 / 3, 1])
    colours = {
        shape.materials[m].colour: (shape.material_of_face == m).sum()
        for m in range(len(shape.materials))
    }
    assert colours == {(1.0, 0.0, 0.0): 2, (0.0, 0.0, 1.0): 4}


def test_obj_without_materials_is_grey(pyramid):
    (pyramid.parent / "pyramid.mtl").unlink()
    assert load_mesh(pyramid).materials[0].colour == (0.6, 0.6, 0.62)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 9\n", "damaged.obj"),
        ("v 0 0 nan\nv 1 0 0\nv 0 1 0\nf 1 2 3\n", "not a finite number"),
        ("v 0 0 0\nv 1 zero 0\nv 0 1 0\nf 1 2 3\n", "damaged.obj"),
        ("v 1 1 1\nv 1 1 1\nv 1 1 1\nf 1 2 3\n", "single point"),
        ("nothing of the kind", "damaged.obj"),
        ("", "damaged.obj"),
        ("mtllib ../../secret.mtl\n" + PYRAMID, "secret.mtl"),
        ("mtllib /etc/passwd\n" + PYRAMID, "passwd"),
    ],
)
def test_damaged_obj_is_named(tmp_path, text, reason):
    path = tmp_path / "damaged.obj"
    path.write_text(text)
    with pytest.raises(ValueError, match=reason) as error:
        load_mesh(path)
    assert "damaged.obj" in str(error.value)


def test_linked_material_file_may_not_lead_outside(pyramid, tmp_path):
    outside = tmp_path / "outside.mtl"
    outside.write_text(COLOURS)
    (pyramid.parent / "pyramid.mtl").unlink()
    (pyramid.parent / "pyramid.mtl").symlink_to(outside)
    with pytest.raises(ValueError, match=r"pyramid\.mtl"):
        load_mesh(pyramid)


def test_linked_mesh_may_not_lead_outside(pyramid, tmp_path):
    folder = tmp_path / "linked" / "pyramid"
    folder.mkdir(parents=True)
    (folder / "pyramid.obj").symlink_to(pyramid)
    with pytest.raises(ValueError, match="leads out of the folder"):
        Models.of(ScenesConfig(meshes=str(folder.parent)))


def test_large_obj_is_refused(pyramid, monkeypatch):
    monkeypatch.setattr(models, "MAX_FILE_BYTES", 50)
    with pytest.raises(ValueError, match="allowed are 50"):
        load_mesh(pyramid)
    monkeypatch.setattr(models, "MAX_FILE_BYTES", 10_000)
    monkeypatch.setattr(models, "MAX_FACES", 3)
    with pytest.raises(ValueError, match="has 6 faces"):
        load_mesh(pyramid)


def test_meshes_join_or_replace_the_families(pyramid):
    folder = str(pyramid.parents[1])
    assert Models.of(ScenesConfig()).categories == tuple(FAMILIES)
    assert Models.of(ScenesConfig(meshes=folder)).categories == (*FAMILIES, "pyramid")
    only = Models.of(ScenesConfig(meshes=folder, families=False))
    assert only.categories == ("pyramid",)
    source = only.draw(np.random.default_rng(0))
    assert source.mesh_file == "pyramid/pyramid.obj"
    assert len(build_shape(source, only.folder).faces) == 6
    some = Models.of(ScenesConfig(meshes=folder, categories=("pyramid", "car")))
    drawn = {some.draw(np.random.default_rng(seed)).category for seed in range(20)}
    assert drawn == {"pyramid", "car"}


def test_unknown_category_and_empty_folder_are_named(tmp_path):
    with pytest.raises(ValueError, match="dragon"):
        Models.of(ScenesConfig(categories=("car", "dragon")))
    with pytest.raises(ValueError, match="holds no"):
        Models.of(ScenesConfig(meshes=str(tmp_path)))


def test_changed_or_outside_mesh_is_refused(pyramid):
    folder = pyramid.parents[1]
    changed = ShapeSource(category="pyramid", mesh_file="pyramid/pyramid.obj", mesh_checksum="0")
    with pytest.raises(ValueError, match="has changed"):
        build_shape(changed, folder)
    current = Models.of(ScenesConfig(meshes=str(folder), families=False))
    (pyramid.parent / "pyramid.mtl").write_text(COLOURS.replace("1 0 0", "0 1 0"))
    with pytest.raises(ValueError, match="has changed"):
        build_shape(current.draw(np.random.default_rng(0)), folder)
    outside = ShapeSource(category="pyramid", mesh_file="../pyramid.obj")
    with pytest.raises(ValueError, match="not a relative path"):
        build_shape(outside, folder)


@pytest.mark.skipif(not MESHES.is_dir(), reason=f"the mesh collection is not at {MESHES}")
def test_mesh_collection_loads():
    found = Models.of(ScenesConfig(meshes=str(MESHES), families=False))
    assert len(found.categories) == 23
    for category, files in found.files.items():
        name = next(iter(files))
        source = ShapeSource(category=category, mesh_file=name, mesh_checksum=files[name])
        shape = build_shape(source, MESHES)
        assert shape.bounds[0, 2] == 0
        assert np.linalg.norm(np.ptp(shape.bounds, axis=0)) == pytest.approx(1.1)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("OFF\n3 1 0\n0 0 0\n1 0 0\n0 1 0\n3 0 1 7\n", "damaged.off"),
        ("OFF\n3 1 0\n0 0 0\n1 0 0\n", "not a readable OFF mesh"),
        ("PLY\n3 1 0\n", "not a readable OFF mesh"),
        ("", "damaged.off"),
    ],
)
def test_damaged_off_is_named(tmp_path, text, reason):
    path = tmp_path / "damaged.off"
    path.write_text(text)
    with pytest.raises(ValueError, match=reason):
        load_mesh(path)


def test_off_names_no_other_file(tmp_path):
    path = tmp_path / "plain.off"
    path.write_text("OFF\n# mtllib ../../secret.mtl\n3 1 0\n0 0 0\n1 0 0\n0 1 0\n3 0 1 2\n")
    assert len(load_mesh(path, up="z").faces) == 1


def test_classes_of_shapenet_have_names_and_links_may_not_lead_outside(tmp_path):
    folder = tmp_path / "meshes"
    for name in ("02691156/a.obj", "04530566/b/models/model_normalized.obj", "boat/c.off"):
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_text("OFF")
    assert models.mesh_files(folder) == {
        "airplane": ["02691156/a.obj"],
        "vessel": ["04530566/b/models/model_normalized.obj"],
        "boat": ["boat/c.off"],
    }
    (tmp_path / "secret.off").write_text("OFF")
    (folder / "boat" / "d.off").symlink_to(tmp_path / "secret.off")
    with pytest.raises(ValueError, match="leads out of the folder"):
        models.mesh_checksum(folder, "boat/d.off")
    with pytest.raises(ValueError, match="holds no <category>"):
        models.mesh_files(tmp_path / "nothing")
