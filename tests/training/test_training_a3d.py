"""A3D in the training loop: pairs of views, a start from other categories, C2F-Seg's inputs."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch

from amodal_pipeline import methods
from amodal_pipeline.annotations import AnnotationsMetadata
from amodal_pipeline.annotations.known_objects import true_objects
from amodal_pipeline.annotations.tables import INSTANCES, frame
from amodal_pipeline.layers.configs import CorruptionConfig, CropConfig
from amodal_pipeline.methods import build
from amodal_pipeline.methods.a3d.method import soft_iou
from amodal_pipeline.methods.configs import A3DConfig
from amodal_pipeline.methods.pretrained import restore
from amodal_pipeline.methods.training_config import InferenceConfig
from amodal_pipeline.scenes.view_config import ViewsConfig
from amodal_pipeline.scenes.views import render_views
from amodal_pipeline.training import loop
from amodal_pipeline.training.completing import complete
from tests.conftest import tiny_training

TINY = A3DConfig(
    crop=CropConfig(around="amodal", enlarge=1.0, clipped=False, side=16, image_side=16),
    corruption=CorruptionConfig(kernel=(1, 3), sigma=1.0),
    box_noise=0.1,
    channels=(8, 16),
    hidden=(16,),
    code=8,
    decoder=(16,),
    subdivisions=1,
    refinement_channels=4,
)


# The published method (camera, no fitting, no spread) in narrow layers and small pictures.
PUBLISHED = A3DConfig(
    crop=CropConfig(around="amodal", enlarge=1.0, clipped=False, side=32, image_side=32),
    channels=(8, 16, 32, 64, 128),
    subdivisions=1,
    refinement=False,
)


@pytest.fixture(scope="module")
def rendered(tmp_path_factory):
    """64 views: four objects from sixteen sides."""
    config = ViewsConfig(image_size=32, azimuths=16)
    return render_views(config, "train", 4, tmp_path_factory.mktemp("views"))


@pytest.fixture
def views(shapes):
    """Eight objects, each of two pictures."""
    table = shapes.instances.assign(track_id=pd.array(np.arange(16) // 4 * 2 + np.arange(16) % 2))
    columns = {name: table[name] for name in table.columns}
    return dataclasses.replace(shapes, instances=frame(INSTANCES, columns))


def test_pairs_are_for_meshes_that_are_rendered_from_two_viewpoints(views, shapes):
    def partners(annotations, **changes):
        method = TINY.model_copy(update=changes)
        batches = methods.make_batches(method, tiny_training(batch_size=4), annotations)
        assert batches[0].targets["aspect"].shape == (4, 2)
        return batches[0].targets["partner"].tolist()

    assert partners(views) == [1, 0, 3, 2]
    assert partners(views, cross_view=False) == partners(views, mesh=False) == [-1] * 4
    assert partners(shapes) == [-1] * 4


def test_noise_and_corruption_are_those_of_the_method(views):
    def batch(**changes):
        method = TINY.model_copy(update=changes)
        return methods.make_batches(method, tiny_training(batch_size=16), views)[0].targets

    noisy, plain = batch(), batch(box_noise=0.0, corruption=None)
    assert torch.equal(plain["input"], plain["visible"])
    assert not torch.equal(noisy["input"], noisy["visible"])
    assert not torch.allclose(noisy["aspect"], plain["aspect"])


def test_a_paired_training_that_was_cut_goes_on_to_the_same_bits(views, tmp_path):
    config = tiny_training(iterations=4, batch_size=4, optimizer="adam", schedule="linear")
    whole = loop.train(TINY, config, views, tmp_path / "whole")
    with pytest.raises(InterruptedError):
        loop.train(TINY, config, views, tmp_path / "cut", on_step=_stop)
    resumed = loop.train(TINY, config, views, tmp_path / "cut")
    assert all(torch.equal(v, resumed.weights[k]) for k, v in whole.weights.items())


def _stop(step):
    if step.iteration == 3:
        raise InterruptedError


def test_what_was_learnt_from_views_is_taken_for_other_categories(views, tmp_path):
    config = tiny_training(iterations=2, batch_size=4)
    before = loop.train(TINY, config, views, tmp_path / "before")
    known = views.metadata.categories
    renamed = tuple(c.model_copy(update={"name": f"real {c.name}"}) for c in known)
    values = dict(views.metadata) | {"categories": renamed}
    photographs = dataclasses.replace(views, metadata=AnnotationsMetadata(**values))
    after = loop.train(
        TINY,
        config,
        photographs,
        tmp_path / "after",
        pretrained=before,
        pretrained_categories={renamed[0].name: known[0].name},
    )
    assert after.card.reuse.fresh == 0 and after.card.reuse.partly == 2
    assert after.card.reuse.categories == {renamed[0].name: known[0].name}


def test_a_trained_one_completes_true_objects_in_their_boxes(views, tmp_path):
    checkpoint = loop.train(TINY, tiny_training(iterations=1), views, tmp_path)
    found = complete(
        restore(checkpoint),
        true_objects(views, boxes=True),
        InferenceConfig(workers=0, device="cpu"),
        method="a3d",
    )
    assert found.metadata.inputs == "true_boxes"
    assert found.predictions["amodal_rle"].notna().all()


def test_the_published_configuration_keeps_its_mesh(rendered, tmp_path):
    """A camera that comes too close covers windows, and no gradient leads back from there."""
    config = tiny_training(
        iterations=30,
        batch_size=16,
        optimizer="adam",
        learning_rate=1e-4,
        weight_decay=0.0,
        schedule="multistep",
        milestones=(),
        warmup_iterations=0,
        gradient_clip=None,
        checkpoint_every=30,
        seed=1,  # one of the five of eight that were lost with He's weights in the last layer
    )
    model = restore(loop.train(PUBLISHED, config, rendered, tmp_path)).train()
    wide = config.model_copy(update={"batch_size": 64})
    whole = methods.make_batches(PUBLISHED, wide, rendered)[0]
    with torch.no_grad():
        found = model.explain(whole.images, whole.targets)
    assert 0.5 < found.coarse.mean() < 0.95
    assert found.viewpoints.distance.min() > 2.5
    truth = whole.targets["amodal"].float()
    filled = soft_iou(torch.ones_like(truth), truth).mean()
    assert soft_iou(found.coarse, truth).mean() > filled + 0.05


def test_a_mesh_that_fills_its_windows_is_told_once(rendered, tmp_path, monkeypatch, caplog):
    def too_close(*args):
        model = build(*args)
        with torch.no_grad():
            model.viewpoint[-1][-1].bias[1] = -20
        return model

    config = tiny_training(iterations=3, batch_size=8, learning_rate=1e-5)
    loop.train(PUBLISHED, config, rendered, tmp_path / "apart")
    assert "cover" not in caplog.text
    monkeypatch.setattr(loop, "build", too_close)
    loop.train(PUBLISHED, config, rendered, tmp_path / "close")
    (told,) = (r.getMessage() for r in caplog.records if "cover" in r.getMessage())
    assert (
        told.startswith("iteration 1: coarse masks cover 100% of their windows, objects 76%")
        and "restart=true" in told
    )
