import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from amodal_pipeline.layers import soft_rasterizer
from amodal_pipeline.layers.cameras import PRESETS, project, viewpoints_of
from amodal_pipeline.layers.meshes import icosphere
from amodal_pipeline.layers.soft_rasterizer import (
    COMPILED,
    FARTHEST,
    PAIRS,
    rasterize,
    silhouettes,
    silhouettes_reference,
)


def compiled(*arguments):
    return rasterize(COMPILED, *arguments)


def pairs(*arguments):
    return rasterize(PAIRS, *arguments)


WAYS = pytest.mark.parametrize("way", [silhouettes_reference, pairs, compiled])
FAST = pytest.mark.parametrize("way", [pairs, compiled])


def on_screen(*corners, depth=2.0):
    """[1, V, 3]."""
    return torch.tensor([[(*corner, depth) for corner in corners]], dtype=torch.float64)


def bumped(count, subdivisions=2, seed=0, dtype=torch.float32):
    """Dented spheres as random cameras see them, [count, V, 3], and their faces."""
    generator = torch.manual_seed(seed)
    sphere, preset = icosphere(subdivisions), PRESETS["smr"]
    dents = 1 + 0.1 * torch.randn(count, len(sphere.vertices), 1, generator=generator)
    viewpoints = viewpoints_of(torch.randn(count, 4, generator=generator), preset)
    screen = project(sphere.vertices * dents, viewpoints, preset.field_of_view)
    return screen.to(dtype), sphere.faces


def with_gradient(way, screen, faces, side, sigma):
    """The silhouettes, and the gradient of their sum with uneven weights."""
    screen = screen.clone().requires_grad_()
    found = way(screen, faces, side, sigma)
    weights = torch.linspace(-1, 1, found.numel(), dtype=found.dtype).reshape(found.shape).sin()
    (found * weights).sum().backward()
    return found.detach(), screen.grad


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


@WAYS
def test_one_triangle_by_hand(way):
    corners = on_screen((-1, -1), (1, -1), (-1, 1))
    faces = torch.tensor([[0, 1, 2]])
    sigma = 0.05
    found = way(corners, faces, 4, sigma)
    assert found.shape == (1, 4, 4)
    # Pixel centres are at -0.75, -0.25, 0.25 and 0.75; the long side is x + y = 0.
    expected = {
        (0, 0): sigmoid(0.25**2 / sigma),
        (0, 1): sigmoid(0.25**2 / sigma),
        (1, 1): sigmoid(0.5**2 / 2 / sigma),
        (0, 3): 0.5,
        (2, 1): 0.5,
        (1, 3): sigmoid(-(0.5**2) / 2 / sigma),
        (3, 3): sigmoid(-(1.5**2) / 2 / sigma),
    }
    for (row, column), value in expected.items():
        assert found[0, row, column].item() == pytest.approx(value, rel=1e-6), (row, column)
    turned = way(corners, faces.flip(1), 4, sigma)
    assert torch.allclose(turned, found)


@WAYS
def test_x_goes_right_and_y_goes_down(way):
    corners = on_screen((0.0, -0.9), (0.9, -0.9), (0.9, 0.0))
    found = way(corners, torch.tensor([[0, 1, 2]]), 8, 1e-4)[0]
    assert found[1, 6] > 0.99 and found[6, 1] < 0.01 and found[1, 1] < 0.01


@WAYS
def test_distance_to_a_corner_and_chance_of_two_faces(way):
    # Pixel centres are at -0.5 and 0.5: the nearest point of both faces is a corner.
    corners = on_screen((0.7, 0.8), (0.9, 0.8), (0.9, 0.9), (0.5, -0.7), (0.4, -1), (0.6, -1))
    found = way(corners, torch.tensor([[0, 1, 2], [3, 4, 5], [3, 5, 4]]), 2, 0.02)[0]
    assert found[1, 1].item() == pytest.approx(sigmoid(-(0.2**2 + 0.3**2) / 0.02), rel=1e-6)
    once = sigmoid(-(0.2**2) / 0.02)
    assert found[0, 1].item() == pytest.approx(1 - (1 - once) ** 2, rel=1e-6)


@WAYS
def test_a_face_without_area_does_not_cover_the_line_it_is_on(way):
    # Pixel centres lie on the line, beyond its ends: rounded, all edges have them on one side.
    x = torch.tensor([1.25, -0.25, 1.0], dtype=torch.float64)
    for corners in ((x, 0.4 * x - 0.1), (x, 0.4 * x - 0.1 + 1e-17), (x, 0 * x + 0.1)):
        for a, b in (corners, corners[::-1]):
            screen = torch.stack([a, b, 0 * x + 2], dim=1)[None]
            found = way(screen, torch.tensor([[0, 1, 2]]), 10, 1e-3)
            # Twice 0.5 would not matter, 1 does: D of a border is one half.
            assert found.max() < 0.5 + 1e-9


@WAYS
def test_far_faces_are_not_seen_at_all(way):
    corners = on_screen((-0.95, -0.95), (-0.75, -0.95), (-0.95, -0.75))
    found, gradient = with_gradient(way, corners, torch.tensor([[0, 1, 2]]), 16, 1e-4)
    near = found[0, :3, :3]
    assert near.max() > 0.5 and found.sum() == near.sum()
    assert gradient.abs().sum() > 0


@WAYS
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_faces_without_a_picture_are_left_out(way, dtype):
    good = [[-0.5, -0.5, 2], [0.5, -0.5, 2], [0, 0.5, 2]]
    bad = [
        [0.1, 0.1, 0.05],
        [0.1, 0.1, -3],
        [math.nan, 0, 2],
        [0, math.inf, 2],
        [0.0, 0, math.nan],
        [10 * FARTHEST, 0, 2],
    ]
    screen = torch.tensor([good + bad], dtype=dtype)
    faces = torch.tensor([[0, 1, 2]] + [[0, 1, 3 + i] for i in range(len(bad))])
    found, gradient = with_gradient(way, screen, faces, 16, 1e-3)
    alone, expected = with_gradient(way, screen[:, :3], faces[:1], 16, 1e-3)
    assert torch.equal(found, alone)
    assert torch.equal(gradient[:, :3], expected) and (gradient[:, 3:] == 0).all()


@WAYS
def test_nothing_to_see(way):
    screen, faces = bumped(2, subdivisions=0)
    for some, these in ((screen[:0], faces), (screen, faces[:0]), (screen + 9, faces)):
        found, gradient = with_gradient(way, some, these, 8, 1e-4)
        assert found.shape == (len(some), 8, 8) and (found == 0).all()
        assert gradient.shape == some.shape and (gradient == 0).all()


@st.composite
def unfriendly(draw):
    """Meshes [N, V, 3] with faces that are flat, tiny, huge, beside the window, half behind."""
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    count, vertices = draw(st.integers(1, 3)), draw(st.integers(3, 9))
    flat = random.uniform(-1.3, 1.3, (count, vertices, 2))
    if draw(st.booleans()):
        flat = np.round(flat * 8) / 8  # many points at the same distance of several edges
    if draw(st.booleans()):
        flat[:, ::2, 1] = 0.4 * flat[:, ::2, 0] - 0.1  # on one line
    flat *= draw(st.sampled_from([1.0, 1.0, 1.0, 1e-6, 0.01, 30, 1e3, 1e5, 1e8]))
    flat += draw(st.sampled_from([0.0, 0.0, 0.3, -0.9]))
    depth = random.uniform(draw(st.sampled_from([-1, 0.05, 1.0])), 4, (count, vertices, 1))
    faces = random.integers(0, vertices, (draw(st.integers(1, 12)), 3))  # some have no area
    screen = torch.from_numpy(np.concatenate([flat, depth], axis=2))
    sigma = draw(st.sampled_from([1e-5, 1e-4, 1e-3, 1e-1]))
    return screen, torch.from_numpy(faces), draw(st.integers(1, 12)), sigma


@settings(max_examples=150, deadline=None)
@given(unfriendly())
def test_all_ways_agree_on_any_mesh(scene):
    expected, slope = with_gradient(silhouettes_reference, *scene)
    assert expected.isfinite().all() and slope.isfinite().all()
    assert expected.min() >= 0 and expected.max() <= 1
    for way in (pairs, compiled):
        found, gradient = with_gradient(way, *scene)
        assert (found - expected).abs().max() < 1e-5
        assert (gradient - slope).abs().max() <= 1e-5 * max(1, slope.abs().max())


@settings(max_examples=60, deadline=None)
@given(unfriendly())
def test_no_mesh_gives_nan_in_float32(scene):
    screen, *rest = scene
    for way in (silhouettes_reference, pairs, compiled):
        found, gradient = with_gradient(way, screen.float(), *rest)
        assert found.dtype == gradient.dtype == torch.float32
        assert found.isfinite().all() and gradient.isfinite().all()
        assert found.min() >= 0 and found.max() <= 1


@FAST
def test_float32_is_as_good_as_float64(way):
    screen, faces = bumped(3)
    expected, slope = with_gradient(silhouettes_reference, screen.double(), faces, 32, 1e-4)
    found, gradient = with_gradient(way, screen, faces, 32, 1e-4)
    assert (found - expected).abs().max() < 1e-5
    assert (gradient - slope).abs().max() < 1e-5 * slope.abs().max()


@FAST
def test_gradients_of_corners_vertices_and_cameras(way):
    generator = torch.manual_seed(3)
    sphere, preset = icosphere(0), PRESETS["smr"]
    dents = 1 + 0.3 * torch.randn(2, 12, 1, generator=generator, dtype=torch.float64)
    vertices = (sphere.vertices.double() * dents).requires_grad_()
    raw = torch.randn(2, 4, generator=generator, dtype=torch.float64).requires_grad_()

    def seen(vertices, raw):
        screen = project(vertices, viewpoints_of(raw, preset), preset.field_of_view)
        return way(screen, sphere.faces, 6, 0.02)

    assert torch.autograd.gradcheck(seen, (vertices, raw), fast_mode=True)
    screen = on_screen((-0.6, -0.5), (0.7, -0.3), (0.1, 0.8)).requires_grad_()
    one = torch.tensor([[0, 1, 2]])
    assert torch.autograd.gradcheck(lambda corners: way(corners, one, 5, 0.03), (screen,))


def test_results_are_the_same_to_the_bit_however_many_threads():
    screen, faces = bumped(5)
    threads = torch.get_num_threads()
    try:
        for way in (compiled, pairs):
            expected = with_gradient(way, screen, faces, 24, 1e-4)
            for torch_threads in (1, 2, 3):
                torch.set_num_threads(torch_threads)
                found = with_gradient(way, screen, faces, 24, 1e-4)
                assert all(map(torch.equal, found, expected))
    finally:
        torch.set_num_threads(threads)


@WAYS
def test_autocast_changes_nothing(way):
    screen, faces = bumped(2)
    expected = with_gradient(way, screen.bfloat16().float(), faces, 16, 1e-4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = with_gradient(way, screen.bfloat16(), faces, 16, 1e-4)
    assert found[0].dtype == torch.float32 and torch.equal(found[0], expected[0])
    assert torch.allclose(found[1].float(), expected[1], rtol=0.01, atol=0.5)


@FAST
def test_only_the_result_is_kept_for_the_gradient(way):
    screen, faces = bumped(2)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()), lambda t: t):
        found = way(screen.requires_grad_(), faces, 64, 1e-2)
    assert sum(kept) <= screen.numel() + faces.numel() + found.numel()


def test_pairs_come_in_pieces_of_bounded_size(monkeypatch):
    screen, faces = bumped(2, subdivisions=1)
    expected = with_gradient(pairs, screen, faces, 16, 1e-3)
    monkeypatch.setattr(soft_rasterizer, "PIECE", 100)
    pieces = list(soft_rasterizer._near(screen, faces, 16, 1e-3))
    assert len(pieces) > 10 and max(len(piece.x) for piece in pieces) == 100
    # Far fewer than all faces at all pixels.
    assert sum(len(piece.x) for piece in pieces) < 0.25 * 2 * len(faces) * 16**2
    found = with_gradient(pairs, screen, faces, 16, 1e-3)
    assert torch.allclose(found[0], expected[0], atol=1e-6)
    assert torch.allclose(found[1], expected[1], atol=1e-6 * expected[1].abs().max().item())


def test_the_way_follows_the_device_of_the_mesh():
    screen, faces = bumped(1)
    assert torch.equal(silhouettes(screen, faces, 16, 1e-4), compiled(screen, faces, 16, 1e-4))
    if torch.cuda.is_available():
        found = with_gradient(silhouettes, screen.cuda(), faces.cuda(), 16, 1e-4)
        expected = with_gradient(compiled, screen, faces, 16, 1e-4)
        assert (found[0].cpu() - expected[0]).abs().max() < 1e-5
        assert (found[1].cpu() - expected[1]).abs().max() < 1e-5 * expected[1].abs().max()


def test_faces_of_other_vertices_are_refused():
    for face in ([0, 1, 3], [-1, 1, 2]):
        with pytest.raises(IndexError, match="not among the 3"):
            silhouettes(torch.zeros(1, 3, 3), torch.tensor([face]), 4, 1e-4)


@pytest.mark.parametrize("distance", [2.5, 6.0])
def test_the_area_of_a_sphere(distance):
    sphere, side = icosphere(4), 128
    depth = torch.tensor([distance])
    viewpoints = viewpoints_of(torch.randn(1, 4), PRESETS["smr"])
    viewpoints = type(viewpoints)(viewpoints.elevation, viewpoints.azimuth, depth)
    screen = project(sphere.vertices[None], viewpoints, 60.0)
    found = silhouettes(screen, sphere.faces, side, 1e-6)
    radius = 1 / math.sqrt(distance**2 - 1) / math.tan(math.radians(30))
    assert found.sum().item() * (2 / side) ** 2 == pytest.approx(math.pi * radius**2, rel=0.01)


def test_a_camera_is_recovered_from_a_silhouette():
    sphere, preset, side = icosphere(2), PRESETS["smr"], 48
    x, y, z = sphere.vertices.unbind(dim=1)
    # A long body with a cabin at one end and a fin on one side.
    vertices = torch.stack([x, 0.45 * y, 0.35 * z], dim=1)
    vertices = vertices + torch.stack(
        [0 * x, 0.4 * (y > 0.8), 0.5 * ((z > 0.3) & (x > 0.2))], dim=1
    )

    def seen(raw, sigma):
        viewpoints = viewpoints_of(raw, preset)
        meshes = vertices.expand(len(raw), -1, -1)
        screen = project(meshes, viewpoints, preset.field_of_view)
        return silhouettes(screen, sphere.faces, side, sigma)

    truth = torch.tensor([[0.8, -1.0, math.sin(2.2), math.cos(2.2)]])
    wanted = (seen(truth, 1e-4) > 0.5).float()
    starts = torch.arange(8) * 2 * math.pi / 8
    raw = torch.stack([0 * starts, 0 * starts, starts.sin(), starts.cos()], dim=1)
    raw.requires_grad_()
    optimizer = torch.optim.Adam([raw], lr=0.05)

    def hard_iou():
        found = seen(raw, 1e-4) > 0.5
        return (found & (wanted > 0)).sum(dim=(1, 2)) / (found | (wanted > 0)).sum(dim=(1, 2))

    assert hard_iou().max() < 0.85
    for iteration in range(120):
        # Blurred silhouettes are too large: first to find the way, then sharper.
        found = seen(raw, 1e-3 if iteration < 50 else 1e-4)
        both = (found * wanted).sum(dim=(1, 2))
        either = (found + wanted - found * wanted).sum(dim=(1, 2))
        optimizer.zero_grad()
        (1 - both / either).sum().backward()
        optimizer.step()
    assert hard_iou().max() > 0.95
