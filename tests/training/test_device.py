"""Precision by device, and that a training knows which one it was."""

import pytest
import torch

from amodal_pipeline.methods.checkpoints import Fingerprint
from amodal_pipeline.methods.training_config import InferenceConfig, TrainingConfig
from amodal_pipeline.training import loop, state
from amodal_pipeline.training.device import resolve_precision, wants_bfloat16
from tests.conftest import tiny_method, tiny_training


def test_a_gpu_infers_in_float32_and_trains_in_bfloat16_unless_told_otherwise():
    assert not wants_bfloat16(InferenceConfig().precision, "cuda")
    assert wants_bfloat16(InferenceConfig(precision="auto").precision, "cuda:0")
    assert wants_bfloat16(TrainingConfig().precision, "cuda")
    assert not wants_bfloat16("float32", "cuda")


@pytest.mark.parametrize("has", [{}, {"avx512_bf16": True}, {"amx_bf16": True, "amx_tile": True}])
def test_auto_is_bfloat16_on_processors_that_have_it(has, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_f": True, **has})
    assert resolve_precision("auto", "cpu") == ("bfloat16" if has else "float32")
    assert resolve_precision("float32", "cpu") == "float32"
    assert resolve_precision("bfloat16", "cpu") == "bfloat16"


def test_trainings_differ_by_precision_unless_it_is_unknown():
    def mark(precision):
        return Fingerprint.of_training(
            tiny_method("orcnn"), tiny_training(precision=precision), "digest"
        )

    found = mark("bfloat16").differences(mark("float32"))
    assert found == ["training.precision: float32 -> bfloat16"]
    for known in ("float32", "bfloat16"):
        assert not mark("auto").differences(mark(known)) and not mark(known).differences(
            mark("auto")
        )


def test_bfloat16_gives_the_same_bits_again_and_is_continued_as_such(shapes, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    changes = {"optimizer": "adamw", "iterations": 4}
    method, config = tiny_method("mask_rcnn"), tiny_training(precision="auto", **changes)
    whole = loop.train(method, config, shapes, tmp_path / "whole")
    assert whole.card.fingerprint.parts["training.precision"] == "bfloat16"
    assert all(w.dtype != torch.bfloat16 for w in whole.weights.values())

    def cut(step):
        if step.iteration == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        loop.train(method, config, shapes, tmp_path / "cut", on_step=cut)
    plain = tiny_training(precision="float32", **changes)
    with pytest.raises(state.ChangedTrainingError, match=r"precision: bfloat16 -> float32"):
        loop.train(method, plain, shapes, tmp_path / "cut")
    resumed = loop.train(method, config, shapes, tmp_path / "cut")
    assert all(torch.equal(v, resumed.weights[k]) for k, v in whole.weights.items())
