"""Damaged and hostile files: a table that keeps its promises, or an error that names the file.

The recorded run is benchmarks/fuzz_readers.py; here are some hundred of its inputs for each reader,
and everything that it found.
"""

import json
import math
import multiprocessing
import os
import resource
import signal
import sys
import time
from collections import deque
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from amodal_pipeline.annotations import coco_json, json_records, order, rle
from amodal_pipeline.annotations.coco_amodal import read_coco_amodal
from amodal_pipeline.annotations.kins import read_kins
from amodal_pipeline.annotations.storage import is_relative_name
from tests.annotations.writers import raster

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
READERS = (
    *("kins_2019", "kins_2020", "d2sa", "cocoa", "cocoa_single", "cocoa_cls", "merge"),
    *("flat", "coco_modal"),
)
COUNT = 100  # inputs a reader
SIZE = (20, 30)
SQUARE = [4, 4, 14, 4, 14, 14, 4, 14]
DEEP = 900  # levels that the quick JSON reader allows, and Python's repr does not


@pytest.fixture
def fuzz(monkeypatch):
    """The program, without its limit of memory: this process may have much already."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    program = import_module("fuzz_readers")
    monkeypatch.setattr(program, "MAX_MEGABYTES", math.inf)
    monkeypatch.setattr(program, "TIRED_MEGABYTES", math.inf)
    monkeypatch.setattr(json_records, "scan", json_records.scan)  # it is changed there
    return program


@pytest.mark.parametrize("reader", READERS)
def test_damaged_files(fuzz, tmp_path, reader):
    assert reader in fuzz.READERS
    tally, stop = fuzz.run_chunk(fuzz.Chunk(reader, False, 0, COUNT, 1), tmp_path, lambda _: None)
    assert tally.failures == []
    assert tally.inputs == stop == COUNT
    # Neither are all files beyond help, nor all harmless.
    assert tally.outcomes["table"] + tally.outcomes["table with findings"] > COUNT // 4
    assert tally.outcomes["error"] > COUNT // 10


def test_large_files(fuzz, tmp_path):
    tally, _ = fuzz.run_chunk(fuzz.Chunk("kins_2020", True, 0, 13, 2), tmp_path, lambda _: None)
    assert tally.failures == []
    assert len(tally.kinds) == 13
    assert tally.slowest[0] < fuzz.MAX_SECONDS


def test_the_first_call_of_a_process_is_not_timed(fuzz, tmp_path, monkeypatch):
    """Loops are compiled then, where no cache has them: seconds that no input takes."""
    calls = []

    def fake(name):
        def read(paths, index):
            end = time.process_time() + (0 if calls else 0.2)
            calls.append([p.name for p in paths])
            while time.process_time() < end:
                pass
            raise ValueError(f"{paths[0]} is damaged")

        return read

    monkeypatch.setattr(fuzz, "reader", fake)
    tally, _ = fuzz.run_chunk(fuzz.Chunk("merge", True, 0, 1, 0), tmp_path, lambda _: None)
    assert calls == [["cocoa.json", "instances.json"]] * 2
    assert tally.inputs == 1 and tally.slowest[0] < 0.1


@pytest.mark.parametrize("reader", READERS)
def test_the_file_that_is_read_first_is_sound(fuzz, tmp_path, reader):
    """Else it would be refused before anything is compiled."""
    given = fuzz.small_file(reader)
    for name, data in given.items():
        (tmp_path / name).write_bytes(data)
    table = fuzz.reader(reader)([tmp_path / name for name in given], 1)
    assert len(table.instances) > 1


def test_inputs_follow_from_seed_and_index(fuzz):
    for large in (False, True):
        chunk = fuzz.Chunk("merge", large, 0, 9, 5)
        assert fuzz.make(chunk, 3) == fuzz.make(chunk, 3) != fuzz.make(chunk, 4)
        assert fuzz.make(chunk, 3) != fuzz.make(replace(chunk, seed=6), 3)


@pytest.mark.skipif(sys.platform != "linux", reason="processes are watched through /proc")
def test_crashes_and_loops_are_found_and_the_rest_goes_on(fuzz, tmp_path, monkeypatch):
    def fake(name):
        def read(paths, index):
            if index == 3:
                os.kill(os.getpid(), signal.SIGKILL)
            while index == 5:
                pass
            if index == 7:
                return {}["key"]
            raise ValueError("no file named" if index == 8 else f"{paths[0]} is damaged")

        return read

    for name, value in {
        "reader": fake,
        "MAX_SECONDS": 0.3,
        "ADDRESS_SPACE": resource.RLIM_INFINITY,
    }.items():
        monkeypatch.setattr(fuzz, name, value)
    fork = multiprocessing.get_context("fork")
    monkeypatch.setattr(fuzz.multiprocessing, "get_context", lambda _: fork)
    chunk = fuzz.Chunk("flat", False, 0, 10, 0)
    tallies = fuzz.run(deque([chunk]), 1, tmp_path, lambda _: None)
    tally = tallies["flat", False]
    assert (tally.inputs, tally.outcomes) == (10, {"error": 6, "failure": 4})
    assert {f["index"]: f["message"] for f in tally.failures} == {
        3: "the process ended with code -9",
        5: "not done after 0 s",
        7: "KeyError: 'key'",
        8: "ValueError names no file: no file named",
    }
    assert all(f"--reader flat --seed 0 --index {f['index']}" in f["again"] for f in tally.failures)


def test_the_judge_sees_what_is_wrong_with_a_table(fuzz, read, tmp_path):
    """Each invariant that is broken by hand is reported."""
    judge = import_module("fuzz_checks")
    given = text([record(1, occl_depth=1), record(2, occl_depth=0)])
    table, path = read(given), tmp_path / "a.json"
    expect = judge.in_file(given.encode())

    def problems(**tables):
        return " ".join(judge.table_problems(replace(table, **tables), [path], expect))

    def changed(name, **columns):
        return problems(**{name: getattr(table, name).assign(**columns)})

    mask, empty, whole = rle.encode(np.stack([np.eye(*SIZE), np.zeros(SIZE), np.ones(SIZE)]))
    assert problems() == ""
    assert "the same id" in changed("instances", instance_id=1)
    assert "unknown image or category" in changed("instances", image_id=9)
    assert "unknown image or category" in changed("instances", category_id=9)
    assert "is empty" in changed("instances", amodal_rle=empty, visible_rle=empty)
    assert "visible outside" in changed("instances", visible_rle=mask)
    assert "not on its canvas" in changed("instances", amodal_rle="11")
    assert "no string of run lengths" in changed("instances", visible_rle="o")
    assert "has the box" in changed("instances", amodal_rle=whole)
    assert "has the box" in changed("instances", visible_rle=empty)
    assert "occlusion rate" in changed("instances", occlusion_rate=0.5)
    assert "leaves its folder" in changed("images", file_name="a/../../b.jpg")
    assert "a canvas of" in changed("images", height=40_000)
    assert "of nothing" in changed("order", occluder_id=7)
    assert "across images" in changed("order", image_id=8)
    assert "shares other pixels" in changed("order", area=7)
    assert "not those counted" in problems(instances=table.instances[:1], order=table.order[:0])
    more = judge.Expected((1, 1), (3, 3))
    assert "(3, 3) instances, 2 were read" in judge.table_problems(table, [path], more)[0]


def record(number, **changes):
    return {
        "id": number,
        "image_id": 7,
        "category_id": 3,
        "segmentation": [SQUARE],
        "visible_mask": [SQUARE],
    } | changes


def text(records, size=SIZE):
    height, width = size
    return json.dumps(
        {
            "images": [{"id": 7, "file_name": "a.jpg", "height": height, "width": width}],
            "categories": [{"id": 3, "name": "cup"}],
            "annotations": records,
        }
    )


@pytest.fixture
def read(tmp_path):
    def _read(given, **options):
        path = tmp_path / "a.json"
        path.write_text(given)
        return read_coco_amodal(path, tmp_path, "mine", "train", **options)

    return _read


def only_finding(table, number):
    """Field and reason of the one record that was rejected; the other one was kept."""
    assert table.instances["instance_id"].tolist() == [1]
    assert table.rejected["record"].tolist() == [f"instance {number}"]
    return table.rejected["field"].iloc[0], table.rejected["reason"].iloc[0]


@pytest.mark.parametrize("wrong", [10**400, "5", True, None, [], {}], ids=lambda v: f"{v!s:.5}")
def test_a_coordinate_that_is_no_number_is_one_whatever_else_the_file_has(read, wrong):
    """10**400 ended in an OverflowError; "5" was one in files with another fault, else none."""
    polygon = [*SQUARE[:5], wrong, *SQUARE[6:]]
    found = only_finding(read(text([record(1), record(2, segmentation=[polygon])])), 2)
    assert found == ("segmentation", "a coordinate is not a number")


@pytest.mark.parametrize("key", ["image_id", "segmentation"])
def test_deep_values_are_shown_in_part(read, key):
    """Their repr ended in a RecursionError."""
    deep = "[" * DEEP + "]" * DEEP
    wrong = {"image_id": "@", "segmentation": {"size": "@", "counts": "1"}}[key]
    given = text([record(1), record(2, **{key: wrong})]).replace('"@"', deep)
    field, reason = only_finding(read(given), 2)
    assert field == key
    assert len(reason) < 120


def test_long_keys_are_shown_in_part(read):
    with pytest.raises(ValueError, match="no list 'images'") as error:
        read(json.dumps({"x" * 100_000: 1}))
    assert len(str(error.value)) < 1000


@pytest.mark.parametrize("second", ["[]", '[{"id": 1}]'])
def test_a_list_of_records_that_comes_twice_is_refused(read, second):
    """An empty second one was passed over; for other programs the file has no records then."""
    given = text([record(1)])[:-1] + f', "annotations": {second}}}'
    with pytest.raises(ValueError, match="'annotations' of its list once"):
        read(given)


def test_a_name_with_a_zero_byte_is_none():
    assert not is_relative_name("a\0b.jpg")


def test_many_polygons_are_one_mask_in_short_time(read):
    """They were united one by one: an hour for a megabyte of them."""
    draw = np.random.default_rng(0)
    corners = draw.integers(0, 300, (6000, 1, 2)) + np.array([[0, 0], [3, 0], [0, 4]])
    polygons = corners.reshape(-1, 6).tolist()
    given = text([record(1, segmentation=polygons, visible_mask=polygons[:7])], (300, 310))
    read(text([record(1, segmentation=polygons[:9], visible_mask=polygons[:7])], (300, 310)))
    start = time.perf_counter()  # once all is compiled
    table = read(given)
    assert time.perf_counter() - start < 5
    for column, some in (("amodal_rle", polygons), ("visible_rle", polygons[:7])):
        mask = rle.decode(table.instances[column].tolist(), (300, 310))[0]
        np.testing.assert_array_equal(mask, raster(some, (300, 310)))


def across(number):
    """A triangle that crosses the widest canvas, in a hundred characters."""
    return record(number, segmentation=[[0, number % 2000, 32767, 9, 0, 2000]], visible_mask=None)


def test_masks_that_are_much_work_for_few_characters_are_refused(read):
    """8,000 triangles over 32,767 columns of pixels took gigabytes."""
    small = [record(number) for number in range(9000, 9050)]
    table = read(text([*map(across, range(3000)), *small], (2730, 32767)))
    kept = set(table.instances["instance_id"])
    assert kept >= {r["id"] for r in small}
    assert 100 < len(kept) < 1000
    assert set(table.rejected["reason"]) == {"its polygons cross too many columns of pixels"}
    assert sum(len(text) for text in table.instances["amodal_rle"]) < 100 << 20


def test_objects_as_wide_as_large_photographs_are_drawn(read):
    """Annotators' outlines of things that fill pictures of 24 megapixels are no attack."""
    angles = np.linspace(0, 2 * math.pi, 40, endpoint=False)
    outline = np.stack([3000 + 2900 * np.cos(angles), 2000 + 1900 * np.sin(angles)], axis=1)
    outline = outline.round(1).reshape(-1).tolist()
    records = [record(i, segmentation=[outline], visible_mask=[outline]) for i in range(3000)]
    assert len(text(records)) > json_records.PIECE_BYTES
    drawn = coco_json.masks([r["segmentation"] for r in records], np.tile([4000, 6000], (3000, 1)))
    assert not any(drawn.reasons)


def drawn_ones(polygons, size):
    """Which of some masks are drawn, as the only ones of their file: bool [N]."""
    found = coco_json.masks([[p] for p in polygons], np.tile(size, (len(polygons), 1)))
    assert set(found.reasons) <= {None, "its polygons cross too many columns of pixels"}
    return np.equal(found.reasons, None)


def ring(corners, draw, size=(6000, 8000)):
    """An outline as wide and high as its image, with a wobble of a hundredth of it."""
    angles = np.linspace(0, 2 * math.pi, corners, endpoint=False)
    shape = np.stack([np.cos(angles), np.sin(angles)], axis=1) * draw.uniform(0.99, 1, (corners, 1))
    return (np.array(size[::-1]) / 2 * (1 + shape)).round(1).reshape(-1).tolist()


@pytest.mark.parametrize("corners", [8, 40, 2000, 20_000])
def test_any_number_of_outlines_as_wide_as_a_large_image_is_drawn(monkeypatch, corners):
    """Of 8,000 octagons, 5,013 were rejected: each is to be within what a mask may have."""
    monkeypatch.setattr(coco_json, "MAX_CROSSINGS", 0)
    draw = np.random.default_rng(0)
    assert drawn_ones([ring(corners, draw) for _ in range(3)], (6000, 8000)).all()


def test_thousands_of_sides_from_end_to_end_are_refused(monkeypatch):
    """Seconds of work and a gigabyte of memory for a megabyte of polygons with 20,000 corners."""
    monkeypatch.setattr(coco_json, "MAX_CROSSINGS", 1 << 21)
    y = np.random.default_rng(0).integers(0, 9, (3, 20_000))
    x = np.broadcast_to(np.tile([0, 256], 10_000), y.shape)
    zigzags = np.stack([x, y], axis=2).reshape(3, -1).tolist()
    found = drawn_ones([*zigzags, SQUARE], (9459, 9459))
    assert found.tolist() == [True, False, False, True]


def test_pairs_of_detailed_objects_are_not_looked_at_one_by_one(read, tmp_path, monkeypatch):
    """A thousand objects of many runs each took minutes."""
    monkeypatch.setattr(order, "MAX_WORK", 3 * 3 * 20)
    records = [
        record(i, a_segm=[SQUARE], i_segm=[SQUARE], oco_id=1, ico_id=i, image_id=image)
        for i, image in ((1, 7), (2, 7), (3, 7), (4, 8), (5, 8))
    ]
    document = json.loads(text(records))
    document["images"].append({"id": 8, "file_name": "b.jpg", "height": 20, "width": 30})
    path = tmp_path / "a.json"
    path.write_text(json.dumps(document))
    table = read_kins(path, tmp_path, "kins", "train")
    assert table.order["image_id"].tolist() == [8]
    assert table.rejected["record"].tolist() == ["order pair of image 7"]
    assert table.rejected["field"].tolist() == ["ico_id"]
    assert "no order derived" in table.rejected["reason"].iloc[0]


def test_a_crowd_with_few_ranks_is_listed_too(tmp_path, monkeypatch):
    """Objects without a rank counted for looking at pairs, and not for saying so."""
    monkeypatch.setattr(order, "MAX_OBJECTS", 2)
    ranks = (1, 2, 0)
    records = [
        record(i, a_segm=[SQUARE], i_segm=[SQUARE], oco_id=1, ico_id=rank)
        for i, rank in enumerate(ranks)
    ]
    path = tmp_path / "a.json"
    path.write_text(text(records))
    table = read_kins(path, tmp_path, "kins", "train")
    assert len(table.order) == 0
    assert table.rejected["record"].tolist() == ["order pair of image 7"]


def test_small_batches_change_nothing(read, monkeypatch):
    """Memory is bounded by working on few masks at once: what is repaired and rejected stays."""
    beyond = [[*SQUARE[:-1], 14.6]]
    records = []
    for i in range(0, 60, 6):
        records += [
            record(i),
            record(i + 1, visible_mask=beyond, occl_depth=i),
            record(i + 2, visible_mask=[[0, 0, 29, 0, 29, 19]]),
            record(i + 3, category_id=9),
            record(i + 4, visible_mask=None, segmentation=[SQUARE, [0, 0, 9, 0, 0, 9]]),
            record(i + 5, segmentation=[[1, 1, 1, 1, 1, 1]], occl_depth=2),
        ]
    whole = read(text(records))
    monkeypatch.setattr(rle, "_BATCH", 3)
    parts = read(text(records))
    assert parts.fingerprint == whole.fingerprint
    assert parts.metadata == whole.metadata
    assert len(whole.repaired) > 10 and len(whole.rejected) > 20 and len(whole.order) > 20
    for name in ("repaired", "rejected"):
        was, now = (
            sorted(map(repr, getattr(table, name).to_dict("records"))) for table in (whole, parts)
        )
        assert was == now
