"""COCOA written from its documentation comes back as it was drawn, and the real samples add up."""

import copy
import hashlib
import json
import logging
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from amodal_pipeline.annotations import coco_json, cocoa, rle
from amodal_pipeline.annotations.cocoa import read_cocoa
from amodal_pipeline.annotations.formats import Format, recognise
from amodal_pipeline.annotations.order import TOO_CROWDED
from amodal_pipeline.annotations.tables import boxes
from tests.annotations.writers import box, raster, run_lengths

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "cocoa"
SIZES = ((60, 80), (75, 50))
FURTHER = "left out: a further annotator's (annotators: first)"


def region(amodal, visible, order, **changes):
    """A region as the files have it: masks beside the polygon only where something is hidden."""
    hidden = amodal & ~visible
    masks = {"visible_mask": run_lengths(visible), "invisible_mask": run_lengths(hidden)}
    return {
        "segmentation": run_lengths(amodal),
        "name": "thing ",
        "area": int(amodal.sum()),
        "isStuff": 0,
        "occlude_rate": float(hidden.sum() / amodal.sum()),
        "order": order,
        **(masks if hidden.any() else {}),
    } | changes


def annotation(id_, image_id, regions, constraint="", **changes):
    return {
        "author": "somebody",
        "url": "http://example.org/1.jpg",
        "image_id": image_id,
        "id": id_,
        "size": len(regions),
        "depth_constraint": constraint,
        "regions": regions,
    } | changes


def image(id_, size=SIZES[0], **changes):
    name = f"COCO_val2014_{id_:012d}.jpg"
    return {"id": id_, "file_name": name, "height": size[0], "width": size[1]} | changes


def square(x, y, side, size=SIZES[0]):
    mask = np.zeros(size, np.uint8)
    mask[y : y + side, x : x + side] = 1
    return mask


def drawn(seed, images=5):
    """A file's images and annotations; {instance: (image, amodal, visible, thing)}; pairs.

    Polygons overlap in list order turned around now and then, so that ``order`` is not the place.
    """
    draw = np.random.default_rng(seed)
    listed, annotations, truth, pairs = [], [], {}, {}
    for number in range(images):
        image_id, annotation_id = 100 + 7 * number, 900 - number
        size = SIZES[number % 2]
        listed.append(image(image_id, size))
        regions, masks = [], []
        covered = np.zeros(size, bool)
        for order in range(1, int(draw.integers(1, 8)) + 1):
            angle = np.sort(draw.uniform(0, 2 * np.pi, draw.integers(3, 12)))
            reach = draw.uniform(5, 30, len(angle))
            x = draw.uniform(0, size[1]) + reach * np.cos(angle)
            y = draw.uniform(0, size[0]) + reach * np.sin(angle)
            polygon = np.stack([x, y], axis=1).round(3).reshape(-1).tolist()
            amodal = raster([polygon], size)
            if not amodal.any():
                continue
            visible = amodal & ~covered
            stuff = int(draw.random() < 0.3)
            regions.append(region(amodal, visible, order, segmentation=polygon, isStuff=stuff))
            if not (amodal & covered).any() and draw.random() < 0.5:
                regions[-1] |= {"visible_mask": None, "invisible_mask": None}
            masks.append((order, amodal, visible))
            covered |= amodal > 0
        shuffled = draw.permutation(len(regions))
        regions, masks = ([things[i] for i in shuffled] for things in (regions, masks))
        stated = []
        for i, (front, amodal, visible) in enumerate(masks, 1):
            thing = not regions[i - 1]["isStuff"]
            truth[annotation_id * 1000 + i] = (image_id, amodal, visible, thing)
            for j, (back, other, _) in enumerate(masks, 1):
                shared = int((amodal & other).sum())
                if front < back and shared:
                    stated.append(f"{front}-{back}")
                    pairs[annotation_id * 1000 + i, annotation_id * 1000 + j] = shared
        annotations.append(annotation(annotation_id, image_id, regions, ",".join(stated)))
    return listed, annotations, truth, pairs


def write(path, images, annotations):
    path.write_text(json.dumps({"info": {}, "images": images, "annotations": annotations}))
    return path


def read(path, **options):
    return read_cocoa(path, path.parent, "cocoa", "val", **options)


@pytest.fixture
def read_file(tmp_path):
    def _read(images, annotations, **options):
        return read(write(tmp_path / "a.json", images, annotations), **options)

    return _read


def check_masks(table, truth):
    """The table has these objects, with what follows from their masks."""
    rows = table.instances
    assert sorted(rows["instance_id"]) == sorted(truth)
    found = {name: boxes(rows[name]) for name in ("amodal_box", "visible_box")}
    for i, row in enumerate(rows.itertuples()):
        image_id, amodal, visible, thing = truth[row.instance_id]
        assert (row.image_id, row.category_id, row.is_thing) == (image_id, 1, thing)
        assert not row.ignore
        for column, mask in (("amodal", amodal), ("visible", visible)):
            text = getattr(row, f"{column}_rle")
            np.testing.assert_array_equal(rle.decode([text], mask.shape)[0], mask)
            want = box(mask) if mask.any() else [np.nan] * 4
            np.testing.assert_array_equal(found[f"{column}_box"][i], want)
        assert row.occlusion_rate == pytest.approx(1 - visible.sum() / amodal.sum(), abs=1e-6)


def pairs_of(table, inferred=False):
    order = table.order
    assert (order["inferred"] == inferred).all()
    pairs = zip(order["occluder_id"], order["occludee_id"], strict=True)
    return dict(zip(pairs, order["area"], strict=True))


def rejected(table):
    return {r["record"]: (r["field"], r["reason"]) for r in table.rejected.to_dict("records")}


def accounting(table, kind="instances"):
    a = table.metadata.accounting[kind]
    assert a.read == a.kept + a.repaired + a.rejected
    findings = table.rejected["record"]
    of_kind = {
        "images": findings.str.startswith("image "),
        "order": findings.str.startswith("order pair "),
    }
    of_kind["instances"] = ~(of_kind["images"] | of_kind["order"])
    assert a.rejected == of_kind[kind].sum()
    return a.read, a.kept, a.repaired, a.rejected


@pytest.mark.parametrize("seed", range(12))
def test_file_comes_back(read_file, seed):
    images, annotations, truth, pairs = drawn(seed)
    table = read_file(images, annotations, folder="val2014")
    check_masks(table, truth)
    assert pairs_of(table) == pairs
    assert [(c.id, c.name) for c in table.metadata.categories] == [(1, "object")]
    assert table.images["image_id"].tolist() == [i["id"] for i in images]
    assert table.images["file_name"].tolist() == [f"val2014/{i['file_name']}" for i in images]
    sizes = zip(table.images["height"], table.images["width"], strict=True)
    assert [*sizes] == [(i["height"], i["width"]) for i in images]
    assert len(table.repaired) == len(table.rejected) == 0
    for kind, count in (("images", len(images)), ("instances", len(truth)), ("order", len(pairs))):
        assert accounting(table, kind) == (count, count, 0, 0)


def test_drawn_files_have_what_they_are_to_test():
    files = [drawn(seed) for seed in range(12)]
    truth = [thing for file in files for thing in file[2].values()]
    regions = [r for file in files for a in file[1] for r in a["regions"]]
    assert sum(len(file[3]) for file in files) > 100
    assert any(not visible.any() for _, _, visible, _ in truth)
    assert {thing for *_, thing in truth} == {True, False}
    assert any(r.get("visible_mask", "absent") is None for r in regions)
    assert any("visible_mask" not in r for r in regions)
    assert any(a["regions"][0]["order"] != 1 for file in files for a in file[1] if a["regions"])


@pytest.mark.parametrize("seed", range(6))
def test_order_is_inferred_where_it_is_not_stated(read_file, seed):
    """The masks of these files follow the order: what is inferred is what would be stated."""
    images, annotations, _, pairs = drawn(seed)
    for a in annotations:
        del a["depth_constraint"]
    table = read_file(images, annotations)
    assert pairs_of(table, inferred=True) == pairs
    for a in annotations:
        a["depth_constraint"] = None
    assert pairs_of(read_file(images, annotations), inferred=True) == pairs
    for a in annotations:
        a["depth_constraint"] = ""
    assert pairs_of(read_file(images, annotations)) == {}


def test_order_is_inferred_only_from_hidden_parts(read_file):
    """1 and 2 overlap where 2 is visible, 3 is hidden by 1; 4 has no order, 5 and 6 the same."""
    front, seen, hidden = square(0, 0, 10), square(5, 0, 10), square(0, 5, 10)
    regions = [
        region(front, front, 1),
        region(seen, seen, 2),
        region(hidden, hidden & ~front, 3),
        region(hidden, hidden & ~front, None),
        region(square(20, 20, 9), square(20, 20, 5), 5),
        region(square(22, 22, 9), square(22, 22, 5), 5),
    ]
    silent = annotation(4, 1, regions)
    del silent["depth_constraint"]
    # Of 2 and 3 the overlap lies where 3 is hidden, by 1: the list says that 2 is nearer.
    want = {(4001, 4003): 50, (4002, 4003): 25}
    assert pairs_of(read_file([image(1)], [silent]), inferred=True) == want
    # Where the list and the masks contradict each other nothing is inferred.
    for r in silent["regions"]:
        r["order"] = None if r["order"] is None else 10 - r["order"]
    assert pairs_of(read_file([image(1)], [silent]), inferred=True) == {}


def test_images_too_crowded_for_an_inferred_order_are_findings(read_file, monkeypatch):
    a, b = square(0, 0, 10), square(5, 5, 10)
    crowded, few, stated = (
        annotation(i, i, [region(a, a, 1), region(b, b & ~a, 2), region(b, b, 3)][:n], "1-2")
        for i, n in ((1, 3), (2, 2), (3, 3))
    )
    del crowded["depth_constraint"], few["depth_constraint"]
    monkeypatch.setattr("amodal_pipeline.annotations.order.MAX_OBJECTS", 2)
    table = read_file([image(1), image(2), image(3)], [crowded, few, stated])
    assert table.order["image_id"].tolist() == [3, 2]
    assert rejected(table) == {"order pair of image 1": ("order", TOO_CROWDED)}
    assert accounting(table, "order") == (3, 2, 0, 1)


def test_stated_and_inferred_order_in_one_file(read_file):
    a, b = square(0, 0, 10), square(5, 5, 10)
    stated = annotation(1, 1, [region(a, a, 1), region(b, b, 2)], "2-1")
    silent = annotation(2, 2, [region(a, a, 1), region(b, b & ~a, 2)])
    del silent["depth_constraint"]
    order = read_file([image(1), image(2)], [stated, silent]).order
    assert order["inferred"].tolist() == [False, True]
    assert order["occluder_id"].tolist() == [1002, 2001]
    assert order["image_id"].tolist() == [1, 2]


@pytest.mark.parametrize(
    ("constraint", "record", "field", "reason"),
    [
        ("1-2,x", "order pair 'x' of annotation 5", "depth_constraint", "not two numbers"),
        ("1-2,3", "order pair '3' of annotation 5", "depth_constraint", "not two numbers"),
        ("1-2,2-3-4", "order pair '2-3-4' of annotation 5", "depth_constraint", "not two numbers"),
        ("1-2,-1-2", "order pair '-1-2' of annotation 5", "depth_constraint", "not two numbers"),
        ("1-2,1-9", "order pair 1-9 of annotation 5", "depth_constraint", "order 9, which no re"),
        ("1-2,4-1", "order pair 4-1 of annotation 5", "depth_constraint", "4, which several regio"),
        ("1-2,2-2", "order pair 5002 over 5002", "occludee_id", "is the occluder itself"),
        ("1-2,1-2", "order pair 5001 over 5002", "order", "twice"),
        ("1-2,1-3", "order pair 5001 over 5003", "order", "do not overlap"),
        ("1-2,6-1", "order pair 5006 over 5001", "occluder_id", "not there or was rejected"),
    ],
)
def test_damaged_pairs_are_findings(read_file, constraint, record, field, reason):
    a, b, c = square(0, 0, 10), square(5, 5, 10), square(40, 40, 5)
    regions = [region(a, a, 1), region(b, b, 2), region(c, c, 3), region(c, c, 4), region(c, c, 4)]
    regions.append(region(a, a, 6, segmentation=None))
    table = read_file([image(1)], [annotation(5, 1, regions, constraint)])
    assert pairs_of(table) == {(5001, 5002): 25}
    found = rejected(table)
    assert found[record][0] == field
    assert reason in found[record][1]
    assert accounting(table, "order") == (2, 1, 0, 1)
    assert accounting(table) == (6, 5, 0, 1)


def test_blanks_in_a_constraint_say_nothing_and_mutual_pairs_stand(read_file):
    a, b = square(0, 0, 10), square(5, 5, 10)
    regions = [region(a, a, 1), region(b, b, 2)]
    table = read_file([image(1)], [annotation(5, 1, regions, " 1 - 2 ,, 2-1,")])
    assert pairs_of(table) == {(5001, 5002): 25, (5002, 5001): 25}
    assert len(table.rejected) == 0


def test_a_constraint_of_another_type_is_a_finding(read_file):
    a = square(0, 0, 10)
    table = read_file([image(1)], [annotation(5, 1, [region(a, a, 1)], [[1, 2]])])
    assert rejected(table) == {
        "order pair list of annotation 5": (
            "depth_constraint",
            "is a JSON list, not text like 1-2,1-5",
        )
    }
    assert accounting(table, "order") == (1, 0, 0, 1)


@settings(max_examples=60, deadline=None)
@given(st.text("012349-, x", max_size=24))
def test_any_constraint_is_accounted_for(tmp_path_factory, text):
    a, b = square(0, 0, 10), square(5, 5, 10)
    regions = [region(a, a, 1), region(b, b, 2), region(b, b, 2)]
    folder = tmp_path_factory.mktemp("constraint")
    path = write(folder / "a.json", [image(1)], [annotation(5, 1, regions, text)])
    read_, kept, _, _ = accounting(read(path), "order")
    assert read_ == len([item for item in text.split(",") if item.strip()])
    assert kept == 0  # order 2 is used twice


def annotators():
    """Image 1 by three people, image 2 by one, image 3 by nobody."""
    a, b = square(0, 0, 10), square(5, 5, 10)
    return [image(1), image(2), image(3)], [
        annotation(11, 1, [region(a, a, 1)]),
        annotation(21, 2, [region(b, b, 1)]),
        annotation(12, 1, [region(a, a, 1), region(b, b & ~a, 2)], "1-2"),
        annotation(13, 1, []),
    ]


def test_of_several_annotators_the_first_counts(read_file):
    table = read_file(*annotators())
    assert table.instances["instance_id"].tolist() == [11001, 21001]
    assert table.images["image_id"].tolist() == [1, 2]
    assert rejected(table) == {
        "instance 12001": ("image_id", FURTHER),
        "instance 12002": ("image_id", FURTHER),
        "annotation 13": ("image_id", FURTHER),
        "image 3": ("annotations", "has none that can be used"),
    }
    assert accounting(table) == (5, 2, 0, 3)
    assert accounting(table, "images") == (3, 2, 0, 1)


def test_each_annotator_may_have_an_image_of_their_own(read_file):
    table = read_file(*annotators(), annotators="all", folder="val")
    assert table.images["image_id"].tolist() == [11, 21, 12, 13]
    names = [f"val/COCO_val2014_{i:012d}.jpg" for i in (1, 2, 1, 1)]
    assert table.images["file_name"].tolist() == names
    assert table.instances["instance_id"].tolist() == [11001, 12001, 12002, 21001]
    assert table.instances["image_id"].tolist() == [11, 12, 12, 21]
    assert table.order["image_id"].tolist() == [12]
    assert rejected(table) == {"image 3": ("annotations", "has none that can be used")}
    assert accounting(table) == (4, 4, 0, 0)
    assert accounting(table, "images") == (5, 4, 0, 1)


def test_the_first_annotation_is_one_that_can_be_used(read_file):
    images, annotations = annotators()
    annotations[0]["regions"] = None
    table = read_file(images, annotations)
    assert table.instances["instance_id"].tolist() == [12001, 12002, 21001]
    assert rejected(table)["annotation 11"] == ("regions", "is a JSON NoneType, not a list")


def test_things_or_stuff(read_file):
    a, b, c = square(0, 0, 10), square(5, 5, 10), square(7, 7, 5)
    regions = [region(a, a, 1), region(b, b, 2, isStuff=1), region(c, c, 3)]
    given_ = [annotation(5, 1, regions, "1-2,1-3,2-3")]
    both = read_file([image(1)], given_)
    assert both.instances["is_thing"].tolist() == [True, False, True]
    assert len(both.order) == 3

    things = read_file([image(1)], given_, regions="things")
    assert things.instances["instance_id"].tolist() == [5001, 5003]
    lost = ("depth_constraint", "left out: a region of the pair was left out")
    assert rejected(things) == {
        "instance 5002": ("isStuff", "left out: stuff (regions: things)"),
        "order pair 1-2 of annotation 5": lost,
        "order pair 2-3 of annotation 5": lost,
    }
    assert pairs_of(things) == {(5001, 5003): 9}
    assert accounting(things) == (3, 2, 0, 1)
    assert accounting(things, "order") == (3, 1, 0, 2)

    stuff = read_file([image(1)], given_, regions="stuff")
    assert stuff.instances["instance_id"].tolist() == [5002]
    assert rejected(stuff)["instance 5001"] == ("isStuff", "left out: a thing (regions: stuff)")
    assert accounting(stuff) == (3, 1, 0, 2)
    assert things.fingerprint != both.fingerprint != stuff.fingerprint


def test_segmentations_of_every_form_and_either_partial_mask(read_file):
    amodal, visible = square(4, 4, 10), square(4, 4, 10) & ~square(4, 4, 5)
    corners = [4, 4, 14, 4, 14, 14, 4, 14]
    whole = region(amodal, visible, 1)
    uncompressed = {"size": list(SIZES[0]), "counts": [4 * 60 + 4] + [10, 50] * 9 + [10]}
    uncompressed["counts"].append(60 * 80 - sum(uncompressed["counts"]))
    regions = [
        whole | {"segmentation": corners},
        whole | {"segmentation": [corners]},
        whole | {"segmentation": uncompressed},
        whole | {"visible_mask": None},
        whole | {"invisible_mask": None},
        {"segmentation": corners},
    ]
    table = read_file([image(1)], [annotation(5, 1, regions)])
    check_masks(
        table,
        {5000 + i: (1, amodal, visible if i < 6 else amodal, True) for i in range(1, 7)},
    )
    assert len(table.repaired) == len(table.rejected) == 0


def test_a_region_that_is_hidden_entirely_is_kept(read_file):
    amodal = square(4, 4, 10)
    table = read_file([image(1)], [annotation(5, 1, [region(amodal, 0 * amodal, 1)])])
    check_masks(table, {5001: (1, amodal, 0 * amodal, True)})
    assert table.instances["occlusion_rate"].tolist() == [1.0]


def test_visible_pixels_outside_are_cut_and_listed(read_file):
    amodal, visible = square(4, 4, 10), square(4, 4, 10)
    visible[14, 4:10] = 1
    apart = square(5, 5, 10)
    masks = [{"visible_mask": run_lengths(m)} for m in (visible, apart)]
    regions = [region(amodal, amodal, 1, **m) for m in masks]
    table = read_file([image(1)], [annotation(5, 1, regions)])
    check_masks(table, {5001: (1, amodal, amodal, True)})
    assert table.repaired["record"].tolist() == ["instance 5001"]
    assert table.repaired["share"].tolist() == pytest.approx([6 / 106])
    assert rejected(table)["instance 5002"][0] == "visible_rle"
    assert accounting(table) == (2, 0, 1, 1)
    strict = read_file([image(1)], [annotation(5, 1, regions)], repairs=frozenset())
    assert accounting(strict) == (2, 0, 0, 2)


@pytest.mark.parametrize(
    ("change", "field", "reason"),
    [
        ({"segmentation": None}, "segmentation", "is missing"),
        ({"segmentation": [1, 1, 5, 5]}, "segmentation", "fewer than three points"),
        ({"segmentation": [-9, -9, -5, -9, -5, -5]}, "amodal_rle", "is empty"),
        ({"visible_mask": {"size": list(SIZES[0]), "counts": "zz"}}, "visible_mask", "damaged"),
        ({"invisible_mask": {"size": [9, 9], "counts": "0"}}, "invisible_mask", "for a canvas"),
        ({"occlude_rate": 0.4}, "visible_mask", "is missing although occlude_rate is 0.4"),
    ],
)
def test_damaged_regions_are_findings(read_file, change, field, reason):
    good = region(square(0, 0, 9), square(0, 0, 9), 1)
    bad = region(square(9, 9, 9), square(9, 9, 9), 2, **change)
    table = read_file([image(1)], [annotation(5, 1, [good, bad, good])])
    assert table.instances["instance_id"].tolist() == [5001, 5003]
    found = rejected(table)
    assert [*found] == ["instance 5002"]
    assert found["instance 5002"][0] == field
    assert reason in found["instance 5002"][1]
    assert table.rejected["file"].iloc[0].endswith("a.json")
    assert accounting(table) == (3, 2, 0, 1)


@pytest.mark.parametrize("bad", [None, 5, "region", [1]])
def test_regions_that_are_no_objects_are_findings(read_file, bad):
    a = square(0, 0, 9)
    table = read_file([image(1)], [annotation(5, 1, [bad, region(a, a, 1)], "1-1")])
    assert table.instances["instance_id"].tolist() == [5002]
    field, reason = rejected(table)["instance 5001"]
    assert (field, reason) == ("regions", f"has a JSON {type(bad).__name__}, not an object")
    assert accounting(table) == (2, 1, 0, 1)


@pytest.mark.parametrize(
    ("change", "names", "field", "reason"),
    [
        ({"id": None}, "region {} of annotation at position 1", "id", "not an integer: None"),
        ({"id": "7"}, "region {} of annotation at position 1", "id", "not an integer: '7'"),
        ({"id": -7}, "region {} of annotation at position 1", "id", "is -7, not between"),
        ({"id": 10**16}, "region {} of annotation at position 1", "id", "not between 0 and"),
        ({"id": 5}, "region {} of annotation at position 1", "id", "is used twice"),
        ({"image_id": None}, "instance 700{}", "image_id", "not an integer"),
        ({"image_id": 9}, "instance 700{}", "image_id", "names an image that is not there"),
        ({"image_id": 3}, "instance 700{}", "image_id", "names an image that is not there"),
        ({"regions": {}}, "annotation 7", "regions", "is a JSON dict, not a list"),
        ({"regions": None, "id": None}, "annotation at position 1", "id", "not an integer"),
    ],
)
def test_damaged_annotations_are_a_finding_for_each_region(read_file, change, names, field, reason):
    """Image 2 is left with no annotation, image 3 is damaged itself."""
    a = square(0, 0, 9)
    annotations = [
        annotation(5, 1, [region(a, a, 1)]),
        annotation(7, 2, [region(a, a, 1), region(a, a, 2)]) | change,
    ]
    table = read_file([image(1), image(2), image(3, width=0)], annotations)
    assert table.instances["instance_id"].tolist() == [5001]
    found = rejected(table)
    assert found.pop("image 3") == ("width", "is 0, not between 1 and 32767 pixels")
    assert found.pop("image 2") == ("annotations", "has none that can be used")
    lost = 2 if "{}" in names else 1
    assert sorted(found) == sorted({names.format(i) for i in (1, 2)})
    assert all(f == field and reason in r for f, r in found.values())
    assert accounting(table) == (1 + lost, 1, 0, lost)
    assert accounting(table, "images") == (3, 1, 0, 2)


def test_annotations_that_are_no_objects_are_findings(read_file):
    a = square(0, 0, 9)
    table = read_file([image(1)], [7, annotation(5, 1, [region(a, a, 1)]), "x", []])
    assert rejected(table) == {
        f"annotation at position {at}": ("annotation", f"is a JSON {kind}, not an object")
        for at, kind in ((0, "int"), (2, "str"), (3, "list"))
    }
    assert accounting(table) == (4, 1, 0, 3)


def test_an_annotation_may_have_999_regions(read_file):
    a = region(square(0, 0, 9), square(0, 0, 9), 1)
    largest = cocoa.MAX_ANNOTATION_ID
    table = read_file([image(1)], [annotation(largest, 1, [a] * 1002)])
    assert accounting(table) == (1002, 999, 0, 3)
    assert table.instances["instance_id"].max() == largest * 1000 + 999 < 1 << 63
    field, reason = rejected(table)[f"region 1000 of annotation {largest}"]
    assert field == "regions"
    assert "999" in reason


def test_a_stated_size_that_is_wrong_is_logged(read_file, caplog):
    a = region(square(0, 0, 9), square(0, 0, 9), 1)
    annotations = [annotation(5, 1, [a], size=8), annotation(6, 2, [a]), annotation(7, 3, [a])]
    del annotations[1]["size"]
    with caplog.at_level(logging.WARNING):
        table = read_file([image(1), image(2), image(3)], annotations)
    assert accounting(table) == (3, 3, 0, 0)
    assert "1 of 3 annotations" in caplog.text
    assert "5 (8 for 1)" in caplog.text


def test_no_usable_image_is_an_error(read_file):
    a = region(square(0, 0, 9), square(0, 0, 9), 1)
    with pytest.raises(ValueError, match=r"a\.json.*no image is usable.*instance 5001: image_id"):
        read_file([image(1)], [annotation(5, 2, [a])])
    with pytest.raises(ValueError, match=r"a\.json has no annotations"):
        read_file([image(1)], [])


def test_other_files_are_refused_with_the_way_out(tmp_path):
    flat = [{"id": 1, "image_id": 1, "category_id": 1, "visible_mask": None, "segmentation": []}]
    path = write(tmp_path / "a.json", [image(1)], flat)
    with pytest.raises(ValueError, match=r"a\.json is not COCOA, .*--env=cocoa_cls"):
        read(path)
    path.write_text('{"annotations": [{"regions": []}]}')
    with pytest.raises(ValueError, match=r"a\.json has no list 'images'"):
        read(path)


@pytest.mark.parametrize("option", [{"annotators": "second"}, {"regions": "thing"}])
def test_unknown_options_are_refused(tmp_path, option):
    with pytest.raises(ValueError, match=r"'first' or 'all', and 'all', 'things' or 'stuff'"):
        read(tmp_path / "a.json", **option)


def bytes_of(folder):
    return {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in folder.iterdir()}


@pytest.mark.parametrize("options", [{}, {"annotators": "all"}, {"regions": "things"}])
def test_batches_do_not_change_a_byte(tmp_path, monkeypatch, options):
    images, annotations, _, _ = drawn(3, images=12)
    for i, a in enumerate(annotations):
        if i % 3 == 0:
            del a["depth_constraint"]
        if i % 4 == 0:
            a["regions"].append({"segmentation": None})
    again = copy.deepcopy(annotations[:6])
    for a in again:
        a["id"] += 2000
    path = write(tmp_path / "a.json", images, annotations + again)
    read(path, **options).save(tmp_path / "whole")
    monkeypatch.setattr(cocoa, "BATCH", 2)
    read(path, **options).save(tmp_path / "small")
    whole, small = bytes_of(tmp_path / "whole"), bytes_of(tmp_path / "small")
    assert {whole[f"{name}.parquet"] for name in ("images", "instances")} <= {*small.values()}


def single(folder, stem, entry, picture=None, size=SIZES[0]):
    (folder / f"{stem}.json").write_text(json.dumps(entry))
    if picture:
        Image.fromarray(np.zeros((*size, 3), np.uint8)).save(folder / picture)


def singles(tmp_path):
    a, b = square(0, 0, 10), square(5, 5, 10)
    single(tmp_path, "b", annotation(8, 3, [region(a, a, 1)]), "b.png")
    single(tmp_path, "a", annotation(5, 1, [region(a, a, 1), region(b, b, 2)], "1-2"), "a.jpg")
    single(tmp_path, "c", annotation(9, 4, [region(a, a, 1)]))
    single(tmp_path, "d", annotation(4, 3, [region(b, b, 1)]))
    return {5001: (1, a, a, True), 5002: (1, b, b, True), 8001: (3, a, a, True)}


def test_a_folder_of_single_annotations(tmp_path):
    truth = singles(tmp_path)
    table = read_cocoa(tmp_path, tmp_path.parent, "cocoa", "val", folder=tmp_path.name)
    check_masks(table, truth)
    assert pairs_of(table) == {(5001, 5002): 25}
    names = [f"{tmp_path.name}/{name}" for name in ("a.jpg", "b.png")]
    assert table.images["file_name"].tolist() == names
    assert table.images["image_id"].tolist() == [1, 3]
    assert set(table.images["height"]) == {60}
    assert [*table.metadata.sources] == ["a.json", "b.json", "c.json", "d.json"]
    found = rejected(table)
    assert sorted(found) == ["image 4", "instance 4001", "instance 9001"]
    assert "c.jpg, " in found["image 4"][1]
    assert "none is in" in found["image 4"][1]
    assert found["instance 4001"] == ("image_id", FURTHER)
    assert accounting(table) == (5, 3, 0, 2)
    assert accounting(table, "images") == (3, 2, 0, 1)


def test_single_annotations_of_all_annotators(tmp_path):
    singles(tmp_path)
    table = read_cocoa(tmp_path, tmp_path, "cocoa", "val", annotators="all")
    assert table.images["image_id"].tolist() == [5, 8, 4]
    assert table.images["file_name"].tolist() == ["a.jpg", "b.png", "b.png"]


def test_a_single_annotation(tmp_path):
    truth = singles(tmp_path)
    table = read(tmp_path / "a.json")
    check_masks(table, {i: thing for i, thing in truth.items() if i < 6000})
    with pytest.raises(ValueError, match=r"c\.json: no image is usable: image 4: file_name is to"):
        read(tmp_path / "c.json")
    (tmp_path / "b.png").write_text("no image")
    with pytest.raises(ValueError, match=r"image 3: file_name .*b\.png cannot be read"):
        read(tmp_path / "b.json")
    (tmp_path / "x").mkdir()
    with pytest.raises(ValueError, match="not a relative path inside its image folder"):
        read_cocoa(tmp_path / "a.json", tmp_path / "x", "cocoa", "val", folder="..")


def test_a_folder_must_hold_single_annotations_only(tmp_path):
    with pytest.raises(ValueError, match=r"has no \.json file"):
        read(tmp_path)
    singles(tmp_path)
    write(tmp_path / "e.json", [image(1)], [annotation(1, 1, [])])
    with pytest.raises(ValueError, match=r"e\.json is not a single annotation with 'regions'"):
        read(tmp_path)


real = pytest.mark.skipif(not DATA.is_dir(), reason="the three published annotations are not here")


@pytest.fixture(scope="module")
def published():
    return read_cocoa(DATA, DATA.parent, "cocoa", "val", folder="cocoa")


@real
def test_published_annotations_are_all_accounted_for(published, caplog):
    assert accounting(published) == (27, 27, 0, 0)
    assert accounting(published, "images") == (3, 3, 0, 0)
    assert published.images["image_id"].tolist() == [188819, 6608, 200752]
    assert published.images["file_name"].tolist() == [f"cocoa/{i}.jpg" for i in (1, 3, 5)]
    with caplog.at_level(logging.WARNING):
        alone = read_cocoa(DATA / "5.json", DATA, "cocoa", "val")
    assert accounting(alone) == (6, 6, 0, 0)
    assert "409 (8 for 6)" in caplog.text
    assert recognise([json.loads((DATA / "5.json").read_text())]) is Format.COCOA


@real
def test_published_masks_and_rates(published):
    """Visible and invisible make up the amodal polygon; areas and rates are those stated."""
    occluded = 0
    rows = published.instances.set_index("instance_id")
    for name in (1, 3, 5):
        entry = json.loads((DATA / f"{name}.json").read_text())
        for at, stated in enumerate(entry["regions"], 1):
            row = rows.loc[entry["id"] * 1000 + at]
            assert row["image_id"] == entry["image_id"]
            assert row["is_thing"] == (not stated["isStuff"])
            assert rle.area([row["amodal_rle"]])[0] == stated["area"]
            assert row["occlusion_rate"] == pytest.approx(stated["occlude_rate"], abs=1e-3)
            if "visible_mask" in stated:
                occluded += 1
                masks = [stated[key] for key in ("visible_mask", "invisible_mask")]
                seen, hidden = coco_json.masks(masks, np.array([[480, 640]] * 2)).counts
                assert rle.union([seen], [hidden]) == [row["amodal_rle"]]
                assert seen == row["visible_rle"]
            else:
                assert row["visible_rle"] == row["amodal_rle"]
    assert occluded == 15


@real
def test_published_order_is_inferred_for_every_overlap(published):
    """The large elephant over the two others, all three over the log, one over the trunk."""
    pairs = pairs_of(published, inferred=True)
    assert len(pairs) == 32
    assert all(front < back for front, back in pairs)  # these lists are in order
    assert {pair for pair in pairs if pair[0] // 1000 == 377} == {(377001, 377002)}
    last = {(a % 1000, b % 1000) for a, b in pairs if a // 1000 == 409}
    assert last == {(2, 3), (2, 4), (2, 5), (3, 5), (4, 5), (4, 6), (5, 6)}
    masks = published.instances["amodal_rle"].tolist()
    _, _, shared = rle.overlaps(
        masks, boxes(published.instances["amodal_box"]), np.array([0, 19, 21, 27])
    )
    assert sorted(shared) == sorted(pairs.values())
