import numpy as np
import pandas as pd
import pytest

from amodal_pipeline.metrics.bootstrap import compare, draw, interval, resamples
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
