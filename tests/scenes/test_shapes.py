import numpy as np
import pytest

from amodal_pipeline.scenes.families import FAMILIES
from amodal_pipeline.scenes.shapes import ball, box, corner_normals, lathe, loft, smooth, tube


@pytest.mark.parametrize("name", FAMILIES)
def test_family_builds_and_varies(name):
    shapes = [FAMILIES[name](np.random.default_rng(seed)) for seed in range(20)]
    sizes = np.array([np.ptp(s.bounds, axis=0) for s in shapes])
    for shape in shapes:
        assert np.isfinite(shape.vertices).all()
        assert shape.bounds[0, 2] == 0
        assert 50 <= len(shape.faces) <= 8000
        assert shape.faces.min() >= 0 and shape.faces.max() < len(shape.vertices)
        assert len(shape.material_of_face) == len(shape.faces)
        assert set(np.unique(shape.material_of_face)) == set(range(len(shape.materials)))
        lengths = np.linalg.norm(shape.corner_normals, axis=-1)
        np.testing.assert_allclose(lengths, 1, atol=1e-5)
    assert (sizes > 0.15).all() and (sizes < 1.8).all()
    assert (sizes.std(axis=0) > 0.01).all(), "the individuals are all alike"
    assert len({tuple(m.colour for m in s.materials) for s in shapes}) > 15


def test_family_is_a_function_of_its_seed():
    first, second = (FAMILIES["teapot"](np.random.default_rng(4)) for _ in range(2))
    np.testing.assert_array_equal(first.vertices, second.vertices)
    assert first.materials == second.materials


def test_box_keeps_flat_normals_and_ball_gets_round_ones():
    cube = box((1, 1, 1), (0, 0, 0))
    normals = corner_normals(cube.vertices, cube.faces).reshape(-1, 3)
    np.testing.assert_allclose(np.abs(normals).max(axis=1), 1, atol=1e-6)
    sphere = ball(1.0, rows=20, segments=30)
    normals = corner_normals(sphere.vertices, sphere.faces)
    outward = sphere.vertices[sphere.faces]
    assert (np.einsum("fcj,fcj->fc", normals, outward) > 0.98).all()


def test_lathe_volume_is_that_of_a_cylinder():
    can = lathe([(0, 0), (1, 0), (1, 2), (0, 2)], 200)
    a, b, c = (can.vertices[can.faces[:, k]] for k in range(3))
    volume = np.einsum("fj,fj->f", a, np.cross(b, c)).sum() / 6
    assert volume == pytest.approx(2 * np.pi, rel=1e-3)  # positive: faces look outwards


def test_tube_keeps_its_radius_along_a_bend():
    angle = np.linspace(0, np.pi, 33)
    path = np.stack([np.cos(angle), 0 * angle, np.sin(angle)], axis=1)
    pipe = tube(path, 0.1, (0, 1, 0))
    away = np.linalg.norm(pipe.vertices[:, None] - path, axis=2).min(axis=1)
    np.testing.assert_allclose(away[: 33 * 12], 0.1, atol=1e-6)


def test_smooth_keeps_the_ends_and_stays_in_the_hull():
    points = smooth([(0, 0), (1, 0), (1, 1)], 3)
    np.testing.assert_array_equal(points[[0, -1]], [(0, 0), (1, 1)])
    assert points.min() >= 0 and points.max() <= 1


def test_loft_leaves_no_empty_faces():
    cone = loft(np.stack([np.zeros((4, 3)), box((1, 1, 1), (0, 0, 1)).vertices[:4]]))
    a, b, c = (cone.vertices[cone.faces[:, k]] for k in range(3))
    assert (np.linalg.norm(np.cross(b - a, c - a), axis=1) > 0).all()
