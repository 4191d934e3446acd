import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from amodal_pipeline.annotations import rle
from amodal_pipeline.layers.configs import CropConfig
from amodal_pipeline.layers.crops import (
    WIDEST,
    around_amodal,
    aspects,
    crop_image,
    crop_masks,
    windows,
)


def test_windows_grow_around_the_centre_of_their_box():
    boxes, size = np.array([[10.0, 20, 8, 4], [0, 0, 30, 10]]), (40, 60)
    free = CropConfig(clipped=False)
    assert windows(boxes, size, free).tolist() == [[6, 18, 22, 26], [-15, -5, 45, 15]]
    clipped = windows(boxes, np.array([[40, 60], [12, 31]]), CropConfig())
    assert clipped.tolist() == [[6, 18, 22, 26], [0, 0, 31, 12]]
    square = windows(boxes, size, CropConfig(clipped=False, square=True), np.array([1.0, 1.5]))
    assert square.tolist() == [[10, 18, 18, 26], [-7.5, -17.5, 37.5, 27.5]]
    assert windows(np.zeros((0, 4)), size, free).shape == (0, 4)


def test_amodal_boxes_hold_what_is_visible_and_are_of_sensible_size():
    visible = np.array([[10.0, 20, 30, 10]] * 8)
    visible[7] = np.nan
    longest = WIDEST * 60
    given = np.array(
        [
            [5, 15, 50, 50],
            [35, 25, 10, 10],  # holds a part
            [-9, 20, longest, 5],  # as long as it may be
            [-9, 20, longest + 1, 5],
            [10, 30, 30, 10],  # beside it
            [10, 20, 0, 10],
            [10, 20, np.inf, 10],
            [5, 15, 50, 50],  # of what is not visible
        ]
    )
    found = around_amodal(given, visible, (40, 60))
    expected = [[5, 15, 50, 50], [10, 20, 35, 15], [-9, 20, longest, 10]]
    np.testing.assert_array_equal(found, [*expected, *[[np.nan] * 4] * 5])
    sizes = np.array([[40, 60], [40, 61]])
    each = around_amodal(given[[3, 3]], visible[:2], sizes)
    assert np.isnan(each[:, 0]).tolist() == [True, False]


def test_aspects_are_sides_over_the_longer():
    found = aspects(np.array([[1.0, 2, 5, 4], [-3, -3, 0, 9], [0, 0, 7, 7]]))
    assert found.dtype == torch.float32
    assert found.tolist() == [[1, 0.5], [0.25, 1], [1, 1]]
    assert aspects(np.zeros((0, 4))).shape == (0, 2)


def enclosing(height, width):
    """Corners of windows with whole numbers, within the image or beyond it."""
    return st.tuples(
        st.integers(-8, width + 3), st.integers(-8, height + 3), st.integers(1, 12)
    ).map(lambda w: np.array([w[0], w[1], w[0] + w[2], w[1] + w[2]], float))


@settings(max_examples=80, deadline=None)
@given(st.data(), st.integers(1, 12), st.integers(1, 12))
def test_at_their_own_scale_pixels_and_masks_come_out_as_they_are(data, height, width):
    window = data.draw(enclosing(height, width))
    pixels = data.draw(hnp.arrays(np.uint8, (height, width, 3)))
    mask = data.draw(hnp.arrays(bool, (height, width)))
    side = int(window[2] - window[0])
    # Slowly: on a canvas with room for every window.
    canvas = np.zeros((height + 40, width + 40, 4), np.uint8)
    canvas[20 : 20 + height, 20 : 20 + width, :3] = pixels
    canvas[20 : 20 + height, 20 : 20 + width, 3] = mask
    left, top = window[:2].astype(int) + 20
    expected = canvas[top : top + side, left : left + side]

    image = torch.from_numpy(pixels).permute(2, 0, 1)
    found = crop_image(image, window, side)
    assert found.dtype == torch.uint8 and found.shape == (3, side, side)
    assert np.array_equal(found.permute(1, 2, 0), expected[..., :3])
    seen = crop_masks(rle.encode(mask[None]), window[None], (height, width), side)
    assert np.array_equal(seen[0], expected[..., 3])


def test_a_smaller_crop_is_antialiased():
    stripes = torch.zeros(3, 64, 64, dtype=torch.uint8)
    stripes[:, :, ::2] = 200
    small = crop_image(stripes, np.array([0.0, 0, 64, 64]), 8)
    assert (small.int() - 100).abs().max() <= 4
    # A window of half pixels: one column is half black, half white.
    edge = torch.zeros(3, 4, 4, dtype=torch.uint8)
    edge[:, :, 2:] = 200
    assert crop_image(edge, np.array([0.5, 0, 3.5, 4]), 3)[0, 0].tolist() == [0, 100, 200]


@pytest.mark.parametrize("side", [7, 32, 50])
def test_no_mask_reaches_beyond_the_border(side):
    full = rle.encode(np.ones((2, 10, 6), bool))
    window = np.array([[-5.0, -4, 11, 12], [2.5, 3, 8.5, 9]])
    for (x1, y1, x2, y2), seen in zip(window, crop_masks(full, window, (10, 6), side), strict=True):
        x = x1 + (np.arange(side) + 0.5) / side * (x2 - x1)
        y = y1 + (np.arange(side) + 0.5) / side * (y2 - y1)
        within = ((y >= 0) & (y <= 10))[:, None] & ((x >= 0) & (x <= 6))[None]
        # Cells larger than a pixel that lie across the border may count either way.
        close = np.abs(np.stack([x, x - 6])).min(0)[None] < (x2 - x1) / side / 2
        close = close | (np.abs(np.stack([y, y - 10])).min(0)[:, None] < (y2 - y1) / side / 2)
        assert not seen[~within].any()
        assert seen[within & ~close].all()


def test_an_image_and_its_mask_stay_together():
    mask = np.zeros((40, 60), bool)
    mask[11:27, 20:41] = True
    image = torch.from_numpy(mask * np.uint8(255)).expand(3, -1, -1)
    window = np.array([8.3, -6.0, 55.1, 44.7])
    seen = crop_masks(rle.encode(mask[None]), window[None], mask.shape, 48)[0]
    pixels = crop_image(image, window, 48)[0].numpy()
    decided = (pixels < 64) | (pixels > 191)
    assert decided.mean() > 0.9
    assert np.array_equal(seen[decided], (pixels > 127)[decided])
