import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pycocotools import mask as coco_mask
from scipy.ndimage import binary_dilation

from amodal_pipeline.annotations import rle

SHAPES = hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=12)
BITS = st.sampled_from([0, 1])


def stacks(n=None, shape=SHAPES):
    return st.tuples(shape, st.integers(1, 5) if n is None else st.just(n)).flatmap(
        lambda s: hnp.arrays(np.uint8, (s[1], *s[0]), elements=BITS)
    )


PAIRS = SHAPES.flatmap(
    lambda shape: st.integers(1, 4).flatmap(
        lambda n: st.tuples(
            hnp.arrays(np.uint8, (n, *shape), elements=BITS),
            hnp.arrays(np.uint8, (n, *shape), elements=BITS),
        )
    )
)
fast = settings(max_examples=60, deadline=None)


def by_coco(masks):
    return [
        coco_mask.encode(np.asfortranarray(m.astype(np.uint8)))["counts"].decode() for m in masks
    ]


def runs_of(mask):
    """Slow reference: run lengths of one mask in column order, background first."""
    pixels = mask.T.reshape(-1)
    cuts = np.flatnonzero(np.diff(pixels)) + 1
    lengths = np.diff([0, *cuts, len(pixels)]).tolist()
    return [0, *lengths] if pixels[0] else lengths


@fast
@given(stacks())
def test_encode_and_decode(masks):
    counts = rle.encode(masks)
    assert counts == by_coco(masks)
    np.testing.assert_array_equal(rle.decode(counts, masks.shape[1:]), masks)


@fast
@given(stacks())
def test_dilate(masks):
    grown = rle.dilate(by_coco(masks), masks.shape[1:])
    assert grown == by_coco(np.stack([binary_dilation(mask) for mask in masks]))


@fast
@given(stacks(), st.data())
def test_moved(masks, data):
    """Look up which pixel the centre of each pixel comes from."""
    height, width = masks.shape[1:]
    box = st.tuples(*[st.integers(-3, 14)] * 2, *[st.integers(1, 14)] * 2)
    source, target = (np.array([data.draw(box) for _ in masks]).reshape(-1, 4) for _ in range(2))
    found = rle.moved(by_coco(masks), source, target, (height, width))
    for mask, (x0, y0, w0, h0), (x1, y1, w1, h1), counts in zip(
        masks, source, target, found, strict=True
    ):
        x = x0 + (2 * (np.arange(width) - x1) + 1) * w0 // (2 * w1)
        y = y0 + (2 * (np.arange(height) - y1) + 1) * h0 // (2 * h1)
        inside = ((y >= 0) & (y < height))[:, None] & (x >= 0) & (x < width)
        expected = inside & (mask[np.ix_(y % height, x % width)] > 0)
        assert counts == by_coco([expected])[0]


@fast
@given(stacks())
def test_unpack_and_pack(masks):
    counts = by_coco(masks)
    runs = rle.unpack(counts)
    for i, mask in enumerate(masks):
        assert runs.lengths[runs.offsets[i] : runs.offsets[i + 1]].tolist() == runs_of(mask)
    assert rle.pack(runs.lengths, runs.offsets) == counts
    half = runs[len(masks) // 2 :]
    assert rle.area(half).tolist() == masks[len(masks) // 2 :].sum(axis=(1, 2)).tolist()


@fast
@given(
    st.lists(
        st.lists(st.integers(0, 100_000), min_size=1, max_size=12).filter(lambda r: sum(r) > 0),
        min_size=1,
        max_size=4,
    )
)
def test_long_runs(lists):
    """Runs of many characters, and falling ones, whose differences are negative."""
    runs = np.concatenate([np.array(r) for r in lists])
    offsets = np.cumsum([0] + [len(r) for r in lists])
    counts = rle.pack(runs, offsets)
    np.testing.assert_array_equal(rle.unpack(counts).lengths, runs)
    expected = [
        coco_mask.frPyObjects({"size": [sum(r), 1], "counts": r}, sum(r), 1)["counts"].decode()
        for r in lists
    ]
    assert counts == expected
    assert rle.area(counts).tolist() == [sum(r[1::2]) for r in lists]


@fast
@given(stacks())
def test_area_and_box(masks):
    counts = by_coco(masks)
    assert rle.area(counts).tolist() == masks.sum(axis=(1, 2)).tolist()
    for box, mask in zip(rle.box(counts, masks.shape[1:]), masks, strict=True):
        y, x = np.nonzero(mask)
        if len(x) == 0:
            assert np.isnan(box).all()
        else:
            expected = [x.min(), y.min(), np.ptp(x) + 1, np.ptp(y) + 1]
            assert box.tolist() == expected


@fast
@given(PAIRS)
def test_set_operations(pair):
    a, b = pair
    size = a.shape[1:]
    counts_a, counts_b = by_coco(a), by_coco(b)
    for found, expected in (
        (rle.intersection(counts_a, counts_b), a & b),
        (rle.union(counts_a, counts_b), a | b),
        (rle.difference(counts_a, counts_b), a & (1 - b)),
    ):
        np.testing.assert_array_equal(rle.decode(found, size), expected)


@fast
@given(PAIRS)
def test_iou(pair):
    a, b = pair
    counts_a, counts_b = by_coco(a), by_coco(b)
    shared = (a[:, None] & b[None]).sum(axis=(2, 3))
    joined = (a[:, None] | b[None]).sum(axis=(2, 3))
    expected = shared / np.maximum(joined, 1)
    np.testing.assert_allclose(rle.iou(counts_a, counts_b, a.shape[1:]), expected)
    np.testing.assert_allclose(rle.pair_iou(counts_a, counts_b), np.diagonal(expected))


@fast
@given(stacks())
def test_intervals_and_back(masks):
    counts = by_coco(masks)
    owner, start, stop = rle.intervals(counts)
    again = np.zeros((len(masks), masks[0].size), np.uint8)
    for i, a, b in zip(owner, start, stop, strict=True):
        assert b > a
        again[i, a:b] = 1
    np.testing.assert_array_equal(again, masks.transpose(0, 2, 1).reshape(len(masks), -1))
    assert rle.from_intervals(owner, start, stop, masks.shape[1:], len(masks)) == counts


def test_touching_intervals_become_one_run():
    mask = np.zeros((4, 3), np.uint8)
    mask[:, 1:] = 1
    assert rle.from_intervals([0, 0], [4, 8], [8, 12], (4, 3), 1) == by_coco([mask])
    assert rle.from_intervals([], [], [], (4, 3), 2) == by_coco(np.zeros((2, 4, 3)))


def test_masks_of_several_sizes():
    masks = [np.ones((3, 4), np.uint8), np.eye(6, dtype=np.uint8)]
    counts, sizes = by_coco(masks), np.array([[3, 4], [6, 6]])
    assert rle.box(counts, sizes).tolist() == [[0, 0, 4, 3], [0, 0, 6, 6]]
    assert rle.problems(counts, sizes).tolist() == [None, None]
    assert rle.problems(counts, sizes[::-1])[0].startswith("run lengths cover 12 pixels")
    halves = rle.difference(counts, by_coco([np.eye(3, 4), np.eye(6)]))
    assert rle.area(halves).tolist() == [9, 0]


POINTS = st.floats(-30, 60, width=32) | st.sampled_from([0.5, 0.1, 2.5, 10, 11.9, -0.5, 0])


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.lists(st.tuples(POINTS, POINTS), min_size=3, max_size=9), min_size=1, max_size=4),
    hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=40),
)
def test_polygons_are_drawn_as_pycocotools_draws_them(polygons, size):
    offsets = np.cumsum([0] + [len(p) for p in polygons])
    found = rle.draw(np.concatenate(polygons), offsets, size)
    flat = [np.reshape(p, -1).tolist() for p in polygons]
    expected = coco_mask.decode(coco_mask.frPyObjects(flat, *size))
    np.testing.assert_array_equal(rle.decode(found, size), np.moveaxis(expected, -1, 0))
    assert not any(rle.problems(found, size))


def test_a_polygon_with_many_changes_in_a_column():
    random = np.random.default_rng(0)
    points = random.uniform(0, 40, (400, 2))
    found = rle.draw(points, [0, 400], (40, 40))
    expected = coco_mask.decode(coco_mask.frPyObjects([points.reshape(-1).tolist()], 40, 40))
    np.testing.assert_array_equal(rle.decode(found, (40, 40))[0], expected[..., 0])


@fast
@given(stacks(n=6), st.integers(1, 4))
def test_overlaps_are_all_pairs_of_a_group_that_share_pixels(masks, batch):
    counts, groups = by_coco(masks), [0, 2, 2, 6]
    boxes = rle.box(counts, masks.shape[1:])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rle, "_BATCH", batch)
        found = set(zip(*(a.tolist() for a in rle.overlaps(counts, boxes, groups)), strict=True))
    shared = (masks[:, None] & masks[None]).sum(axis=(2, 3))
    pairs = [(0, 1), *((i, j) for i in range(2, 6) for j in range(i + 1, 6))]
    assert found == {(i, j, int(shared[i, j])) for i, j in pairs if shared[i, j]}


@fast
@given(PAIRS, st.data())
def test_shared_pixels_of_chosen_pairs(pair, data):
    a, b = pair
    rows = st.lists(st.integers(0, len(a) - 1), min_size=1, max_size=8)
    i = np.array(data.draw(rows))
    j = np.array(data.draw(st.lists(st.integers(0, len(b) - 1), min_size=len(i), max_size=len(i))))
    shared = rle.shared_area_of_pairs(rle.encode(a), i, rle.encode(b), j)
    np.testing.assert_array_equal(shared, (a[i].astype(bool) & b[j].astype(bool)).sum((1, 2)))


def test_no_masks():
    assert rle.encode(np.zeros((0, 3, 4))) == []
    assert rle.decode([], (3, 4)).shape == (0, 3, 4)
    assert rle.area([]).shape == (0,)
    assert rle.box([], (3, 4)).shape == (0, 4)
    assert rle.iou([], ["l0"], (4, 4)).shape == (0, 1)
    assert rle.intersection([], []) == []
    assert rle.moved([], np.zeros((0, 4)), np.zeros((0, 4)), (3, 4)) == []
    assert rle.problems([], (3, 4)).shape == (0,)
    assert len(rle.intervals([])[0]) == 0


def test_batches_do_not_change_the_result(monkeypatch):
    random = np.random.default_rng(0)
    masks = (random.random((20, 7, 9)) < 0.4).astype(np.uint8)
    counts = by_coco(masks)
    counts[13] = "~"
    sizes = np.tile([7, 9], (20, 1))
    whole = rle.problems(counts, sizes)
    monkeypatch.setattr(rle, "_BATCH", 6)
    assert rle.problems(counts, sizes).tolist() == whole.tolist()
    assert [i for i, problem in enumerate(whole) if problem] == [13]
    counts[13] = counts[0]
    assert rle.area(counts).tolist() == [rle.area([c])[0] for c in counts]


# Damaged strings. pycocotools is only given what ``problems`` finds nothing wrong with.


@settings(max_examples=300, deadline=None)
@given(st.lists(st.text(max_size=12), min_size=1, max_size=4), SHAPES)
def test_any_text_is_judged_without_a_crash(texts, size):
    found = rle.problems(texts, size)
    for text, problem in zip(texts, found, strict=True):
        if problem is None:
            mask = rle.decode([text], size)[0]
            assert mask.sum() == rle.area([text])[0]
            assert set(np.unique(mask)) <= {0, 1}
        else:
            assert isinstance(problem, str)


@settings(max_examples=300, deadline=None)
@given(stacks(n=1), st.data())
def test_changed_strings_are_judged_without_a_crash(masks, data):
    text = by_coco(masks)[0]
    at = data.draw(st.integers(0, len(text) - 1))
    change = data.draw(st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=3))
    text = text[:at] + change + text[at + data.draw(st.integers(0, 2)) :]
    size = masks.shape[1:]
    if rle.problems([text], size)[0] is None:
        runs = rle.unpack([text]).lengths
        assert (runs >= 0).all()
        assert runs.sum() == masks[0].size
        pixels = np.repeat(np.arange(len(runs)) % 2, runs)
        np.testing.assert_array_equal(rle.decode([text], size)[0].T.reshape(-1), pixels)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "damaged"),
        ("~~", "damaged"),
        ("é", "damaged"),
        ("P", "damaged"),  # says that more is to come
        ("P" * 9 + "0", "damaged"),  # a number of more than 35 bits
        ("0<", "cover 12 pixels, the image 4x4 has 16"),
        ("O1", "negative"),
        ("0", "cover 0 pixels"),
        ("<04", "within the mask is zero"),
        ("<40", "within the mask is zero"),
    ],
)
def test_each_kind_of_damage_is_named(text, reason):
    good = by_coco([np.eye(4)])[0]
    found = rle.problems([good, text, good], (4, 4))
    assert found[0] is None
    assert reason in found[1]
    assert found[2] is None


def test_unpack_says_which_rows_are_damaged():
    with pytest.raises(ValueError, match="rows") as error:
        rle.unpack(["l0", "", "l0", "~"])
    assert error.value.rows.tolist() == [1, 3]
