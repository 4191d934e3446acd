import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from amodal_pipeline.annotations import rle
from amodal_pipeline.annotations.flow import flow_file, read_flow
from amodal_pipeline.scenes import clips
from amodal_pipeline.scenes.camera import Camera
from amodal_pipeline.scenes.clips import DEPTH_UNIT, load_clip, load_clip_record, render_clips
from amodal_pipeline.scenes.models import ShapeSource
from amodal_pipeline.scenes.motion import Actor, Clip
from amodal_pipeline.scenes.moving_config import MovingScenesConfig
from amodal_pipeline.scenes.render import visible_masks
from amodal_pipeline.scenes.scenery import SCENERY
from amodal_pipeline.scenes.shading import sample_surroundings
from amodal_pipeline.scenes.shapes import Material, assemble, box
from amodal_pipeline.scenes.surfaces import SKY, STAGE, Seen, flow, seen_elsewhere

SIZE, FRAMES, COUNT = 72, 5, 5
CONFIG = MovingScenesConfig(
    seed=0,
    image_size=SIZE,
    frames=FRAMES,
    minimum_objects=4,
    maximum_objects=6,
    minimum_amodal_pixels=20,
    minimum_visible_pixels=6,
)


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    return folder, render_clips(CONFIG, "train", COUNT, folder)


@pytest.fixture(scope="module")
def rendered(split):
    """The geometry of every clip, its depths, and what its frames show."""
    found = []
    for index in range(COUNT):
        clip = load_clip(split[0] / f"train/{index:06d}/clip.json")
        depth, stage = clip.layers(), clip.stage()
        seen = [Seen.of(d, c, stage) for d, c in zip(depth, clip.cameras, strict=True)]
        found.append((clip, depth, seen))
    assert {clip.kind for clip, *_ in found} == {"orbit", "glide"}
    assert any(clip.scenery for clip, *_ in found)
    return found


def contents(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_same_bytes_with_any_number_of_workers_and_clips(split, tmp_path):
    folder, table = split
    again = render_clips(CONFIG, "train", 2, tmp_path, workers=2)
    before, after = contents(folder / "train"), contents(tmp_path / "train")
    of_split = {"statistics.json", "seen_elsewhere.csv"}
    assert len(after) == 2 * (4 * FRAMES - 2 + 1) + len(of_split)
    assert all(before[name] == data for name, data in after.items() if str(name) not in of_split)
    assert again.subset([0, 1]).fingerprint == table.subset([0, 1]).fingerprint


def test_resuming_renders_only_what_is_missing_or_damaged(split, monkeypatch):
    folder, table = split
    before, rendered = contents(folder), []
    original = clips.render_clip
    monkeypatch.setattr(
        clips, "render_clip", lambda *args: rendered.append(args[1]) or original(*args)
    )
    (folder / "train/000001/00002.png").unlink()
    file = folder / "train/000003/00001.forward.flo"
    file.write_bytes(file.read_bytes()[:-4])
    assert render_clips(CONFIG, "train", COUNT, folder).fingerprint == table.fingerprint
    assert rendered == [1, 3] and contents(folder) == before


def test_masks_are_exact(split, rendered):
    _, table = split
    for image in table.images.itertuples():
        clip, depth, _ = rendered[image.video_id]
        rows = table.of_image(image.image_id)
        place = (rows["instance_id"].to_numpy(np.int64) - 1) % 100
        amodal, visible = (
            rle.decode(rows[name].tolist(), (SIZE, SIZE)).astype(bool)
            for name in ("amodal_rle", "visible_rle")
        )
        layers = depth[image.frame]
        assert (amodal == np.isfinite(layers[place])).all()
        first = np.where(np.isfinite(layers).any(axis=0), layers.argmin(axis=0), -1)
        assert (visible == (first == place[:, None, None])).all()
        shown = visible.sum(axis=(1, 2))
        assert (rows["ignore"].to_numpy(bool) == (shown < CONFIG.minimum_visible_pixels)).all()
        # A hidden pixel has another object or scenery in front of it, as the order says.
        pairs = table.order[(table.order["image_id"] == image.image_id).to_numpy(bool)]
        in_front = {
            (int(a) % 100 - 1, int(b) % 100 - 1)
            for a, b in zip(pairs["occluder_id"], pairs["occludee_id"], strict=True)
        }
        for k, hidden in zip(place, amodal & ~visible, strict=True):
            by = set(np.unique(first[hidden]).tolist())
            assert {(b, k) for b in by if b < len(clip.objects)} <= in_front


def test_tracks_connect_an_object_over_the_frames_of_a_clip(split):
    _, table = split
    rows = table.instances.merge(table.images[["image_id", "video_id", "frame"]], on="image_id")
    for _, track in rows.groupby("track_id"):
        assert track["category_id"].nunique() == track["video_id"].nunique() == 1
        assert track["frame"].is_unique and set(track["frame"]) <= set(range(FRAMES))
    seen = (~rows["ignore"].astype(bool)).groupby(rows["track_id"]).sum() / FRAMES
    assert (seen >= CONFIG.minimum_seen).all()


def test_flow_of_a_translation_made_by_hand():
    clip, depth = passing(move=0.2)
    camera = clip.cameras[0]
    seen = Seen.of(depth[2], camera, clip.stage())
    found = flow(clip, seen, 2, 3)
    front = seen.owner == 0
    assert front.sum() > 100 and set(np.unique(seen.owner)) >= {0, 1, STAGE, SKY}
    # The face is at 4.75 and moves by 0.2 to the right: f × 0.2 / 4.75 pixels.
    np.testing.assert_allclose(found[front, 0], camera.focal_length * 0.2 / 4.75, rtol=1e-5)
    np.testing.assert_allclose(found[front, 1], 0, atol=1e-4)
    assert (found[~front] == 0).all()
    # A camera that moves to the right instead: everything goes to the left by f × 0.2 / depth.
    x, y, z = camera.translation
    moved = camera.model_copy(update={"translation": (x - 0.2, y, z)})
    still, depth = passing(move=0.0)
    still = replace(still, cameras=(camera, moved))
    found = flow(still, Seen.of(depth[0], camera, still.stage()), 0, 1)
    expected = np.where(seen.owner == SKY, 0, -camera.focal_length * 0.2 / seen.depth)
    same = Seen.of(depth[0], camera, still.stage()).owner == seen.owner
    np.testing.assert_allclose(found[same, 0], expected[same], rtol=1e-4, atol=1e-4)


def test_the_background_rests_where_the_camera_does(split, rendered):
    for clip, _, seen in rendered:
        moved = flow(clip, seen[0], 0, 1)
        stage = np.isin(seen[0].owner, (STAGE, SKY))
        still = (moved[stage] == 0).all()
        assert still == (clip.kind == "glide") and np.abs(moved).max() > 0.5


def test_masks_and_pictures_warped_by_the_stored_flow_agree(split, rendered):
    folder, table = split
    agreement, before, after = [], [], []
    names = table.images.set_index(["video_id", "frame"])["file_name"]
    for index, (clip, depth, _) in enumerate(rendered):
        visible = [visible_masks(d) for d in depth]
        pictures = [
            np.asarray(Image.open(folder / names[index, t])).astype(np.float64)
            for t in range(FRAMES)
        ]
        for t in range(FRAMES - 1):
            back = stored(folder, names[index, t + 1], t + 1, backward=True)
            forth = stored(folder, names[index, t], t)
            rows, columns = np.mgrid[:SIZE, :SIZE]
            x, y = (
                np.floor(g + 0.5 + back[..., i]).astype(int) for i, g in enumerate((columns, rows))
            )
            inside = (x >= 0) & (x < SIZE) & (y >= 0) & (y < SIZE)
            x, y = x.clip(0, SIZE - 1), y.clip(0, SIZE - 1)
            # Seen in both frames: the two flows cancel out, up to the rounding to a pixel.
            both = inside & (np.abs(forth[y, x] + back).max(axis=2) < 0.5)
            for k in range(len(clip.objects)):
                warped, true = visible[t][k][y, x] & both, visible[t + 1][k] & both
                if true.sum() > 40:
                    agreement.append((warped & true).sum() / (warped | true).sum())
            large = both & (np.abs(back).max(axis=2) > 1)
            before.append(np.abs(pictures[t] - pictures[t + 1])[large].ravel())
            after.append(np.abs(pictures[t][y, x] - pictures[t + 1])[large].ravel())
    assert len(agreement) > 30 and np.mean(agreement) > 0.97 and np.min(agreement) > 0.8
    assert np.concatenate(after).mean() < 0.6 * np.concatenate(before).mean()
    assert flow_file(folder, names[0, FRAMES - 1], FRAMES - 1) is None
    assert flow_file(folder, names[0, 0], 0, backward=True) is None


def stored(folder, name, frame, backward=False):
    return read_flow(flow_file(folder, name, frame, backward=backward), (SIZE, SIZE))


def test_stored_depth_is_that_of_the_visible_surface(split, rendered):
    for index, (_, _, seen) in enumerate(rendered):
        value = np.asarray(Image.open(split[0] / f"train/{index:06d}/00003.depth.png"))
        near = (seen[3].owner != SKY) & (seen[3].depth < 65)
        assert value.dtype == np.uint16 and (value[~near] == 0).all()
        error = value[near] / DEPTH_UNIT - seen[3].depth[near]
        assert np.abs(error).max() <= 0.5001 / DEPTH_UNIT


def test_a_part_that_an_occluder_uncovers_is_seen_elsewhere():
    clip, depth = passing(move=0.2)
    share = seen_elsewhere(clip, depth, np.stack([visible_masks(d) for d in depth]))
    assert np.isnan(share[:, 0]).all() and np.isfinite(share[:, 1]).any()
    assert np.nanmin(share[:, 1]) > 0.95
    clip, depth = passing(move=0.0)
    share = seen_elsewhere(clip, depth, np.stack([visible_masks(d) for d in depth]))
    np.testing.assert_array_equal(share[:, 1], 0)


def passing(move, frames=11):
    """A box that passes in front of another by ``move`` per frame, seen along the x axis."""
    camera = Camera.looking_at(
        np.array([0, 0, 0.4]),
        azimuth=0,
        elevation=0,
        distance=5,
        field_of_view=40,
        width=SIZE,
        height=SIZE,
    )
    shape = assemble([(box((0.5, 0.6, 0.6), (0, 0, 0)), Material((1, 1, 1)))])
    way = move * (np.arange(frames) - frames // 2)
    path = np.stack([np.zeros(frames), way, np.zeros(frames)], axis=1)
    behind = np.tile([-1.0, 0.1, 0], (frames, 1))
    source = ShapeSource(category="box")
    actors = tuple(Actor(source, shape, 1.0, p) for p in (path, behind))
    outdoors = sample_surroundings(np.random.default_rng(0), 0).model_copy(update={"wall": None})
    clip = Clip("glide", actors, (), (camera,) * frames, outdoors)
    return clip, clip.layers()


def test_statistics_count_what_is_hidden_and_recoverable(split):
    folder, table = split
    found = json.loads((folder / "train/statistics.json").read_text())
    rate = table.instances["occlusion_rate"].to_numpy(np.float64)
    partly = ((rate >= 0.1) & (rate <= 0.7)).mean()
    assert found["share_of_object_frames_hidden_10_to_70"] == pytest.approx(partly)
    assert sum(found["clips_by_kind"].values()) == found["clips"] == COUNT
    assert 0.5 < found["hidden_pixels_seen_elsewhere"] <= 1


def test_flow_and_depth_are_left_out_when_not_asked_for(tmp_path):
    config = CONFIG.model_copy(update={"flow": False, "depth": False, "scenery": (2, 2)})
    render_clips(config.model_copy(update={"orbits": 0.0}), "val", 1, tmp_path)
    files = sorted(p.name for p in (tmp_path / "val/000000").iterdir())
    assert files == [*(f"{t:05d}.png" for t in range(FRAMES)), "clip.json"]
    record = load_clip_record(tmp_path / "val/000000/clip.json")
    assert {actor.source.category for actor in record.scenery} <= set(SCENERY)


@pytest.mark.parametrize("given", [{"arc": (90, 30)}, {"minimum_objects": 9}, {"frames": 1}])
def test_impossible_configurations_are_refused(given):
    with pytest.raises(ValidationError):
        MovingScenesConfig(**given)
