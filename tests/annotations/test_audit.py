import dataclasses
import io
import math
import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from amodal_pipeline.annotations import Accounting, Category, Repair, build, rle
from amodal_pipeline.annotations.audit import LINES, audit, largest_cycles
from amodal_pipeline.annotations.tables import FINDINGS, ORDER, frame

SIDE = 10
DOCS = Path(__file__).resolve().parents[2] / "docs" / "audit.md"


def box(top, left, bottom, right):
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[top:bottom, left:right] = 1
    return mask


def table(objects, order=(), images=4, **options):
    """Objects (image, category, amodal, visible, and what else a record has)."""
    rows = [
        {
            "instance_id": k,
            "image_id": image,
            "category_id": category,
            "amodal_rle": rle.encode(amodal[None])[0],
            "visible_rle": rle.encode(visible[None])[0],
            "is_thing": True,
            "ignore": False,
            **more,
        }
        for k, (image, category, amodal, visible, more) in enumerate(objects)
    ]
    columns = ("image_id", "occluder_id", "occludee_id", "inferred")
    arguments = {
        "dataset": "made_up",
        "split": "val",
        "categories": [Category(id=i, name=n) for i, n in ((1, "cup"), (2, "sky"), (9, "none"))],
        "image_root": "nowhere",
        "images": {
            "image_id": list(range(images)),
            "file_name": [f"{k}.png" for k in range(images)],
            "height": [SIDE] * images,
            "width": [SIDE] * images,
        },
        "instances": pd.DataFrame(rows) if rows else {},
        "order": {name: [pair[k] for pair in order] for k, name in enumerate(columns)},
    }
    return build(**(arguments | options))


BACK, FRONT = box(0, 0, 10, 4), box(0, 2, 10, 8)  # they share two columns
HALF, NONE = box(0, 0, 10, 2), np.zeros_like(BACK)


@pytest.fixture
def small():
    """Image 0: two cups, one half hidden; 1: sky and a cup nobody sees; 2: an ignored one; 3: –."""
    return table(
        [
            (0, 1, BACK, HALF, {}),
            (0, 1, FRONT, FRONT, {}),
            (1, 2, box(0, 0, 2, 10), box(0, 0, 2, 10), {"is_thing": False}),
            (1, 1, box(0, 0, 10, 1), NONE, {}),
            (2, 1, BACK, HALF, {"ignore": True}),
            (2, 1, FRONT, FRONT, {"ignore": True}),
        ],
        order=[(0, 1, 0, False), (0, 0, 1, True), (1, 2, 3, True)],
    )


def test_every_number_of_a_small_table(small):
    found = audit(small)
    assert {n.name: n.value for n in found.numbers} == {
        "images": 4,
        "images_without_objects": 2,
        "videos": 0,
        "objects": 4,
        "tracks": 0,
        "things": 3,
        "stuff": 1,
        "ignored_objects": 2,
        "categories_without_objects": 1,
        "occluded_images": 2,
        "image_occlusion_rate": 50.0,
        "occluded_objects": 2,
        "object_occlusion_rate": 50.0,
        "heavily_occluded_objects": 2,
        "objects_without_visible_pixels": 1,
        "mean_occlusion_rate": pytest.approx(37.5),
        "mean_occlusion_rate_occluded": pytest.approx(75.0),
        "order_pairs": 3,
        "inferred_pairs": 2,
        "mutual_pairs": 1,
        "overlapping_pairs": 3,
        "overlapping_pairs_without_order": 1,
        "images_with_cycles": 1,
    }
    assert found["objects"] == 4
    assert not found.differences and not found.reasons and not found.remarks


def test_categories_with_and_without_objects(small):
    cup, sky, none = audit(small).categories
    assert (cup.name, cup.objects, cup.occluded_objects) == ("cup", 3, 2)
    assert cup.mean_occlusion_rate == pytest.approx(50)
    assert (sky.objects, sky.occluded_objects, sky.mean_occlusion_rate) == (1, 0, 0)
    assert (none.id, none.objects) == (9, 0) and math.isnan(none.mean_occlusion_rate)


def test_a_table_without_objects():
    found = audit(table([]))
    assert found["images"] == found["images_without_objects"] == 4
    assert found["image_occlusion_rate"] == 0 and found["overlapping_pairs"] == 0
    assert math.isnan(found["object_occlusion_rate"]) and math.isnan(found["mean_occlusion_rate"])
    found = audit(table([]), {"object_occlusion_rate": 68})
    assert len(found.differences) == 1 and "nothing to compare" in found.differences[0]


def test_published_numbers_stand_beside_ours(small):
    published = {"images": 6, "objects": 4, "occluded_objects": 1, "mean_occlusion_rate": 38}
    found = audit(small, published)
    words = {n.name: n.difference for n in found.numbers if n.published is not None}
    assert words == {
        "images": "2 fewer",
        "objects": "as published",
        "occluded_objects": "1 more",
        "mean_occlusion_rate": "as published",  # 37.5: in the digits that are given
    }
    assert found.differences == [
        "Images: 4, published are 6: 2 fewer",
        "Occluded objects: 2, published are 1: 1 more",
    ]


@pytest.mark.parametrize(
    ("published", "same"), [(37.5, True), (37, True), (36, False), (37.6, False), (37.501, False)]
)
def test_a_share_is_compared_in_the_digits_it_is_given_with(small, published, same):
    number = next(
        n
        for n in audit(small, {"mean_occlusion_rate": published}).numbers
        if n.name == "mean_occlusion_rate"
    )
    assert number.differs is not same
    assert ("percentage points" in number.difference) is not same


def test_large_counts_are_readable(small):
    (line,) = audit(small, {"objects": 95_311}).differences
    assert line == "Objects: 4, published are 95\u00a0311: 95\u00a0307 fewer"


@pytest.mark.parametrize(
    ("published", "match"),
    [
        ({"pictures": 3}, "'pictures' is not counted; known names: images, "),
        ({"images": "3"}, "'images' is '3'"),
        ({"images": math.inf}, "'images' is inf"),
        ({"images": True}, "'images' is True"),
    ],
)
def test_bad_published_numbers_are_refused(small, published, match):
    with pytest.raises(ValueError, match=match):
        audit(small, published)


def test_rows_hold_everything_and_survive_a_csv_file(small):
    text = audit(small, {"images": 6}).rows().to_csv(index=False)
    assert "\ncounts,images,4,6,2 fewer\n" in text  # no 4.0
    rows = pd.read_csv(io.StringIO(text))
    assert list(rows.columns) == ["section", "name", "value", "published", "note"]
    value = rows.set_index(["section", "name"])["value"]
    assert value["accounting", "instances_read"] == 6
    assert value["occlusion", "mean_occlusion_rate"] == 37.5
    assert value["category_objects", "cup"] == 3
    assert math.isnan(value["category_mean_occlusion_rate", "none"])
    assert set(LINES) <= set(rows["name"])


def broken(count):
    """Records of few kinds, each with numbers of its own."""
    kinds = [
        ("instance {}", "visible_rle", "{}.3% of the visible mask lies outside the amodal mask"),
        ("instance at position {}", "id", "is not an integer: 'x{}'"),
        ("order pair {} over 7", "order", "the amodal masks do not overlap"),
        ("image {}", "width", "is -{} or 1e{}"),
    ]
    rows = []
    for i in range(count):
        record, field, reason = kinds[i % len(kinds)]
        rows.append(
            {
                "file": "/data/raw/truth.json",
                "record": record.format(i),
                "field": field,
                "reason": reason.format(i, i),
                "share": None,
            }
        )
    return frame(FINDINGS, rows)


def test_many_findings_become_few_reasons(small):
    found = audit(dataclasses.replace(small, rejected=broken(20_000))).reasons
    assert {(r.kind, r.field, r.reason, r.count) for r in found} == {
        ("instances", "visible_rle", "#% of the visible mask lies outside the amodal mask", 5000),
        ("instances", "id", "is not an integer: '…'", 5000),
        ("order", "order", "the amodal masks do not overlap", 5000),
        ("images", "width", "is # or #", 5000),
    }
    by_field = {r.field: r.examples for r in found}
    assert by_field["visible_rle"][0] == (
        "instance 0 (truth.json): visible_rle 0.3% of the visible mask lies outside the amodal mask"
    )
    assert by_field["order"] == (
        "order pair 2 over 7 (truth.json)",
        "order pair 6 over 7 (truth.json)",
    )


def test_rare_reasons_are_joined_and_none_is_lost(small):
    words = ["".join("abcdefghij"[int(d)] for d in str(i)) for i in range(300)]
    rows = [
        {"record": f"{'image' if i % 3 else 'instance'} {i}", "field": "f", "reason": word}
        for i, word in enumerate(words)
    ]
    found = audit(dataclasses.replace(small, rejected=frame(FINDINGS, rows))).reasons
    assert len(found) < 30
    assert sum(r.count for r in found if r.kind == "images") == 200
    assert sum(r.count for r in found if r.kind == "instances") == 100
    assert any(re.fullmatch(r"\d+ rarer reasons", r.reason) for r in found)


def test_a_reason_of_any_length_stays_readable(small):
    rows = [{"record": "x" * 10_000, "field": None, "reason": None}]
    (reason,) = audit(dataclasses.replace(small, rejected=frame(FINDINGS, rows))).reasons
    assert reason.kind == "instances" and len(reason.examples[0]) <= 240


def test_repairs_are_counted_with_their_largest_share():
    visible = HALF.copy()
    visible[0, 5] = 1  # 1 of 21 pixels outside
    found = audit(
        table(
            [(0, 1, BACK, visible, {}), (0, 1, BACK, HALF, {}), (1, 7, BACK, HALF, {})],
            repairs=frozenset(Repair),
        )
    )
    repaired, rejected = found.reasons
    assert (repaired.verdict, repaired.kind, repaired.count) == ("repaired", "instances", 1)
    assert repaired.largest_share == pytest.approx(1 / 21)
    assert (rejected.verdict, rejected.field, rejected.count) == ("rejected", "category_id", 1)
    assert found.accounting["instances"] == Accounting(read=3, kept=1, repaired=1, rejected=1)
    assert not found.remarks


def test_a_part_of_a_table_says_so(small):
    (images, instances, order) = audit(small.subset([0])).remarks
    assert "4 were kept or repaired, the table has 1" in images
    assert instances.startswith("instances: 6") and order.startswith("order: 3")


def test_accounting_that_does_not_add_up_is_reported(small):
    wrong = {"images": Accounting(read=9, kept=3, repaired=1, rejected=2)}
    metadata = small.metadata.model_copy(update={"accounting": wrong})
    remarks = audit(dataclasses.replace(small, metadata=metadata)).remarks
    assert any("9 were read" in r and "unaccounted" in r for r in remarks)
    assert "images: 2 were rejected, but 0 are listed" in remarks
    assert "images: 1 were repaired, but 0 are listed" in remarks
    metadata = small.metadata.model_copy(update={"accounting": {}})
    assert "no accounting" in audit(dataclasses.replace(small, metadata=metadata)).remarks[0]


def pairs(image, *chain):
    return [(image, a, b) for a, b in pairwise(chain)]


def test_cycles_of_any_length_are_found_and_chains_are_not():
    rows = [
        *pairs(1, 10, 11, 12, 13),  # a chain
        *pairs(2, 20, 21, 22, 20),  # a ring of three
        *pairs(3, 30, 31, 30),  # a mutual pair
        *pairs(4, 40, 41, 42, 43, 40),
        *pairs(4, 44, 45, 44),
    ]
    columns = dict(
        zip(("image_id", "occluder_id", "occludee_id"), zip(*rows, strict=True), strict=True)
    )
    found = largest_cycles(frame(ORDER, {k: list(v) for k, v in columns.items()}))
    assert found.to_dict() == {2: 3, 3: 2, 4: 4}
    assert not len(largest_cycles(frame(ORDER, {})))


def test_every_line_is_explained_in_the_docs():
    text = DOCS.read_text()
    assert [name for name in LINES if f"`{name}`" not in text] == []
