import dataclasses
import shutil

import numpy as np
import pandas as pd
import pytest
from parsed_page import Page
from PIL import Image

from amodal_pipeline.annotations import Category, Repair, rle
from amodal_pipeline.annotations.audit import audit
from amodal_pipeline.annotations.tables import FINDINGS, IMAGES, ORDER, frame
from amodal_pipeline.visuals import audit_page, page, worst
from amodal_pipeline.visuals.audit_page import write_audit
from tests.tables import annotations

EVIL = "<script>alert('1')</script>\"&"
SIZE = (48, 64)


def rectangle(top, left, bottom, right):
    mask = np.zeros(SIZE, np.uint8)
    mask[top:bottom, left:right] = 1
    return mask


pytestmark = pytest.mark.usefixtures("without_drawing")


@pytest.fixture(autouse=True)
def small_pictures(monkeypatch):
    monkeypatch.setattr(worst, "WIDTH", 160)
    monkeypatch.setattr(worst, "CROWD_WIDTH", 240)


@pytest.fixture
def scene(tmp_path):
    """Five grey images: a chain of three objects, a mutual pair, one repaired, one rejected."""
    root = tmp_path / "images"
    root.mkdir()
    for k in range(5):
        Image.new("RGB", SIZE[::-1], (90, 90 + 20 * k, 90)).save(root / f"{k}.png")
    near, middle, far = rectangle(0, 0, 40, 20), rectangle(4, 10, 40, 40), rectangle(8, 30, 48, 60)
    outside = rectangle(0, 0, 40, 21)  # a 21st of it lies outside `near`
    rows = [
        *((0, 1, near, near), (0, 1, middle, middle & ~near), (0, 2, far, far & ~middle)),
        *((1, 1, near, near), (1, 1, middle, middle & ~near)),
        *((2, 2, near, outside), (3, 2, near, far), (4, 2, far, far * 0)),
    ]
    table = annotations(
        dict.fromkeys(range(5), SIZE),
        {
            "instance_id": range(len(rows)),
            "image_id": [r[0] for r in rows],
            "category_id": [r[1] for r in rows],
            "amodal_rle": rle.encode(np.stack([r[2] for r in rows])),
            "visible_rle": rle.encode(np.stack([r[3] for r in rows])),
        },
        [(0, 0, 1), (0, 1, 2), (1, 3, 4), (1, 4, 3)],
        dataset="made up",
        categories=[Category(id=i, name=name) for i, name in enumerate(("cup", "box", "x"), 1)],
        image_root=str(root),
        repairs=frozenset(Repair),
        file="folder/truth.json",
    )
    inferred = frame(ORDER, table.order.assign(inferred=[False, True, False, False]))
    return dataclasses.replace(table, order=inferred)


def written(tmp_path, annotations, published=None, **options):
    path = write_audit(tmp_path / "out", annotations, audit(annotations, published), **options)
    text = path.read_text("utf-8")
    return text, " ".join(Page(text).text)


def test_the_page_has_accounting_numbers_and_examples(tmp_path, scene):
    steps = []
    published = {"images": 7, "objects": 7}
    text, plain = written(tmp_path, scene, published, on_progress=lambda *step: steps.append(step))
    assert (tmp_path / "out" / "audit.html").exists() and steps[-1] == (7, 7)
    for expected in (
        "Audit of made up, val",
        "Images: 5, published are 7: 2 fewer",
        "of the visible mask lies outside the amodal mask",
        "instance 6 (truth.json): visible_rle 100.0% of the visible mask",
        "box, instance 5: lost 4.8 % of its visible mask",
        "box, instance 7: 100 % hidden",
        "3 objects  ·  2 order pairs",
        "a mutual pair",
        "Without any object: x.",
        "1 of 2",
    ):
        assert expected in plain, expected
    # Three histograms; one repaired; the three most hidden; two images with order, two without.
    assert text.count("<img") == 3 + 1 + 3 + 4


def test_without_published_numbers_there_is_no_such_column(tmp_path, scene):
    _, plain = written(tmp_path, scene)
    assert "No published numbers are given" in plain and "As published" not in plain


def test_nothing_is_loaded_from_elsewhere_and_all_text_is_escaped(tmp_path, scene):
    finding = dict.fromkeys(("file", "record", "field", "reason"), EVIL)
    metadata = scene.metadata.model_copy(
        update={
            "dataset": EVIL,
            "split": EVIL,
            "categories": tuple(Category(id=c, name=EVIL) for c in (1, 2, 3)),
        }
    )
    images = scene.images.assign(file_name=EVIL)
    evil = dataclasses.replace(
        scene,
        metadata=metadata,
        images=frame(IMAGES, images),
        repaired=frame(FINDINGS, [finding]),
        rejected=frame(FINDINGS, [finding]),
    )
    text, plain = written(tmp_path, evil)
    parsed = Page(text)
    assert "script" not in parsed.tags
    assert not any(name.startswith("on") for name, _ in parsed.attributes)
    assert plain.count("<script>") >= 8
    sources = [value for name, value in parsed.attributes if name in ("src", "href")]
    assert sources and all(s.startswith("data:image/") for s in sources)
    assert "http" not in text.replace("http-equiv", "") and "url(" not in text


def test_images_that_are_missing_or_changed_are_grey_and_named(tmp_path, scene):
    root = tmp_path / "images"
    (root / "0.png").unlink()
    (root / "1.png").write_bytes(b"damaged")
    Image.new("RGB", (5, 5)).save(root / "2.png")
    _, plain = written(tmp_path, scene)
    assert "0.png  ·  3 objects  ·  2 order pairs  ·  image not on disk" in plain
    assert "cannot be read as an image" in plain
    assert "2.png is 5x5 pixels" in plain
    shutil.rmtree(root)
    _, plain = written(tmp_path, scene)
    assert plain.count("image not on disk") >= 7


def test_equal_tables_give_equal_bytes(tmp_path, scene, monkeypatch, without_drawing):
    monkeypatch.setattr(page, "drawn", without_drawing)
    assert written(tmp_path, scene)[0] == written(tmp_path / "again", scene)[0]


def test_a_table_of_nothing_has_a_page(tmp_path, scene):
    text, plain = written(tmp_path, scene.subset([]))
    assert "No objects" not in plain and "Records worth a look" not in plain
    assert text.count("<img") == 3  # that say so
    assert "the table has 0" in plain


def test_the_page_stays_in_its_folder(tmp_path, scene):
    with pytest.raises(ValueError, match="not a relative path"):
        write_audit(tmp_path, scene, audit(scene), name="../audit.html")


def test_many_categories_and_rejected_records_are_cut(tmp_path, scene, monkeypatch):
    monkeypatch.setattr(audit_page, "MOST_CATEGORIES", 1)
    monkeypatch.setattr(audit_page, "MOST_REJECTED", 2)
    rows = [{"record": f"instance {i}", "field": "id", "reason": "is odd"} for i in range(9)]
    _, plain = written(tmp_path, dataclasses.replace(scene, rejected=frame(FINDINGS, rows)))
    assert "Further 1 categories with 3 objects" in plain
    assert "2 records" in plain and "7 more are in the table" in plain


def test_examples_are_the_worst_and_bounded(scene):
    assert [e.caption[:15] for e in worst.most_cut(scene, 9)] == ["box, instance 5"]
    hidden = worst.most_occluded_objects(scene, 9)
    assert [e.caption.split(":")[0] for e in hidden] == [
        "box, instance 7",
        "cup, instance 1",  # of image 0, where it is hidden more than instance 2
        "cup, instance 4",
    ]
    assert len(worst.most_occluded_objects(scene, 2)) == 2
    files = [e.caption.split("  ·  ")[0] for e in worst.most_entangled(scene, 2)]
    assert files == ["1.png", "0.png"]  # the cycle, then the most pairs
    assert len(worst.most_entangled(scene, 50)) == 4  # every image that has objects


def test_ignored_objects_are_not_the_most_hidden(scene):
    ignored = scene.instances["instance_id"].isin([7, 1])
    part = dataclasses.replace(scene, instances=scene.instances.assign(ignore=ignored))
    captions = [e.caption for e in worst.most_occluded_objects(part, 9)]
    assert [c.split(":")[0] for c in captions] == ["cup, instance 4", "box, instance 2"]


def test_a_crop_shows_the_object_and_its_surroundings(scene):
    (example, *_) = worst.most_cut(scene, 1)
    colours = example.pixels.reshape(-1, 3).astype(int)
    background = np.abs(colours - (90, 130, 90)).max(axis=1) < 3
    assert 0.2 < background.mean() < 0.8
    assert max(example.pixels.shape) == worst.WIDTH


def test_a_huge_canvas_is_named_and_not_drawn(tmp_path, scene, monkeypatch):
    monkeypatch.setattr(worst, "LARGEST", SIZE[0] * SIZE[1] - 1)
    text, plain = written(tmp_path, scene)
    assert text.count("<img") == 3
    assert "not drawn: 48×64 pixels are more than 3071" in plain


def test_crowds_are_drawn_in_part_and_say_so(scene, monkeypatch):
    monkeypatch.setattr(worst, "MOST_OBJECTS", 2)
    monkeypatch.setattr(worst, "MOST_ARROWS", 1)
    caption = next(e.caption for e in worst.most_entangled(scene, 3) if "0.png" in e.caption)
    assert "3 objects" in caption and "the 2 largest drawn" in caption
    assert "arrows for the 1 pairs that overlap most" in caption


def test_arrows_are_drawn_where_there_is_order(scene):
    with_order = worst.most_entangled(scene, 1)[0].pixels
    without = dataclasses.replace(scene, order=scene.order[:0])
    plain = next(e.pixels for e in worst.most_entangled(without, 9) if "1.png" in e.caption)
    changed = (with_order != plain).any(axis=2)
    assert 0.005 < changed.mean() < 0.2
    dark = (with_order < 60).all(axis=2) & changed
    white = (with_order > 235).all(axis=2) & changed
    assert dark.any() and white.any()


def test_each_repaired_record_that_is_there_is_drawn_once(scene):
    more = [{"record": f"instance {i}", "share": 0.03} for i in (99, 5)]
    rows = pd.concat([scene.repaired, frame(FINDINGS, more)])
    rows = frame(FINDINGS, rows.reset_index(drop=True))
    assert len(worst.most_cut(dataclasses.replace(scene, repaired=rows), 3)) == 1
    assert worst.most_cut(dataclasses.replace(scene, repaired=rows[:0]), 3) == []
