"""Training states on disk: whole, finite, two of them, of one training at a time."""

import logging
import math
import os

import pytest
import torch
from torch import nn

from amodal_pipeline.annotations.processes import lock
from amodal_pipeline.methods.checkpoints import DivergedError, Fingerprint
from amodal_pipeline.training import loop
from amodal_pipeline.training.state import read_card, read_state, remove_states, save_state
from tests.conftest import tiny_method, tiny_training

MARK = Fingerprint(parts={"training.seed": "0"})


@pytest.fixture
def training():
    """A model and its optimiser after one step, which has made momentum."""
    model = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    return model, optimizer


def flip_a_bit(path):
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def test_a_training_that_leaves_the_numbers_saves_nothing(shapes, tmp_path):
    """At an infinite rate loss and gradient of iteration 1 are finite, its weights are not."""
    config = tiny_training(iterations=1, checkpoint_every=1, warmup_iterations=0)
    config = config.model_copy(update={"learning_rate": math.inf})
    with pytest.raises(DivergedError, match=r"after iteration 1, \S+ has .*NaN.*restart=true"):
        loop.train(tiny_method("mask_rcnn"), config, shapes, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["history.jsonl"]


@pytest.mark.parametrize("where", ["weight", "momentum"])
@pytest.mark.parametrize("value", [math.nan, -math.inf])
def test_no_tensor_of_a_state_is_anything_but_finite(training, tmp_path, where, value):
    model, optimizer = training
    save_state(tmp_path, model, optimizer, 1, MARK)
    tensor = model.weight if where == "weight" else optimizer.state[model.weight]["momentum_buffer"]
    tensor.data[1, 2] = value
    name = "weight" if where == "weight" else r"0\.momentum_buffer"
    with pytest.raises(DivergedError, match=f"after iteration 2, {name} has 1 of 6 values"):
        save_state(tmp_path, model, optimizer, 2, MARK)
    assert [p.name for p in tmp_path.iterdir()] == ["state-000000001"]
    assert read_state(tmp_path, MARK).card.iteration == 1


def test_large_numbers_are_finite(training, tmp_path):
    model, optimizer = training
    model.weight.data[:] = 3e38  # their sum is not
    save_state(tmp_path, model, optimizer, 1, MARK)
    assert torch.equal(read_state(tmp_path, MARK).model["weight"], model.weight)


def test_the_last_two_states_are_kept_and_one_goes_on_where_the_other_is_damaged(
    training, tmp_path, caplog
):
    model, optimizer = training
    for iteration in (2, 4, 6):
        model.bias.data[:] = iteration
        save_state(tmp_path, model, optimizer, iteration, MARK)
    before, last = sorted(tmp_path.iterdir())
    assert (before.name, last.name) == ("state-000000004", "state-000000006")
    assert read_state(tmp_path, MARK).model["bias"].tolist() == [6, 6]
    flip_a_bit(last / "optimizer.safetensors")
    with caplog.at_level(logging.WARNING):
        state = read_state(tmp_path, MARK)
    assert state.card.iteration == 4 and state.model["bias"].tolist() == [4, 4]
    assert "state-000000006 is damaged" in caplog.text and "iteration 4" in caplog.text
    # Trained on from there, the damaged one is not one of the two.
    save_state(tmp_path, model, optimizer, 5, MARK)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["state-000000004", "state-000000005"]
    for place in tmp_path.iterdir():
        flip_a_bit(place / "model.safetensors")
    with pytest.raises(ValueError, match=r"state-000000005 is damaged.*--params restart=true"):
        read_state(tmp_path, MARK)


def test_a_folder_of_the_user_is_no_state_and_stays(training, tmp_path):
    (tmp_path / "state-backup").mkdir()
    assert read_card(tmp_path) is None and read_state(tmp_path, MARK) is None
    save_state(tmp_path, *training, 3, MARK)
    assert read_card(tmp_path).iteration == 3
    remove_states(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["state-backup"]


def test_a_state_of_another_model_is_named(training, tmp_path):
    save_state(tmp_path, *training, 3, MARK)
    other = nn.Linear(3, 4)
    with pytest.raises(
        ValueError, match=r"state of iteration 3 does not fit.*bias first"
    ) as raised:
        read_state(tmp_path, MARK).restore(other, torch.optim.SGD(other.parameters(), 0.1))
    assert "state_dict" not in str(raised.value)


def test_a_second_training_of_a_folder_is_refused(shapes, tmp_path):
    given = tiny_method("mask_rcnn"), tiny_training(), shapes, tmp_path
    with (
        lock(tmp_path / ".training.lock"),
        pytest.raises(ValueError, match=f"is being trained by process {os.getpid()} on "),
    ):
        loop.train(*given, restart=True)
    assert list(tmp_path.iterdir()) == []
