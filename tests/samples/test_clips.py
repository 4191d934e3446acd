"""Clips of one object against slow versions, and their purity."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from amodal_pipeline.annotations import rle
from amodal_pipeline.annotations.tables import boxes
from amodal_pipeline.layers.configs import ClipCropConfig, CorruptionConfig
from amodal_pipeline.samples import clips
from amodal_pipeline.samples.clips import ClipBatches, FrameCache, interpolated, object_tracks
from tests.conftest import make_moving

CROP = ClipCropConfig(side=24, image_side=32)


def batches(annotations, frames=4, count=2, seed=0, **options):
    crop = options.pop("crop", CROP)
    return ClipBatches(annotations, crop, frames, count, seed, **options)


def equal(a, b):
    return torch.equal(a.images, b.images) and all(
        torch.equal(a.targets[k], b.targets[k]) for k in a.targets
    )


def test_a_batch_is_a_function_of_seed_and_iteration(moving):
    """In any order, by any worker, after a new start."""
    corruption = CorruptionConfig(kernel=(2, 3), iterations=(1, 2), sigma=2.0)
    own = batches(moving, corruption=corruption)
    first = [own[i] for i in range(4)]
    again = batches(moving, corruption=corruption)
    for i in (3, 1):
        assert equal(first[i], again[i])
    loader = DataLoader(again, batch_size=None, sampler=range(2, 4), num_workers=1)
    for batch, other in zip(loader, first[2:], strict=True):
        assert equal(batch, other)
    assert not equal(first[0], batches(moving, corruption=corruption, seed=1)[0])
    assert any((b.targets["input"] != b.targets["visible"]).any() for b in first)


def test_every_track_comes_once_before_any_comes_again(moving):
    own = batches(moving, count=1)
    track = moving.instances["track_id"].to_numpy(dtype=np.int64)
    seen = [int(track[own[i].targets["index"][0, 0]]) for i in range(10)]
    assert sorted(seen[:5]) == sorted(seen[5:]) == [1, 2, 3, 4, 5]


def test_rows_are_consecutive_frames_and_the_last_is_repeated(moving):
    own, truth = batches(moving, count=5), moving.instances
    frame = moving.images.set_index("image_id")["frame"]
    firsts = set()
    for i in range(12):
        targets = own[i].targets
        for rows, real, counts in zip(
            *(targets[k].numpy() for k in ("index", "real", "counts")), strict=True
        ):
            records = truth.iloc[rows]
            (track,) = set(records["track_id"])
            at = frame.loc[records["image_id"]].to_numpy(dtype=np.int64)
            length = 3 if track == 3 else 4
            assert at[:length].tolist() == list(range(at[0], at[0] + length))
            assert real.tolist() == [t < length for t in range(4)]
            assert (rows[length:] == rows[length - 1]).all()
            visible = rle.area(records["visible_rle"].tolist()) > 0
            assert counts.tolist() == (visible & real).tolist()
            assert counts.any()
            firsts |= {int(at[0])} if track == 1 else set()
    assert len(firsts) > 3


def test_a_stretch_in_which_nothing_is_seen_is_not_drawn():
    seen = np.array([1, 0, 0, 0, 0, 1, 0], bool)
    slow = [s for s in range(5) if seen[s : s + 3].any()]
    assert clips._starts(seen, 3).tolist() == slow == [0, 3, 4]
    assert clips._starts(seen, 9).tolist() == [0]


def test_boxes_are_interpolated_in_time():
    known = np.array([[0, 0, 10, 10], [np.nan] * 4, [np.nan] * 4, [8, 4, 10, 30]])
    found = interpolated(known, np.array([2, 4, 5, 6]))
    assert found[1].tolist() == [4, 2, 10, 20]
    assert found[2].tolist() == [6, 3, 10, 25]
    at_the_end = interpolated(known[[1, 0, 2]], np.array([1, 2, 3]))
    assert (at_the_end == [0, 0, 10, 10]).all()


def slow_crop(record, size, window, scale, crop, image):
    """A frame's window in one pixel of the crop after the other: masks, and the image by PIL."""
    left, top, right, bottom = window
    column, row = scale
    masks = {}
    for kind in ("amodal", "visible"):
        mask = rle.decode([record[f"{kind}_rle"]], size)[0]
        found = np.zeros((crop.side, crop.side), np.uint8)
        for i in range(crop.side):
            for j in range(crop.side):
                x, y = left + (j + 0.5) * column, top + (i + 0.5) * row
                if x <= right and y <= bottom:
                    found[i, j] = mask[min(int(y), size[0] - 1), min(int(x), size[1] - 1)]
        masks[kind] = found
    step = crop.side / crop.image_side
    box = (left, top, left + column * crop.side, top + row * crop.side)
    canvas = Image.new("RGB", (300, 300))
    canvas.paste(Image.fromarray(image), (0, 0))
    pixels = np.array(canvas.resize((crop.image_side,) * 2, Image.Resampling.BILINEAR, box=box))
    sure = np.ones(pixels.shape[:2], bool)
    for j in range(crop.image_side):
        # Pixels at the rim of the image mix with what is beyond it, or do not.
        sure[:, j] &= not 0 < right - (left + (j + 0.5) * column * step) < 2 * column * step
        sure[j] &= not 0 < bottom - (top + (j + 0.5) * row * step) < 2 * row * step
        if left + (j + 0.5) * column * step > right:
            pixels[:, j] = 0
        if top + (j + 0.5) * row * step > bottom:
            pixels[j] = 0
    return masks, pixels.transpose(2, 0, 1), sure


@pytest.mark.parametrize("shared", [True, False])
def test_windows_of_a_clip_against_a_loop(moving, shared):
    """One scale: that of the widest and highest window; the rest is black at right and bottom."""
    crop = CROP.model_copy(update={"shared_scale": shared})
    own, root = batches(moving, crop=crop, count=5), moving.metadata.image_root
    batch, size = own[0], (48, 64)
    visible = boxes(moving.instances["visible_box"])
    names = moving.images.set_index("image_id")["file_name"]
    compared = 0
    for clip, rows in enumerate(batch.targets["index"].numpy()):
        if np.isnan(visible[rows]).any():
            continue
        sides, windows = [], []
        for x, y, w, h in visible[rows]:
            corners = [x + w / 2 - w, y + h / 2 - h, x + w / 2 + w, y + h / 2 + h]
            windows.append(np.clip(corners, 0, [64, 48, 64, 48]))
            sides.append(windows[-1][2:] - windows[-1][:2])
        largest = np.max(sides, axis=0)
        for t, row in enumerate(rows):
            record = moving.instances.iloc[row]
            scale = (largest if shared else sides[t]) / crop.side
            with Image.open(f"{root}/{names[record['image_id']]}") as image:
                masks, pixels, sure = slow_crop(
                    record, size, windows[t], scale, crop, np.array(image.convert("RGB"))
                )
            for kind, mask in masks.items():
                found = batch.targets[kind][clip, t].numpy()
                assert (found != mask).mean() < 0.03
            difference = np.abs(batch.images[clip, t].numpy().astype(int) - pixels)
            assert difference[:, sure].max() <= 2
            assert sure.mean() > 0.5
            shown = batch.targets["windows"][clip, t].numpy()
            np.testing.assert_allclose(shown[2:] - shown[:2], scale * crop.side, rtol=1e-5)
            compared += 1
    assert compared >= 8


def test_an_image_is_decoded_once_for_all_objects(moving, monkeypatch):
    read = []
    plain = clips.read_image
    monkeypatch.setattr(clips, "read_image", lambda *a: read.append(a[1]) or plain(*a))
    own = batches(moving, count=5, frames=9)
    assert sorted(own[0].names) == sorted(read) == sorted(moving.images["file_name"])
    own[1]
    assert len(read) == len(moving.images)


def test_the_cache_is_bounded(moving):
    cache = FrameCache(moving.metadata.image_root, limit=48 * 64 * 3 * 2)
    for name in moving.images["file_name"]:
        cache.read(name, (48, 64))
    assert list(cache.images) == moving.images["file_name"].tolist()[-2:]
    assert cache.held == cache.limit


def test_images_are_left_out_where_they_are_not_wanted(tmp_path):
    annotations = make_moving(tmp_path)
    for file in tmp_path.glob("*.png"):
        file.unlink()
    batch = batches(annotations, with_images=False)[0]
    assert batch.images.shape == (2, 4, 3, 0, 0)
    assert batch.targets["amodal"].any()


def test_objects_without_a_track_are_clips_of_one_frame(shapes, caplog):
    own = batches(shapes)
    assert "every clip is one frame" in caplog.text
    batch = own[0]
    assert batch.targets["counts"].sum(dim=1).tolist() == [1, 1]
    assert len(object_tracks(shapes.instances, shapes.images)) == len(shapes.instances)
