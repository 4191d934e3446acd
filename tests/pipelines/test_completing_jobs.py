"""`evaluate` and `predict` with a completer as a user runs them; weights are as they were drawn."""

import dataclasses
import json
import re
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pandas as pd
import pytest
import torch
from kedro.framework.session import KedroSession
from PIL import Image

import amodal_pipeline as ap
from amodal_pipeline import methods
from amodal_pipeline.annotations import AmodalAnnotations, Predictions, rle
from amodal_pipeline.annotations.coco_results import read_coco_results
from amodal_pipeline.jobs.detect import load_detector
from amodal_pipeline.methods.checkpoints import Checkpoint, Fingerprint, MethodCard
from amodal_pipeline.methods.configs import C2FSegConfig
from amodal_pipeline.methods.pretrained import weights_of
from amodal_pipeline.methods.registry import MethodConfig
from amodal_pipeline.metrics.score_files import load_scores
from amodal_pipeline.pipelines.evaluate import create_completer_pipeline
from tests.conftest import make_shapes, tiny_method
from tests.methods.test_importing import IMAGE, of_torchvision, small_v2

SMALL = {
    "evaluation": {"resamples": 20, "headline_resamples": 20},
    "pictures": 2,
    "tracking": False,
    "method": "c2f_seg",
}
TINY = {
    "encoder": {"name": "test_resnet", "weights": None},
    "crop": {"side": 32, "image_side": 64},
    "tokenizer": {
        "crop": {"side": 32},
        "channels": 8,
        "multipliers": [1, 2, 2, 2],
        "blocks": 1,
        "codes": 16,
        "code_size": 8,
        "adversarial": 0,
    },
    "width": 16,
    "layers": 1,
    "heads": 2,
    "refinement_channels": [8, 8, 8, 4, 4],
}


def run(project, pipeline, **changes):
    with KedroSession.create(project, runtime_params=SMALL | changes) as session:
        return session.run(pipeline_names=[pipeline])


def save(project, name, config, categories, **parts):
    torch.manual_seed(0)
    model = methods.build(config, len(categories))
    card = MethodCard(
        method=MethodConfig(config),
        categories=categories,
        dataset="scenes",
        fingerprint=Fingerprint(parts={"name": name, **parts}),
        iterations=1,
        seed=0,
    )
    Checkpoint(card, weights_of(model)).save(project / "data/06_models/scenes" / name)
    return card.fingerprint.digest


@pytest.fixture(scope="module")
def project(empty_project):
    truth = make_shapes(empty_project, 4)
    folder = empty_project / "data/03_primary/scenes/annotations_val/2026-01-01T00.00.00.000Z"
    truth.save(folder / "annotations_val")
    categories = truth.metadata.categories
    detector = save(empty_project, "orcnn", tiny_method("orcnn"), categories)
    save(empty_project, "c2f_seg", C2FSegConfig.model_validate(TINY), categories, detected=detector)
    return empty_project


def newest(project, name):
    folder = project / "data/07_model_output/scenes/c2f_seg" / name
    return Predictions.load(sorted(folder.iterdir())[-1] / name)


def test_evaluate_completes_true_masks_and_those_of_the_detector_it_was_trained_with(project):
    run(project, "evaluate")
    parts = project / "data/08_reporting/scenes/parts"
    rows = load_scores(parts, "c2f_seg").results
    assert set(rows["inputs"]) == {"true", "orcnn"}
    assert {"c2f_seg", "visible_mask", "convex_hull"} <= set(rows["method"])
    assert newest(project, "predictions").metadata.inputs == "orcnn"
    assert newest(project, "predictions_true").metadata.inputs == "true"
    assert (project / "data/08_reporting/scenes/c2f_seg/overlays.png").exists()

    # Scores on the detector's objects stay, those on true masks are made again.
    run(project, "evaluate", inputs=True)
    again = load_scores(parts, "c2f_seg").results
    assert set(again["inputs"]) == {"true", "orcnn"} and len(again) == len(rows)
    assert not (project / "data/07_model_output/scenes/c2f_seg/detections").exists()


def test_evaluate_still_scores_a_detector(project):
    run(project, "evaluate", method="orcnn")
    rows = load_scores(project / "data/08_reporting/scenes/parts", "orcnn").results
    assert ("orcnn", "image") in set(zip(rows["method"], rows["inputs"], strict=True))
    assert not (project / "data/07_model_output/scenes/orcnn/predictions_true").exists()


def test_predict_completes_a_users_own_masks(project, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (50, 70, 3), np.uint8)
    labels = np.zeros((50, 70), np.uint8)
    labels[10:30, 20:40], labels[35:45, 50:60] = 1, 2
    for name, values in (("images", pixels), ("masks", labels)):
        (tmp_path / name).mkdir()
        Image.fromarray(values).save(tmp_path / name / "mine.png")
    folders = {name: str(tmp_path / name) for name in ("images", "masks")}
    run(project, "predict", **folders)
    found = newest(project, "user_predictions")
    assert rle.area(found.predictions["visible_rle"].tolist()).tolist() == [400, 100]
    assert (project / "data/08_reporting/scenes/c2f_seg/user_images/mine.png").exists()

    # In Python: the same masks, where what is drawn for an object is the same.
    model = methods.load(project / "data/06_models/scenes/c2f_seg")
    once = model.complete(pixels, np.stack([labels == 1]))
    amodal = found.predictions["amodal_rle"].tolist()[:1]
    assert rle.pair_iou(rle.encode(once), amodal)[0] == 1
    assert rle.area(amodal)[0] > 0


@pytest.fixture
def photograph(tmp_path):
    """A folder with one picture in which detectors of random weights find objects."""
    folder = tmp_path / "photographs"
    folder.mkdir()
    pixels = (255 * IMAGE.permute(1, 2, 0)).to(torch.uint8).numpy()
    Image.fromarray(pixels).save(folder / "mine.png")
    return folder


def test_without_masks_the_detector_finds_the_objects(project, photograph):
    given = {"images": str(photograph), "score_threshold": 0.1}
    run(project, "predict", **given, method="orcnn")
    folder = project / "data/07_model_output/scenes/orcnn/user_predictions"
    detected = Predictions.load(sorted(folder.iterdir())[-1] / "user_predictions").predictions
    run(project, "predict", **given)
    found = newest(project, "user_predictions")
    table = found.predictions
    kept = detected[(detected["score"] >= 0.1) & (rle.area(detected["visible_rle"]) > 0)]
    assert 0 < len(table) == len(kept) and found.metadata.inputs == "orcnn"
    for name in ("visible_rle", "score", "category_id"):
        assert table[name].tolist() == kept[name].tolist()
    amodal, visible = table["amodal_rle"].tolist(), table["visible_rle"].tolist()
    assert rle.shared_area(amodal, visible).tolist() == rle.area(visible).tolist()

    # In Python it is the same but for what is drawn for an object, which its number seeds.
    models = project / "data/06_models/scenes"
    model = ap.load(models / "c2f_seg", detector=models / "orcnn")
    result = model.predict(photograph / "mine.png", score_threshold=0.1)
    assert result.predictions.predictions["visible_rle"].tolist() == visible
    assert np.allclose(result.scores, table["score"]) and len(result.names) == len(table)
    assert (result.masks >= result.visible_masks).all()
    assert model.predict(photograph / "mine.png", score_threshold=1.1).masks.shape == (0, 96, 128)
    with pytest.raises(ValueError, match="orcnn is no completer: leave out the detector"):
        ap.load(models / "orcnn", detector=models / "orcnn")
    with pytest.raises(ValueError, match="c2f_seg finds no objects: name a detector"):
        ap.load(models / "c2f_seg", detector=models / "c2f_seg")
    with pytest.raises(ValueError, match=r"complete\(image, masks\), or load it with detector="):
        ap.load(models / "c2f_seg").predict(photograph / "mine.png")


def test_torchvisions_detector_finds_the_objects(project, tmp_path, monkeypatch):
    """Of random weights and fewer layers, where torchvision keeps what it downloads."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    imported = project / "data/06_models/coco/mask_rcnn"

    def no_network(*_, **__):
        raise URLError("no route to host")

    monkeypatch.setattr(torch.hub, "download_url_to_file", no_network)
    with pytest.raises(ValueError, match=r"cannot be downloaded here .*no route.*put it at") as no:
        load_detector("torchvision", project, imported)
    file = Path(re.search(r"put it at (\S+);", str(no.value))[1])
    assert file.name.startswith("maskrcnn_resnet50_fpn_v2_coco-") and not file.exists()

    def fetch(url, path, hash_prefix):
        assert url.endswith(file.name) and file.stem.endswith(hash_prefix)
        torch.save(of_torchvision(small_v2).state_dict(), path)

    monkeypatch.setattr(torch.hub, "download_url_to_file", fetch)
    pixels = (255 * IMAGE[:, :24].permute(1, 2, 0)).to(torch.uint8).numpy()
    Image.fromarray(pixels).save(tmp_path / "mine.png")
    run(*(project, "predict"), images=str(tmp_path), detector="torchvision", score_threshold=0.09)
    found = newest(project, "user_predictions")
    assert found.metadata.inputs == "mask_rcnn" and len(found.predictions) > 0
    assert {"person", "teddy bear"} < {c.name for c in found.metadata.categories}

    # One that import_detector made is taken instead, without a look for the file.
    downloaded = load_detector("torchvision", project, imported)
    downloaded.save(imported)
    file.unlink()
    monkeypatch.setattr(torch.hub, "download_url_to_file", no_network)
    again = load_detector("torchvision", project, imported)
    assert again.card.fingerprint == downloaded.card.fingerprint


def test_a_damaged_image_ends_the_run_after_all_others_are_done(project, tmp_path):
    images, masks = tmp_path / "images", tmp_path / "masks"
    images.mkdir()
    masks.mkdir()
    pixels = np.random.default_rng(0).integers(0, 255, (50, 70, 3), np.uint8)
    labels = np.zeros((50, 70), np.uint8)
    labels[10:30, 20:40], labels[35:45, 50:60] = 1, 2
    for name in ("torn.png", "whole.png"):
        Image.fromarray(pixels).save(images / name)
        Image.fromarray(labels).save(masks / name)
    torn = (images / "torn.png").read_bytes()
    (images / "torn.png").write_bytes(torn[: len(torn) // 2])
    with pytest.raises(ValueError, match=r"could not be read[\s\S]*\ntorn\.png: "):
        run(project, "predict", images=str(images), masks=str(masks), png=True)
    output = project / "data/07_model_output/scenes/c2f_seg"
    records = json.loads((output / "user_predictions.json").read_text())
    assert [record["file_name"] for record in records] == ["whole.png"] * 2
    written = {p.relative_to(output).as_posix() for p in output.rglob("user_masks/**/*.png")}
    assert written == {
        f"user_masks/{kind}/whole/{i}_object.png"
        for kind in ("amodal", "visible", "cutouts")
        for i in (1, 2)
    }
    own, seen = (
        np.asarray(Image.open(output / f"user_masks/{kind}/whole/1_object.png"))
        for kind in ("amodal", "visible")
    )
    assert np.array_equal(seen, 255 * (labels == 1)) and (own[labels == 1] == 255).all()
    overlays = project / "data/08_reporting/scenes/c2f_seg/user_images"
    assert (overlays / "whole.png").exists() and not (overlays / "torn.png").exists()


def test_predictions_of_a_split_are_exported_as_they_were_evaluated(project, monkeypatch):
    run(project, "evaluate", method="orcnn")
    run(project, "evaluate")
    output = project / "data/07_model_output/scenes"
    truth = AmodalAnnotations.load(
        next((project / "data/03_primary/scenes/annotations_val").glob("*/annotations_val"))
    )
    with monkeypatch.context() as patch:
        patch.setattr("amodal_pipeline.jobs.export.predict_or_read", None)
        run(project, "export_predictions", method="orcnn")
        run(project, "export_predictions")
    for method, kind in (
        *(("orcnn", "predictions"), ("c2f_seg", "predictions"), ("c2f_seg", "predictions_true")),
    ):
        back = read_coco_results(output / method / f"{kind}_train.json", truth).predictions
        table = Predictions.load(sorted((output / method / kind).iterdir())[-1] / kind).predictions
        for column in ("image_id", "category_id", "score"):
            assert back[column].tolist() == table[column].tolist(), (method, kind, column)
        for column in ("amodal_rle", "visible_rle"):
            assert filled(back[column]) == filled(table[column]), (method, kind, column)
    assert json.loads((output / "orcnn/truth_train.json").read_text())["annotations"]

    # Of a split that was not evaluated the method predicts anew.
    test = build_split(truth, "test")
    folder = project / "data/03_primary/scenes/annotations_test/2026-01-01T00.00.00.000Z"
    test.save(folder / "annotations_test")
    run(project, "export_predictions", split="test")
    for kind in ("predictions", "predictions_true"):
        back = read_coco_results(output / f"c2f_seg/{kind}_test.json", test).predictions
        assert set(back["image_id"]) == {1, 2}


def filled(masks):
    """Masks, None for an empty one: a key that is blank in a whole file is read as no mask."""
    return [None if pd.isna(m) or rle.area([m])[0] == 0 else m for m in masks]


def build_split(truth, split):
    """The first two images of a split, as another."""
    part = truth.subset([1, 2])
    return dataclasses.replace(part, metadata=part.metadata.model_copy(update={"split": split}))


def test_completion_of_a_method_has_its_detections_beside_its_checkpoint():
    pipeline = create_completer_pipeline("c2f_seg")
    assert pipeline.inputs() == {
        "annotations_val",
        "c2f_seg.checkpoint",
        "c2f_seg.detections",
        "c2f_seg.detector",
        "params:evaluation",
        "params:folders.model_output",
        "params:inference",
        "params:pictures",
    }
    assert {f"c2f_seg.{name}" for name in ("predictions", "predictions_true", "results")} <= (
        pipeline.all_outputs()
    )
