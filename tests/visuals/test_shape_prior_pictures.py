import numpy as np
import pytest
import torch

from amodal_pipeline.methods.configs import ShapePriorConfig
from amodal_pipeline.methods.vrsp.codebook import Codebook, ShapePrior
from amodal_pipeline.visuals import shape_prior


def some_prior(counts, clusters=12) -> tuple[ShapePrior, list[str], str]:
    """A shape prior with random entries, of so many in each category."""
    torch.manual_seed(0)
    prior = ShapePrior(ShapePriorConfig(clusters=clusters), len(counts))
    codes = torch.rand(len(counts), clusters, 128)
    members = (torch.arange(clusters) < torch.tensor(counts)[:, None]).long()
    prior.take(Codebook(codes * members[..., None], torch.tensor(counts), members))
    return prior, [f"kind {i}" for i in range(len(counts))], "shapes"


def entries_sheet(counts):
    return shape_prior.entries_sheet(*some_prior(counts))


def entries_map(counts):
    return shape_prior.entries_map(*some_prior(counts))


def ink(picture) -> np.ndarray:
    return np.asarray(picture).astype(int).min(axis=2) < 235


def test_the_sheet_has_a_row_for_each_category_also_an_empty_one():
    one, three = (entries_sheet(c) for c in ([12], [12, 0, 3]))
    row = (three.height - one.height) // 2
    assert row > 50
    shapes = ink(three)[-3 * row - 24 : -24, 200:]  # right of the names
    filled = [shapes[i * row : (i + 1) * row].sum() for i in range(3)]
    assert filled[0] > filled[2] > 0 and filled[1] == 0


def test_a_map_is_the_same_every_time_and_shows_the_fullest_categories():
    first, second = (entries_map([12, 0, 3, 1, 4, 5, 6, 7]) for _ in range(2))
    assert first.tobytes() == second.tobytes()
    panels = entries_map([12, 0, 3, 1, 4, 5])
    assert first.size == panels.size == (3 * 544 + 24, first.height)


@pytest.mark.parametrize("counts", [[0], [1], [2], [4]])
def test_maps_of_very_few_entries(counts):
    picture = entries_map(counts)
    assert min(picture.size) > 300
    assert ink(picture)[120:].any() == bool(counts[0])
