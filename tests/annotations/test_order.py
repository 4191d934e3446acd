import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from amodal_pipeline.annotations import order, rle
from amodal_pipeline.annotations.order import (
    all_in_front,
    overlapping,
    overlapping_pairs,
    touching_pairs,
)
from amodal_pipeline.annotations.tables import INSTANCES, frame

SIDE = 10


def instances(corners, image_ids):
    """Rectangles (top, left, height, width), cut to the canvas."""
    y, x = np.mgrid[:SIDE, :SIDE]
    masks = [(y >= t) & (x >= s) & (y < t + h) & (x < s + w) for t, s, h, w in corners]
    counts = rle.encode(np.stack(masks)) if masks else []
    return frame(
        INSTANCES,
        {
            "instance_id": np.arange(len(counts)) + 100,
            "image_id": np.array(image_ids, np.int64),
            "amodal_rle": counts,
            "amodal_box": rle.box(counts, (SIDE, SIDE)),
        },
    )


def plain_pairs(table):
    masks = rle.decode(table["amodal_rle"].tolist(), (SIDE, SIDE))
    image = table["image_id"].tolist()
    return [
        (a, b)
        for a in range(len(table))
        for b in range(a + 1, len(table))
        if image[a] == image[b] and (masks[a] & masks[b]).any()
    ]


@settings(max_examples=40, deadline=None)
@given(
    placed=st.lists(
        st.tuples(st.integers(0, 3), *[st.integers(0, SIDE - 1)] * 2, *[st.integers(1, 5)] * 2),
        max_size=14,
    ),
    chunk=st.sampled_from([2, 4, 6, 2048]),
)
def test_overlapping_pairs_are_those_of_the_pixels(placed, chunk):
    made = instances([corners for _, *corners in placed], [image for image, *_ in placed])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(order, "_CHUNK", chunk)
        pieces = list(overlapping_pairs(made))
        i, j, crowded = overlapping(made)
    found = [tuple(pair) for piece in pieces for pair in piece.tolist()]
    assert sorted(found) == plain_pairs(made)  # and none twice
    assert list(zip(i.tolist(), j.tolist(), strict=True)) == found and not len(crowded)


def test_no_piece_is_larger_than_a_chunk_of_pairs(monkeypatch):
    monkeypatch.setattr(order, "_CHUNK", 8)
    pieces = [len(piece) for piece in overlapping_pairs(instances([(0, 0, 6, 6)] * 30, [0] * 30))]
    assert sum(pieces) == 30 * 29 // 2 and max(pieces) <= 8 * 8


def test_some_rows_are_compared_among_themselves():
    made = instances([(0, 0, 6, 6)] * 5, [1, 1, 2, 1, 2])
    pieces = overlapping_pairs(made, np.array([1, 2, 3]))
    assert np.concatenate(list(pieces)).tolist() == [[1, 3]]


@pytest.mark.parametrize(("limit", "value"), [("MAX_OBJECTS", 2), ("MAX_WORK", 100)])
def test_crowded_images_are_passed_over_and_named(monkeypatch, limit, value):
    made = instances([(0, 0, 6, 6)] * 5, [7, 5, 7, 5, 7])
    monkeypatch.setattr(order, limit, value)
    i, j, crowded = overlapping(made)
    assert (i.tolist(), j.tolist(), crowded.tolist()) == ([1], [3], [7])


def test_an_empty_table_has_no_pairs():
    i, j, crowded = overlapping(frame(INSTANCES, pd.DataFrame()))
    assert len(i) == len(j) == len(crowded) == 0


@settings(max_examples=60, deadline=None)
@given(
    placed=st.lists(
        st.tuples(st.integers(0, 2), *[st.integers(0, SIDE - 1)] * 2, *[st.integers(1, 4)] * 2),
        max_size=10,
    ),
    most=st.sampled_from([0.0, 0.5, 1.0]),
)
def test_touching_pairs_are_those_of_the_pixels(placed, most):
    table = instances([p[1:] for p in placed], [p[0] for p in placed])
    masks = rle.decode(table["amodal_rle"].tolist(), (SIDE, SIDE)).astype(bool)
    image = table["image_id"].to_numpy(dtype=np.int64)
    expected = []
    for a in range(len(table)):
        for b in range(a + 1, len(table)):
            near = ndimage.binary_dilation(masks[a]) & masks[b]
            shared = (masks[a] & masks[b]).sum() / min(masks[a].sum(), masks[b].sum())
            if image[a] == image[b] and near.any() and shared <= most:
                expected.append((a, b))
    found = touching_pairs(image, table["amodal_rle"].tolist(), (SIDE, SIDE), most)
    assert found.shape[1] == 2 and sorted(map(tuple, found.tolist())) == expected


@given(edges=st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=14))
def test_all_that_is_in_front_follows_from_neighbours(edges):
    front, back = np.array(edges, np.int64).reshape(-1, 2).T
    reach = np.zeros((7, 7), bool)
    reach[front, back] = True
    for _ in range(7):  # paths of any length, rings too
        reach |= reach @ reach
    np.fill_diagonal(reach, False)
    expected = [(f, b) for b in range(7) for f in range(7) if reach[f, b]]
    assert (
        list(zip(*(ends.tolist() for ends in all_in_front(front, back)), strict=True)) == expected
    )
