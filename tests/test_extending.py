"""The method that docs/extending.md shows trains and completes."""

import re
import sys
import types
from pathlib import Path

import torch

from amodal_pipeline import methods
from tests.conftest import tiny_training

PAGE = Path(__file__).resolve().parents[1] / "docs/extending.md"


def test_the_method_of_the_page_trains_and_completes(shapes, monkeypatch):
    text = PAGE.read_text(encoding="utf-8")
    code = re.search(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)[1]
    module = types.ModuleType("amodal_pipeline.methods.filler")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(code, module.__dict__)

    config = module.FillerConfig(channels=4)
    model = methods.build(config, classes=2).train()
    batch = methods.make_batches(config, tiny_training(), shapes)[0]
    losses = model(batch.images, batch.targets)
    sum(losses.values()).backward()
    assert [n for n, p in model.named_parameters() if p.grad is None] == []

    image = torch.zeros(3, 20, 30, dtype=torch.uint8)
    visible = torch.zeros(20, 30)
    visible[5:12, 5:12] = 1
    assert model.eval().complete(image, visible).shape == (20, 30)
