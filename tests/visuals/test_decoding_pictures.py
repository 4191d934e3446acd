import dataclasses

import numpy as np
import pytest
import torch

from amodal_pipeline import methods
from amodal_pipeline.visuals import decoding
from amodal_pipeline.visuals.selection import half_hidden
from tests.methods.test_c2f_seg import config

STEP = 120  # a cell and its gap


def build(**changes):
    torch.manual_seed(0)
    return methods.build(config(**changes), classes=2).eval()


@pytest.mark.parametrize(
    ("changes", "columns"),
    [
        ({"steps": 3}, 7),
        ({"steps": 1}, 5),
        ({"steps": 12}, 8),
        ({"steps": 2, "refinement": False}, 5),
    ],
)
def test_a_column_for_each_step_and_mask(shapes, changes, columns):
    page = decoding.decoding_sheet(build(**changes), shapes, 2)
    assert page.size[0] == 2 * 24 + columns * STEP
    first = np.asarray(page)[24 + 22 + 56 :][:112, 24 : 24 + columns * STEP]
    cells = first.reshape(112, columns, STEP, 3)[:, :, :112]
    # Photograph, visible mask and truth are all there: none of these cells is blank.
    assert all(cells[:, i].std() > 1 for i in (0, 1, columns - 1))
    # Nothing of an object is seen that it does not have.
    light = cells.mean(axis=-1)
    assert (light[:, -1] <= light[:, 1] + 60).mean() > 0.98


def test_rows_are_what_the_model_makes_of_the_object(shapes):
    """The pictures come from the window, the visible mask and the key of the very object."""
    model, asked = build(), []
    explain = model.explain
    model.explain = lambda images, targets: asked.append(targets) or explain(images, targets)
    decoding.decoding_sheet(model, shapes, 3)
    records = half_hidden(shapes, 3)
    assert [int(t["key"]) for t in asked] == [r["instance_id"].item() for r in records]
    # The square behind: the one in front is whole.
    assert all(r["category_id"].item() == 2 for r in records)
    # A window twice the box, clipped or not: what is seen of a square fills a part of a quarter.
    assert all(0.1 < t["input"].float().mean() < 0.35 for t in asked)


def test_objects_that_are_not_seen_are_not_shown(shapes):
    instances = shapes.instances.copy()
    instances.loc[instances["category_id"] == 2, "ignore"] = True
    other = dataclasses.replace(shapes, instances=instances)
    assert all(r["category_id"].item() == 1 for r in half_hidden(other, 3))
