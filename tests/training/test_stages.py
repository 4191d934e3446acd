"""Trainings in stages, of some parameters each."""

import pytest
import torch
from torch import nn

from amodal_pipeline.training import loop
from amodal_pipeline.training.state import read_card, read_history, read_state
from tests.conftest import tiny_method, tiny_training

STAGES = [
    {"iterations": 2, "trained": ["global_module."]},
    {"iterations": 2, "trained": ["detector."]},
]


class CutError(Exception):
    pass


def cut_at(iteration):
    def on_step(step):
        if step.iteration == iteration:
            raise CutError

    return on_step


def weights_after(folder, iteration):
    card = read_card(folder)
    assert card.iteration == iteration
    return read_state(folder, card.fingerprint).model


def test_each_stage_trains_what_it_names_and_the_rest_trains_all(shapes, tmp_path):
    config = tiny_training(stages=STAGES, warmup_iterations=0)
    seen = {0: None}
    torch.manual_seed(config.seed)
    seen[0] = loop.build(tiny_method("sln"), 2).state_dict()
    for end in (2, 4):
        with pytest.raises(CutError):
            loop.train(tiny_method("sln"), config, shapes, tmp_path, on_step=cut_at(end + 1))
        seen[end] = weights_after(tmp_path, end)
    seen[6] = loop.train(tiny_method("sln"), config, shapes, tmp_path).weights

    def changed(start, end):
        return {n.split(".")[0] for n, v in seen[end].items() if not torch.equal(v, seen[start][n])}

    assert changed(0, 2) == {"global_module"}
    assert changed(2, 4) == {"detector"}
    assert changed(4, 6) == {"global_module", "detector", "instance_module", "instance_refinement"}
    history = read_history(tmp_path / "history.jsonl")
    assert ["loss_objectness" in row for row in history] == [False] * 2 + [True] * 4
    assert ["loss_distance_map" in row for row in history] == [False] * 4 + [True] * 2


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("iteration", [3, 5])
def test_a_staged_training_that_was_cut_gives_the_same_bits(optimizer, iteration, shapes, tmp_path):
    config = tiny_training(stages=STAGES, optimizer=optimizer, checkpoint_every=1)
    whole = loop.train(tiny_method("sln"), config, shapes, tmp_path / "whole")
    with pytest.raises(CutError):
        loop.train(tiny_method("sln"), config, shapes, tmp_path / "cut", on_step=cut_at(iteration))
    resumed = loop.train(tiny_method("sln"), config, shapes, tmp_path / "cut")
    assert all(torch.equal(v, resumed.weights[k]) for k, v in whole.weights.items())


def test_layers_of_what_does_not_train_keep_their_statistics():
    model = nn.Sequential(
        nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)),
        nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)),
        nn.BatchNorm1d(2),
        nn.Linear(2, 1),
    ).train()
    model[2].eval().requires_grad_(False)  # frozen by the method itself
    stages = loop._Stages(model, tiny_training(stages=[{"iterations": 1, "trained": ["0.", "3."]}]))
    norms = (model[0][1], model[1][1], model[2])
    stages.enter(0)
    assert [m.training for m in norms] == [True, False, False]
    assert [m.weight.requires_grad for m in norms] == [True, False, False]
    assert model.training
    stages.enter(1)
    assert [m.training for m in norms] == [True, True, False]
    assert [m.weight.requires_grad for m in norms] == [True, True, False]


def test_stages_that_train_nothing_are_errors(shapes, tmp_path):
    wrong = tiny_training(stages=[{"iterations": 1, "trained": ["detektor."]}])
    with pytest.raises(ValueError, match=r"stages\[0\]\.trained: no parameter.*'detektor\.'"):
        loop.train(tiny_method("sln"), wrong, shapes, tmp_path / "a")
    frozen = tiny_training(
        frozen=("detector.",), stages=[{"iterations": 1, "trained": ["detector."]}]
    )
    with pytest.raises(ValueError, match="are frozen"):
        loop.train(tiny_method("sln"), frozen, shapes, tmp_path / "b")
    with pytest.raises(ValueError, match="7 iterations, the training only 6"):
        tiny_training(stages=[{"iterations": 7, "trained": ["detector."]}])
