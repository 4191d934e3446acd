"""A user's own images: with a detector, and with a completer and masks of what is visible."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from amodal_pipeline.annotations import rle
from amodal_pipeline.layers.configs import CropConfig
from amodal_pipeline.methods import completer, pretrained
from amodal_pipeline.methods.configs import MethodConfig
from amodal_pipeline.pipelines.predict.masks import read_masks
from amodal_pipeline.pipelines.predict.nodes import draw_folder, predict_folder
from amodal_pipeline.training.configs import InferenceConfig
from amodal_pipeline.training.inference import images_in
from tests.pipelines.test_evaluate_nodes import checkpoint
from tests.training.test_completing import Echo

CPU = InferenceConfig(device="cpu", workers=0)
HEIGHT, WIDTH = 30, 40


def save(path, values, mode=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values, mode).save(path)


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    for name in ("a/one.jpg", "000000000139.jpg", "two.png"):
        save(folder / name, np.full((HEIGHT, WIDTH, 3), 90, np.uint8))
    return folder


def labels(*values):
    """Squares of 8 pixels side by side, of these values."""
    found = np.zeros((HEIGHT, WIDTH), np.uint16)
    for k, value in enumerate(values):
        found[4:12, 10 * k : 10 * k + 8] = value
    return found


@pytest.fixture
def masks(tmp_path):
    """Of 8 bits, of 16 bits, and an image an object."""
    folder = tmp_path / "masks"
    save(folder / "a/one.png", labels(3, 200).astype(np.uint8))
    save(folder / "000000000139.png", labels(1, 700, 40_000))
    save(folder / "two/left.png", (labels(1) > 0).astype(np.uint8) * 255)
    save(folder / "two/right.png", labels(0, 0, 1) > 0)
    return folder


def read(path, images):
    return read_masks(path, images_in(images), images)


def test_masks_are_label_images_or_an_image_an_object(images, masks):
    found = read(masks, images)
    table = found.predictions
    assert found.images["file_name"].tolist() == ["000000000139.jpg", "a/one.jpg", "two.png"]
    assert table["image_id"].tolist() == [1, 1, 1, 2, 2, 3, 3]
    assert table["prediction_id"].tolist() == [1, 2, 3, 4, 5, 6, 7]
    lefts = rle.box(table["visible_rle"].tolist(), (HEIGHT, WIDTH))
    assert lefts[:, 0].tolist() == [0, 10, 20, 0, 10, 0, 20]
    assert lefts[:, 1:].tolist() == [[4, 8, 8]] * 7
    assert set(table["score"]) == {1.0} and found.metadata.categories[0].name == "object"


def test_a_palette_image_counts_by_its_numbers(images, masks):
    picture = Image.fromarray(labels(5, 6).astype(np.uint8), "P")
    picture.putpalette([0] * 768)  # every colour is black
    picture.save(masks / "a/one.png")
    assert read(masks, images).predictions["image_id"].tolist() == [1, 1, 1, 2, 2, 3, 3]


def records(images, **changes):
    square = [4.0, 4, 12, 4, 12, 12, 4, 12]
    counts = rle.encode((labels(0, 1) > 0)[None])[0]
    listed = [
        {"file_name": "two.png", "segmentation": [square]},
        {"image_id": 139, "segmentation": {"size": [HEIGHT, WIDTH], "counts": counts}},
        {"file_name": "a/one.jpg", "segmentation": [square]},
    ]
    listed[0] |= changes
    return listed


@pytest.mark.parametrize("form", ["list", "object"])
def test_masks_from_a_coco_file(images, tmp_path, form):
    document = records(images)
    if form == "object":
        names = {7: "two.png", 8: "000000000139.jpg", 9: "a/one.jpg"}
        document = {
            "images": [{"id": i, "file_name": name} for i, name in names.items()],
            "annotations": [
                {"image_id": i, "segmentation": r["segmentation"]}
                for i, r in zip(names, document, strict=True)
            ],
        }
    path = tmp_path / "masks.json"
    path.write_text(json.dumps(document))
    table = read(path, images).predictions
    assert table["image_id"].tolist() == [1, 2, 3]
    lefts = rle.box(table["visible_rle"].tolist(), (HEIGHT, WIDTH))[:, 0]
    assert lefts.tolist() == [10, 4, 4]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"file_name": "three.png"}, r"position 0 is of the image 'three.png', which is not"),
        ({"file_name": ["x"]}, r"position 0 is of the image \['x'\]"),
        ({"file_name": None, "image_id": 140}, r"position 0 is of the image 140"),
        ({"segmentation": None}, r"position 0: segmentation is missing"),
        ({"segmentation": {"size": [5, 5], "counts": "1"}}, r"position 0: segmentation is for a"),
        (
            {"segmentation": {"size": [HEIGHT, WIDTH], "counts": [HEIGHT * WIDTH]}},
            r"position 0: segmentation is empty: mark the object",
        ),
    ],
)
def test_damaged_records_are_named(images, tmp_path, change, message):
    path = tmp_path / "masks.json"
    path.write_text(json.dumps(records(images, **change)))
    with pytest.raises(ValueError, match=message):
        read(path, images)


def test_files_of_no_use_are_named(images, tmp_path):
    path = tmp_path / "masks.json"
    for text, message in (
        ("[]", "has no records"),
        ("[3]", "position 0 is 3, not an object"),
        ('{"images": [1], "annotations": [{}]}', "'images' is no list of objects"),
        ("{", "masks.json"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=message):
            read(path, images)
    with pytest.raises(ValueError, match="neither a folder of masks nor a file"):
        read(tmp_path / "nowhere", images)


def test_damaged_mask_images_are_named(images, masks):
    one = masks / "a/one.png"
    for values, message in (
        (labels().astype(np.uint8), r"a/one\.png is 0 everywhere: give each object"),
        (labels(1).astype(np.uint8)[:-1], r"one\.png is 29x40 .*, its image 30x40"),
        (np.zeros((HEIGHT, WIDTH, 3), np.uint8), r"one\.png has the channels RGB"),
    ):
        save(one, values)
        with pytest.raises(ValueError, match=message):
            read(masks, images)
    one.unlink()
    with pytest.raises(
        ValueError, match=r"a/one\.jpg has no mask: put a label image at .*one\.png"
    ):
        read(masks, images)
    save(one, labels(1).astype(np.uint8))
    save(masks / "two/left.png", labels().astype(np.uint8))
    with pytest.raises(ValueError, match=r"two/left\.png is 0 everywhere: mark its object"):
        read(masks, images)


def test_a_completer_is_given_the_masks(shapes, images, masks, tmp_path, monkeypatch):
    made = checkpoint(shapes)
    crop = made.card.method.root.crop
    monkeypatch.setattr(pretrained, "restore", lambda checkpoint: Echo(crop, grown=8).eval())
    found = predict_folder(made, images, str(masks), CPU, images.parent, "none", None)
    assert (found.metadata.method, found.metadata.inputs) == ("c2f_seg", "user_masks")
    table = found.predictions
    seen, whole = table["visible_rle"].tolist(), table["amodal_rle"].tolist()
    assert (rle.area(whole) > rle.area(seen)).all()
    assert rle.shared_area(whole, seen).tolist() == [64] * 7
    draw_folder(found, tmp_path / "drawn", 0.5)
    assert (tmp_path / "drawn/a/one.jpg.png").exists()


class Moved(Echo):
    """Shifts what it is given to the right: some visible pixels are lost."""

    def forward(self, images, targets):
        return {"amodal_masks": torch.roll(super().forward(images, targets)["amodal_masks"], 20, 2)}


def test_completion_keeps_what_the_user_marked(shapes, images, masks, monkeypatch):
    made = checkpoint(shapes)
    crop = made.card.method.root.crop
    monkeypatch.setattr(pretrained, "restore", lambda checkpoint: Moved(crop).eval())
    given = (made, images, str(masks), CPU, images.parent, "none", None)
    raw, kept = predict_folder(*given, raw=True), predict_folder(*given)
    own, whole = (found.predictions["amodal_rle"].tolist() for found in (raw, kept))
    seen = kept.predictions["visible_rle"].tolist()
    assert (rle.shared_area(own, seen) < 64).all() and (rle.area(own) > 0).all()
    assert whole == rle.union(own, seen)
    boxes = kept.predictions["amodal_box"].tolist()
    assert np.array_equal(boxes, rle.box(whole, (HEIGHT, WIDTH)))
    assert kept.metadata == raw.metadata


def test_completion_in_python_keeps_the_given_mask():
    image, mask = np.zeros((HEIGHT, WIDTH, 3), np.uint8), labels(0, 1) > 0
    model = Moved(CropConfig(side=32, image_side=32)).eval()
    model.scale = torch.nn.Parameter(torch.ones(1))  # says which device the model is on
    own = completer.complete(model, image, mask, raw=True)
    assert own.any() and not own[mask].all()
    assert np.array_equal(completer.complete(model, image, mask), own | mask)


def test_a_completer_needs_masks_and_a_detector_none(shapes, images, masks):
    with pytest.raises(ValueError, match="c2f_seg completes known objects: say where"):
        predict_folder(checkpoint(shapes), images, None, CPU, images.parent, "none", None)
    detector = checkpoint(shapes, MethodConfig.model_validate({"name": "orcnn"}).root)
    with pytest.raises(ValueError, match="orcnn finds objects itself: leave out"):
        predict_folder(detector, images, str(masks), CPU, images.parent, "none", None)
