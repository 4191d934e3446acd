"""D2SA files, written from their documentation, come back as they were drawn."""

import pytest

from amodal_pipeline.annotations.d2sa import read_d2sa
from tests.annotations import writers
from tests.annotations.writers import (
    check_masks,
    check_rest,
    d2sa_record,
    order_in,
    order_of,
    turntable,
)


def read(path, **options):
    return read_d2sa(path, path.parent, "d2sa", "train", **options)


@pytest.fixture(scope="module")
def scene():
    return turntable(5)


def without(record, *keys):
    return {key: value for key, value in record.items() if key not in keys}


@pytest.mark.parametrize("seed", range(3))
def test_file(tmp_path, seed):
    scene = turntable(seed)
    things = scene.things
    assert any(t.visible.sum() < t.amodal.sum() for t in things)
    assert any(t.visible.sum() == t.amodal.sum() for t in things)
    table = read(writers.write(tmp_path / "a.json", scene, [*map(d2sa_record, things)]))
    check_rest(table, scene)
    check_masks(table, {t.id: (t.amodal, t.visible) for t in things}, scene.sizes)
    assert order_in(table) == order_of(things, 0) != {}
    assert len(table.repaired) == len(table.rejected) == 0
    counted = table.metadata.accounting["instances"]
    assert (counted.read, counted.kept) == (len(things), len(things))


@pytest.mark.parametrize("absent", ["visible_mask", "invisible_mask"])
def test_one_of_the_two_partial_masks_is_enough(tmp_path, scene, absent):
    records = [without(d2sa_record(t), absent) for t in scene.things]
    table = read(writers.write(tmp_path / "a.json", scene, records))
    check_masks(table, {t.id: (t.amodal, t.visible) for t in scene.things}, scene.sizes)
    assert len(table.repaired) == 0


def test_an_occluded_object_without_partial_masks_is_rejected(tmp_path, scene):
    records = [without(d2sa_record(t), "visible_mask", "invisible_mask") for t in scene.things]
    occluded = [t.id for t in scene.things if t.visible.sum() < t.amodal.sum()]
    whole = [t for t in scene.things if t.id not in occluded]
    # The format shows in other keys than the masks.
    table = read(writers.write(tmp_path / "a.json", scene, records))
    check_masks(table, {t.id: (t.amodal, t.amodal) for t in whole}, scene.sizes)
    assert sorted(table.rejected["record"]) == sorted(f"instance {i}" for i in occluded)
    assert table.rejected["reason"].str.contains("although occlude_rate is 0.").all()


def test_masks_of_another_canvas_are_rejected(tmp_path, scene):
    """The two canvases differ by the padding; a mask of one is none on the other."""
    image_of = {size: image_id for image_id, size in scene.sizes.items()}
    thing = next(t for t in scene.things if t.amodal.shape == writers.D2SA_SIZES[0])
    record = d2sa_record(thing) | {"image_id": image_of[writers.D2SA_SIZES[1]]}
    table = read(writers.write(tmp_path / "a.json", scene, [record]))
    assert len(table.instances) == 0
    finding = table.rejected.iloc[0]
    assert (finding["record"], finding["field"]) == (f"instance {thing.id}", "segmentation")
    assert "[1440, 1920], the image is [1534, 1920]" in finding["reason"]
