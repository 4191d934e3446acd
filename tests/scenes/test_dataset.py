import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from amodal_pipeline.annotations import rle
from amodal_pipeline.scenes import dataset
from amodal_pipeline.scenes.config import ScenesConfig
from amodal_pipeline.scenes.dataset import render_split
from amodal_pipeline.scenes.render import cast_layers, order_pairs, render_colour, visible_masks
from amodal_pipeline.scenes.scene import load_record, load_scene

MESHES = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "meshes"
SMALL = ScenesConfig(image_size=96, minimum_amodal_pixels=20, minimum_visible_pixels=8, seed=3)


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes")
    return folder, render_split(SMALL, "train", 6, folder)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_same_bytes_with_any_number_of_workers(split, tmp_path):
    folder, table = split
    again = render_split(SMALL, "train", 6, tmp_path, workers=2)
    assert contents(tmp_path / "train") == contents(folder / "train")
    assert again.fingerprint == table.fingerprint


def test_images_depend_on_seed_split_and_index_only(split, tmp_path):
    folder, _ = split
    picture = (folder / "train" / "000001.png").read_bytes()
    render_split(SMALL, "train", 2, tmp_path / "fewer")
    assert (tmp_path / "fewer" / "train" / "000001.png").read_bytes() == picture
    render_split(SMALL, "val", 2, tmp_path / "fewer")
    assert (tmp_path / "fewer" / "val" / "000001.png").read_bytes() != picture
    render_split(SMALL.model_copy(update={"seed": 4}), "train", 2, tmp_path / "other")
    assert (tmp_path / "other" / "train" / "000001.png").read_bytes() != picture


def test_resuming_renders_only_what_is_missing_or_damaged(tmp_path, monkeypatch):
    render_split(SMALL, "train", 4, tmp_path)
    before = contents(tmp_path / "train")
    rendered = []
    original = dataset.render_image
    monkeypatch.setattr(
        dataset, "render_image", lambda *args: rendered.append(args[1]) or original(*args)
    )
    steps = []
    render_split(SMALL, "train", 4, tmp_path, on_progress=lambda *step: steps.append(step))
    assert rendered == [] and steps == [(4, 4)]

    (tmp_path / "train" / "000001.json").unlink()
    picture = tmp_path / "train" / "000002.png"
    picture.write_bytes(picture.read_bytes()[:-20])
    (tmp_path / "train" / "000003.json").write_text("{")
    steps.clear()
    render_split(SMALL, "train", 5, tmp_path, on_progress=lambda *step: steps.append(step))
    assert rendered == [1, 2, 3, 4]
    assert steps == [(1, 5), (2, 5), (3, 5), (4, 5), (5, 5)]
    after = contents(tmp_path / "train")
    assert all(after[name] == data for name, data in before.items() if name[0] == "0")

    rendered.clear()
    render_split(SMALL.model_copy(update={"crowding": 0.1}), "train", 2, tmp_path)
    assert rendered == [0, 1]


def test_truth_is_exact(split):
    folder, table = split
    assert len(table.images) == 6 and len(table.rejected) == 0 and len(table.repaired) == 0
    assert table.metadata.image_root == str(folder)
    for image in table.images.itertuples():
        picture = Image.open(folder / image.file_name)
        assert picture.size == (96, 96) and picture.mode == "RGB"
        rows = table.of_image(image.image_id)
        amodal = rle.decode(rows["amodal_rle"].tolist(), (96, 96)).astype(bool)
        visible = rle.decode(rows["visible_rle"].tolist(), (96, 96)).astype(bool)
        assert visible.sum(axis=0).max() <= 1
        assert (visible <= amodal).all()
        assert (visible.any(axis=0) == amodal.any(axis=0)).all()
        assert (amodal.sum(axis=(1, 2)) >= SMALL.minimum_amodal_pixels).all()
        rate = rows["occlusion_rate"].to_numpy()
        assert (rate <= SMALL.max_occlusion_rate + 1e-6).all()
        small = visible.sum(axis=(1, 2)) < SMALL.minimum_visible_pixels
        assert (rows["ignore"].to_numpy(dtype=bool) == small).all()


def test_scene_is_rebuilt_exactly(split):
    folder, table = split
    for index in range(3):
        path = folder / "train" / f"{index:06d}.json"
        scene, rows = load_scene(path), table.of_image(index)
        depth = cast_layers(scene.objects, scene.camera)
        assert rle.encode(np.isfinite(depth)) == rows["amodal_rle"].tolist()
        assert rle.encode(visible_masks(depth)) == rows["visible_rle"].tolist()
        ids = rows["instance_id"].to_numpy(dtype=np.int64)
        expected = table.order[table.order["image_id"] == index]
        pairs = expected[["occluder_id", "occludee_id"]].to_numpy(dtype=np.int64)
        assert ids[order_pairs(depth)].tolist() == pairs.tolist()
        colour = render_colour(scene.objects, scene.camera, scene.surroundings)
        np.testing.assert_array_equal(colour, np.asarray(Image.open(path.with_suffix(".png"))))
        names = {c.id: c.name for c in table.metadata.categories}
        assert [s.category for s in scene.sources] == [names[c] for c in rows["category_id"]]
        for stored, placed in zip(load_record(path).objects, scene.objects, strict=True):
            turned = stored.scale * np.cos(np.radians(stored.yaw))
            assert placed.pose[0, 0] == pytest.approx(turned)


def test_fully_hidden_objects_are_kept_and_ignored_when_asked(tmp_path):
    config = SMALL.model_copy(
        update={"max_occlusion_rate": 1.0, "elevation": (2.0, 3.0), "crowding": 1.0}
    )
    table = render_split(config, "train", 6, tmp_path)
    rate = table.instances["occlusion_rate"].to_numpy()
    assert (rate > 0.95).any()
    assert table.instances["ignore"].to_numpy(dtype=bool)[rate == 1].all()


def test_occlusion_is_like_that_of_crowded_shelves(tmp_path):
    config = ScenesConfig(image_size=128, minimum_amodal_pixels=24, minimum_visible_pixels=6)
    table = render_split(config, "train", 16, tmp_path)
    found = json.loads((tmp_path / "train" / "statistics.json").read_text())
    assert found["images"] == 16
    assert found["objects"] == len(table.instances) == sum(found["objects_by_category"].values())
    assert 0.5 <= found["share_occluded"] <= 0.85
    assert 0.14 <= found["mean_occlusion_rate"] <= 0.34
    assert 0.24 <= found["mean_occlusion_rate_of_occluded"] <= 0.46
    assert sum(n > 0 for n in found["objects_by_category"].values()) >= 12
    means = [np.asarray(Image.open(p)).mean() for p in (tmp_path / "train").glob("*.png")]
    assert 40 < np.mean(means) < 200


@pytest.mark.skipif(not MESHES.is_dir(), reason=f"the mesh collection is not at {MESHES}")
def test_scenes_of_loaded_meshes(tmp_path):
    config = SMALL.model_copy(update={"meshes": str(MESHES), "families": False})
    table = render_split(config, "train", 2, tmp_path)
    path = tmp_path / "train" / "000000.json"
    scene = load_scene(path, meshes=MESHES)
    depth = cast_layers(scene.objects, scene.camera)
    assert rle.encode(np.isfinite(depth)) == table.of_image(0)["amodal_rle"].tolist()
    with pytest.raises(ValueError, match=r"000000\.json"):
        load_scene(path)


def test_damaged_record_is_named(tmp_path):
    path = tmp_path / "000000.json"
    path.write_text('{"fingerprint": 1}')
    with pytest.raises(ValueError, match=r"000000\.json"):
        load_scene(path)
    with pytest.raises(ValueError, match=r"000001\.json"):
        load_scene(tmp_path / "000001.json")


@pytest.mark.parametrize("name", ["..", "", "a/b", "/tmp"])
def test_split_must_be_a_folder_name(tmp_path, name):
    with pytest.raises(ValueError, match="plain folder name"):
        render_split(SMALL, name, 1, tmp_path)


@pytest.mark.parametrize(
    "wrong",
    [
        {"minimum_objects": 9, "maximum_objects": 5},
        {"families": False},
        {"elevation": (40.0, 10.0)},
        {"field_of_view": (5.0, 20.0)},
        {"categories": ("car", "car")},
        {"colour": "red"},
    ],
)
def test_config_is_checked(wrong):
    with pytest.raises(ValidationError):
        ScenesConfig(**wrong)


def test_config_imports_nothing_heavy():
    code = (
        "import sys, amodal_pipeline.scenes.config;"
        "print([m for m in ('torch', 'trimesh', 'numpy', 'PIL', 'embreex') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
