"""Parts of a method that do not train."""

import pytest
import torch
from torch import nn

from amodal_pipeline.training import loop
from tests.conftest import tiny_method, tiny_training


def test_what_is_frozen_keeps_its_start_and_the_rest_trains(shapes, tmp_path):
    start = loop.train(tiny_method("mask_rcnn"), tiny_training(), shapes, tmp_path / "start")
    frozen = tiny_training(frozen=("detector.",))
    trained = loop.train(tiny_method("orcnn"), frozen, shapes, tmp_path / "row", pretrained=start)
    for name, weight in trained.weights.items():
        source = name.replace("amodal_head", "mask_head").replace("visible_head", "mask_head")
        same = torch.equal(weight, start.weights[source])
        assert same == name.startswith("detector."), name


def test_a_frozen_training_that_was_cut_gives_the_same_bits(shapes, tmp_path, monkeypatch):
    config = tiny_training(frozen=("detector.", "visible_head."), optimizer="adamw")
    whole = loop.train(tiny_method("orcnn"), config, shapes, tmp_path / "whole")

    def cut(step):
        if step.iteration == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        loop.train(tiny_method("orcnn"), config, shapes, tmp_path / "cut", on_step=cut)
    resumed = loop.train(tiny_method("orcnn"), config, shapes, tmp_path / "cut")
    assert all(torch.equal(v, resumed.weights[k]) for k, v in whole.weights.items())


def test_nothing_below_a_frozen_part_asks_for_a_gradient(shapes):
    from amodal_pipeline import methods

    model = methods.build(tiny_method("orcnn"), 2).train()
    loop._freeze(model, ("detector.",))
    batch = methods.make_batches(model.config, tiny_training(batch_size=2), shapes)[0]
    losses = model(batch.images, batch.targets)
    asking = {name for name, loss in losses.items() if loss.requires_grad}
    assert asking == {"loss_amodal_mask", "loss_visible_mask", "loss_invisible_mask"}


def test_frozen_layers_neither_drop_out_nor_gather_statistics():
    model = nn.Sequential(
        nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Dropout()),
        nn.Dropout(),
        nn.Linear(2, 1),
    ).train()
    loop._freeze(model, ("0.",))
    assert [m.training for m in model[0]] == [False] * 3
    assert model[0].training and model[1].training and model[2].training


def test_a_name_that_no_parameter_has_is_an_error(shapes, tmp_path):
    with pytest.raises(ValueError, match=r"'detektor\.'.*detector\., amodal_head\., visible_head"):
        loop.train(
            tiny_method("orcnn"), tiny_training(frozen=("detektor.",)), shapes, tmp_path / "a"
        )
    everything = tiny_training(frozen=("detector.", "mask_head."))
    with pytest.raises(ValueError, match="leave no parameter to train"):
        loop.train(tiny_method("mask_rcnn"), everything, shapes, tmp_path / "b")
