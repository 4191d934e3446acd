import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from amodal_pipeline.scenes import rays
from amodal_pipeline.scenes.camera import Camera
from amodal_pipeline.scenes.config import ScenesConfig
from amodal_pipeline.scenes.families import FAMILIES
from amodal_pipeline.scenes.models import Models
from amodal_pipeline.scenes.rays import Caster, cast_reference
from amodal_pipeline.scenes.render import (
    PlacedShape,
    cast_layers,
    order_pairs,
    render_colour,
    visible_masks,
)
from amodal_pipeline.scenes.scene import sample_scene
from amodal_pipeline.scenes.shading import sample_surroundings
from amodal_pipeline.scenes.shapes import Material, assemble, box

embree = pytest.mark.skipif(rays.rtcore_scene is None, reason="embreex is not installed")


def camera(size=64, elevation=20.0, azimuth=0.0, distance=4.0):
    return Camera.looking_at(
        np.array([0, 0, 0.5]),
        azimuth=azimuth,
        elevation=elevation,
        distance=distance,
        field_of_view=40,
        width=size,
        height=size,
    )


def block(x, y=0.0, size=1.0):
    pose = np.eye(4)
    pose[:2, 3] = x, y
    return PlacedShape(assemble([(box((size,) * 3, (0, 0, 0)), Material((0.8, 0.2, 0.2)))]), pose)


def default_scene(index, **changes):
    config = ScenesConfig(image_size=96, minimum_amodal_pixels=20, **changes)
    return sample_scene(config, Models.of(config), "test", index)


@embree
@pytest.mark.parametrize("name", ["chair", "teapot", "car"])
def test_fast_masks_agree_with_reference(name):
    placed = PlacedShape(FAMILIES[name](np.random.default_rng(3)), np.eye(4))
    view = camera(azimuth=33, distance=3)
    fast = cast_layers([placed], view)[0]
    rows, columns = np.mgrid[: view.height, : view.width] + 0.5
    chosen = np.random.default_rng(0).choice(rows.size, 700, replace=False)
    directions = view.directions(columns.ravel()[chosen], rows.ravel()[chosen])
    meshes = [(placed.vertices, placed.shape.faces)]
    slow = cast_reference(meshes, view.position, directions)
    expected, found = np.isfinite(slow.distance), np.isfinite(fast.ravel()[chosen])
    assert expected.sum() > 30
    assert (expected != found).sum() <= 1  # a ray along an edge may fall to either side
    both = expected & found
    np.testing.assert_allclose(fast.ravel()[chosen][both], slow.distance[both], rtol=1e-4)


@embree
def test_fast_hits_name_the_reference_point():
    objects = [block(0), block(-1.5, 0.6)]
    meshes = [(o.vertices, o.shape.faces) for o in objects]
    rows, columns = np.mgrid[:64:5, :64:5] + 0.3
    directions = camera().directions(columns.ravel(), rows.ravel())
    fast = Caster(meshes).cast(camera().position, directions)
    slow = cast_reference(meshes, camera().position, directions)
    hit = np.isfinite(slow.distance)
    assert hit.any() and set(slow.mesh[hit]) == {0, 1}
    np.testing.assert_array_equal(np.isfinite(fast.distance), hit)
    for hits in (fast, slow):
        face = np.stack(
            [
                meshes[m][0][meshes[m][1][f]]
                for m, f in zip(hits.mesh[hit], hits.face[hit], strict=True)
            ]
        )
        weights = np.stack([1 - hits.u - hits.v, hits.u, hits.v], axis=1)[hit]
        point = np.einsum("nc,ncj->nj", weights, face)
        along = camera().position + hits.distance[hit, None] * directions[hit]
        np.testing.assert_allclose(point, along, atol=1e-4)
    origins = np.broadcast_to(camera().position, directions.shape)
    np.testing.assert_array_equal(Caster(meshes).blocked(origins, directions), hit)


def test_without_embree_the_picture_is_nearly_the_same(monkeypatch):
    surroundings = sample_surroundings(np.random.default_rng(1), 0)
    objects, view = [block(0), block(-1.4, 0.5)], camera(48)
    fast, fast_depth = render_colour(objects, view, surroundings), cast_layers(objects, view)
    monkeypatch.setattr(rays, "rtcore_scene", None)
    with pytest.warns(UserWarning, match="embreex is not installed"):
        slow, slow_depth = render_colour(objects, view, surroundings), cast_layers(objects, view)
    assert (np.isfinite(fast_depth) != np.isfinite(slow_depth)).mean() < 1e-3
    different = np.abs(fast.astype(int) - slow).max(axis=2) > 8
    assert different.mean() < 0.02


def test_depth_of_a_wall_is_its_distance():
    view = camera(elevation=1.0, distance=5.0)
    depth = cast_layers([block(0)], view)[0]
    centre = depth[32, 32]
    assert centre == pytest.approx(4.5, abs=0.02)
    position, expected = view.project(np.array([[0.5, 0.0, 0.5]]))
    assert expected[0] == pytest.approx(centre, abs=0.02)
    np.testing.assert_allclose(position[0], 32, atol=0.2)


def test_camera_matrices_project_like_project():
    view = camera(azimuth=70)
    points = np.random.default_rng(0).uniform(-1, 1, (20, 3))
    homogeneous = view.intrinsics @ (view.extrinsics @ np.column_stack([points, np.ones(20)]).T)
    position, depth = view.project(points)
    np.testing.assert_allclose((homogeneous[:2] / homogeneous[2]).T, position)
    np.testing.assert_allclose(homogeneous[2], depth)
    # Rays lead back to where they come from.
    directions = view.directions(position[:, 0], position[:, 1])
    np.testing.assert_allclose(view.position + depth[:, None] * directions, points, atol=1e-5)


def test_amodal_mask_does_not_depend_on_what_stands_before():
    front, back, view = block(0), block(-1.5, 0.4), camera()
    alone = cast_layers([back], view)[0]
    together = cast_layers([front, back], view)
    np.testing.assert_array_equal(together[1], alone)
    visible = visible_masks(together)
    assert 0 < visible[1].sum() < np.isfinite(alone).sum()
    assert order_pairs(together).tolist() == [[0, 1]]


def test_object_cut_by_the_border_keeps_the_part_on_the_canvas():
    view = camera()
    depth = cast_layers([block(0, 1.6), block(0, 40.0)], view)
    assert np.isfinite(depth[0])[:, -1].any()
    assert not np.isfinite(depth[1]).any()


def test_object_behind_the_camera_is_cast_over_the_whole_canvas():
    wide = block(0, size=9.0)  # around the camera
    depth = cast_layers([wide], camera())
    assert np.isfinite(depth).all()


@settings(max_examples=40, deadline=None)
@given(
    arrays(
        np.float32,
        st.tuples(st.integers(1, 5), st.just(4), st.just(5)),
        elements=st.sampled_from([1.0, 2.0, 3.0, np.inf]),
    ),
    st.integers(1, 3),
)
def test_visible_masks_and_order_follow_from_depth(depth, minimum):
    amodal, visible = np.isfinite(depth), visible_masks(depth)
    assert (visible.sum(axis=0) == amodal.any(axis=0)).all()  # disjoint, and nothing is lost
    expected = []
    for a in range(len(depth)):
        nearer = np.zeros(depth.shape[1:], bool)
        for b in range(len(depth)):
            in_front = (depth[b] < depth[a]) | ((depth[b] == depth[a]) & (b < a))
            in_front &= amodal[a] & amodal[b]
            nearer |= in_front
            if a != b and in_front.sum() >= minimum:
                expected.append([b, a])
        np.testing.assert_array_equal(visible[a], amodal[a] & ~nearer)
    assert order_pairs(depth, minimum).tolist() == sorted(expected)


@pytest.mark.parametrize("index", range(3))
def test_picture_shows_what_the_masks_say(index):
    scene, depth = default_scene(index)
    bare = {"shadows": False, "antialiasing": False}
    full = render_colour(scene.objects, scene.camera, scene.surroundings, **bare)
    visible = visible_masks(depth)
    largest = visible.sum(axis=(1, 2)).argmax()
    rest = [o for k, o in enumerate(scene.objects) if k != largest]
    without = render_colour(rest, scene.camera, scene.surroundings, **bare)
    changed = (full != without).any(axis=2)
    # All its pixels change (but where colours happen to agree), and little else: the ground's
    # contact shade goes with it.
    assert changed[visible[largest]].mean() > 0.97
    others = visible.any(axis=0) & ~visible[largest]
    assert changed[others].mean() < 0.005


def test_shadows_darken_and_antialiasing_touches_edges_only():
    objects, view = [block(0)], camera()
    surroundings = sample_surroundings(np.random.default_rng(5), 0)
    bare = render_colour(objects, view, surroundings, shadows=False, antialiasing=False)
    shaded = render_colour(objects, view, surroundings, antialiasing=False)
    assert shaded.mean() < bare.mean()
    assert (shaded <= bare).all()
    smooth = render_colour(objects, view, surroundings)
    inside = np.isfinite(cast_layers([block(0, size=0.8)], view)[0])
    assert (smooth != shaded).any()
    assert (smooth[inside] == shaded[inside]).mean() > 0.7


def test_scene_without_objects_renders():
    surroundings = sample_surroundings(np.random.default_rng(5), 0)
    depth = cast_layers([], camera())
    assert depth.shape == (0, 64, 64)
    assert render_colour([], camera(), surroundings).std() > 0
    assert order_pairs(depth).shape == (0, 2)
