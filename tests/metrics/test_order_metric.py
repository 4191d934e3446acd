import dataclasses
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import binary_dilation

from amodal_pipeline.annotations import order, rle
from amodal_pipeline.annotations.tables import PREDICTION_ORDER, frame
from amodal_pipeline.metrics.order import by_area, by_lowest_point, order_tallies, true_order
from tests.metrics.made_up import CATEGORIES, HEIGHT, WIDTH, predictions, truth_as_predictions
from tests.tables import annotations

DISCS = ((8, 8), (8, 16), (16, 12))  # each overlaps both others


def disc(row, column, radius=6):
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    return (y - row) ** 2 + (x - column) ** 2 <= radius**2


def painted(masks):
    """Visible masks where the first mask is in front of all others."""
    covered = np.zeros((HEIGHT, WIDTH), bool)
    visible = []
    for mask in masks:
        visible.append(mask & ~covered)
        covered |= mask
    return visible


def truth_of(amodal, visible, pairs=(), image_ids=None, ignore=None):
    """Objects 10, 11, … with pairs of them as positions (front, back)."""
    n = len(amodal)
    image_ids = np.ones(n, np.int64) if image_ids is None else np.asarray(image_ids)
    return annotations(
        dict.fromkeys(np.union1d(image_ids, [1])[::-1].tolist(), (HEIGHT, WIDTH)),
        {
            "instance_id": np.arange(n) + 10,
            "image_id": image_ids,
            "category_id": np.full(n, 3),
            "amodal_rle": rle.encode(np.array(amodal).reshape(-1, HEIGHT, WIDTH)),
            "visible_rle": rle.encode(np.array(visible).reshape(-1, HEIGHT, WIDTH)),
            "ignore": np.zeros(n, bool) if ignore is None else ignore,
        },
        [(image_ids[front], 10 + front, 10 + back) for front, back in pairs],
        categories=CATEGORIES,
    )


def discs(pairs=((0, 1), (0, 2), (1, 2)), **options):
    masks = [disc(*centre) for centre in DISCS]
    return truth_of(masks, painted(masks), pairs, **options)


def saying(truth, pairs, score=None):
    """The truth as predictions, ids 1, 2, …, with pairs of positions (front, back)."""
    found = truth_as_predictions(truth)
    ids = found.predictions["prediction_id"].to_numpy(np.int64)
    image = found.predictions["image_id"].to_numpy(np.int64)
    front, back = np.array(pairs, np.int64).reshape(-1, 2).T
    rows = {
        "image_id": image[front],
        "front_id": ids[front],
        "back_id": ids[back],
        "score": np.ones(len(front)) if score is None else score,
    }
    return dataclasses.replace(found, order=frame(PREDICTION_ORDER, rows))


def measured(truth, found, matched=None):
    """Values and pairs by metric, every object matched to the prediction of its row."""
    rows = np.arange(len(truth.instances)) if matched is None else np.array(matched, np.int64)
    tallies = order_tallies(truth, found, rows, rows)
    once = np.ones((1, len(truth.images)))
    return {
        row.metric: (value, row.n)
        for tally in tallies
        for row, value in zip(tally.rows, tally.values(once)[0].tolist(), strict=True)
    }


def notes(truth):
    tallies = order_tallies(truth, saying(truth, []), np.arange(0), np.arange(0))
    return {row.metric: row.note for tally in tallies for row in tally.rows}


def known_pairs(truth):
    true = true_order(truth)
    return list(zip(true.front.tolist(), true.back.tolist(), strict=True))


def test_three_discs_by_hand():
    truth = discs()
    found = measured(truth, saying(truth, [(0, 1), (2, 0)]))  # one right, one wrong, one silent
    third = 100 / 3
    assert found["order_accuracy"] == (pytest.approx(third), 3)
    assert found["order_coverage"] == (pytest.approx(2 * third), 3)
    assert found["order_accuracy_decided"] == (50, 2)
    for name in ("order_accuracy", "order_coverage", "order_accuracy_decided"):
        assert found[f"{name}_occluding"] == found[f"{name}_touching"] == found[name]


@pytest.mark.parametrize("pairs", [((0, 1), (0, 2), (1, 2)), ()])
def test_the_truth_written_as_predicted_order_is_right_everywhere(pairs):
    truth = discs(pairs)
    found = measured(truth, saying(truth, [(0, 1), (0, 2), (1, 2)]))
    assert set(found.values()) == {(100, 3)} and len(found) == 9


def test_the_order_turned_around_is_wrong_everywhere():
    truth = discs()
    found = measured(truth, saying(truth, [(1, 0), (2, 0), (2, 1)]))
    assert found["order_accuracy"] == found["order_accuracy_decided"] == (0, 3)
    assert found["order_coverage"] == (100, 3)


def test_nothing_predicted_is_wrong_and_covers_nothing():
    truth = discs()
    nothing = predictions(truth, {"image_id": np.zeros(0, np.int64)})
    for empty, matched in ((nothing, []), (saying(truth, []), None)):
        found = measured(truth, empty, matched)
        assert found["order_accuracy"] == found["order_coverage"] == (0, 3)
        value, pairs = found["order_accuracy_decided"]
        assert np.isnan(value) and pairs == 0


def test_objects_without_overlap_have_no_value():
    far = [disc(6, 6, 3), disc(16, 20, 3)]
    truth = truth_of(far, far)
    found = measured(truth, saying(truth, [(0, 1)]))
    assert all(np.isnan(value) and n == 0 for value, n in found.values())


def test_a_pair_counts_when_both_its_objects_are_matched():
    truth = discs()
    right = saying(truth, [(0, 1), (0, 2), (1, 2)])
    assert measured(truth, right, [0, 2])["order_accuracy"] == (pytest.approx(100 / 3), 3)
    assert measured(truth, right, [1])["order_coverage"] == (0, 3)
    # Predictions of other rows: 0 is matched to 2 and 2 to 0, so that everything is turned around.
    rows = np.array([2, 1, 0])
    (accuracy, *_) = order_tallies(truth, right, rows, rows[::-1])
    assert accuracy.values(np.ones((1, 1))).item() == 0


def test_ignored_objects_are_in_no_pair():
    truth = discs(ignore=[False, True, False])
    assert known_pairs(truth) == [(0, 2)]
    assert measured(truth, saying(truth, [(0, 2)]))["order_accuracy"] == (100, 1)


def test_of_two_directions_the_one_with_the_higher_score_counts():
    truth = discs(pairs=[(0, 1)], ignore=[False, False, True])
    both = [(0, 1), (1, 0)]
    assert measured(truth, saying(truth, both, [0.6, 0.4]))["order_accuracy"] == (100, 1)
    assert measured(truth, saying(truth, both, [0.4, 0.6]))["order_accuracy"] == (0, 1)
    tied = measured(truth, saying(truth, both, [0.5, 0.5]))
    assert tied["order_coverage"] == (0, 1) and np.isnan(tied["order_accuracy_decided"][0])
    thrice = saying(truth, [(0, 1), (1, 0), (0, 1)], [0.3, 0.6, 0.7])
    assert measured(truth, thrice)["order_accuracy"] == (100, 1)


def rider_and_horse(rider_hides, horse_hides, pairs):
    """Two overlapping bars, of which each hides some rows of the other."""
    amodal = np.zeros((2, HEIGHT, WIDTH), bool)
    amodal[:, 4:20, 10:14] = True
    visible = amodal.copy()
    visible[1, 4 : 4 + rider_hides] = False
    visible[0, 20 - horse_hides : 20] = False
    return truth_of(amodal, visible, pairs)


@pytest.mark.parametrize("pairs", [[(0, 1), (1, 0)], []])
def test_of_rider_and_horse_the_one_that_hides_more_is_in_front(pairs):
    assert known_pairs(rider_and_horse(5, 3, pairs)) == [(0, 1)]
    assert known_pairs(rider_and_horse(3, 5, pairs)) == [(1, 0)]


def test_what_one_direction_states_goes_before_the_masks():
    truth = rider_and_horse(5, 3, [(1, 0)])
    assert known_pairs(truth) == [(1, 0)] and true_order(truth).occluding.tolist() == [True]


@pytest.mark.parametrize(("hidden", "occluding"), [(4, 1), (0, 0)])
def test_a_pair_on_which_nothing_decides_is_left_out_and_noted(hidden, occluding):
    truth = rider_and_horse(hidden, hidden, [(0, 1), (1, 0)])
    true = true_order(truth)
    assert known_pairs(truth) == [] and true.unknown == (1, occluding, occluding)
    found = notes(truth)
    assert "1 overlapping pairs of unknown order" in found["order_accuracy"]
    assert ("unknown order" in found["order_coverage_occluding"]) == bool(occluding)


def test_pairs_that_hide_nothing_of_each_other_are_in_the_first_rows_only():
    masks = [disc(*centre) for centre in DISCS[:2]]
    truth = truth_of(masks, masks, [(1, 0)])  # glass: both are seen where they overlap
    found = measured(truth, saying(truth, [(1, 0)]))
    assert found["order_accuracy"] == (100, 1)
    assert found["order_accuracy_occluding"][1] == 0


@pytest.mark.parametrize(("gap", "touching"), [(0, 1), (1, 0)])
def test_pairs_whose_visible_masks_do_not_touch_are_not_in_the_touching_rows(gap, touching):
    columns = np.tile(np.arange(WIDTH), (HEIGHT, 1))
    front, back = columns < 6, columns >= 4
    truth = truth_of([front, back], [front, columns >= 6 + gap], [(0, 1)])
    found = measured(truth, saying(truth, [(0, 1)]))
    assert found["order_accuracy_occluding"] == (100, 1)
    assert found["order_accuracy_touching"][1] == touching


def test_crowded_images_are_passed_over_and_noted(monkeypatch):
    masks = [disc(*centre) for centre in (*DISCS, *DISCS[:2])]
    visible = [*painted(masks[:3]), *painted(masks[3:])]
    truth = truth_of(masks, visible, image_ids=[1, 1, 1, 2, 2])
    assert len(known_pairs(truth)) == 4 and notes(truth)["order_accuracy"] == ""
    monkeypatch.setattr(order, "MAX_OBJECTS", 2)
    assert known_pairs(truth) == [(3, 4)]
    assert notes(truth)["order_accuracy"].startswith("1 images with too many objects")


def test_images_are_weighted():
    masks = [disc(*centre) for centre in (*DISCS, *DISCS[:2])]
    visible = [*painted(masks[:3]), *painted(masks[3:])]
    truth = truth_of(masks, visible, image_ids=[1, 1, 1, 2, 2])  # the table has image 2 first
    found = saying(truth, [(0, 1), (4, 3)])
    rows = np.arange(5)
    (accuracy, *_) = order_tallies(truth, found, rows, rows)
    values = accuracy.values(np.array([[1, 1], [3, 0], [0, 1], [1, 3]]))[:, 0]
    assert values.tolist() == pytest.approx([25, 100 / 3, 0, 100 / 6])


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"front_id": [77]}, "front_id 77 is no prediction_id"),
        ({"back_id": [78]}, "back_id 78 is no prediction_id"),
        ({"score": [None]}, "1 over 2 has no finite score"),
        ({"score": [np.inf]}, "1 over 2 has no finite score"),
    ],
)
def test_a_damaged_order_is_refused(change, match):
    truth = discs()
    rows = {"image_id": [1], "front_id": [1], "back_id": [2], "score": [1.0]} | change
    found = dataclasses.replace(saying(truth, []), order=frame(PREDICTION_ORDER, rows))
    with pytest.raises(ValueError, match=match):
        measured(truth, found)


def plain(truth, found, prediction_row, instance_row):
    """Right, decided, all, occluding and touching pairs of rows, as sets, from the pixels."""
    table, ids = truth.instances, found.predictions["prediction_id"].tolist()
    amodal, visible = (
        rle.decode(table[name].tolist(), (HEIGHT, WIDTH)).astype(bool)
        for name in ("amodal_rle", "visible_rle")
    )
    stated = set(zip(truth.order["occluder_id"], truth.order["occludee_id"], strict=True))
    said = {}
    for front, back, score in zip(
        *(found.order[name].tolist() for name in ("front_id", "back_id", "score")), strict=True
    ):
        said[front, back] = max(score, said.get((front, back), 0))
    match = dict(zip(instance_row.tolist(), prediction_row.tolist(), strict=True))
    image, instance = table["image_id"].tolist(), table["instance_id"].tolist()
    pairs, decided, right, occluding, touching = set(), set(), set(), set(), set()
    for pair in combinations(range(len(table)), 2):
        a, b = pair
        if image[a] != image[b] or table["ignore"].iloc[list(pair)].any():
            continue
        if not (amodal[a] & amodal[b]).any():
            continue
        a_hides = (visible[a] & amodal[b] & ~visible[b]).sum()
        b_hides = (visible[b] & amodal[a] & ~visible[a]).sum()
        forth, back = ((instance[x], instance[y]) in stated for x, y in ((a, b), (b, a)))
        if forth == back:
            forth, back = a_hides > b_hides, b_hides > a_hides
        if forth == back:
            continue
        pairs.add(pair)
        if a_hides or b_hides:
            occluding.add(pair)
            if (binary_dilation(visible[a]) & visible[b]).any():
                touching.add(pair)
        if a in match and b in match:
            p, q = ids[match[a]], ids[match[b]]
            ahead = said.get((p, q), -1) - said.get((q, p), -1)
            if ahead:
                decided.add(pair)
            if (ahead > 0 and forth) or (ahead < 0 and back):
                right.add(pair)
    return right, decided, pairs, occluding, touching


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 12), st.sampled_from([0, 0.5, 1]))
def test_as_a_plain_comparison_of_pixels(seed, objects, share):
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    corners = random.integers(0, 16, (objects, 2))
    sides = random.integers(2, 14, (objects, 2))
    amodal = [
        (y >= t) & (y < t + h) & (x >= s) & (x < s + w)
        for (t, s), (h, w) in zip(corners, sides, strict=True)
    ]
    seen = random.choice([0.05, 0.7])
    visible = [mask & (random.random((HEIGHT, WIDTH)) < seen) for mask in amodal]
    image_ids = np.sort(random.integers(1, 4, objects))
    overlapping = [
        (a, b)
        for a in range(objects)
        for b in range(objects)
        if a != b and image_ids[a] == image_ids[b] and (amodal[a] & amodal[b]).any()
    ]
    stated = [pair for pair in overlapping if random.random() < share]
    truth = truth_of(amodal, visible, stated, image_ids, random.random(objects) < 0.2)
    said = [pair for pair in overlapping if random.random() < 0.5] * 2
    found = saying(truth, said, random.integers(1, 4, len(said)) / 4)
    matched = np.flatnonzero(random.random(objects) < 0.8)
    shuffled = random.permutation(objects)[: len(matched)]

    right, decided, pairs, occluding, touching = plain(truth, found, shuffled, matched)
    want = {}
    for suffix, among in (("", pairs), ("_occluding", occluding), ("_touching", touching)):
        for name, hits, of in (
            ("order_accuracy", right, among),
            ("order_coverage", decided, among),
            ("order_accuracy_decided", right, among & decided),
        ):
            value = 100 * len(hits & of) / len(of) if of else np.nan
            want[name + suffix] = (value, len(of))
    tallies = order_tallies(truth, found, shuffled, matched)
    once = np.ones((1, len(truth.images)))
    assert [tally.rows[0].metric for tally in tallies] == list(want)
    for tally, (value, n) in zip(tallies, want.values(), strict=True):
        assert tally.rows[0].n == n
        assert tally.values(once).item() == pytest.approx(value, nan_ok=True)


def said_by(found):
    return sorted(zip(found.order["front_id"], found.order["back_id"], strict=True))


def test_the_larger_or_the_smaller_visible_mask_is_in_front():
    truth = discs()  # visible areas fall with the position
    found = truth_as_predictions(truth, method="detector")
    ruled = by_area(found)
    assert said_by(ruled) == [(1, 2), (1, 3), (2, 3)]
    assert set(ruled.order["score"]) == {1} and set(ruled.order["image_id"]) == {1}
    assert (ruled.metadata.method, ruled.metadata.variant) == ("order_by_area", "full")
    assert ruled.metadata.inputs == "detector" and ruled.metadata.checkpoint == ""
    table = ruled.predictions
    assert table["source_id"].tolist() == table["prediction_id"].tolist() == [1, 2, 3]
    pd.testing.assert_frame_equal(
        table.drop(columns="source_id"), found.predictions.drop(columns="source_id")
    )
    other = by_area(found, front="smaller")
    assert said_by(other) == [(2, 1), (3, 1), (3, 2)] and other.metadata.variant == "smaller"


def test_the_one_that_reaches_lower_is_in_front():
    found = by_lowest_point(truth_as_predictions(discs()))
    assert said_by(found) == [(3, 1), (3, 2)]  # the first two end in the same row
    assert found.metadata.method == "order_by_lowest_point"


def test_rules_use_whatever_mask_there_is():
    masks = rle.encode(np.stack([disc(8, 8), disc(8, 14, 5), disc(18, 24, 3)]))
    for name in ("amodal_rle", "visible_rle"):
        columns = {"image_id": [1] * 3, "category_id": [3] * 3, "score": [1] * 3, name: masks}
        found = predictions(discs(), columns)
        assert said_by(by_area(found)) == said_by(by_lowest_point(found)) == [(1, 2)]


def test_of_whom_nothing_is_visible_is_behind():
    near, far = disc(8, 8), disc(10, 8, 4)
    truth = truth_of([far, near], [far & ~near, near])
    assert not (far & ~near).any()
    found = truth_as_predictions(truth)
    for rule in (by_area, by_lowest_point):
        assert said_by(rule(found)) == [(2, 1)]
    assert said_by(by_area(found, front="smaller")) == [(2, 1)]
    blind = truth_as_predictions(truth_of([near, near], [near & False] * 2))
    assert said_by(by_area(blind)) == []


@pytest.mark.parametrize("column", ["source_id", "instance_id"])
def test_completed_objects_stay_paired_with_what_was_completed(column):
    found = truth_as_predictions(discs(), method="hull", inputs="given")
    table = found.predictions.assign(**{column: [7, 8, 9]})
    ruled = by_area(dataclasses.replace(found, predictions=table))
    assert ruled.predictions[column].tolist() == [7, 8, 9]
    assert ruled.metadata.inputs == "given"


def test_rules_on_nothing_say_nothing():
    nothing = predictions(discs(), {"image_id": np.zeros(0, np.int64)})
    for rule in (by_area, by_lowest_point):
        assert len(rule(nothing).order) == 0


def test_predictions_of_different_images_are_not_compared():
    masks = [disc(*centre) for centre in DISCS]
    truth = truth_of(masks, masks, image_ids=[1, 2, 2])
    assert said_by(by_lowest_point(truth_as_predictions(truth))) == [(3, 2)]


def test_a_rule_scores_as_well_as_it_is_right():
    truth = discs()
    found = measured(truth, by_lowest_point(truth_as_predictions(truth)))
    assert found["order_accuracy"] == (0, 3)
    assert found["order_coverage"] == (pytest.approx(200 / 3), 3)
    assert measured(truth, by_area(truth_as_predictions(truth)))["order_accuracy"] == (100, 3)
