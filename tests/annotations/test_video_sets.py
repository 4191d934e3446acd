"""Published sets of videos through the front door, and what damage to their files comes to."""

import copy
import json
import pickle

import numpy as np
import pytest
from PIL import Image

import amodal_pipeline as ap
from amodal_pipeline.annotations.audit import audit
from amodal_pipeline.annotations.fishbowl import read_fishbowl
from amodal_pipeline.annotations.flow import flow_file
from amodal_pipeline.annotations.movid_a import read_movid_a
from amodal_pipeline.jobs.prepare import prepare
from amodal_pipeline.jobs.sources import Source
from tests.annotations.test_fuzz_readers import HOSTILE
from tests.annotations.video_writers import (
    FILM_RULES,
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


def places(value, at=()):
    """Yield the way to every value within a tree of lists and dictionaries."""
    yield at
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
        if isinstance(inner, (dict, list)):
            yield from places(inner, (*at, key))
        else:
            yield (*at, key)


@pytest.mark.parametrize("kind", ["visible", "alone", "pickle", "metadata"])
def test_any_damage_gives_a_table_or_an_error_that_names_the_file(tmp_path, kind):
    write_raw(tmp_path, film())
    write_kubric(tmp_path / "kubric", {"3": kubric_video(1)})
    path = (
        tmp_path
        / {
            "visible": "test/00004/objects.json",
            "alone": "test_objects/00004_object7/objects.json",
            "pickle": "test_data.pkl",
            "metadata": "kubric/test/3/metadata.json",
        }[kind]
    )
    whole = processed(film()) if kind == "pickle" else json.loads(path.read_text())
    ways, rng = list(places(whole)), np.random.default_rng(0)
    for _ in range(25):
        damaged, way = copy.deepcopy(whole), ways[rng.integers(len(ways))]
        hostile = HOSTILE[rng.integers(len(HOSTILE))]
        if way:
            inner = damaged
            for key in way[:-1]:
                inner = inner[key]
            inner[way[-1]] = hostile
        else:
            damaged = hostile
        path.write_bytes(
            pickle.dumps(damaged) if kind == "pickle" else json.dumps(damaged).encode()
        )
        try:
            if kind == "metadata":
                table = read_movid_a(tmp_path / "kubric/test", tmp_path, "made_up", "test")
            else:
                source = path if kind == "pickle" else tmp_path / "test"
                table = read_fishbowl(source, tmp_path, "made_up", "test", rules=FILM_RULES)
        except ValueError as error:
            assert path.name in str(error), (way, hostile)
        else:
            assert len(table.images) > 0
