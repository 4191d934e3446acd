import math

import numpy as np
import pytest
import torch

from amodal_pipeline.layers.cameras import (
    NEAR,
    PRESETS,
    Viewpoints,
    fit,
    project,
    viewpoints_of,
)
from amodal_pipeline.scenes.camera import Camera


def viewpoints(elevation, azimuth, distance, dtype=torch.float64):
    return Viewpoints(
        torch.tensor(elevation, dtype=dtype).deg2rad(),
        torch.tensor(azimuth, dtype=dtype).deg2rad(),
        torch.tensor(distance, dtype=dtype),
    )


@pytest.mark.parametrize(("width", "height"), [(64, 64), (80, 40), (30, 90)])
def test_points_fall_where_the_camera_of_scenes_sees_them(width, height):
    points = np.random.default_rng(0).uniform(-0.8, 0.8, (3, 20, 3))
    views = [(10.0, 30.0, 3.0), (0.0, -140.0, 2.5), (29.0, 100.0, 5.0)]
    longer = max(width, height)
    across = 43.6
    aspect = torch.tensor([[width / longer, height / longer]], dtype=torch.float64).expand(3, 2)
    found = project(
        torch.from_numpy(points), viewpoints(*zip(*views, strict=True)), across, aspect
    ).numpy()
    for i, (elevation, azimuth, distance) in enumerate(views):
        # The field of view of that camera is across the width.
        tangent = math.tan(math.radians(across) / 2) * width / longer
        camera = Camera.looking_at(
            np.zeros(3),
            azimuth=azimuth,
            elevation=elevation,
            distance=distance,
            field_of_view=math.degrees(2 * math.atan(tangent)),
            width=width,
            height=height,
        )
        pixels, depth = camera.project(points[i])
        assert np.allclose((found[i, :, :2] + 1) / 2 * [width, height], pixels)
        assert np.allclose(found[i, :, 2], depth)


def test_a_window_is_stretched_to_a_square():
    corner = torch.tensor([[[0.0, 0.5, 0.25]]], dtype=torch.float64).repeat(2, 1, 1)
    front = viewpoints([0.0, 0.0], [0.0, 0.0], [2.0, 2.0])
    aspect = torch.tensor([[1.0, 0.5], [0.5, 1.0]], dtype=torch.float64)
    tangent = math.tan(math.radians(15))
    found = project(corner, front, 30.0, aspect)
    expected = [[0.25 / tangent, -0.25 / tangent], [0.5 / tangent, -0.125 / tangent]]
    assert found[:, 0, :2].tolist() == [pytest.approx(e) for e in expected]
    assert torch.equal(project(corner, front, 30.0), project(corner, front, 30.0, aspect * 0 + 1))


def test_viewpoints_stay_in_the_ranges_of_their_preset():
    raw = torch.tensor([[-60.0, -60, 0, 1], [60, 60, 1, 0], [0, 0, 0, -1], [0, 0, -2, 0.0]])
    found = viewpoints_of(raw, PRESETS["smr"])
    assert found.elevation.rad2deg().tolist() == pytest.approx([0, 30, 15, 15], abs=1e-4)
    assert found.distance.tolist() == pytest.approx([2, 6, 4, 4])
    assert found.azimuth.rad2deg().tolist() == pytest.approx([0, 90, 180, -90], abs=1e-4)
    fixed = viewpoints_of(raw, PRESETS["softras"])
    assert fixed.elevation.rad2deg().tolist() == pytest.approx([30] * 4, abs=1e-4)
    assert fixed.distance.tolist() == pytest.approx([2.732] * 4)


def test_the_azimuth_has_a_gradient_even_where_there_is_none_to_see():
    raw = torch.zeros(2, 4, requires_grad=True)
    viewpoints_of(raw, PRESETS["smr"]).azimuth.sum().backward()
    assert raw.grad.isfinite().all()


def test_presets_are_those_of_their_papers():
    smr, softras = PRESETS["smr"], PRESETS["softras"]
    assert smr.field_of_view == pytest.approx(43.603, abs=1e-3)  # 2 * atan(1 / 2.5)
    assert (smr.radius, smr.distance, smr.elevation) == (1, (2, 6), (0, 30))
    assert (softras.field_of_view, softras.radius) == (30, 0.5)
    assert softras.distance == (2.732, 2.732) and softras.elevation == (30, 30)
    estimated = PRESETS["softras_estimated"]
    assert (estimated.field_of_view, estimated.radius) == (30, 0.5)
    assert (estimated.distance, estimated.elevation) == ((2, 4), (0, 60))


def test_the_sphere_of_each_preset_is_in_the_picture():
    for preset in PRESETS.values():
        assert min(preset.distance) > preset.radius + NEAR
        # Of a sphere at the distance at which it is smallest, and largest.
        for distance in preset.distance:
            seen = preset.radius / math.sqrt(distance**2 - preset.radius**2)
            assert 0.2 < seen / math.tan(math.radians(preset.field_of_view / 2)) < 1.5


def test_gradients_reach_vertices_cameras_and_windows():
    generator = torch.manual_seed(1)
    vertices = torch.rand(2, 5, 3, dtype=torch.float64, generator=generator) - 0.5
    raw = torch.randn(2, 4, dtype=torch.float64, generator=generator)
    aspect = torch.tensor([[1.0, 0.6], [0.3, 1.0]], dtype=torch.float64)

    def seen(vertices, raw, aspect):
        return fit(project(vertices, viewpoints_of(raw, PRESETS["smr"]), 43.6, aspect), 0.9, 0.1)

    inputs = tuple(t.requires_grad_() for t in (vertices, raw, aspect))
    assert torch.autograd.gradcheck(seen, inputs)


def test_points_behind_the_camera_are_finite_and_have_finite_gradients():
    vertices = torch.tensor([[[2.0, 1, 1], [3, 1, 1], [9, -4, 0], [0, 0, 0]]], requires_grad=True)
    found = project(vertices, viewpoints([0.0], [0.0], [2.0], torch.float32), 30.0)
    assert found[0, :, 2].tolist() == pytest.approx([0, -1, -7, 2])
    found.sum().backward()
    assert found.isfinite().all() and vertices.grad.isfinite().all()


def test_fitted_vertices_reach_the_border_of_the_window():
    screen = torch.tensor([[[0.1, 0.2, 2], [0.3, -0.6, 3], [0.2, 0.1, 4], [50, -50, -1.0]]])
    found = fit(screen, 0.8, least=0.03)
    assert found[0, :3, 0].tolist() == pytest.approx([-0.8, 0.8, 0])
    assert found[0, :3, 1].tolist() == pytest.approx([0.8, -0.8, 0.6])
    assert torch.equal(found[..., 2], screen[..., 2])
    # One point, and nothing in front at all.
    assert fit(screen[:, :1].repeat(1, 3, 1), 1.0, 0.03)[..., :2].abs().max() == 0
    assert fit(screen * torch.tensor([1, 1, -1.0]) - 4, 1.0, 0.03).isfinite().all()


def test_what_is_narrower_than_a_pixel_is_not_magnified_without_bound():
    screen = torch.tensor([[[0.1, -1, 2], [0.1 + 1e-7, 0.5, 2], [0.1, 1, 2]]], requires_grad=True)
    found = fit(screen, 1.0, least=0.125)
    assert found[..., 0].abs().max() < 1e-5
    assert found[0, :, 1].tolist() == pytest.approx([-1, 0.5, 1])
    found[0, 0, 0].backward()
    assert screen.grad.abs().max() <= 2 / 0.125


def test_projection_is_computed_in_full_precision():
    vertices = torch.rand(1, 9, 3, generator=torch.manual_seed(0)).bfloat16()
    raw = torch.randn(1, 4, generator=torch.manual_seed(1)).bfloat16()
    expected = project(vertices.float(), viewpoints_of(raw.float(), PRESETS["smr"]), 43.6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = project(vertices, viewpoints_of(raw, PRESETS["smr"]), 43.6)
    assert found.dtype == torch.float32 and torch.equal(found, expected)
