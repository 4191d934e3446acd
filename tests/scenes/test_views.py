import json
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from amodal_pipeline.annotations import rle
from amodal_pipeline.annotations.images import read_image
from amodal_pipeline.scenes import views
from amodal_pipeline.scenes.models import build_shape
from amodal_pipeline.scenes.render import cast_layers
from amodal_pipeline.scenes.view_config import ViewsConfig
from amodal_pipeline.scenes.view_records import ObjectViews
from amodal_pipeline.scenes.views import Individuals, render_views

MESHES = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "meshes"
SMALL = ViewsConfig(azimuths=6, seed=3, categories=("car", "mug", "chair"))


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    folder = tmp_path_factory.mktemp("views")
    return folder, render_views(SMALL, "train", 4, folder)


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def masks(table, image_id: int, column: str) -> np.ndarray:
    rows = table.of_image(image_id)
    return rle.decode(rows[column].tolist(), (64, 64)).astype(bool)


def wedge(folder: Path, category: str, name: str, width: float) -> None:
    (folder / category).mkdir(parents=True, exist_ok=True)
    (folder / category / f"{name}.obj").write_text(
        f"v 0 0 0\nv {width} 0 0\nv 0 0 2\nv 0 3 0\nf 1 2 3\nf 1 2 4\nf 2 3 4\nf 1 3 4\n"
    )


def test_same_bytes_with_any_number_of_workers(split, tmp_path):
    folder, table = split
    again = render_views(SMALL, "train", 4, tmp_path, workers=2)
    assert contents(tmp_path / "train") == contents(folder / "train")
    assert again.fingerprint == table.fingerprint


def test_objects_depend_on_seed_split_and_number_only(split, tmp_path):
    folder, _ = split
    picture = (folder / "train" / "000001" / "02.png").read_bytes()
    render_views(SMALL, "train", 2, tmp_path / "fewer")
    assert (tmp_path / "fewer" / "train" / "000001" / "02.png").read_bytes() == picture
    render_views(SMALL, "val", 2, tmp_path / "fewer")
    assert (tmp_path / "fewer" / "val" / "000001" / "02.png").read_bytes() != picture
    render_views(SMALL.model_copy(update={"seed": 4}), "train", 2, tmp_path / "other")
    assert (tmp_path / "other" / "train" / "000001" / "02.png").read_bytes() != picture


def test_resuming_renders_only_what_is_missing_or_damaged(tmp_path, monkeypatch):
    render_views(SMALL, "train", 3, tmp_path)
    before = contents(tmp_path / "train")
    written = []
    original = views.write_object
    monkeypatch.setattr(
        views, "write_object", lambda *args: written.append(args[2]) or original(*args)
    )
    steps = []
    render_views(SMALL, "train", 3, tmp_path, on_progress=lambda *step: steps.append(step))
    assert written == [] and steps == [(1, 3), (2, 3), (3, 3)]

    (tmp_path / "train" / "000000.json").unlink()
    picture = tmp_path / "train" / "000002" / "04.png"
    picture.write_bytes(picture.read_bytes()[:-20])
    render_views(SMALL, "train", 3, tmp_path)
    assert written == [0, 2]
    assert contents(tmp_path / "train") == before

    written.clear()
    render_views(SMALL.model_copy(update={"occluded": 0.1}), "train", 1, tmp_path)
    assert written == [0]


def test_one_object_counts_and_its_amodal_mask_is_exact(split):
    folder, table = split
    assert len(table.images) == 24 and len(table.rejected) == 0 and len(table.repaired) == 0
    counted = table.instances[~table.instances["ignore"]]
    assert counted["image_id"].is_unique
    assert counted["track_id"].value_counts().to_dict() == dict.fromkeys(range(4), 6)
    names = {c.id: c.name for c in table.metadata.categories}
    assert [names[c] for c in counted["category_id"][::6]] == ["car", "mug", "chair", "car"]
    for index in range(4):
        path = folder / "train" / f"{index:06d}.json"
        record = ObjectViews.model_validate_json(path.read_bytes())
        placed = views._centred(build_shape(record.source), SMALL.radius)
        assert np.linalg.norm(placed.vertices, axis=1).max() == pytest.approx(SMALL.radius)
        for view in record.views:
            assert view.viewpoint.azimuth == 60 * view.number
            camera = views._camera(view.viewpoint, 64)
            exact = np.isfinite(cast_layers([placed], camera))
            assert rle.encode(exact) == [view.amodal_rle]


def test_occluders_hide_what_was_asked_for(split):
    _, table = split
    counted = table.instances[~table.instances["ignore"]]
    rate = counted["occlusion_rate"].to_numpy(dtype=float)
    occluded = rate > 0
    assert 0.4 < occluded.mean() < 0.95
    low, high = SMALL.occlusion
    assert (rate[occluded] >= low - 1e-6).all() and (rate[occluded] <= high + 1e-6).all()
    assert np.ptp(rate[occluded]) > 0.2
    assert len(table.order) == occluded.sum() == table.instances["ignore"].sum()
    for pair in table.order.itertuples():
        rows = table.of_image(pair.image_id)
        assert rows["instance_id"].tolist() == [pair.occludee_id, pair.occluder_id]
        (amodal, front), (visible, seen) = (
            masks(table, pair.image_id, f"{kind}_rle") for kind in ("amodal", "visible")
        )
        assert (visible == (amodal & ~front)).all() and (front == seen).all()
        assert pair.area == (amodal & front).sum()


@pytest.mark.parametrize(("share", "kept"), [(0.0, 0), (1.0, 18)])
def test_share_of_occluded_views(tmp_path, share, kept):
    config = SMALL.model_copy(update={"occluded": share})
    table = render_views(config, "train", 3, tmp_path)
    assert len(table.order) == kept
    assert json.loads((tmp_path / "train" / "statistics.json").read_text())["share_occluded"] == (
        share
    )


def test_pictures_are_white_without_objects_and_cover_their_masks(split):
    folder, table = split
    for image in table.images.itertuples():
        picture = Image.open(folder / image.file_name)
        assert picture.size == (64, 64) and picture.mode == "RGBA"
        pixels = np.asarray(picture)
        covered = pixels[..., 3] > 0
        assert (pixels[~covered] == (255, 255, 255, 0)).all()
        drawn = masks(table, image.image_id, "amodal_rle").any(axis=0)
        assert (covered | ~drawn).all()
        # No view is cut off: the whole border stays white where no occluder was pasted.
        if len(table.of_image(image.image_id)) == 1:
            assert not covered[[0, -1]].any() and not covered[:, [0, -1]].any()
            assert covered.sum() - drawn.sum() < 0.5 * drawn.sum()
        np.testing.assert_array_equal(read_image(folder, image.file_name), pixels[..., :3])


def test_held_out_azimuths_are_shown_in_validation_only(tmp_path):
    config = SMALL.model_copy(update={"azimuths": 24, "held_out": ((55, 125), (235, 305))})
    train, val = config.views_of("train"), config.views_of("val")
    assert sorted(train + val) == list(range(24))
    assert [15 * view for view in val] == [60, 75, 90, 105, 120, 240, 255, 270, 285, 300]
    # A mirrored view is one from the other side: it must not bring a held-out one into training.
    assert {(24 - view) % 24 for view in val} == set(val)
    for split_, shown in (("train", train), ("val", val)):
        render_views(config, split_, 1, tmp_path)
        names = sorted(p.name for p in (tmp_path / split_ / "000000").iterdir())
        assert names == [f"{view:02d}.png" for view in shown]
        record = ObjectViews.model_validate_json((tmp_path / split_ / "000000.json").read_bytes())
        occluders = [view.occluder.viewpoint for view in record.views if view.occluder]
        assert occluders and {v.azimuth for v in occluders} <= {15.0 * view for view in shown}


def test_light_is_no_compass(tmp_path):
    """What is on the left is as often brighter as darker, whatever the azimuth."""
    config = ViewsConfig(categories=("mushroom",), occluded=0, azimuths=8)
    render_views(config, "train", 6, tmp_path)
    brighter = np.zeros((6, 8), bool)
    for (index, view), _ in np.ndenumerate(brighter):
        pixels = np.asarray(Image.open(tmp_path / f"train/{index:06d}/{view:02d}.png")).astype(int)
        left, right = (p[p[..., 3] == 255][:, :3].mean() for p in np.split(pixels, 2, axis=1))
        brighter[index, view] = left > right
    assert (brighter.any(axis=0) & ~brighter.all(axis=0)).all()


def test_every_mesh_is_in_one_split(tmp_path):
    for k in range(7):
        wedge(tmp_path, "wedge", f"w{k}", 1 + k / 4)
    for k in range(2):
        wedge(tmp_path, "slab", f"s{k}", 5 + k)
    config = ViewsConfig(families=False, meshes=str(tmp_path))
    shown = {split: list(Individuals.of(config, split)) for split in ("train", "val")}
    files = {split: [s.mesh_file for s in sources] for split, sources in shown.items()}
    assert len(files["train"]) == 7 and len(files["val"]) == 2
    assert len({*files["train"], *files["val"]}) == 9
    assert {name.split("/")[0] for name in files["val"]} == {"wedge", "slab"}
    other = [
        [s.mesh_file for s in Individuals.of(config.model_copy(update={"seed": k}), "val")]
        for k in range(8)
    ]
    assert len({tuple(names) for names in other}) > 1
    for split, sources in shown.items():
        for index, source in enumerate(sources):
            others = Individuals.of(config, split).others(source, index)
            assert others or split == "val"
            assert all(o.mesh_file in files[split] and o != source for o in others)


def test_meshes_and_families_take_turns(tmp_path):
    for k in range(3):
        wedge(tmp_path, "mug", f"m{k}", 1 + k)
    config = ViewsConfig(meshes=str(tmp_path), categories=("mug",))
    sources = list(islice(Individuals.of(config, "train"), 6))
    assert [s.mesh_file is not None for s in sources] == [False, True, False, True, False, False]
    assert len({s.model_dump_json() for s in sources}) == 6


def test_a_category_of_one_mesh_is_refused_unless_it_is_a_family(tmp_path):
    wedge(tmp_path, "mug", "only", 1)
    wedge(tmp_path, "wedge", "only", 2)
    config = ViewsConfig(meshes=str(tmp_path))
    with pytest.raises(ValueError, match=r"wedge/only.obj is the only mesh of 'wedge'.* add anoth"):
        Individuals.of(config, "train")
    config = config.model_copy(update={"categories": ("mug",)})
    assert Individuals.of(config, "train").files == {"mug": ("mug/only.obj",)}
    assert Individuals.of(config, "val").files == {"mug": ()}


def test_an_unreadable_mesh_is_rejected_by_name_and_the_rest_is_rendered(tmp_path):
    for k in range(4):
        wedge(tmp_path / "meshes", "wedge", f"w{k}", 1 + k / 4)
    config = ViewsConfig(
        families=False, meshes=str(tmp_path / "meshes"), azimuths=4, elevation=(0, 60)
    )
    broken = next(iter(Individuals.of(config, "train"))).mesh_file
    (tmp_path / "meshes" / broken).write_text("v 0 0 nan\nv 1 0 0\nv 0 1 0\nf 1 2 3\n")
    table = render_views(config, "train", 9, tmp_path / "out")  # there are only three
    assert table.instances["track_id"].dropna().unique().tolist() == [1, 2]
    assert table.rejected["file"].tolist() == [broken]
    assert "not a finite number" in table.rejected["reason"][0]
    assert len(set(table.metadata.accounting)) == 3  # asserted there: read = kept + rejected


def test_pascal_layout_with_z_up(tmp_path):
    (tmp_path / "car").mkdir()
    off = "OFF\n4 4 0\n0 0 0\n2 0 0\n0 1 0\n0 0 {}\n3 0 2 1\n3 0 1 3\n3 1 2 3\n3 0 3 2\n"
    for k in range(2):
        (tmp_path / "car" / f"0{k}.off").write_text(off.format(3 + k))
    config = ViewsConfig(families=False, meshes=str(tmp_path), up="z")
    source = next(iter(Individuals.of(config, "train")))
    shape = build_shape(source, tmp_path)
    size = np.ptp(shape.bounds, axis=0)
    assert size[2] == size.max() and size[0] / size[1] == pytest.approx(2)
    lying = build_shape(source.model_copy(update={"up": "y"}), tmp_path)
    assert np.ptp(lying.bounds, axis=0).argmax() == 1


def test_shapenet_layout_has_names_of_its_classes(tmp_path):
    for k in range(2):
        wedge(tmp_path, f"02691156/m{k}/models", "model_normalized", 1 + k)
    config = ViewsConfig(families=False, meshes=str(tmp_path))
    individuals = Individuals.of(config, "val")
    assert individuals.categories == ("airplane",)
    (source,) = individuals
    assert source.mesh_file.startswith("02691156/m")
    assert len(build_shape(source, tmp_path).faces) == 4


def test_other_layouts_of_folders_are_found(tmp_path):
    for k in range(2):
        wedge(tmp_path, f"02691156/m{k}", "model", 1 + k)
        wedge(tmp_path, "slab", f"s{k}", 1 + k)
    lower = tmp_path / "slab" / "s0.obj"
    lower.rename(lower.with_suffix(".OBJ"))
    config = ViewsConfig(families=False, meshes=str(tmp_path))
    shown = {s.mesh_file: s for split in ("train", "val") for s in Individuals.of(config, split)}
    assert sorted(shown) == [
        "02691156/m0/model.obj",
        "02691156/m1/model.obj",
        "slab/s0.OBJ",
        "slab/s1.obj",
    ]
    assert shown["02691156/m1/model.obj"].category == "airplane"
    assert len(build_shape(shown["slab/s0.OBJ"], tmp_path).faces) == 4


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"families": False}, "nothing to show"),
        ({"radius": 0.8}, "does not fit into the picture"),
        ({"occlusion": (0.5, 0.2)}, "range of rates"),
        ({"occlusion": (0.5, 1.0)}, "range of rates"),
        ({"elevation": (30, 95)}, "-85 to 85"),
        ({"held_out": ((0, 359),)}, "leaves none of the 24 azimuths for train"),
        ({"held_out": ((1, 2),)}, "leaves none of the 24 azimuths for val"),
        ({"held_out": ((125, 55),)}, "every range must be 0 <= low"),
        ({"categories": ()}, "empty"),
        ({"azimut": 3}, "azimut"),
    ],
)
def test_contradictions_are_refused(values, message):
    with pytest.raises(ValidationError, match=message):
        ViewsConfig(**values)


def test_wrong_calls_are_refused(tmp_path):
    with pytest.raises(ValueError, match="plain folder name"):
        render_views(SMALL, "../train", 1, tmp_path)
    with pytest.raises(ValueError, match="at least 1"):
        render_views(SMALL, "train", 0, tmp_path)
    with pytest.raises(ValueError, match=r"\['boat'\] do not exist"):
        render_views(SMALL.model_copy(update={"categories": ("boat",)}), "train", 1, tmp_path)


@pytest.mark.skipif(not MESHES.is_dir(), reason="../shared/data/meshes is not there")
def test_real_meshes(tmp_path):
    config = ViewsConfig(families=False, meshes=str(MESHES), azimuths=3, occluded=1.0)
    table = render_views(config, "train", 23, tmp_path)
    assert len(table.rejected) == 0
    counted = table.instances[~table.instances["ignore"]]
    assert len(counted) == 69 and counted["category_id"].nunique() == 23
    assert (counted["occlusion_rate"] > 0).mean() > 0.9
    found = {name for category in Individuals.of(config, "val").files.values() for name in category}
    shown = {
        ObjectViews.model_validate_json(path.read_bytes()).source.mesh_file
        for path in (tmp_path / "train").glob("0*.json")
    }
    assert len(shown) == 23 and not shown & found
