import numpy as np
import pandas as pd
import pytest

from amodal_pipeline.compose.config import VariantsConfig
from amodal_pipeline.compose.variants import compose_variants
from amodal_pipeline.visuals.grids import CELL, occluder_grid
from tests.tables import predictions


@pytest.fixture(scope="module")
def variants(shapes, tmp_path_factory):
    config = VariantsConfig(variants=2, min_area=100, images=3)
    return compose_variants(shapes, config, tmp_path_factory.mktemp("variants"))


def drawn(variants, missing=(), count=1):
    """Predictions that are the truth, but for some appearances without one."""
    table = variants.instances
    names = ("image_id", "category_id", "amodal_rle", "visible_rle")
    columns = {name: table[name] for name in names} | {"prediction_id": table["instance_id"]}
    found = predictions(variants, columns, method="detector")
    targets = table[table["track_id"].notna()]
    columns = {k: targets[k].to_numpy(np.int64) for k in ("track_id", "instance_id", "image_id")}
    shown = pd.DataFrame(columns)
    prediction_id = shown["instance_id"].astype("Int64")
    prediction_id[list(missing)] = pd.NA
    # Targets are ranked in the order in which they come.
    consistency = 1 - shown["track_id"].rank(method="dense") / 10
    shown = shown.assign(prediction_id=prediction_id, consistency=consistency)
    return np.asarray(occluder_grid(variants, found, shown, count))


def rows_of(page):
    """The two rows of cells of a page: each begins where the first cell has no white."""
    column = (page[:, 30:200] != 255).any(axis=2).all(axis=1)
    starts = np.flatnonzero(np.diff(column.astype(int), prepend=0) == 1)
    return [page[start : start + CELL] for start in starts[:2]]


def test_truth_stands_above_what_is_predicted(variants):
    above, below = rows_of(drawn(variants))
    np.testing.assert_array_equal(above, below)


def test_an_object_without_a_prediction_is_left_as_it_is(variants):
    above, below = rows_of(drawn(variants, missing=[1]))
    half = above.shape[1] // 2
    np.testing.assert_array_equal(above[:, :half], below[:, :half])
    assert (above[:, half:] != below[:, half:]).any()


def test_objects_are_spread_over_all_ranks(variants):
    one, two, many = (drawn(variants, count=n).shape[0] for n in (1, 2, 9))
    assert many - two == pytest.approx(two - one, abs=2)  # three objects in all
    first, last = (rows_of(drawn(variants, count=n))[0] for n in (1, 9))
    np.testing.assert_array_equal(first, last)
