import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.spatial import ConvexHull, QhullError

from amodal_pipeline.annotations import Category, Predictions, PredictionsMetadata, rle
from amodal_pipeline.annotations.tables import (
    IMAGES,
    PREDICTION_ORDER,
    PREDICTIONS,
    boxes,
    frame,
)
from amodal_pipeline.methods.baselines import convex_hull, visible_mask


def detections(masks, **columns):
    """Predictions, each mask on an image of its own size."""
    n = len(masks)
    return Predictions(
        PredictionsMetadata(
            dataset="made_up",
            split="val",
            method="detector",
            variant="small",
            seed=5,
            checkpoint="abc",
            categories=(Category(id=1, name="car"),),
            image_root="",
        ),
        frame(
            IMAGES,
            {
                "image_id": np.arange(n),
                "file_name": [f"{i}.png" for i in range(n)],
                "height": [m.shape[0] for m in masks],
                "width": [m.shape[1] for m in masks],
            },
        ),
        frame(
            PREDICTIONS,
            {
                "prediction_id": np.arange(n) + 50,
                "image_id": np.arange(n),
                "category_id": [1] * n,
                "score": np.linspace(0.9, 0.1, n),
                "visible_rle": [rle.encode(m[None])[0] for m in masks],
                "invisible_rle": [rle.encode(m[None])[0] for m in masks],
            }
            | columns,
        ),
        frame(PREDICTION_ORDER, {"image_id": [0], "front_id": [50], "back_id": [51]}),
    )


def dense(predictions, column="amodal_rle"):
    return [
        rle.decode([counts], tuple(size))[0]
        for counts, size in zip(
            predictions.predictions[column], predictions.sizes.tolist(), strict=True
        )
    ]


def hull_by_half_planes(mask):
    """Slow reference: pixel centres inside all edges of scipy's hull (lines done by hand)."""
    y, x = np.nonzero(mask)
    if len(x) == 0:
        return np.zeros_like(mask)
    grid_y, grid_x = np.mgrid[: mask.shape[0], : mask.shape[1]]
    try:
        planes = ConvexHull(np.stack([x, y], axis=1)).equations
    except (QhullError, ValueError):  # one point, or all on one line
        i = np.lexsort((y, x))
        (x0, y0), (x1, y1) = (x[i[0]], y[i[0]]), (x[i[-1]], y[i[-1]])
        on_line = (grid_x - x0) * (y1 - y0) == (grid_y - y0) * (x1 - x0)
        within = (grid_x >= x0) & (grid_x <= x1)
        within &= (grid_y >= min(y0, y1)) & (grid_y <= max(y0, y1))
        return (on_line & within).astype(np.uint8)
    inside = [a * grid_x + b * grid_y + c <= 1e-6 for a, b, c in planes]
    return np.all(inside, axis=0).astype(np.uint8)


MASKS = hnp.array_shapes(min_dims=2, max_dims=2, max_side=9).flatmap(
    lambda shape: hnp.arrays(np.uint8, shape, elements=st.sampled_from([0, 0, 0, 1]))
)


@settings(max_examples=150, deadline=None)
@given(st.lists(MASKS, min_size=1, max_size=5))
def test_hull_equals_the_slow_reference(masks):
    for found, mask in zip(dense(convex_hull(detections(masks))), masks, strict=True):
        np.testing.assert_array_equal(found, hull_by_half_planes(mask))


def test_hull_of_large_blobs_equals_the_slow_reference():
    random = np.random.default_rng(0)
    y, x = np.mgrid[:70, :90]
    masks = []
    for _ in range(12):
        mask = np.zeros((70, 90), bool)
        for _ in range(4):
            cx, cy, r = random.uniform(0, 90), random.uniform(0, 70), random.uniform(2, 15)
            mask |= (x - cx) ** 2 + (y - cy) ** 2 < r * r
        masks.append(mask.astype(np.uint8))
    masks.append(np.ones((70, 90), np.uint8))
    for found, mask in zip(dense(convex_hull(detections(masks))), masks, strict=True):
        np.testing.assert_array_equal(found, hull_by_half_planes(mask))
        assert (found >= mask).all()


def test_run_lengths_are_those_coco_writes():
    masks = [np.zeros((4, 5), np.uint8), np.zeros((4, 5), np.uint8), np.ones((4, 5), np.uint8)]
    masks[1][[0, 3], [0, 4]] = 1
    counts = convex_hull(detections(masks)).predictions["amodal_rle"].tolist()
    assert counts == rle.encode(np.stack([hull_by_half_planes(m) for m in masks]))


@pytest.mark.parametrize("baseline", [visible_mask, convex_hull])
def test_result_names_what_was_completed(baseline):
    masks = [np.zeros((8, 9), np.uint8), np.zeros((8, 9), np.uint8)]
    masks[1][2:4, 3:7] = 1
    masks[1][6, 3] = 1
    source = detections(masks)
    found = baseline(source)
    described = found.metadata
    assert (described.method, described.variant, described.inputs, described.checkpoint) == (
        baseline.__name__,
        "full",
        "detector",
        "",
    )
    assert described.seed == 5
    table = found.predictions
    assert table["source_id"].tolist() == table["prediction_id"].tolist() == [50, 51]
    assert table["instance_id"].isna().all()
    assert table["score"].tolist() == source.predictions["score"].tolist()
    assert table["invisible_rle"].isna().all()
    assert len(found.order) == 0
    # An empty mask stays empty, and has no box.
    assert rle.area(table["amodal_rle"].tolist())[0] == 0
    assert table["amodal_box"].isna().tolist() == [True, False]
    np.testing.assert_array_equal(boxes(table["amodal_box"])[1], [3, 2, 4, 5])
    np.testing.assert_array_equal(boxes(table["visible_box"])[1], [3, 2, 4, 5])
    for visible, mask in zip(dense(found, "visible_rle"), masks, strict=True):
        np.testing.assert_array_equal(visible, mask)
    if baseline is visible_mask:
        np.testing.assert_array_equal(dense(found)[1], masks[1])


@pytest.mark.parametrize("ids", [{"instance_id": [4, 8]}, {"source_id": [7, 9]}])
def test_what_was_completed_before_stays_what_it_is(ids):
    source = detections([np.ones((3, 3), np.uint8)] * 2, **ids)
    metadata = source.metadata.model_copy(update={"inputs": "before"})
    found = visible_mask(Predictions(metadata, source.images, source.predictions, source.order))
    assert (found.metadata.method, found.metadata.inputs) == ("visible_mask", "before")
    for name, values in ids.items():
        assert found.predictions[name].tolist() == values


def test_no_predictions_give_none():
    empty = detections([np.ones((3, 3), np.uint8)] * 2)
    table = empty.predictions.iloc[:0]
    empty = Predictions(empty.metadata, empty.images, table, empty.order)
    assert len(convex_hull(empty).predictions) == 0
    assert len(visible_mask(empty).predictions) == 0


@pytest.mark.parametrize("baseline", [visible_mask, convex_hull])
def test_visible_masks_are_required(baseline):
    source = detections([np.ones((3, 3), np.uint8)] * 2, visible_rle=[None, "09"])
    with pytest.raises(ValueError, match="1 of 2 predictions of 'detector' have no visible mask"):
        baseline(source)
