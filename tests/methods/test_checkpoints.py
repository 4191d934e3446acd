"""Checkpoint folders: what was saved comes back, or an error that says what is wrong with it."""

import json
import logging
import math

import pytest
import torch
from safetensors.torch import load_file, save_file

from amodal_pipeline.annotations import Category
from amodal_pipeline.methods import checkpoints
from amodal_pipeline.methods.checkpoints import Checkpoint, DivergedError, Fingerprint, MethodCard
from amodal_pipeline.methods.pretrained import restore
from amodal_pipeline.methods.registry import MethodConfig
from tests.conftest import tiny_method


def made(value: float = 1.0) -> Checkpoint:
    """A checkpoint whose seed is its weights' value."""
    card = MethodCard(
        method=MethodConfig(tiny_method("mask_rcnn")),
        categories=(Category(id=1, name="red"), Category(id=2, name="blåbär")),
        dataset="shapes",
        fingerprint=Fingerprint(parts={}),
        iterations=1,
        seed=int(value) if math.isfinite(value) else 0,
    )
    return Checkpoint(
        card, {"a": torch.full((2, 3), float(value)), "b": torch.full((2, 3), -float(value))}
    )


def test_what_is_saved_comes_back_with_its_checksums_on_disk(tmp_path):
    checkpoint = made()
    checkpoint.save(tmp_path)
    again = Checkpoint.load(tmp_path)
    assert again.card == checkpoint.card == MethodCard.load(tmp_path)
    assert all(torch.equal(v, again.weights[k]) for k, v in checkpoint.weights.items())
    sums = json.loads((tmp_path / "method.json").read_text())["sha256"]
    assert sums["model.safetensors"] == checkpoints.checksum(tmp_path / "model.safetensors")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["method.json", "model.safetensors"]


def flip_a_bit(weights, card):
    data = bytearray(weights.read_bytes())
    data[-2] ^= 1
    weights.write_bytes(data)


def swap_two_tensors(weights, card):
    found = load_file(weights)
    save_file({"a": found["b"], "b": found["a"]}, weights)


def write_nan(weights, card):
    save_file({"a": torch.full((2, 3), math.nan), "b": torch.zeros(2, 3)}, weights)


def rename_a_category(weights, card):
    card.write_text(card.read_text().replace('"red"', '"green"'))


@pytest.mark.parametrize("damage", [flip_a_bit, swap_two_tensors, write_nan, rename_a_category])
def test_no_damage_goes_unnoticed(tmp_path, damage):
    made().save(tmp_path)
    damage(tmp_path / "model.safetensors", tmp_path / "method.json")
    with pytest.raises(ValueError, match=r"checkpoint in .* is damaged.*\n.*training again"):
        Checkpoint.load(tmp_path)


@pytest.mark.parametrize("missing", ["method.json", "model.safetensors"])
def test_the_file_that_is_missing_is_named(tmp_path, missing):
    made().save(tmp_path)
    (tmp_path / missing).unlink()
    with pytest.raises(ValueError, match=rf"\({missing} is missing\)"):
        Checkpoint.load(tmp_path)


def test_what_is_not_finite_is_not_saved(tmp_path):
    made(1).save(tmp_path)
    with pytest.raises(DivergedError, match=r"a has 6 of 6 values.*restart=true"):
        made(math.nan).save(tmp_path)
    assert Checkpoint.load(tmp_path).card.seed == 1


def test_a_reader_never_gets_the_card_of_one_model_with_the_weights_of_another(
    tmp_path, monkeypatch
):
    read = checkpoints.read_weights

    def read_after_a_writer(path, sums):
        monkeypatch.setattr(checkpoints, "read_weights", read)
        made(2).save(tmp_path)
        return read(path, sums)

    def loaded():
        monkeypatch.setattr(checkpoints, "read_weights", read_after_a_writer)
        return Checkpoint.load(tmp_path)

    made(1).save(tmp_path)
    assert (found := loaded()).card.seed == 2 and found.weights["a"].mean() == 2
    made(1).save(tmp_path)
    without_checksums(tmp_path)
    assert (found := loaded()).card.seed == 2 and found.weights["a"].mean() == 2


def test_a_checkpoint_of_an_earlier_version_is_read_with_a_warning(tmp_path, caplog):
    made(1).save(tmp_path)
    without_checksums(tmp_path)
    with caplog.at_level(logging.WARNING):
        assert Checkpoint.load(tmp_path).card == made(1).card
    assert "has no checksum" in caplog.text
    write_nan(tmp_path / "model.safetensors", None)
    with pytest.raises(ValueError, match="a has 6 of 6 values that are NaN"):
        Checkpoint.load(tmp_path)


def without_checksums(folder):
    values = json.loads((folder / "method.json").read_text())
    del values["sha256"]
    (folder / "method.json").write_text(json.dumps(values))


def test_weights_of_another_method_are_named_without_a_list_of_all(tmp_path):
    made().save(tmp_path)
    with pytest.raises(ValueError, match="checkpoint of mask_rcnn does not fit") as raised:
        restore(Checkpoint.load(tmp_path))
    assert len(str(raised.value)) < 300
