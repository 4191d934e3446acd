"""Signed distance against a loop over all pairs of pixels."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from amodal_pipeline.layers.distance import signed_distance


def slowly(mask):
    side = len(mask)
    places = list(np.ndindex(side, side))
    result = np.zeros((side, side))
    for at in places:
        others = [p for p in places if mask[p] != mask[at]]
        far = min((np.hypot(at[0] - y, at[1] - x) for y, x in others), default=np.inf) / side
        result[at] = min(far, 0.5) * (-1 if mask[at] else 1)
    return result


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 9), st.floats(0, 1), st.integers(0, 2**32 - 1))
def test_it_is_the_distance_to_the_nearest_pixel_of_the_other_kind(side, share, seed):
    masks = np.random.default_rng(seed).random((3, side, side)) < share
    found = signed_distance(torch.from_numpy(masks.astype(np.uint8)))
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found, [slowly(mask) for mask in masks], atol=1e-6)


def test_an_empty_and_a_full_mask_are_at_the_limit():
    assert (signed_distance(torch.zeros(1, 6, 6)) == 0.5).all()
    assert (signed_distance(torch.ones(1, 6, 6)) == -0.5).all()
