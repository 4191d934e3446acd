"""Maps of the truth give masks and order back; eqs. 1 to 5 on drawn cases."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from amodal_pipeline.annotations import distance_maps, rle
from amodal_pipeline.annotations.cocoa import read_cocoa
from amodal_pipeline.annotations.distance_maps import (
    amodal_heatmap,
    amodal_mask,
    depth_order,
    distance_map,
    modal_heatmap,
    object_order,
    regions,
    relative_map,
    true_distance_maps,
    visible_mask,
)
from amodal_pipeline.annotations.levels import levels_of_image, order_of_image
from amodal_pipeline.annotations.tables import boxes
from amodal_pipeline.compose import ComposeConfig
from amodal_pipeline.compose.dataset import compose_split
from amodal_pipeline.scenes.config import ScenesConfig
from amodal_pipeline.scenes.dataset import render_split

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"
SHAPES = hnp.array_shapes(min_dims=3, max_dims=3, min_side=1, max_side=5)


@st.composite
def truths(draw):
    """Masks and levels, which are 0 off the masks."""
    shape = draw(SHAPES)
    amodal = draw(hnp.arrays(bool, shape, elements=st.booleans()))
    return amodal, amodal * draw(hnp.arrays(np.uint8, shape))


@settings(max_examples=80, deadline=None)
@given(truths())
def test_masks_and_levels_come_back_exactly(truth):
    amodal, level = truth
    maps = true_distance_maps(amodal, level)
    assert maps.dtype == np.float32 and (maps < 1).all()
    np.testing.assert_array_equal(amodal_mask(maps), amodal)
    np.testing.assert_array_equal(visible_mask(maps), amodal & (level == 0))
    np.testing.assert_array_equal(-np.floor(maps), level)
    clipped = true_distance_maps(amodal, level, 3)
    np.testing.assert_array_equal(-np.floor(clipped), np.minimum(level, 2))


def test_heatmaps_of_a_map():
    """Eqs. 1 to 3: confidence 0.8 at levels 0, 1 and 2, and background of confidence 0.1."""
    confidence, level = np.array([0.8, 0.8, 0.8, 0.1, 0.0]), np.array([0, 1, 2, 0, 0])
    found = distance_map(confidence, level)
    np.testing.assert_allclose(found, [0.8, -0.2, -1.2, 0.1, 0])
    np.testing.assert_allclose(modal_heatmap(found), [0.8, 0, 0, 0.1, 0])
    np.testing.assert_allclose(amodal_heatmap(found), confidence, atol=1e-12)
    assert visible_mask(found).tolist() == [True, False, False, False, False]
    assert amodal_mask(found).tolist() == [True, True, True, False, False]
    assert amodal_mask(found, 0.05).tolist() == [True, True, True, True, False]


def test_relative_map_asks_for_the_product_of_confidences():
    """Eqs. 4 and 5: 0.9 and 0.3 are enough together where c is 0.5, 0.4 and 0.5 are not."""
    a = distance_map(np.array([0.9, 0.4, 0.9, 0.9]), np.array([0, 0, 2, 1]))
    b = distance_map(np.array([0.3, 0.5, 0.9, 0.9]), np.array([1, 1, 0, 1]))
    assert relative_map(a, b).tolist() == [1, 0, -2, 0]
    assert relative_map(b, a).tolist() == [-1, 0, 2, 0]
    assert relative_map(a, b, 0.4).tolist() == [1, 1, -2, 0]


def test_tensors_give_what_arrays_give():
    values = np.random.default_rng(0).uniform(-3, 1, (2, 9, 9)).astype(np.float32)
    tensors = torch.from_numpy(values)
    for function in (modal_heatmap, amodal_heatmap, visible_mask, amodal_mask):
        np.testing.assert_array_equal(function(tensors).numpy(), function(values))
    np.testing.assert_array_equal(relative_map(*tensors).numpy(), relative_map(*values))


def numbers(picture):
    return np.array([["-.+".index(c) - 1 for c in row] for row in picture.split()])


def test_regions_touch_at_corners_and_have_one_sign():
    found = regions(
        numbers("""
            +..--
            .+.--
            ..+++
            -....
        """)
    )
    assert sorted(zip(found.sign.tolist(), found.area.tolist(), strict=True)) == [
        *((-1, 1), (-1, 4), (1, 5))
    ]
    for number, (sign, area) in enumerate(zip(found.sign, found.area, strict=True), 1):
        assert (found.label == number).sum() == area
        assert sign == {5: 1, 4: -1, 1: -1}[int(area)]


@pytest.mark.parametrize(
    ("picture", "order"),
    [
        ("++.--- ++....", 1),  # four connected pixels against three
        ("+.+.+. ------", -1),
        ("++.-.- ......", 1),  # two connected ones against two alone
        ("++.--. ......", 0),
        ("...... ...-..", -1),
        ("...... ......", 0),
    ],
)
def test_an_object_is_where_its_largest_region_is(picture, order):
    relative = numbers(picture)
    assert object_order(relative) == order
    assert object_order(-relative) == -order


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_order_of_pairs_is_that_of_their_whole_maps(data):
    shape = data.draw(SHAPES)
    amodal = data.draw(hnp.arrays(bool, shape, elements=st.booleans()))
    level = amodal * data.draw(hnp.arrays(np.uint8, shape, elements=st.integers(0, 2)))
    maps, tight = true_distance_maps(amodal, level), rle.box(rle.encode(amodal), shape[1:])
    pairs = np.array([(a, b) for a in range(shape[0]) for b in range(shape[0])])
    whole = [object_order(relative_map(maps[a], maps[b])) for a, b in pairs]
    assert depth_order(maps, tight, pairs).tolist() == whole
    # Beyond the canvas there is nothing, and pixels that a box cuts count whole.
    for change in ((-9, -9, 20, 20), (0.4, 0.4, -0.8, -0.8)):
        changed = np.nan_to_num(tight) + np.array(change, np.float32)
        assert depth_order(maps, changed, pairs).tolist() == whole


def one_way_pairs(annotations):
    """Checks that masks come back; object order and pixels of R of all pairs but mutual ones."""
    signs, relative = [], []
    for image_id in annotations.images["image_id"]:
        objects, pairs = annotations.of_image(image_id), order_of_image(annotations, image_id)
        levels = levels_of_image(annotations, image_id)
        maps = true_distance_maps(levels.amodal, levels.level)
        assert rle.encode(amodal_mask(maps)) == objects["amodal_rle"].tolist()
        assert rle.encode(visible_mask(maps)) == objects["visible_rle"].tolist()
        stated = set(map(tuple, pairs.tolist()))
        pairs = pairs[[(b, a) not in stated for a, b in pairs.tolist()]]
        signs += depth_order(maps, boxes(objects["amodal_box"]), pairs).tolist()
        relative += [relative_map(maps[a], maps[b]) for a, b in pairs]
    return np.array(signs), relative


def test_order_by_rays_comes_back_from_the_maps_of_scenes(tmp_path):
    """Not only of the largest region: at no pixel is an occludee in front."""
    config = ScenesConfig(image_size=96, minimum_amodal_pixels=20, crowding=1.0, seed=5)
    signs, relative = one_way_pairs(render_split(config, "train", 4, tmp_path))
    assert len(signs) > 10 and (signs == 1).all()
    assert all((r >= 0).all() for r in relative)


def test_order_of_pasting_comes_back_from_the_maps_of_composed_photographs(tmp_path):
    source = DATA / "coco_panoptic"
    if not source.is_dir():
        pytest.skip("COCO sample is not beside the repository")
    document = json.loads((source / "instances_val2017_from_panoptic.json").read_text())
    document["images"] = document["images"][:4]
    ids = {image["id"] for image in document["images"]}
    document["annotations"] = [a for a in document["annotations"] if a["image_id"] in ids]
    path = tmp_path / "some.json"
    path.write_text(json.dumps(document))
    config = ComposeConfig(max_side=240, min_source_area=256, occluders=(3, 5))
    photographs = source / "images" / "val2017"
    table = compose_split(config, "val", path, photographs, tmp_path / "out")
    signs, relative = one_way_pairs(table)
    assert len(signs) > 10 and (signs == 1).all()
    assert all((r >= 0).all() for r in relative)


def test_inferred_order_comes_back_from_the_maps_of_cocoa():
    """The real samples state no order: it is inferred from their masks (annotations.order)."""
    if not (DATA / "cocoa").is_dir():
        pytest.skip("COCOA samples are not beside the repository")
    table = read_cocoa(DATA / "cocoa", DATA / "cocoa", "cocoa", "val")
    assert table.order["inferred"].all()
    signs, _ = one_way_pairs(table)
    assert signs.tolist() == [1] * 32


def test_rider_and_horse_have_regions_of_both_signs():
    """Fig. 3: the near leg is the larger region and decides for the pair."""
    legs = np.zeros((2, 4, 8), bool)
    legs[0, :, 1:3] = legs[0, :, 5] = legs[1, 1:3] = True
    level = np.zeros(legs.shape, np.uint8)
    level[1, 1:3, 1:3] = level[0, 1:3, 5] = 1
    relative = relative_map(*true_distance_maps(legs, level))
    found = regions(relative)
    assert (found.sign.tolist(), found.area.tolist()) == ([1, -1], [4, 2])
    assert object_order(relative) == 1


def test_depth_order_needs_no_maps_beyond_the_boxes(monkeypatch):
    """A pair costs what its boxes share."""
    looked_at = []
    plain = distance_maps.relative_map
    monkeypatch.setattr(
        distance_maps, "relative_map", lambda a, b, c: looked_at.append(a.shape) or plain(a, b, c)
    )
    maps = np.zeros((3, 40, 50), np.float32)
    windows = np.array([(0, 0, 10, 20), (5, 12, 30, 20), (30, 0, 5, 5)], np.float32)
    depth_order(maps, windows, np.array([(0, 1), (0, 2)]))
    assert looked_at == [(8, 5)]
