"""What is written as COCO-style JSON is read back as it was, as far as the layout can say it."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest

from amodal_pipeline.annotations import Category, export, rle
from amodal_pipeline.annotations.cocoa import read_cocoa
from amodal_pipeline.annotations.cocoa_cls import read_cocoa_cls
from amodal_pipeline.annotations.d2sa import read_d2sa
from amodal_pipeline.annotations.export import write_coco_amodal
from tests.annotations import writers
from tests.annotations.writers import d2sa_record, run_lengths, turntable
from tests.tables import annotations

COCOA = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "cocoa"
SIZE = (20, 30)


def square(x, y, side):
    mask = np.zeros(SIZE, np.uint8)
    mask[y : y + side, x : x + side] = 1
    return mask


def table_of(amodal, visible, pairs, **changes):
    """Objects 1, 2, … of image 7, of categories 18 and 1 in turn."""
    n = len(amodal)
    columns = {
        "image_id": np.full(n, 7),
        "category_id": np.where(np.arange(n) % 2, 1, 18),
        "amodal_rle": rle.encode(np.stack(amodal)),
        "visible_rle": rle.encode(np.stack(visible)),
    }
    return annotations(
        {7: SIZE},
        columns | changes,
        [(7, front, back) for front, back in pairs],
        images={"file_name": ["val2014/7.jpg"]},
        dataset="cocoa_cls",
        categories=[Category(id=18, name="dog"), Category(id=1, name="person")],
        image_root="/photographs",
    )


def written(table, path, **options):
    write_coco_amodal(table, path, **options)
    return read_cocoa_cls(path, "/photographs", "cocoa_cls", "val", **options)


def pairs_of(table):
    return sorted(zip(table.order["occluder_id"], table.order["occludee_id"], strict=True))


def check_same(table, again, order=True):
    assert again.images.equals(table.images)
    assert again.instances.equals(table.instances)
    assert again.metadata.categories == table.metadata.categories
    assert len(again.repaired) == len(again.rejected) == 0
    if order:
        assert pairs_of(again) == pairs_of(table)


A, B, C = square(0, 0, 10), square(5, 0, 10), square(8, 0, 10)


@pytest.mark.parametrize("rows", [1, 2, 4096])
def test_a_table_comes_back(tmp_path, monkeypatch, rows):
    monkeypatch.setattr(export, "_ROWS", rows)
    table = table_of(
        [A, B, C, square(0, 12, 5), square(20, 12, 5)],
        [A, B & ~A, 0 * C, square(0, 12, 5), square(20, 12, 5)],
        [(1, 2), (1, 3), (2, 3)],
        ignore=[False, False, False, True, False],
        is_thing=[True, True, True, True, False],
    )
    again = written(table, tmp_path / "a.json")
    check_same(table, again)
    assert again.instances["occlusion_rate"].tolist()[2] == 1.0


def test_records_are_as_other_programs_expect_them(tmp_path):
    table = table_of([A, B, square(0, 12, 5)], [A, B & ~A, square(0, 12, 5)], [(1, 2)])
    write_coco_amodal(table, tmp_path / "a.json", folder="val2014")
    document = json.loads((tmp_path / "a.json").read_text())
    assert document["images"] == [{"id": 7, "file_name": "7.jpg", "height": 20, "width": 30}]
    assert document["categories"] == [{"id": 18, "name": "dog"}, {"id": 1, "name": "person"}]
    first, second, third = document["annotations"]
    assert second == {
        "id": 2,
        "image_id": 7,
        "category_id": 1,
        "iscrowd": 0,
        "isStuff": 0,
        "area": 100,
        "bbox": [5, 0, 10, 10],
        "segmentation": run_lengths(B),
        "occlude_rate": 0.5,
        "visible_mask": run_lengths(B & ~A),
        "invisible_mask": run_lengths(B & A),
        "occl_depth": 1,
    }
    assert first["occl_depth"] == 0
    # An object that nothing hides has its visible mask too: other loaders ask for it by name.
    assert third["visible_mask"] == third["segmentation"]
    assert first["visible_mask"] == run_lengths(A)
    assert "invisible_mask" not in third
    assert "occl_depth" not in third
    check_same(table, written(table, tmp_path / "b.json", folder="val2014"))
    with pytest.raises(ValueError, match=r"val2014/7\.jpg is not in the folder train2014"):
        write_coco_amodal(table, tmp_path / "a.json", folder="train2014")


@pytest.mark.parametrize(
    "pairs",
    [
        [(1, 2), (2, 1), (1, 3)],  # each in front of the other
        [(1, 2), (2, 3), (3, 1)],
        [(1, 2)],  # nobody says who of 1 and 3, or of 2 and 3, is in front
        [(1, 2), (2, 3)],  # ranks would put 1 in front of 3 too
    ],
)
def test_order_that_ranks_cannot_say_is_left_out_and_logged(tmp_path, caplog, pairs):
    table = table_of([A, B, C], [A, B, C], pairs)
    with caplog.at_level(logging.WARNING):
        again = written(table, tmp_path / "a.json")
    check_same(table, again, order=False)
    if len(pairs) == 1:
        assert pairs_of(again) == pairs  # 3 has no rank
        assert caplog.text == ""
    else:
        assert pairs_of(again) == []
        assert "order of 1 of 1 images cannot be said by ranks" in caplog.text


def test_random_orders_come_back_or_not_at_all():
    """Ranks never say more or less of an image than its pairs do."""
    draw = np.random.default_rng(0)
    said = 0
    for _ in range(60):
        masks = [square(*draw.integers(0, 15, 2), int(draw.integers(3, 12))) for _ in range(5)]
        overlaps = [
            (i, j)
            for i in range(1, 6)
            for j in range(i + 1, 6)
            if (masks[i - 1] & masks[j - 1]).any()
        ]
        pairs = [
            pair if draw.random() < 0.9 else pair[::-1] for pair in overlaps if draw.random() < 0.9
        ]
        table = table_of(masks, masks, pairs)
        rank = export.ranks(table.instances, table.order)
        found = [
            (i, j) if rank[i - 1] < rank[j - 1] else (j, i)
            for i, j in overlaps
            if rank[i - 1] >= 0 and rank[j - 1] >= 0 and rank[i - 1] != rank[j - 1]
        ]
        assert sorted(found) in ([], sorted(pairs))
        said += sorted(found) == sorted(pairs) != []
    assert said > 20


def test_d2sa_comes_back(tmp_path):
    scene = turntable(2)
    path = writers.write(tmp_path / "a.json", scene, [*map(d2sa_record, scene.things)])
    table = read_d2sa(path, "/photographs", "d2sa", "val")
    assert len(table.order) > 1
    check_same(table, written(table, tmp_path / "b.json"))


def test_an_empty_table(tmp_path):
    table = table_of([A], [A], [])
    empty = table.subset([])
    write_coco_amodal(empty, tmp_path / "a.json")
    document = json.loads((tmp_path / "a.json").read_text())
    assert document["annotations"] == document["images"] == []


def test_a_file_that_stood_there_stays_when_writing_fails(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("before")
    with pytest.raises(ValueError, match="is not in the folder"):
        write_coco_amodal(table_of([A], [A], []), path, folder="x")
    assert path.read_text() == "before"
    assert [*tmp_path.iterdir()] == [path]


@pytest.mark.skipif(not COCOA.is_dir(), reason="the three published annotations are not here")
def test_published_cocoa_comes_back(tmp_path):
    """All but the mark that the order of these was inferred."""
    table = read_cocoa(COCOA, COCOA.parent, "cocoa", "val", folder="cocoa")
    write_coco_amodal(table, tmp_path / "a.json", folder="cocoa")
    again = read_cocoa_cls(tmp_path / "a.json", COCOA.parent, "cocoa", "val", folder="cocoa")
    check_same(table, again)
    assert len(again.order) == 32
    assert not again.order["inferred"].any()
