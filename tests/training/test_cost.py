import dataclasses
import json

import pytest
import torch
from torch import nn

from amodal_pipeline.training.cost import Cost, cost, device_name


class Detector(nn.Module):
    """A convolution on each image; twice the work while training."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(3, 8, 3, padding=1)

    def forward(self, images):
        return [self.layer(image[None]) for image in images * (2 if self.training else 1)]


def test_operations_are_twice_the_multiplications_of_one_image():
    found = cost(Detector().eval(), torch.rand(3, 16, 20), images_per_second=4.5, device="a board")
    assert found == Cost(3 * 8 * 9 + 8, 2 * 16 * 20 * 8 * 27, 16, 20, 4.5, "a board")


class Completer(nn.Module):
    """A convolution on the crops of objects."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(4, 2, 1)

    def forward(self, images, targets):
        return self.layer(torch.cat([images, targets["input"][:, None]], dim=1))


def test_of_a_completer_the_operations_are_those_of_one_object():
    targets = {"input": torch.zeros(1, 6, 5)}
    found = cost(Completer().eval(), torch.zeros(3, 6, 5), 7.5, targets=targets)
    assert found == Cost(4 * 2 + 2, 2 * 6 * 5 * 4 * 2, 6, 5, 7.5)


def test_a_cost_is_plain_numbers():
    found = dataclasses.asdict(cost(Detector().eval(), torch.rand(3, 4, 5)))
    assert json.loads(json.dumps(found)) == found
    assert found["images_per_second"] is None


def test_what_cannot_be_counted_is_refused():
    with pytest.raises(ValueError, match=r"must be \[3, height, width\], not \[1, 3, 4, 5\]"):
        cost(Detector().eval(), torch.rand(1, 3, 4, 5))
    with pytest.raises(ValueError, match="training mode"):
        cost(Detector(), torch.rand(3, 4, 5))


def test_a_processor_is_named_with_its_threads():
    assert device_name("cpu") == f"CPU, {torch.get_num_threads()} threads"


class Queried(nn.Module):
    """A learnt query, shared by the images of a batch, in a layer of its own."""

    def __init__(self):
        super().__init__()
        self.query, self.layer = nn.Parameter(torch.ones(1, 4)), nn.Linear(4, 2)

    def forward(self, images):
        return self.layer(self.query.expand(len(images), -1))


def test_a_layer_may_be_given_a_view_of_a_parameter():
    assert cost(Queried().eval(), torch.rand(3, 2, 2)).flops == 2 * 4 * 2
