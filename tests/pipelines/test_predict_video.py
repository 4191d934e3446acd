"""A user's video: frames in their order, masks as tracks, results, a video and a strip of them."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from amodal_pipeline import methods
from amodal_pipeline.annotations import rle
from amodal_pipeline.annotations.video_files import frames_of
from amodal_pipeline.jobs.own_images import find_images, natural
from amodal_pipeline.jobs.own_masks import read_masks
from amodal_pipeline.jobs.predict import draw_folder, write_results
from amodal_pipeline.jobs.strips import strips
from amodal_pipeline.methods.registry import MethodConfig
from amodal_pipeline.methods.training_config import InferenceConfig
from amodal_pipeline.predictor import Predictor
from amodal_pipeline.visuals import movies
from amodal_pipeline.visuals.strips import partly_hidden_tracks
from tests.conftest import tiny_method
from tests.methods.test_c2f_seg import TINY
from tests.methods.test_methods import checkpoint_of
from tests.pipelines.test_predict_nodes import SQUARE, completed, labelme

CPU = InferenceConfig(device="cpu", workers=0)
SIZE, FRAMES = (48, 64), 11
# Object 7 moves and is not seen in frames 4 and 5; object 200 appears in frame 6. Frame 5 has no
# file of masks.
SEEN = {7: [0, 1, 2, 3, 6, 7, 8, 9, 10], 200: [6, 7, 8, 9, 10]}


def label_image(frame):
    values = np.zeros(SIZE, np.uint8)
    for value, left in ((7, 4 + 3 * frame), (200, 40)):
        if frame in SEEN[value]:
            values[30 * (value == 200) + 2 :, left : left + 12][:14] = value
    return values


def save(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


@pytest.fixture
def frames(tmp_path):
    """frame1 to frame11, each with its number in its pixels."""
    for t in range(FRAMES):
        save(tmp_path / f"frames/frame{t + 1}.png", np.full((*SIZE, 3), 10 * t, np.uint8))
    return tmp_path / "frames"


@pytest.fixture
def masks(tmp_path):
    for t in range(FRAMES):
        if t != 5:
            save(tmp_path / f"masks/frame{t + 1}.png", label_image(t))
    return tmp_path / "masks"


def read(masks, frames):
    given, *_ = find_images(frames, str(frames), frames.parent)
    return read_masks(masks, given.table, given.folder, given.damaged)


def check(found):
    """Two tracks over time; what is not marked between two frames is an empty mask."""
    table = found.predictions
    frame = found.images.set_index("image_id")["frame"].loc[table["image_id"]].to_numpy(dtype=int)
    area = rle.area(table["visible_rle"].tolist())
    for track, (first, seen) in zip(
        sorted(table["track_id"].unique()), ((0, SEEN[7]), (6, SEEN[200])), strict=True
    ):
        own = (table["track_id"] == track).to_numpy(dtype=bool)
        assert frame[own].tolist() == list(range(first, FRAMES))
        assert frame[own & (area > 0)].tolist() == seen
    lefts = rle.box(table["visible_rle"].tolist(), SIZE)[:, 0]
    own = (table["track_id"] == min(table["track_id"])).to_numpy(dtype=bool) & (area > 0)
    assert lefts[own].tolist() == [4 + 3 * t for t in frame[own]]


def test_frames_are_in_the_order_of_their_numbers(frames, masks):
    assert sorted(["a10", "a9b", "a9", "2", "b"], key=natural) == ["2", "a9", "a9b", "a10", "b"]
    found = read(masks, frames)
    assert found.images["file_name"].tolist() == [f"frame{t + 1}.png" for t in range(FRAMES)]
    assert found.images["frame"].tolist() == list(range(FRAMES))
    assert set(found.predictions["track_id"]) == {7, 200}
    check(found)


def test_a_damaged_frame_keeps_its_number(frames, masks):
    (frames / "frame3.png").write_bytes(b"no image")
    found = read(masks, frames)
    assert found.images["frame"].tolist() == [t for t in range(FRAMES) if t != 2]
    table = found.predictions
    assert (table["track_id"] == 7).sum() == FRAMES - 1


def test_tracks_in_other_files(frames, masks, tmp_path):
    """A PNG per object, COCO with numbers, both with names that have the frame's number only."""
    records, one = [], tmp_path / "one_per_object"
    for t in range(FRAMES):
        values = label_image(t)
        for value, name in ((7, "cup"), (200, "hand")):
            mask = values == value
            if mask.any():
                save(one / f"{t + 1:05d}/{name}.png", mask)
                counts = rle.encode(mask[None])[0]
                records.append(
                    {
                        "file_name": f"video_{t + 1:06d}.PNG",
                        "segmentation": {"size": SIZE, "counts": counts},
                        ("track_id" if value == 7 else "instance_id"): value,
                    }
                )
    found = read(one, frames)
    check(found)
    assert set(found.predictions["track_id"]) == {1, 2}
    path = tmp_path / "tracks.json"
    path.write_text(json.dumps(records))
    check(read(path, frames))

    records[3]["track_id"] = None
    path.write_text(json.dumps(records))
    with pytest.raises(ValueError, match=r"tracks\.json: an object in frame4\.png has no track"):
        read(path, frames)
    records[3] |= {"attributes": {"track_id": 7}, "file_name": "video_000003.PNG"}
    path.write_text(json.dumps(records))
    with pytest.raises(ValueError, match=r"tracks\.json: 7 is in frame3\.png twice"):
        read(path, frames)

    for t in (1, 3):
        labelme(tmp_path / f"labelme/frame{t}.json", SQUARE)
    table = read(tmp_path / "labelme", frames).predictions
    assert table["image_id"].tolist() == [1, 2, 3] and set(table["track_id"]) == {1}


def test_files_of_no_frame_are_named(frames, masks):
    save(masks / "frame12.png", label_image(0))
    with pytest.raises(ValueError, match=r"frame12\.png is of no frame in .*: name it as"):
        read(masks, frames)
    (masks / "frame12.png").rename(masks / "other_4.png")
    with pytest.raises(ValueError, match=r"frame4\.png has masks in .* and in .*other_4\.png"):
        read(masks, frames)
    with pytest.raises(ValueError, match="neither a video nor a folder of frames"):
        find_images(frames, str(frames / "nowhere"), frames)
    with pytest.raises(ValueError, match=r"frame1\.png is no video that can be read"):
        find_images(frames, str(frames / "frame1.png"), frames)


def tiny(name="c2f_seg_video"):
    torch.manual_seed(0)
    image = MethodConfig.model_validate({"name": "c2f_seg", **TINY}).root
    model = methods.build(image if name == image.name else tiny_method(name), classes=2)
    with torch.no_grad():
        for parameter in model.refinement.parameters():
            parameter.add_(0.02)
    return model


@pytest.mark.parametrize("name", ["c2f_seg_video", "c2f_seg"])
def test_a_completer_is_given_tracks(frames, masks, tmp_path, name):
    """The masks of a video go through a network, to JSON, images of masks, a video and a strip."""
    made = checkpoint_of(tiny(name))
    given, rate, damaged = find_images(frames, str(frames), tmp_path)
    found = completed(made, given, masks, tmp_path)
    assert damaged == {} and found.metadata.method == name
    check(found)
    table = found.predictions
    visible, amodal = (table[f"{kind}_rle"].tolist() for kind in ("visible", "amodal"))
    assert np.array_equal(rle.shared_area(visible, amodal), rle.area(visible))
    unseen = rle.area(visible) == 0
    assert unseen.sum() == 2
    if name == "c2f_seg":  # which knows one frame at a time
        assert (rle.area(amodal)[unseen] == 0).all()

    write_results(found, tmp_path / "found.json", tmp_path / "pngs", 0.5, png=True)
    listed = json.loads((tmp_path / "found.json").read_text())
    assert [each["track_id"] for each in listed] == table["track_id"].tolist()
    again = read(tmp_path / "pngs/visible", frames)
    assert set(again.predictions["track_id"]) == {1, 2}  # files are named 7_object and 200_object
    check(again)

    drawn = tmp_path / "drawn"
    assert draw_folder(found, drawn, 0.5, rate) == FRAMES
    with Image.open(drawn / "frames_strip.png") as strip:
        assert strip.size == (2 * 24 + 8 * 120, 24 + 22 + 62 + 5 * 142 + 24)
    assert (drawn / f"frames{movies.suffix()}").stat().st_size > 1000


def test_without_pyav_an_animation_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(movies, "find_spec", lambda name: None)
    pictures = (Image.new("RGB", (700, 300), (t, 9 * t, 0)) for t in range(20))
    path = tmp_path / f"a{movies.suffix()}"
    assert movies.write_movie(path, pictures, 10) == 20
    with Image.open(path) as image:
        assert (image.format, image.n_frames, image.size) == ("WEBP", 20, (480, 206))


def test_a_video_file_is_decoded_once(tmp_path, masks):
    pytest.importorskip("av")
    path = tmp_path / "clip.mp4"
    pictures = (Image.new("RGB", (65, 48), (20 * t, 0, 255 - 20 * t)) for t in range(FRAMES))
    assert movies.write_movie(path, pictures, 12.5) == FRAMES
    given, rate, _ = find_images(tmp_path, str(path), tmp_path / "written")
    assert rate == 12.5 and given.folder.name == "clip"
    assert given.table["file_name"].tolist() == [f"{t:06d}.jpg" for t in range(FRAMES)]
    assert set(given.table["width"]) == {64}
    for t in (0, 5, 10):
        pixels = np.asarray(Image.open(given.folder / f"{t:06d}.jpg")).astype(int)
        assert np.abs(pixels.mean(axis=(0, 1)) - (20 * t, 0, 255 - 20 * t)).max() < 12
    (given.folder / "000003.jpg").unlink()
    assert frames_of(path, tmp_path / "written")[0] == given.folder
    assert not (given.folder / "000003.jpg").exists()

    path.write_bytes(path.read_bytes()[:400])
    with pytest.raises(ValueError, match=r"clip\.mp4 cannot be read as a video"):
        frames_of(path, tmp_path / "written")
    assert [each.name for each in (tmp_path / "written").iterdir()] == [given.folder.parent.name]


def test_a_missing_pyav_is_named(tmp_path, monkeypatch):
    (tmp_path / "a.mp4").write_bytes(b"video")
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    with pytest.raises(ValueError, match=r"`pip install av`"):
        frames_of(tmp_path / "a.mp4", tmp_path)


def test_in_python_it_is_the_same(frames, masks, tmp_path):
    model = tiny()
    given, *_ = find_images(frames, str(frames), tmp_path)
    found = completed(checkpoint_of(model), given, masks, tmp_path)
    visible = np.zeros((FRAMES, 2, *SIZE), bool)
    for t in range(FRAMES):
        if t != 5:
            visible[t] = label_image(t)[None] == np.array([7, 200])[:, None, None]
    pictures = [np.full((*SIZE, 3), 10 * t, np.uint8) for t in range(FRAMES)]
    model.categories = found.metadata.categories
    own = Predictor(model).complete_video(pictures, visible)
    assert own.shape == visible.shape and (own >= visible).all()
    table = found.predictions
    for k, track in enumerate((7, 200)):
        rows = (table["track_id"] == track).to_numpy(dtype=bool)
        masks = rle.decode(table["amodal_rle"][rows].tolist(), SIZE).astype(bool)
        mine = own[FRAMES - len(masks) :, k]
        assert (masks & mine).sum() > 0.9 * (masks | mine).sum()
    assert not own[:6, 1].any()
    with pytest.raises(ValueError, match=r"not 11 and \[10, 2, 48, 64\]"):
        Predictor(model).complete_video(pictures, visible[1:])


def test_the_picture_of_a_method_shows_who_is_hidden_most(moving, shapes):
    """In video 1 the square is hidden in part in several frames; in video 2 it grows behind."""
    tracks = partly_hidden_tracks(moving, 5)
    truth = moving.instances
    partly = truth[truth["occlusion_rate"].between(0.1, 0.7)]
    assert set(tracks) == set(partly["track_id"])
    counts = partly["track_id"].value_counts()
    assert tracks[0] == counts.index[0] and counts.is_monotonic_decreasing
    page = strips(tiny().eval(), moving, 1)
    assert page.size == (2 * 24 + 8 * 120, 24 + 22 + 62 + 4 * 142 + 24)
    cells = np.asarray(page)[24 + 22 + 56 :, 24:].astype(float)
    rows = [cells[142 * k : 142 * k + 112, :112] for k in range(4)]
    assert all(row.std() > 1 for row in rows)
    assert strips(tiny().eval(), shapes, 2).height == 24 + 22 + 62 + 24  # photographs have no rows
