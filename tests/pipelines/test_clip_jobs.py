"""Jobs with a method that learns from clips: trained, resumed, started from the image model."""

import pytest
import torch

from amodal_pipeline import methods
from amodal_pipeline.annotations import rle
from amodal_pipeline.jobs.complete import complete_true, complete_true_at_cost
from amodal_pipeline.jobs.train import Job, train_upstream
from amodal_pipeline.methods.checkpoints import Fingerprint, NotMade
from amodal_pipeline.methods.training_config import InferenceConfig
from amodal_pipeline.training.loop import Component, train
from tests.conftest import TINY_CLIPS, tiny_method, tiny_training
from tests.methods import test_c2f_seg as image_tests
from tests.methods.test_methods import checkpoint_of

INFERENCE = InferenceConfig(workers=0, device="cpu")


def components():
    torch.manual_seed(0)
    model = methods.build(tiny_method("c2f_seg_video"), classes=2)
    return {"tokenizer": Component(model.tokenizer.state_dict(), "made")}


def test_it_trains_goes_on_and_completes_tracks(moving, tmp_path):
    """A training that is cut after four of six iterations ends with the same bits."""
    method, parts = tiny_method("c2f_seg_video"), components()
    config = tiny_training(iterations=6, learning_rate=1e-3)
    whole = train(method, config, moving, tmp_path / "whole", components=parts)

    def cut(step):
        if step.iteration == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(method, config, moving, tmp_path / "cut", components=parts, on_step=cut)
    again = train(method, config, moving, tmp_path / "cut", components=parts)
    assert all(torch.equal(again.weights[k], whole.weights[k]) for k in whole.weights)

    found, cost = complete_true_at_cost(whole, moving, INFERENCE)
    assert cost["flops"] > 0
    table = found.predictions
    assert table["instance_id"].tolist() == moving.instances["instance_id"].tolist()
    assert table["track_id"].tolist() == moving.instances["track_id"].tolist()
    assert found.metadata.method == "c2f_seg_video"
    # What comes out for a track is that of the track alone.
    own = moving.images["image_id"][(moving.images["video_id"] == 1).to_numpy(dtype=bool)]
    alone = complete_true(whole, moving.subset(own), INFERENCE).predictions
    masks = table.set_index("instance_id")["amodal_rle"].loc[alone["instance_id"]]
    assert (rle.pair_iou(masks.tolist(), alone["amodal_rle"].tolist()) > 0.98).all()


def test_it_starts_from_a_finished_image_model_or_says_how_to_train_it(moving, shapes, tmp_path):
    job = Job.model_validate({"model": TINY_CLIPS, "pretrained": "c2f_seg"})
    image = Job.model_validate({"model": {"name": "c2f_seg", **image_tests.TINY}})

    def start(annotations):
        return train_upstream(annotations, job, image, tmp_path, False)

    with pytest.raises(ValueError, match="pipeline=train_c2f_seg"):
        start(moving)
    made = checkpoint_of(methods.build(image.model.root, classes=2))
    mark = Fingerprint(parts={"annotations_train": moving.fingerprint})
    card = made.card.model_copy(update={"fingerprint": mark})
    type(made)(card, made.weights).save(tmp_path / "c2f_seg")
    assert start(moving).card == card
    with pytest.raises(ValueError, match="other annotations"):
        start(shapes)
    free = job.model_copy(update={"pretrained": None})
    assert isinstance(train_upstream(moving, free, image, tmp_path, False), NotMade)
