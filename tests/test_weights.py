"""Weights that ship, and how anybody uses them: by name, in order, with honest warnings."""

import dataclasses
import shutil
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import amodal_pipeline as ap
from amodal_pipeline import methods, shipped
from amodal_pipeline.annotations import Category, Given, rle
from amodal_pipeline.annotations.known_objects import true_objects
from amodal_pipeline.datasets import CheckpointDataset
from amodal_pipeline.jobs.ship import ship
from amodal_pipeline.jobs.sources import Source
from amodal_pipeline.layers.configs import CorruptionConfig
from amodal_pipeline.methods.checkpoints import Checkpoint, Fingerprint, MethodCard
from amodal_pipeline.methods.doubts import doubts
from amodal_pipeline.methods.pcnet_m.config import PCNetMConfig
from amodal_pipeline.methods.pretrained import restore, weights_of
from amodal_pipeline.methods.registry import MethodConfig
from amodal_pipeline.methods.training_config import InferenceConfig
from amodal_pipeline.metrics.results import RESULTS
from amodal_pipeline.pipelines.parameters import ParameterError, check_method
from amodal_pipeline.predictor import Predictor
from amodal_pipeline.samples.noisy_masks import with_noise
from amodal_pipeline.training.completing import complete
from amodal_pipeline.visuals.model_card import METRICS
from tests.methods.test_pcnet_m import ROW, SIZE, Ideal, as_table, drawn
from tests.tables import annotations
from tests.test_docs import DOCS, ROOT, blocks, run

OBJECT = (Category(id=1, name="object"),)
SOURCE = Source.model_validate({"kind": "scenes", "scenes": {"train": 1, "val": 1}})
GREY = np.full((*SIZE, 3), 128, np.uint8)


@pytest.fixture(scope="module")
def trained():
    """A small PCNet-M, with a bias that float16 cannot hold."""
    torch.manual_seed(0)
    crop = {"side": 16, "image_side": 16, "enlarge": 2.0}
    config = PCNetMConfig(width=0.25, crop=crop, keep="eraser")
    weights = weights_of(methods.build(config, 1))
    weights["network.logits.bias"] += 1e-9
    card = MethodCard(
        method=MethodConfig(config),
        categories=OBJECT,
        dataset="photographs",
        fingerprint=Fingerprint(parts={"made": "here"}),
        iterations=3,
        seed=0,
    )
    return Checkpoint(card, weights)


def scores(checkpoint, method="pcnet_m", run_id=""):
    rows = [
        {
            **dict.fromkeys(RESULTS.names, ""),
            "dataset": "photographs",
            "split": "val",
            "method": name,
            "variant": "full",
            "inputs": inputs,
            "protocol": "completion",
            "category": "all",
            "metric": metric,
            "value": value,
            "n": 7,
            "low": value - 1,
            "high": value + 1,
            "seed": 0,
            "run_id": run_id or f"{checkpoint.card.fingerprint.digest[:12]}-0",
        }
        for inputs in ("true", "noisy")
        for name, value in ((method, 71.25), ("visible_mask", 60.0))
        for metric in (*METRICS, "mIoU_full_matched")
    ]
    return pd.DataFrame(rows)


@pytest.fixture
def weights(trained, tmp_path, monkeypatch):
    """The folder of shipped weights, with those of a small network as "photographs"."""
    results = tmp_path / "results"
    results.mkdir()
    scores(trained).to_csv(results / "pcnet_m.csv", index=False)
    pd.DataFrame({"anything": [1]}).to_csv(results / "audit.csv", index=False)
    ship(trained, tmp_path / "weights/photographs", results, SOURCE)
    monkeypatch.setattr(shipped, "WEIGHTS", tmp_path / "weights")
    return tmp_path / "weights"


def test_half_precision_completes_as_the_training_did(trained, weights):
    small = Checkpoint.load(weights / "photographs")
    for name, tensor in trained.weights.items():
        kept = small.weights[name]
        if tensor.ndim > 1:
            assert kept.dtype == torch.float16
            torch.testing.assert_close(kept.float(), tensor, rtol=1e-3, atol=1e-7)
        else:
            assert kept.dtype == tensor.dtype and torch.equal(kept, tensor)
    # Other weights have another fingerprint.
    assert small.card.fingerprint.parts == {"made": "here", "stored": "float16"}
    truth = drawn(*ROW)
    masks = rle.decode(truth.instances["visible_rle"].tolist(), SIZE)
    own, half = (Predictor(restore(each)).complete(GREY, masks) for each in (trained, small))
    assert (own.masks != half.masks).mean() < 0.01


def test_the_card_has_the_scores_and_says_whose_they_are(trained, weights, tmp_path):
    text = (weights / "photographs/README.md").read_text()
    assert text.count("| `pcnet_m` | 71.2 (70.2–72.2) |") == 2
    assert "photographs, val, given the true visible masks with noise" in text
    assert "7 objects, 7 occluded" in text and "not all scores" not in text.lower()
    assert "{{" not in text and "{%" not in text
    kept = pd.read_csv(weights / "photographs/scores.csv")
    assert len(kept) == 16 and set(kept["metric"]) == set(METRICS)

    other = tmp_path / "other"
    other.mkdir()
    on_true = scores(trained, run_id="0123456789ab-0").query("inputs == 'true'")
    on_true.to_csv(other / "parts.csv", index=False)
    ship(trained, tmp_path / "again", other, SOURCE)
    text = (tmp_path / "again/README.md").read_text()
    assert "Not all scores" in text and "given the true visible masks\n" in text
    (tmp_path / "nothing").mkdir()
    with pytest.raises(ValueError, match="holds no scores"):
        ship(trained, tmp_path / "again", tmp_path / "nothing", SOURCE)


def test_weights_are_found_by_name(trained, weights, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    masks = rle.decode(drawn(*ROW).instances["visible_rle"].tolist(), SIZE)
    result = ap.load("photographs").complete(GREY, masks)
    whole = ap.whole_objects(GREY, masks)
    assert np.array_equal(whole.masks, result.masks) and (whole.masks >= masks).all()
    # For Kedro: in place of a training that was not made, and never in place of one that was.
    folder = tmp_path / "06_models/any/photographs"
    check_method(folder)
    place = CheckpointDataset(filepath=str(folder), shipped=True)
    assert place.load().card.fingerprint.parts["stored"] == "float16"
    assert not CheckpointDataset(filepath=str(folder)).exists()
    trained.save(folder)
    own = CheckpointDataset(filepath=str(folder), shipped=True).load()
    assert "stored" not in own.card.fingerprint.parts
    with pytest.raises(ParameterError, match="photographs"):
        check_method(tmp_path / "06_models/any/photograph")


def test_the_python_of_the_first_screen_completes_a_picture(weights, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    objects = drawn(*ROW)
    Image.new("RGB", SIZE[::-1], "grey").save("photo.jpg")
    masks = rle.decode(objects.instances["visible_rle"].tolist(), SIZE)
    for page in (ROOT / "README.md", DOCS / "photographs.md"):
        code = blocks(page)[0]
        names = run(f"import numpy as np\nmasks = np.array({masks.tolist()})\n{code}", {})
        assert (names["found"].masks >= masks).all()
        assert (tmp_path / "whole/objects.json").exists()
        shutil.rmtree(tmp_path / "whole")


def test_a_picture_has_the_order_of_a_table():
    truth = drawn(*ROW)
    model = Ideal(truth)
    model.categories = OBJECT
    table = complete(model, true_objects(truth), InferenceConfig(workers=0), method="pcnet_m")
    masks = rle.decode(truth.instances["visible_rle"].tolist(), SIZE)
    result = Predictor(model).complete(GREY, masks)
    assert sorted(map(tuple, result.order + 1)) == [(1, 2), (2, 3)]
    found, expected = (
        each.order.sort_values("front_id", ignore_index=True)[["front_id", "back_id", "score"]]
        for each in (result.predictions, table)
    )
    pd.testing.assert_frame_equal(found, expected)
    assert result.masks[2].sum() > masks[2].sum()
    beside = Predictor(_with_categories(Ideal(truth, order="none"))).complete(GREY, masks)
    assert len(beside.order) == 0


def _with_categories(model):
    model.categories = OBJECT
    return model


def test_doubts_are_few_and_true():
    fine = true_objects(drawn(*ROW)).table
    pcnet, other = Ideal(drawn(*ROW)).config, _Sees("itself")
    # A touches B, B touches C: nothing is wrong.
    assert doubts(pcnet, fine) == []
    masks = np.zeros((5, *SIZE), np.uint8)
    masks[0, 2:62, 1:] = 1  # nearly all
    masks[1, 10:30, 10:40] = 1  # within the first
    masks[2, 1, 1:5] = 1  # tiny, beside the first
    masks[3, 63, 20:60] = 1  # alone
    table = true_objects(as_table(masks, masks)).table
    table = dataclasses.replace(table, predictions=table.predictions.iloc[:4])
    found = doubts(pcnet, table)
    for text in ("1 of 4 visible masks cover", "1 of 4 visible masks are smaller", "1 pairs"):
        assert sum(text in each for each in found) == 1, (text, found)
    # The second shares too much to count as a neighbour.
    assert "2 of 4 objects touch no other" in found[-1] and len(found) == 4
    assert doubts(other, table) == found[:3]
    seen_by = _Sees("others")
    assert doubts(seen_by, table) == found[:3]
    (single,) = doubts(seen_by, true_objects(drawn(ROW[0])).table)
    assert "1 of 1 objects are the only ones of their picture" in single
    assert doubts(other, true_objects(drawn(ROW[0])).table) == []
    model = _with_categories(Ideal(drawn(*ROW)))
    with pytest.warns(UserWarning, match="touch no other"):
        Predictor(model).complete(GREY, masks[3])
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        visible = rle.decode(fine.predictions["visible_rle"].tolist(), SIZE)
        Predictor(model).complete(GREY, visible)


class _Sees:
    def __init__(self, what):
        self.DESCRIPTION = dataclasses.replace(PCNetMConfig.DESCRIPTION, sees=lambda config: what)
        self.name = "other"


def test_noise_is_of_the_object_and_no_other():
    rng = np.random.default_rng(0)
    masks = np.zeros((40, 90, 120), np.uint8)
    for mask in masks:
        top, left = rng.integers(0, 50, 2)
        mask[top : top + rng.integers(12, 40), left : left + rng.integers(12, 60)] = 1
    columns = {"image_id": np.arange(1, 41), "amodal_rle": rle.encode(masks)}
    columns["visible_rle"] = columns["amodal_rle"]

    truth = annotations(dict.fromkeys(range(1, 41), (90, 120)), columns)
    known = true_objects(truth)
    noisy = with_noise(known)
    assert noisy.given is Given.NOISY_MASKS and noisy.inputs == "noisy"
    spoiled = noisy.table.predictions["visible_rle"].tolist()
    iou = rle.pair_iou(spoiled, known.table.predictions["visible_rle"].tolist())
    # As good as a fair detector's: Mask R-CNN's matched masks have 0.75 to 0.9.
    assert 0.75 < iou.mean() < 0.92 and iou.min() > 0.3 and (iou < 0.999).mean() > 0.7
    grown = rle.area(spoiled) > rle.area(known.table.predictions["visible_rle"].tolist())
    assert 0.1 < grown.mean() < 0.9
    # A mask does not depend on the others, and the boxes are those of the masks.
    half = dataclasses.replace(
        known,
        table=dataclasses.replace(known.table, predictions=known.table.predictions.iloc[20:]),
    )
    assert with_noise(half).table.predictions["visible_rle"].tolist() == spoiled[20:]
    boxes = np.stack(noisy.table.predictions["visible_box"].tolist())
    assert np.array_equal(boxes, rle.box(spoiled, (90, 120)))
    unchanged = CorruptionConfig(blur=0, morphology=0)
    same = with_noise(known, unchanged, missing=0).table.predictions["visible_rle"].tolist()
    assert rle.pair_iou(same, columns["visible_rle"]).mean() > 0.93


@pytest.mark.parametrize("size", [(120, 160), (480, 640)])
def test_the_shipped_weights_complete_a_disc_behind_a_bar(size):
    rows, columns = np.ogrid[: size[0], : size[1]]
    unit = size[0] / 12
    disc = (rows - 6 * unit) ** 2 + (columns - 7 * unit) ** 2 < (4 * unit) ** 2
    bar = (rows >= unit) & (rows < 11 * unit) & (columns >= 8 * unit) & (columns < 10 * unit)
    picture = np.full((*size, 3), 90, np.uint8)
    picture[disc], picture[bar] = (200, 160, 40), (40, 60, 160)
    found = ap.load("photographs").complete(picture, np.stack([disc & ~bar, bar]))

    def iou(mask, truth):
        return (mask & truth).sum() / (mask | truth).sum()

    assert iou(found.masks[0], disc) > 0.93 > iou(disc & ~bar, disc)
    assert iou(found.masks[0] & bar, disc & bar) > 0.8
    assert iou(found.masks[1], bar) > 0.95
    assert found.order.tolist() == [[1, 0]]
