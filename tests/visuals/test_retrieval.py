import numpy as np
import torch

from amodal_pipeline import methods
from amodal_pipeline.visuals.retrieval import retrieval_sheet
from tests.conftest import tiny_method


def test_a_row_for_each_image_that_hides_most(shapes):
    torch.manual_seed(0)
    model = methods.build(tiny_method("vrsp"), classes=2).eval()
    three, four = (retrieval_sheet(model, shapes, count) for count in (3, 4))
    assert three.size[0] == four.size[0] == 2 * 24 + 9 * 120
    assert four.size[1] - three.size[1] == 142
    # The photograph, the known shapes and the truth are all there: no cell is blank.
    row = np.asarray(three)[24 + 56 : 24 + 56 + 112, 24:-24].reshape(112, 9, 120, 3)
    assert all(row[:, cell, :112].std() > 1 for cell in (0, 8))


def test_objects_of_the_picture_are_those_about_half_hidden(shapes):
    """The front square is whole, the one behind it is hidden in part: that one is shown."""
    torch.manual_seed(0)
    model = methods.build(tiny_method("vrsp"), classes=2).eval()
    asked = []
    explain = model.explain
    model.explain = lambda image, boxes, labels: (
        asked.append(labels) or explain(image, boxes, labels)
    )
    retrieval_sheet(model, shapes, 2)
    assert torch.cat(asked).tolist() == [2, 2]
