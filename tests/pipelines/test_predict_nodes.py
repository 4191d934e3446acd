"""A user's own images: with a detector, and with a completer and masks of what is visible."""

import dataclasses
import json

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from amodal_pipeline.annotations import Category, Predictions, PredictionsMetadata, rle
from amodal_pipeline.annotations.tables import PREDICTION_ORDER, PREDICTIONS, frame
from amodal_pipeline.jobs import predict
from amodal_pipeline.jobs.own_images import find_images, photographs
from amodal_pipeline.jobs.own_masks import read_masks
from amodal_pipeline.jobs.predict import (
    complete_objects,
    draw_folder,
    find_objects,
    name_damaged,
    picture_stems,
    write_results,
)
from amodal_pipeline.layers.configs import CropConfig
from amodal_pipeline.methods import completer, pretrained
from amodal_pipeline.methods.registry import MethodConfig
from amodal_pipeline.methods.training_config import InferenceConfig
from amodal_pipeline.training.inference import images_in
from amodal_pipeline.visuals import grids
from amodal_pipeline.visuals.object_images import cut_out
from tests.pipelines.test_evaluate_nodes import checkpoint
from tests.training.test_completing import Echo

OBJECT = Category(id=1, name="object")
CPU = InferenceConfig(device="cpu", workers=0)
HEIGHT, WIDTH = 30, 40


def save(path, values, mode=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values, mode).save(path)


def completed(made, given, masks, models, raw=False):
    found = find_objects(made, given, str(masks), CPU, None, models, models / "none", 0.5)
    return complete_objects(made, found, CPU, models, "none", None, raw)


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
    return read_masks(path, *reordered(images))


def reordered(images):
    table, damaged = images_in(images)
    return table, images, damaged


def test_masks_are_label_images_or_an_image_an_object(images, masks):
    found = read(masks, images)
    table = found.predictions
    assert found.images["file_name"].tolist() == ["000000000139.jpg", "a/one.jpg", "two.png"]
    assert table["image_id"].tolist() == [1, 1, 1, 2, 2, 3, 3]
    assert table["prediction_id"].tolist() == [1, 2, 3, 4, 5, 6, 7]
    lefts = rle.box(table["visible_rle"].tolist(), (HEIGHT, WIDTH))
    assert lefts[:, 0].tolist() == [0, 10, 20, 0, 10, 0, 20]
    assert lefts[:, 1:].tolist() == [[4, 8, 8]] * 7
    assert table["score"].isna().all() and found.metadata.categories == (OBJECT,)


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
    assert lefts_of(table) == [10, 4, 4]


def lefts_of(table):
    return rle.box(table["visible_rle"].tolist(), (HEIGHT, WIDTH))[:, 0].tolist()


def test_categories_and_scores_of_a_coco_file_are_kept(images, tmp_path):
    """As CVAT and Label Studio name images: in folders of their own, under names of their own."""
    listed = [
        {"id": 0, "file_name": "images/3f2a9c1e-two.png", "height": HEIGHT, "width": WIDTH},
        {"id": 1, "file_name": "upload\\000000000139.jpg"},
        {"id": 2, "file_name": "/data/a/one.jpg"},
    ]
    square, small = [[4, 4, 12, 4, 12, 12, 4, 12]], [[20, 4, 24, 4, 24, 8, 20, 8]]
    document = {
        "images": listed,
        "categories": [{"id": 7, "name": "cup"}, {"id": 3, "name": "door"}],
        "annotations": [
            {"image_id": 0, "category_id": 3, "segmentation": square, "iscrowd": 1, "score": 0.25},
            {"image_id": 2, "category_id": 7, "segmentation": square, "visible_mask": small},
            {"image_id": 1, "segmentation": square},
        ],
    }
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(document))
    found = read(path, images)
    names = {c.id: c.name for c in found.metadata.categories}
    assert [names[i] for i in found.predictions["category_id"]] == ["object", "cup", "door"]
    assert names == {3: "door", 7: "cup", 1: "object"}
    assert found.predictions["score"].fillna(-1).tolist() == [-1, -1, 0.25]
    assert lefts_of(found.predictions) == [4, 20, 4]  # what is visible, where a key says so

    listed[0]["height"] = WIDTH
    path.write_text(json.dumps(document))
    with pytest.raises(ValueError, match=r"is of an image of \[40, 40\] .*two\.png is \[30, 40\]"):
        read(path, images)
    listed[0] = {"id": 0, "file_name": "elsewhere/one.jpg"}
    path.write_text(json.dumps(document))
    with pytest.raises(ValueError, match=r"may both be the image a/one\.jpg: write paths"):
        read(path, images)


def labelme(path, *shapes, **changes):
    document = {"version": "5.5.0", "imagePath": "x.jpg", "shapes": [*shapes], "imageData": None}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document | changes))


SQUARE = {"label": "cup", "shape_type": "polygon", "points": [[4, 4], [12, 4], [12, 12], [4, 12]]}


def test_a_folder_of_mixed_masks(images, masks, caplog):
    """A label image, labelme's JSON and a COCO file; each has an image of its own."""
    (masks / "000000000139.png").unlink()
    labelme(masks / "000000000139.json", SQUARE, SQUARE | {"label": "door"})
    labelme(masks / "of_another.json", SQUARE)
    (masks / "two/left.png").unlink()
    (masks / "two/right.png").unlink()
    (masks / "export.json").write_text(json.dumps(records(images)[:1]))
    found = read(masks, images)
    names = {c.id: c.name for c in found.metadata.categories}
    table = found.predictions
    assert [
        (i, names[c]) for i, c in zip(table["image_id"], table["category_id"], strict=True)
    ] == [*((1, "cup"), (1, "door"), (2, "object"), (2, "object"), (3, "object"))]
    assert lefts_of(table) == [4, 4, 0, 10, 4]
    assert "1 files of labelme are of images not in" in caplog.text
    labelme(masks / "deeper/any_name.json", SQUARE, imagePath="..\\a\\one.jpg")
    with pytest.raises(
        ValueError, match=r"a/one\.jpg has masks in .*any_name\.json and in .*one\.png"
    ):
        read(masks, images)


def test_one_labelme_file(images, tmp_path):
    labelme(tmp_path / "any.json", SQUARE, imagePath="two.png")
    assert read(tmp_path / "any.json", images).predictions["image_id"].tolist() == [3]
    labelme(tmp_path / "any.json", SQUARE)
    with pytest.raises(ValueError, match=r"any\.json is of the image 'x\.jpg', which is not in"):
        read(tmp_path / "any.json", images)


def test_masks_may_lie_among_the_images(images):
    """Where a PNG is an image itself, and a folder has the name of an image."""
    for name in ("a/one.json", "000000000139.json", "two.json", "two/three.json"):
        labelme(images / name, SQUARE)
    save(images / "two/three.png", np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    assert read(images, images).predictions["image_id"].tolist() == [1, 2, 3, 4]


def test_many_labels_are_read_at_once(images, tmp_path, monkeypatch):
    """A label image of noise: every value is an object, by ascending values."""
    values = np.random.default_rng(0).integers(0, 600, (HEIGHT, WIDTH)).astype(np.uint16)
    for name in ("a/one", "000000000139", "two"):
        save(tmp_path / f"labels/{name}.png", values)
    table = read(tmp_path / "labels", images).predictions
    own = table["visible_rle"][(table["image_id"] == 3).to_numpy(dtype=bool)].tolist()
    found = np.unique(values[values > 0])
    assert own == rle.encode(values[None] == found[:, None, None])
    monkeypatch.setattr("amodal_pipeline.jobs.own_masks._MOST_RUNS", 1000)
    with pytest.raises(ValueError, match=r"139\.png changes its value .* this is no label image"):
        read(tmp_path / "labels", images)


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
    found = completed(made, photographs(images), masks, images.parent)
    assert (found.metadata.method, found.metadata.inputs) == ("c2f_seg", "user_masks")
    table = found.predictions
    seen, whole = table["visible_rle"].tolist(), table["amodal_rle"].tolist()
    assert (rle.area(whole) > rle.area(seen)).all()
    assert rle.shared_area(whole, seen).tolist() == [64] * 7
    draw_folder(found, tmp_path / "drawn", 0.5)
    drawn = {p.relative_to(tmp_path / "drawn").as_posix() for p in tmp_path.rglob("drawn/**/*.png")}
    assert drawn == {"a/one.png", "000000000139.png", "two.png"}


class Moved(Echo):
    """Shifts what it is given to the right: some visible pixels are lost."""

    def forward(self, images, targets):
        return {"amodal_masks": torch.roll(super().forward(images, targets)["amodal_masks"], 20, 2)}


def test_completion_keeps_what_the_user_marked(shapes, images, masks, monkeypatch):
    made = checkpoint(shapes)
    crop = made.card.method.root.crop
    monkeypatch.setattr(pretrained, "restore", lambda checkpoint: Moved(crop).eval())
    given = (made, photographs(images), masks, images.parent)
    raw, kept = completed(*given, raw=True), completed(*given)
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


def damage(path):
    """Cut a photograph short: its header stays whole."""
    noise = np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)
    Image.fromarray(noise).save(path, "JPEG")
    path.write_bytes(path.read_bytes()[:-600])


def test_a_damaged_image_costs_itself_only(shapes, images, masks, monkeypatch, tmp_path):
    damage(images / "a/one.jpg")
    (images / "torn.png").write_bytes(b"no image")
    made = checkpoint(shapes)
    crop = made.card.method.root.crop
    monkeypatch.setattr(pretrained, "restore", lambda checkpoint: Echo(crop, grown=8).eval())
    given, _, damaged = find_images(images, None, tmp_path)
    found = completed(made, given, masks, images.parent)
    assert set(damaged) == {"a/one.jpg", "torn.png"}
    assert found.predictions["image_id"].tolist() == [1, 1, 1, 4, 4]
    assert found.images["file_name"].tolist() == ["000000000139.jpg", "two.png"]
    with pytest.raises(
        ValueError, match=r"could not be read[\s\S]*\na/one\.jpg: [\s\S]*torn\.png: "
    ):
        name_damaged(damaged, 0, 2)
    name_damaged({}, 0, 2)
    # Records of damaged images are passed over, those of unknown ones are not.
    path = tmp_path / "masks.json"
    path.write_text(json.dumps(records(images)))
    assert read(path, images).predictions["image_id"].tolist() == [1, 4]
    for name in ("000000000139.jpg", "two.png"):
        (images / name).unlink()
    with pytest.raises(ValueError, match=r"none of the 2 images in .* can be read"):
        photographs(images)


@pytest.fixture
def found(images):
    """Two objects in one image; of the first nothing is seen."""
    whole, seen, nothing = (rle.encode(labels(*v)[None])[0] for v in ((0, 1), (0, 0, 1), (0,)))
    table = images_in(images)[0]
    columns = {
        "prediction_id": [1, 2, 3],
        "image_id": [2, 2, 3],
        "category_id": [4, 4, 9],
        "score": [0.9, 0.3, None],
        "amodal_rle": [whole] * 3,
        "visible_rle": [nothing, seen, seen],
        "amodal_box": rle.box([whole] * 3, (HEIGHT, WIDTH)),
    }
    categories = (Category(id=4, name="../tea cup"), Category(id=9, name="door"))
    made = PredictionsMetadata(
        dataset="d", split="user", method="m", categories=categories, image_root=str(images)
    )
    order = frame(PREDICTION_ORDER, {})
    return Predictions(made, table, frame(PREDICTIONS, columns), order)


def test_results_and_images_of_masks_come_back_as_masks(found, images, tmp_path, caplog):
    results, folder = tmp_path / "found.json", tmp_path / "pngs"
    assert write_results(found, results, folder, 0.5, False) == 0
    assert not folder.exists()
    folder.mkdir()
    (folder / "of_an_earlier_run.png").touch()
    assert write_results(found, results, folder, 0.5, True) == 5
    written = {p.relative_to(folder).as_posix() for p in folder.rglob("*.png")}
    assert written == {
        *("amodal/a/one/1__tea_cup.png", "amodal/two/3_door.png", "visible/two/3_door.png"),
        *("cutouts/a/one/1__tea_cup.png", "cutouts/two/3_door.png"),
    }
    pixels = np.asarray(Image.open(folder / "amodal/two/3_door.png"))
    assert np.array_equal(pixels, 255 * (labels(0, 1) > 0))
    listed = json.loads(results.read_text())
    assert [r["file_name"] for r in listed] == ["a/one.jpg", "a/one.jpg", "two.png"]
    assert [round(r["score"], 3) for r in listed] == [0.9, 0.3, 1.0]

    # What a detector found is what a completer is given; of one detection nothing is seen.
    table = read(results, images).predictions
    assert table["image_id"].tolist() == [2, 3] and lefts_of(table) == [20, 20]
    assert "1 detections of which nothing is seen are left out" in caplog.text
    del listed[2]["visible_segm"]
    results.write_text(json.dumps(listed[1:]))
    with pytest.raises(ValueError, match="record at position 1 has an amodal mask only"):
        read(results, images)


def test_a_cut_out_is_the_visible_part_in_the_box_of_the_whole_object():
    image = np.random.default_rng(0).integers(1, 255, (HEIGHT, WIDTH, 3), np.uint8)
    whole, seen = labels(1, 1) > 0, labels(0, 1) > 0
    seen[0] = True  # a raw mask may lack pixels of the visible one
    cut = cut_out(image, whole, seen)
    assert cut.mode == "RGBA" and cut.size == (18, 8)
    pixels = np.asarray(cut)
    assert (
        np.array_equal(pixels[:, 10:, :3], image[4:12, 10:18]) and (pixels[:, 10:, 3] == 255).all()
    )
    assert not pixels[:, :10].any()
    assert np.asarray(cut_out(image, whole, None))[:, 0, 3].all()
    assert cut_out(image, seen & False, seen) is None


def test_who_is_in_front_is_a_list_and_arrows(found, images, tmp_path):
    results = tmp_path / "found.json"
    pairs = {"image_id": [2], "front_id": [2], "back_id": [1], "score": [0.75], "source": ["m"]}
    ordered = dataclasses.replace(found, order=frame(PREDICTION_ORDER, pairs))
    write_results(ordered, results, tmp_path / "pngs", 0.5, False)
    assert (tmp_path / "user_order.csv").read_text().splitlines() == [
        "file_name,front,front_category,back,back_category,score",
        "a/one.jpg,2,../tea cup,1,../tea cup,0.75",
    ]
    plain, arrows = (np.asarray(grids.overlay(each, 2, 0.0)) for each in (found, ordered))
    assert (plain != arrows).any()
    # An arrow needs both its ends.
    assert np.array_equal(*(np.asarray(grids.overlay(each, 2, 0.5)) for each in (found, ordered)))
    write_results(found, results, tmp_path / "pngs", 0.5, False)
    assert not (tmp_path / "user_order.csv").exists()


def test_the_order_of_what_a_detector_finds_stays(shapes, found, images, monkeypatch):
    """Of three detections the one of a low score is left out; the others are numbered anew."""
    table = found.predictions.assign(
        image_id=2,
        score=[0.3, 0.8, 0.9],
        category_id=4,
        visible_rle=found.predictions["amodal_rle"],
    )
    pairs = {"image_id": [2, 2], "front_id": [3, 3], "back_id": [2, 1], "score": [1, 1]}
    order = frame(PREDICTION_ORDER, pairs | {"source": ["sln", "sln"]})
    detected = dataclasses.replace(found, predictions=frame(PREDICTIONS, table), order=order)
    monkeypatch.setattr(predict, "_detect", lambda *_: detected)
    monkeypatch.setattr(predict, "load_detector", lambda *_: None)
    made, models = checkpoint(shapes), images.parent
    monkeypatch.setattr(pretrained, "restore", lambda _: Echo(made.card.method.root.crop).eval())
    objects = find_objects(made, photographs(images), None, CPU, "sln", models, models, 0.5)
    whole = complete_objects(made, objects, CPU, models, None, "sln")
    assert whole.predictions["score"].tolist() == pytest.approx([0.8, 0.9])
    assert whole.order[["front_id", "back_id", "source"]].to_numpy().tolist() == [[2, 1, "sln"]]


def test_pictures_are_named_by_the_stems_of_images():
    names = ["a.jpg", "a.png", "b/a.jpg", "c.JPG", "C.png", "d.jpg.png", "d.jpg"]
    table = frame(PREDICTIONS, {})
    found = Predictions(None, pd.DataFrame({"file_name": names}), table, table)
    assert picture_stems(found) == [
        *("a.jpg", "a.png", "b/a", "c.JPG", "C.png", "d.jpg.png", "d"),
    ]


def test_labels_have_a_score_where_there_is_one(found, monkeypatch):
    said = []
    monkeypatch.setattr(
        grids, "draw_objects", lambda image, *_, labels, **__: said.extend(labels) or image
    )
    for image_id in (2, 3):
        grids.overlay(found, image_id, 0.0)
    assert said == ["../tea cup 0.90", "../tea cup 0.30", "door"]


def test_a_completer_needs_masks_and_a_detector_none(shapes, images, masks):
    models, given = images.parent, photographs(images)
    completer = checkpoint(shapes)
    detector = checkpoint(shapes, MethodConfig.model_validate({"name": "orcnn"}).root)
    with pytest.raises(ValueError, match="orcnn finds objects itself: leave out"):
        find_objects(detector, given, str(masks), CPU, None, models, models, 0.5)
    for name, message in (
        (None, r"c2f_seg completes known objects: say where .* detector=torchvision or a"),
        ("results/theirs_{split}.json", "c2f_seg completes known objects"),
        (
            "orcnn",
            r"orcnn holds no detector .*kedro run --pipeline=train_orcnn.*detector=torchvision",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            find_objects(completer, given, None, CPU, name, models, models, 0.5)
    clips = checkpoint(shapes, MethodConfig.model_validate({"name": "mask_unet_video"}).root)
    frames = find_images(images, str(images), models)[0]
    with pytest.raises(ValueError, match="mask_unet_video completes objects that are followed"):
        find_objects(clips, frames, None, CPU, "orcnn", models, models, 0.5)
