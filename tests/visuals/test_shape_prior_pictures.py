import numpy as np
import pytest
import torch

from amodal_pipeline.annotations import Category
from amodal_pipeline.methods.checkpoints import Fingerprint
from amodal_pipeline.methods.configs import ShapePriorConfig
from amodal_pipeline.methods.vrsp.auto_encoder import AutoEncoder
from amodal_pipeline.methods.vrsp.codebook import Codebook, ShapePrior
from amodal_pipeline.methods.vrsp.stored import ShapePriorCard, StoredShapePrior
from amodal_pipeline.visuals.shape_prior import entries_map, entries_sheet


def stored_prior(counts, clusters=12) -> StoredShapePrior:
    """A shape prior with random entries, of so many in each category."""
    torch.manual_seed(0)
    config = ShapePriorConfig(clusters=clusters)
    codes = torch.rand(len(counts), clusters, 128)
    members = (torch.arange(clusters) < torch.tensor(counts)[:, None]).long()
    codebook = Codebook(codes * members[..., None], torch.tensor(counts), members)
    card = ShapePriorCard(
        config=config,
        categories=tuple(Category(id=i, name=f"kind {i}") for i in range(len(counts))),
        entries=tuple(counts),
        masks=sum(counts),
        dataset="shapes",
        fingerprint=Fingerprint(parts={}),
    )
    prior = ShapePrior.of(config, AutoEncoder(3, 8), codebook)
    return StoredShapePrior(card, prior.state_dict())


def ink(picture) -> np.ndarray:
    return np.asarray(picture).astype(int).min(axis=2) < 235


def test_the_sheet_has_a_row_for_each_category_also_an_empty_one():
    one, three = (entries_sheet(stored_prior(c)) for c in ([12], [12, 0, 3]))
    row = (three.height - one.height) // 2
    assert row > 50
    shapes = ink(three)[-3 * row - 24 : -24, 200:]  # right of the names
    filled = [shapes[i * row : (i + 1) * row].sum() for i in range(3)]
    assert filled[0] > filled[2] > 0 and filled[1] == 0


def test_a_map_is_the_same_every_time_and_shows_the_fullest_categories():
    stored = stored_prior([12, 0, 3, 1, 4, 5, 6, 7])
    first, second = entries_map(stored), entries_map(stored)
    assert first.tobytes() == second.tobytes()
    panels = entries_map(stored_prior([12, 0, 3, 1, 4, 5]))
    assert first.size == panels.size == (3 * 544 + 24, first.height)


@pytest.mark.parametrize("counts", [[0], [1], [2], [4]])
def test_maps_of_very_few_entries(counts):
    picture = entries_map(stored_prior(counts))
    assert min(picture.size) > 300
    assert ink(picture)[120:].any() == bool(counts[0])
