import math
import runpy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import trimesh
from kedro.io import DatasetError

from amodal_pipeline import methods
from amodal_pipeline.datasets import MeshDataset
from amodal_pipeline.layers.cameras import Viewpoints, project
from amodal_pipeline.layers.meshes import icosphere
from amodal_pipeline.methods.configs import A3DConfig
from amodal_pipeline.visuals import meshes
from amodal_pipeline.visuals.colours import EMPTY
from amodal_pipeline.visuals.selection import half_hidden
from amodal_pipeline.visuals.sheet import CELL
from tests.conftest import tiny_method

STEP = 120  # a cell and its gap
TOP = 24 + 56  # above the first row


def build(**changes):
    torch.manual_seed(0)
    config = A3DConfig.model_validate(tiny_method("a3d").model_dump() | changes)
    model = methods.build(config, classes=2).eval()
    # Bumps, as a trained one has.
    torch.nn.init.normal_(model.decoder[-1].weight, std=0.05)
    return model


def cells_of(page, columns, row=0):
    pixels = np.asarray(page)[TOP + row * (CELL + 30) :][:CELL, 24 : 24 + columns * STEP]
    return pixels.reshape(CELL, columns, STEP, 3)[:, :, :CELL].swapaxes(0, 1)


def drawn(world, screen, faces, size=(16, 16), lamp=(0.3, 1, 0.2)):
    return np.asarray(meshes.shaded(world, screen, faces, lamp, size))


def test_a_nearer_triangle_covers_a_farther_one_and_a_broken_one_is_left_out():
    """In any order of the faces; a vertex is no number, another is behind the camera."""
    world = np.array([[0, 0, 0], [1, 0, 0], [0, 0, 1], [0, 0, 0], [1, 1, 0], [0, 1, 1]], float)
    screen = np.array(
        [[-0.4, -0.6, 2], [0.4, -0.6, 2], [0, 0.2, 2], [-1, -1, 1], [1, -1, 1], [0, 1, 1]]
    )
    screen = np.concatenate([screen, [[0, 0, np.nan], [0, 0, 0]]])
    world = np.concatenate([world, np.zeros((2, 3))])
    near, far, broken = (
        np.array([[3, 4, 5]]),
        np.array([[0, 1, 2]]),
        np.array([[0, 1, 6], [0, 1, 7]]),
    )
    alone = drawn(world, screen, near)
    assert len(np.unique(alone.reshape(-1, 3), axis=0)) > 1
    for faces in ([near, far, broken], [broken, far, near]):
        np.testing.assert_array_equal(drawn(world, screen, np.concatenate(faces)), alone)
    assert (drawn(world, screen, far) != alone).any()
    assert (drawn(world, screen, broken) == EMPTY).all()


def picture_of_sphere(lamp, faces=None, size=(64, 64)):
    sphere = icosphere(3)
    ahead = Viewpoints(*(torch.tensor([v]) for v in (0.0, 0.0, 4.0)))
    screen = project(sphere.vertices[None], ahead, 43.6)[0].numpy()
    faces = sphere.faces.numpy() if faces is None else faces
    picture = drawn(sphere.vertices.numpy(), screen, faces, size, lamp)
    return picture.astype(int).mean(axis=-1)


def test_a_sphere_is_bright_where_the_lamp_is():
    # Seen from +x: the world's y is to the right, z is up.
    right, above = picture_of_sphere((1, 1, 0)), picture_of_sphere((1, 0, 1))
    assert right[32, 44] > right[32, 20] + 60
    assert above[20, 32] > above[44, 32] + 60
    np.testing.assert_allclose(right[20:44, 20:44], right[20:44, 20:44][::-1], atol=12)
    # sin of its half angle is 1/4.
    drawn = (right != right[0, 0]).sum() / right.size
    radius = math.tan(math.asin(1 / 4)) / math.tan(math.radians(21.8))
    assert drawn == pytest.approx(math.pi * radius**2 / 4, rel=0.08)
    # Smoothly: no face can be told from the next.
    assert np.abs(np.diff(right[32, 22:42])).max() < 12


def test_a_surface_is_lit_where_it_is_seen():
    """Turned inside out, its normals point away from the camera and from the lamp."""
    outside = picture_of_sphere((1, 0.3, 0.3))
    inside = picture_of_sphere((1, 0.3, 0.3), faces=icosphere(3).faces.numpy()[:, ::-1])
    np.testing.assert_allclose(outside, inside, atol=1)


@pytest.mark.parametrize(
    ("changes", "columns"),
    [
        ({}, 6),
        ({"camera": "softras", "fitted": True}, 6),
        ({"refinement": False}, 5),
        ({"mesh": False}, 4),
        ({"mesh": False, "refinement": False}, 3),
    ],
)
def test_a_column_for_each_step(shapes, changes, columns):
    page, table = meshes.reconstructions(build(**changes), shapes, 2)
    assert page.size[0] == 2 * 24 + columns * STEP
    cells = cells_of(page, columns)
    assert all(cells[i].std() > 1 for i in range(columns))
    assert len(table.meshes) == (2 if changes.get("mesh", True) else 0)


@pytest.mark.parametrize("fitted", [False, True])
@pytest.mark.parametrize("window", [(2, 2, 50, 26), (10, 0, 30, 60)])
def test_the_mesh_is_where_its_coarse_mask_is(shapes, fitted, window, monkeypatch):
    """In windows of any aspect."""
    monkeypatch.setattr(
        "amodal_pipeline.visuals.objects.windows",
        lambda *_: np.array([window], np.float64),
    )
    page, _ = meshes.reconstructions(build(fitted=fitted), shapes, 1)
    mesh, coarse = (cells_of(page, 6)[i].astype(int) for i in (1, 3))
    width, height = window[2] - window[0], window[3] - window[1]
    longer = max(width, height)
    inside = np.abs(np.arange(CELL) - 55.5)
    within = (inside[:, None] < CELL * height / longer / 2 - 1) & (
        inside < CELL * width / longer / 2 - 1
    )
    drawn = (np.abs(mesh - EMPTY).sum(axis=-1) > 40) & within
    covered = (coarse[..., 0] < 120) & within
    assert (drawn & covered).sum() / (drawn | covered).sum() > 0.93
    # Beyond the window the cell is white.
    assert (mesh[~within & (np.add.outer(inside, inside) > 100)] == 255).all()


def test_pictures_and_files_are_of_the_objects_asked_for(shapes):
    model, asked = build(), []
    explain = model.explain
    model.explain = lambda images, targets: asked.append(targets) or explain(images, targets)
    _, table = meshes.reconstructions(model, shapes, 3)
    records = half_hidden(shapes, 3)
    assert [t["input"].shape for t in asked] == [(1, model.side, model.side)] * 3
    # Of the blue square some is hidden; its window is the whole of it.
    assert all(0.3 < t["input"].float().mean() < 1 for t in asked)
    ids = [record["instance_id"].item() for record in records]
    assert table.index["instance_id"].tolist() == ids
    assert table.index["file"].tolist() == list(table.meshes) == [f"{i}_blue.obj" for i in ids]
    assert (table.index["category"] == "blue").all()
    assert table.index["elevation"].between(0, 30).all()
    assert table.index["distance"].between(2, 6).all()
    assert table.index[["iou_coarse", "iou_amodal"]].map(lambda v: 0 <= v <= 1).all(axis=None)


def test_from_the_side_is_a_quarter_turn_further_round(shapes, monkeypatch):
    """An ellipsoid, low and thrice as long as wide, from its end and from its side."""
    model, asked = build(), []
    ahead = Viewpoints(*(torch.tensor([v]) for v in (0.0, math.radians(20), 30.0)))

    def explain(images, targets):
        turned = torch.tensor([[math.cos(0.35), math.sin(0.35)], [-math.sin(0.35), math.cos(0.35)]])
        long = model.sphere * torch.tensor([0.9, 0.3, 0.3])
        ellipsoid = torch.cat([long[:, :2] @ turned, long[:, 2:]], dim=1)
        asked.append(ahead)
        return replace(original(images, targets), vertices=ellipsoid[None], viewpoints=ahead)

    original = model.explain
    model.explain = explain
    page, table = meshes.reconstructions(model, shapes, 1)
    assert asked and table.index["azimuth"].tolist() == pytest.approx([20])
    assert table.index[["elevation", "distance"]].to_numpy().tolist() == [[0, 30]]
    cells = cells_of(page, 6)[1:3].astype(int)
    end, side = ((np.abs(c - EMPTY).sum(axis=-1) > 40) for c in cells)
    assert np.ptp(end.any(axis=0).nonzero()) < 30
    assert np.ptp(side.any(axis=0).nonzero()) > 0.85 * CELL


def test_iou_is_that_of_the_whole_mask(shapes):
    """The object is a square, and its window is its amodal box."""
    side, crop = 20, build().config.crop
    seen = meshes.Seen.of(shapes, half_hidden(shapes, 1)[0], crop)
    assert seen.iou(torch.ones(1, side, side)) == 1
    half = torch.zeros(1, side, side)
    half[:, : side // 2] = 1
    assert seen.iou(half) == pytest.approx(0.5)
    assert meshes.caption(shapes, seen, {"coarse": half}).endswith("coarse 0.50")


@pytest.mark.parametrize("name", ["../../etc/passwd", "Stop Sign / ü", "ü", "con" * 60, "a\0b"])
def test_file_names_are_plain_whatever_the_category(shapes, name, tmp_path):
    categories = tuple(c.model_copy(update={"name": name}) for c in shapes.metadata.categories)
    other = replace(shapes, metadata=shapes.metadata.model_copy(update={"categories": categories}))
    _, table = meshes.reconstructions(build(), other, 2)
    table.save(tmp_path / "meshes")
    files = {p.name for p in (tmp_path / "meshes").iterdir()}
    assert files == {*table.index["file"], "index.csv"} and len(files) == 3
    assert all(f.isascii() and len(f) < 64 for f in files)
    assert [p.name for p in tmp_path.iterdir()] == ["meshes"]


def test_meshes_come_back_from_their_files(shapes, tmp_path):
    _, table = meshes.reconstructions(build(), shapes, 2)
    dataset = MeshDataset(filepath=str(tmp_path / "meshes"))
    assert not dataset.exists()
    with pytest.raises(DatasetError, match=r"index\.csv cannot be read.*train the method again"):
        dataset.load()
    (tmp_path / "meshes").mkdir()
    (tmp_path / "meshes" / "1_old.obj").write_text("")
    dataset.save(table)
    assert dataset.exists() and not (tmp_path / "meshes" / "1_old.obj").exists()
    index = dataset.load()
    pd.testing.assert_frame_equal(index, table.index, rtol=1e-3, check_dtype=False)
    for name, mesh in table.meshes.items():
        read = trimesh.load(tmp_path / "meshes" / name, process=False)
        np.testing.assert_allclose(read.vertices, mesh.vertices, atol=1e-5)
        np.testing.assert_array_equal(read.faces, mesh.faces)
    assert dataset.preview(nrows=1)["data"][0][0] == table.index["file"][0]


def test_a_model_without_a_mesh_leaves_an_empty_index(shapes, tmp_path):
    _, table = meshes.reconstructions(build(mesh=False), shapes, 1)
    dataset = MeshDataset(filepath=str(tmp_path / "meshes"))
    dataset.save(table)
    assert list(dataset.load().columns) == list(meshes.COLUMNS) and not len(dataset.load())


def test_the_figure_shows_an_object_that_fills_its_window():
    script = Path(__file__).parents[2] / "docs/images/a3d_geometry.py"
    figure = runpy.run_path(str(script))["geometry_figure"]()
    window, square = (a.images[0].get_array() for a in figure.axes[2:])
    np.testing.assert_array_equal(window, square)
    rows, columns = np.nonzero(window > 0.5)
    for places in (rows, columns):
        assert places.min() >= 1 and places.max() <= 62 and np.ptp(places) > 55
    titles = [axes.get_title() for axes in figure.axes]
    assert titles[0].startswith("World") and titles[1] == "Sphere + offsets = mesh"


def test_an_individual_that_is_seen_from_many_sides_is_shown_once(shapes):
    instances = shapes.instances.copy()
    # The squares behind of images 1 to 4 are one and the same, those of the others each its own.
    tracks = [7 if i <= 4 else None for i in instances["image_id"]]
    instances["track_id"] = pd.array(tracks, dtype=instances["track_id"].dtype)
    instances.loc[instances["category_id"] == 1, "ignore"] = True
    other = replace(shapes, instances=instances)
    images = [record["image_id"].item() for record in half_hidden(other, 8)]
    assert sum(i <= 4 for i in images) == 1 and {5, 6, 7, 8} <= set(images)
    assert len(half_hidden(other, 3)) == 3
