"""The benchmark for a GPU, on the CPU with everything small."""

import math
import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import gpu


def test_it_measures_a_method_beside_torchvision(monkeypatch):
    stages = []
    monkeypatch.setattr(gpu, "infer", lambda made, *_: stages.append(made.card.iterations))
    size = replace(gpu.TINY, scenes=2)
    found = gpu.run([gpu.REFERENCE, "pcnet_m"], "cpu", size, minutes=10)
    reference, method = (found["methods"][name] for name in (gpu.REFERENCE, "pcnet_m"))
    assert reference["seconds_per_step"].keys() == gpu.FORMS.keys()
    for form in gpu.FORMS:
        figures = method[form]
        assert figures["batch"] == size.batch
        assert math.isclose(figures["per_second"] * figures["seconds_per_step"], size.batch)
        assert 0 < figures["loader_wait_per_step"] < figures["seconds_per_step"]
        assert figures["host_waits_per_step"] is None  # of a GPU only
        rate = found["matrix_teraflops"][figures["precision"]]
        share = figures["teraflop_per_step"] / figures["seconds_per_step"] / rate
        assert math.isclose(figures["share_of_matrix_rate"], share)
    assert stages == [3 * size.count]
    assert not found["left_out"]


def test_methods_beyond_the_time_are_left_out(monkeypatch):
    monkeypatch.setattr(gpu, "tables", lambda *_: {})
    found = gpu.run(["pcnet_m"], "cpu", gpu.TINY, minutes=0)
    assert (found["methods"], found["left_out"]) == ({}, ["pcnet_m"])
