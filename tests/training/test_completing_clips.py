"""Completing over clips: stretches of tracks, frames in their places, memory."""

from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from amodal_pipeline.annotations import rle
from amodal_pipeline.annotations.known_objects import no_objects, true_objects
from amodal_pipeline.layers.configs import ClipCropConfig
from amodal_pipeline.methods.configs import C2FSegVideoConfig
from amodal_pipeline.methods.training_config import InferenceConfig
from amodal_pipeline.training.completing_clips import complete, stretches

CONFIG = InferenceConfig(objects_per_batch=8, workers=0, device="cpu")


class Stub(nn.Module):
    """What is seen of an object in any frame of the clip is the whole of it; notes what it gets."""

    def __init__(self, frames=4, overlap=2, **crop) -> None:
        super().__init__()
        crop = ClipCropConfig(**{"side": 96, "image_side": 32, **crop})
        config = {"crop": crop, "stretch": frames, "overlap": overlap}
        self.config = SimpleNamespace(**config, DESCRIPTION=C2FSegVideoConfig.DESCRIPTION)
        self.given = []

    def forward(self, images, targets):
        self.given.append((images, targets))
        return {"amodal_masks": targets["input"].float()}


@pytest.mark.parametrize("length", range(1, 30))
@pytest.mark.parametrize(("frames", "overlap"), [(1, 0), (4, 2), (8, 2), (5, 4)])
def test_every_frame_is_decided_once_by_a_stretch_that_has_it(length, frames, overlap):
    found, decided = stretches(length, frames, overlap), []
    for stretch, own in found:
        assert stretch.stop - stretch.start == min(frames, length)
        assert stretch.start <= own.start < own.stop <= stretch.stop
        decided += range(own.start, own.stop)
    assert decided == list(range(length))
    assert len(found) <= 1 + -(-max(length - frames, 0) // (frames - overlap))
    for (one, _), (other, _) in pairwise(found):
        assert one.stop - other.start >= overlap


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("workers", [0, 1])
def test_masks_come_back_to_their_frames(moving, shared, workers):
    """The visible mask goes through crop and paste, of a track of nine frames in four stretches."""
    objects, model = true_objects(moving), Stub(shared_scale=shared)
    seen = []
    found = complete(
        model,
        objects,
        CONFIG.model_copy(update={"workers": workers}),
        method="stub",
        on_progress=lambda done, total: seen.append((done, total)),
    )
    table = found.predictions
    assert table["prediction_id"].tolist() == objects.table.predictions["prediction_id"].tolist()
    visible, amodal = (table[f"{kind}_rle"].tolist() for kind in ("visible", "amodal"))
    empty = rle.area(visible) == 0
    assert empty.sum() >= 1
    assert (rle.area(amodal)[empty] == 0).all()
    assert (rle.pair_iou(amodal, visible)[~empty] > 0.85).all()
    assert seen[-1] == (len(table), len(table))


def test_an_object_is_given_once_in_every_stretch(moving):
    model = Stub()
    complete(model, true_objects(moving), CONFIG, method="stub")
    clips = [
        tuple(key[real].tolist())
        for _, targets in model.given
        for key, real in zip(targets["key"], targets["real"], strict=True)
    ]
    for images, targets in model.given:
        n, frames = targets["real"].shape
        assert n * frames <= 8
        assert images.shape == (n, frames, 3, 32, 32)
        assert targets["windows"].shape == (n, frames, 4)
        assert targets["input"].shape == (n, frames, 96, 96)
    square = [[10 * (100 + t) + 1 for t in range(start, start + 4)] for start in (0, 2, 4, 5)]
    assert [list(clip) for clip in sorted(clips) if clip[0] % 10 == 1] == square
    assert len(clips) == len(set(clips)) == 4 + 4 + 1 + 1 + 1


def test_an_unseen_frame_is_completed_and_an_unseen_object_is_not(moving):
    class Whole(Stub):
        def forward(self, images, targets):
            return {"amodal_masks": torch.ones_like(targets["input"], dtype=torch.float32)}

    found = complete(Whole(), true_objects(moving), CONFIG, method="stub").predictions
    hidden = rle.area(found["visible_rle"].tolist()) == 0
    assert (rle.area(found["amodal_rle"].tolist())[hidden] > 0).all()

    objects = true_objects(moving)
    own = objects.table.predictions
    never = (own["track_id"] == 1).to_numpy(dtype=bool)
    nothing = rle.encode(np.zeros((1, 48, 64), np.uint8))[0]
    masks = zip(never, own["visible_rle"].tolist(), strict=True)
    changed = objects.with_columns(visible_rle=[nothing if gone else mask for gone, mask in masks])
    found = complete(Whole(), changed, CONFIG, method="stub").predictions
    assert (rle.area(found["amodal_rle"].tolist())[never] == 0).all()
    assert (rle.area(found["amodal_rle"].tolist())[~never] > 0).all()


def test_objects_without_a_track_are_clips_of_one_frame(shapes, caplog):
    model = Stub(clipped=False)
    found = complete(model, true_objects(shapes), CONFIG, method="stub").predictions
    assert "no track_id" in caplog.text
    assert all(targets["real"].shape[1] == 1 for _, targets in model.given)
    amodal, visible = (found[f"{kind}_rle"].tolist() for kind in ("amodal", "visible"))
    assert (rle.pair_iou(amodal, visible) > 0.85).all()


def test_no_objects_are_no_work(moving):
    objects = no_objects(moving)
    assert len(complete(Stub(), objects, CONFIG, method="stub").predictions) == 0
