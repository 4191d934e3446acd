"""Each published data set through its environment: original files in, tables and audits out."""

import json
import logging
import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from kedro.framework.session import KedroSession
from PIL import Image

from amodal_pipeline.annotations import AmodalAnnotations

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "annotations"))

import writers  # noqa: E402

SIZE = (48, 64)


@pytest.fixture(scope="module")
def project(empty_project):
    return empty_project


def prepare(project, env, raw, pipeline="prepare", **parameters):
    values = {"raw_root": str(raw), "tracking": False, "workers": 1, **parameters}
    with KedroSession.create(project, env=env, runtime_params=values) as session:
        session.run(pipeline_names=[pipeline])


def table(project, dataset, split):
    versions = sorted((project / f"data/03_primary/{dataset}/annotations_{split}").iterdir())
    return AmodalAnnotations.load(versions[-1] / f"annotations_{split}")


def audited(project, dataset, split):
    rows = pd.read_csv(project / f"data/08_reporting/{dataset}/audit_{split}.csv")
    page = project / f"data/08_reporting/{dataset}/audit_{split}.html"
    assert "<html" in page.read_text()
    return rows.set_index("name")


def picture(path, size=SIZE):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size[::-1], (90, 120, 90)).save(path)


def box(x0, y0, x1, y1):
    mask = np.zeros(SIZE, np.uint8)
    mask[y0:y1, x0:x1] = 1
    return mask


FRONT, BACK = box(4, 4, 24, 24), box(14, 10, 44, 34)
SEEN = BACK & (1 - FRONT)


def flat(first, image_id, category_id, **more):
    """Two products, one before the other, as D2SA and COCOA-cls have them."""
    shared = {"image_id": image_id, "category_id": category_id, "iscrowd": 0}
    front = {"id": first, "segmentation": writers.run_lengths(FRONT), "occl_depth": 0}
    back = {
        "id": first + 1,
        "segmentation": writers.run_lengths(BACK),
        "visible_mask": writers.run_lengths(SEEN),
        "invisible_mask": writers.run_lengths(BACK & FRONT),
        "occl_depth": 1,
    }
    return [{**shared, **record, **more} for record in (front, back)]


def document(image_id, name, annotations, categories):
    return json.dumps(
        {
            "images": [{"id": image_id, "file_name": name, "height": SIZE[0], "width": SIZE[1]}],
            "annotations": annotations,
            "categories": [{"id": i, "name": n} for i, n in categories.items()],
        }
    )


def cocoa(image_id, name, annotation_id):
    outline = [4, 4, 24, 4, 24, 24, 4, 24]
    back = [14, 10, 44, 10, 44, 34, 14, 34]
    amodal = writers.raster([back], SIZE)
    hidden = amodal & writers.raster([outline], SIZE)
    regions = [
        {"segmentation": outline, "name": "cat", "isStuff": 0, "occlude_rate": 0, "order": 1},
        {
            "segmentation": back,
            "name": "sofa",
            "isStuff": 0,
            "order": 2,
            "occlude_rate": hidden.sum() / amodal.sum(),
            "visible_mask": writers.run_lengths(amodal & (1 - hidden)),
            "invisible_mask": writers.run_lengths(hidden),
        },
    ]
    return json.dumps(
        {
            "images": [{"id": image_id, "file_name": name, "height": SIZE[0], "width": SIZE[1]}],
            "annotations": [
                {
                    "id": annotation_id,
                    "image_id": image_id,
                    "author": "a",
                    "url": "",
                    "size": 2,
                    "depth_constraint": "1-2",
                    "regions": regions,
                }
            ],
        }
    )


def test_kins(project, tmp_path, caplog):
    scenes = {"train": writers.street(1), "val": writers.street(2)}
    for split, folder in (("train", "training"), ("val", "testing")):
        scene = scenes[split]
        for i, (name, size) in scene.images.items():
            scene.images[i] = (Path(name).name, size)
            picture(tmp_path / folder / "image_2" / Path(name).name, size)
        records = [writers.kins_2020_record(thing) for thing in scene.things]
        file = {"train": "update_train_2020.json", "val": "update_test_2020.json"}[split]
        scene.categories.clear()
        scene.categories.update(dict(sorted(writers.KINS_2020_CATEGORIES.items())))
        writers.write(tmp_path / file, scene, records)
    with caplog.at_level(logging.WARNING):
        prepare(project, "kins", tmp_path)
    train = table(project, "kins", "train")
    assert len(train.images) == len(scenes["train"].images)
    assert all(n.startswith("training/image_2/") for n in train.images["file_name"])
    assert train.metadata.image_root == str(tmp_path)
    rows = audited(project, "kins", "train")
    assert rows.loc["images", "published"] == 7474
    assert "7\u00a0470 fewer" in caplog.text  # said aloud, as the files are not those of the paper


def test_a_file_of_another_data_set_and_of_another_year(project, tmp_path):
    for folder in ("training/image_2", "testing/image_2"):
        (tmp_path / folder).mkdir(parents=True)
    scene = writers.street(1)
    new = writers.write(
        tmp_path / "instances_val.json", scene, [*map(writers.kins_2020_record, scene.things)]
    )
    (tmp_path / "instances_train.json").write_text(document(1, "a.png", flat(1, 1, 1), {1: "a"}))
    with pytest.raises(ValueError, match=r"instances_train\.json is not KINS.*--env=d2sa"):
        prepare(project, "kins", tmp_path, source={"kins": {"absent_images": "unchecked"}})
    old = writers.street(1, categories=writers.KINS_2019_CATEGORIES)
    writers.write(
        tmp_path / "instances_train.json", old, [*map(writers.kins_2019_record, old.things)]
    )
    assert new.exists()
    with pytest.raises(ValueError, match=r"different categories.*3 rider"):
        prepare(project, "kins", tmp_path, source={"kins": {"absent_images": "unchecked"}})


def test_d2sa_joins_its_two_training_files(project, tmp_path):
    categories = writers.D2SA_CATEGORIES
    for file, name in (
        ("D2S_amodal_training_rot0", "a.jpg"),
        ("D2S_amodal_augmented", "b.jpg"),
        ("D2S_amodal_validation", "c.jpg"),
    ):
        picture(tmp_path / "images" / name)
        text = document(7, name, flat(1, 7, 60), categories)
        (tmp_path / f"{file}.json").write_text(text)
    prepare(project, "d2sa", tmp_path)
    train = table(project, "d2sa", "train")
    assert train.images["file_name"].tolist() == ["images/a.jpg", "images/b.jpg"]
    assert len(train.instances) == 4 and len(train.order) == 2
    assert set(train.metadata.sources) == {
        "D2S_amodal_training_rot0.json",
        "D2S_amodal_augmented.json",
    }
    rows = audited(project, "d2sa", "val")
    assert rows.loc["occluded_objects", ["value", "published"]].tolist() == ["1", "7473"] or (
        float(rows.loc["occluded_objects", "value"]) == 1
        and float(rows.loc["occluded_objects", "published"]) == 7473
    )


def test_absent_and_changed_images(project, tmp_path):
    for name, image in (("rot0", "a.jpg"), ("aug", "b.jpg"), ("val", "c.jpg")):
        (tmp_path / f"{name}.json").write_text(
            document(7, image, flat(1, 7, 60), writers.D2SA_CATEGORIES)
        )
    picture(tmp_path / "images" / "a.jpg")
    picture(tmp_path / "images" / "c.jpg")
    files = {
        "train": [
            {"annotations": [f"{name}.json"], "images": ["images"]} for name in ("rot0", "aug")
        ],
        "val": {"annotations": ["val.json"], "images": ["images"]},
    }
    with pytest.raises(ValueError, match=r"1 of the 2 images of d2sa train.*b\.jpg, which is miss"):
        prepare(project, "d2sa", tmp_path, source={"d2sa": files})
    picture(tmp_path / "images" / "b.jpg", (SIZE[0], SIZE[1] + 1))
    with pytest.raises(ValueError, match=r"b\.jpg is 48x65 pixels"):
        prepare(project, "d2sa", tmp_path, source={"d2sa": files})
    rejecting = {"d2sa": {**files, "absent_images": "reject"}}
    prepare(project, "d2sa", tmp_path, source=rejecting)
    train = table(project, "d2sa", "train")
    assert train.images["file_name"].tolist() == ["images/a.jpg"]
    counted = train.metadata.accounting
    assert counted["images"].rejected == 1 and counted["instances"].rejected == 2
    assert counted["order"].rejected == 1


def test_cocoa_and_its_test_split(project, tmp_path):
    for split, image in (("train", 1), ("val", 2), ("test", 3)):
        (tmp_path / f"COCO_amodal_{split}2014.json").write_text(
            cocoa(image, f"{image}.jpg", 10 * image)
        )
        picture(tmp_path / ("train2014" if split == "train" else "val2014") / f"{image}.jpg")
    prepare(project, "cocoa", tmp_path)
    val = table(project, "cocoa", "val")
    assert val.instances["instance_id"].tolist() == [20001, 20002]
    assert val.order[["occluder_id", "occludee_id"]].to_numpy().tolist() == [[20001, 20002]]
    assert not val.order["inferred"].any()
    prepare(project, "cocoa", tmp_path, "prepare_test")
    assert table(project, "cocoa", "test").images["image_id"].tolist() == [3]
    assert audited(project, "cocoa", "test").loc["images", "published"] == 1250
    with pytest.raises(ValueError, match="kins has no test split"):
        prepare(project, "kins", tmp_path, "prepare_test")


def test_cocoa_cls_is_merged_where_its_files_are_not_there(project, tmp_path):
    seen = writers.raster([[14, 10, 44, 10, 44, 34, 14, 34]], SIZE)
    front = writers.raster([[4, 4, 24, 4, 24, 24, 4, 24]], SIZE)
    for split, image in (("train", 1), ("val", 2)):
        (tmp_path / f"COCO_amodal_{split}2014.json").write_text(
            cocoa(image, f"{image}.jpg", 10 * image)
        )
        if split == "val":  # the test split has images and instances of COCO's val
            (tmp_path / "COCO_amodal_test2014.json").write_text(cocoa(image, f"{image}.jpg", 30))
        instance = {
            "id": 5,
            "image_id": image,
            "category_id": 63,
            "iscrowd": 0,
            "segmentation": writers.run_lengths(seen & (1 - front)),
        }
        (tmp_path / f"instances_{split}2014.json").write_text(
            document(image, f"{image}.jpg", [instance], {17: "cat", 63: "couch"})
        )
        picture(tmp_path / f"{split}2014" / f"{image}.jpg")
    prepare(project, "cocoa_cls", tmp_path)
    train = table(project, "cocoa_cls", "train")
    assert train.instances["category_id"].tolist() == [63]
    assert train.metadata.accounting["instances"].rejected == 1  # the cat has no COCO instance
    ready = project / "data/02_intermediate/cocoa_cls/COCO_amodal_train2014_with_classes.json"
    assert (project / "data/02_intermediate/cocoa_cls/merge_train.csv").exists()
    prepare(project, "cocoa_cls", tmp_path, "prepare_test")
    assert table(project, "cocoa_cls", "test").instances["instance_id"].tolist() == [30002]

    # The merged files are the ready ones: read in their turn, they give the same objects.
    for split in ("train", "val"):
        made = ready.with_name(ready.name.replace("train", split))
        shutil.copy(made, tmp_path / made.name)
    prepare(project, "cocoa_cls", tmp_path)
    again = table(project, "cocoa_cls", "train")
    for column in ("category_id", "amodal_rle", "visible_rle"):
        assert again.instances[column].tolist() == train.instances[column].tolist()
    assert set(again.metadata.sources) == {ready.name}


@pytest.mark.parametrize(
    "env", ["kins", "cocoa", "cocoa_bsds", "cocoa_cls", "d2sa", "fishbowl", "movid_a", "movi_d"]
)
def test_missing_files_are_listed_with_where_they_come_from(project, tmp_path, env):
    with pytest.raises(FileNotFoundError, match="raw_root") as error:
        prepare(project, env, tmp_path)
    text = str(error.value)
    source = yaml.safe_load((project / "conf" / env / "parameters.yml").read_text())["source"]
    section = source[source["kind"]]
    parts = [part for s in ("train", "val") for part in [section[s]]]
    parts = [p for part in parts for p in (part if isinstance(part, list) else [part])]
    for part in parts:
        assert all(name in text for name in part["annotations"] + part["images"])
    assert "https://" in text and section["obtain"] in text
    assert str(tmp_path) in text


def test_mistakes_in_an_environment_are_found_before_anything_is_read(project, tmp_path):
    wrong = {"published": {"train": {"imges": 3}}}
    with pytest.raises(Exception, match="imges"):
        prepare(project, "d2sa", tmp_path, audit=wrong)
    with pytest.raises(Exception, match=r"coco_instances\.val"):
        prepare(
            project, "cocoa_cls", tmp_path, source={"cocoa_cls": {"coco_instances": {"val": []}}}
        )


def test_images_beside_their_annotations(project, tmp_path):
    for split in ("train", "val"):
        (tmp_path / f"{split}.json").write_text(
            document(7, "a.png", flat(1, 7, 60), writers.D2SA_CATEGORIES)
        )
    picture(tmp_path / "a.png")
    files = {s: {"annotations": [f"{s}.json"], "images": ["."]} for s in ("train", "val")}
    files["train"] = [files["train"]]
    prepare(project, "d2sa", tmp_path, source={"d2sa": files})
    assert table(project, "d2sa", "train").images["file_name"].tolist() == ["a.png"]
