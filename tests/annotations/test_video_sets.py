"""Published sets of videos through the front door: raw files in, tables of both splits out."""

import pickle

import numpy as np
import pytest
from PIL import Image

import amodal_pipeline as ap
from amodal_pipeline.annotations.audit import audit
from amodal_pipeline.annotations.flow import flow_file
from amodal_pipeline.jobs.prepare import prepare
from amodal_pipeline.jobs.sources import Source
from tests.annotations.video_writers import (
    FILM_SIZE,
    film,
    kubric_video,
    processed,
    write_kubric,
    write_raw,
)


def test_movid_a(tmp_path):
    for split, seed in (("train", 0), ("test", 1)):
        write_kubric(tmp_path / "MOViD_A", {"7": kubric_video(seed)}, split)
    flow = tmp_path / "MOViD_A" / "test" / "7" / "forward_flow_full_00001.png"
    flow.touch()
    train, val = ap.read("movid_a", tmp_path, workers=1)
    assert train.fingerprint != val.fingerprint
    image = val.images.iloc[1]
    assert flow_file(val.metadata.image_root, image["file_name"], image["frame"]) == flow
    found = audit(val, {"videos": 208})
    assert (found["videos"], found["tracks"]) == (1, 3)
    assert len(found.differences) == 1

    (tmp_path / "MOViD_A" / "test" / "7" / "rgba_full_00002.png").unlink()
    with pytest.raises(ValueError, match=r"1 of the 4 images.*rgba_full_00002\.png, which is miss"):
        ap.read("movid_a", tmp_path, workers=1)


def test_fishbowl(tmp_path):
    frames, height, width = FILM_SIZE
    for mode in ("train", "test"):
        write_raw(tmp_path / f"{mode}_data", film(), mode=mode)
    rules = {"amodal_above": 20, "visible_above": 4, "border": 3}
    source = {
        "kind": "fishbowl",
        "fishbowl": {
            "tracks": rules,
            **{
                split: {
                    "annotations": [f"{mode}_data.pkl", f"{mode}_data/{mode}"],
                    "images": [f"{mode}_data/{mode}_frames"],
                }
                for split, mode in (("train", "train"), ("val", "test"))
            },
        },
    }

    def read():
        return prepare(Source.model_validate(source), "fishbowl", tmp_path, tmp_path, 1)

    with pytest.raises(FileNotFoundError, match="train_data/train_frames is not in"):
        read()
    for mode in ("train", "test"):
        for t in range(frames):
            path = tmp_path / f"{mode}_data/{mode}_frames/00004/{t:05d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.zeros((height, width, 3), np.uint8)).save(path)
    train, val = read()
    assert len(train.images) == len(val.images) == frames
    (tmp_path / "test_data.pkl").write_bytes(pickle.dumps(processed(film())))
    assert list(read()[1].tracks) == list(val.tracks)
