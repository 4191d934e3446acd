import numpy as np
import pandas as pd
import pytest

from amodal_pipeline.visuals.breakdowns import (
    by_category,
    by_occlusion,
    by_threshold,
    precision_by_recall,
)
from amodal_pipeline.visuals.selection import best_median_worst


def objects_of(rates, full, hidden, image_ids=None, **whose):
    whose = {"method": "a", "variant": "full", "inputs": "image", "seed": 0} | whose
    columns = {
        "instance_id": range(len(rates)),
        "image_id": range(len(rates)) if image_ids is None else image_ids,
        "occlusion_rate": pd.array(rates, "float[pyarrow]"),
        "iou_full": full,
        "iou_occluded": pd.array(hidden, "double[pyarrow]"),
    }
    return pd.DataFrame(columns).assign(**whose)


def test_objects_fall_into_the_bin_that_their_rate_ends():
    rates = [0, 1e-4, 0.1, 0.1001, 0.3, 0.9999, 1.0]
    found = by_occlusion(objects_of(rates, np.arange(7) / 10, [None, *np.arange(1, 7) / 20]))
    assert found["bin"].tolist() == [0, 1, 2, 3, 10]
    assert found["objects"].tolist() == [1, 2, 1, 1, 2]
    np.testing.assert_allclose(found["iou_full"], [0, 15, 30, 40, 55])
    np.testing.assert_allclose(found["iou_occluded"], [np.nan, 7.5, 15, 20, 27.5])


def test_seeds_are_averaged_and_lines_kept_apart():
    tables = [
        objects_of([0.5, 0], [0.2, 0.4], [0.2, None]),
        objects_of([0.5, 0], [0.4, 0.6], [0.6, None], seed=1),
        objects_of([0.5, 0], [1, 1], [1, None], inputs="true", method="b"),
    ]
    found = by_occlusion(pd.concat(tables)).set_index(["inputs", "line", "bin"])
    assert found.loc[("image", "a", 5)].tolist() == pytest.approx([1, 30, 40])
    assert found.loc[("true", "b", 0)].tolist()[:2] == [1, 100]


def test_one_threshold_is_no_curve(results):
    def above(*rates):
        rows = results[results["metric"] == "AP_amodal"]
        more = [
            rows.assign(metric=f"AP_amodal_occluded{r}", value=r, protocol="vrsp") for r in rates
        ]
        return by_threshold(pd.concat([results, *more], ignore_index=True), "AP_amodal")

    assert not len(above(15))
    found = above(15, 12.5)
    first = found[found["line"] == "first"].set_index("threshold")["value"]
    assert first.to_dict() == {-1: 41.27, 15: 15, 12.5: 12.5}


def test_categories_are_those_of_the_metric(results):
    (row,) = by_category(results, "AP_amodal").itertuples()
    assert (row.line, row.category, row.value, row.n) == ("first", "cup", 99.0, 1234)
    assert not len(by_category(results, "AP_visible"))


def test_precision_keeps_the_mean_over_thresholds_apart():
    rows = [
        {"method": "a", "variant": "full", "inputs": "image", "seed": seed, "target": "amodal"}
        | {"iou": iou, "recall": 0.5, "precision": 0.2 + 0.2 * seed}
        for seed in (0, 1)
        for iou in (0.5, None)
    ]
    found = precision_by_recall(pd.DataFrame(rows))
    assert found["iou"].tolist() == [0.5, 0.0]
    np.testing.assert_allclose(found[["recall", "precision"]], [[50, 30], [50, 30]])


def test_best_median_and_worst_are_those_of_the_best_method():
    rates, full = [0.5] * 8 + [0], [0.5] * 9
    image_ids = [7, 7, 1, 2, 3, 4, 5, 6, 9]
    hidden = [0.9, 0.7, 0.1, 0.6, 0.5, 0.4, 0.3, 0.2, None]
    good = objects_of(rates, full, hidden, image_ids)
    bad = objects_of(rates, full, [0.0] * 8 + [None], image_ids, method="b")
    for objects in (pd.concat([good, bad]), pd.concat([bad, good])):
        chosen = best_median_worst(objects, 3)
        assert list(chosen) == [7, 4, 1]
        assert chosen[7] == "best by a: mIoU_occluded 80.0"
        assert chosen[4].startswith("median") and chosen[1].startswith("worst")
    assert list(best_median_worst(good, 99)) == [7, 2, 3, 4, 5, 6, 1]
    assert len(best_median_worst(good, 4)) == 4
    assert list(best_median_worst(good, 1)) == [7]
    assert best_median_worst(good[good["image_id"] == 9], 3) == {}


def test_images_of_equal_value_come_by_their_ids():
    equal = objects_of([0.5] * 4, [0.5] * 4, [0.5] * 4, [3, 1, 2, 0])
    assert list(best_median_worst(equal, 3)) == [0, 1, 3]
