import dataclasses
import itertools

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up import (
    CATEGORIES,
    HEIGHT,
    WIDTH,
    measured,
    predictions,
    random_corners,
    rectangles,
    truth_as_predictions,
    value_of,
)

from amodal_pipeline.methods.baselines import visible_mask
from amodal_pipeline.metrics.bootstrap import compare
from amodal_pipeline.metrics.completion import match_detections
from amodal_pipeline.metrics.config import EvaluationConfig
from amodal_pipeline.metrics.consistency import (
    appearances,
    consistency_tallies,
    evaluate_consistency,
)
from amodal_pipeline.metrics.evidence import Evidence
from tests.tables import annotations

BOX = [0, 0, 10, 8]


def pictures(objects, sizes=None):
    """A picture for each (track, image it was made from, true box, hidden columns); a track of 0
    is no target."""
    n = len(objects)
    tracks, sources, corners, hidden = (list(column) for column in zip(*objects, strict=True))
    seen = np.array(corners)
    seen[:, 0] += hidden
    return annotations(
        dict(enumerate(sizes or [(HEIGHT, WIDTH)] * n, 1)),
        {
            "image_id": np.arange(n) + 1,
            "category_id": [3] * n,
            "amodal_rle": rectangles(corners),
            "visible_rle": rectangles(seen),
            "track_id": pd.array([t or None for t in tracks], "Int64"),
        },
        images={
            "video_id": sources,
            "frame": [
                None if source is None else sources[:i].count(source)
                for i, source in enumerate(sources)
            ],
        },
        categories=CATEGORIES,
    )


def found(truth, boxes, **columns):
    """A prediction in each picture that has a box."""
    there = [i for i, box in enumerate(boxes) if box is not None]
    metadata = {k: columns.pop(k) for k in ("method",) if k in columns}
    defaults = {
        "image_id": [i + 1 for i in there],
        "category_id": [3] * len(there),
        "score": [0.9] * len(there),
        "amodal_rle": rectangles([boxes[i] for i in there]),
        "visible_rle": rectangles([boxes[i] for i in there]),
    }
    return predictions(truth, defaults | columns, **metadata)


def values(truth, predicted, matches=None):
    tallies = consistency_tallies(Evidence(truth, predicted), matches)
    rows = measured(tallies, len(tallies[0].numerator))
    one, all_ = (
        value_of(rows, f"occluder_consistency{suffix}")[["value", "n"]].tolist()
        for suffix in ("", "_all")
    )
    return tuple(one), tuple(all_)


def test_the_truth_is_exactly_consistent():
    truth = pictures([(5, 1, BOX, 3), (5, 1, BOX, 5), (7, 2, [3, 3, 20, 9], 4)] * 2)
    assert values(truth, truth_as_predictions(truth)) == ((100, 2), (100, 2))


def test_mean_over_every_two_occluders_of_a_target():
    truth = pictures([(5, 1, BOX, 4)] * 3)
    one, all_ = values(truth, found(truth, [BOX, [0, 0, 9, 8], BOX]))
    assert one == all_ == (pytest.approx(100 * (0.9 + 1 + 0.9) / 3), 1)


def test_consistent_is_not_right():
    truth = pictures([(5, 1, BOX, 4)] * 2)
    assert values(truth, found(truth, [[0, 0, 6, 8]] * 2)) == ((100, 1), (100, 1))


def test_a_missing_prediction_is_left_out_or_counts_0():
    truth = pictures([(5, 1, BOX, 4)] * 3)
    one, all_ = values(truth, found(truth, [BOX, None, [0, 0, 8, 8]]))
    assert one == (pytest.approx(80), 1)
    assert all_ == (pytest.approx(80 / 3), 1)


def test_what_is_no_match_is_missing():
    truth = pictures([(5, 1, BOX, 4)] * 3)
    # Of another category, and of an IoU below 0.5.
    other = found(truth, [BOX, BOX, [0, 0, 4, 8]], category_id=[3, 1, 3])
    one, all_ = values(truth, other)
    assert np.isnan(one[0]) and one[1] == 0
    assert all_ == (0, 1)


def test_targets_count_alike_however_many_occluders_they_have():
    truth = pictures([(5, 1, BOX, 4)] * 4 + [(7, 2, BOX, 4)] * 2 + [(0, 2, BOX, 4)] * 2)
    boxes = [BOX] * 4 + [BOX, [0, 0, 6, 8]] + [BOX, [0, 0, 6, 8]]
    one, all_ = values(truth, found(truth, boxes))
    assert one == all_ == (pytest.approx(80), 2)
    notes = {
        r.note for t in consistency_tallies(Evidence(truth, found(truth, boxes))) for r in t.rows
    }
    assert notes == {""}
    same = pictures([(5, 1, BOX, 4)] * 4 + [(7, 2, BOX, 4)] * 4)
    tallies = consistency_tallies(Evidence(same, truth_as_predictions(same)))
    assert {row.note for tally in tallies for row in tally.rows} == {"4 occluders each"}


def test_images_are_weighed_with_all_targets_made_from_them():
    truth = pictures([(5, 9, BOX, 4)] * 2 + [(7, 9, BOX, 4)] * 2 + [(8, 4, BOX, 4)] * 2)
    boxes = [BOX, BOX, BOX, [0, 0, 8, 8], BOX, [0, 0, 6, 8]]
    tally = consistency_tallies(Evidence(truth, found(truth, boxes)))[0]
    # Images in ascending order: 4, then 9.
    weights = np.array([[1, 1], [0, 2], [3, 0], [1, 2]])
    expected = [100 * 2.4 / 3, 90, 60, 100 * (0.6 + 2 * 1.8) / 5]
    np.testing.assert_allclose(tally.values(weights)[:, 0], expected)


def test_a_baseline_stands_on_the_matches_of_its_detector():
    truth = pictures([(5, 1, BOX, 6), (5, 1, BOX, 0)])
    detector = truth_as_predictions(truth)
    matches = match_detections(truth, detector)
    # Of the object 4 of its 10 columns are seen in one picture, all in the other.
    assert values(truth, visible_mask(detector), matches) == ((pytest.approx(40), 1),) * 2


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_equals_dense_masks_in_any_order_of_the_pictures(seed):
    rng = np.random.default_rng(seed)
    targets = [
        (track, int(rng.integers(1, 4)), random_corners(rng, 1)[0])
        for track in range(1, int(rng.integers(2, 6)))
    ]
    objects = [(*t, 0) for t in targets for _ in range(rng.integers(2, 5))]
    objects = [objects[i] for i in rng.permutation(len(objects))]
    moved = [
        None
        if rng.random() < 0.3
        else np.maximum(box + rng.integers(-1, 2, 4), [0, 0, *(box[:2] + 1)]).tolist()
        for _, _, box, _ in objects
    ]
    if not any(moved):
        moved[0] = objects[0][2].tolist()
    truth = pictures(objects)
    y, x = np.mgrid[:HEIGHT, :WIDTH]

    def iou(a, b):
        masks = [(x >= c[0]) & (y >= c[1]) & (x < c[2]) & (y < c[3]) for c in (a, b)]
        union = (masks[0] | masks[1]).sum()
        return (masks[0] & masks[1]).sum() / union

    means, of_all = [], []
    for track, *_ in targets:
        drawn = [
            box if box is not None and iou(box, o[2]) >= 0.5 else None
            for o, box in zip(objects, moved, strict=True)
            if o[0] == track
        ]
        pairs = list(itertools.combinations(drawn, 2))
        both = [iou(a, b) for a, b in pairs if a is not None and b is not None]
        of_all.append(sum(both) / len(pairs))
        means += [np.mean(both)] if both else []
    one, all_ = values(truth, found(truth, moved))
    assert one == (
        pytest.approx(100 * np.mean(means) if means else np.nan, nan_ok=True),
        len(means),
    )
    assert all_ == (pytest.approx(100 * np.mean(of_all)), len(targets))


def test_two_methods_are_compared_by_the_resamples_that_they_share():
    truth = pictures([(i, i, BOX, 4) for i in range(1, 7) for _ in range(2)])
    config = EvaluationConfig(resamples=7, headline_resamples=50)
    draws = []
    for method, widths in (("good", [9, 10, 10, 9, 10, 10]), ("bad", [6, 8, 7, 6, 9, 8])):
        boxes = [b for w in widths for b in (BOX, [0, 0, w, 8])]
        scores = evaluate_consistency(
            truth, found(truth, boxes, method=method), config, run_id="a-b"
        )
        assert set(scores.results["protocol"]) == {"consistency"}
        assert set(scores.results["run_id"]) == {"a-b"}
        assert (scores.results["low"] <= scores.results["value"]).all()
        assert len(scores.curves) == len(scores.objects) == 0
        draws.append(scores.draws)
    line = compare(pd.concat(draws), {"method": "good"}, {"method": "bad"}).iloc[0]
    assert line["resamples"] == 50
    assert line["difference"] == pytest.approx(100 * (58 - 44) / 60)
    assert line["low"] > 0 and line["probability"] == 1


def test_appearances_name_the_prediction_of_each_picture():
    truth = pictures([(5, 1, BOX, 4), (0, 1, BOX, 4), (5, 1, BOX, 4), (5, 1, BOX, 4)])
    table = appearances(truth, found(truth, [BOX, BOX, None, [0, 0, 9, 8]]))
    assert table["instance_id"].tolist() == [1, 3, 4]
    assert table["image_id"].tolist() == [1, 3, 4]
    assert table["prediction_id"].tolist() == [1, pd.NA, 3]
    assert table["consistency"].tolist() == pytest.approx([0.3] * 3)


@pytest.mark.parametrize(
    "objects, sizes, message",
    [
        ([(0, 1, BOX, 0)] * 2, None, "no objects under several occluders"),
        ([(5, None, BOX, 0)] * 2, None, "no objects under several occluders"),
        # A table has no track of two images: the second one is rejected.
        ([(5, 1, BOX, 0), (5, 2, BOX, 0)], None, "no target appears under two occluders"),
        ([(5, 1, BOX, 0)] * 2, [(24, 30), (30, 24)], "target 5 are of different images or sizes"),
        ([(5, 1, BOX, 0), (7, 1, BOX, 0)], None, "no target appears under two occluders"),
    ],
)
def test_what_are_no_variants_of_one_another_is_refused(objects, sizes, message):
    truth = pictures(objects, sizes)
    with pytest.raises(ValueError, match=message):
        evaluate_consistency(truth, truth_as_predictions(truth), EvaluationConfig())


def test_a_method_without_amodal_masks_is_refused():
    truth = pictures([(5, 1, BOX, 4)] * 2)
    seen = truth_as_predictions(truth)
    table = seen.predictions.assign(amodal_rle=pd.array([None] * 2, "string[pyarrow]"))
    with pytest.raises(ValueError, match="'detector' predicts no amodal masks"):
        evaluate_consistency(
            truth, dataclasses.replace(seen, predictions=table), EvaluationConfig()
        )
