"""Composed splits: what is claimed to be true is true of the pictures."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from amodal_pipeline.annotations import AmodalAnnotations, rle
from amodal_pipeline.annotations.images import read_image
from amodal_pipeline.compose import ComposeConfig
from amodal_pipeline.compose.config import PoolConfig
from amodal_pipeline.compose.dataset import compose_split
from amodal_pipeline.compose.pool import divide

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "coco_panoptic"
SIZE = (120, 160)
PNG = ComposeConfig(image_format="png", min_source_area=100, occluders=(1, 3))


def disc(y, x, radius):
    rows, columns = np.ogrid[: SIZE[0], : SIZE[1]]
    return (rows - y) ** 2 + (columns - x) ** 2 <= radius**2


@pytest.fixture
def source(tmp_path):
    """Six noisy photographs: a whole disc in each, and in some a pair, a border object, a crowd."""
    rng = np.random.default_rng(0)
    root = tmp_path / "photos"
    root.mkdir()
    images, annotations = [], []

    def add(mask, image_id, **changes):
        counts = rle.encode(mask[None])[0]
        annotations.append(
            {
                "id": len(annotations) + 100,
                "image_id": image_id,
                "category_id": 5 + image_id % 2,
                "iscrowd": 0,
                "segmentation": {"size": list(SIZE), "counts": counts},
            }
            | changes
        )

    for image_id in range(1, 7):
        pixels = rng.integers(0, 40, (*SIZE, 3)) + 100
        pixels[disc(60, 50, 25)] += rng.integers(-60, 60, 3)
        Image.fromarray(pixels.astype(np.uint8)).save(root / f"p{image_id}.png")
        images.append(
            {"id": image_id, "file_name": f"p{image_id}.png", "height": 120, "width": 160}
        )
        add(disc(60, 50, 25), image_id)
        if image_id % 2:
            add(disc(30, 110, 12), image_id)
            add(disc(30, 135, 13), image_id)
        if image_id % 3 == 0:
            add(disc(110, 100, 15), image_id)
            add(disc(80, 130, 10), image_id, iscrowd=1)
    document = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 5, "name": "cup"}, {"id": 6, "name": "plate"}],
    }
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(document))
    return path, root


def records(folder):
    return [json.loads(p.read_text()) for p in sorted(folder.glob("*_?.json"))]


def test_truth_holds_for_every_picture(source, tmp_path):
    config = PNG.model_copy(update={"composites_per_image": 2})
    table = compose_split(config, "train", *source, tmp_path / "out")
    assert len(table.images) == 12
    assert len(table.rejected) == 0
    originals = {a["id"]: a for a in json.loads(source[0].read_text())["annotations"]}
    order = table.order
    pairs_found = 0
    for (_, image), record in zip(
        table.images.iterrows(), records(tmp_path / "out/train"), strict=True
    ):
        assert image["file_name"] == record["image"]["file_name"]
        instances = table.of_image(image["image_id"])
        amodal = rle.decode(instances["amodal_rle"].tolist(), SIZE).astype(bool)
        visible = rle.decode(instances["visible_rle"].tolist(), SIZE).astype(bool)
        pasted = np.array([i["pasted"] for i in record["instances"]])
        assert 1 <= pasted.sum() <= 3
        assert pasted.tolist() == sorted(pasted)  # the last pasted lies on top

        pairs = set()
        for i, entry in enumerate(record["instances"]):
            if not entry["pasted"]:
                original = originals[entry["source_id"]]
                assert instances["amodal_rle"].iloc[i] == original["segmentation"]["counts"]
                assert instances["category_id"].iloc[i] == original["category_id"]
            later = [j for j in np.flatnonzero(pasted) if j > i]
            np.testing.assert_array_equal(visible[i], amodal[i] & ~amodal[later].any(axis=0))
            pairs |= {(j, i) for j in later if (amodal[i] & amodal[j]).any()}
        first = instances["instance_id"].iloc[0]
        here = order[order["image_id"] == image["image_id"]]
        written = {
            (int(a - first), int(b - first))
            for a, b in zip(here["occluder_id"], here["occludee_id"], strict=True)
        }
        assert written == pairs
        pairs_found += len(pairs)

        before = read_image(source[1], record_photo(record, originals))
        after = read_image(tmp_path / "out/train", image["file_name"])
        changed = (before != after).any(axis=-1)
        # The soft rim of a matte, where alpha is at most a half, reaches a little further.
        near = np.zeros(SIZE, bool)
        for mask in amodal[pasted]:
            rows, columns = np.nonzero(mask)
            near[
                max(rows.min() - 3, 0) : rows.max() + 4,
                max(columns.min() - 3, 0) : columns.max() + 4,
            ] = True
        assert not (changed & ~near).any()
        assert changed[amodal[pasted].any(axis=0)].mean() > 0.8
    assert pairs_found == len(order) > 0


def record_photo(record, originals):
    ids = [i["source_id"] for i in record["instances"] if not i["pasted"]]
    return f"p{originals[ids[0]]['image_id']}.png"


def test_incomplete_and_crowd_objects_are_ignored_and_never_cut_out(source, tmp_path):
    kept = compose_split(
        PNG.model_copy(update={"exclude_incomplete": False}), "train", *source, tmp_path / "a"
    )
    excluded = compose_split(PNG, "train", *source, tmp_path / "b")
    crowds = {a["id"] for a in json.loads(source[0].read_text())["annotations"] if a["iscrowd"]}
    for table, folder in ((kept, "a"), (excluded, "b")):
        entries = [i for r in records(tmp_path / folder / "train") for i in r["instances"]]
        flagged = np.array([i["incomplete"] for i in entries])
        crowd = np.array([i["source_id"] in crowds and not i["pasted"] for i in entries])
        assert flagged.any() and crowd.any()
        expected = crowd | flagged if folder == "b" else crowd
        np.testing.assert_array_equal(table.instances["ignore"].to_numpy(dtype=bool), expected)
        for entry in entries:
            if entry["pasted"]:
                assert not entry["incomplete"] and entry["source_id"] not in crowds


def test_objects_that_touch_one_another_are_pasted_where_that_is_wanted(source, tmp_path):
    config = PNG.model_copy(update={"touching_is_incomplete": False, "occluders": (8, 8)})
    described = json.loads(source[0].read_text())["annotations"]
    # The pair of discs beside each other is the second and third object of each odd image.
    by_image = {}
    for record in described:
        by_image.setdefault(record["image_id"], []).append(record["id"])
    pairs = {id_ for image, ids in by_image.items() if image % 2 for id_ in ids[1:3]}
    seen = {True: [], False: []}
    for wanted, folder in ((PNG, "a"), (config, "b")):
        table = compose_split(wanted, "train", *source, tmp_path / folder)
        entries = [i for r in records(tmp_path / folder / "train") for i in r["instances"]]
        ignored = table.instances["ignore"].tolist()
        of_pairs = [
            (e["pasted"], i)
            for e, i in zip(entries, ignored, strict=True)
            if e["source_id"] in pairs
        ]
        seen[wanted.touching_is_incomplete] = of_pairs
    assert set(seen[True]) == {(False, True)}
    assert set(seen[False]) == {(False, False), (True, False)}


def test_dual_annotation_adds_every_photograph_as_it_was(source, tmp_path):
    config = PNG.model_copy(update={"dual_annotation": ("train",)})
    once = compose_split(PNG, "train", *source, tmp_path / "once")
    dual = compose_split(config, "train", *source, tmp_path / "dual")
    assert len(once.images) == 6 and len(dual.images) == 12
    assert compose_split(config, "val", *source, tmp_path / "val").images.shape[0] == 6
    for before, after in zip(once.images["file_name"], dual.images["file_name"][:6], strict=True):
        pictures = (tmp_path / "once/train" / before, tmp_path / "dual/train" / after)
        assert pictures[0].read_bytes() == pictures[1].read_bytes()
    truth = {rle.encode(disc(60, 50, 25)[None])[0], rle.encode(disc(110, 100, 15)[None])[0]}
    for image_id, name in zip(
        dual.images["image_id"][6:], dual.images["file_name"][6:], strict=True
    ):
        whole = dual.of_image(image_id)
        photo = source[1] / name.replace("_whole", "")
        own = read_image(str(tmp_path / "dual/train"), name, SIZE)
        assert np.array_equal(own, read_image(str(photo.parent), photo.name, SIZE))
        assert (whole["amodal_rle"] == whole["visible_rle"]).all()
        assert set(whole["amodal_rle"][~whole["ignore"]]) <= truth
    assert len(dual.instances) - len(once.instances) == 6 + 2 * 3 + 2 * 2


def test_class_agnostic_has_one_category(source, tmp_path):
    config = PNG.model_copy(update={"class_agnostic": True})
    table = compose_split(config, "train", *source, tmp_path / "out")
    assert [(c.id, c.name) for c in table.metadata.categories] == [(1, "object")]
    assert set(table.instances["category_id"]) == {1}


def test_same_pictures_and_table_whatever_the_workers(source, tmp_path):
    done = []
    one = compose_split(
        PNG, "train", *source, tmp_path / "one", 1, lambda d, total: done.append((d, total))
    )
    two = compose_split(PNG, "train", *source, tmp_path / "two", 2)
    assert done == [(i, 6) for i in range(1, 7)]
    assert one.fingerprint == two.fingerprint
    names = sorted(p.name for p in (tmp_path / "one/train").iterdir())
    assert names == sorted(p.name for p in (tmp_path / "two/train").iterdir())
    for name in names:
        a, b = (tmp_path / folder / "train" / name for folder in ("one", "two"))
        assert a.read_bytes() == b.read_bytes(), name
    other = compose_split(PNG, "val", *source, tmp_path / "one")
    reseeded = compose_split(PNG.model_copy(update={"seed": 1}), "train", *source, tmp_path / "c")
    assert len({t.instances["visible_rle"].str.cat() for t in (one, other, reseeded)}) == 3


def test_finished_pictures_are_kept_and_all_others_made_again(source, tmp_path):
    folder = tmp_path / "out/train"
    first = compose_split(PNG, "train", *source, tmp_path / "out")
    pictures = sorted(folder.glob("*.png"))
    contents = [p.read_bytes() for p in pictures]
    stamps = [p.stat().st_mtime_ns for p in pictures]
    pictures[0].unlink()
    pictures[1].with_suffix(".json").write_text('{"fingerprint": ')
    again = compose_split(PNG, "train", *source, tmp_path / "out")
    assert again.fingerprint == first.fingerprint
    assert [p.read_bytes() for p in pictures] == contents
    kept = [p.stat().st_mtime_ns == s for p, s in zip(pictures, stamps, strict=True)]
    assert kept == [False, False, True, True, True, True]

    changed = compose_split(
        PNG.model_copy(update={"edge_softness": 2.0}), "train", *source, tmp_path / "out"
    )
    assert changed.fingerprint != first.fingerprint
    assert all(p.read_bytes() != c for p, c in zip(pictures, contents, strict=True))


def test_wanted_rates_are_reached_and_stay_in_their_bins(source, tmp_path):
    config = PNG.model_copy(
        update={
            "occluders": (1, 1),
            "composites_per_image": 5,
            "occlusion_rates": (0.2, 0.6),
            "occlusion_weights": (1.0, 0.0, 0.0, 1.0),
            "same_image_probability": 0.0,
        }
    )
    table = compose_split(config, "train", *source, tmp_path / "out")
    pasted = [r["instances"][-1] for r in records(tmp_path / "out/train")]
    wanted = np.array([p["wanted_rate"] for p in pasted])
    reached = np.array([p["reached_rate"] for p in pasted])
    assert ((wanted < 0.3) | (wanted > 0.5)).all() and (wanted < 0.3).any() and (wanted > 0.5).any()
    assert np.abs(wanted - reached).max() < 0.06
    rates = table.instances["occlusion_rate"].to_numpy(dtype=float)
    assert all(np.abs(rates - rate).min() < 1e-6 for rate in reached)

    statistics = json.loads((tmp_path / "out/train/statistics.json").read_text())
    used = table.instances[~table.instances["ignore"].to_numpy(dtype=bool)]
    rates = used["occlusion_rate"].to_numpy(dtype=float)
    assert statistics["images"] == 30
    assert statistics["all"]["objects"] == len(rates)
    assert statistics["all"]["occluded_share"] == pytest.approx((rates > 0).mean())
    assert statistics["all"]["mean_rate"] == pytest.approx(rates.mean())
    assert statistics["all"]["mean_rate_occluded"] == pytest.approx(rates[rates > 0].mean())
    assert statistics["pasted"]["objects"] == 30
    made = [i for r in records(tmp_path / "out/train") for i in r["instances"]]
    cut_outs = len({i["source_id"] for i in made if i["pasted"]})
    assert (statistics["distinct_cutouts"], statistics["distinct_originals"]) == (cut_outs, 6)


def test_few_distinct_objects_are_warned_of(source, tmp_path, caplog, monkeypatch):
    compose_split(PNG, "train", *source, tmp_path / "out")
    (said,) = [r for r in caplog.records if "distinct" in r.getMessage()]
    assert said.levelname == "WARNING"
    assert "6 distinct originals count: with fewer than 200, results" in said.getMessage()
    caplog.clear()
    monkeypatch.setattr("amodal_pipeline.compose.dataset.FEW", 3)
    caplog.set_level("INFO")
    compose_split(PNG, "train", *source, tmp_path / "out")
    (said,) = [r for r in caplog.records if "distinct" in r.getMessage()]
    assert said.levelname == "INFO" and said.getMessage().endswith("6 distinct originals count")


def test_large_photographs_are_scaled_with_their_masks(source, tmp_path):
    config = PNG.model_copy(update={"max_side": 80, "image_format": "jpeg"})
    table = compose_split(config, "train", *source, tmp_path / "out")
    assert set(zip(table.images["height"], table.images["width"], strict=True)) == {(60, 80)}
    assert table.images["file_name"].iloc[0] == "p1_0.jpg"
    assert read_image(tmp_path / "out/train", "p1_0.jpg").shape == (60, 80, 3)
    disc_area = table.of_image(1)["amodal_box"].iloc[0]
    assert np.allclose(disc_area, [12.5, 17.5, 25.5, 25.5], atol=1)


def test_rejected_source_records_are_carried_along(source, tmp_path):
    document = json.loads(source[0].read_text())
    document["annotations"][0]["segmentation"] = [[1, 1, 2, 2]]
    source[0].write_text(json.dumps(document))
    table = compose_split(PNG, "train", *source, tmp_path / "out")
    (row,) = table.rejected.to_dict("records")
    assert row["record"] == "instance 100" and row["file"].endswith("instances.json")
    assert row["reason"] == "a polygon has fewer than three points"
    counted = table.metadata.accounting["instances"]
    assert counted.read == counted.kept + 1


def test_missing_photographs_are_named_together_before_anything_is_made(source, tmp_path):
    for name in ("p2.png", "p5.png"):
        (source[1] / name).unlink()
    with pytest.raises(ValueError, match=r"2 of the 6 .*p2\.png.*p5\.png"):
        compose_split(PNG, "train", *source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("workers", [1, 2])
def test_damaged_or_other_photographs_are_errors_that_name_them(source, tmp_path, workers):
    damaged = source[1] / "p4.png"
    damaged.write_bytes(damaged.read_bytes()[:500])
    with pytest.raises(ValueError, match=r"p4\.png"):
        compose_split(PNG, "train", *source, tmp_path / "out", workers)
    Image.new("RGB", (100, 100)).save(damaged)
    with pytest.raises(ValueError, match=r"120x160, p4\.png is 100x100"):
        compose_split(PNG, "train", *source, tmp_path / "out", workers)


def test_decompression_bomb_is_an_error_that_names_it(source, tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(ValueError, match=r"p\d\.png has more than 1000 pixels"):
        compose_split(PNG, "train", *source, tmp_path / "out")


def test_unfit_sources_are_refused(source, tmp_path):
    path, root = source
    large = PNG.model_copy(update={"min_source_area": 10**6})
    with pytest.raises(ValueError, match="min_source_area = 1000000"):
        compose_split(large, "train", path, root, tmp_path / "out")
    document = json.loads(path.read_text())
    document["annotations"][3]["visible_mask"] = document["annotations"][3]["segmentation"]
    path.write_text(json.dumps(document))
    with pytest.raises(ValueError, match="look like flat COCO style with visible masks"):
        compose_split(PNG, "train", path, root, tmp_path / "out")
    path.write_text("{")
    with pytest.raises(ValueError, match=r"instances\.json is not JSON"):
        compose_split(PNG, "train", path, root, tmp_path / "out")


def test_photographs_of_one_name_in_two_folders_stay_apart(source, tmp_path):
    path, root = source
    document = json.loads(path.read_text())
    for image, folder in zip(document["images"], ("a", "b"), strict=False):
        (root / folder).mkdir()
        (root / image["file_name"]).rename(root / folder / "same.png")
        image["file_name"] = f"{folder}/same.png"
    path.write_text(json.dumps(document))
    table = compose_split(PNG, "train", path, root, tmp_path / "out")
    assert table.images["file_name"].tolist()[:3] == [
        "a__same_0.png",
        "b__same_0.png",
        "p3_0.png",
    ]


@pytest.mark.parametrize(
    "wrong",
    [
        {"occluders": (3, 1)},
        {"occlusion_weights": (0.0,)},
        {"flip_probability": 1.5},
        {"occlusion_rate": 0.3},
        {"scale": (0.0, 1.0)},
    ],
)
def test_impossible_configurations_are_refused(wrong):
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        ComposeConfig(**wrong)


def test_real_photographs(tmp_path):
    if not DATA.is_dir():
        pytest.skip("COCO sample is not beside the repository")
    document = json.loads((DATA / "instances_val2017_from_panoptic.json").read_text())
    document["images"] = document["images"][:12]
    ids = {i["id"] for i in document["images"]}
    document["annotations"] = [a for a in document["annotations"] if a["image_id"] in ids]
    path = tmp_path / "some.json"
    path.write_text(json.dumps(document))
    config = ComposeConfig(max_side=320, min_source_area=256)
    table = compose_split(config, "val", path, DATA / "images/val2017", tmp_path / "out")
    assert len(table.images) == 12 and len(table.rejected) <= 2
    statistics = json.loads((tmp_path / "out/val/statistics.json").read_text())
    assert statistics["all"]["occluded_share"] > 0.3
    assert 0.1 < statistics["all"]["mean_rate_occluded"] < 0.6
    table.save(tmp_path / "table")
    assert AmodalAnnotations.load(tmp_path / "table").fingerprint == table.fingerprint


def test_photographs_of_several_files_are_divided_anew(source, tmp_path):
    (first, root), other = source, tmp_path / "more"
    document = json.loads(first.read_text())
    other.mkdir()
    for path in root.glob("*.png"):
        (other / path.name).write_bytes(path.read_bytes())
    broken = {"id": 7, "image_id": "nowhere", "category_id": 5, "segmentation": "x"}
    second = tmp_path / "second.json"
    second.write_text(json.dumps(document | {"annotations": [*document["annotations"], broken]}))
    files = {first: "photos", second: "more"}

    def split(**config):
        pool = tmp_path / "pool"
        found = {
            name: json.loads(divide(PoolConfig(**config), files, pool, name).read_text())
            for name in ("train", "val")
        }
        return {k: {i["file_name"]: i["id"] for i in v["images"]} for k, v in found.items()}, found

    names, found = split(held_out=0.25)
    assert len(names["val"]) == 3 and len(names["train"]) == 9
    assert not set(names["train"]) & set(names["val"])
    assert set(names["train"]) | set(names["val"]) == {
        f"{folder}/p{i}.png" for folder in ("photos", "more") for i in range(1, 7)
    }
    # Every annotation is that of its photograph, and the one of none is left to the reader.
    expected = {}
    for record in document["annotations"]:
        expected.setdefault(f"p{record['image_id']}.png", []).append(record["segmentation"])
    for part in found.values():
        assert [a["id"] for a in part["annotations"]] == [*range(1, len(part["annotations"]) + 1)]
        for image in part["images"]:
            own = [a["segmentation"] for a in part["annotations"] if a["image_id"] == image["id"]]
            assert own == expected[image["file_name"].split("/")[1]]
    assert [a["segmentation"] for a in found["train"]["annotations"] if not a["image_id"]] == ["x"]

    # Fewer photographs are some of more, and others are held out with another seed.
    fewer, _ = split(held_out=0.25, photographs=4)
    assert set(fewer["train"]) < set(names["train"]) and len(fewer["train"]) == 4
    assert set(fewer["val"]) == set(names["val"])
    assert set(split(held_out=0.25, seed=1)[0]["val"]) != set(names["val"])
    assert len(split(held_out=0.25, train_on_all=True)[0]["train"]) == 12
    with pytest.raises(ValueError, match="12 photographs are too few to hold out"):
        split(held_out=0.01)
    composed = compose_split(PNG, "val", tmp_path / "pool/val.json", tmp_path, tmp_path / "out")
    assert len(composed.images) == 3
    second.write_text(json.dumps(document | {"categories": document["categories"][:1]}))
    with pytest.raises(ValueError, match="other categories than"):
        split()
    doubled = document | {"images": document["images"] * 2}
    second.write_text(json.dumps(doubled))
    with pytest.raises(ValueError, match="two images of a file have the same id"):
        split()
