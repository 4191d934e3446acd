"""COCO JSON as it is published, and as it arrives when something went wrong."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as coco_mask

from amodal_pipeline.annotations import AmodalAnnotations, coco_json, rle
from amodal_pipeline.annotations.coco_amodal import REPAIRS, read_coco_amodal, read_coco_modal
from amodal_pipeline.annotations.cocoa_cls import read_cocoa_cls
from amodal_pipeline.annotations.d2sa import read_d2sa
from amodal_pipeline.annotations.flat import MODAL, read_records
from amodal_pipeline.annotations.formats import AMODAL_KEYS, INVISIBLE_KEYS, VISIBLE_KEYS
from amodal_pipeline.annotations.kins import read_kins
from amodal_pipeline.annotations.on_disk import check_on_disk, image_problems

SIZE = (20, 30)
DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"


def box_mask(x0, y0, x1, y1, size=SIZE):
    mask = np.zeros(size, np.uint8)
    mask[y0:y1, x0:x1] = 1
    return mask


def run_lengths(mask):
    return {"size": list(mask.shape), "counts": rle.encode(mask[None])[0]}


AMODAL = box_mask(4, 4, 14, 14)
VISIBLE = box_mask(4, 4, 9, 14)


def annotation(id_, **changes):
    return {
        "id": id_,
        "image_id": 7,
        "category_id": 3,
        "iscrowd": 0,
        "bbox": [0, 0, 1, 1],
        "area": 1,
        "segmentation": run_lengths(AMODAL),
        "visible_mask": run_lengths(VISIBLE),
    } | changes


def document(annotations, **changes):
    return {
        "images": [{"id": 7, "file_name": "a.jpg", "height": SIZE[0], "width": SIZE[1]}],
        "categories": [{"id": 3, "name": "cup"}],
        "annotations": annotations,
    } | changes


@pytest.fixture
def read(tmp_path):
    def _read(annotations, repairs=REPAIRS, **changes):
        path = tmp_path / "amodal.json"
        path.write_text(json.dumps(document(annotations, **changes)))
        return read_coco_amodal(path, tmp_path, "d2sa", "val", repairs=repairs)

    return _read


def reasons(table):
    return {r["record"]: (r["field"], r["reason"]) for r in table.rejected.to_dict("records")}


def masks(table, column):
    return rle.decode(table.instances[column].tolist(), SIZE)


@pytest.mark.parametrize("key", VISIBLE_KEYS)
def test_visible_mask_is_found_under_each_published_key(read, key):
    table = read([annotation(1, **{"visible_mask": None, key: run_lengths(VISIBLE)})])
    np.testing.assert_array_equal(masks(table, "visible_rle")[0], VISIBLE)
    assert table.instances["occlusion_rate"].iloc[0] == pytest.approx(0.5)


@pytest.mark.parametrize("key", AMODAL_KEYS)
def test_amodal_keys_come_before_segmentation(read, key):
    record = annotation(1, **{key: run_lengths(AMODAL), "segmentation": run_lengths(VISIBLE)})
    np.testing.assert_array_equal(masks(read([record]), "amodal_rle")[0], AMODAL)


@pytest.mark.parametrize("reader", [read_kins, read_d2sa, read_cocoa_cls, read_coco_amodal])
def test_the_copies_that_aistron_makes_of_data_sets_are_read(tmp_path, reader):
    """They have masks, boxes and the occluder under names of their own, and no `segmentation`."""
    content = {
        "id": 1,
        "image_id": 7,
        "category_id": 3,
        "iscrowd": 0,
        "amodal_bbox": [4, 4, 10, 10],
        "visible_bbox": [4, 4, 10, 10],
        "amodal_area": 100,
        "amodal_segm": [[4, 4, 14, 4, 14, 14, 4, 14]],
        "visible_segm": run_lengths(VISIBLE),
        "background_objs_segm": [],
        "occluder_segm": [],
    }
    path = tmp_path / "a.json"
    path.write_text(json.dumps(document([content], licenses=None)))
    table = reader(path, tmp_path, "x", "val")
    np.testing.assert_array_equal(masks(table, "amodal_rle")[0], AMODAL)
    np.testing.assert_array_equal(masks(table, "visible_rle")[0], VISIBLE)
    assert len(table.repaired) == len(table.rejected) == 0


@pytest.mark.parametrize("reader", [read_d2sa, read_cocoa_cls, read_coco_amodal])
def test_polygons_of_fewer_than_three_points_do_not_cost_the_object(tmp_path, reader):
    """Beside others they are left out and listed; alone they are no mask."""
    square, stray = [4, 4, 14, 4, 14, 14, 4, 14], [5, 5, 9, 9]
    records = [
        annotation(1, segmentation=[stray, square, [7, 7]]),
        annotation(2, visible_mask=[[4, 4, 9, 4, 9, 14, 4, 14], stray]),
        annotation(3, segmentation=[stray]),
        annotation(4),
    ]
    path = tmp_path / "a.json"
    path.write_text(json.dumps(document(records)))
    table = reader(path, tmp_path, "x", "val")
    for column, mask in (("amodal_rle", AMODAL), ("visible_rle", VISIBLE)):
        np.testing.assert_array_equal(masks(table, column), [mask] * 3)
    assert table.repaired[["record", "field"]].to_numpy().tolist() == [
        ["instance 1", "segmentation"],
        ["instance 2", "visible_mask"],
    ]
    fault = "a polygon has fewer than three points"
    assert reasons(table) == {"instance 3": ("segmentation", fault)}
    counted = table.metadata.accounting["instances"].model_dump()
    assert counted == {"read": 4, "kept": 1, "repaired": 2, "rejected": 1}


@pytest.mark.parametrize("key", INVISIBLE_KEYS)
def test_visible_is_amodal_without_the_invisible_mask(read, key):
    hidden = run_lengths(AMODAL & ~VISIBLE)
    table = read([annotation(1, **{"visible_mask": None, key: hidden})])
    np.testing.assert_array_equal(masks(table, "visible_rle")[0], VISIBLE)


def test_objects_without_visible_mask_are_unoccluded_and_listed(read):
    bare = annotation(2)
    del bare["visible_mask"]
    table = read([annotation(1), bare])
    assert table.instances["occlusion_rate"].tolist() == pytest.approx([0.5, 0.0])
    assert table.repaired["record"].tolist() == ["instance 2"]
    counted = table.metadata.accounting["instances"]
    assert (counted.read, counted.kept, counted.repaired, counted.rejected) == (2, 1, 1, 0)

    strict = read([annotation(1), bare], repairs=frozenset())
    assert reasons(strict) == {"instance 2": ("visible_mask", "is missing")}


def test_missing_visible_mask_of_an_object_said_to_be_occluded_is_rejected(read):
    table = read([annotation(1), annotation(2, visible_mask=None, occlude_rate=0.4)])
    assert table.instances["instance_id"].tolist() == [1]
    assert "occlude_rate is 0.4" in reasons(table)["instance 2"][1]


def test_a_modal_file_is_read_as_what_is_visible_and_says_so(tmp_path):
    path = tmp_path / "modal.json"
    plain = {k: v for k, v in annotation(1).items() if k != "visible_mask"}
    path.write_text(json.dumps(document([plain])))
    with pytest.raises(ValueError, match="coco_modal"):
        read_coco_amodal(path, tmp_path, "coco", "val")
    table = read_coco_modal(path, tmp_path, "coco", "val")
    assert table.metadata.modal and not table.instances["occlusion_rate"].any()
    for column in ("amodal_rle", "visible_rle"):
        np.testing.assert_array_equal(masks(table, column)[0], AMODAL)
    assert AmodalAnnotations.load(table.save(tmp_path / "t") or tmp_path / "t").metadata.modal
    path.write_text(json.dumps(document([annotation(1)])))
    with pytest.raises(ValueError, match="is not plain COCO"):
        read_coco_modal(path, tmp_path, "coco", "val")


def test_modal_file_is_refused_with_the_keys_and_the_way_out(read):
    record = annotation(1)
    del record["visible_mask"]
    with pytest.raises(ValueError, match=r"look like plain COCO.*--env=composed_coco") as error:
        read([record])
    assert "amodal.json" in str(error.value)


def test_crowds_are_ignored_stuff_is_no_thing_boxes_are_computed(read):
    table = read([annotation(1, iscrowd=1), annotation(2, isStuff=1)])
    assert table.instances["ignore"].tolist() == [True, False]
    assert table.instances["is_thing"].tolist() == [True, False]
    assert table.instances["amodal_box"].iloc[0] == [4, 4, 10, 10]
    assert table.instances["visible_box"].iloc[0] == [4, 4, 5, 10]
    assert len(table.order) == 0


@pytest.mark.parametrize(
    ("change", "field", "reason"),
    [
        ({"id": None}, "id", "not an integer"),
        ({"image_id": "seven"}, "image_id", "not an integer: 'seven'"),
        ({"category_id": None}, "category_id", "not an integer"),
        ({"category_id": 99}, "category_id", "names no category"),
        ({"image_id": 8}, "image_id", "names an image that is not there"),
        ({"segmentation": None}, "segmentation", "is missing"),
        ({"segmentation": []}, "segmentation", "no polygon"),
        ({"segmentation": 5}, "segmentation", "neither polygons nor run lengths"),
        ({"segmentation": [1, 2, 3, 4]}, "segmentation", "fewer than three points"),
        ({"segmentation": [[1, 1, 9, 1, 9, 9, 2]]}, "segmentation", "odd number"),
        ({"segmentation": [[1, 1, 9, 1, 9, float("nan")]]}, "segmentation", "not finite"),
        ({"segmentation": [[1, 1, 9, 1, 9, {}]]}, "segmentation", "not a number"),
        ({"segmentation": [1, 1, 5, "a", 9, 1]}, "segmentation", "not a number"),
        ({"visible_mask": 7}, "visible_mask", "neither polygons nor run lengths"),
        ({"segmentation": [[1, 1, 9, 1, 9, 1e9]]}, "segmentation", "far outside"),
        ({"segmentation": {"size": [30, 20], "counts": "`d0"}}, "segmentation", "canvas"),
        ({"segmentation": {"size": [20, 30]}}, "segmentation", "no 'counts'"),
        ({"segmentation": {"size": [20, 30], "counts": "zzz"}}, "segmentation", "damaged"),
        ({"segmentation": {"size": [20, 30], "counts": [5, 5]}}, "segmentation", "600"),
        ({"segmentation": {"size": [20, 30], "counts": [-1, 601]}}, "segmentation", "between"),
        ({"segmentation": {"size": [20, 30], "counts": [600]}}, "amodal_rle", "is empty"),
        ({"visible_mask": {"size": [20, 30], "counts": "é"}}, "visible_mask", "damaged"),
    ],
)
def test_damaged_record_is_a_finding_and_the_others_are_kept(read, change, field, reason):
    table = read([annotation(1), annotation(2, **change), annotation(3)])
    assert table.instances["instance_id"].tolist() == [1, 3]
    ((record, found),) = reasons(table).items()
    assert record == ("instance at position 1" if "id" in change else "instance 2")
    assert found[0] == field
    assert reason in found[1]
    assert table.rejected["file"].iloc[0].endswith("amodal.json")
    assert table.metadata.accounting["instances"].read == 3


def test_record_that_is_no_object_and_missing_keys(read):
    record = annotation(2)
    del record["image_id"]
    table = read([annotation(1), None, record])
    assert reasons(table) == {
        "instance at position 1": ("instance", "is a JSON NoneType, not an object"),
        "instance 2": ("image_id", "is missing"),
    }


def test_damaged_images_are_findings_and_take_their_objects_along(read):
    images = [
        {"id": 7, "file_name": "a.jpg", "height": 20, "width": 30},
        {"id": 8, "height": 20, "width": 30},
        {"file_name": "c.jpg", "height": 20, "width": 30},
        {"id": 10, "file_name": "../d.jpg", "height": 20, "width": 30},
        {"id": 11, "file_name": "e.jpg", "height": 10**6, "width": 10**6},
    ]
    table = read([annotation(1), annotation(2, image_id=8)], images=images)
    found = reasons(table)
    assert found["image 8"] == ("file_name", "is missing")
    assert found["image at position 2"] == ("id", "is missing")
    assert found["image 10"][0] == "file_name"
    assert "pixels" in found["image 11"][1]
    assert found["instance 2"][0] == "image_id"
    counted = table.metadata.accounting
    assert (counted["images"].read, counted["images"].rejected) == (5, 4)
    assert (counted["instances"].read, counted["instances"].rejected) == (2, 1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"images": [], "annotations": []}', "no list 'categories'"),
        ('{"images": [], "annotations": {}, "categories": []}', "no list 'annotations'"),
        ('{"images": [], "annotations": [], "categories": [{"name": "a"}]}', "position 0"),
    ],
)
def test_file_that_is_no_coco_json_is_named(tmp_path, text, message):
    path = tmp_path / "broken.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=message) as error:
        coco_json.open_file(path)
    assert str(path) in str(error.value)


boxes = st.tuples(st.integers(0, 14), st.integers(0, 9), st.integers(2, 15), st.integers(2, 10))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(boxes, st.booleans()), min_size=1, max_size=6))
def test_every_form_of_a_mask_gives_the_mask_of_pycocotools(drawn):
    segmentations, sizes, expected = [], [], []
    for (x, y, w, h), tall in drawn:
        size = (40, 25) if tall else SIZE
        polygon = [x, y, x + w, y, x + w, y + h, x, y + h]
        other = [x, y, x + 1.5 * w, y + 0.5, x + w, y + h]
        plain = coco_mask.frPyObjects([polygon], *size)[0]
        joined = coco_mask.merge(coco_mask.frPyObjects([polygon, other], *size))
        runs = rle.unpack([plain["counts"].decode()]).lengths
        forms = [
            (polygon, plain),
            ([polygon], plain),
            ([polygon, other], joined),
            ({"size": list(size), "counts": runs.tolist()}, plain),
            ({"size": list(size), "counts": plain["counts"].decode()}, plain),
        ]
        segmentations += [form for form, _ in forms]
        expected += [e["counts"].decode() for _, e in forms]
        sizes += [size] * len(forms)
    found = coco_json.masks(segmentations, np.array(sizes))
    assert found.reasons == [None] * len(expected)
    assert found.counts == expected


def test_missing_images_and_wrong_sizes(read, tmp_path):
    images = [
        {"id": i, "file_name": name, "height": 20, "width": 30}
        for i, name in enumerate(("a.jpg", "b.jpg", "c.jpg", "d.jpg", f"{'e' * 300}.jpg"), 7)
    ]
    Image.new("RGB", (30, 20)).save(tmp_path / "a.jpg")
    Image.new("RGB", (20, 30)).save(tmp_path / "b.jpg")
    (tmp_path / "d.jpg").write_bytes(b"no image")
    table = read([annotation(1)], images=images)
    good, wrong, missing, damaged, long = image_problems(table.images, tmp_path)
    assert good is None
    assert wrong == ("height", "and width are 20x30, b.jpg is 30x20 pixels")
    assert missing == ("file_name", "names c.jpg, which is missing")
    assert damaged[1].startswith("names d.jpg") and "cannot be read" in damaged[1]
    assert long[0] == "file_name" and "too long" in long[1]
    with pytest.raises(ValueError, match=r"4 of the 5 images of d2sa val .* image 8: height"):
        check_on_disk(table)


def test_real_coco_file_is_read_whole():
    path = DATA / "coco_panoptic" / "instances_val2017_from_panoptic.json"
    if not path.is_file():
        pytest.skip("COCO sample is not beside the repository")
    file = coco_json.open_file(path)
    records = json.loads(path.read_text())["annotations"]
    found = read_records(file, MODAL, frozenset())
    assert not file.rejected and not any(part.rejected for part in found.parts)
    assert rle.area(found.rows["amodal_rle"].tolist()).tolist() == [r["area"] for r in records]
    with pytest.raises(ValueError, match="composed_coco"):
        read_coco_amodal(path, path.parent, "coco", "val")


def test_empty_runs_in_a_list_join_their_neighbours(read):
    counts = rle.unpack(rle.encode(AMODAL[None])).lengths.tolist()
    spread = [counts[0], 2, 0, counts[1] - 2, 0, *[0], *counts[2:]]
    assert sum(spread) == sum(counts)
    table = read([annotation(1, segmentation={"size": list(SIZE), "counts": spread})])
    np.testing.assert_array_equal(masks(table, "amodal_rle")[0], AMODAL)


def test_ranks_that_are_no_integers_are_order_findings(read):
    table = read([annotation(1, occl_depth=0), annotation(2, occl_depth="1")])
    assert len(table.instances) == 2 and len(table.order) == 0
    assert reasons(table) == {"order pair of instance 2": ("occl_depth", "is not an integer")}
    assert table.metadata.accounting["order"].rejected == 1


def test_visible_masks_may_come_late_in_a_file(tmp_path, monkeypatch):
    bare = annotation(1)
    del bare["visible_mask"]
    path = tmp_path / "amodal.json"
    path.write_text(json.dumps(document([bare, bare | {"id": 2}, annotation(3)])))
    monkeypatch.setattr("amodal_pipeline.annotations.json_records.BATCH", 1)
    table = read_coco_amodal(path, tmp_path, "mine", "val")
    assert table.instances["occlusion_rate"].tolist() == pytest.approx([0, 0, 0.5])
