import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amodal_pipeline.annotations import rle
from amodal_pipeline.annotations.levels import visibility_levels
from amodal_pipeline.visuals.colours import LAYERS, PALETTE, object_colours
from amodal_pipeline.visuals.overlays import (
    LAYER,
    draw_layers,
    draw_objects,
    draw_order,
    stroke_width,
)

SIZE = (60, 80)


def _scene():
    amodal = np.zeros((1, *SIZE), np.uint8)
    amodal[:, 10:50, 10:70] = 1
    visible = amodal.copy()
    visible[:, :, 40:] = 0
    image = np.full((*SIZE, 3), 128, np.uint8)
    return image, amodal[0].astype(bool), visible[0].astype(bool)


def _draw(image, amodal, visible, **options):
    return draw_objects(image, rle.encode(amodal[None]), rle.encode(visible[None]), **options)


def _inner(mask, by=4):
    return mask & np.all([np.roll(mask, s, axis) for axis in (0, 1) for s in (-by, by)], axis=0)


def test_visible_part_is_one_flat_blend_of_the_colour():
    image, amodal, visible = _scene()
    drawn = _draw(image, amodal, visible)
    inside = drawn[_inner(visible)]
    assert (inside == inside[0]).all()
    # Half colour, half image.
    assert np.abs(inside[0] - (128 + PALETTE[0].astype(float)) / 2).max() <= 1


def test_hidden_part_is_striped_and_differs_from_the_fill():
    image, amodal, visible = _scene()
    drawn = _draw(image, amodal, visible).astype(int)
    fill = drawn[_inner(visible)][0]
    hidden = drawn[_inner(amodal & ~visible)]
    colour = PALETTE[0].astype(int)
    distance = np.abs(hidden - colour).sum(axis=1) / np.abs(128 - colour).sum()
    assert (distance < 0.1).mean() > 0.2  # on a stripe: nearly the pure colour
    assert (distance > 0.8).mean() > 0.2  # between stripes: nearly the image
    assert (np.abs(hidden - fill).sum(axis=1) > 20).mean() > 0.7


def test_outline_follows_the_amodal_mask_also_where_it_is_hidden():
    image, amodal, visible = _scene()
    drawn = _draw(image, amodal, visible)
    assert (drawn[10, 10:70] == PALETTE[0]).all()
    assert (drawn[10:50, 69] == PALETTE[0]).all()


def test_nothing_outside_the_masks_changes_and_the_input_is_kept():
    image, amodal, visible = _scene()
    before = image.copy()
    drawn = _draw(image, amodal, visible)
    assert (drawn[~amodal] == image[~amodal]).all()
    assert (image == before).all()
    assert (drawn[amodal] != 128).any(axis=1).all()


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 4), st.integers(0, 2**32 - 1))
def test_any_size_and_any_masks(height, width, count, seed):
    rng = np.random.default_rng(seed)
    amodal, visible = rng.random((2, count, height, width)) < 0.5
    image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    masks = rle.encode(amodal), rle.encode(visible)
    drawn = draw_objects(image, *masks)
    assert drawn.dtype == np.uint8 and drawn.shape == image.shape
    untouched = ~(amodal | visible).any(axis=0)
    assert (drawn[untouched] == image[untouched]).all()
    names = [f"ü {i}" for i in range(count)]
    assert draw_objects(image, *masks, labels=names).shape == image.shape
    larger = draw_objects(image, *masks, size=(55, 33))
    assert larger.shape == (55, 33, 3)


def test_colours_are_distinct_and_keep_their_index():
    colours = object_colours(range(21))
    assert len(np.unique(colours, axis=0)) == 21
    assert (object_colours([20, 3]) == colours[[20, 3]]).all()
    gaps = np.abs(colours[:, None].astype(int) - colours[None]).sum(axis=2)
    assert gaps[~np.eye(21, dtype=bool)].min() >= 40


def test_given_colours_are_used():
    image, amodal, visible = _scene()
    drawn = _draw(image, amodal, visible, colours=np.array([[1, 2, 3]], np.uint8))
    assert (drawn[10, 10:70] == (1, 2, 3)).all()


def test_a_missing_mask_stands_for_nothing_hidden():
    image, amodal, _ = _scene()
    whole = rle.encode(amodal[None])
    full = draw_objects(image, whole, whole)
    assert (draw_objects(image, whole, [None]) == full).all()
    assert (draw_objects(image, [None], whole) == full).all()
    with pytest.raises(ValueError, match="object 0 has neither"):
        draw_objects(image, [None], [None])


def test_a_mask_of_another_canvas_is_an_error_not_a_crash():
    image, _, _ = _scene()
    other = rle.encode(np.ones((1, 5, 5), np.uint8))
    with pytest.raises(ValueError, match="object 0: run lengths cover 25 pixels"):
        draw_objects(image, other, other)


def test_labels_stay_in_the_picture_and_apart():
    image = np.full((120, 160, 3), 128, np.uint8)
    mask = np.zeros((2, 120, 160), np.uint8)
    mask[:, 30:90, 30:90] = 1
    masks = rle.encode(mask)
    plain = draw_objects(image, masks, masks)
    labelled = draw_objects(image, masks, masks, labels=["cup 0.91", "box\n<0.5>"])
    changed = (plain != labelled).any(axis=2)
    for colour in object_colours(range(2)):
        assert (labelled == colour).all(axis=2).sum() > (plain == colour).all(axis=2).sum() + 100
    assert changed.any() and labelled.shape == image.shape
    long = draw_objects(image, masks, masks, labels=["x" * 10_000, ""])
    assert long.shape == image.shape


def test_lines_grow_with_the_picture():
    assert stroke_width((10, 10)) == 1
    assert stroke_width((2000, 2000)) == pytest.approx(2 * stroke_width((1000, 1000)))


def test_opposite_slants_and_equal_pictures_every_time():
    image, amodal, _ = _scene()
    hidden = rle.encode(np.zeros((2, *SIZE), np.uint8))
    whole = rle.encode(np.stack([amodal, amodal]))
    once = draw_objects(image, whole, hidden)
    assert (once == draw_objects(image, whole, hidden)).all()
    alone = draw_objects(image, whole[:1], hidden[:1], colours=PALETTE[:1])
    assert (once != alone).any()


def _two():
    """A stands over B: amodal and visible masks, bool [2, H, W] each."""
    amodal = np.zeros((2, *SIZE), bool)
    amodal[0, 10:40, 10:40] = True
    amodal[1, 20:50, 30:70] = True
    return amodal, np.stack([amodal[0], amodal[1] & ~amodal[0]])


def test_an_arrow_goes_from_the_overlap_to_what_is_seen_of_the_object_behind():
    amodal, visible = _two()
    image = np.full((*SIZE, 3), 128, np.uint8)
    counts = rle.encode(amodal), rle.encode(visible)
    for front, back in ((0, 1), (1, 0)):
        drawn = draw_order(image, *counts, np.array([[front, back]]), SIZE)
        inked = (drawn == PALETTE[front]).all(axis=2)
        assert inked[amodal[0] & amodal[1]].any() and inked[visible[back] & ~amodal[front]].any()
        touched = (drawn != image).any(axis=2)
        assert touched.sum() < 0.1 * touched.size
        # The point is farther from the overlap than the dot at the other end is wide.
        x = np.flatnonzero(inked.any(axis=0)) - 34.5
        assert (x.max() > -x.min()) == (back == 1)
    assert (image == 128).all()


def test_arrows_are_drawn_in_the_picture_s_own_size_and_only_for_overlaps():
    amodal, visible = _two()
    amodal[1, :, :40] = visible[1, :, :40] = False
    image = np.zeros((120, 160, 3), np.uint8)
    counts = rle.encode(amodal), rle.encode(visible)
    assert np.array_equal(draw_order(image, *counts, np.array([[0, 1]]), SIZE), image)
    counts = [rle.encode(masks) for masks in _two()]
    drawn = draw_order(image, *counts, np.array([[0, 1]]), SIZE)
    y, x = np.nonzero(drawn.any(axis=2))
    assert drawn.shape == image.shape
    assert x.min() > 50 and x.max() < 140 and y.min() > 40 and y.max() < 100


def test_an_arrow_to_an_object_that_is_hidden_whole_ends_within_it():
    amodal, visible = _two()
    amodal[1], visible[1] = False, False
    amodal[1, 20:30, 20:30] = True
    image = np.zeros((*SIZE, 3), np.uint8)
    drawn = draw_order(image, rle.encode(amodal), rle.encode(visible), np.array([[0, 1]]), SIZE)
    assert drawn.any(axis=2)[20:30, 20:30].any()


def test_layers_have_a_colour_a_level_and_the_rest_is_grey():
    amodal, visible = _two()
    levels = visibility_levels(
        rle.encode(amodal), rle.encode(visible), np.array([[0, 1]], np.int64), SIZE
    )
    image = np.full((*SIZE, 3), (200, 10, 10), np.uint8)
    drawn = draw_layers(image, levels, (120, 160))
    assert drawn.shape == (120, 160, 3)
    drawn = drawn[::2, ::2].astype(int)
    grey = round(0.299 * 200 + 0.701 * 10)
    assert (np.abs(drawn[~amodal.any(axis=0)] - grey) <= 1).all()
    for level, where in ((0, amodal.sum(axis=0) == 1), (1, amodal.all(axis=0))):
        expected = grey + LAYER * (LAYERS[level].astype(float) - grey)
        assert (np.abs(drawn[where] - expected) <= 1).all()
