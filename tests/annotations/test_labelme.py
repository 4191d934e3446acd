"""Files of labelme: what each kind of shape becomes, and what is refused."""

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from amodal_pipeline.annotations import rle
from amodal_pipeline.annotations.labelme import read_labelme

SIZE = (40, 60)
PATH = Path("a.json")
SQUARE = [[10, 5], [30, 5], [30, 25], [10, 25]]


def png(mask):
    buffer = io.BytesIO()
    Image.fromarray(np.asarray(mask, np.uint8)).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def read(*shapes, **changes):
    given = [{"label": "cup", "points": SQUARE, "shape_type": "polygon"} | each for each in shapes]
    found = read_labelme({"shapes": given, **changes}, PATH, SIZE)
    return [label for label, _ in found], rle.decode([c for _, c in found], SIZE).astype(bool)


def test_every_shape_with_an_area_is_read():
    triangle = np.tril(np.ones((8, 8), np.uint8))
    labels, masks = read(
        {},
        {"label": "door", "shape_type": "rectangle", "points": [[30, 25], [10, 5]]},
        {"shape_type": "circle", "points": [[30, 20], [30, 32]]},
        {"shape_type": "mask", "points": [[55, 34], [62, 41]], "mask": png(255 * triangle)},
        imageHeight=40,
        imageWidth=60,
    )
    assert labels == ["cup", "door", "cup", "cup"]
    assert np.array_equal(masks[0], masks[1])
    assert masks[0][5:25, 10:30].all() and masks[0].sum() == 400
    y, x = np.mgrid[:40, :60] + 0.5
    near = np.hypot(x - 30, y - 20)
    assert masks[2][near < 11].all() and not masks[2][near > 13].any()
    inside = triangle[:6, :5] > 0  # the rest lies beyond the corner of the image
    assert np.array_equal(masks[3][34:, 55:], inside) and masks[3].sum() == inside.sum()


def test_shapes_of_a_group_are_one_object(caplog):
    far = [[40, 5], [50, 5], [50, 15], [40, 15]]
    labels, masks = read(
        {"group_id": 1},
        {"shape_type": "line", "points": [[0, 0], [5, 5]]},
        {"group_id": 1, "points": far},
        {"group_id": 1, "label": "door", "points": far},
        {"points": far},
    )
    assert labels == ["cup", "door", "cup"]
    assert masks.sum(axis=(1, 2)).tolist() == [500, 100, 100]
    assert "left out (1 line)" in caplog.text


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ({"points": None}, r"position 0: its points are None, not those of a polygon"),
        ({"points": [[1, 2, 3]] * 3}, r"position 0: its points are"),
        ({"points": [[1, "2"]] * 3}, r"position 0: its points are"),
        ({"points": SQUARE[:2]}, r"position 0 \('cup'\): a polygon has fewer than three points"),
        ({"points": [[0, 0], [9e9, 0], [0, 9e9]]}, r"far outside the image"),
        ({"points": [[-9, -9], [-5, -9], [-5, -5]]}, r"the object 'cup' covers no pixel"),
        ({"shape_type": "rectangle", "points": SQUARE[:1]}, r"not those of a rectangle"),
        ({"shape_type": "cube"}, r"position 0: shape_type is 'cube', not known"),
        ({"shape_type": ["cube"]}, r"shape_type is \['cube'\], not known"),
        ({"label": 3}, r"position 0 is .* not an object with a 'label'"),
        ({"shape_type": "mask"}, r"not those of a mask"),
        ({"shape_type": "mask", "mask": "§"}, r"position 0: mask is no base64"),
        ({"shape_type": "mask", "mask": "AAAA"}, r"position 0: mask cannot be read as an image"),
        ({"shape_type": "mask", "points": [[61, 0]] * 2, "mask": png([[1]])}, r"outside its image"),
    ],
)
def test_what_cannot_be_read_is_named(shape, message):
    with pytest.raises(ValueError, match=message):
        read(shape)


def test_a_file_without_objects_and_one_of_another_size_are_refused():
    with pytest.raises(ValueError, match=r"a\.json has no object: outline one"):
        read()
    with pytest.raises(ValueError, match=r"are \[60, 40\], its image is 40x60 .* EXIF"):
        read({}, imageHeight=60, imageWidth=40)


def test_a_mask_is_not_decoded_where_it_is_larger_than_its_image(monkeypatch):
    """A small PNG can hold a gigabyte of zeros: its header is looked at first."""
    bomb = png(np.zeros((4000, 4000)))
    monkeypatch.setattr(Image.Image, "load", lambda *_: pytest.fail("decoded"))
    with pytest.raises(ValueError, match=r"mask is 4000x4000 pixels .* more than the 41x61"):
        read({"shape_type": "mask", "mask": bomb})
