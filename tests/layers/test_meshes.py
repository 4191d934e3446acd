import math
from itertools import pairwise

import numpy as np
import pytest
import torch
import trimesh

from amodal_pipeline.layers.meshes import MeshLosses, icosphere, write_obj

TETRAHEDRON = torch.tensor([[0, 2, 1], [0, 1, 3], [1, 2, 3], [2, 0, 3]])


def as_trimesh(vertices, faces):
    return trimesh.Trimesh(vertices.numpy(), faces.numpy(), process=False)


def test_a_sphere_is_closed_round_and_seen_from_outside():
    volumes = []
    for subdivisions in range(4):
        sphere = icosphere(subdivisions)
        assert sphere.vertices.shape == (10 * 4**subdivisions + 2, 3)
        assert sphere.faces.shape == (20 * 4**subdivisions, 3)
        assert sphere.vertices.dtype == torch.float32 and sphere.faces.dtype == torch.int64
        assert torch.allclose(sphere.vertices.norm(dim=1), torch.ones(1))
        solid = as_trimesh(sphere.vertices, sphere.faces)
        # Positive: the faces are counterclockwise from outside.
        assert solid.is_watertight and solid.volume > 0 and solid.euler_number == 2
        volumes.append(solid.volume / (4 / 3 * math.pi))
    assert all(a < b < 1 for a, b in pairwise(volumes)) and volumes[-1] > 0.99


def test_spheres_do_not_share_memory():
    icosphere(1).vertices.zero_()
    assert icosphere(1).vertices.norm(dim=1).min() > 0.99


def test_laplacian_by_hand():
    # Each corner of a tetrahedron has the three others as neighbours.
    losses = MeshLosses(TETRAHEDRON, 4)
    vertices = torch.tensor([[[0.0, 0, 0], [3, 0, 0], [0, 6, 0], [0, 0, 9]]])
    # (0,0,0) - (1,2,3), (3,0,0) - (0,2,3), (0,6,0) - (1,0,3), (0,0,9) - (1,2,0)
    expected = (1 + 4 + 9) + (9 + 4 + 9) + (1 + 36 + 9) + (1 + 4 + 81)
    assert losses.laplacian(vertices).item() == pytest.approx(expected)
    batch = torch.cat([vertices, torch.zeros(1, 4, 3)])
    assert losses.laplacian(batch).item() == pytest.approx(expected / 2)


def test_vertices_of_different_degree_are_compared_with_their_own_neighbours():
    losses = MeshLosses(icosphere(1).faces, 42)
    vertices = torch.randn(3, 42, 3, dtype=torch.float64, generator=torch.manual_seed(0))
    edges = as_trimesh(icosphere(1).vertices, icosphere(1).faces).edges_unique
    expected = 0.0
    for v in range(42):
        near = [b if a == v else a for a, b in edges.tolist() if v in (a, b)]
        assert len(near) in (5, 6)
        expected += (vertices[:, v] - vertices[:, near].mean(dim=1)).square().sum().item() / 3
    assert losses.laplacian(vertices).item() == pytest.approx(expected)


def test_flatten_by_hand():
    losses = MeshLosses(TETRAHEDRON, 4)
    # Flat: vertex 3 is the centre of the triangle 0, 1, 2. The three inner edges are unbent, the
    # outer three are folds.
    flat = torch.tensor([[[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [1 / 3, 1 / 3, 0]]])
    assert losses.flatten(flat).item() == pytest.approx(3 * 4, abs=1e-4)
    # A regular tetrahedron: cos = 1/3 at all six edges.
    regular = torch.tensor([[[1.0, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]])
    assert losses.flatten(regular).item() == pytest.approx(6 * (4 / 3) ** 2, abs=1e-4)
    assert losses.flatten(torch.cat([flat, regular])).item() == pytest.approx(
        (12 + 6 * 16 / 9) / 2, abs=1e-4
    )


def test_descent_makes_a_dented_sphere_smoother():
    sphere = icosphere(2)
    losses = MeshLosses(sphere.faces, len(sphere.vertices))
    dented = sphere.vertices.clone()
    dented[7] *= 1.5
    for loss in (losses.laplacian, losses.flatten):
        vertices = dented[None].clone().requires_grad_()
        (gradient,) = torch.autograd.grad(loss(vertices), vertices)
        # The bump is to go back in, and is the vertex that is wrong most.
        assert (gradient[0, 7] * dented[7]).sum() > 0
        assert gradient[0].norm(dim=1).argmax() == 7
        assert loss(vertices - 1e-3 * gradient) < loss(vertices)


def test_losses_of_collapsed_meshes_are_finite():
    losses = MeshLosses(icosphere(1).faces, 42)
    for vertices in (
        torch.zeros(1, 42, 3),
        icosphere(1).vertices[None] * torch.tensor([1.0, 0, 0]),
    ):
        vertices.requires_grad_()
        total = losses.laplacian(vertices) + losses.flatten(vertices)
        total.backward()
        assert total.isfinite() and vertices.grad.isfinite().all()


def test_losses_leave_no_trace_in_checkpoints_and_refuse_open_surfaces():
    assert not MeshLosses(TETRAHEDRON, 4).state_dict()
    with pytest.raises(ValueError, match=r"edge \[0, 2\] does not have exactly two faces"):
        MeshLosses(TETRAHEDRON[2:], 4)


def test_losses_are_computed_in_full_precision():
    losses = MeshLosses(icosphere(2).faces, 162)
    half = icosphere(2).vertices[None].bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = losses.laplacian(half), losses.flatten(half)
    assert all(f.dtype == torch.float32 for f in found)
    assert found == (losses.laplacian(half.float()), losses.flatten(half.float()))


def test_obj_files_are_read_back(tmp_path):
    sphere = icosphere(1)
    for name, convert in {"tensor": lambda t: t, "array": np.asarray}.items():
        path = tmp_path / "deep" / f"{name}.obj"
        write_obj(path, convert(sphere.vertices * 2), convert(sphere.faces))
        read = trimesh.load(path, process=False)
        assert np.allclose(read.vertices, sphere.vertices * 2, atol=1e-6)
        assert np.array_equal(read.faces, sphere.faces)
    write_obj(path, sphere.vertices.requires_grad_(), sphere.faces)
    assert sorted(p.name for p in path.parent.iterdir()) == ["array.obj", "tensor.obj"]
