"""The files that the readers are timed on are what they say they are."""

import json

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from benchmarks.made_up_files import DATA_SETS, make

SCALE = 0.003


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("made_up")


def document(made):
    return json.loads(made.path.read_text())


def raster(segmentation, size):
    """The mask [H, W] of run lengths, polygons or one flat polygon, without parts that are none."""
    if isinstance(segmentation, dict):
        assert segmentation["size"] == list(size)
        return coco_mask.decode(segmentation)
    flat = [segmentation] if np.isscalar(segmentation[0]) else segmentation
    parts = [part for part in flat if len(part) >= 6]
    if not parts:
        return np.zeros(size, np.uint8)
    return coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(parts, *size)))


def by_image(document):
    """(size, records) of each image."""
    sizes = {i["id"]: (i["height"], i["width"]) for i in document["images"]}
    groups = {i: [] for i in sizes}
    for record in document["annotations"]:
        groups[record["image_id"]].append(record)
    assert all(groups.values())
    return [(sizes[i], records) for i, records in groups.items()]


@pytest.mark.parametrize(
    ("data_set", "amodal_key", "visible_key"),
    [
        ("kins_2019", "segmentation", "inmodal_seg"),
        ("kins_2020", "a_segm", "i_segm"),
        ("d2sa", "segmentation", "visible_mask"),
    ],
)
def test_visible_masks_tile_what_the_amodal_masks_cover(folder, data_set, amodal_key, visible_key):
    for made in make(data_set, folder, SCALE)["val"]:
        records_read = occluded = hidden = pairs = outside = 0
        for size, records in by_image(document(made)):
            amodal = np.stack([raster(r[amodal_key], size) for r in records])
            visible = np.stack([raster(r[visible_key], size) for r in records])
            assert all(r["image_id"] == records[0]["image_id"] for r in records)
            lost = visible & ~amodal & 1
            drawn = amodal.any(axis=(1, 2))
            assert lost.sum() <= 0.06 * visible.sum()
            inside = visible & amodal
            assert inside.sum(axis=0).max() <= 1  # no pixel belongs to two objects
            if drawn.all():
                assert (inside.any(axis=0) == amodal.any(axis=0)).all()
            flat = amodal.reshape(len(records), -1).astype(np.float32)
            shared = np.triu(flat @ flat.T, 1) > 0
            records_read += len(records)
            pairs += shared.sum()
            outside += lost[drawn].any(axis=(1, 2)).sum()
            occluded += (inside.sum(axis=(1, 2)) < amodal.sum(axis=(1, 2))).sum()
            hidden += (~visible.any(axis=(1, 2))).sum()
        assert records_read == made.objects
        assert (occluded, hidden) == (made.occluded, made.hidden)
        assert (pairs, outside) == (made.order_pairs, made.visible_outside)


def test_ranks_of_kins_2020_say_who_is_in_front(folder):
    for size, records in by_image(document(make("kins_2020", folder, SCALE)["train"][0])):
        amodal = [raster(r["a_segm"], size) for r in records]
        visible = [raster(r["i_segm"], size) for r in records]
        met = np.zeros(len(records), bool)
        for a, front in enumerate(records):
            for b, back in enumerate(records):
                if a == b or not (amodal[a] & amodal[b]).any():
                    continue
                met[a] = True
                assert front["oco_id"] == back["oco_id"]
                assert front["ico_id"] != back["ico_id"]
                if front["ico_id"] < back["ico_id"]:
                    assert not (amodal[a] & visible[b] & amodal[b]).any()
        for record, overlaps, mask in zip(records, met, amodal, strict=True):
            if mask.any():
                assert (record["ico_id"] > 0) == overlaps


def test_regions_of_cocoa_are_split_into_visible_and_invisible(folder):
    for files in make("cocoa", folder, SCALE).values():
        read = document(files[0])
        sizes = {i["id"]: (i["height"], i["width"]) for i in read["images"]}
        assert sum(a["size"] for a in read["annotations"]) == files[0].objects
        for annotation in read["annotations"]:
            size, regions = sizes[annotation["image_id"]], annotation["regions"]
            assert [r["order"] for r in regions] == list(range(1, len(regions) + 1))
            amodal = [raster(r["segmentation"], size) for r in regions]
            for region, mask in zip(regions, amodal, strict=True):
                if region["occlude_rate"] == 0:
                    assert "visible_mask" not in region
                    continue
                shown, hidden = (
                    raster(region[k], size) for k in ("visible_mask", "invisible_mask")
                )
                assert (shown + hidden == mask).all()
                assert region["occlude_rate"] == pytest.approx(hidden.sum() / mask.sum())
            met = {
                f"{a + 1}-{b + 1}"
                for b in range(len(regions))
                for a in range(b)
                if (amodal[a] & amodal[b]).any()
            }
            assert set(filter(None, annotation["depth_constraint"].split(","))) == met


@pytest.mark.parametrize("data_set", DATA_SETS)
def test_a_file_is_the_same_from_the_same_seed_and_is_kept(folder, tmp_path, data_set):
    first = make(data_set, folder, SCALE)
    again = make(data_set, tmp_path, SCALE)
    for split, files in first.items():
        for one, other in zip(files, again[split], strict=True):
            assert one.path.read_bytes() == other.path.read_bytes()
    times = {f.path: f.path.stat().st_mtime_ns for files in first.values() for f in files}
    kept = make(data_set, folder, SCALE)
    assert kept == first
    assert {f.path: f.path.stat().st_mtime_ns for fs in kept.values() for f in fs} == times
