"""Triangle meshes: a sphere to deform, losses that keep a surface smooth, and OBJ files."""

import os
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor, nn

from amodal_pipeline.annotations.storage import replacing

EPSILON = 1e-8  # added to squared lengths, so that gradients of directions stay bounded at length 0


@dataclass(frozen=True)
class Mesh:
    """Vertices float32 [V, 3] and faces int64 [F, 3], counterclockwise from outside."""

    vertices: Tensor
    faces: Tensor


def icosphere(subdivisions: int) -> Mesh:
    """Return a unit sphere: an icosahedron whose faces are split in four, ``subdivisions`` times.

    It has 10 · 4^subdivisions + 2 vertices and 20 · 4^subdivisions faces: 642 and 1,280 for 3.
    """
    vertices, faces = _icosphere(subdivisions)
    return Mesh(torch.tensor(vertices, dtype=torch.float32), torch.tensor(faces))


@cache
def _icosphere(subdivisions: int) -> tuple[np.ndarray, np.ndarray]:
    if subdivisions == 0:
        return _icosahedron()
    vertices, faces = _icosphere(subdivisions - 1)
    sides = np.stack([faces, np.roll(faces, -1, axis=1)], axis=-1)  # [F, 3, 2]
    edges, of_side = np.unique(np.sort(sides.reshape(-1, 2)), axis=0, return_inverse=True)
    middles = vertices[edges].mean(axis=1)
    middles /= np.linalg.norm(middles, axis=1, keepdims=True)
    a, b, c = faces.T
    ab, bc, ca = (len(vertices) + of_side.reshape(-1, 3)).T
    corners = [[a, ab, ca], [b, bc, ab], [c, ca, bc], [ab, bc, ca]]
    split = np.stack([np.stack(face, axis=1) for face in corners], axis=1)
    return np.concatenate([vertices, middles]), split.reshape(-1, 3)


def _icosahedron() -> tuple[np.ndarray, np.ndarray]:
    """Return vertices and faces: poles on the z axis and two rings of five between them."""
    turn = np.arange(5) * 2 * np.pi / 5
    height, width = 1 / np.sqrt(5), 2 / np.sqrt(5)
    upper = np.stack([width * np.cos(turn), width * np.sin(turn), np.full(5, height)], axis=1)
    lower = np.stack(
        [
            *(width * np.array([np.cos(turn + np.pi / 5), np.sin(turn + np.pi / 5)])),
            np.full(5, -height),
        ],
        axis=1,
    )
    vertices = np.concatenate([[[0.0, 0, 1]], upper, lower, [[0.0, 0, -1]]])
    up, low = np.arange(1, 6), np.arange(6, 11)
    up_next, low_next = np.roll(up, -1), np.roll(low, -1)
    top, bottom = np.zeros(5, np.int64), np.full(5, 11)
    faces = [
        [top, up, up_next],
        [up, low, up_next],
        [low, low_next, up_next],
        [bottom, low_next, low],
    ]
    return vertices, np.concatenate([np.stack(face, axis=1) for face in faces])


class MeshLosses(nn.Module):
    """Computes how rough surfaces with the same faces are (SoftRas: Liu et al., ICCV 2019).

    The sums are not divided by the numbers of vertices and edges, because SoftRas' weights, 5e-3
    and 5e-4, apply to the sums.

    Args:
        faces: int64 [F, 3] of a closed surface.
        vertices: number of vertices.

    Raises:
        ValueError: an edge does not have exactly two faces.
    """

    def __init__(self, faces: Tensor, vertices: int) -> None:
        super().__init__()
        faces = faces.cpu().numpy()
        sides = np.stack([faces, np.roll(faces, -1, axis=1)], axis=-1).reshape(-1, 2)
        opposite = np.roll(faces, -2, axis=1).ravel()
        edges, of_side, faces_at = np.unique(
            np.sort(sides), axis=0, return_inverse=True, return_counts=True
        )
        if (faces_at != 2).any():
            edge = edges[(faces_at != 2).argmax()].tolist()
            raise ValueError(
                f"mesh: edge {edge} does not have exactly two faces, so the surface is not closed: "
                "use a closed surface such as icosphere()"
            )
        order = np.argsort(of_side.ravel(), kind="stable")
        hinges = np.concatenate([edges, opposite[order].reshape(-1, 2)], axis=1)
        directed = np.concatenate([edges, edges[:, ::-1]])
        directed = directed[np.argsort(directed[:, 0], kind="stable")]
        degree = np.bincount(directed[:, 0], minlength=vertices)
        # One row per vertex with room for the most neighbours, padded with the vertex itself.
        table = np.repeat(np.arange(vertices)[:, None], degree.max(), axis=1)
        present = np.arange(table.shape[1]) < degree[:, None]
        table[present] = directed[:, 1]
        for name, values in {
            "neighbours": table,
            "present": present[..., None],
            "degree": degree[:, None].clip(min=1),
            "hinges": hinges,
        }.items():
            self.register_buffer(name, torch.from_numpy(values), persistent=False)

    def laplacian(self, vertices: Tensor) -> Tensor:
        """Return the sum of squared distances of vertices from the mean of their neighbours, [].

        ``vertices`` is [N, V, 3]; the result is the mean over N.
        """
        vertices = full_precision(vertices)
        means = (vertices[:, self.neighbours] * self.present).sum(dim=2) / self.degree
        return (vertices - means).square().sum(dim=(1, 2)).mean()

    def flatten(self, vertices: Tensor) -> Tensor:
        """Return the sum over edges of (1 + cos)² of the angle between an edge's two faces, [].

        It is 0 where the surface is flat (the angle is 180 degrees) and 4 where it is folded. The
        result is the mean over N of the vertices [N, V, 3].
        """
        start, end, left, right = full_precision(vertices)[:, self.hinges].unbind(dim=2)
        along = _unit(end - start)
        arms = (corner - start for corner in (left, right))
        left, right = (_unit(a - along * (a * along).sum(dim=-1, keepdim=True)) for a in arms)
        cosine = (left * right).sum(dim=-1)
        return (1 + cosine).square().sum(dim=1).mean()


def write_obj(
    path: str | os.PathLike, vertices: Tensor | np.ndarray, faces: Tensor | np.ndarray
) -> None:
    """Write a Wavefront OBJ file of one mesh, vertices [V, 3] and faces [F, 3]."""
    vertices, faces = torch.as_tensor(vertices).detach().cpu(), torch.as_tensor(faces).cpu()
    lines = [f"v {x:.6f} {y:.6f} {z:.6f}" for x, y, z in vertices.tolist()]
    lines += [f"f {a} {b} {c}" for a, b, c in (faces + 1).tolist()]
    with replacing(path) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")


def full_precision(values: Tensor) -> Tensor:
    """Return the values in at least float32, also within autocast."""
    return values if values.dtype == torch.float64 else values.float()


def _unit(vectors: Tensor) -> Tensor:
    return vectors / (vectors.square().sum(dim=-1, keepdim=True) + EPSILON).sqrt()
