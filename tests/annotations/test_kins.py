"""KINS files of both years, written from their documentation, come back as they were drawn."""

import json

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from amodal_pipeline.annotations import AmodalAnnotations, json_records, rle
from amodal_pipeline.annotations.audit import audit
from amodal_pipeline.annotations.coco_amodal import read_coco_amodal
from amodal_pipeline.annotations.d2sa import read_d2sa
from amodal_pipeline.annotations.kins import CROWD, LARGER, read_kins
from amodal_pipeline.annotations.validation import join
from amodal_pipeline.compose.source import read_source
from tests.annotations import writers
from tests.annotations.writers import (
    check_masks,
    check_rest,
    digests,
    kins_2019_record,
    kins_2020_record,
    order_in,
    order_of,
    raster,
    street,
)

OUTSIDE = "visible mask reached outside the amodal mask and was cut to it"
LEFT_OUT = "polygon of fewer than three points beside others: left out"


def read(path, **options):
    return read_kins(path, path.parent, "kins", "train", **options)


@pytest.mark.parametrize("seed", range(12))
def test_file_of_2019(tmp_path, seed):
    scene = street(seed, categories=writers.KINS_2019_CATEGORIES)
    path = writers.write(tmp_path / "a.json", scene, [*map(kins_2019_record, scene.things)])
    table = read(path)
    check_rest(table, scene)
    check_masks(table, {t.id: (t.amodal, t.visible) for t in scene.things}, scene.sizes)
    assert not table.instances["ignore"].any()  # iscrowd is 1 in every record
    assert table.instances["is_thing"].all()
    assert len(table.order) == 0
    assert len(table.repaired) == len(table.rejected) == 0
    counted = table.metadata.accounting["instances"]
    assert (counted.read, counted.kept) == (len(scene.things), len(scene.things))


@pytest.mark.parametrize("seed", range(12))
def test_file_of_2020(tmp_path, seed):
    """Both masks are drawn: what of the visible one lies outside is cut off, a tenth at most."""
    scene = street(seed)
    table = read(writers.write(tmp_path / "a.json", scene, [*map(kins_2020_record, scene.things)]))
    expected, cut, apart = {}, {}, []
    for thing in scene.things:
        visible = raster(thing.visible_polygons, scene.sizes[thing.image_id])
        share = (visible > thing.amodal).sum() / max(visible.sum(), 1)
        if share > 0.1:
            apart.append(f"instance {thing.id}")
            continue
        expected[thing.id] = (thing.amodal, visible & thing.amodal)
        if share > 0:
            cut[f"instance {thing.id}"] = pytest.approx(share, abs=1e-6)

    check_rest(table, scene)
    check_masks(table, expected, scene.sizes)
    assert order_in(table) == order_of([t for t in scene.things if t.id in expected], 1)
    repaired = table.repaired
    assert dict(zip(repaired["record"], repaired["share"], strict=True)) == cut
    assert set(repaired["reason"]) <= {OUTSIDE}
    assert sorted(table.rejected["record"]) == sorted(apart)
    assert set(table.rejected["field"]) <= {"visible_rle"}
    counted = table.metadata.accounting["instances"]
    assert counted.model_dump() == {
        "read": len(scene.things),
        "kept": len(expected) - len(cut),
        "repaired": len(cut),
        "rejected": len(apart),
    }


def test_scenes_have_what_they_are_to_test():
    """Repairs, rejections, clusters of several, equal ranks, parts, hidden objects: all occur."""
    scenes = [street(seed) for seed in range(12)]
    things = [t for scene in scenes for t in scene.things]
    assert {t.rank for t in things} >= {0, 1, 2, 3}
    assert sum(len(order_of(scene.things, 1)) for scene in scenes) > 50
    assert any(len(t.amodal_polygons) > 1 for t in things)
    assert any(not t.visible.any() for t in things)
    assert any(
        a.rank == b.rank > 0 and (a.amodal & b.amodal).any()
        for scene in scenes
        for a in scene.things
        for b in scene.things
        if a is not b and (a.image_id, a.cluster) == (b.image_id, b.cluster)
    )
    outside = [
        (visible > t.amodal).sum() / max(visible.sum(), 1)
        for scene in scenes
        for t in scene.things
        for visible in [raster(t.visible_polygons, t.amodal.shape)]
    ]
    assert any(0 < share <= 0.1 for share in outside)
    assert any(share > 0.1 for share in outside)


def test_parts_of_fewer_than_three_points(tmp_path):
    """Beside others they are left out and listed; alone they are no mask."""
    scene = street(1)
    records = [*map(kins_2020_record, scene.things)]
    stray, alone = records[0], records[1]
    stray["i_segm"] = stray["a_segm"]
    stray["a_segm"] = [[5, 5, 9, 9], *stray["a_segm"], [7, 7]]
    alone["a_segm"] = [[5, 5, 9, 9]]
    table = read(writers.write(tmp_path / "a.json", scene, records))
    row = table.instances[table.instances["instance_id"] == stray["id"]].iloc[0]
    size = scene.sizes[row["image_id"]]
    for column in ("amodal_rle", "visible_rle"):
        mask = rle.decode([row[column]], size)[0]
        np.testing.assert_array_equal(mask, scene.things[0].amodal)
    assert (f"instance {stray['id']}", LEFT_OUT) in zip(
        table.repaired["record"], table.repaired["reason"], strict=True
    )
    assert (f"instance {alone['id']}", "a_segm", "a polygon has fewer than three points") in zip(
        table.rejected["record"], table.rejected["field"], table.rejected["reason"], strict=True
    )


def test_objects_that_overlap_nobody_and_equal_ranks_state_no_order(tmp_path):
    square = [[10, 10, 30, 10, 30, 30, 10, 30]]
    mask = raster(square, (40, 50))
    ranks = {1: (1, 1), 2: (1, 2), 3: (1, 2), 4: (1, 0), 5: (2, 3)}  # id: (oco_id, ico_id)
    things = [
        writers.Thing(i, 7, 4, mask, mask, square, square, rank=ico, cluster=oco)
        for i, (oco, ico) in ranks.items()
    ]
    scene = writers.Scene({7: ("a.png", (40, 50))}, things, writers.KINS_2020_CATEGORIES)
    path = writers.write(tmp_path / "a.json", scene, [*map(kins_2020_record, things)])
    assert set(order_in(read(path))) == {(1, 2), (1, 3)}


def test_a_rank_without_its_cluster_states_no_order(tmp_path):
    records = []
    for number, rank in ((1, 1), (2, 2)):
        square = [[0, 0, 20, 0, 20, 20, 0, 20]]
        record = {"id": number, "image_id": 1, "category_id": 1, "ico_id": rank}
        records.append(record | {"a_segm": square, "i_segm": square})
    for cluster, pairs in ((7, 1), (None, 0)):
        document = {
            "images": [{"id": 1, "file_name": "1.png", "height": 30, "width": 40}],
            "categories": [{"id": 1, "name": "cyclist"}],
            "annotations": [r | ({"oco_id": cluster} if cluster else {}) for r in records],
        }
        path = tmp_path / "a.json"
        path.write_text(json.dumps(document))
        assert len(read(path).order) == pairs


@pytest.mark.parametrize("record", [kins_2019_record, kins_2020_record])
def test_batches_do_not_change_a_byte(tmp_path, monkeypatch, record):
    scene = street(3, images=8)
    path = writers.write(tmp_path / "a.json", scene, [*map(record, scene.things)])
    read(path).save(tmp_path / "whole")
    monkeypatch.setattr(json_records, "BATCH", 4)
    steps = []
    read(path, on_progress=lambda *done: steps.append(done)).save(tmp_path / "small")
    assert steps == [(n, len(steps)) for n in range(1, len(steps) + 1)] and len(steps) > 5
    assert digests(tmp_path / "small") == digests(tmp_path / "whole")


def test_folder_goes_before_every_file_name(tmp_path):
    scene = street(0)
    path = writers.write(tmp_path / "a.json", scene, [*map(kins_2020_record, scene.things)])
    table = read(path, folder="kitti")
    assert table.images["file_name"].tolist() == [f"kitti/{n}" for n, _ in scene.images.values()]


@pytest.mark.parametrize(
    ("record", "reader", "said"),
    [
        (
            kins_2019_record,
            read_d2sa,
            "look like KINS of 2019: read it with --env=kins",
        ),
        (
            kins_2020_record,
            read_d2sa,
            "look like KINS of 2020: read it with --env=kins",
        ),
        (writers.d2sa_record, read_kins, "--env=d2sa or --env=cocoa_cls"),
    ],
)
def test_another_format_is_recognised(tmp_path, record, reader, said):
    scene = street(2)
    path = writers.write(tmp_path / "kins.json", scene, [*map(record, scene.things)])
    with pytest.raises(ValueError, match=r"kins\.json") as error:
        reader(path, tmp_path, "x", "train")
    assert said in str(error.value)


def test_plain_coco_is_no_kins_and_kins_no_plain_coco(tmp_path):
    scene = street(2)
    records = [
        {k: v for k, v in kins_2019_record(t).items() if "inmodal" not in k} for t in scene.things
    ]
    path = writers.write(tmp_path / "a.json", scene, records)
    with pytest.raises(ValueError, match=r"a\.json.*plain COCO.*--env=composed_coco"):
        read(path)
    path = writers.write(tmp_path / "b.json", scene, [*map(kins_2019_record, scene.things)])
    with pytest.raises(ValueError, match=r"b\.json.*KINS of 2019"):
        read_source(path, tmp_path, "train")


def test_what_vrsps_evaluator_ignores_is_counted(tmp_path):
    """Of the objects of the table; by its own rule, written out."""
    scene = street(3)
    records = [*map(kins_2019_record, scene.things)]
    for i, (record, thing) in enumerate(zip(records, scene.things, strict=True)):
        seen = int(thing.visible.sum())
        record |= {"iscrowd": int(i % 5 == 0), "area": seen - 1 if i % 3 == 0 else seen}
    path = writers.write(tmp_path / "a.json", scene, records)
    table = read(path)
    kept = set(table.instances["instance_id"])
    there = [record for record in records if record["id"] in kept]
    crowds = sum(record["iscrowd"] for record in there)
    ignored = [
        coco_mask.area(record["inmodal_seg"]) / record["area"] > 1 or record["iscrowd"]
        for record in there
    ]
    assert 0 < crowds < sum(ignored) < len(there)
    assert table.metadata.ignored_elsewhere == {CROWD: crowds, LARGER: sum(ignored) - crowds}
    assert (
        f"{crowds} objects that count here are ignored elsewhere. {CROWD}." in audit(table).remarks
    )
    joined = join([table, table]).metadata.ignored_elsewhere
    assert joined == {CROWD: 2 * crowds, LARGER: 2 * (sum(ignored) - crowds)}
    table.save(tmp_path / "saved")
    assert AmodalAnnotations.load(tmp_path / "saved").metadata == table.metadata
    later = writers.write(tmp_path / "b.json", scene, [*map(kins_2020_record, scene.things)])
    assert read(later).metadata.ignored_elsewhere == {}


def test_a_file_without_records_says_so(tmp_path):
    path = writers.write(tmp_path / "a.json", street(0), [])
    with pytest.raises(ValueError, match=r"a\.json has no annotations"):
        read(path)


@pytest.mark.parametrize("record", [kins_2019_record, kins_2020_record])
def test_the_general_reader_reads_kins_too(tmp_path, record):
    """Your own files may have KINS's keys; iscrowd counts there, as in COCO."""
    scene = street(4)
    path = writers.write(tmp_path / "a.json", scene, [*map(record, scene.things)])
    own = read_coco_amodal(path, tmp_path, "mine", "train")
    kins = read(path)
    columns = ["instance_id", "amodal_rle", "visible_rle"]
    assert own.instances[columns].equals(kins.instances[columns])
    assert own.instances["ignore"].all() == (record is kins_2019_record)
