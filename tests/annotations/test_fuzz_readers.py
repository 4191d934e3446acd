"""Damaged and hostile files: a table whose invariants hold, or an error that names the file.

First any damage to small files of every format, then each case that was once read wrongly. Cases
that took too long or too much memory are in test_work_limits.py.
"""

import copy
import json
import math
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import PurePosixPath, PureWindowsPath

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as coco_mask

from amodal_pipeline.annotations import flat, rle
from amodal_pipeline.annotations.coco_amodal import read_coco_amodal
from amodal_pipeline.annotations.cocoa import read_cocoa
from amodal_pipeline.annotations.cocoa_cls import merge_cocoa_cls, read_cocoa_cls
from amodal_pipeline.annotations.d2sa import read_d2sa
from amodal_pipeline.annotations.formats import Format
from amodal_pipeline.annotations.kins import read_kins
from amodal_pipeline.annotations.storage import is_relative_name
from tests.annotations import writers
from tests.annotations.writers import SQUARE
from tests.annotations.writers import flat_record as record
from tests.annotations.writers import flat_text as text

SIZE = (20, 30)
DEEP = 900  # levels that orjson allows, and Python's repr does not
HOSTILE = (
    *(None, True, 0, -1, 1, 7, 3.0, 0.5, 1e308, math.nan, math.inf, 9459, 32767, 2**31, 2**63),
    *(-(2**63), 10**400, "", "1", "\x00", "é", "\ud800", "x" * 5000, [], {}, [[]], [None], [0]),
    *([1, 1, 3, 3], [[0] * 6], [SQUARE], {"": {}}, {"size": [20, 30], "counts": "o" * 9}),
    *({"size": [20, 30], "counts": [1, 2]}, "1-2,2-1", "9-9", "../a.jpg", "C:\\a.jpg", "/" * 5000),
)
KEYS = (
    *("id", "image_id", "category_id", "segmentation", "a_segm", "visible_mask", "inmodal_seg"),
    *("ico_id", "occl_depth", "order", "depth_constraint", "regions", "annotations", "é", "\ud800"),
)
STRAY = (b"", b"\xff", b"\x00", b'"', b"\\", b"[", b"]", b"{", b",", b"9" * 30, b"[" * 3000)


def document(scene, records):
    images = [
        {"id": i, "file_name": name, "height": h, "width": w}
        for i, (name, (h, w)) in scene.images.items()
    ]
    categories = [{"id": i, "name": name} for i, name in scene.categories.items()]
    return {"images": images, "annotations": records, "categories": categories}


def documents(seed):
    """A small valid file of each format, as json.load gives it."""
    scene = writers.street(seed, images=2)
    regions = {}
    for thing in scene.things:
        region = {"segmentation": thing.amodal_polygons, "order": len(regions), "isStuff": seed % 2}
        region["visible_mask"] = writers.run_lengths(thing.visible)
        regions.setdefault(thing.image_id, []).append(region | {"occlude_rate": 0.1})
    cocoa = [
        {"id": i, "image_id": i, "regions": listed, "depth_constraint": "1-2,2-3", "size": 3}
        for i, listed in regions.items()
    ]
    modal = [
        {"id": t.id, "image_id": t.image_id, "category_id": t.category_id}
        | {"segmentation": t.amodal_polygons, "iscrowd": t.id % 2}
        for t in scene.things
    ]
    d2sa = document(scene, [*map(writers.d2sa_record, scene.things)])
    return {
        "kins_2019": document(scene, [*map(writers.kins_2019_record, scene.things)]),
        "kins_2020": document(scene, [*map(writers.kins_2020_record, scene.things)]),
        "d2sa": d2sa,
        "cocoa_cls": d2sa,
        "flat": d2sa,
        "cocoa": document(scene, cocoa),
        "cocoa_single": cocoa[0],
        "merge": document(scene, cocoa),
        "modal": document(scene, modal),
    }


READ = {
    "kins_2019": read_kins,
    "kins_2020": read_kins,
    "d2sa": read_d2sa,
    "cocoa_cls": read_cocoa_cls,
    "flat": read_coco_amodal,
    "cocoa": partial(read_cocoa, annotators="all"),
    "cocoa_single": read_cocoa,
    "merge": merge_cocoa_cls,
    "modal": partial(flat.read_table, forms={Format.MODAL: flat.MODAL}),
}


@st.composite
def damaged(draw, given):
    """The bytes of a file after up to three damages to its values, and now and then its bytes."""
    root = [copy.deepcopy(given)]
    for _ in range(draw(st.integers(0, 3))):
        holder, key = root, 0
        while isinstance(child := holder[key], (list, dict)) and child and draw(st.integers(0, 5)):
            holder = child
            key = draw(st.sampled_from([*child] if isinstance(child, dict) else range(len(child))))
        action = draw(st.sampled_from(["replace", "delete", "copy", "rename", "edit"]))
        value = holder[key]
        if action == "edit" and isinstance(value, str):
            at = draw(st.integers(0, len(value)))
            holder[key] = value[:at] + draw(st.sampled_from("0o1P-, é")) + value[at + 1 :]
        elif action == "edit" and isinstance(value, (int, float)) and abs(value) < 1e300:
            holder[key] = value * draw(st.sampled_from([-1, 0.2, 3, 1e6, 2**40]))
        elif action == "delete" and holder is not root:
            del holder[key]
        elif action == "copy" and isinstance(holder, list) and holder is not root:
            holder.append(copy.deepcopy(value))
        elif action == "rename" and isinstance(holder, dict):
            holder[draw(st.sampled_from(KEYS))] = holder.pop(key)
        else:
            holder[key] = copy.deepcopy(draw(st.sampled_from(HOSTILE)))
    text = json.dumps(root[0], ensure_ascii=draw(st.booleans()))
    data = text.encode("utf-8", "surrogatepass")
    if draw(st.integers(0, 9)) == 0:
        at = draw(st.integers(0, len(data)))
        data = data[:at] + draw(st.sampled_from(STRAY)) + data[at + draw(st.integers(0, 20)) :]
    return data


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize("name", READ)
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data(), seed=st.integers(0, 3))
def test_any_damage_gives_a_sound_table_or_an_error_that_names_the_file(tmp_path, name, data, seed):
    path, other = tmp_path / "a.json", tmp_path / "b.json"
    given = documents(seed)
    path.write_bytes(data.draw(damaged(given[name])))
    if name == "cocoa_single":
        height, width = given["cocoa"]["images"][0]["height"], given["cocoa"]["images"][0]["width"]
        Image.new("L", (width, height)).save(tmp_path / "a.png")
    paths = [path]
    if name == "merge":
        other.write_bytes(data.draw(damaged(given["modal"])))
        paths.append(other)
    try:
        table = READ[name](*paths, image_root=tmp_path, dataset="d", split="train")
    except ValueError as error:
        assert any(str(p) in str(error) for p in paths)
        assert len(str(error)) < 2000 and str(error).isprintable()
        return
    table = table[0] if name == "merge" else table
    assert problems_of(table, paths) == []
    if "cocoa" not in name and name != "merge":
        read = table.metadata.accounting["instances"].read
        assert read == len(json.loads(path.read_bytes())["annotations"])


def problems_of(table, paths):
    """The invariants of a table that do not hold, found with pycocotools."""
    found = []
    images = {r.image_id: (r.height, r.width) for r in table.images.itertuples()}
    rows = {r.instance_id: r for r in table.instances.itertuples()}
    masks = {}
    unsafe = [n for n in table.images["file_name"] if not stays_inside(n)]
    found += ["a file name leaves its folder"] * len(unsafe)
    if len(images) < len(table.images) or len(rows) < len(table.instances):
        found.append("an id comes twice")
    for i, row in rows.items():
        size = images.get(row.image_id)
        if size is None or row.category_id not in {c.id for c in table.metadata.categories}:
            found.append("unknown image or category")
            continue
        texts = [row.amodal_rle, row.visible_rle]
        if rle.problems(texts, size).any():
            found.append("no mask of its canvas")
            continue
        amodal, visible = masks[i] = rle.as_coco(texts, size)
        area, seen = coco_mask.area(amodal), coco_mask.area(visible)
        both = coco_mask.area(coco_mask.merge([amodal, visible], intersect=True))
        if area == 0 or both != seen or abs(row.occlusion_rate - (1 - seen / area)) > 1e-6:
            found.append("an empty mask, visible pixels outside or a wrong rate")
        for box, mask, pixels in ((row.amodal_box, amodal, area), (row.visible_box, visible, seen)):
            given = None if box is pd.NA else list(box)
            if given != ([*coco_mask.toBbox(mask)] if pixels else None):
                found.append("a wrong box")
    for pair in table.order.itertuples():
        front, back = rows.get(pair.occluder_id), rows.get(pair.occludee_id)
        if front is None or back is None or not front.image_id == back.image_id == pair.image_id:
            found.append("an order pair of nothing or across images")
        elif {pair.occluder_id, pair.occludee_id} <= masks.keys():
            both = [masks[pair.occluder_id][0], masks[pair.occludee_id][0]]
            if pair.area != coco_mask.area(coco_mask.merge(both, intersect=True)) or not pair.area:
                found.append("an order pair that shares other pixels")
    kinds = Counter(" ".join(r.split()[:1]) for r in table.rejected["record"])
    kinds = {"images": kinds["image"], "order": kinds["order"]}
    kinds["instances"] = len(table.rejected) - sum(kinds.values())
    for kind, counted in table.metadata.accounting.items():
        kept, lost = counted.kept + counted.repaired, counted.rejected
        if (counted.read, kept, lost) != (kept + lost, len(getattr(table, kind)), kinds[kind]):
            found.append(f"{kind} do not add up")
    for finding in [*table.rejected.itertuples(), *table.repaired.itertuples()]:
        if finding.file not in map(str, paths) or not 0 < len(finding.reason) < 300:
            found.append("a finding of another file, or one that says too much")
    return found


def stays_inside(name):
    return "\0" not in name and not any(
        p.is_absolute() or p.drive or p.root or ".." in p.parts or not p.parts
        for p in (PurePosixPath(name), PureWindowsPath(name))
    )


def test_broken_invariants_are_seen(read, tmp_path):
    table = read(text([record(1, occl_depth=1), record(2, occl_depth=0)]))
    empty, whole = rle.encode(np.stack([np.zeros(SIZE), np.ones(SIZE)]))
    for name, columns, said in (
        ("instances", {"instance_id": 1}, "an id comes twice"),
        ("instances", {"category_id": 9}, "unknown image or category"),
        ("instances", {"amodal_rle": "11"}, "no mask of its canvas"),
        ("instances", {"visible_rle": whole}, "visible pixels outside"),
        ("instances", {"visible_rle": empty}, "a wrong box"),
        ("images", {"file_name": "a/../../b.jpg"}, "leaves its folder"),
        ("order", {"occluder_id": 7}, "of nothing"),
        ("order", {"area": 7}, "shares other pixels"),
        ("order", {}, "order do not add up"),
    ):
        changed = getattr(table, name).assign(**columns)
        broken = replace(table, **{name: changed if columns else changed[:0]})
        assert said in " ".join(problems_of(broken, [tmp_path / "a.json"]))
    assert problems_of(table, [tmp_path / "a.json"]) == []


def only_finding(table):
    """Field and reason of the second record, which was rejected; the first was kept."""
    assert table.instances["instance_id"].tolist() == [1]
    assert table.rejected["record"].tolist() == ["instance 2"]
    return table.rejected["field"].iloc[0], table.rejected["reason"].iloc[0]


@pytest.mark.parametrize("wrong", [10**400, "5", True, None, [], {}], ids=lambda v: f"{v!s:.5}")
def test_a_coordinate_that_is_no_number_is_one_whatever_else_the_file_has(read, wrong):
    """10**400 ended in an OverflowError; "5" was one in files with another fault, else none."""
    polygon = [*SQUARE[:5], wrong, *SQUARE[6:]]
    found = only_finding(read(text([record(1), record(2, segmentation=[polygon])])))
    assert found == ("segmentation", "a coordinate is not a number")


@pytest.mark.parametrize("key", ["image_id", "segmentation"])
def test_deep_values_are_shown_in_part(read, key):
    """Their repr ended in a RecursionError."""
    wrong = {"image_id": "@", "segmentation": {"size": "@", "counts": "1"}}[key]
    given = text([record(1), record(2, **{key: wrong})])
    field, reason = only_finding(read(given.replace('"@"', "[" * DEEP + "]" * DEEP)))
    assert field == key and len(reason) < 120


def test_long_keys_are_shown_in_part(read):
    with pytest.raises(ValueError, match="no list 'images'") as error:
        read(json.dumps({"x" * 100_000: 1}))
    assert len(str(error.value)) < 1000


def test_a_name_with_a_zero_byte_is_none():
    assert not is_relative_name("a\0b.jpg")


def test_categories_of_cocoa_are_not_looked_at(tmp_path):
    """COCOA has none of its own; ``null`` ended in a TypeError."""
    given = documents(0)["cocoa"] | {"categories": None}
    (tmp_path / "a.json").write_text(json.dumps(given))
    assert len(read_cocoa(tmp_path / "a.json", tmp_path, "cocoa", "val").instances)
