import dataclasses

import numpy as np
import pytest
from PIL import Image

from amodal_pipeline.annotations import rle
from amodal_pipeline.annotations.tables import ORDER, PREDICTION_ORDER, frame
from amodal_pipeline.visuals import grids
from amodal_pipeline.visuals.colours import object_colours
from amodal_pipeline.visuals.grids import overlay, prediction_grid, preview_sheet, statistics_line
from amodal_pipeline.visuals.selection import most_occluded, spread


def _same(a, b):
    return a.size == b.size and np.array_equal(np.asarray(a), np.asarray(b))


def _near(picture, colour, tolerance=12):
    return (np.abs(np.asarray(picture, int) - colour).max(axis=-1) <= tolerance).sum()


def test_grid_has_a_column_per_method_and_a_row_per_image(annotations, predict):
    one = prediction_grid(annotations, {"a": predict()}, [5])
    two = prediction_grid(annotations, {"a": predict(), "b": predict()}, [5])
    three_rows = prediction_grid(annotations, {"a": predict()}, [5, 0, 3])
    step = two.width - one.width
    assert step == grids.CELL + 10
    assert one.height == two.height and one.width == three_rows.width
    # A picture of 80x60 fills the cell's width; its caption has 34 pixels.
    assert three_rows.height - one.height == 2 * (grids.CELL * 60 // 80 + 34)


def test_a_perfect_prediction_looks_like_the_truth(annotations, predict):
    page = np.asarray(prediction_grid(annotations, {"a": predict()}, [5]))
    step = grids.CELL + 10
    image, truth, method = (
        page[100:390, 24 + i * step : 24 + i * step + grids.CELL] for i in range(3)
    )
    # Row 5, where the largest part is hidden; headings differ above it.
    assert np.array_equal(truth[30:], method[30:])
    assert not np.array_equal(image[30:], truth[30:])


def test_below_the_threshold_nothing_is_drawn(annotations, predict):
    page = prediction_grid(annotations, {"a": predict(score=0.4)}, [5], score_threshold=0.5)
    step = grids.CELL + 10
    pixels = np.asarray(page)[130:380]
    image, method = (pixels[:, 24 + i * step : 24 + i * step + grids.CELL] for i in (0, 2))
    assert np.array_equal(image, method)
    assert not _same(page, prediction_grid(annotations, {"a": predict(score=0.4)}, [5], 0.3))


def test_a_found_object_has_its_colour_and_a_false_one_a_new_colour(annotations, predict):
    truth = annotations.of_image(0)
    cup, box = truth["amodal_rle"].tolist()
    odd = np.zeros((1, 60, 80), np.uint8)
    odd[:, 52:58, 2:20] = 1
    found = predict(
        image_ids=[0],
        prediction_id=[0, 1, 2],
        image_id=[0, 0, 0],
        category_id=[1, 1, 1],
        score=[0.6, 0.9, 0.8],
        amodal_rle=[box, rle.encode(odd)[0], cup],
        visible_rle=[None, None, None],
    )
    colours = grids._colours_of_truth(found.predictions, truth, (60, 80))
    assert np.array_equal(colours, object_colours([1, 2, 0]))


def test_completed_objects_are_known_by_their_id(annotations, predict):
    truth = annotations.of_image(0)
    swapped = predict(image_ids=[0], instance_id=truth["instance_id"].tolist()[::-1])
    colours = grids._colours_of_truth(swapped.predictions, truth, (60, 80))
    assert np.array_equal(colours, object_colours([1, 0]))


def test_the_hidden_part_can_come_from_the_invisible_mask(annotations, predict):
    truth = annotations.of_image(5)
    amodal, visible = truth["amodal_rle"].tolist(), truth["visible_rle"].tolist()
    hidden = rle.difference(amodal, visible)
    none = [None, None]
    by_invisible = predict(image_ids=[5], visible_rle=none, invisible_rle=hidden)
    assert _same(overlay(by_invisible, 5), overlay(predict(image_ids=[5]), 5))
    assert not _same(overlay(predict(image_ids=[5], visible_rle=none), 5), overlay(predict(), 5))


def test_an_image_a_method_did_not_see_is_left_blank(annotations, predict):
    page = prediction_grid(annotations, {"a": predict(image_ids=[0])}, [5])
    blank = np.asarray(page)[200:350, 24 + 2 * (grids.CELL + 10) :][:, : grids.CELL]
    assert (blank == blank[0, 0]).all()


def test_tables_of_different_sizes_are_an_error(annotations, predict):
    images = annotations.images.assign(height=50)
    with pytest.raises(ValueError, match=r"a: image 5 is 50x80 .* and 60x80 in the annotations"):
        prediction_grid(annotations, {"a": predict(images=images)}, [5])


def test_a_mask_that_does_not_fit_is_an_error(annotations, predict):
    other = rle.encode(np.ones((2, 5, 5), np.uint8))
    bad = predict(image_ids=[5], amodal_rle=other, visible_rle=other)
    with pytest.raises(ValueError, match="25 pixels"):
        prediction_grid(annotations, {"a": bad}, [5])
    with pytest.raises(ValueError, match="25 pixels"):
        overlay(bad, 5)


def test_unknown_and_damaged_images_are_named(annotations, tmp_path):
    with pytest.raises(ValueError, match="image 77"):
        prediction_grid(annotations, {}, [77])
    (tmp_path / "3.png").write_bytes(b"damaged")
    with pytest.raises(ValueError, match=r"3\.png"):
        prediction_grid(annotations, {}, [3])
    Image.new("RGB", (9, 9)).save(tmp_path / "3.png")
    with pytest.raises(ValueError, match=r"3\.png is 9x9 .* 60x80"):
        prediction_grid(annotations, {}, [3])


def test_a_preview_needs_no_images(annotations, tmp_path):
    whole = preview_sheet(annotations)
    for path in tmp_path.glob("*.png"):
        path.unlink()
    bare = preview_sheet(annotations)
    assert bare.size[0] == whole.size[0] and not _same(bare, whole)


def test_preview_sheet_is_deterministic_and_reports_progress(annotations):
    done = []
    sheet = preview_sheet(annotations, count=5, seed=3, on_progress=lambda *at: done.append(at))
    assert done == [(i, 5) for i in range(1, 6)]
    assert _same(sheet, preview_sheet(annotations, count=5, seed=3))
    small = preview_sheet(annotations, count=4, seed=3)
    assert small.width == sheet.width and small.height < sheet.height


def test_preview_of_ignored_objects_shows_none(annotations):
    hidden = annotations.instances.assign(ignore=True)
    ignored = type(annotations)(**{**_fields(annotations), "instances": hidden})
    assert "0 objects" in statistics_line(ignored)
    assert _near(preview_sheet(ignored, 1), object_colours([1])[0]) < 50
    assert _near(preview_sheet(annotations, 1), object_colours([1])[0]) > 200


def _fields(annotations):
    return {name: getattr(annotations, name) for name in annotations.__dataclass_fields__}


def test_statistics(annotations):
    # Cups 1 to 5 are hidden by 4 k of 30 columns: 5 of 12 objects, by 40 % on average.
    line = statistics_line(annotations)
    assert "6 images" in line and "12 objects" in line
    assert "42% of them occluded, by 40% on average" in line


def test_overlay_is_a_whole_multiple_of_a_small_image(predict):
    picture = overlay(predict(), 2)
    assert picture.size == (640, 480) and picture.mode == "RGB"


def test_overlay_labels_the_objects_above_the_threshold(predict):
    scores = np.array([0.9, 0.2], np.float32)
    both = overlay(predict(image_ids=[0], score=0.9), 0)
    one = overlay(predict(image_ids=[0], score=scores), 0)
    second = object_colours([1])[0]
    assert _near(both, second) > 1000 > _near(one, second)
    assert _same(one, overlay(predict(image_ids=[0], score=scores), 0))


def test_most_occluded_first(annotations):
    assert most_occluded(annotations, 3) == [5, 4, 3]
    assert most_occluded(annotations, 99) == [5, 4, 3, 2, 1, 0]
    assert most_occluded(annotations, 0) == []


def test_spread_covers_the_range(annotations):
    assert spread(annotations, 6) == [0, 1, 2, 3, 4, 5]
    for seed in range(5):
        first, second, third = spread(annotations, 3, seed)
        assert (first // 2, second // 2, third // 2) == (0, 1, 2)
        assert spread(annotations, 3, seed) == [first, second, third]
    assert len({tuple(spread(annotations, 2, seed)) for seed in range(20)}) > 1
    assert spread(annotations, 0) == []


def test_wide_images_get_wider_cells(annotations):
    images = annotations.images
    assert grids._cell_width(images, [0]) == grids.CELL
    assert grids._cell_width(images.assign(height=32), [0]) == round((5 / 3) ** 0.5 * grids.CELL)
    assert grids._cell_width(images.assign(height=1), [0]) == round(1.6 * grids.CELL)


def _column(page, annotations, index):
    """The picture in a column of the first row."""
    cell = grids._cell_width(annotations.images, [5])
    left = grids._left(index, cell)
    top = grids._MARGIN + 34 + 26 + 34
    return np.asarray(page)[top : top + 200, left : left + cell]


def test_order_is_drawn_as_arrows_of_truth_and_method_beside_the_layers(annotations, predict):
    pairs = {"image_id": [5], "occluder_id": [51], "occludee_id": [50]}
    stated = dataclasses.replace(annotations, order=frame(ORDER, pairs))
    columns = {"image_id": [5], "front_id": [11], "back_id": [10], "score": [1.0], "source": ["m"]}
    told = dataclasses.replace(predict(), order=frame(PREDICTION_ORDER, columns))
    silent = predict()
    plain = prediction_grid(stated, {"a": told, "b": silent}, [5])
    drawn = prediction_grid(stated, {"a": told, "b": silent}, [5], order=True)
    assert drawn.width - plain.width == grids._cell_width(annotations.images, [5]) + grids._GAP
    truth, layers, a, b = (_column(drawn, annotations, i) for i in (1, 2, 3, 4))
    assert np.array_equal(truth, a) and not np.array_equal(a, b)  # the same arrow, and none
    assert np.array_equal(b, _column(plain, annotations, 3))
    assert not np.array_equal(layers, truth)
    # Without the order of the truth only the method has an arrow.
    other = prediction_grid(annotations, {"a": told}, [5], order=True)
    assert np.array_equal(_column(other, annotations, 1), b)
    assert np.array_equal(_column(other, annotations, 3), a)


def test_arrows_between_objects_that_are_not_drawn_are_left_out(annotations, predict):
    columns = {"image_id": [5], "front_id": [11], "back_id": [10], "score": [1.0], "source": ["m"]}
    order = frame(PREDICTION_ORDER, columns)
    score = [0.9] * 11 + [0.1]
    told = dataclasses.replace(predict(score=score), order=order)
    pages = [
        prediction_grid(annotations, {"a": p}, [5], order=True) for p in (told, predict(score))
    ]
    assert np.array_equal(*map(np.asarray, pages))
