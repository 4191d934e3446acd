"""Optical flow in clips: of files, estimated, at the borders of a video; other objects' pixels."""

import sys

import numpy as np
import pytest
import torch
from PIL import Image

from amodal_pipeline.annotations import rle
from amodal_pipeline.annotations.flow import write_flow
from amodal_pipeline.layers.configs import ClipCropConfig
from amodal_pipeline.samples.clips import ClipBatches, FrameCache
from amodal_pipeline.samples.motion import Flows, MotionBatches, crop_flow, estimated
from tests.conftest import make_moving

CROP = ClipCropConfig(enlarge=1.5, side=24, image_side=24)


def true_flow(frame, *, backward=False):
    """A flow that tells its frame, direction and places."""
    y, x = np.mgrid[:48, :64].astype(np.float32)
    return np.stack([x + frame, y - 100 * backward], axis=-1)


@pytest.fixture(scope="module")
def with_flow(tmp_path_factory):
    """The first video has files of flow, but for frame 5's forward one; the second has none."""
    root = tmp_path_factory.mktemp("flow")
    annotations = make_moving(root)
    for frame in range(9):
        if frame not in (5, 8):
            write_flow(root / f"{100 + frame}.forward.flo", true_flow(frame))
        if frame > 0:
            write_flow(root / f"{100 + frame}.backward.flo", true_flow(frame, backward=True))
    return annotations


def flows_of(annotations, **options):
    return Flows(annotations.images, FrameCache(annotations.metadata.image_root), **options)


def test_flow_is_that_of_files_else_estimated(with_flow, monkeypatch):
    flows = flows_of(with_flow)
    assert np.array_equal(flows.read(3).permute(1, 2, 0), true_flow(3))
    back = flows.read(3, backward=True)
    assert np.array_equal(back.permute(1, 2, 0), true_flow(3, backward=True))
    # The last frame has the forward flow of the one before it, the first the other's backward flow.
    assert torch.equal(flows.read(8), flows.read(7))
    assert torch.equal(flows.read(0, backward=True), flows.read(1, backward=True))
    # The square moves by five pixels; its upper left corner can be followed.
    found = flows.read(5)
    assert found.shape == (2, 48, 64) and found.abs().max() < 20
    assert np.diff(flows.time[:9]).tolist() == [1] * 8
    assert (np.abs(np.subtract.outer(flows.time[:9], flows.time[9:])) > 1).all()
    monkeypatch.setitem(sys.modules, "cv2", None)
    assert torch.equal(flows.read(5), found)
    with pytest.raises(ValueError, match=r"105\.png has no file.*pip install opencv"):
        flows_of(with_flow).read(5)


def test_frames_further_apart_have_no_file(with_flow):
    """A file is of the flow to the next frame of the video, whether or not the table has it."""
    images = with_flow.images[with_flow.images["frame"].to_numpy(dtype=np.int64) % 2 == 0]
    found = Flows(images, FrameCache(with_flow.metadata.image_root)).read(1)
    assert not np.array_equal(found.permute(1, 2, 0), true_flow(2))


def test_an_image_alone_has_no_flow(shapes):
    assert not flows_of(shapes).read(0).any()


def test_kept_flow_is_bounded(with_flow):
    flows = flows_of(with_flow, limit=3 * 48 * 64 * 8)
    for frame in range(5):
        flows.read(frame)
    assert list(flows.kept) == [(t, False) for t in (2, 3, 4)] and flows.held == 3 * 48 * 64 * 8


def test_estimated_flow_of_a_translation():
    pytest.importorskip("cv2")
    made = np.random.default_rng(0)
    texture = Image.fromarray(made.integers(0, 255, (24, 32, 3), np.uint8)).resize((128, 96))
    image = torch.from_numpy(np.array(texture)).permute(2, 0, 1)
    flow = estimated(image, image.roll((2, -3), dims=(1, 2)))[20:-20, 20:-20]
    assert np.abs(np.median(flow, axis=(0, 1)) - [-3, 2]).max() < 0.1


def test_flow_at_the_cells_of_a_window():
    flow = torch.from_numpy(true_flow(0)).permute(2, 0, 1).contiguous()
    found = crop_flow(flow, np.array([8.0, 4.0, 32.0, 28.0]), np.array([48, 64]), 24)
    torch.testing.assert_close(found, flow[:, 4:28, 8:32], atol=1e-3, rtol=1e-4)


def test_clips_with_their_motion_against_a_loop(with_flow):
    clips = ClipBatches(with_flow, CROP, 5, 5, 0)
    own, plain = MotionBatches(clips), clips[1]
    batch, again = own[1], MotionBatches(ClipBatches(with_flow, CROP, 5, 5, 0))[1]
    assert torch.equal(batch.images, plain.images)
    assert all(torch.equal(batch.targets[n], again.targets[n]) for n in batch.targets)
    assert all(torch.equal(batch.targets[n], plain.targets[n]) for n in plain.targets)
    truth = with_flow.instances
    frames = with_flow.images.set_index("image_id")
    hidden = 0
    for clip, t in np.ndindex(5, 5):
        targets = {
            name: values[clip, t] for name, values in batch.targets.items() if values.ndim > 1
        }
        record = truth.iloc[int(targets["index"])]
        beside = truth[(truth["image_id"] == record["image_id"]).to_numpy(dtype=bool)]
        beside = beside[(beside["instance_id"] != record["instance_id"]).to_numpy(dtype=bool)]
        window = targets["windows"].numpy()
        masks = rle.decode(beside["visible_rle"].tolist(), (48, 64)).any(axis=0)
        inside = targets["own"].numpy()
        flow = targets["forward"].numpy()
        frame = int(frames.loc[record["image_id"], "frame"])
        filed = record["image_id"] < 200 and frame not in (5, 8)
        step = (window[2:] - window[:2]) / 24
        compared, wrong = 0, 0
        for i, j in np.ndindex(24, 24):
            x, y = window[:2] + (np.array([j, i]) + 0.5) * step
            if x > inside[2] or y > inside[3]:
                assert not targets["others"][i, j] and not flow[:, i, j].any()
                continue
            compared += 1
            wrong += bool(targets["others"][i, j]) != masks[min(int(y), 47), min(int(x), 63)]
            hidden += bool(targets["others"][i, j])
            if filed and 0.5 < x < 63.5 and 0.5 < y < 47.5:
                assert np.abs(flow[:, i, j] - [x - 0.5 + frame, y - 0.5]).max() < 1e-2
        assert wrong <= 0.06 * compared
        assert targets["canvas"].tolist() == [64, 48]
    assert hidden > 100
