import numpy as np
import pytest
import torch

from amodal_pipeline.methods.c2f_seg.reconstruction import Reconstruction
from amodal_pipeline.methods.c2f_seg.tokenizer import Tokenizer
from amodal_pipeline.methods.configs import MaskTokenizerConfig
from amodal_pipeline.visuals.colours import PALETTE
from amodal_pipeline.visuals.reconstructions import reconstructions_sheet
from tests.conftest import TINY_TOKENIZER

CONFIG = MaskTokenizerConfig.model_validate(TINY_TOKENIZER)


def sheet(shapes, monkeypatch, count, answer):
    """The picture of ``count`` objects all of whose masks decode to ``answer``."""
    torch.manual_seed(0)
    network = Tokenizer(CONFIG).eval()
    drawn = []

    def decode(tokens):
        drawn.append(len(tokens))
        return torch.full((len(tokens), 16, 16), answer)

    monkeypatch.setattr(network, "decode", decode)
    rows = np.arange(count)
    found = Reconstruction(rows, rows % 2, np.linspace(0.2, 0.9, count), np.zeros((2, 8), int))
    return reconstructions_sheet(network, shapes, found), drawn


def share(picture, colour, rows) -> int:
    """Pixels of a colour in lines of the picture."""
    return int((np.asarray(picture)[rows] == PALETTE[colour]).all(axis=2).sum())


@pytest.mark.parametrize("count", [1, 3, 16])
def test_the_worst_the_median_and_the_best_are_shown(shapes, monkeypatch, count):
    picture, drawn = sheet(shapes, monkeypatch, count, 0.0)
    assert drawn == [min(count, 8)] * 3
    again, _ = sheet(shapes, monkeypatch, count, 0.0)
    assert picture.tobytes() == again.tobytes()


def test_what_is_missed_and_what_is_added_have_colours_of_their_own(shapes, monkeypatch):
    below = slice(100, None)  # under the legend
    nothing, _ = sheet(shapes, monkeypatch, 4, 0.0)
    everything, _ = sheet(shapes, monkeypatch, 4, 1.0)
    assert share(nothing, 0, below) > 1000 and share(nothing, 5, below) == 0
    assert share(everything, 5, below) > 1000 and share(everything, 0, below) == 0
    # The mask itself, and once more where it comes back.
    assert share(everything, 6, below) == 2 * share(nothing, 6, below) > 0
