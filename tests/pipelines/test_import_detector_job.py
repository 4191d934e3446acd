"""`import_detector`, as a user runs it."""

import pytest
import torch
from kedro.framework.session import KedroSession

from amodal_pipeline import methods
from amodal_pipeline.jobs.import_detector import import_detector
from tests.methods.test_importing import of_torchvision, small_v2


def test_a_file_becomes_a_checkpoint_folder(empty_project):
    torch.save(of_torchvision(small_v2).state_dict(), empty_project / "model.pth")
    given = {"from": "torchvision", "file": "model.pth", "tracking": False}
    with KedroSession.create(empty_project, runtime_params=given) as session:
        session.run(pipeline_names=["import_detector"])
    model = methods.load(empty_project / "data/06_models/coco/mask_rcnn")
    assert model.categories[0].name == "person"


@pytest.mark.parametrize(
    ("library", "file"), [(None, "a.pth"), ("torch", "a.pth"), ("detectron2", None)]
)
def test_what_must_be_said_is_asked_for(library, file):
    with pytest.raises(ValueError, match=r"from=torchvision\|detectron2,file=<"):
        import_detector(library, file)
