"""The same code on a GPU; skipped without one."""

import pytest
import torch

from amodal_pipeline.annotations import PredictionsMetadata
from amodal_pipeline.jobs.parts import Parts
from amodal_pipeline.methods.configs import VRSPConfig
from amodal_pipeline.methods.pretrained import restore
from amodal_pipeline.methods.training_config import InferenceConfig
from amodal_pipeline.training import loop
from amodal_pipeline.training.inference import predict
from tests.conftest import TINY_METHODS, tiny_method, tiny_training

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.mark.parametrize("name", TINY_METHODS)
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_trains_in_bfloat16_resumes_and_predicts(name, optimizer, shapes, tmp_path):
    config = tiny_training(device="cuda", precision="auto", optimizer=optimizer, learning_rate=1e-3)

    class CutError(Exception):
        pass

    def cut(step):
        if step.iteration == 3:
            raise CutError

    method, components = tiny_method(name), {}
    if isinstance(method, VRSPConfig) and method.uses_prior:
        prior = loop.train(method.prior, tiny_training(), shapes, tmp_path / "shape_prior")
        components = Parts({"shape_prior": prior}).components(method)
    given = {"components": components}
    with pytest.raises(CutError):
        loop.train(method, config, shapes, tmp_path / name, on_step=cut, **given)
    steps = []
    checkpoint = loop.train(method, config, shapes, tmp_path / name, on_step=steps.append, **given)
    assert steps[0].iteration == 3  # the state of iteration 2, and on
    metadata = PredictionsMetadata(
        dataset="shapes",
        split="train",
        method=name,
        categories=shapes.metadata.categories,
        image_root=shapes.metadata.image_root,
    )
    inference = InferenceConfig(workers=0, device="cuda")
    found = predict(restore(checkpoint), shapes.images, metadata, inference)
    assert set(found.images["image_id"]) == set(shapes.images["image_id"])
