"""FISHBOWL in both layouts, against the masks themselves."""

import json
import pickle

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from amodal_pipeline.annotations.fishbowl import read_fishbowl
from tests.annotations.video_writers import FILM_RULES as RULES
from tests.annotations.video_writers import FILM_SIZE, film, followed, processed, rle, write_raw

T, H, W = FILM_SIZE


def read(path, root, **options):
    return read_fishbowl(
        path, root, "fishbowl", "test", folder="test_frames", rules=RULES, **options
    )


def masks_of(table, image_id):
    rows = table.of_image(image_id)
    tracks = [None if track != track else int(track) for track in rows["track_id"].astype(float)]
    found = {}
    for track, *texts in zip(tracks, rows["amodal_rle"], rows["visible_rle"], strict=True):
        found[track] = [
            coco_mask.decode({"size": [H, W], "counts": text}).astype(bool) for text in texts
        ]
    return found


def test_raw_videos_become_the_masks_themselves(tmp_path):
    made = film()
    write_raw(tmp_path, made)
    table = read(tmp_path / "test", tmp_path)
    assert table.images["file_name"].tolist() == [
        f"test_frames/00004/{t:05d}.png" for t in range(T)
    ]
    assert table.images["video_id"].tolist() == [4] * T
    assert table.images["frame"].tolist() == list(range(T))
    assert len(table.rejected) == len(table.repaired) == 0

    tracks = {n: followed(made, n) for n in made.amodal}
    # The film has all cases: a late beginning, an end at a gap before the film's, and no track.
    assert tracks[7][0] > 0 and 0 < len(tracks[2]) < T and not tracks[30]
    assert {k: len(rows) for k, rows in table.tracks.items()} == {40002: len(tracks[2]),
                                                                 40007: len(tracks[7])}  # fmt: skip
    order = set()
    for t in range(T):
        found = masks_of(table, 40000 + t)
        wanted, rest = {}, np.zeros((H, W), bool)
        for number in made.amodal:
            if t in tracks[number]:
                wanted[40000 + number] = [made.amodal[number][t], made.visible[number][t]]
            else:
                rest |= made.visible[number][t]
        wanted[None] = [rest, rest]
        assert found.keys() == wanted.keys()
        for track, (amodal, visible) in wanted.items():
            np.testing.assert_array_equal(found[track][0], amodal)
            np.testing.assert_array_equal(found[track][1], visible)
        order |= {
            (40000 + t, a, b)
            for a in wanted
            for b in wanted
            if a != b and (wanted[a][1] & wanted[b][0]).any()
        }
    assert order  # 7 hides 2
    tracks_of = (
        table.instances["track_id"].astype(object).where(table.instances["track_id"].notna(), None)
    )
    track_of = dict(zip(table.instances["instance_id"], tracks_of, strict=True))
    found = {
        (image, track_of[a], track_of[b])
        for image, a, b in table.order[["image_id", "occluder_id", "occludee_id"]].to_numpy()
    }
    assert found == order
    assert table.order["inferred"].all()
    assert table.instances["ignore"].tolist() == table.instances["track_id"].isna().tolist()


@pytest.mark.parametrize("protocol", [2, 4])
def test_both_layouts_are_the_same_table(tmp_path, protocol):
    made = film()
    write_raw(tmp_path, made)
    path = tmp_path / "test_data.pkl"
    path.write_bytes(pickle.dumps(processed(made), protocol))
    raw, ready = read(tmp_path / "test", tmp_path), read(path, tmp_path)
    # SaVos's file has no frame without a followed fish.
    frames = sorted({t for n in made.amodal for t in followed(made, n)})
    assert ready.images["frame"].tolist() == frames
    part = raw.subset(ready.images["image_id"])
    assert part.instances.equals(ready.instances)
    assert part.order.equals(ready.order)


def test_videos_are_read_one_after_the_other(tmp_path):
    for video in ("00004", "00011"):
        write_raw(tmp_path, film(), video)
    seen = []
    table = read(tmp_path / "test", tmp_path, on_progress=lambda *done: seen.append(done))
    assert seen == [(1, 2), (2, 2)]
    assert table.images["video_id"].tolist() == [4] * T + [11] * T
    assert list(table.tracks) == [40002, 40007, 110002, 110007]


def test_a_damaged_mask_ends_its_track_and_is_named(tmp_path):
    made = film()
    write_raw(tmp_path, made)
    path = tmp_path / "test" / "00004" / "objects.json"
    fish = json.loads(path.read_text())
    at = followed(made, 7)[3]
    fish[0]["masks"][at] = rle(np.ones((H + 1, W), bool))
    fish[2]["masks"][0] = None
    path.write_text(json.dumps(fish))
    table = read(tmp_path / "test", tmp_path)
    assert len(table.tracks[40007]) == 3
    border, bad = sorted(table.rejected.to_dict("records"), key=lambda found: found["record"])
    assert border["record"] == "track 00004_30 frame 0"
    assert bad["record"] == f"track 00004_7 frame {at}" and bad["file"] == str(path)
    assert bad["reason"].startswith("is for a canvas [41, 60]")
    accounting = table.metadata.accounting["instances"]
    assert accounting.rejected == 2 and accounting.read == accounting.kept + 2


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda fish, alone: alone.unlink(), "is missing"),
        (lambda fish, alone: alone.write_text(json.dumps(fish[1:2])), "does not hold this fish"),
        (lambda fish, alone: fish[0]["masks"].pop(), "has masks of 13 frames, the video has 14"),
    ],
)
def test_a_fish_without_its_masks_is_named(tmp_path, damage, reason):
    write_raw(tmp_path, film())
    path = tmp_path / "test" / "00004" / "objects.json"
    fish = json.loads(path.read_text())
    damage(fish, tmp_path / "test_objects" / "00004_object7" / "objects.json")
    path.write_text(json.dumps(fish))
    table = read(tmp_path / "test", tmp_path)
    assert list(table.tracks) == [40002]
    (bad,) = table.rejected.to_dict("records")
    assert bad["record"] == "track 00004_7" and reason in bad["reason"]


class Command:
    def __reduce__(self):
        return print, ("was run",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"00004_7": {0: Command()}}, r"not a pickle of containers.*print"),
        ({"fish": {}}, r"'fish' is not the track of a fish"),
        ({"00004_7": {"0": {}}}, r"00004_7: '0' is not a frame"),
        ({"00004_7": {0: {"VM": [], "FM": []}}}, r"no mask of video 00004 has a size"),
        ([1], "holds a list"),
        ({f"00004_{n}": {9_999: {}} for n in range(200)}, "more than 1048576 masks"),
    ],
)
def test_other_pickles_are_refused(tmp_path, capsys, content, message):
    path = tmp_path / "test_data.pkl"
    path.write_bytes(pickle.dumps(content))
    with pytest.raises(ValueError, match=message) as error:
        read(path, tmp_path)
    assert "test_data.pkl" in str(error.value)
    assert "was run" not in capsys.readouterr().out


def test_a_mask_missing_from_the_pickle_is_named(tmp_path):
    content = processed(film())
    at = next(iter(content["00004_2"])) + 1
    content["00004_2"][at]["FM"] = None
    path = tmp_path / "test_data.pkl"
    path.write_bytes(pickle.dumps(content))
    table = read(path, tmp_path)
    assert len(table.tracks[40002]) == 1
    (bad,) = table.rejected.to_dict("records")
    assert (bad["record"], bad["field"]) == (f"track 00004_2 frame {at}", "amodal mask")


def test_frames_that_were_not_extracted_are_an_error_with_the_command(tmp_path):
    write_raw(tmp_path, film())
    with pytest.raises(ValueError, match=r"00000\.png is missing.*ffmpeg -i .*00004/video\.mp4"):
        read(tmp_path / "test", tmp_path, need_frames=True)
    picture = tmp_path / "test_frames" / "00004" / "00000.png"
    picture.parent.mkdir(parents=True)
    picture.touch()
    assert len(read(tmp_path / "test", tmp_path, need_frames=True).images) == T


@pytest.mark.parametrize(
    ("text", "message"),
    [("{}", "not a list of fish"), ('[{"id": 1}]', "position 0"), ("[", "not JSON")],
)
def test_a_damaged_file_is_named(tmp_path, text, message):
    write_raw(tmp_path, film())
    (tmp_path / "test" / "00004" / "objects.json").write_text(text)
    with pytest.raises(ValueError, match=rf"00004.objects\.json.*{message}"):
        read(tmp_path / "test", tmp_path)
