"""MOViD-A's layout, written here from its description, against the masks themselves."""

import json

import numpy as np
import pytest
from PIL import Image

from amodal_pipeline.annotations import rle
from amodal_pipeline.annotations.movid_a import read_movid_a

H, W, T, N = 24, 32, 4, 3


def palette_png(path, values: np.ndarray) -> None:
    """Write ids as the numbers of a palette's colours, as Kubric does."""
    image = Image.fromarray(values.astype(np.uint8), "L").convert("P")
    image.putdata(values.ravel().tolist())
    image.putpalette(np.random.default_rng(0).integers(0, 256, 768, np.uint8).tobytes())
    image.save(path)


def video(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return amodal and visible masks, bool [N, T, H, W]: boxes that move, the first in front."""
    rng = np.random.default_rng(seed)
    amodal = np.zeros((N, T, H, W), bool)
    for k in range(N):
        x, y = rng.integers(0, 12, 2)
        for t in range(T):
            amodal[k, t, y : y + 12, x + 2 * t : x + 2 * t + 14] = True
    amodal[2, 1:] = False  # leaves the picture
    visible, taken = amodal.copy(), np.zeros((T, H, W), bool)
    for k in range(N):
        visible[k] &= ~taken
        taken |= amodal[k]
    visible[1, 3] = False  # hidden by what is no instance
    return amodal, visible


def write(root, films: dict[str, tuple[np.ndarray, np.ndarray]]) -> None:
    for name, (amodal, visible) in films.items():
        folder = root / "test" / name
        folder.mkdir(parents=True)
        instances = [
            {"bbox_frames": np.flatnonzero(seen.any(axis=(1, 2))).tolist(), "bboxes": []}
            for seen in visible
        ]
        about = {"num_frames": T, "height": H, "width": W, "num_instances": N}
        (folder / "metadata.json").write_text(
            json.dumps({"metadata": about, "camera": {}, "instances": instances})
        )
        for t in range(T):
            Image.new("RGBA", (W, H)).save(folder / f"rgba_full_{t:05d}.png")
            ids = (visible[:, t] * np.arange(1, N + 1)[:, None, None]).sum(axis=0)
            palette_png(folder / f"segmentation_full_{t:05d}.png", ids)
            for k in range(N):
                palette_png(folder / f"segmentation_{k}_{t:05d}.png", amodal[k, t] * (k + 1))


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


def test_processes_change_nothing(tmp_path):
    write(tmp_path, {"12": video(0), "3": video(1)})
    done = []
    table = read(tmp_path, workers=2, on_progress=lambda *counts: done.append(counts))
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
