"""Losses and initialisation of box heads are those of the code that each recipe was run with."""

import pytest

from amodal_pipeline.jobs.train import Job
from tests.pipelines.conftest import configuration

DETECTRON2 = (0.0, 0.0, "detectron")
DETECTRON = (pytest.approx(1 / 9), 1.0, "detectron")
MASK_RCNN_OF_SLN = (1.0, 1.0, "detectron")
TORCHVISION = (1 / 9, 1 / 9, "torchvision")  # to the bit: results of the embedded run stand on it


@pytest.mark.parametrize(
    ("env", "vrsp", "orcnn", "sln"),
    [
        ("scenes", TORCHVISION, TORCHVISION, TORCHVISION),
        # KINS' figures of ORCNN are VRSP's.
        ("kins", DETECTRON2, DETECTRON2, MASK_RCNN_OF_SLN),
        ("d2sa", DETECTRON2, DETECTRON, MASK_RCNN_OF_SLN),
        ("cocoa", DETECTRON2, DETECTRON, MASK_RCNN_OF_SLN),
        ("cocoa_bsds", DETECTRON2, DETECTRON, MASK_RCNN_OF_SLN),
        ("cocoa_cls", DETECTRON2, DETECTRON, MASK_RCNN_OF_SLN),
    ],
)
def test_recipes(env, vrsp, orcnn, sln):
    parameters = configuration(env)["parameters"]
    for method, wanted in (("vrsp", vrsp), ("mask_rcnn", vrsp), ("orcnn", orcnn), ("sln", sln)):
        model = Job.model_validate(parameters[method]).model.root
        heads = getattr(model, "detector", model)
        found = (
            heads.proposals.box_loss_beta,
            heads.box_head.box_loss_beta,
            heads.box_head.initialisation,
        )
        assert found == wanted, method
