"""Visibility levels against a loop over pixels, in drawn cases, and against depth by rays."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from amodal_pipeline.annotations import rle
from amodal_pipeline.annotations.levels import (
    levels_of_image,
    order_of_image,
    visibility_levels,
)
from amodal_pipeline.scenes.config import ScenesConfig
from amodal_pipeline.scenes.dataset import render_split
from amodal_pipeline.scenes.render import cast_layers
from amodal_pipeline.scenes.scene import load_scene

BITS = st.booleans()


def levels_of(amodal, visible, pairs):
    pairs = np.array(list(pairs), np.int64).reshape(-1, 2)
    size = amodal.shape[1:]
    return visibility_levels(rle.encode(amodal), rle.encode(visible), pairs, size)


def drawn(*pictures):
    """Objects as pictures: # visible, + hidden, . neither."""
    rows = np.array([[list(row) for row in picture.split()] for picture in pictures])
    return rows != ".", rows == "#"


def in_front(a, b, among, stated):
    """Whether pairs that stand one way only lead from a to b through ``among``."""
    reached, new = set(), {a}
    while new:
        reached |= new
        new = {y for x in new for y in among if (x, y) in stated and (y, x) not in stated} - reached
        if b in new:
            return True
    return False


def slow_levels(amodal, visible, stated):
    level = np.zeros(amodal.shape, int)
    unresolved = np.zeros(amodal.shape[1:], bool)
    for y, x in np.ndindex(unresolved.shape):
        present = np.flatnonzero(amodal[:, y, x])
        hidden = [int(i) for i in present if not visible[i, y, x]]
        least = max(len(present) - len(hidden), 1)
        before = {
            (a, b): in_front(a, b, hidden, stated) and not in_front(b, a, hidden, stated)
            for a in hidden
            for b in hidden
            if a != b
        }
        for b in hidden:
            level[b, y, x] = least + sum(before[a, b] for a in hidden if a != b)
        unresolved[y, x] = any(not before[a, b] and not before[b, a] for a, b in before)
    return level, unresolved


@st.composite
def tables(draw):
    n = draw(st.integers(1, 6))
    shape = draw(hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=6))
    amodal = draw(hnp.arrays(bool, (n, *shape), elements=BITS))
    visible = amodal & draw(hnp.arrays(bool, (n, *shape), elements=BITS))
    some = st.tuples(*[st.integers(0, n - 1)] * 2).filter(lambda pair: pair[0] != pair[1])
    return amodal, visible, draw(st.sets(some, max_size=20)) if n > 1 else set()


@settings(max_examples=150, deadline=None)
@given(tables())
def test_levels_are_those_of_a_loop_over_pixels(table):
    amodal, visible, stated = table
    found = levels_of(amodal, visible, stated)
    level, unresolved = slow_levels(amodal, visible, stated)
    np.testing.assert_array_equal(found.level, level)
    np.testing.assert_array_equal(found.unresolved, unresolved)
    assert found.unresolved_pixels == unresolved.sum()
    np.testing.assert_array_equal(found.amodal, amodal)
    np.testing.assert_array_equal(found.visible, visible)


@settings(max_examples=60, deadline=None)
@given(tables(), st.randoms(use_true_random=False))
def test_painted_one_over_another(table, random):
    """With all overlaps stated a level counts the nearer objects at the pixel."""
    amodal, _, _ = table
    rank = random.sample(range(len(amodal)), len(amodal))
    ranked = np.array(rank)[:, None, None]
    nearer = np.stack([(amodal & (ranked < r)).sum(axis=0) for r in rank])
    pairs = [
        (a, b)
        for a in range(len(amodal))
        for b in range(len(amodal))
        if rank[a] < rank[b] and (amodal[a] & amodal[b]).any()
    ]
    found = levels_of(amodal, amodal & (nearer == 0), pairs)
    np.testing.assert_array_equal(found.level, np.where(amodal, nearer, 0))
    assert found.unresolved_pixels == 0


RIDER = """
.######.
.##..+..
.##..+..
.##..#..
"""
HORSE = """
........
#++#####
#++#####
........
"""
FENCE = """
........
########
........
........
"""
BLANKET = """
........
.##.....
........
........
"""


def hidden_by_fence(picture):
    rows = picture.split()
    rows[1] = rows[1].replace("#", "+")
    return "\n".join(rows)


def test_rider_and_horse():
    """One leg before the horse, one behind it: the pair stands both ways, each pixel has one."""
    found = levels_of(*drawn(RIDER, HORSE), [(0, 1), (1, 0)])
    rider, horse = found.level
    assert found.unresolved_pixels == 0
    assert rider[1:3, 5].tolist() == [1, 1] and rider.sum() == 2
    assert horse[1:3, 1:3].tolist() == [[1, 1], [1, 1]] and horse.sum() == 4


def test_rider_and_horse_behind_a_fence():
    """Nothing says whose turn it is where both are hidden; elsewhere nothing changes."""
    masks = drawn(hidden_by_fence(RIDER), hidden_by_fence(HORSE), FENCE)
    found = levels_of(*masks, [(0, 1), (1, 0), (2, 0), (2, 1)])
    rider, horse, fence = found.level
    assert found.unresolved[1].tolist() == [c in "125" for c in "01234567"]
    assert found.unresolved_pixels == 3
    assert horse[1].tolist() == [1] * 8 and rider[1].tolist() == [0, 1, 1, 0, 0, 1, 0, 0]
    assert horse[2].tolist() == [0, 1, 1, 0, 0, 0, 0, 0] and rider[2, 5] == 1
    assert not fence.any()


def test_what_lies_between_them_tells_rider_and_horse_apart():
    """Under the near leg there is a blanket on the horse; the far leg stays open."""
    masks = drawn(hidden_by_fence(RIDER), hidden_by_fence(HORSE), FENCE, BLANKET.replace("#", "+"))
    pairs = [(0, 1), (1, 0), (2, 0), (2, 1), (2, 3), (0, 3), (3, 1)]
    found = levels_of(*masks, pairs)
    rider, horse, _, blanket = found.level
    assert rider[1, 1:3].tolist() == [1, 1] and blanket[1, 1:3].tolist() == [2, 2]
    assert horse[1].tolist() == [1, 3, 3, 1, 1, 1, 1, 1]
    assert np.argwhere(found.unresolved).tolist() == [[1, 5]]


ROUND = [(0, 1), (1, 2), (2, 0)]  # each over the next; two meet in a column, all in the last one


def test_three_objects_in_a_round():
    """No pair is dropped: each holds where its two meet, and visible masks come first."""
    found = levels_of(*drawn("##.+#", ".+#.+", "..+#+"), ROUND)
    assert found.level[:, 0].tolist() == [[0, 0, 0, 1, 0], [0, 1, 0, 0, 1], [0, 0, 1, 0, 2]]
    assert found.unresolved_pixels == 0


def test_three_objects_in_a_round_under_a_cover():
    """Two hidden ones are told apart; where all three are hidden it stays open, and counted."""
    pairs = [*ROUND, (3, 0), (3, 1), (3, 2)]
    found = levels_of(*drawn("++.++", ".++.+", "..+++", "#####"), pairs)
    assert found.level[:, 0].tolist() == [
        [1, 1, 0, 2, 1],
        [0, 2, 1, 0, 1],
        [0, 0, 2, 1, 1],
        [0, 0, 0, 0, 0],
    ]
    assert found.unresolved[0].tolist() == [False, False, False, False, True]


def test_what_hides_an_object_may_have_no_mask():
    found = levels_of(*drawn("#++", ".++"), [(0, 1)])
    assert found.level[:, 0].tolist() == [[0, 1, 1], [0, 2, 2]]


def test_several_visible_ones_are_all_in_front():
    found = levels_of(*drawn("##", "##", ".+"), [(2, 0)])
    assert found.level[:, 0].tolist() == [[0, 0], [0, 0], [0, 2]]


def test_an_image_without_objects():
    nothing = np.zeros((0, 4, 5), bool)
    found = levels_of(nothing, nothing, [])
    assert found.level.shape == (0, 4, 5) and found.unresolved.shape == (4, 5)


def test_levels_end_at_255():
    stack = np.ones((300, 1, 2), bool)
    top = stack & (np.arange(300) == 0)[:, None, None]
    found = levels_of(stack, top, [(a, b) for b in range(300) for a in range(b)])
    assert found.level[:, 0, 1].tolist() == [min(i, 255) for i in range(300)]


def test_masks_of_another_canvas_are_refused():
    counts = rle.encode(np.ones((2, 4, 5), bool))
    none = np.zeros((0, 2), np.int64)
    other = rle.encode(np.ones((1, 4, 6), bool))
    with pytest.raises(ValueError, match=r"visible mask of object 1 has 24 pixels.* 4x5.* size"):
        visibility_levels(counts, [counts[0], *other], none, (4, 5))
    with pytest.raises(ValueError, match="2 amodal and 1 visible"):
        visibility_levels(counts, counts[:1], none, (4, 5))
    for wrong in (-1, 2):
        with pytest.raises(ValueError, match=r"order names objects .* from 0 to 1"):
            visibility_levels(counts, counts, np.array([[0, wrong]]), (4, 5))


def test_levels_of_an_image_of_a_table(shapes):
    """The red square (first) hides a part of the blue one."""
    ids = shapes.images["image_id"].to_list()
    for image_id in (ids[0], ids[-1]):
        assert order_of_image(shapes, image_id).tolist() == [[0, 1]]
        found = levels_of_image(shapes, image_id)
        hidden = found.amodal[0] & found.amodal[1]
        assert hidden.any() and not found.level[0].any()
        np.testing.assert_array_equal(found.level[1], hidden)
    with pytest.raises(KeyError, match="no image 99"):
        levels_of_image(shapes, 99)


def test_levels_of_scenes_are_the_rank_of_ray_depth(tmp_path):
    """Order there comes from rays, and so does the depth at each pixel that levels must rank."""
    config = ScenesConfig(
        image_size=96,
        minimum_amodal_pixels=20,
        max_occlusion_rate=1.0,
        elevation=(2.0, 6.0),
        crowding=1.0,
        seed=3,
    )
    table = render_split(config, "train", 4, tmp_path)
    deepest = 0
    for image_id in range(4):
        scene = load_scene(tmp_path / "train" / f"{image_id:06d}.json")
        depth = cast_layers(scene.objects, scene.camera)
        nearer = np.argsort(np.argsort(depth, axis=0, kind="stable"), axis=0)
        found = levels_of_image(table, image_id)
        np.testing.assert_array_equal(found.level, np.where(np.isfinite(depth), nearer, 0))
        assert found.unresolved_pixels == 0
        deepest = max(deepest, found.level.max())
    assert deepest >= 2
