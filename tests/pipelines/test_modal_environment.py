"""The environment of plain COCO instances."""

import json

import numpy as np
import pytest
from PIL import Image

from amodal_pipeline.jobs.prepare import prepare
from amodal_pipeline.jobs.sources import Source
from amodal_pipeline.jobs.train import Job
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
