"""COCOA-cls: ready files come back as drawn; the merge follows the paper's rule to the pixel."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amodal_pipeline.annotations import json_records, rle
from amodal_pipeline.annotations.cocoa import FURTHER, read_cocoa
from amodal_pipeline.annotations.cocoa_cls import merge_cocoa_cls, read_cocoa_cls
from tests.annotations import writers
from tests.annotations.writers import (
    check_masks,
    check_rest,
    d2sa_record,
    digests,
    order_in,
    order_of,
    run_lengths,
    street,
)

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "coco_panoptic"
COCO = {18: "dog", 1: "person", 44: "bottle"}
SIZE = (20, 30)
ABOVE = "left out: no instance with an IoU above 0.75"
NOTHING = "left out: no instance in its image to compare with"


@pytest.mark.parametrize("polygons", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_ready_file(tmp_path, seed, polygons):
    scene = street(seed, categories=COCO)
    scene = replace(scene, things=[replace(t, cluster=0) for t in scene.things])
    records = [d2sa_record(replace(t, category_id=1)) for t in scene.things]
    for record, thing in zip(records, scene.things, strict=True):
        record["category_id"] = thing.category_id
        if polygons:
            record["segmentation"] = thing.amodal_polygons
    path = writers.write(tmp_path / "a.json", scene, records)
    table = read_cocoa_cls(path, tmp_path, "cocoa_cls", "val")
    check_rest(table, scene)
    check_masks(table, {t.id: (t.amodal, t.visible) for t in scene.things}, scene.sizes)
    assert order_in(table) == order_of(scene.things, 0) != {}
    assert len(table.repaired) == len(table.rejected) == 0


def test_ready_file_without_ranks_and_with_crowds(tmp_path):
    scene = street(1, categories=COCO)
    records = [d2sa_record(replace(t, category_id=1)) for t in scene.things]
    for record in records:
        del record["occl_depth"]
    records[0]["iscrowd"] = 1
    table = read_cocoa_cls(
        writers.write(tmp_path / "a.json", scene, records), tmp_path, "cocoa_cls", "val"
    )
    assert len(table.order) == 0
    ignored = table.instances["instance_id"][table.instances["ignore"]]
    assert ignored.tolist() == [records[0]["id"]]


def test_cocoa_and_plain_coco_are_refused_with_the_way_out(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps(cocoa_file([[1, 1, [strip(0, 4)]]])))
    with pytest.raises(ValueError, match=r"no list 'categories'.*--env=cocoa"):
        read_cocoa_cls(path, tmp_path, "cocoa_cls", "val")
    path.write_text(json.dumps(coco_file([[1, 1, 18, strip(0, 4)]])))
    with pytest.raises(ValueError, match="--env=composed_coco"):
        read_cocoa_cls(path, tmp_path, "cocoa_cls", "val")


def strip(x, width, y=0):
    """A row of pixels: IoUs of strips are fractions of their lengths."""
    mask = np.zeros(SIZE, np.uint8)
    mask[y, x : x + width] = 1
    return mask


def listed(ids, size=SIZE):
    return [
        {"id": i, "file_name": f"COCO_val2014_{i:012d}.jpg", "height": size[0], "width": size[1]}
        for i in ids
    ]


def as_region(shape, order):
    """From a mask, or (amodal, visible[, stuff])."""
    amodal, visible, stuff = (shape, shape, 0) if isinstance(shape, np.ndarray) else (*shape, 0)[:3]
    partial_masks = {"visible_mask": run_lengths(visible)} if (amodal != visible).any() else {}
    return {
        "segmentation": run_lengths(amodal),
        "order": order,
        "isStuff": stuff,
        **partial_masks,
    }


def cocoa_file(annotations):
    """From (annotation id, image id, shapes, depth constraint)."""
    return {
        "images": listed(dict.fromkeys(a[1] for a in annotations)),
        "annotations": [
            {
                "id": id_,
                "image_id": image_id,
                "regions": [as_region(shape, order) for order, shape in enumerate(shapes, 1)],
                "depth_constraint": "".join(constraint),
            }
            for id_, image_id, shapes, *constraint in annotations
        ],
    }


def coco_file(instances, ids=(1, 2, 3, 99)):
    """From (id, image id, category id, mask, crowd)."""
    return {
        "images": listed(ids),
        "categories": [{"id": i, "name": name} for i, name in COCO.items()],
        "annotations": [
            {
                "id": id_,
                "image_id": image_id,
                "category_id": category_id,
                "segmentation": run_lengths(mask),
                "iscrowd": int(any(crowd)),
                "bbox": [0, 0, 1, 1],
                "area": 1,
            }
            for id_, image_id, category_id, mask, *crowd in instances
        ],
    }


@pytest.fixture
def merge(tmp_path):
    def _merge(cocoa, coco, **options):
        paths = tmp_path / "COCO_amodal_val2014.json", tmp_path / "instances_val2014.json"
        for path, document in zip(paths, (cocoa, coco), strict=True):
            path.write_text(json.dumps(document))
        return merge_cocoa_cls(*paths, tmp_path, "cocoa_cls", "val", **options)

    return _merge


def rejected(table):
    return {r["record"]: (r["field"], r["reason"]) for r in table.rejected.to_dict("records")}


def categories(table):
    rows = table.instances
    return dict(zip(rows["instance_id"], rows["category_id"], strict=True))


def counts(report, section):
    rows = report[report["section"] == section]
    return {
        name: (n, of) for name, n, of in zip(rows["name"], rows["count"], rows["of"], strict=True)
    }


def check_accounts(table, report, regions):
    """Every region of COCOA is in the table's accounting, and once in the report."""
    a = table.metadata.accounting["instances"]
    assert a.read == regions == a.kept + a.repaired + a.rejected
    assert a.kept + a.repaired == len(table.instances)
    for section in ("regions", "instances"):
        found = counts(report, section)
        assert {of for _, of in found.values()} == {sum(n for n, _ in found.values())}
    assert counts(report, "regions")["with a category"] == (len(table.instances), regions)


def test_iou_must_be_above_the_threshold(merge):
    """Three quarters are not enough, 76 % are; the larger of two IoUs gives the category."""
    cocoa = cocoa_file(
        [
            [1, 1, [strip(0, 3), strip(0, 19, 2), strip(0, 20, 4), strip(0, 20, 6)]],
            [2, 2, [strip(0, 4)]],
        ]
    )
    coco = coco_file(
        [
            [1, 1, 18, strip(0, 4)],  # 3 / 4
            [2, 1, 18, strip(0, 25, 2)],  # 19 / 25
            [3, 1, 1, strip(0, 16, 4)],  # 16 / 20
            [4, 1, 44, strip(0, 17, 4)],  # 17 / 20
            [5, 1, 18, strip(5, 15, 6)],  # 15 / 20
            [6, 2, 44, strip(0, 4)],
            [7, 2, 18, strip(0, 4)],  # as large as that of 6, which comes first
            [8, 99, 18, strip(0, 4)],  # an image that COCOA does not have
        ]
    )
    table, report = merge(cocoa, coco)
    assert categories(table) == {1002: 18, 1003: 44, 2001: 44}
    assert [(c.id, c.name) for c in table.metadata.categories] == [*COCO.items()]
    assert rejected(table) == {
        "instance 1001": ("category_id", f"{ABOVE} (largest: 0.750)"),
        "instance 1004": ("category_id", f"{ABOVE} (largest: 0.750)"),
    }
    check_accounts(table, report, 5)
    # Of each category: regions that took it, of its instances in these images.
    assert counts(report, "categories") == {"dog": (1, 4), "person": (0, 1), "bottle": (2, 2)}
    assert counts(report, "images") == {"with a category": (2, 2)}
    assert counts(report, "instances")["compared"] == (7, 7)
    assert [*table.metadata.sources] == ["COCO_amodal_val2014.json", "instances_val2014.json"]

    table, _ = merge(cocoa, coco, threshold=0.74)
    assert categories(table) == {1001: 18, 1002: 18, 1003: 44, 1004: 18, 2001: 44}
    for threshold in (-0.1, 1.0, 75):
        with pytest.raises(ValueError, match="threshold"):
            merge(cocoa, coco, threshold=threshold)


def test_the_visible_mask_is_compared(merge):
    amodal, seen = strip(0, 20), strip(0, 10)
    table, _ = merge(
        cocoa_file([[1, 1, [(amodal, seen), (amodal, amodal & ~seen), (amodal, 0 * amodal)]]]),
        coco_file([[1, 1, 18, amodal], [2, 1, 1, seen]]),
    )
    assert categories(table) == {1001: 1}
    assert table.instances["occlusion_rate"].tolist() == [0.5]
    found = rejected(table)
    assert found["instance 1002"][1] == f"{ABOVE} (largest: 0.500)"
    assert found["instance 1003"][1] == f"{ABOVE} (largest: 0.000)"


def test_stuff_crowds_and_bare_images(merge):
    mask = strip(0, 10)
    table, report = merge(
        cocoa_file(
            [
                [1, 1, [(mask, mask, 1), mask, mask]],
                [2, 2, [mask]],
                [3, 3, [mask]],
            ]
        ),
        coco_file([[1, 1, 18, mask], [2, 2, 18, mask, True]]),
    )
    assert categories(table) == {1002: 18, 1003: 18}  # both take the same instance
    assert table.images["image_id"].tolist() == [1]
    lost = ("id", "left out: no region of it has a category")
    assert rejected(table) == {
        "instance 1001": ("isStuff", "left out: stuff (regions: things)"),
        "instance 2001": ("category_id", NOTHING),
        "instance 3001": ("category_id", NOTHING),
        "image 2": lost,
        "image 3": lost,
    }
    check_accounts(table, report, 5)
    assert counts(report, "regions") == {
        "with a category": (2, 5),
        "left out: stuff": (1, 5),
        NOTHING: (2, 5),
        FURTHER: (0, 5),
        "unusable in COCOA": (0, 5),
    }
    assert counts(report, "categories")["dog"] == (2, 1)
    assert counts(report, "instances")["left out: crowds"] == (1, 2)
    assert counts(report, "images") == {"with a category": (1, 3)}
    images = table.metadata.accounting["images"]
    assert (images.read, images.kept, images.rejected) == (3, 1, 2)


def test_damage_of_both_files_is_accounted_for(merge):
    mask, beyond = strip(0, 20), strip(0, 21)
    cocoa = cocoa_file([[1, 1, [(mask, beyond), mask, mask]], [2, 9, [mask]], [3, 2, [mask]]])
    cocoa["annotations"][0]["regions"][1]["segmentation"] = None
    cocoa["images"][2] |= {"height": 21}
    cocoa["annotations"][2]["regions"][0]["segmentation"]["size"][0] = 21
    cocoa["annotations"][2]["regions"][0]["segmentation"] = [0, 0, 9, 0, 9, 9]
    coco = coco_file([[1, 1, 18, mask], [2, 1, 18, mask], [3, 2, 18, mask], [4, 1, 77, mask]])
    coco["annotations"][1]["segmentation"] = [[1, 2]]
    table, report = merge(cocoa, coco)
    assert categories(table) == {1001: 18, 1003: 18}
    assert table.repaired["record"].tolist() == ["instance 1001"]
    found = rejected(table)
    assert found.pop("instance 1002") == ("segmentation", "is missing")
    assert found.pop("image 9") == (
        "id",
        "is not one of the images of instances_val2014.json: is that COCO's file of this split?",
    )
    size = "and width are 21x30, those in instances_val2014.json are 20x30"
    assert found.pop("image 2") == ("height", size)
    absent = ("category_id", "names an image that is not there or was rejected")
    assert found == {"instance 2001": absent, "instance 3001": absent}
    check_accounts(table, report, 5)
    assert counts(report, "regions")["unusable in COCOA"] == (1, 5)
    assert counts(report, "instances")["unusable in COCO"] == (2, 3)
    a = table.metadata.accounting["instances"]
    assert (a.kept, a.repaired, a.rejected) == (1, 1, 3)


def test_order_of_the_regions_that_stay(merge):
    a, b, c = strip(0, 10), strip(5, 10), strip(8, 10)
    table, _ = merge(
        cocoa_file([[1, 1, [a, (b, b & ~a), (c, c & ~a & ~b)], "1-2,1-3,2-3,1-9"]]),
        coco_file([[1, 1, 18, a], [2, 1, 1, b & ~a]]),
    )
    assert order_in(table) == {(1001, 1002): 5}
    lost = ("category_id", "left out: a region of the pair has no category")
    found = rejected(table)
    assert found["order pair 1001 over 1003"] == found["order pair 1002 over 1003"] == lost
    assert found["order pair 1-9 of annotation 1"][0] == "depth_constraint"
    order = table.metadata.accounting["order"]
    assert (order.read, order.kept, order.rejected) == (4, 1, 3)


def test_wrong_files_are_refused(merge):
    cocoa, coco = cocoa_file([[1, 1, [strip(0, 9)]]]), coco_file([[1, 1, 18, strip(0, 9)]])
    with pytest.raises(ValueError, match=r"val2014\.json is not COCOA, regions within"):
        merge(coco, coco)
    with pytest.raises(ValueError, match=r"instances_val2014\.json is not plain COCO"):
        merge(cocoa, cocoa | {"categories": []})
    with pytest.raises(ValueError, match=r"image 1: id is not one of the images of instances_val"):
        merge(cocoa, coco_file([[1, 2, 18, strip(0, 9)]], ids=(2, 3)))


masks = st.lists(st.integers(0, 1), min_size=24, max_size=24).map(
    lambda bits: np.array(bits, np.uint8).reshape(4, 6)
)


@settings(max_examples=30, deadline=None)
@given(
    regions=st.lists(st.tuples(st.integers(1, 3), masks), min_size=1, max_size=8),
    instances=st.lists(st.tuples(st.integers(1, 3), masks, st.booleans()), max_size=8),
    threshold=st.sampled_from([0.0, 0.25, 0.5, 0.75]),
)
def test_matches_are_those_of_a_plain_comparison(tmp_path_factory, regions, instances, threshold):
    folder = tmp_path_factory.mktemp("merge")
    grown = [(image, np.pad(mask, ((0, 16), (0, 24)))) for image, mask in regions]
    cocoa = cocoa_file([[i, i, [mask for image, mask in grown if image == i]] for i in (1, 2, 3)])
    coco = coco_file(
        [
            [n, image, [*COCO][n % 3], np.pad(mask, ((0, 16), (0, 24))), crowd]
            for n, (image, mask, crowd) in enumerate(instances)
        ]
        or [[0, 1, 18, strip(0, 0)]]
    )
    paths = folder / "cocoa.json", folder / "coco.json"
    for path, document in zip(paths, (cocoa, coco), strict=True):
        path.write_text(json.dumps(document))
    want = {}
    for i in (1, 2, 3):
        for at, mask in enumerate((m for image, m in regions if image == i), 1):
            best = 0.0, None
            for n, (image, other, crowd) in enumerate(instances):
                if image == i and not crowd and mask.any() and other.any():
                    iou = (mask & other).sum() / (mask | other).sum()
                    best = max(best, (iou, [*COCO][n % 3]), key=lambda b: b[0])
            if best[0] > threshold:
                want[1000 * i + at] = best[1]
    try:
        table, report = merge_cocoa_cls(*paths, folder, "c", "val", threshold=threshold)
    except ValueError as error:
        assert "no image is usable" in str(error)
        assert not want
    else:
        assert categories(table) == want
        check_accounts(table, report, len(regions))


def test_batches_do_not_change_a_byte(tmp_path, monkeypatch):
    draw = np.random.default_rng(0)
    shapes = [
        [strip(int(draw.integers(9)), 20, y) for y in range(int(draw.integers(1, 9)))]
        for _ in range(20)
    ]
    cocoa = cocoa_file([[i, i, group] for i, group in enumerate(shapes, 1)])
    instances = [
        [100 * i + n, i, 18, np.roll(mask, int(draw.integers(4)), axis=1)]
        for i, group in enumerate(shapes, 1)
        for n, mask in enumerate(group)
    ]
    paths = tmp_path / "cocoa.json", tmp_path / "coco.json"
    for path, document in zip(paths, (cocoa, coco_file(instances, range(1, 21))), strict=True):
        path.write_text(json.dumps(document))
    names = (*paths, tmp_path, "cocoa_cls", "val")
    whole, report = merge_cocoa_cls(*names)
    whole.save(tmp_path / "whole")
    monkeypatch.setattr(json_records, "BATCH", 7)
    monkeypatch.setattr("amodal_pipeline.annotations.cocoa.BATCH", 3)
    steps = []
    table, again = merge_cocoa_cls(*names, on_progress=lambda *done: steps.append(done))
    table.save(tmp_path / "small")
    assert digests(tmp_path / "whole") == digests(tmp_path / "small")
    assert report.equals(again)
    assert sum(done == total for done, total in steps) == 2


@pytest.mark.skipif(not DATA.is_dir(), reason="COCO's photographs and masks are not here")
@pytest.mark.parametrize("split", ["train", "val"])
def test_real_instances_with_some_pixels_less(tmp_path, split):
    """Regions made from COCO's instances: the share that is left of each is the IoU with it."""
    coco_path = DATA / f"instances_{split}2017_from_panoptic.json"
    coco = json.loads(coco_path.read_text())
    sizes = {i["id"]: (i["height"], i["width"]) for i in coco["images"]}
    draw = np.random.default_rng(5)
    annotations, want, exact, crowds = {}, {}, 0, 0
    for instance in coco["annotations"]:
        size = sizes[instance["image_id"]]
        mask = rle.decode([instance["segmentation"]["counts"]], size)[0]
        area = int(mask.sum())
        stays = draw.choice([area, int(0.75 * area) + 1, int(0.75 * area), int(0.6 * area)])
        stays = max(int(stays), 1)
        less = np.zeros(mask.size, np.uint8)
        less[np.flatnonzero(mask)[:stays]] = 1
        image_id = instance["image_id"]
        entry = annotations.setdefault(
            image_id, {"id": image_id, "image_id": image_id, "regions": []}
        )
        entry["regions"].append(as_region(less.reshape(size), 1))
        exact += 4 * stays == 3 * area
        crowds += instance["iscrowd"]
        if 4 * stays > 3 * area and not instance["iscrowd"]:
            want[image_id * 1000 + len(entry["regions"])] = instance["category_id"]
    assert exact > 10
    assert crowds > 0
    cocoa_path = tmp_path / "cocoa.json"
    images = [i for i in coco["images"] if i["id"] in annotations]
    cocoa_path.write_text(json.dumps({"images": images, "annotations": [*annotations.values()]}))
    table, report = merge_cocoa_cls(cocoa_path, coco_path, tmp_path, "cocoa_cls", split)
    assert categories(table) == want
    check_accounts(table, report, len(coco["annotations"]))
    assert counts(report, "instances")["left out: crowds"][0] == crowds
    whole = read_cocoa(cocoa_path, tmp_path, "cocoa", split)
    kept = whole.instances["instance_id"].isin(set(want))
    masks = whole.instances["visible_rle"][kept].tolist()
    assert table.instances["visible_rle"].tolist() == masks
