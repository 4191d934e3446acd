"""Judging claims by paired differences over images and seeds."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from amodal_pipeline.metrics.bootstrap import compare
from amodal_pipeline.metrics.verdicts import Difference, judge, paired

METRIC = ("coco", "AP_amodal")
A, B = {"variant": "a"}, {"variant": "b"}
IMAGES = np.random.default_rng(0).normal(0, 1, (2, 400))  # what images do to a, and to b


def draws(values, seeds):
    """Draws of two rows with one value per seed; images move each row alike in all seeds."""
    lines = [
        {
            "dataset": "made_up",
            "split": "val",
            "method": "m",
            "variant": name,
            "inputs": "image",
            "seed": seed,
            "run_id": f"{name}{seed}-annotations",
            "protocol": METRIC[0],
            "metric": METRIC[1],
            "value": value,
            "values": value + IMAGES[row],
            "images": 80,
            "bootstrap_seed": 0,
        }
        for row, name in enumerate("ab")
        for value, seed in zip(values[name], seeds[name], strict=True)
    ]
    return pd.DataFrame(lines)


def test_one_seed_has_the_interval_over_images():
    table = draws({"a": [50.0], "b": [48.0]}, {"a": [0], "b": [0]})
    found = paired(table, METRIC, A, B)
    line = compare(table, A, B).iloc[0]
    assert (found.value, found.seeds) == (pytest.approx(2), 1)
    assert (found.low, found.high) == (pytest.approx(line["low"]), pytest.approx(line["high"]))
    assert found.smallest == pytest.approx((line["high"] - line["low"]) / 2)


def test_seeds_widen_the_interval_by_students_of_their_differences():
    values = {"a": [50.0, 52.0, 53.0, 99.0], "b": [48.0, 47.0, 51.0]}
    # Seed 7 has a alone, and does not count.
    table = draws(values, {"a": [0, 1, 2, 7], "b": [2, 1, 0]})
    found = paired(table, METRIC, A, B)
    differences = [50.0 - 51.0, 52.0 - 47.0, 53.0 - 48.0]
    mean = np.mean(differences)
    low, high = stats.t.interval(0.95, 2, mean, stats.sem(differences))
    images = np.quantile(IMAGES[0] - IMAGES[1], [0.025, 0.975])
    assert (found.value, found.seeds) == (pytest.approx(mean), 3)
    assert found.low == pytest.approx(mean - np.hypot(mean - low, images[0]))
    assert found.high == pytest.approx(mean + np.hypot(high - mean, images[1]))
    assert found.low < 0 < mean + images[0]  # three seeds that differ so leave it undecided


def test_without_a_common_seed_or_the_metric_there_is_no_difference():
    table = draws({"a": [50.0], "b": [48.0]}, {"a": [0], "b": [1]})
    assert paired(table, METRIC, A, B) is None
    assert paired(table, ("coco", "AP_visible"), A, B) is None


@pytest.mark.parametrize(
    ("low", "high", "expected", "verdict"),
    [
        (0.1, 2.0, "above", "held"),
        (-0.1, 2.0, "above", "undecided"),
        (-2.0, -0.1, "above", "refuted"),
        (-2.0, -0.1, "below", "held"),
        (0.1, 2.0, "below", "refuted"),
        (-2.0, 0.1, "below", "undecided"),
        (-0.4, 0.4, "equal", "held"),
        (0.1, 0.4, "equal", "held"),
        (-0.4, 0.6, "equal", "undecided"),
        (0.6, 0.9, "equal", "refuted"),
        (-0.9, -0.6, "equal", "refuted"),
    ],
)
def test_the_interval_decides(low, high, expected, verdict):
    found = Difference((low + high) / 2, low, high, seeds=3)
    assert judge(found, expected, margin=0.5 if expected == "equal" else 0.0) == verdict
