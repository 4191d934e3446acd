import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from amodal_pipeline.scenes import occluders
from amodal_pipeline.scenes.occluders import occlude, shared_pixels
from amodal_pipeline.scenes.render import Cutout
from amodal_pipeline.scenes.view_config import OcclusionConfig

SIDE = 24
sides = st.tuples(st.integers(1, 7), st.integers(1, 7))


def disc(radius: float, colour=(40, 90, 160), opacity: float = 1.0) -> Cutout:
    y, x = np.mgrid[:SIDE, :SIDE] + 0.5 - SIDE / 2
    mask = x * x + y * y < radius * radius
    pixels = np.full((SIDE, SIDE, 4), 255.0)
    pixels[..., 3] = 0
    blended = opacity * np.array(colour) + (1 - opacity) * 255
    pixels[mask] = (*blended, 255 * opacity)
    return Cutout(np.rint(pixels).astype(np.uint8), mask)


@given(sides.flatmap(lambda s: arrays(bool, s)), sides.flatmap(lambda s: arrays(bool, s)))
def test_shared_pixels_of_every_place(mask, piece):
    found = shared_pixels(mask, piece)
    (height, width), (h, w) = mask.shape, piece.shape
    assert found.shape == (height + h - 1, width + w - 1)
    padded = np.pad(mask, ((h - 1, h - 1), (w - 1, w - 1)))
    for (i, j), count in np.ndenumerate(found):
        assert count == (padded[i : i + h, j : j + w] & piece).sum()


@settings(max_examples=40, deadline=None)
@given(
    st.floats(3, 10),
    st.floats(2, 11),
    st.tuples(st.floats(0.05, 0.9), st.floats(0.05, 0.9)).map(sorted),
    st.integers(0, 1000),
)
def test_rate_is_within_the_range_or_nothing_is_pasted(radius, other, occlusion, seed):
    config = OcclusionConfig(occlusion=tuple(occlusion))
    seen = disc(radius)
    made = occlude(seen, [disc(other, (200, 30, 30))], config, np.random.default_rng(seed))
    if made is None:
        return
    rate = 1 - made.visible.sum() / seen.mask.sum()
    assert occlusion[0] - 1e-9 <= rate <= occlusion[1] + 1e-9
    assert (made.visible == (seen.mask & ~made.occluder)).all()
    red = made.pixels[..., 0].astype(int) - made.pixels[..., 2]
    assert (red[made.occluder] > 0).all() and (red[made.visible] < 60).all()
    # Beyond a rim of half covered pixels nothing is changed.
    untouched = (made.pixels == seen.pixels).all(axis=2)
    assert untouched.sum() > SIDE * SIDE - 2.2 * made.occluder.sum() - 60


def test_nothing_that_fits_gives_none():
    config = OcclusionConfig(occlusion=(0.8, 0.85))
    assert occlude(disc(11), [disc(2)], config, np.random.default_rng(0)) is None


def test_rates_are_spread_over_the_range():
    config = OcclusionConfig(occlusion=(0.1, 0.6))
    seen, others = disc(8), [disc(6), disc(9)]
    made = [occlude(seen, others, config, np.random.default_rng(k)) for k in range(200)]
    rates = np.array([1 - m.visible.sum() / seen.mask.sum() for m in made])
    assert np.histogram(rates, bins=5, range=(0.1, 0.6))[0].min() > 20
    assert {m.candidate for m in made} == {0, 1} and {m.flipped for m in made} == {False, True}
    assert {m.corner[0] > 2 for m in made} == {m.corner[1] > 2 for m in made} == {True, False}


@pytest.mark.parametrize("opacity", [1.0, 0.6])
def test_pasting_blends_colours_and_not_white(monkeypatch, opacity):
    """Both pictures are blended with white; the one in front shows what is behind it, not white."""
    monkeypatch.setattr(occluders, "_SCALES", (1.0, 1.0))
    behind, front = (30, 60, 90), (200, 20, 20)
    config = OcclusionConfig(occlusion=(0.3, 0.9))
    rng = np.random.default_rng(1)
    made = occlude(disc(9, behind), [disc(7, front, opacity)], config, rng)
    inside = made.occluder & disc(9).mask
    expected = opacity * np.array(front) + (1 - opacity) * np.array(behind)
    assert np.abs(made.pixels[inside][:, :3] - expected).max() <= 1.5
    assert (made.pixels[inside][:, 3] == 255).all()
