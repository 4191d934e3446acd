import dataclasses

import numpy as np
import pandas as pd
import pytest
from made_up import annotations, truth_as_predictions

from amodal_pipeline.annotations.tables import INSTANCES, frame
from amodal_pipeline.metrics.bootstrap import compare, draw, groups_of, interval, resamples
from amodal_pipeline.metrics.config import EvaluationConfig
from amodal_pipeline.metrics.evaluate import evaluate
from amodal_pipeline.metrics.tallies import Ratio, Row


def test_every_resample_has_as_many_images_and_few_are_the_first_of_many():
    few, many = (np.concatenate(list(resamples(37, n, 5))) for n in (60, 130))
    assert (many.sum(axis=1) == 37).all()
    np.testing.assert_array_equal(many[:60], few)
    assert not np.array_equal(many[0], many[60])
    assert not np.array_equal(few, np.concatenate(list(resamples(37, 60, 6))))


def test_images_are_drawn_evenly():
    counts = np.concatenate(list(resamples(20, 2000, 0)))
    assert counts.mean(axis=0) == pytest.approx(np.ones(20), abs=0.1)
    assert counts.var() == pytest.approx(0.95, abs=0.05)  # binomial: 1 - 1/20


def test_interval_of_a_mean_is_that_of_theory():
    values = np.random.default_rng(0).normal(50, 10, 400)
    tally = Ratio(Row("mean", 400), values[:, None] / 100, np.ones((400, 1)))
    low, high = interval(draw([tally], [2000], 400, 0)[0][:, 0])
    error = values.std() / 20
    assert low == pytest.approx(values.mean() - 1.96 * error, abs=0.15)
    assert high == pytest.approx(values.mean() + 1.96 * error, abs=0.15)


def pictures_of(image_ids, tracks, ignore=None, images=None):
    """Objects of known individuals, as many as there are tracks, each with a hidden part."""
    n = len(image_ids)
    hidden = np.arange(n) % 9
    truth = annotations(
        np.tile([2, 2, 12, 9], (n, 1)),
        hidden,
        np.array(image_ids),
        ignore=None if ignore is None else np.array(ignore, bool),
        images=images or max(image_ids),
    )
    known = frame(INSTANCES, truth.instances.assign(track_id=pd.array(tracks, "Int64")))
    return dataclasses.replace(truth, instances=known)


def test_images_that_show_the_same_individuals_are_one_group():
    # 1 and 4 share an individual, 4 and 2 another; 3 is alone, 5 has no objects.
    truth = pictures_of([1, 2, 3, 4, 4], [70, 8, 9, 70, 8], images=5)
    assert groups_of(truth).tolist() == [0, 0, 1, 0, 2]
    # Objects that do not count link nothing, and need not be known.
    truth = pictures_of([1, 1, 2, 2, 3], [1, 5, 2, 5, 2], ignore=[0, 1, 0, 1, 0])
    assert groups_of(truth).tolist() == [0, 1, 1]
    truth = pictures_of([1, 1, 2, 3], [1, None, 1, 1], ignore=[0, 1, 0, 0])
    assert groups_of(truth).tolist() == [0, 0, 0]
    # An image with a counted object of which no individual is known stands for itself.
    truth = pictures_of([1, 1, 2, 3], [1, None, 1, 1])
    assert groups_of(truth).tolist() == [0, 1, 1]
    assert groups_of(pictures_of([1, 2, 3], [None] * 3)).tolist() == [0, 1, 2]


def test_groups_are_drawn_as_a_whole_and_those_of_one_image_as_images():
    groups = np.array([0, 1, 0, 2, 2, 2])
    drawn = np.concatenate(list(resamples(6, 70, 3, groups)))
    assert (drawn[:, groups == 2] == drawn[:, [3]]).all()
    np.testing.assert_array_equal(drawn[:, 0], drawn[:, 2])
    alone = np.concatenate(list(resamples(3, 70, 3)))
    np.testing.assert_array_equal(drawn[:, [0, 1, 3]], alone)
    same = np.concatenate(list(resamples(6, 70, 3, np.arange(6))))
    np.testing.assert_array_equal(same, np.concatenate(list(resamples(6, 70, 3))))


def test_interval_of_views_is_that_of_their_individuals():
    views, individuals = 8, 50
    truth = pictures_of(
        np.arange(1, views * individuals + 1), np.repeat(np.arange(individuals), views)
    )
    # Whoever is found, is found in all views.
    found = truth_as_predictions(truth)
    individual = (found.predictions["image_id"].to_numpy(np.int64) - 1) // views
    chosen = found.predictions[individual % 2 == 0]
    found = dataclasses.replace(found, predictions=chosen.reset_index(drop=True))
    config = EvaluationConfig(protocols=("completion",), headline_resamples=1000, resamples=0)

    def width(truth):
        scores = evaluate(truth, found, config)
        row = scores.results.set_index(["metric", "category"]).loc[("mIoU_full", "all")]
        return row["high"] - row["low"], set(scores.draws["images"])

    known, units = width(truth)
    assert units == {individuals}
    nobody = pictures_of(np.arange(1, views * individuals + 1), [None] * len(truth.images))
    unknown, images = width(nobody)
    assert images == {views * individuals}
    assert known / unknown == pytest.approx(np.sqrt(views), rel=0.15)


def test_resamples_without_an_object_are_no_value():
    above, below = np.zeros((3, 1)), np.zeros((3, 1))
    above[0] = below[0] = 1
    values = draw([Ratio(Row("m", 1), above, below)], [100], 3, 0)[0][:, 0]
    assert np.isnan(values).any()
    assert interval(values) == (100, 100)
    assert all(np.isnan(interval(np.array([np.nan]))))


def test_a_ratio_of_several_columns_is_the_mean_of_those_with_a_denominator():
    tally = Ratio(Row("m", 3), np.array([[1.0, 0, 0]]), np.array([[2.0, 1, 0]]))
    assert tally.values(np.ones((1, 1)))[0, 0] == 25


def table(**methods):
    lines = [
        {
            "dataset": "made_up",
            "split": "val",
            "method": name.split("_")[0],
            "variant": "full",
            "inputs": "image",
            "run_id": f"{name}-annotations",
            "images": 80,
            "bootstrap_seed": 0,
            "seed": seed,
            "protocol": "coco",
            "metric": "AP_amodal",
            "value": float(np.mean(values)),
            "values": values,
        }
        for seed, (name, values) in enumerate(methods.items())
    ]
    return pd.DataFrame(lines)


def test_comparison_is_paired():
    shared = np.random.default_rng(0).normal(50, 10, 1000)
    draws = table(a=shared + 1, b=shared)
    line = compare(draws, {"method": "a"}, {"method": "b"}).iloc[0]
    # Each alone is uncertain by 20; their difference is not at all.
    assert line["difference"] == pytest.approx(1)
    assert (line["low"], line["high"]) == (pytest.approx(1), pytest.approx(1))
    assert (line["probability"], line["resamples"]) == (1, 1000)
    back = compare(draws, {"method": "b"}, {"method": "a"}).iloc[0]
    assert (back["difference"], back["probability"]) == (pytest.approx(-1), 0)
    same = compare(draws, {"method": "a"}, {"method": "a"}).iloc[0]
    assert (same["difference"], same["probability"]) == (0, 0.5)


def test_seeds_are_averaged_and_the_shorter_list_decides():
    draws = table(a_0=[1.0, 2.0, 3.0], a_1=[3.0, 2.0, 1.0], b_0=[1.0, 3.0])
    line = compare(draws, {"method": "a"}, {"method": "b"}).iloc[0]
    assert (line["resamples"], line["probability"]) == (2, 0.5)
    assert line["difference"] == pytest.approx(0)


def test_protocols_on_other_pictures_stand_beside_those_of_the_split():
    draws = table(a=[2.0, 3.0], b=[1.0, 1.0])
    other = table(a=[5.0, 5.0], b=[4.0, 6.0]).assign(
        protocol="consistency", metric="occluder_consistency", images=9
    )
    found = compare(pd.concat([draws, other]), {"method": "a"}, {"method": "b"})
    assert found["difference"].tolist() == [1.5, 0]
    assert found["probability"].tolist() == [1, 0.5]


def test_what_cannot_be_compared_is_refused():
    draws = table(a=[1.0], b=[2.0])
    with pytest.raises(ValueError, match="no draws of"):
        compare(draws, {"method": "c"}, {"method": "b"})
    with pytest.raises(ValueError, match="2 kinds of predictions"):
        compare(draws, {"dataset": "made_up"}, {"method": "b"})
    changes = {
        "dataset": "another",
        "images": 81,
        "bootstrap_seed": 1,
        "run_id": "b-others",
    }
    for column, value in changes.items():
        changed = draws.copy()
        changed.loc[1, column] = value
        named = "annotations" if column == "run_id" else column
        with pytest.raises(
            ValueError, match=rf"do not share the resamples of AP_amodal \({named} differ"
        ):
            compare(changed, {"method": "a"}, {"method": "b"})
