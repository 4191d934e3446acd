"""Results files of other programs come back as they were written, or not at all."""

import contextlib
import hashlib
import io
import json
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from amodal_pipeline.annotations import (
    Category,
    Predictions,
    export,
    json_records,
    rle,
)
from amodal_pipeline.annotations.coco_results import read_coco_results, read_results_folder
from amodal_pipeline.annotations.cocoa import read_cocoa
from amodal_pipeline.annotations.export import write_coco_amodal, write_coco_results
from amodal_pipeline.annotations.formats import AMODAL_KEYS, INVISIBLE_KEYS, VISIBLE_KEYS
from amodal_pipeline.annotations.tables import PREDICTIONS, boxes, frame
from amodal_pipeline.metrics.checks import check
from tests import tables
from tests.annotations.writers import box, run_lengths

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "cocoa"
SIZES = {7: (20, 30), 3: (25, 15), 12: (20, 30)}
NAMES = {1: "cyclist", 4: "car"}


def square(image_id, x=2, y=3, side=5):
    mask = np.zeros(SIZES[image_id], np.uint8)
    mask[y : y + side, x : x + side] = 1
    return mask


def truth(categories=NAMES):
    """Images 7, 3 and 12, in this order; one object in image 7."""
    mask = rle.encode(square(7)[None])
    one = {"image_id": [7], "category_id": [next(iter(categories))]}
    return tables.annotations(
        SIZES,
        one | {"amodal_rle": mask, "visible_rle": mask},
        categories=[Category(id=i, name=name) for i, name in categories.items()],
        image_root="images",
    )


TRUTH = truth()


def record(image_id=7, **changes):
    """A detection as Detectron2 writes it; a change to None leaves the key out."""
    values = {
        "image_id": image_id,
        "category_id": 4,
        "bbox": [1.5, 2.5, 6.25, 7.0],
        "score": 0.5,
        "segmentation": run_lengths(square(image_id)),
    }
    return {k: v for k, v in (values | changes).items() if v is not None}


def write(folder, content, name="a.json"):
    path = Path(folder) / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def read(folder, content, annotations=TRUTH, **options):
    return read_coco_results(write(folder, content), annotations, **options)


def refused(folder, content, annotations=TRUTH, **options):
    path = write(folder, content)
    with pytest.raises(ValueError) as error:
        read_coco_results(path, annotations, **options)
    assert str(path) in str(error.value)
    return str(error.value)


def uncompressed(mask):
    flat = mask.T.reshape(-1)
    cuts = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff([0, *cuts, len(flat)]).tolist()
    return {"size": list(mask.shape), "counts": [0, *runs] if flat[0] else runs}


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_masks_of_any_form_come_back(tmp_path_factory, data):
    """Each record is a row, by image and then as in the file; numbers are positions from 1."""
    records, expected = [], []
    for number in range(1, data.draw(st.integers(0, 6)) + 1):
        image_id = data.draw(st.sampled_from(list(SIZES)))
        draw = np.random.default_rng(data.draw(st.integers(0, 99)))
        mask = (draw.random(SIZES[image_id]) < draw.choice([0, 0.3, 1])).astype(np.uint8)
        form = data.draw(st.sampled_from(["compressed", "list", "polygon"]))
        if form == "polygon":
            corners = [[1.2, 1.0, 9.7, 2.2, 4.0, 12.5], [8, 8, 12, 8, 12, 12, 8, 12]]
            written, size = corners[: draw.integers(1, 3)], SIZES[image_id]
            mask = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(written, *size)))
        else:
            written = run_lengths(mask) if form == "compressed" else uncompressed(mask)
        score = data.draw(st.floats(-9, 9, width=32))
        records.append(record(image_id, segmentation=written, score=score, bbox=None))
        expected.append((image_id, number, score, mask))
    found = read(tmp_path_factory.mktemp("results"), records)
    expected.sort(key=lambda e: e[0])
    rows = found.predictions
    assert rows["image_id"].tolist() == [e[0] for e in expected]
    assert rows["prediction_id"].tolist() == [e[1] for e in expected]
    assert rows["score"].tolist() == [e[2] for e in expected]
    for row, (image_id, _, _, mask) in zip(rows.itertuples(), expected, strict=True):
        np.testing.assert_array_equal(rle.decode([row.amodal_rle], SIZES[image_id])[0], mask)
        assert list(row.amodal_box) == box(mask) if mask.any() else pd.isna(row.amodal_box)
    assert rows[["visible_rle", "invisible_rle", "visible_box"]].isna().all(axis=None)
    check(TRUTH, found)


def test_the_same_as_pycocotools(tmp_path, shapes):
    """COCO's own loader has the same detections, areas and numbers."""
    images = shapes.images.sort_values("image_id", ascending=False)
    draw = np.random.default_rng(0)
    records = [
        {
            "image_id": image_id,
            "category_id": int(draw.integers(1, 3)),
            "score": float(draw.random()),
            "segmentation": run_lengths(draw.random((64, 64)) < 0.4),
        }
        for image_id in images["image_id"].tolist()
        for _ in range(3)
    ]
    path = write(tmp_path, records)
    with contextlib.redirect_stdout(io.StringIO()):
        reference = COCO()
        reference.dataset = {
            "images": [{"id": i, "height": 64, "width": 64} for i in images["image_id"].tolist()],
            "categories": [{"id": c.id, "name": c.name} for c in shapes.metadata.categories],
            "annotations": [],
        }
        reference.createIndex()
        loaded = reference.loadRes(str(path))
    rows = read_coco_results(path, shapes).predictions
    assert len(rows) == len(loaded.anns) == 24
    areas = rle.area(rows["amodal_rle"].tolist())
    for row, area, bounds in zip(rows.itertuples(), areas, boxes(rows["amodal_box"]), strict=True):
        same = loaded.anns[row.prediction_id]
        assert (row.image_id, row.category_id) == (same["image_id"], same["category_id"])
        assert row.score == np.float32(same["score"])
        assert area == same["area"]
        assert bounds.tolist() == list(same["bbox"])


def test_what_the_table_says_of_itself(tmp_path):
    path = write(tmp_path, [record()], "some.method.json")
    found = read_coco_results(path, TRUTH)
    assert found.metadata.model_dump() == {
        "dataset": "made_up",
        "split": "val",
        "method": "some.method",
        "variant": "full",
        "inputs": "image",
        "seed": 0,
        "categories": tuple(c.model_dump() for c in TRUTH.metadata.categories),
        "image_root": "images",
        "annotations": TRUTH.fingerprint,
        "checkpoint": hashlib.sha256(path.read_bytes()).hexdigest(),
        "boxes_by": "",
        "boxes_checkpoint": "",
    }
    assert found.images.equals(TRUTH.images)
    assert read_coco_results(path, TRUTH, method="theirs").metadata.method == "theirs"
    found.save(tmp_path / "saved")
    assert Predictions.load(tmp_path / "saved").predictions.equals(found.predictions)


@pytest.mark.parametrize("text", ["[]", " [ \n ] ", '{"predictions": []}'])
def test_nothing_predicted(tmp_path, text):
    found = read(tmp_path, text)
    assert len(found.predictions) == len(found.order) == 0
    check(TRUTH, found)


def masks_of(found, row=0):
    """Left edges of the amodal, visible and invisible mask."""
    (image_id,) = found.predictions["image_id"].iloc[[row]]
    texts = [found.predictions[f"{k}_rle"].iloc[row] for k in ("amodal", "visible", "invisible")]
    return [None if pd.isna(t) else box(rle.decode([t], SIZES[image_id])[0])[0] for t in texts]


@pytest.mark.parametrize("masks", ["amodal", "visible"])
@pytest.mark.parametrize("key", [*AMODAL_KEYS, *VISIBLE_KEYS, *INVISIBLE_KEYS])
def test_published_keys(tmp_path, key, masks):
    """A mask under its own name counts; ``segmentation`` is used for one kind, if that has none."""
    kinds = (AMODAL_KEYS, VISIBLE_KEYS, INVISIBLE_KEYS)
    at = next(i for i, keys in enumerate(kinds) if key in keys)
    expected = [None, None, None]
    expected[["amodal", "visible"].index(masks)] = 2
    expected[at] = 9
    found = read(tmp_path, [record(**{key: run_lengths(square(7, x=9))})], masks=masks)
    assert masks_of(found) == expected


def test_the_first_key_counts_and_null_is_none(tmp_path):
    masks = {key: run_lengths(square(7, x=i)) for i, key in enumerate(AMODAL_KEYS, 3)}
    assert masks_of(read(tmp_path, [record(**masks)])) == [3, None, None]
    content = [record() | {"amodal_segmentation": None, "visible_mask": None}]
    assert masks_of(read(tmp_path, content)) == [2, None, None]


EMPTY = run_lengths(np.zeros(SIZES[7]))


@pytest.mark.parametrize("empty", [EMPTY, {"size": [20, 30], "counts": [600]}, []])
@pytest.mark.parametrize("last", [0, 1])
def test_a_key_that_is_empty_in_all_records_counts_as_absent(tmp_path, caplog, empty, last):
    """As aistron writes Mask R-CNN's results: every key, and only `segmentation` is filled."""
    kinds = ("amodal_segm", "visible_segm", "occluding_segm", "occluded_segm")
    full = {"note": "x" * (2 << 20)}  # a piece of the file of its own
    content = [record(**dict.fromkeys(kinds, empty), **full) for _ in range(2)]
    found = read(tmp_path, content)
    assert [masks_of(found, i) for i in range(2)] == [[2, None, None]] * 2
    assert "amodal_segm and occluded_segm and visible_segm are blank in all records" in caplog.text
    assert masks_of(read(tmp_path, content, masks="visible")) == [None, 2, None]

    caplog.clear()
    content[last]["visible_segm"] = run_lengths(square(7, x=9))
    if empty:
        found = read(tmp_path, content)
        seen = [rle.area(found.predictions["visible_rle"].tolist())[i] for i in range(2)]
        assert seen[last] == 25 and seen[1 - last] == 0
        assert "visible_segm" not in caplog.text
    else:
        assert "visible_segm has no polygon" in refused(tmp_path, content)
    nothing = [record(segmentation=EMPTY, visible_mask=EMPTY)]
    assert rle.area(read(tmp_path, nothing).predictions["visible_rle"].tolist()) == [0]


def test_aistrons_occluded_mask_is_the_invisible_one(tmp_path):
    """As AISFormer's results there: no `segmentation`, or rather an empty one."""
    hidden, seen = run_lengths(square(7, x=9)), run_lengths(square(7, x=4))
    masks = {"amodal_segm": run_lengths(square(7)), "visible_segm": seen, "occluded_segm": hidden}
    found = read(tmp_path, [record(segmentation=EMPTY, occluding_segm=EMPTY, **masks)])
    assert masks_of(found) == [2, 4, 9]


def test_boxes_are_the_detectors_own_where_given(tmp_path):
    seen = run_lengths(square(7, x=9))
    content = [record(visible_mask=seen), record(bbox=None), record() | {"bbox": []}]
    rows = read(tmp_path, content).predictions
    given_box, computed = [1.5, 2.5, 6.25, 7.0], [2, 3, 5, 5]
    assert boxes(rows["amodal_box"]).tolist() == [given_box, computed, computed]
    assert boxes(rows["visible_box"])[0].tolist() == [9, 3, 5, 5]
    assert rows["visible_box"].isna().tolist() == [False, True, True]
    rows = read(tmp_path, [record(amodalMask=seen)], masks="visible").predictions
    assert boxes(rows["amodal_box"]).tolist() == [[9, 3, 5, 5]]
    assert boxes(rows["visible_box"]).tolist() == [given_box]


def test_a_class_agnostic_file_needs_one_category(tmp_path):
    content = [record(category_id=None)]
    assert read(tmp_path, content, truth({5: "object"})).predictions["category_id"].item() == 5
    said = refused(tmp_path, content)
    assert "record at position 0: category_id is missing" in said
    assert "the categories are 1 cyclist, 4 car (any one will do" in said


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"image_id": None}, "image_id is missing"),
        ({"image_id": "7"}, "image_id is not an integer: '7'"),
        ({"image_id": 8}, "image_id 8 is not one of the annotations"),
        ({"category_id": 2}, "category_id 2 is not one of the annotations"),
        ({"category_id": 2}, "To do: the categories are 1 cyclist, 4 car"),
        ({"category_id": True}, "category_id is not an integer: True"),
        ({"score": None}, "score is missing"),
        ({"score": None}, "records of annotations have none"),
        ({"score": float("nan")}, "score is not a finite number: nan"),
        ({"score": float("-inf")}, "score is not a finite number: -inf"),
        ({"score": 1e39}, "score is not a finite number: 1e+39"),
        ({"score": "0.5"}, "score is not a finite number: '0.5'"),
        ({"score": True}, "score is not a finite number: True"),
        ({"bbox": [1, 2, float("nan"), 3]}, "bbox is not four finite numbers: [1, 2, nan, 3]"),
        ({"bbox": [1, 2, 3]}, "bbox is not four finite numbers"),
        ({"bbox": {"x": 1}}, "bbox is not four finite numbers"),
        ({"bbox": [1, 2, -3, 3]}, "bbox has a negative side"),
        ({"segmentation": None}, "segmentation is missing, and so is every other mask"),
        ({"segmentation": None}, "each record needs a mask, not only a box"),
        ({"segmentation": None, "invisible_mask": run_lengths(square(7))}, "every other mask"),
        ({"segmentation": []}, "segmentation has no polygon"),
        ({"segmentation": [[1, 2, 3, 4]]}, "a polygon has fewer than three points"),
        ({"segmentation": {"size": [20, 30], "counts": "11"}}, "cover 2 pixels, the image 20x30"),
        (
            {"segmentation": run_lengths(square(3))},
            "is for a canvas [25, 15], the image is [20, 30] (height, width)",
        ),
        ({"visible_mask": run_lengths(square(3))}, "visible_mask is for a canvas [25, 15]"),
    ],
)
def test_a_damaged_record_refuses_the_file(tmp_path, changes, said):
    damaged = {k: v for k, v in (record() | changes).items() if v is not None}
    message = refused(tmp_path, [record(), damaged, record(3)])
    assert said in message
    assert "1 of 3 records cannot be read, so none was: record at position 1: " in message
    assert len(read(tmp_path, [record(), record(3)]).predictions) == 2


def test_the_first_damaged_records_are_named_wherever_they_stand(tmp_path):
    """Also in the second piece of the file, at their position in all of it."""
    padding = "x" * (1 << 20)
    content = [record(note=padding) for _ in range(5)]
    content[2]["score"] = None
    content[4]["image_id"] = 99
    content += ["mask", record(score="high"), record(bbox=[])]
    message = refused(tmp_path, content)
    assert "4 of 8 records cannot be read, so none was" in message
    for part in (
        "position 2: score is missing; ",
        "position 4: image_id 99 is not one of the annotations; ",
        "position 5: record is a JSON str, not an object; …. To do: ",
    ):
        assert part in message
    assert "high" not in message and len(message) < 900


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[{"image_id": 7', "is not JSON: Expecting ',' delimiter at line 1, column 16"),
        ("7", "holds a JSON int, neither a list nor an object"),
        ('{"images": [], "annotations": []}', "this is a COCO annotation file, which is the truth"),
        ('{"results": []}', "(its keys: 'results'): give a COCO results file"),
        ('{"predictions": {}}', "has no list 'predictions'"),
    ],
)
def test_files_that_are_no_results(tmp_path, text, said):
    assert said in refused(tmp_path, text)


def test_what_cannot_be_asked_for(tmp_path):
    with pytest.raises(ValueError, match=r"absent\.json is not a file: give the path"):
        read_coco_results(tmp_path / "absent.json", TRUTH)
    assert "masks is 'modal': it is 'amodal' or 'visible'" in refused_options(
        tmp_path, masks="modal"
    )
    for name in ("../x", "a/b", "", "a\\b", ".."):
        assert "cannot be a file's name" in refused_options(tmp_path, method=name)
    both = refused_options(tmp_path, masks="visible", visible_path=tmp_path / "b.json")
    assert "leave out one of" in both


def refused_options(folder, **options):
    with pytest.raises(ValueError) as error:
        read(folder, [record()], **options)
    return str(error.value)


def numbered(*ids, image_id=7):
    return [record(image_id, id=i) for i in ids]


def test_who_is_in_front_can_be_said_too(tmp_path):
    """Pairs name records by their id; the table names them by their numbers."""
    pairs = [
        {"image_id": 7, "front_id": 50, "back_id": 20, "score": 0.25},
        {"image_id": 3, "front_id": 31, "back_id": 30},
        {"image_id": 7, "front_id": 20, "back_id": 50, "score": None},
    ]
    content = {"predictions": numbered(20, 50) + numbered(30, 31, image_id=3), "order": pairs}
    found = read(tmp_path, content)
    rows = found.order.astype(object).where(found.order.notna(), None)
    assert rows.to_numpy().tolist() == [
        [7, 2, 1, 0.25, "file"],
        [3, 4, 3, None, "file"],
        [7, 1, 2, None, "file"],
    ]
    assert found.predictions["prediction_id"].tolist() == [3, 4, 1, 2]
    assert len(read(tmp_path, content | {"order": []}).order) == 0
    assert len(read(tmp_path, {"predictions": [record()]}).order) == 0


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"front_id": None}, "order pair at position 1: front_id is missing"),
        ({"image_id": 7.5}, "image_id is not an integer: 7.5"),
        ({"back_id": 99}, "back_id 99 is the id of no record"),
        ({"image_id": 3}, "front_id 1 is a record of image 7"),
        ({"back_id": 3}, "back_id 3 is a record of image 3"),
        ({"back_id": 1}, "back_id 1 is the one in front itself"),
        ({"back_id": 5}, "back_id is stated twice with this front_id"),
        ({"score": float("nan")}, "score is not a finite number: nan"),
        ({"score": "sure"}, "1 of 2 order pairs cannot be read, so none was"),
    ],
)
def test_damaged_pairs_refuse_the_file(tmp_path, changes, said):
    pair = {"image_id": 7, "front_id": 1, "back_id": 2} | changes
    first = {"image_id": 7, "front_id": 1, "back_id": 5}
    records = numbered(1, 2, 5) + numbered(3, image_id=3)
    assert said in refused(tmp_path, {"predictions": records, "order": [first, pair]})


def test_an_order_needs_ids(tmp_path):
    pair = {"image_id": 7, "front_id": 1, "back_id": 2}
    content = {"predictions": [*numbered(1, 2), record()], "order": [pair]}
    assert "record at position 2: id is missing" in refused(tmp_path, content)
    content = {"predictions": numbered(1, 2, 2), "order": [pair]}
    assert "1 ids are used twice, e.g. 2" in refused(tmp_path, content)
    assert "'order' is 'x': make it a list" in refused(tmp_path, content | {"order": "x"})
    said = refused(tmp_path, {"predictions": numbered(1, 2), "order": [[1, 2]]})
    assert "pair is a JSON list, not an object" in said


def both_sides(folder, name="{}_results.json", visible=None):
    """A pair of files as VRSP and AISFormer write it: also the visible one has amodal boxes."""
    amodal = [record(7, score=0.5), record(3, score=0.75), record(7, score=0.25)]
    seen = [r | {"segmentation": run_lengths(square(r["image_id"], x=4))} for r in amodal]
    first = write(folder, amodal, name.format("amodal"))
    return first, write(folder, visible or seen, name.format("visible")), seen


def test_two_files_of_one_method(tmp_path):
    first, second, _ = both_sides(tmp_path)
    found = read_coco_results(first, TRUTH, visible_path=second)
    assert [masks_of(found, i) for i in range(3)] == [[2, 4, None]] * 3
    assert boxes(found.predictions["amodal_box"])[0].tolist() == [1.5, 2.5, 6.25, 7.0]
    assert boxes(found.predictions["visible_box"])[0].tolist() == [4, 3, 5, 5]
    digests = "".join(hashlib.sha256(p.read_bytes()).hexdigest() for p in (first, second))
    assert found.metadata.checkpoint == hashlib.sha256(digests.encode()).hexdigest()
    check(TRUTH, found)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda r: r[:2], "(3 and 2 records)"),
        (lambda r: [r[0], r[2], r[1]], "(another image_id at position 1)"),
        (lambda r: [r[0], r[1], r[2] | {"score": 0.3}], "(another score at position 2)"),
        (lambda r: [r[0] | {"category_id": 1}, *r[1:]], "(another category_id at position 0)"),
        (lambda r: [record(segmentation=None, amodal_mask=r[0]["segmentation"])], "is missing"),
    ],
)
def test_two_files_that_do_not_belong_together(tmp_path, change, said):
    first, _, seen = both_sides(tmp_path)
    second = write(tmp_path, change(seen), "visible.json")
    with pytest.raises(ValueError, match=r"visible\.json") as error:
        read_coco_results(first, TRUTH, visible_path=second)
    assert said in str(error.value)


def test_visible_masks_are_not_given_twice(tmp_path):
    _, second, seen = both_sides(tmp_path)
    first = write(tmp_path, [r | {"visible_mask": r["segmentation"]} for r in seen])
    with pytest.raises(ValueError, match=r"a\.json has visible masks itself"):
        read_coco_results(first, TRUTH, visible_path=second)


def test_a_folder_holds_a_method_a_file(tmp_path):
    both_sides(tmp_path, "coco_{}2.json")
    write(tmp_path, [record()], "zeta.json")
    write(tmp_path, [], "alpha.JSON")
    write(tmp_path, [record()], "only_visible.json")
    write(tmp_path, "no results", "notes.txt")
    write(tmp_path, "no results", "._zeta.json")
    (tmp_path / "folder.json").mkdir()
    calls = []
    found = read_results_folder(tmp_path, TRUTH, on_progress=lambda *c: calls.append(c))
    names = ["alpha", "coco_amodal2", "only_visible", "zeta"]
    assert [p.metadata.method for p in found] == names
    assert [len(p.predictions) for p in found] == [0, 3, 1, 1]
    assert found[1].predictions["visible_rle"].notna().all()
    assert masks_of(found[2]) == [2, None, None]
    assert calls == sorted(calls) and len({*calls}) == 4
    assert calls[-1][0] == calls[-1][1]
    (only,) = read_results_folder(tmp_path / "zeta.json", TRUTH, masks="visible")
    assert only.metadata.method == "zeta" and masks_of(only) == [None, 2, None]
    modal = read_results_folder(tmp_path, TRUTH, masks="visible")
    assert masks_of(modal[1]) == [2, 4, None] and masks_of(modal[3]) == [None, 2, None]


@pytest.mark.parametrize("names", ["r.bbox r.segm", "my_r_bbox my_r_segm", "r.bbox r"])
def test_boxes_beside_masks_are_passed_over(tmp_path, caplog, names):
    """As mmdetection writes both; a file of boxes with no other is refused as before."""
    boxes_alone, masks = names.split()
    write(tmp_path, [record(segmentation=None)], f"{boxes_alone}.json")
    write(tmp_path, [record()], "r2.segm.json")
    with pytest.raises(ValueError, match="each record needs a mask, not only a box"):
        read_results_folder(tmp_path, TRUTH)
    write(tmp_path, [record()], f"{masks}.json")
    with caplog.at_level(logging.INFO):
        found = read_results_folder(tmp_path, TRUTH)
    assert [p.metadata.method for p in found] == sorted([masks, "r2.segm"])
    assert f"{boxes_alone}.json: passed over, it has boxes alone" in caplog.text
    write(tmp_path, [record()], f"{boxes_alone}.json")
    assert len(read_results_folder(tmp_path, TRUTH)) == 3


@pytest.mark.parametrize("name", ["amodal_rcnn_{}", "{}_amodal_rcnn", "a"])
def test_one_word_of_a_name_tells_a_pair(tmp_path, name):
    if name == "a":
        both_sides(tmp_path)
        for path, other in (("amodal", "X_Amodal"), ("visible", "X_Visible")):
            (tmp_path / f"{path}_results.json").rename(tmp_path / f"{other}.json")
    else:
        both_sides(tmp_path, name + ".json")
    (found,) = read_results_folder(tmp_path, TRUTH)
    assert found.predictions["visible_rle"].notna().all()


def test_names_that_fit_several_pairs_are_refused(tmp_path):
    for name in ("amodal_amodal", "amodal_visible", "visible_amodal"):
        write(tmp_path, [], f"{name}.json")
    with pytest.raises(ValueError, match="may be in any of"):
        read_results_folder(tmp_path, TRUTH)


@pytest.mark.parametrize("name", ["a[1]", "a*", "what?"])
def test_names_that_are_patterns_of_files_are_refused(tmp_path, name):
    write(tmp_path, [], f"{name}.json")
    with pytest.raises(ValueError, match="cannot be a file's name"):
        read_results_folder(tmp_path, TRUTH)


def test_folders_that_cannot_be_read(tmp_path):
    with pytest.raises(ValueError, match=r"has no file \*\.json: put results there"):
        read_results_folder(tmp_path, TRUTH)
    with pytest.raises(ValueError, match="is not a file"):
        read_results_folder(tmp_path / "absent", TRUTH)
    write(tmp_path, [], "a.json")
    write(tmp_path, [], "a.JSON")
    with pytest.raises(ValueError, match=r"are both named 'a'.*rename one"):
        read_results_folder(tmp_path, TRUTH)


def test_batches_change_nothing_and_progress_ends_with_the_bytes_of_all_files(
    tmp_path, monkeypatch
):
    content = [record(i, score=n / 9) for n, i in enumerate([7, 3, 12, 3, 7, 7, 3, 12])]
    path = write(tmp_path, content)
    whole = read_coco_results(path, TRUTH)
    monkeypatch.setattr(json_records, "BATCH", 3)
    calls = []
    small = read_coco_results(path, TRUTH, on_progress=lambda *c: calls.append(c))
    assert small.predictions.equals(whole.predictions)
    size = path.stat().st_size
    assert calls == [(size * n // 3, size) for n in (1, 2, 3)]


def predicted(annotations, *kinds, draw, detections=9):
    """Random detections, with masks of ``kinds``; the first amodal mask is empty."""
    image_ids = np.sort(draw.choice(annotations.images["image_id"].to_numpy(dtype=int), detections))
    size_of = annotations.images.set_index("image_id")[["height", "width"]]
    columns = {
        "prediction_id": draw.permutation(detections) + 1,
        "image_id": image_ids,
        "category_id": draw.choice([c.id for c in annotations.metadata.categories], detections),
        "score": draw.random(detections),
    }
    for kind in kinds:
        masks = [draw.random(tuple(map(int, size_of.loc[i]))) < 0.4 for i in image_ids]
        masks[0] &= kind != "amodal"
        columns[f"{kind}_rle"] = [rle.encode(mask[None])[0] for mask in masks]
        if kind != "invisible":
            columns[f"{kind}_box"] = [
                [x + 0.25, y, w, h] if any((x, y, w, h)) else [np.nan] * 4
                for x, y, w, h in (coco_mask.toBbox(run_lengths(mask)) for mask in masks)
            ]
    return tables.predictions(annotations, columns, method="a")


def by_id(table, *without):
    rows = table.predictions.sort_values("prediction_id").reset_index(drop=True)
    return rows.drop(columns=list(without))


@pytest.mark.parametrize(
    "kinds", [("amodal",), ("amodal", "visible"), ("amodal", "visible", "invisible"), ("visible",)]
)
@pytest.mark.parametrize("rows", [2, 4096])
def test_predictions_come_back(tmp_path, monkeypatch, kinds, rows):
    """Ids, scores, masks of all kinds and the boxes of the first."""
    monkeypatch.setattr(export, "_ROWS", rows)
    ours = predicted(TRUTH, *kinds, draw=np.random.default_rng(0))
    write_coco_results(ours, tmp_path / "a.json")
    again = read_coco_results(tmp_path / "a.json", TRUTH, masks=kinds[0])
    computed = ["visible_box"] if len(kinds) > 1 else []
    assert by_id(again, *computed).equals(by_id(ours, *computed))
    empty = predicted(TRUTH, draw=np.random.default_rng(0), detections=0)
    write_coco_results(empty, tmp_path / "b.json")
    assert len(read_coco_results(tmp_path / "b.json", TRUTH).predictions) == 0


def test_records_are_as_evaluators_read_them(tmp_path):
    """Keys that pycocotools, aistron and VRSP need, and nothing that a mask lacks."""
    ours = predicted(TRUTH, "amodal", "visible", "invisible", draw=np.random.default_rng(1))
    write_coco_results(ours, tmp_path / "a.json")
    rows = by_id(ours)
    given = np.nan_to_num(boxes(rows["amodal_box"])).tolist()
    written = json.loads((tmp_path / "a.json").read_text())
    for row, bounds, found in zip(rows.itertuples(), given, written, strict=True):
        size = list(SIZES[row.image_id])
        amodal = {"size": size, "counts": row.amodal_rle}
        seen, both = (
            coco_mask.decode({"size": size, "counts": t}) for t in (row.visible_rle, row.amodal_rle)
        )
        assert found.pop("area") == (seen & both).sum() / max(both.sum(), 1)
        assert found == {
            "image_id": row.image_id,
            "category_id": row.category_id,
            "score": row.score,
            "bbox": bounds,
            "segmentation": amodal,
            "amodal_segm": amodal,
            "visible_segm": {"size": size, "counts": row.visible_rle},
            "occluded_segm": {"size": size, "counts": row.invisible_rle},
        }
    write_coco_results(ours, tmp_path / "amodal.json", visible_path=tmp_path / "visible.json")
    for name in ("amodal", "visible"):
        written = json.loads((tmp_path / f"{name}.json").read_text())
        for text, found in zip(rows[f"{name}_rle"], written, strict=True):
            assert found["segmentation"]["counts"] == text
            keys = {"image_id", "category_id", "score", "segmentation", "area", "bbox"}
            assert found.keys() == keys
    joined = read_coco_results(
        tmp_path / "amodal.json", TRUTH, visible_path=tmp_path / "visible.json"
    )
    assert by_id(joined, "invisible_rle", "visible_box").equals(
        by_id(ours, "invisible_rle", "visible_box")
    )


@pytest.mark.parametrize("with_boxes", [False, True])
def test_pycocotools_scores_a_written_file(tmp_path, shapes, with_boxes):
    """Truth against itself is found; a detection's area is its mask's or, with boxes, its box's."""
    truth = shapes.instances
    boxes_of = {"amodal_box": np.tile([0, 0, 100, 100], (len(truth), 1))}
    rows = {name: truth[name] for name in ("image_id", "category_id", "amodal_rle", "visible_rle")}
    ids = {"prediction_id": truth["instance_id"], "score": np.ones(len(truth))}
    found = predicted(shapes, draw=np.random.default_rng(0), detections=0)
    found = replace(found, predictions=frame(PREDICTIONS, rows | ids | boxes_of))
    write_coco_amodal(shapes, tmp_path / "truth.json")
    write_coco_results(found, tmp_path / "found.json", with_boxes=with_boxes)
    with contextlib.redirect_stdout(io.StringIO()):
        reference = COCO(tmp_path / "truth.json")
        evaluation = COCOeval(reference, reference.loadRes(str(tmp_path / "found.json")), "segm")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    assert evaluation.stats[:2].tolist() == pytest.approx([1, 1])
    areas = [a["area"] for a in evaluation.cocoDt.anns.values()]
    assert areas == (
        [10_000] * len(truth) if with_boxes else rle.area(truth["amodal_rle"]).tolist()
    )


def test_what_cannot_be_written_as_results(tmp_path):
    draw = np.random.default_rng(0)
    both = predicted(TRUTH, "amodal", "visible", draw=draw)
    missing = both.predictions.assign(
        amodal_rle=both.predictions["amodal_rle"].mask([True] + [False] * 8)
    )
    with pytest.raises(ValueError, match=r"1 of 9 predictions of a have no amodal mask"):
        write_coco_results(replace(both, predictions=missing), tmp_path / "a.json")
    alone = predicted(TRUTH, "amodal", draw=draw)
    with pytest.raises(ValueError, match=r"0 have no amodal and 9 no visible mask: write one file"):
        write_coco_results(alone, tmp_path / "a.json", visible_path=tmp_path / "b.json")
    assert not [*tmp_path.iterdir()]


@pytest.mark.skipif(not DATA.is_dir(), reason="the published samples are not here")
def test_published_truth_written_as_results_reads_back(tmp_path):
    annotations = read_cocoa(DATA, DATA.parent, "cocoa", "val", folder="cocoa")
    sizes = dict(zip(annotations.instances["instance_id"], annotations.sizes.tolist(), strict=True))
    records = [
        {
            "image_id": row.image_id,
            "category_id": row.category_id,
            "score": 1.0,
            "segmentation": {"size": sizes[row.instance_id], "counts": row.amodal_rle},
            "visible_mask": {"size": sizes[row.instance_id], "counts": row.visible_rle},
        }
        for row in annotations.instances.itertuples()
    ]
    assert len(records) > 10
    found = read_coco_results(write(tmp_path, records), annotations)
    columns = ["image_id", "category_id", "amodal_rle", "visible_rle", "amodal_box", "visible_box"]
    assert found.predictions[columns].equals(annotations.instances[columns])
    check(annotations, found)
