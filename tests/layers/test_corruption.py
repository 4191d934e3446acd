import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from amodal_pipeline.layers.configs import CorruptionConfig
from amodal_pipeline.layers.corruption import blur, corrupt, dilate, erode


def slow_morphology(mask, kernel, iterations, beyond, combine):
    """One pass over the pixels an iteration, with a border of ``beyond`` around."""
    before, after = kernel // 2, kernel - 1 - kernel // 2
    for _ in range(iterations):
        around = np.pad(mask, (before, after), constant_values=beyond)
        mask = np.array(
            [
                [combine(around[y : y + kernel, x : x + kernel]) for x in range(mask.shape[1])]
                for y in range(mask.shape[0])
            ]
        )
    return mask


masks = hnp.arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9)))


@settings(max_examples=60, deadline=None)
@given(masks, st.integers(1, 6), st.integers(1, 3))
def test_dilation_and_erosion_are_those_of_a_square(mask, kernel, iterations):
    expected = slow_morphology(mask, kernel, iterations, False, np.any)
    assert np.array_equal(dilate(mask, kernel, iterations), expected)
    expected = slow_morphology(mask, kernel, iterations, True, np.all)
    assert np.array_equal(erode(mask, kernel, iterations), expected)


def test_blur_is_gaussian_over_a_mirrored_mask():
    mask = np.random.default_rng(0).random((21, 17)) < 0.4
    mask[4:13, 5:11] = True
    sigma = 2.0
    radius = round(17 / 11 * sigma)
    at = np.arange(-radius, radius + 1)
    weights = np.exp(-0.5 * (at / sigma) ** 2)
    weights = np.outer(weights, weights) / weights.sum() ** 2
    around = np.pad(mask, radius, mode="reflect").astype(float)
    value = np.array(
        [
            [(around[y : y + len(at), x : x + len(at)] * weights).sum() for x in range(17)]
            for y in range(21)
        ]
    )
    sure = np.abs(value - 0.5) > 1e-4
    assert sure.mean() > 0.9 and (value > 0.5).any()
    assert np.array_equal(blur(mask, sigma)[sure], (value > 0.5)[sure])


def spoiled(config, seed, mask):
    return corrupt(mask, config, np.random.default_rng(seed))


def test_each_operation_happens_as_often_as_it_should():
    mask = np.zeros((64, 64), bool)
    mask[16:48, 16:48] = True
    config = CorruptionConfig(blur_after=0.0, kernel=(3, 5), iterations=(1, 2), sigma=3.0)
    found = [spoiled(config, seed, mask) for seed in range(1000)]
    rounded = blur(mask, 3.0)
    shares = np.array(
        [
            [
                np.array_equal(m, mask),
                np.array_equal(m, rounded),
                m.sum() > 32**2,
                m[16, 16:48].sum() == 0,
            ]
            for m in found
        ]
    ).mean(axis=0)
    assert shares == pytest.approx([0.4, 0.2, 0.22, 0.18], abs=0.05)
    # Sides of 34 and 36 … of kernel - 1 pixels, once or twice.
    grown = {int(m.any(axis=0).sum()) for m in found if m.sum() > 32**2}
    assert grown == {34, 35, 36, 38, 40}
    assert all(np.array_equal(spoiled(config, seed, mask), found[seed]) for seed in range(20))


def test_what_would_vanish_stays():
    thin = np.zeros((32, 32), bool)
    thin[10:12] = True
    config = CorruptionConfig(blur=0, morphology=1, dilation=0, blur_after=0)
    assert np.array_equal(spoiled(config, 0, thin), thin)
    config = CorruptionConfig(blur=1, morphology=0)
    assert np.array_equal(spoiled(config, 0, thin), thin)


@pytest.mark.parametrize("wrong", [{"blur": 0.8}, {"kernel": (5, 3)}, {"iterations": (0, 3)}])
def test_impossible_shares_and_ranges_are_refused(wrong):
    with pytest.raises(ValueError, match=r"at most 1|must be a range"):
        CorruptionConfig(**wrong)
