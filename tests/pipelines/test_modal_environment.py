"""The environment of plain COCO instances."""

import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

from amodal_pipeline.jobs.prepare import prepare
from amodal_pipeline.jobs.sources import Source
from amodal_pipeline.jobs.train import Job, train_upstream
from amodal_pipeline.methods.contract import check_learnable
from amodal_pipeline.methods.registry import METHODS, MethodConfig
from amodal_pipeline.training import loop
from tests.conftest import tiny_method, tiny_training
from tests.pipelines.conftest import configuration


@pytest.fixture
def parameters():
    return configuration("coco_modal")["parameters"]


def test_plain_coco_is_prepared_and_its_detector_learns_what_is_visible(
    parameters, tmp_path, caplog
):
    (tmp_path / "annotations").mkdir()
    for split in ("train", "val"):
        (tmp_path / f"{split}2017").mkdir()
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / f"{split}2017/a.png")
        record = {"id": 1, "image_id": 1, "category_id": 1, "iscrowd": 0}
        document = {
            "images": [{"id": 1, "file_name": "a.png", "height": 8, "width": 8}],
            "categories": [{"id": 1, "name": "person"}],
            "annotations": [{**record, "segmentation": [[1, 1, 6, 1, 6, 6, 1, 6]]}],
        }
        file = tmp_path / f"annotations/instances_{split}2017.json"
        file.write_text(json.dumps(document))
    source = Source.model_validate(parameters["source"])
    tables = prepare(source, "coco_modal", tmp_path / "images", tmp_path, 1)
    assert all(t.metadata.modal and len(t.instances) == 1 for t in tables)
    assert caplog.text.count("nothing amodal is learnt or measured") == 2
    model = Job.model_validate(parameters["mask_rcnn"]).model.root
    assert (model.boxes, model.masks) == ("visible", "visible")


def test_what_learns_from_amodal_masks_is_refused_before_anything_is_trained(shapes, tmp_path):
    modal = shapes.metadata.model_copy(update={"modal": True})
    configs = [MethodConfig.model_validate({"name": name}).root for name in METHODS]
    configs += [
        MethodConfig.model_validate(values).root
        for values in (
            {"name": "mask_rcnn", "boxes": "visible", "masks": "visible"},
            {"name": "mask_rcnn", "boxes": "visible"},
            {"name": "savos", "supervised": True},
        )
    ]
    learning = []
    for config in configs:
        check_learnable(config, shapes.metadata)
        try:
            check_learnable(config, modal)
        except ValueError as error:
            assert f"{config.name} learns from amodal masks, and shapes/train has" in str(error)
        else:
            learning.append(config)
    assert [config.name for config in learning] == ["savos", "pcnet_m", "mask_rcnn"]
    assert learning[-1] is configs[-3]

    table = dataclasses.replace(shapes, metadata=modal)
    with pytest.raises(ValueError, match="orcnn learns from amodal masks"):
        loop.train(tiny_method("orcnn"), tiny_training(), table, tmp_path / "orcnn")
    detector = Job.model_validate({"model": {"name": "mask_rcnn", "boxes": "visible"}})
    asked = Job.model_validate({"model": {"name": "c2f_seg"}, "detector": "mask_rcnn"})
    with pytest.raises(ValueError, match="c2f_seg learns from amodal masks"):
        train_upstream(table, asked, detector, tmp_path / "models", restart=False)
    assert not list(tmp_path.rglob("*.json*"))
