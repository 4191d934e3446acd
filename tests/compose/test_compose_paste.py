"""Cutouts, placements and pasting, one at a time."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amodal_pipeline.annotations import rle
from amodal_pipeline.compose.paste import (
    MAX_GAIN,
    Placement,
    _correlation,
    cut,
    find_placement,
    match,
    paste,
    place_anywhere,
)
from amodal_pipeline.compose.source import possibly_incomplete, working_masks, working_size


def disc(size, y, x, radius):
    rows, columns = np.ogrid[: size[0], : size[1]]
    return (rows - y) ** 2 + (columns - x) ** 2 <= radius**2


def areas(masks):
    return np.count_nonzero(masks, axis=(1, 2))


def test_cutout_ends_where_its_mask_ends():
    mask = disc((60, 60), 30, 30, 20)
    soft, hard = cut(mask, 1.0, False, 1.5), cut(mask, 1.0, False, 0.0)
    box = mask[10:51, 10:51]
    assert soft.window == (10, 51, 10, 51)
    np.testing.assert_array_equal(hard.mask, box)
    assert not soft.alpha[~box].any()
    assert ((soft.alpha > 0) & (soft.alpha < 1)).any()
    assert 0.85 < soft.mask.sum() / box.sum() < 1


def test_cutout_is_scaled_and_mirrored():
    mask = np.zeros((40, 40), bool)
    mask[10:20, 10:30] = True
    mask[20:30, 10:15] = True
    plain, mirrored = cut(mask, 2.0, False, 0.0), cut(mask, 2.0, True, 0.0)
    assert plain.alpha.shape == (40, 40)
    np.testing.assert_array_equal(mirrored.alpha, plain.alpha[:, ::-1])
    assert plain.mask.sum() == pytest.approx(4 * mask.sum(), rel=0.06)
    assert cut(np.zeros((5, 5), bool), 1.0, False, 1.0) is None
    assert cut(disc((9, 9), 4, 4, 1), 1.0, False, 5.0) is None


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_correlation_is_the_sum_over_overlaps(seed):
    rng = np.random.default_rng(seed)
    a, b = (rng.random(rng.integers(1, 7, 2)) for _ in range(2))
    found = _correlation(a, b)
    padded = np.pad(a, [(n - 1, n - 1) for n in b.shape])
    slow = [
        [(padded[i : i + b.shape[0], j : j + b.shape[1]] * b).sum() for j in range(found.shape[1])]
        for i in range(found.shape[0])
    ]
    np.testing.assert_allclose(found, slow, atol=1e-9)


@settings(max_examples=25, deadline=None)
@given(st.floats(0.05, 0.8), st.integers(12, 120), st.floats(1.0, 1.8), st.integers(0, 2**32 - 1))
def test_wanted_rate_is_reached_at_any_size(wanted, radius, relative, seed):
    size = (480, 640)
    visible = disc(size, 240, 320, radius)[None]
    cutout = cut(disc(size, 240, 320, radius), relative, False, 1.0)
    rng = np.random.default_rng(seed)
    found = find_placement(cutout, visible, areas(visible), areas(visible), 0, wanted, rng)
    assert found.rate == pytest.approx(wanted, abs=0.05)
    canvas = np.zeros((*size, 3), np.uint8)
    pasted = paste(canvas, canvas, cutout, found, match_brightness=False)
    hidden = (visible[0] & pasted).sum() / visible[0].sum()
    assert hidden == pytest.approx(found.rate)


def test_placement_counts_what_is_hidden_already_and_spares_others():
    size = (200, 300)
    target, other = disc(size, 100, 150, 40), disc(size, 100, 205, 12)
    visible = np.stack([target, other])
    amodal_areas = areas(visible)
    visible[0, :100] = False
    cutout = cut(disc(size, 100, 150, 35), 1.0, False, 1.0)
    for seed in range(10):
        rng = np.random.default_rng(seed)
        found = find_placement(cutout, visible, areas(visible), amodal_areas, 0, 0.7, rng)
        assert found.rate == pytest.approx(0.7, abs=0.05)
        assert found.buries == 0


def test_free_placement_spares_objects_and_survives_cutouts_larger_than_the_canvas():
    size = (60, 400)
    visible = disc(size, 30, 30, 8)[None]
    cutout = cut(disc((60, 60), 30, 30, 25), 1.0, False, 0.0)
    rng = np.random.default_rng(0)
    found = [
        place_anywhere(cutout, visible, areas(visible), areas(visible), rng) for _ in range(20)
    ]
    assert all(p.buries == 0 for p in found)
    assert len({p.left for p in found}) > 10
    large = cut(np.ones((100, 500), bool), 1.0, False, 0.0)
    assert place_anywhere(large, visible, areas(visible), areas(visible), rng).top == 0


def test_paste_changes_only_what_the_matte_covers_and_clips_to_the_canvas():
    rng = np.random.default_rng(1)
    canvas = rng.integers(0, 256, (50, 70, 3), dtype=np.uint8)
    photograph = np.full((40, 40, 3), 200, np.uint8)
    cutout = cut(disc((40, 40), 20, 20, 15), 1.0, True, 1.0)
    before = canvas.copy()
    mask = paste(canvas, photograph, cutout, Placement(-10, 55, 0, 0), match_brightness=False)
    alpha = np.zeros((50, 70), np.float32)
    alpha[:21, 55:] = cutout.alpha[10:31, :15]
    np.testing.assert_array_equal(mask, alpha > 0.5)
    np.testing.assert_array_equal(canvas[alpha == 0], before[alpha == 0])
    np.testing.assert_array_equal(canvas[alpha == 1], 200)


def test_brightness_follows_the_surroundings_within_its_limit():
    colours = np.random.default_rng(0).uniform(40, 120, (30, 30, 3)).astype(np.float32)
    mask = np.ones((30, 30), bool)
    dark, light = (np.full((100, 3), v, np.float32) for v in (30, 220))
    same = match(colours, mask, dark, dark)
    np.testing.assert_allclose(same, colours, atol=1e-3)
    brighter, darker = match(colours, mask, dark, light), match(colours, mask, light, dark)
    assert 1.1 < brighter.mean() / colours.mean() <= MAX_GAIN * 1.001
    assert 1 / MAX_GAIN / 1.001 <= darker.mean() / colours.mean() < 0.9
    white = np.full((30, 30, 3), 245, np.float32)
    assert match(white, mask, dark, light).max() <= 246


def test_objects_that_may_lack_a_part_are_flagged():
    size = (100, 200)
    masks = {
        "whole": disc(size, 50, 30, 10),
        "at the border": disc(size, 92, 70, 8),
        "touches": disc(size, 50, 100, 10),
        "is touched": disc(size, 50, 122, 10),
        "in two parts": disc(size, 20, 160, 8) | disc(size, 50, 160, 8),
        "with a speck": disc(size, 80, 160, 10) | disc(size, 80, 173, 1),
    }
    flags = possibly_incomplete(rle.encode(np.stack(list(masks.values()))), size)
    assert dict(zip(masks, flags.tolist(), strict=True)) == {
        "whole": False,
        "at the border": True,
        "touches": True,
        "is touched": True,
        "in two parts": True,
        "with a speck": False,
    }
    alone = possibly_incomplete(rle.encode(np.stack(list(masks.values()))), size, touching=False)
    flagged = {name for name, flag in zip(masks, alone, strict=True) if flag}
    assert flagged == {"at the border", "in two parts"}
    assert possibly_incomplete([], size).shape == (0,)


def test_masks_scale_with_their_photograph():
    mask = disc((480, 960), 200, 300, 100)
    (scaled,) = working_masks(rle.encode(mask[None]), (480, 960), 320)
    assert scaled.shape == working_size((480, 960), 320) == (160, 320)
    assert scaled.sum() == pytest.approx(mask.sum() / 9, rel=0.01)
    (same,) = working_masks(rle.encode(mask[None]), (480, 960), 960)
    np.testing.assert_array_equal(same, mask)
