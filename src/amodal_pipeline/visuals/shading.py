"""Shaded pictures of triangle meshes, by a depth buffer."""

from __future__ import annotations

import numpy as np
from PIL import Image

from amodal_pipeline.layers.cameras import NEAR

GROUND = (241, 243, 246)
_CLAY = (214, 202, 188)
_AMBIENT = 0.4
_FINER = 3  # times as many pixels are drawn, and averaged
_PAIRS = 1 << 20  # of a face and a pixel, in memory at once


def shaded(
    vertices: np.ndarray,
    screen: np.ndarray,
    faces: np.ndarray,
    lamp: tuple[float, float, float],
    size: tuple[int, int],
) -> Image.Image:
    """A mesh of clay on a light ground: Lambert's law, with normals that run smoothly over edges.

    Faces are lit on the side that is seen. Those with a vertex that is not in front of the camera
    are left out.

    Args:
        vertices: [V, 3], in the world.
        screen: [V, 3], the same as they are seen: x to the right and y down, the picture being
            −1..1 in both, and the depth.
        faces: int [F, 3], counter-clockwise from outside.
        lamp: where the light comes from, a direction in the world.
        size: (width, height) in pixels.
    """
    vertices, screen = np.asarray(vertices, np.float64), np.asarray(screen, np.float64)
    width, height = (_FINER * s for s in size)
    face, weights = nearest_faces(screen, faces, (width, height))
    hit = face >= 0
    corners = faces[face[hit]]
    normal = _unit(np.einsum("pc,pcd->pd", weights[hit], _normals(vertices, faces)[corners]))
    # Seen from outside, corners run counter-clockwise: clockwise in x and y, which points down.
    normal *= -np.sign(_doubled_area(screen[corners, :2]))[:, None]
    facing = np.maximum(normal @ _unit(np.array(lamp)), 0)
    pixels = np.full((height * width, 3), GROUND, np.float64)
    pixels[hit] = (_AMBIENT + (1 - _AMBIENT) * facing)[:, None] * np.array(_CLAY)
    image = Image.fromarray(pixels.reshape(height, width, 3).round().astype(np.uint8))
    return image.resize(size, Image.Resampling.BOX)


def nearest_faces(
    screen: np.ndarray, faces: np.ndarray, size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """The face that is seen in each pixel's centre, and where on it.

    Args:
        screen, faces: as of :func:`shaded`.
        size: (width, height) in pixels; pixels are counted row by row.

    Returns:
        int64 [height · width], −1 where there is none; weights of the corners, float64
        [height · width, 3], linear on the screen.
    """
    width, height = size
    found = np.full(width * height, -1)
    weights, nearest = np.zeros((width * height, 3)), np.full(width * height, np.inf)
    shown = np.isfinite(screen[faces]).all(axis=(1, 2)) & (screen[faces, 2] > NEAR).all(axis=1)
    shown[shown] = _doubled_area(screen[faces[shown], :2]) != 0
    rows = np.flatnonzero(shown)
    # Where pixel (0, 0) has its centre at (0, 0).
    corners = (screen[faces[rows], :2] + 1) * np.array(size) / 2 - 0.5
    low = np.ceil(corners.min(axis=1).clip(0, size)).astype(np.int64)
    high = np.floor(corners.max(axis=1).clip(-1, np.array(size) - 1)).astype(np.int64)
    extent = (high - low + 1).clip(0)
    pairs = extent.prod(axis=1)
    parts = np.flatnonzero(np.diff(np.cumsum(pairs) // _PAIRS)) + 1
    for own in np.split(np.arange(len(rows)), parts):
        index = np.repeat(own, pairs[own])
        place = np.arange(len(index)) - np.repeat(np.cumsum(pairs[own]) - pairs[own], pairs[own])
        column = low[index, 0] + place % extent[index, 0]
        row = low[index, 1] + place // extent[index, 0]
        to = corners[index] - np.stack([column, row], axis=1)[:, None]
        # The triangle of the point and the two other corners, as a share of the whole.
        share = np.stack([_cross(to[:, (i + 1) % 3], to[:, (i + 2) % 3]) for i in range(3)], axis=1)
        share /= _doubled_area(corners[index])[:, None]
        inside = np.flatnonzero((share >= 0).all(axis=1))
        index, share = index[inside], share[inside]
        pixel = (row * width + column)[inside]
        # On the screen, one over the depth is linear.
        depth = 1 / (share / screen[faces[rows[index]], 2]).sum(axis=1)
        # Of several at one pixel the last written stays: the nearest.
        order = np.argsort(-depth, kind="stable")
        order = order[depth[order] < nearest[pixel[order]]]
        pixel = pixel[order]
        found[pixel], weights[pixel] = rows[index[order]], share[order]
        nearest[pixel] = depth[order]
    return found, weights


def _normals(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Unit normals of vertices [V, 3]: those of the faces around, by their areas."""
    a, b, c = (vertices[faces[:, i]] for i in range(3))
    total = np.zeros_like(vertices)
    np.add.at(total, faces, np.cross(b - a, c - a)[:, None])
    return _unit(total)


def _unit(vectors: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / np.where(length > 0, length, 1)


def _doubled_area(corners: np.ndarray) -> np.ndarray:
    """Of triangles [N, 3, 2]: positive where x turns to y on the way round."""
    return _cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])


def _cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]
