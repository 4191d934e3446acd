"""MOViD-A's layout and that of MOVi-B and MOVi-D, against the masks themselves."""

import pickle

import numpy as np
import pytest
from joblib import parallel_config

from amodal_pipeline.annotations import rle, videos
from amodal_pipeline.annotations.movid_a import read_movid_a
from tests.annotations.video_writers import KUBRIC_SIZE, palette_png
from tests.annotations.video_writers import kubric_video as video
from tests.annotations.video_writers import write_kubric as write

N, T, H, W = KUBRIC_SIZE


def read(root, **options):
    return read_movid_a(root / "test", root, "movid_a", "test", folder="test", **options)


def test_videos_become_the_masks_themselves(tmp_path):
    made = {"12": video(0), "3": video(1)}
    write(tmp_path, made)
    table = read(tmp_path)
    assert table.images["image_id"].tolist() == [*range(30000, 30004), *range(120000, 120004)]
    assert table.images["video_id"].tolist() == [3] * T + [12] * T
    assert table.images["file_name"].iloc[0] == "test/3/rgba_full_00000.png"
    assert len(table.rejected) == len(table.repaired) == 0
    rows = table.instances
    wanted, order = {}, set()
    for name, (amodal, visible) in made.items():
        for t in range(T):
            for k in np.flatnonzero(amodal[:, t].any(axis=(1, 2))):
                track = int(name) * 10_000 + int(k)
                texts = rle.encode(np.stack([amodal[k, t], visible[k, t]]))
                wanted[track * 10_000 + t] = (track, *texts)
                order |= {
                    ((int(name) * 10_000 + j) * 10_000 + t, track * 10_000 + t)
                    for j in range(N)
                    if j != k and (visible[j, t] & amodal[k, t]).any()
                }
    columns = ("track_id", "amodal_rle", "visible_rle")
    found = zip(rows["instance_id"], *(rows[c] for c in columns), strict=True)
    assert {row[0]: row[1:] for row in found} == wanted
    assert set(zip(table.order["occluder_id"], table.order["occludee_id"], strict=True)) == order
    assert order and not rows["ignore"].any()
    # An object that is hidden has a row, and one that has left the picture has none.
    assert len(table.tracks[120001]) == T and len(table.tracks[120002]) == 1
    assert rows["visible_box"].isna().any()


def test_workers_change_nothing(tmp_path, monkeypatch):
    write(tmp_path, {"12": video(0), "3": video(1)})
    # Threads: processes take seconds to start. What would be sent to them and back is copied.
    monkeypatch.setattr(videos, "working", lambda n: parallel_config("threading", n_jobs=n))
    plain = videos.read_each

    def copied(task, names, workers, on_progress):
        task = pickle.loads(pickle.dumps(task))
        return plain(
            lambda name: pickle.loads(pickle.dumps(task(name))), names, workers, on_progress
        )

    monkeypatch.setattr(videos, "read_each", copied)
    done = []
    table = read(tmp_path, workers=2, on_progress=lambda *counts: done.append(counts))
    monkeypatch.undo()
    assert table.fingerprint == read(tmp_path).fingerprint
    assert done == [(1, 2), (2, 2)]


@pytest.mark.parametrize("kind", ["txt", "npy"])
def test_instances_that_are_not_listed_are_ignored(tmp_path, kind):
    write(tmp_path, {"3": video(1)})
    if kind == "txt":
        (tmp_path / "test_instance.txt").write_text("3_0_1\n3_2_3\n4_0_1\n")
    else:
        np.save(tmp_path / "test" / "instance_list.npy", np.array(["3-0", "3-2", "4-0"]))
    table = read(tmp_path)
    assert set(table.instances.loc[table.instances["ignore"].astype(bool), "track_id"]) == {30001}
    (bad,) = table.rejected.to_dict("records")
    assert bad["record"] == f"list entry {'4_0_1' if kind == 'txt' else '4-0'}"


def test_lists_with_other_content_are_refused(tmp_path):
    write(tmp_path, {"3": video(1)})
    array, text = tmp_path / "test" / "instance_list.npy", tmp_path / "test_instance.txt"
    np.save(array, np.array(["3-0"], object), allow_pickle=True)
    with pytest.raises(ValueError, match=r"instance_list\.npy.*no pickle"):
        read(tmp_path)
    np.save(array, np.arange(3))
    with pytest.raises(ValueError, match=r"instance_list\.npy holds an array"):
        read(tmp_path)
    np.save(array, np.array(["3-0"] * 8))
    array.write_bytes(array.read_bytes()[:-4])  # claims more than it has
    with pytest.raises(ValueError, match=r"instance_list\.npy cannot be read"):
        read(tmp_path)
    np.save(array, np.array(["3-x"]))
    with pytest.raises(ValueError, match=r"instance_list\.npy, entry 0: '3-x'"):
        read(tmp_path)
    text.write_text("3_0_1\n3_1_1\n")
    with pytest.raises(ValueError, match=r"test_instance\.txt, entry 2: '3_1_1'"):
        read(tmp_path)


def test_damaged_frames_and_masks_are_named(tmp_path):
    amodal, visible = video(1)
    write(tmp_path, {"3": (amodal, visible)})
    folder = tmp_path / "test" / "3"
    palette_png(folder / "segmentation_full_00000.png", np.full((H, W), N + 1))  # no such instance
    (folder / "segmentation_full_00001.png").unlink()
    palette_png(folder / "segmentation_0_00002.png", amodal[0, 2] * 3)  # of another instance
    (folder / "segmentation_1_00002.png").write_bytes(b"\x89PNG")
    palette_png(folder / "segmentation_0_00003.png", np.zeros((H, W + 1)))
    table = read(tmp_path)
    assert table.images["frame"].tolist() == [2, 3]
    reasons = {f["record"]: f["reason"] for f in table.rejected.to_dict("records")}
    assert reasons.keys() == {
        *("image 30000", "image 30001"),
        *("track 3_0 frame 2", "track 3_1 frame 2", "track 3_0 frame 3"),
    }
    assert "segmentation_full_00000.png has the value 4; 0 to 3 are" in reasons["image 30000"]
    assert "is missing" in reasons["image 30001"]
    assert "segmentation_0_00002.png has the value 3; 0 and 1" in reasons["track 3_0 frame 2"]
    assert "cannot be read as an image" in reasons["track 3_1 frame 2"]
    assert "24x33 pixels" in reasons["track 3_0 frame 3"]
    counted = table.metadata.accounting
    assert (counted["images"].read, counted["images"].rejected) == (4, 2)
    assert counted["instances"].rejected == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", "has no metadata"),
        ('{"metadata": {"num_frames": 1, "height": 2}, "instances": []}', "has no metadata"),
        ('{"metadata": {"num_frames": 1e6, "height": 2, "width": 2}, "instances": []}', "1000000"),
        ("[", "not JSON"),
    ],
)
def test_a_damaged_video_is_named(tmp_path, text, message):
    write(tmp_path, {"3": video(1)})
    (tmp_path / "test" / "3" / "metadata.json").write_text(text)
    with pytest.raises(ValueError, match=rf"3.metadata\.json.*{message}"):
        read(tmp_path)
