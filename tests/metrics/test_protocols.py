"""Small cases by hand for what the protocols have of their own."""

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from made_up import (
    HEIGHT,
    WIDTH,
    annotations,
    measured,
    predictions,
    random_scene,
    rectangles,
    value_of,
)

from amodal_pipeline.annotations import rle
from amodal_pipeline.annotations.tables import PREDICTIONS, frame
from amodal_pipeline.metrics import protocols
from amodal_pipeline.metrics.evidence import Evidence
from amodal_pipeline.metrics.published import read_published


def rows_of(protocol, truth, found, *arguments):
    return measured(protocol(Evidence(truth, found), *arguments), len(truth.images))


def detections(truth, amodal, visible=None, scores=None, **columns):
    n = len(amodal)
    given = {
        "image_id": [1] * n,
        "category_id": [3] * n,
        "score": np.linspace(0.9, 0.5, n) if scores is None else scores,
        "amodal_rle": rectangles(amodal),
    }
    if visible is not None:
        given["visible_rle"] = rectangles(visible)
    return predictions(truth, given | columns)


# ORCNN ------------------------------------------------------------------------------------------


def test_detections_that_say_nothing_is_visible_cost_no_protocol_its_visible_precision():
    truth = annotations([[0, 0, 10, 8]])
    found = detections(truth, [[0, 12, 10, 20], [0, 0, 10, 8]], [[0, 0, 0, 0], [0, 0, 10, 8]])
    for protocol in (protocols.coco, protocols.orcnn):
        assert value_of(rows_of(protocol, truth, found), "AP_visible")["value"] == 100
    assert value_of(rows_of(protocols.orcnn, truth, found), "AP_both")["value"] == 50


def test_both_masks_must_match():
    # 10 columns, the left 4 hidden. The amodal mask is right; of the visible 6 columns 4 are found.
    truth = annotations([[0, 0, 10, 8]], [4])
    rows = rows_of(protocols.orcnn, truth, detections(truth, [[0, 0, 10, 8]], [[6, 0, 10, 8]]))
    # Visible IoU 4/6: right at the thresholds 0.5 … 0.65, 4 of 10.
    assert value_of(rows, "AP_amodal")["value"] == 100
    assert value_of(rows, "AP_visible")["value"] == pytest.approx(40)
    assert value_of(rows, "AP_both")["value"] == pytest.approx(40)
    assert value_of(rows, "AP75_both")["value"] == 0


def test_both_masks_must_match_the_same_object():
    # Two objects: the amodal mask fits the first, the visible mask the second.
    truth = annotations([[0, 0, 10, 8], [0, 10, 10, 18]], [4, 4])
    found = detections(truth, [[0, 0, 10, 8]], [[4, 10, 10, 18]])
    rows = rows_of(protocols.orcnn, truth, found)
    assert value_of(rows, "AR100_amodal")["value"] == 50
    assert value_of(rows, "AR100_visible")["value"] == 50
    assert value_of(rows, "AR100_both")["value"] == 0


def test_a_method_without_visible_masks_is_scored_with_its_amodal_ones_and_marked():
    truth = annotations([[0, 0, 10, 8], [0, 10, 10, 18]], [0, 8])
    rows = rows_of(protocols.orcnn, truth, detections(truth, [[0, 0, 10, 8], [0, 10, 10, 18]]))
    # The second object shows 2 of 10 columns: its amodal mask is no visible one.
    assert value_of(rows, "AR100_visible")["value"] == 50
    assert value_of(rows, "AR100_both")["value"] == 50
    assert value_of(rows, "AP_both")["note"] == "no visible masks: scored with the amodal ones"
    assert value_of(rows, "AP_visible_occluded0")["note"] != ""
    assert value_of(rows, "AP_amodal")["note"] == ""
    assert not (rows["metric"] == "AP50_invisible").any()


def invisible_case(stray: list[int], **columns):
    """An occluded object, found, and an unoccluded one that a second detection is near."""
    truth = annotations([[0, 0, 10, 8], [15, 0, 25, 8]], [4, 0])
    amodal = [stray, [0, 0, 10, 8]]
    visible = [[stray[0] + 2, *stray[1:]], [4, 0, 10, 8]]
    # The stray one has the better score: where it counts it halves the precision.
    return truth, detections(truth, amodal, visible, **columns)


def test_detections_meant_for_objects_without_a_hidden_part_are_left_out():
    truth, found = invisible_case([15, 0, 25, 8])
    rows = rows_of(protocols.orcnn, truth, found)
    row = value_of(rows, "AP50_invisible")
    assert (row["value"], row["n"]) == (100, 1)
    assert row["note"] == "hidden part: amodal mask without visible mask"
    assert value_of(rows, "AP50_visible_occluded0")["value"] == 100


def test_other_detections_stay_false_positives():
    truth, found = invisible_case([15, 12, 25, 20])  # on nothing at all
    rows = rows_of(protocols.orcnn, truth, found)
    assert value_of(rows, "AP50_invisible")["value"] == 50
    assert value_of(rows, "AP50_visible_occluded0")["value"] == 50


def test_a_detection_of_another_category_is_not_meant_for_the_ignored_object():
    truth, found = invisible_case([15, 0, 25, 8])
    truth = annotations(
        [[0, 0, 10, 8], [15, 0, 25, 8]], [4, 0], category_ids=np.array([3, 1]), images=1
    )
    rows = rows_of(protocols.orcnn, truth, found)
    assert value_of(rows, "AP50_invisible")["value"] == 50


def test_overlap_below_one_half_is_not_meant_for_the_ignored_object():
    # 10 x 8 pixels, shifted by 4: IoU 6 / 14; by 3: 7 / 13.
    for shift, expected in ((4, 50), (3, 100)):
        truth, found = invisible_case([15 + shift, 0, 25 + shift, 8])
        rows = rows_of(protocols.orcnn, truth, found)
        assert value_of(rows, "AP50_invisible")["value"] == expected


def test_a_methods_own_hidden_masks_are_taken():
    truth, found = invisible_case([15, 0, 25, 8])
    own = frame(
        PREDICTIONS,
        found.predictions.assign(invisible_rle=rectangles([[0, 0, 1, 1], [0, 0, 1, 8]])),
    )
    rows = rows_of(protocols.orcnn, truth, dataclasses.replace(found, predictions=own))
    row = value_of(rows, "AP50_invisible")
    assert (row["value"], row["note"]) == (0, "")  # one column of four


def test_a_detection_of_an_object_that_is_never_seen_is_no_false_positive():
    truth = annotations([[0, 0, 8, 8], [10, 0, 18, 8]], [8, 2])
    found = detections(truth, [[0, 0, 8, 8], [10, 0, 18, 8]], [[0, 0, 0, 0], [12, 0, 18, 8]])
    rows = rows_of(protocols.orcnn, truth, found)
    assert (rows["value"][rows["metric"].str.startswith("AP")] == 100).all()
    assert value_of(rows, "AP_both")["n"] == 1
    assert (rows_of(protocols.coco, truth, found)["value"].iloc[:3] == 100).all()


# VRSP -------------------------------------------------------------------------------------------


def test_rate_of_exactly_the_threshold():
    # Rates 0.15 and 0.2.
    truth = annotations([[0, 0, 20, 5], [0, 10, 20, 15]], [3, 4])
    found = detections(truth, [[0, 0, 20, 5], [0, 10, 20, 15]], [[3, 0, 20, 5], [4, 10, 20, 15]])
    paper = rows_of(protocols.vrsp, truth, found, (0.15,))
    released = rows_of(protocols.vrsp_released, truth, found, (0.15,))
    assert value_of(paper, "AP_amodal_occluded15")["n"] == 1
    assert value_of(released, "AP_amodal_occluded15")["n"] == 2


@pytest.mark.parametrize(("hidden", "expected"), [(0, 100), (2, 100), (3, 50), (10, 50)])
def test_released_rule_leaves_out_unmatched_detections_that_look_unoccluded(hidden, expected):
    truth = annotations([[0, 0, 20, 5]], [10])
    # The better score lies on nothing, and shows all but ``hidden`` of its 20 columns.
    found = detections(
        truth, [[0, 10, 20, 15], [0, 0, 20, 5]], [[hidden, 10, 20, 15], [10, 0, 20, 5]]
    )
    released = value_of(
        rows_of(protocols.vrsp_released, truth, found, (0.15,)), "AP_amodal_occluded15"
    )
    assert released["value"] == expected
    assert released["note"]
    paper = rows_of(protocols.vrsp, truth, found, (0.15,))
    assert value_of(paper, "AP_amodal_occluded15")["value"] == 50


def test_released_rule_needs_both_masks():
    truth = annotations([[0, 0, 20, 5]], [10])
    assert rows_of(protocols.vrsp_released, truth, detections(truth, [[0, 0, 9, 9]]), (0.15,)).empty


# amodalAPI --------------------------------------------------------------------------------------


def test_edges_of_none_partial_and_heavy():
    rates = np.array([0, 1e-5, 2e-5, 0.15, 0.25, 0.2500001, 1], np.float32)
    truth = annotations(np.tile([0, 0, 8, 8], (7, 1)))
    truth = dataclasses.replace(
        truth, instances=truth.instances.assign(occlusion_rate=pd.array(rates, "float32[pyarrow]"))
    )
    rows = rows_of(protocols.amodalapi, truth, detections(truth, np.zeros((0, 4), int)))
    counted = {name: value_of(rows, f"AR_{name}")["n"] for name in ("none", "partial", "heavy")}
    assert counted == {"none": 2, "partial": 3, "heavy": 2}


def test_categories_are_disregarded():
    truth = annotations([[0, 0, 8, 8]], category_ids=np.array([3]))
    rows = rows_of(protocols.amodalapi, truth, detections(truth, [[0, 0, 8, 8]], category_id=[1]))
    assert value_of(rows, "AP")["value"] == 100


def test_objects_of_other_rates_are_ignored_and_take_their_detections():
    truth = annotations([[0, 0, 20, 5], [0, 10, 20, 15]], [0, 10])
    found = detections(truth, [[0, 0, 20, 5], [0, 10, 20, 15]])
    rows = rows_of(protocols.amodalapi, truth, found)
    assert value_of(rows, "AP_heavy")["value"] == 100
    assert value_of(rows, "AR_none")["value"] == 100
    assert np.isnan(value_of(rows, "AP_partial")["value"])


def test_things_and_stuff_where_there_are_both():
    truth = annotations([[0, 0, 20, 5], [0, 10, 20, 15]])
    assert "AP_stuff" not in set(
        rows_of(protocols.amodalapi, truth, detections(truth, [[0, 0, 20, 5]]))["metric"]
    )
    mixed = truth.instances.assign(is_thing=pd.array([True, False], "bool[pyarrow]"))
    truth = dataclasses.replace(truth, instances=mixed)
    rows = rows_of(protocols.amodalapi, truth, detections(truth, [[0, 10, 20, 15]]))
    assert value_of(rows, "AR100_stuff")["value"] == 100
    assert value_of(rows, "AR100_things")["value"] == 0
    assert value_of(rows, "AR100")["value"] == 50


def test_every_row_of_slns_first_table_is_measured():
    """Bands of occlusion within things and within stuff, each with the objects of both kinds."""
    truth = annotations([[0, 0, 20, 5], [0, 10, 20, 15], [22, 0, 30, 5]], [0, 10, 0])
    mixed = truth.instances.assign(is_thing=pd.array([True, False, False], "bool[pyarrow]"))
    truth = dataclasses.replace(truth, instances=mixed)
    found = detections(truth, [[0, 0, 20, 5], [0, 10, 20, 15], [22, 0, 26, 5]])
    rows = rows_of(protocols.amodalapi, truth, found)
    counted = {
        f"{band}_{kind}": value_of(rows, f"AR_{band}_{kind}")["n"]
        for band in ("none", "partial", "heavy")
        for kind in ("things", "stuff")
    }
    assert counted == {
        **{"none_things": 1, "partial_things": 0, "heavy_things": 0},
        **{"none_stuff": 1, "partial_stuff": 0, "heavy_stuff": 1},
    }
    assert value_of(rows, "AR_heavy_stuff")["value"] == 100
    assert value_of(rows, "AR_none_stuff")["value"] == 10  # an IoU of one half
    table = read_published(Path(__file__).parents[2] / "docs/published.csv")
    wanted = table[(table["paper"] == "sln") & (table["protocol"] == "amodalapi")]["metric"]
    assert len(wanted) > 50 and set(wanted) <= set(rows["metric"])


@pytest.mark.parametrize(("place", "ten", "hundred"), [(9, 100, 100), (10, 0, 100), (100, 0, 0)])
def test_more_detections_than_count(place, ten, hundred):
    """The right one is at rank ``place``, from 0."""
    truth = annotations([[0, 0, 8, 8]])
    corners = np.tile([20, 12, 28, 20], (120, 1))
    corners[place] = [0, 0, 8, 8]
    rows = rows_of(protocols.amodalapi, truth, detections(truth, corners))
    assert value_of(rows, "AR10")["value"] == ten
    assert value_of(rows, "AR100")["value"] == hundred
    assert value_of(rows, "AR1000")["value"] == 100
    assert value_of(rows, "AP")["value"] == pytest.approx(100 / (place + 1))
    # SLN looks at 100 detections per image, Zhu et al. at 1,000.
    top = 100 / (place + 1) if place < 100 else 0
    assert value_of(rows, "AP_top100")["value"] == pytest.approx(top)
    assert value_of(rows, "AR_none")["value"] == hundred
    assert value_of(rows, "AR1000_none")["value"] == 100


def test_equal_scores_are_taken_in_the_order_of_the_table():
    truth = annotations([[0, 0, 8, 8]])
    right, wrong = [0, 0, 8, 8], [20, 12, 28, 20]
    for corners, expected in (([right, wrong], 100), ([wrong, right], 50)):
        rows = rows_of(protocols.amodalapi, truth, detections(truth, corners, scores=[0.5, 0.5]))
        assert value_of(rows, "AP")["value"] == expected


@pytest.mark.parametrize("seed", range(3))
def test_pairs_equal_the_overlaps_of_dense_masks(seed):
    truth, found = random_scene(seed)
    evidence = Evidence(truth, found)
    size = (HEIGHT, WIDTH)
    a = rle.decode(found.predictions["amodal_rle"].tolist(), size).astype(bool)
    v = rle.decode(found.predictions["visible_rle"].tolist(), size).astype(bool)
    ta = rle.decode(truth.instances["amodal_rle"].tolist(), size).astype(bool)
    tv = rle.decode(truth.instances["visible_rle"].tolist(), size).astype(bool)
    same = np.equal.outer(
        found.predictions["image_id"].to_numpy(), truth.instances["image_id"].to_numpy()
    ).astype(bool)

    def iou(x, y):
        shared = np.einsum("dhw,ghw->dg", x, y, dtype=np.int64)
        joined = x.sum((1, 2))[:, None] + y.sum((1, 2)) - shared
        return np.where(same, shared / np.maximum(joined, 1), 0)

    full, seen = iou(a, ta), iou(v, tv)
    for pairs, expected in (
        (evidence.amodal, full),
        (evidence.visible, seen),
        (evidence.both, np.minimum(full, seen)),
        (evidence.invisible, iou(a & ~v, ta & ~tv)),
    ):
        dense = np.zeros_like(full)
        dense[pairs.detection, pairs.truth] = pairs.iou
        np.testing.assert_array_equal(dense, np.where(expected >= 0.5, expected, 0))
        assert len(pairs.iou) > 20
