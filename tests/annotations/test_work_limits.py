"""Files that ask for much work or memory in few characters: they take seconds, or are refused."""

import json
import math
import time

import numpy as np
import pytest

from amodal_pipeline.annotations import coco_json, order, rle
from amodal_pipeline.annotations.kins import read_kins
from tests.annotations.writers import SQUARE, raster
from tests.annotations.writers import flat_record as record
from tests.annotations.writers import flat_text as text


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
