"""Ray casting against triangle meshes: Embree if it is installed, otherwise plain NumPy.

The NumPy version is the reference; a test compares the two.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

try:
    from embreex import rtcore_scene
    from embreex.mesh_construction import TriangleMesh
except ImportError:  # pragma: no cover - a platform without wheels
    rtcore_scene = None

_CHUNK = 1 << 20  # ray-triangle pairs computed at a time in the reference


@dataclass(frozen=True)
class Hits:
    """The nearest hit of each ray [R]; at a miss ``distance`` is inf and the rest meaningless.

    ``distance`` (float32) is in lengths of the ray's direction vector. The hit point has the
    barycentric weights (1 − u − v, u, v) in its triangle.
    """

    distance: np.ndarray
    mesh: np.ndarray
    face: np.ndarray
    u: np.ndarray
    v: np.ndarray


Triangles = tuple[np.ndarray, np.ndarray]  # vertices [V, 3], faces [F, 3]


class Caster:
    """Casts rays against meshes, each ``(vertices, faces)``."""

    def __init__(self, meshes: Sequence[Triangles]):
        if rtcore_scene is None:
            warnings.warn(
                "embreex is not installed: rays are cast in NumPy, a hundred times slower; run "
                "pip install embreex",
                stacklevel=2,
            )
            self._meshes = meshes
            return
        self._scene = rtcore_scene.EmbreeScene()
        # The geometries must live as long as the scene.
        self._geometries = [
            TriangleMesh(
                scene=self._scene,
                vertices=np.ascontiguousarray(vertices, np.float32),
                indices=np.ascontiguousarray(faces, np.int32),
            )
            for vertices, faces in meshes
        ]

    def cast(self, origins: np.ndarray, directions: np.ndarray) -> Hits:
        """Return the nearest hits of rays ``origins`` + t ``directions``, t > 0, both [R, 3]."""
        if rtcore_scene is None:
            return cast_reference(self._meshes, origins, directions)
        origins = np.ascontiguousarray(np.broadcast_to(origins, directions.shape), np.float32)
        found = self._scene.run(origins, np.ascontiguousarray(directions, np.float32), output=1)
        hit = found["primID"] >= 0
        return Hits(
            np.where(hit, found["tfar"], np.float32(np.inf)),
            found["geomID"],
            found["primID"],
            found["u"],
            found["v"],
        )

    def blocked(self, origins: np.ndarray, directions: np.ndarray) -> np.ndarray:
        """Return whether each ray hits anything, bool [R]."""
        if rtcore_scene is None:
            return np.isfinite(cast_reference(self._meshes, origins, directions).distance)
        origins = np.ascontiguousarray(origins, np.float32)
        directions = np.ascontiguousarray(directions, np.float32)
        return self._scene.run(origins, directions, query="OCCLUDED") != -1


def cast_reference(
    meshes: Sequence[Triangles], origins: np.ndarray, directions: np.ndarray
) -> Hits:
    """Return the nearest hits by Möller and Trumbore (1997) over all pairs, computed in float64."""
    directions = np.asarray(directions, np.float64)
    origins = np.broadcast_to(np.asarray(origins, np.float64), directions.shape)
    rays = len(directions)
    best = Hits(
        np.full(rays, np.inf),
        np.full(rays, -1),
        np.full(rays, -1),
        np.zeros(rays),
        np.zeros(rays),
    )
    for index, (vertices, faces) in enumerate(meshes):
        centre = (vertices.min(axis=0) + vertices.max(axis=0)) / 2
        radius = np.linalg.norm(vertices - centre, axis=1).max()
        away = np.cross(centre - origins, directions)
        length = np.linalg.norm(directions, axis=1)
        near = np.flatnonzero(np.linalg.norm(away, axis=1) <= radius * length * 1.001)
        corner = vertices[faces[:, 0]]
        edge1, edge2 = vertices[faces[:, 1]] - corner, vertices[faces[:, 2]] - corner
        step = max(1, _CHUNK // len(faces))
        for rows in np.split(near, np.arange(step, len(near), step)):
            direction, origin = directions[rows, None], origins[rows, None]
            with np.errstate(divide="ignore", invalid="ignore"):
                p = np.cross(direction, edge2)
                inverse = 1 / np.sum(edge1 * p, axis=-1)
                s = origin - corner
                u = np.sum(s * p, axis=-1) * inverse
                q = np.cross(s, edge1)
                v = np.sum(direction * q, axis=-1) * inverse
                t = np.sum(edge2 * q, axis=-1) * inverse
                inside = (u >= 0) & (v >= 0) & (u + v <= 1) & (t > 0)
            t = np.where(inside, t, np.inf)
            face = t.argmin(axis=1)
            row = np.arange(len(rows))
            nearer = t[row, face] < best.distance[rows]
            row, face, to = row[nearer], face[nearer], rows[nearer]
            best.distance[to], best.mesh[to], best.face[to] = t[row, face], index, face
            best.u[to], best.v[to] = u[row, face], v[row, face]
    return Hits(
        best.distance.astype(np.float32),
        best.mesh.astype(np.int32),
        best.face.astype(np.int32),
        best.u.astype(np.float32),
        best.v.astype(np.float32),
    )
