"""C2F-Seg's parts with their released switches, against numbers that the released code gave.

The authors' classes (github.com/amazon-science/c2f-seg, src/image_component.py and
src/quantize.py, commit 448c569) were given the weights and inputs that are made up here; theirs and
ours differed by less than 5e-6 everywhere. Kept are some of their outputs.
"""

import pytest
import torch

from amodal_pipeline.methods.c2f_seg.refinement import Refinement
from amodal_pipeline.methods.c2f_seg.tokenizer import nearest
from amodal_pipeline.methods.c2f_seg.transformer import MaskTransformer
from amodal_pipeline.methods.configs import C2FSegConfig


def numbers(shape, key):
    """Numbers of -1 to 1 that look drawn at random, by exact arithmetic: the same everywhere."""
    n = torch.arange(torch.Size(shape).numel())
    mixed = (n % 65521) * (n % 65519 + 7 * key + 1) * 40503 % 65537
    return (mixed.double() / 32768.5 - 1).float().reshape(shape)


def filled(module):
    """A module whose every parameter is made up, in evaluation mode."""
    with torch.no_grad():
        for key, (name, parameter) in enumerate(module.named_parameters()):
            matrix = parameter.ndim > 1
            scale = (3 / parameter[0].numel()) ** 0.5 if matrix else 0.1
            gain = float(not matrix and name.endswith("weight"))  # of a norm
            parameter.copy_(gain + scale * numbers(parameter.shape, key))
    return module.eval()


def every(found, step):
    return found.flatten()[::step].tolist()


@torch.no_grad()
def test_transformer():
    config = C2FSegConfig(fusion="channels", width=32, heads=4, layers=2)
    model = filled(MaskTransformer(config, codes=32, length=16, channels=24, places=16))
    visible = torch.arange(32).reshape(2, 16) * 7 % 32
    tokens = torch.arange(32).reshape(2, 16) * 11 % 33  # 32 is [MASK]
    context = model.context(numbers((2, 24, 4, 4), 1), visible)
    assert every(model(context, tokens), 97) == pytest.approx(TRANSFORMER, abs=1e-5)


@torch.no_grad()
def test_refinement():
    config = C2FSegConfig(attention_map=True, refinement_adapter=True)
    channels = [256, 512, 1024, 2048]
    model = filled(Refinement(config, channels))
    assert sum(p.numel() for p in model.adapter.parameters()) == 2048 * 2049
    maps = [
        numbers((1, width, side, side), key)
        for key, (width, side) in enumerate(zip(channels, (64, 32, 16, 16), strict=True))
    ]
    # Whole places of 16 x 16 pixels, at the size of the logits: theirs takes the nearest pixel
    # where ours takes the mean of a place, and repeats logits where ours interpolates.
    mask = (numbers((1, 16, 16), 9) > 0.3).float()
    found = model(maps, mask.repeat_interleave(16, 1).repeat_interleave(16, 2), side=128)
    assert every(found.amodal, 2111) == pytest.approx(AMODAL, abs=1e-5)
    assert every(found.visible, 2111) == pytest.approx(VISIBLE, abs=1e-5)


def test_nearest_codes():
    found = nearest(numbers((2, 4, 4, 8), 5), numbers((32, 8), 40))
    assert found.flatten().tolist() == CODES


# fmt: off
TRANSFORMER = [
    -0.199541, 1.734749, 1.013214, -0.951311, 0.112138, -0.839607, 0.539292, -0.116060,
    -1.786692, 0.375923, -2.090274,
]
AMODAL = [
    0.306029, 0.882193, 0.602285, 1.697099, 0.899581, 0.781839, 2.192933, 0.649089,
]
VISIBLE = [
    -0.349107, -0.377090, -1.235391, -0.650838, -1.114432, -0.586249, -1.844656, -0.585352,
]
CODES = [
    4, 14, 10, 14, 17, 23, 28, 0, 27, 12, 4, 15, 28, 9, 27, 10,
    21, 20, 4, 23, 14, 10, 2, 27, 19, 21, 19, 31, 5, 15, 15, 0,
]
# fmt: on
