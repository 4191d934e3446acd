import numpy as np
import pandas as pd
import pytest
from made_up import CATEGORIES

from amodal_pipeline.annotations import PredictionsMetadata
from amodal_pipeline.metrics.results import (
    RESULTS,
    Measurement,
    join,
    rows,
    summary_table,
    validate,
)


def metadata(**changes):
    described = {"dataset": "scenes", "split": "val", "method": "orcnn", "image_root": "."}
    return PredictionsMetadata(**(described | {"categories": CATEGORIES} | changes))


def some(metric="AP_amodal", value=50.0, protocol="coco", **changes):
    return rows(metadata(**changes), protocol, [Measurement(metric, value, 10)])


def test_rows_say_whose_they_are():
    table = rows(
        metadata(variant="no prior", seed=3),
        "coco",
        [Measurement("AP_amodal", 12.5, 7), Measurement("AP_amodal", np.nan, 0, "car")],
        run_id="abc",
    )
    assert list(table.columns) == RESULTS.names
    assert table.iloc[0].to_dict() | {"low": None, "high": None} == {
        "dataset": "scenes",
        "split": "val",
        "method": "orcnn",
        "variant": "no prior",
        "inputs": "image",
        "protocol": "coco",
        "category": "all",
        "metric": "AP_amodal",
        "value": 12.5,
        "n": 7,
        "low": None,
        "high": None,
        "seed": 3,
        "run_id": "abc",
        "note": "",
    }
    assert table["value"].isna().tolist() == [False, True]
    assert len(rows(metadata(), "coco", [])) == 0


def test_csv_round_trip_keeps_values_and_types(tmp_path):
    table = join([some(value=100 / 3), some("AP_box", np.nan)])
    table.to_csv(tmp_path / "results.csv", index=False)
    again = validate(pd.read_csv(tmp_path / "results.csv"))
    pd.testing.assert_frame_equal(again, table)
    assert (again.dtypes == table.dtypes).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"value": 101.0}, "value of AP_amodal .* is 101.0"),
        ({"low": -1.0}, "low of AP_amodal"),
        ({"n": -1}, "number of objects"),
        ({"mood": "good"}, "unknown columns"),
    ],
)
def test_rows_that_cannot_be_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        validate(some().assign(**change))


def test_missing_columns_and_doubled_rows_are_refused():
    with pytest.raises(ValueError, match=r"lack the columns \['n'\]"):
        validate(some().drop(columns="n"))
    with pytest.raises(ValueError, match=r"AP_amodal .* of orcnn is given twice"):
        join([some(), some(value=10.0)])
    assert len(join([some(), some(seed=1)])) == 2


def test_summary_has_one_line_per_method_variant_and_inputs():
    results = join(
        [
            some(method="vrsp", value=40.0),
            some("mIoU_full", 70.0, "completion", method="vrsp"),
            some(method="orcnn", value=30.0),
            some(method="orcnn", value=32.0, seed=1),
            some(
                method="c2f", inputs="orcnn", metric="mIoU_full", value=80.0, protocol="completion"
            ),
            rows(metadata(), "coco", [Measurement("AP_amodal", 90.0, 3, "car")]),
        ]
    )
    table = summary_table(results, ["mIoU_full", "AP_amodal", "AP_box"])
    assert list(table.columns) == [
        "method",
        "variant",
        "inputs",
        "mIoU_full",
        "AP_amodal",
        "AP_box",
    ]
    assert table["method"].tolist() == ["vrsp", "orcnn", "c2f"]
    assert table["inputs"].tolist() == ["image", "image", "orcnn"]
    np.testing.assert_equal(table["AP_amodal"].tolist(), [40, 31, np.nan])
    np.testing.assert_equal(table["mIoU_full"].tolist(), [70, np.nan, 80])
    assert table["AP_box"].isna().all()


def test_summary_does_not_mix_what_differs():
    with pytest.raises(ValueError, match="several splits"):
        summary_table(join([some(), some(split="test")]), ["AP_amodal"])
    with pytest.raises(ValueError, match="several protocols"):
        summary_table(join([some(), some(protocol="vrsp")]), ["AP_amodal"])
