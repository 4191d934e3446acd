"""Triangle meshes with materials, and the swept surfaces that all mesh families are made of."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from functools import cached_property

import numpy as np

CREASE = np.cos(np.radians(42.0))  # faces that meet at a sharper angle are not smoothed together


class Pattern(IntEnum):
    """How a surface mixes its two colours, as a function of object coordinates."""

    PLAIN = 0
    STRIPES = 1  # slabs across ``direction``
    CHECKS = 2
    SECTORS = 3  # slices around the z axis
    MARBLE = 4
    WOOD = 5  # fibres along ``direction``
    DOTS = 6
    BAND = 7  # the second colour where offset < z < offset + 1 / frequency
    BRICKS = 8
    TILES = 9  # a grid of joints across the ground
    PLANKS = 10  # boards along x


@dataclass(frozen=True)
class Material:
    """Colours are sRGB in 0 to 1; ``frequency`` counts repetitions per unit of length."""

    colour: tuple[float, float, float]
    second: tuple[float, float, float] = (0.0, 0.0, 0.0)
    pattern: Pattern = Pattern.PLAIN
    frequency: float = 1.0
    direction: tuple[float, float, float] = (0.0, 0.0, 1.0)
    offset: float = 0.0
    gloss: float = 0.2


@dataclass(frozen=True)
class Surface:
    """Triangles without a material: ``vertices`` float64 [V, 3], ``faces`` int64 [F, 3]."""

    vertices: np.ndarray
    faces: np.ndarray

    def moved(self, x: float = 0.0, y: float = 0.0, z: float = 0.0) -> "Surface":
        """Return the surface moved by (x, y, z)."""
        return replace(self, vertices=self.vertices + np.array([x, y, z]))

    def scaled(self, x: float = 1.0, y: float = 1.0, z: float = 1.0) -> "Surface":
        """Return the surface scaled by a factor per axis."""
        return replace(self, vertices=self.vertices * np.array([x, y, z]))

    def turned(self, axis: int, degrees: float) -> "Surface":
        """Return the surface turned about coordinate axis 0, 1 or 2."""
        return replace(self, vertices=self.vertices @ _rotation(axis, degrees).T)


@dataclass(frozen=True)
class Shape:
    """A mesh in its own coordinates: +z up, the lowest vertex at z = 0.

    ``vertices`` float64 [V, 3], ``faces`` int64 [F, 3], ``material_of_face`` int64 [F] into
    ``materials``.
    """

    vertices: np.ndarray
    faces: np.ndarray
    material_of_face: np.ndarray
    materials: tuple[Material, ...]

    @cached_property
    def corner_normals(self) -> np.ndarray:
        """Return unit normals of face corners, float32 [F, 3, 3], smooth except across creases."""
        return corner_normals(self.vertices, self.faces)

    @cached_property
    def bounds(self) -> np.ndarray:
        """Return the lowest and highest coordinates, [2, 3]."""
        return np.stack([self.vertices.min(axis=0), self.vertices.max(axis=0)])


def assemble(parts: Iterable[tuple[Surface, Material]]) -> Shape:
    """Return one shape of several parts, with its lowest vertex at z = 0."""
    surfaces, materials = zip(*parts, strict=True)
    starts = np.cumsum([0, *(len(s.vertices) for s in surfaces[:-1])])
    vertices = np.concatenate([s.vertices for s in surfaces])
    vertices[:, 2] -= vertices[:, 2].min()
    faces = np.concatenate([s.faces + start for s, start in zip(surfaces, starts, strict=True)])
    owner = np.repeat(np.arange(len(surfaces)), [len(s.faces) for s in surfaces])
    return Shape(vertices, faces, owner, tuple(materials))


def joined(surfaces: Iterable[Surface]) -> Surface:
    """Return several surfaces as one, for parts that share a material."""
    surfaces = tuple(surfaces)
    starts = np.cumsum([0, *(len(s.vertices) for s in surfaces[:-1])])
    return Surface(
        np.concatenate([s.vertices for s in surfaces]),
        np.concatenate([s.faces + start for s, start in zip(surfaces, starts, strict=True)]),
    )


def loft(rings: np.ndarray, capped: bool = True) -> Surface:
    """Return the surface through closed rings of points.

    Args:
        rings: [S, R, 3]; ring s is joined to ring s + 1, point by point.
        capped: close both ends with a fan around the ring's mean.
    """
    rings = np.asarray(rings, np.float64)
    sections, points = rings.shape[:2]
    grid = np.arange(sections * points).reshape(sections, points)
    a, b = grid[:-1].ravel(), np.roll(grid[:-1], -1, axis=1).ravel()
    c, d = np.roll(grid[1:], -1, axis=1).ravel(), grid[1:].ravel()
    vertices = [rings.reshape(-1, 3)]
    faces = [np.stack([a, b, c], 1), np.stack([a, c, d], 1)]
    if capped:
        start, end = sections * points, sections * points + 1
        vertices.append(rings[[0, -1]].mean(axis=1))
        first, last = grid[0], grid[-1]
        faces.append(np.stack([np.roll(first, -1), first, np.full(points, start)], 1))
        faces.append(np.stack([last, np.roll(last, -1), np.full(points, end)], 1))
    vertices, faces = np.concatenate(vertices), np.concatenate(faces)
    area = np.linalg.norm(_face_vectors(vertices, faces), axis=1)
    return Surface(vertices, faces[area > 1e-12])


def lathe(profile: Sequence[tuple[float, float]] | np.ndarray, segments: int = 28) -> Surface:
    """Return the profile (radius, z) [P, 2] turned about z; it goes from bottom to top outside."""
    profile = np.asarray(profile, np.float64)
    angle = np.arange(segments) * (2 * np.pi / segments)
    circle = np.stack([np.cos(angle), np.sin(angle), np.zeros(segments)], axis=1)
    rings = profile[:, None, :1] * circle
    rings[..., 2] = profile[:, 1:]
    return loft(rings, capped=False)


def cylinder(radius: float, low: float, high: float, top: float | None = None) -> Surface:
    """Return an upright cylinder, or a frustum whose upper radius is ``top``."""
    top = radius if top is None else top
    return lathe([(0, low), (radius, low), (top, high), (0, high)], 20)


def ball(radius: float, stretch: float = 1.0, rows: int = 12, segments: int = 20) -> Surface:
    """Return a spheroid about the origin, ``stretch`` times as high as wide."""
    angle = np.linspace(-np.pi / 2, np.pi / 2, rows)
    return lathe(np.stack([np.cos(angle), stretch * np.sin(angle)], axis=1) * radius, segments)


def tube(path: np.ndarray, radius: float | np.ndarray, side: Sequence[float]) -> Surface:
    """Return a round tube along ``path`` [P, 3]; ``side`` is never parallel to the path."""
    path = np.asarray(path, np.float64)
    tangent = np.gradient(path, axis=0)
    across = np.cross(np.asarray(side, np.float64), tangent)
    across /= np.linalg.norm(across, axis=1, keepdims=True)
    over = np.cross(tangent, across)
    over /= np.linalg.norm(over, axis=1, keepdims=True)
    angle = np.arange(12) * (2 * np.pi / 12)
    radius = np.broadcast_to(np.asarray(radius, np.float64), len(path))[:, None, None]
    circle = np.cos(angle)[None, :, None] * across[:, None]
    circle = circle + np.sin(angle)[None, :, None] * over[:, None]
    return loft(path[:, None] + radius * circle)


def box(
    size: tuple[float, float, float], at: tuple[float, float, float], top: float = 1.0
) -> Surface:
    """Return a box of ``size`` with the middle of its base ``at``; ``top`` scales its upper end."""
    corners = np.array([[-0.5, -0.5], [0.5, -0.5], [0.5, 0.5], [-0.5, 0.5]]) * size[:2]
    rings = np.zeros((2, 4, 3))
    rings[0, :, :2], rings[1, :, :2] = corners, corners * top
    rings[1, :, 2] = size[2]
    return loft(rings + np.asarray(at, np.float64))


def cushion(
    size: tuple[float, float, float], at: tuple[float, float, float], roundness: float = 0.35
) -> Surface:
    """Return a box with rounded edges (a superellipsoid) with the middle of its base ``at``."""
    angle = np.linspace(-np.pi / 2, np.pi / 2, 11)
    around = np.arange(24) * (2 * np.pi / 24)
    radius, height = _power(np.cos(angle), roundness), _power(np.sin(angle), roundness)
    ring = np.stack([_power(np.cos(around), roundness), _power(np.sin(around), roundness)], 1)
    rings = np.zeros((11, 24, 3))
    rings[..., :2] = radius[:, None, None] * ring
    rings[..., 2] = height[:, None] + 1
    return loft(rings * np.asarray(size) / 2 + np.asarray(at, np.float64), capped=False)


def hull_along_x(
    x: Sequence[float],
    low: Sequence[float],
    high: Sequence[float],
    width: Sequence[float],
    roundness: float = 0.4,
    top: float = 1.0,
) -> Surface:
    """Return a body lofted along x through rounded rectangles, ``low`` to ``high``, ``width`` wide.

    ``top`` narrows the upper edge of every section, as in a car's cabin.
    """
    x, low, high, width = (np.asarray(v, np.float64) for v in (x, low, high, width))
    around = (np.arange(20) + 0.5) * (2 * np.pi / 20)
    across, up = _power(np.cos(around), roundness), _power(np.sin(around), roundness)
    rings = np.empty((len(x), 20, 3))
    rings[..., 0] = x[:, None]
    rings[..., 1] = width[:, None] / 2 * across * (1 - (1 - top) * (up + 1) / 2)
    rings[..., 2] = (low + high)[:, None] / 2 + (high - low)[:, None] / 2 * up
    return loft(rings)


def smooth(points: Sequence[Sequence[float]], rounds: int = 2) -> np.ndarray:
    """Return a polyline with its corners cut ``rounds`` times (Chaikin); the end points stay."""
    points = np.asarray(points, np.float64)
    for _ in range(rounds):
        ahead, behind = points[:-1], points[1:]
        cut = np.stack([0.75 * ahead + 0.25 * behind, 0.25 * ahead + 0.75 * behind], axis=1)
        points = np.concatenate([points[:1], cut.reshape(-1, points.shape[1]), points[-1:]])
    return points


def corner_normals(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Return the unit normals of face corners, float32 [F, 3, 3].

    Each is the area-weighted mean over the faces around that vertex whose normals are within the
    crease angle of the corner's own face.
    """
    vectors = _face_vectors(vertices, faces)
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-30)
    vertex = faces.ravel()
    degree = np.bincount(vertex, minlength=len(vertices))
    start = np.cumsum(degree) - degree
    by_vertex = np.argsort(vertex, kind="stable")
    # All pairs (corner, other corner of the same vertex), corner by corner.
    count = degree[vertex]
    first = np.cumsum(count) - count
    corner = np.repeat(np.arange(len(vertex)), count)
    other = by_vertex[start[vertex][corner] + np.arange(len(corner)) - first[corner]] // 3
    alike = np.einsum("ij,ij->i", unit[corner // 3], unit[other]) > CREASE
    total = np.add.reduceat(vectors[other] * alike[:, None], first, axis=0)
    total /= np.maximum(np.linalg.norm(total, axis=1, keepdims=True), 1e-30)
    return total.reshape(-1, 3, 3).astype(np.float32)


def _face_vectors(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    a, b, c = (vertices[faces[:, k]] for k in range(3))
    return np.cross(b - a, c - a)


def _power(values: np.ndarray, exponent: float) -> np.ndarray:
    return np.sign(values) * np.abs(values) ** exponent


def _rotation(axis: int, degrees: float) -> np.ndarray:
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    i, j = [(1, 2), (2, 0), (0, 1)][axis]
    out = np.eye(3)
    out[i, i], out[j, j], out[i, j], out[j, i] = c, c, -s, s
    return out
