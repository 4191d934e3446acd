"""The front door: a method from data to masks of a picture, in Python and without Kedro."""

import dataclasses
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

import amodal_pipeline as ap
from amodal_pipeline import front
from amodal_pipeline.annotations.tables import PREDICTION_ORDER, frame
from amodal_pipeline.methods.registry import METHODS
from tests.pipelines.conftest import DETECTOR

SMALL = {"detector": DETECTOR, "mask_head": {"convolutions": 1, "channels": 16}}
QUICK = {"augmentation": {"min_sizes": [64], "max_size": 64}, "workers": 0, "batch_size": 2}
TOKENIZER = {
    "model": {
        "crop": {"side": 16, "image_side": 32},
        "channels": 4,
        "multipliers": [1, 1, 1, 1],
        "codes": 8,
        "code_size": 4,
        "adversarial": 0.0,
    },
    "iterations": 2,
    "training": {"workers": 0, "batch_size": 2},
}
COMPLETER = {
    "encoder": {"name": "test_resnet", "weights": None},
    "crop": {"side": 16, "image_side": 32},
    "width": 16,
    "layers": 1,
    "heads": 2,
    "refinement_channels": [8, 8, 8, 8, 8],
}


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    return ap.read("scenes", tmp_path_factory.mktemp("scenes"), train=4, val=3, workers=1)


@pytest.fixture(scope="module")
def orcnn(scenes, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "orcnn"
    checkpoint = ap.train("orcnn", scenes[0], folder, model=SMALL, iterations=2, training=QUICK)
    return checkpoint, folder


def test_from_data_to_a_table_of_scores(scenes, orcnn, tmp_path):
    train, val = scenes
    c2f = ap.train(
        *("c2f_seg", train, tmp_path / "c2f"),
        model=COMPLETER,
        iterations=2,
        training={"workers": 0, "batch_size": 2},
        parts={"tokenizer": TOKENIZER},
    )
    found = ap.predict(orcnn[0], val, workers=0)
    completed = ap.complete(c2f, found, workers=0)
    true = ap.complete(c2f, ap.true_objects(val), workers=0)
    results = ap.evaluate(val, [found, completed, true], resamples=0, headline_resamples=0)
    kinds = results[["method", "inputs"]].drop_duplicates().to_numpy().tolist()
    assert sorted(map(tuple, kinds)) == [
        ("c2f_seg", "orcnn"),
        ("c2f_seg", "true"),
        ("orcnn", "image"),
    ]
    assert {"coco", "completion"} <= set(results["protocol"])
    # Once more: both are finished, and nothing is trained.
    again = ap.train(
        *("c2f_seg", train, tmp_path / "c2f"),
        model=COMPLETER,
        iterations=2,
        training={"workers": 0, "batch_size": 2},
        parts={"tokenizer": TOKENIZER},
    )
    assert again.card.fingerprint == c2f.card.fingerprint
    model = ap.load(tmp_path / "c2f")
    visible = np.zeros((30, 40), bool)
    visible[5:20, 10:25] = True
    result = model.complete(np.full((30, 40, 3), 128, np.uint8), visible)
    assert result.masks.shape == (1, 30, 40) and (result.masks[0] >= visible).all()
    with pytest.raises(ValueError, match="is not a detector"):
        model.predict(np.full((30, 40, 3), 128, np.uint8))


def test_a_training_begins_anew_when_asked_to(scenes, orcnn, tmp_path):
    folder = shutil.copytree(orcnn[1], tmp_path / "orcnn")
    changed = {"model": SMALL, "iterations": 1, "training": QUICK}
    with pytest.raises(ValueError, match="iterations"):
        ap.train("orcnn", scenes[0], folder, **changed, start=ap.Start())
    start = ap.Start(orcnn[0], restart=True)
    again = ap.train("orcnn", scenes[0], folder, **changed, start=start)
    assert again.card.iterations == 1
    assert again.card.fingerprint.parts["pretrained"] == orcnn[0].card.fingerprint.digest


def test_pictures_of_any_kind(orcnn, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "street.png")
    model = ap.load(orcnn[1])
    one = model.predict(tmp_path / "street.png")
    kinds = [
        Image.open(tmp_path / "street.png"),
        pixels,
        torch.from_numpy(pixels).permute(2, 0, 1),
    ]
    for other in model.predict(kinds):
        assert np.array_equal(other.masks, one.masks) and other.names == one.names
    n = len(one.names)
    assert n > 0 and one.masks.shape == one.visible_masks.shape == (n, 48, 64)
    assert one.scores.shape == (n,) and one.boxes.shape == (n, 4)
    assert one.plot().size == (64, 48)
    assert len(one.above(2.0).names) == 0 and one.above(2.0).masks.shape == (0, 48, 64)
    one.save_coco(tmp_path / "street.json")
    records = json.loads((tmp_path / "street.json").read_text())
    assert len(records) == n and records[0]["file_name"] == "street.png"
    cut = [each for each in one.cutouts if each is not None]
    assert len(one.cutouts) == n and {each.mode for each in cut} == {"RGBA"}
    tables = one.predictions
    pair = {"image_id": [1], "front_id": [2], "back_id": [1], "score": [0.5], "source": ["me"]}
    ordered = dataclasses.replace(tables, order=frame(PREDICTION_ORDER, pair))
    ordered = dataclasses.replace(one, predictions=ordered)
    assert ordered.order.tolist() == [[1, 0]] and one.order.shape == (0, 2)
    assert ordered.above(float(one.scores[:2].max())).order.shape == (0, 2)
    ordered.save(tmp_path / "objects")
    written = {p.relative_to(tmp_path / "objects").parts[0] for p in tmp_path.rglob("objects/**/*")}
    assert written == {
        *("amodal", "visible", "cutouts"),
        "overlay.png",
        "objects.json",
        "order.csv",
    }
    assert len(list((tmp_path / "objects/cutouts").iterdir())) == len(cut)
    with pytest.raises(ValueError, match=r"uint8 array \[H, W, 3\]"):
        model.predict(pixels.astype(np.float32))
    with pytest.raises(ValueError, match="is not a completer"):
        model.complete(pixels, pixels[..., 0])


@pytest.mark.parametrize("name", METHODS)
def test_every_recipe_can_be_shortened(name):
    recipe = front.contract.load(METHODS[name]).DESCRIPTION.recipe
    short, whole = (front._recipe(recipe, n, {}) for n in (50, None))
    assert short.iterations == 50 and all(m < 50 for m in short.milestones)
    assert sum(stage.iterations for stage in short.stages) <= 50
    assert short.warmup_iterations <= max(1, whole.warmup_iterations)
    assert short.learning_rate == whole.learning_rate


def test_every_published_data_set_has_its_file_names():
    images = ("kins", "cocoa", "cocoa_bsds", "cocoa_cls", "d2sa", "shapenet")
    for name in (*images, "fishbowl", "movid_a", "movi_b"):
        assert front._published(name).chosen is not None


def test_what_is_unknown_is_named(scenes, tmp_path):
    with pytest.raises(ValueError, match=r"no method is called 'orcn'.*orcnn"):
        ap.train("orcn", scenes[0], tmp_path)
    with pytest.raises(ValueError, match=r"no data set is called 'kinz'.*kins"):
        ap.read("kinz", tmp_path)
    with pytest.raises(ValueError, match="orcnn has no part prior"):
        ap.train("orcnn", scenes[0], tmp_path, parts={"prior": {}})
    with pytest.raises(ValueError, match="matched_by names methods in a project's folders"):
        ap.evaluate(scenes[0], [], matched_by=["orcnn"])


def test_neither_kedro_nor_mlflow_is_imported():
    program = (
        "import sys, amodal_pipeline as ap; ap.train, ap.read, ap.evaluate; "
        "print([m for m in ('kedro', 'mlflow') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr
