"""Who is in front, from the masks of a completer that was not asked for it."""

import numpy as np
import pyarrow as pa
import torch
from torch import nn

from amodal_pipeline.annotations import rle
from amodal_pipeline.annotations.known_objects import true_objects
from amodal_pipeline.methods import dual_completion
from amodal_pipeline.methods.completer import complete_in_order
from amodal_pipeline.methods.plain_completer.config import PlainCompleterConfig
from amodal_pipeline.methods.training_config import InferenceConfig
from amodal_pipeline.training.completing import complete

SIZE = (20, 30)


def drawn(*boxes):
    masks = np.zeros((len(boxes), *SIZE), np.uint8)
    for mask, (x0, y0, x1, y1) in zip(masks, boxes, strict=True):
        mask[y0:y1, x0:x1] = 1
    return masks


def as_strings(masks):
    return pa.array(rle.encode(masks), pa.string())


def test_the_object_that_reaches_further_into_the_other_is_behind():
    # The second hides a part of the first and, less, claims some of it; the third touches neither.
    visible = drawn((2, 2, 10, 12), (10, 2, 20, 12), (24, 2, 28, 12), (2, 14, 10, 18))
    amodal = drawn((2, 2, 16, 12), (8, 2, 20, 12), (24, 2, 28, 12), (2, 14, 10, 18))
    given = np.zeros(4, np.int64), as_strings(visible), as_strings(amodal), SIZE
    front, back, scores = dual_completion.by_growth(*given)
    assert (front.tolist(), back.tolist()) == ([1], [0])
    grown, claimed = 6 * 10, 2 * 10
    assert np.isclose(scores, (grown - claimed) / (grown + claimed)).all()
    for low in (0, 1):
        unsure = np.full(4, 0.9)
        unsure[low] = 0.1
        assert len(dual_completion.by_growth(*given, unsure)[0]) == 0
    assert len(dual_completion.by_growth(*given, np.full(4, np.nan))[0]) == 1
    # Nobody grows: nothing is decided. In other images nothing is beside an object.
    assert len(dual_completion.by_growth(given[0], given[1], given[1], SIZE)[0]) == 0
    assert len(dual_completion.by_growth(np.arange(4), *given[1:])[0]) == 0


class Wide(nn.Module):
    """Completes an object to the right half of its window, too, if others are there."""

    def __init__(self):
        super().__init__()
        self.config = PlainCompleterConfig(
            crop={"side": 32, "image_side": 32}, others=True, image=False, heads=1, fusion=False
        )
        self.nothing = nn.Parameter(torch.zeros(1))

    def forward(self, images, targets):
        masks = targets["input"].float()
        beside = targets["others"].clone()
        beside[:, :, :16] = 0
        return {"amodal_masks": torch.maximum(masks, beside.float())}


def test_completers_that_see_others_say_who_is_in_front(shapes):
    model = Wide().eval()
    visible = drawn((2, 2, 10, 12), (10, 2, 20, 12))
    found = complete_in_order(model, np.zeros((*SIZE, 3), np.uint8), visible, raw=True)
    assert (found.front.tolist(), found.back.tolist()) == ([1], [0])

    objects = true_objects(shapes)
    config = InferenceConfig(device="cpu", objects_per_batch=4)
    order = complete(model, objects, config, method="wide").order
    assert set(order["source"]) == {"wide"} and len(order)
    assert set(order["image_id"]) <= set(shapes.images["image_id"])
