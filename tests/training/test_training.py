"""The loop, its data and its state."""

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from amodal_pipeline.methods.checkpoints import Checkpoint
from amodal_pipeline.methods.training_config import TrainingConfig
from amodal_pipeline.samples.images import TrainingBatches, batch_indices, sample, scale_and_flip
from amodal_pipeline.training import loop, state
from amodal_pipeline.training.familiarity import familiarity, unfamiliar
from tests.conftest import SIZE, make_shapes, tiny_method, tiny_training


@given(st.integers(1, 30), st.integers(1, 7), st.integers(0, 5))
def test_every_image_comes_once_before_any_comes_again(n, batch_size, seed):
    drawn = [i for k in range(4 * n) for i in batch_indices(n, batch_size, seed, k)]
    for epoch in range(len(drawn) // n):
        assert sorted(drawn[epoch * n : (epoch + 1) * n]) == list(range(n))


def test_flip_and_scale_move_image_boxes_and_both_masks_together(shapes):
    image, target, _ = sample(shapes, 0)
    small, scaled = scale_and_flip(image, target, (32, 48), flip=True)
    assert small.shape == (3, 32, 48) and small.dtype == torch.uint8
    sx, sy = scaled["mask_scale"]
    for kind in ("amodal", "visible"):
        for box, mask in zip(scaled[f"{kind}_boxes"], scaled[f"{kind}_masks"], strict=True):
            ys, xs = torch.nonzero(mask, as_tuple=True)
            tight = torch.stack([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]).float()
            assert torch.allclose(box * torch.tensor([sx, sy, sx, sy]), tight, atol=1e-3)
    # The red square is where its flipped mask says.
    x1, y1, x2, y2 = scaled["visible_boxes"][0].round().int().tolist()
    centre = small[:, (y1 + y2) // 2, (x1 + x2) // 2]
    assert centre[0] > centre[2]


def test_batches_do_not_depend_on_workers(shapes):
    config = tiny_training()
    alone = TrainingBatches(shapes, config.augmentation, 2, seed=3)
    batches = list(loop._loader(alone, 0, config.model_copy(update={"workers": 2})))
    assert len(batches) == config.iterations
    for i, batch in enumerate(batches):
        expected = alone[i]
        assert batch.names == expected.names
        assert all(torch.equal(a, b) for a, b in zip(batch.images, expected.images, strict=True))


def test_rate_warms_up_and_falls():
    config = TrainingConfig(
        iterations=100, warmup_iterations=10, warmup_factor=0.1, milestones=(50, 80)
    )
    rates = [loop._rate(config, i) / config.learning_rate for i in (0, 5, 10, 49, 50, 80)]
    assert rates == pytest.approx([0.1, 0.55, 1, 1, 0.1, 0.01])
    cosine = config.model_copy(update={"schedule": "cosine"})
    assert loop._rate(cosine, 50) == pytest.approx(config.learning_rate / 2)
    with pytest.raises(ValueError, match="milestones"):
        TrainingConfig(iterations=100, milestones=(200,))


def test_a_linear_rate_reaches_its_value_and_then_falls_to_nothing():
    config = tiny_training(iterations=12, warmup_iterations=4, schedule="linear")
    rates = [loop._rate(config, i) / config.learning_rate for i in range(12)]
    assert rates[4] == 1 and max(rates) == 1
    assert rates[8] == pytest.approx(0.5) and rates[11] == pytest.approx(1 / 8)


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_weight_decay_spares_vectors_which_are_trained_all_the_same(name):
    """The released C2F-Seg loses its biases and norms on the way to the optimiser."""
    model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.LayerNorm(3))

    def step(gradient, decay):
        changes = {"optimizer": name, "weight_decay": decay, "decay_vectors": False}
        for parameter in model.parameters():
            parameter.data += 1
            parameter.grad = torch.full_like(parameter, gradient)
        before = {n: p.detach().clone() for n, p in model.named_parameters()}
        loop._optimizer(model, tiny_training(**changes)).step()
        return {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}

    assert step(1.0, 0.0) == {"0.weight", "0.bias", "1.weight", "1.bias"}
    assert step(0.0, 0.1) == {"0.weight"}


def test_same_seed_same_bits_and_reports(shapes, tmp_path):
    steps = []
    first = loop.train(
        tiny_method("orcnn"), tiny_training(), shapes, tmp_path / "a", on_step=steps.append
    )
    second = loop.train(tiny_method("orcnn"), tiny_training(workers=2), shapes, tmp_path / "b")
    other = loop.train(tiny_method("orcnn"), tiny_training(seed=1), shapes, tmp_path / "c")
    assert all(torch.equal(v, second.weights[k]) for k, v in first.weights.items())
    assert any(not torch.equal(v, other.weights[k]) for k, v in first.weights.items())
    assert [s.iteration for s in steps] == [1, 2, 3, 4, 5, 6]
    history = state.read_history(tmp_path / "a" / "history.jsonl")
    assert [r["iteration"] for r in history] == [1, 2, 3, 4, 5, 6]
    assert {"loss", "loss_amodal_mask", "learning_rate", "images_per_second"} <= history[0].keys()


SCRIPT = """
import sys
from pathlib import Path
from tests.conftest import tiny_method, tiny_training
from amodal_pipeline.annotations import AmodalAnnotations
from amodal_pipeline.training.loop import train

folder = Path(sys.argv[2])
shapes = AmodalAnnotations.load(sys.argv[1])
train(tiny_method("orcnn"), tiny_training(iterations=14, checkpoint_every=3), shapes, folder,
      on_step=lambda step: print(step.iteration, flush=True)).save(folder)
"""


def test_a_killed_training_ends_with_the_same_bits(shapes, tmp_path):
    shapes.save(tmp_path / "shapes")
    root = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}

    def start(folder):
        return subprocess.Popen(
            [sys.executable, "-c", SCRIPT, tmp_path / "shapes", folder],
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
            cwd=root,
        )

    whole, cut = tmp_path / "whole", tmp_path / "cut"
    uninterrupted, killed = start(whole), start(cut)
    for line in killed.stdout:
        if int(line) == 8:  # two iterations after the last saved state
            killed.send_signal(signal.SIGKILL)
            break
    assert killed.wait(60) == -signal.SIGKILL
    assert uninterrupted.wait(120) == 0
    iteration = state.read_card(cut).iteration
    assert 3 <= iteration < 14
    resumed = start(cut)
    reported = [int(line) for line in resumed.stdout]
    assert resumed.wait(120) == 0
    assert reported[0] == iteration + 1  # it went on, it did not begin anew
    expected, found = (load_file(f / "model.safetensors") for f in (whole, cut))
    assert expected.keys() == found.keys()
    assert all(torch.equal(v, found[k]) for k, v in expected.items())
    history = state.read_history(cut / "history.jsonl")
    assert [r["iteration"] for r in history] == list(range(1, 15))


def test_a_finished_training_is_not_repeated(shapes, tmp_path):
    first = loop.train(tiny_method("mask_rcnn"), tiny_training(), shapes, tmp_path)
    start = time.perf_counter()
    steps = []
    again = loop.train(
        tiny_method("mask_rcnn"), tiny_training(), shapes, tmp_path, on_step=steps.append
    )
    assert time.perf_counter() - start < 5
    assert [s.iteration for s in steps] == [6] and not steps[0].losses
    assert all(torch.equal(v, again.weights[k]) for k, v in first.weights.items())


def test_a_changed_parameter_is_an_error_and_restart_the_remedy(shapes, tmp_path):
    loop.train(tiny_method("mask_rcnn"), tiny_training(), shapes, tmp_path)
    changed = tiny_training(learning_rate=0.02)
    with pytest.raises(state.ChangedTrainingError) as raised:
        loop.train(tiny_method("mask_rcnn"), changed, shapes, tmp_path)
    assert "training.learning_rate: 0.01 -> 0.02" in str(raised.value)
    assert "--params restart=true" in str(raised.value)
    with pytest.raises(state.ChangedTrainingError, match="annotations_train"):
        loop.train(tiny_method("mask_rcnn"), tiny_training(), shapes.subset([1, 2]), tmp_path)
    # What has no effect on the weights may change.
    loop.train(tiny_method("mask_rcnn"), tiny_training(log_every=3), shapes, tmp_path)
    loop.train(tiny_method("mask_rcnn"), changed, shapes, tmp_path, restart=True)


def test_a_loss_that_is_no_number_names_the_images(shapes, tmp_path, monkeypatch):
    config = tiny_training(learning_rate=1e12, optimizer="sgd", warmup_iterations=0)
    with pytest.raises(loop.DivergedError) as raised:
        loop.train(tiny_method("mask_rcnn"), config, shapes, tmp_path)
    message = str(raised.value)
    assert ".png" in message and "learning rate" in message and "iteration" in message


def test_a_full_disk_leaves_the_state_before(shapes, tmp_path, monkeypatch):
    written = state.save_file

    def fail_later(tensors, path):
        if "optimizer" in str(path) and "state-000000004" in str(path):
            raise OSError(errno.ENOSPC, "No space left on device")
        return written(tensors, path)

    monkeypatch.setattr(state, "save_file", fail_later)
    with pytest.raises(OSError, match=r"disk is full.*state-000000004"):
        loop.train(tiny_method("mask_rcnn"), tiny_training(), shapes, tmp_path)
    assert state.read_card(tmp_path).iteration == 2
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []
    monkeypatch.setattr(state, "save_file", written)
    steps = []
    loop.train(tiny_method("mask_rcnn"), tiny_training(), shapes, tmp_path, on_step=steps.append)
    assert steps[0].iteration == 3


def test_a_damaged_state_says_what_to_do(shapes, tmp_path):
    loop.train(tiny_method("mask_rcnn"), tiny_training(), shapes, tmp_path)
    before, last = sorted(tmp_path.glob("state-*"))
    assert (before.name, last.name) == ("state-000000004", "state-000000006")
    weights = before / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    (last / "state.json").write_text("{")
    with pytest.raises(ValueError, match=r"state-000000006 is damaged.*state\.json.*restart=true"):
        loop.train(tiny_method("mask_rcnn"), tiny_training(), shapes, tmp_path)


def test_adamw_resumes_too(shapes, tmp_path):
    config = tiny_training(optimizer="adamw", learning_rate=1e-3)
    whole = loop.train(tiny_method("mask_rcnn"), config, shapes, tmp_path / "whole")

    class CutError(Exception):
        pass

    def cut(step):
        if step.iteration == 3:
            raise CutError

    with pytest.raises(CutError):
        loop.train(tiny_method("mask_rcnn"), config, shapes, tmp_path / "cut", on_step=cut)
    resumed = loop.train(tiny_method("mask_rcnn"), config, shapes, tmp_path / "cut")
    assert all(torch.equal(v, resumed.weights[k]) for k, v in whole.weights.items())


def test_nothing_to_train_on(shapes, tmp_path):
    ignored = shapes.subset([1])
    ignored.instances["ignore"] = True
    with pytest.raises(ValueError, match="no object to train on"):
        loop.train(tiny_method("mask_rcnn"), tiny_training(), ignored, tmp_path)


def test_strange_images_are_noticed(shapes, tmp_path):
    model = loop.train(tiny_method("mask_rcnn"), tiny_training(), shapes, tmp_path / "model")
    from amodal_pipeline.methods.pretrained import restore
    from amodal_pipeline.methods.training_config import InferenceConfig

    assert isinstance(model, Checkpoint) and model.card.familiarity is not None
    restored = restore(model)
    known = familiarity(restored, shapes)
    more = make_shapes(tmp_path, 8)
    config = InferenceConfig(device="cpu")
    assert unfamiliar(restored, known, more.images, tmp_path, config) < 0.5
    from PIL import Image

    draw = np.random.default_rng(0)
    for name in more.images["file_name"]:
        noise = draw.integers(0, 255, (SIZE, SIZE, 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / name)
    assert unfamiliar(restored, known, more.images, tmp_path, config) == 1


def test_bfloat16_trains_with_boxes_and_masks_in_full_precision(shapes):
    from amodal_pipeline import methods

    torch.manual_seed(0)
    model = methods.build(tiny_method("orcnn"), classes=2).train()
    samples = [sample(shapes, i) for i in range(2)]
    images, targets = [s[0] for s in samples], [s[1] for s in samples]

    def losses(bf16):
        torch.manual_seed(1)
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            return model(images, targets)

    full, half = losses(False), losses(True)
    for name, value in full.items():
        assert half[name].dtype == torch.float32
        assert float(half[name].detach()) == pytest.approx(float(value.detach()), rel=0.1, abs=0.02)
    model.eval()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        found = model(images)
    assert all(f["boxes"].dtype == f["amodal_masks"].dtype == torch.float32 for f in found)


def test_an_infinite_gradient_stops_before_it_reaches_the_weights(shapes, tmp_path):
    # The loss is still finite in the first iteration; its update would not be.
    config = tiny_training(iterations=1, learning_rate=0.01, warmup_iterations=0)
    build = loop.build

    def broken(*args):
        model = build(*args)
        weight = model.mask_head.predictor.mask_fcn_logits.weight
        weight.register_hook(lambda gradient: gradient * float("inf"))
        return model

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "build", broken)
        with pytest.raises(loop.DivergedError, match=r"gradient of iteration 1.*\.png"):
            loop.train(tiny_method("mask_rcnn"), config, shapes, tmp_path)
    assert state.read_card(tmp_path) is None


def test_precisions_may_differ_within_a_process(shapes, tmp_path):
    config = tiny_training(iterations=1, warmup_iterations=0)
    loop.train(tiny_method("mask_rcnn"), config, shapes, tmp_path / "a")
    half = tiny_training(iterations=1, warmup_iterations=0, precision="bfloat16")
    loop.train(tiny_method("mask_rcnn"), half, shapes, tmp_path / "b")


def test_what_a_kill_left_behind_is_no_state_and_goes(shapes, tmp_path):
    (tmp_path / ".state-000000002.x").mkdir()
    assert state.read_card(tmp_path) is None
    loop.train(tiny_method("mask_rcnn"), tiny_training(), shapes, tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "history.jsonl",
        "state-000000004",
        "state-000000006",
    ]
