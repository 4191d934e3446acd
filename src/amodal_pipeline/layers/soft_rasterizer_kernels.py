"""Compiled loops of :mod:`amodal_pipeline.layers.soft_rasterizer` for the CPU.

Every loop processes some of the meshes and writes only to their part of the result, so that several
threads can share them. Numbers are float64 within a loop, whatever the types of the arrays.
"""

import math

import numpy as np
from numba import njit

compiled = njit(cache=True, nogil=True, error_model="numpy")


@compiled
def cover(screen, faces, sigma, reach, near, farthest, outside):
    """Multiply ``outside`` [N, S, S] by 1 - D of every face; it must hold ones at the start."""
    side = outside.shape[1]
    corners, limits = np.empty((3, 2)), np.empty(4, np.int64)
    radius = math.sqrt(reach * sigma)
    for n in range(len(screen)):
        product = np.ones((side, side))
        for f in range(len(faces)):
            if not face_box(screen[n], faces[f], radius, near, farthest, side, corners, limits):
                continue
            for r in range(limits[1], limits[3]):
                y = (2 * r + 1) / side - 1
                for c in range(limits[0], limits[2]):
                    x = (2 * c + 1) / side - 1
                    within, square = nearest(corners, x, y)[:2]
                    inside = (square if within else -square) / sigma
                    if inside >= -reach:
                        product[r, c] /= 1 + math.exp(inside)
        outside[n] = product


@compiled
def pull(screen, faces, sigma, reach, near, farthest, weights, gradient):
    """Add to ``gradient`` [N, V, 3] the sum over faces and pixels of weight · D · d(± d² / sigma).

    ``weights`` [N, S, S]: derivatives of the loss by -log(1 - D).
    """
    side = weights.shape[1]
    corners, limits, pulls = np.empty((3, 2)), np.empty(4, np.int64), np.empty((3, 2))
    radius = math.sqrt(reach * sigma)
    for n in range(len(screen)):
        total = np.zeros((screen.shape[1], 2))
        for f in range(len(faces)):
            if not face_box(screen[n], faces[f], radius, near, farthest, side, corners, limits):
                continue
            pulls[:] = 0
            for r in range(limits[1], limits[3]):
                y = (2 * r + 1) / side - 1
                for c in range(limits[0], limits[2]):
                    x = (2 * c + 1) / side - 1
                    within, square, edge, share, dx, dy = nearest(corners, x, y)
                    inside = (square if within else -square) / sigma
                    if inside < -reach:
                        continue
                    pull = weights[n, r, c] / (1 + math.exp(-inside))
                    pull *= (-2 if within else 2) / sigma
                    after = edge + 1 if edge < 2 else 0
                    pulls[edge, 0] += pull * (1 - share) * dx
                    pulls[edge, 1] += pull * (1 - share) * dy
                    pulls[after, 0] += pull * share * dx
                    pulls[after, 1] += pull * share * dy
            for k in range(3):
                total[faces[f, k], 0] += pulls[k, 0]
                total[faces[f, k], 1] += pulls[k, 1]
        gradient[n, :, :2] = total


@compiled
def face_box(vertices, face, radius, near, farthest, side, corners, limits):
    """Return whether a face is seen, and write its corners and the pixels near it.

    ``corners`` [3, 2] is filled, and ``limits`` with the pixels within ``radius`` of the face's
    box: (left, top, right, bottom), right and bottom exclusive.
    """
    for k in range(3):
        x, y, depth = vertices[face[k]]
        # Written so that NaN fails.
        if not (depth > near and abs(x) <= farthest and abs(y) <= farthest):
            return False
        corners[k, 0], corners[k, 1] = x, y
    for axis in range(2):
        a, b, c = corners[0, axis], corners[1, axis], corners[2, axis]
        low, high = min(a, b, c) - radius, max(a, b, c) + radius
        limits[axis] = max(0, math.ceil((low + 1) * side / 2 - 0.5))
        limits[2 + axis] = min(side, math.floor((high + 1) * side / 2 - 0.5) + 1)
    return limits[0] < limits[2] and limits[1] < limits[3]


@compiled
def nearest(corners, x, y):
    """Return whether (x, y) is within a triangle, and the nearest point of the triangle's border.

    The point is given by the squared distance, the edge, the share of the way along the edge, and
    the vector from it to (x, y).
    """
    square, edge, share, dx, dy = math.inf, 0, 0.0, 0.0, 0.0
    within = False
    for k in range(3):
        after = k + 1 if k < 2 else 0
        along_x, along_y = corners[after, 0] - corners[k, 0], corners[after, 1] - corners[k, 1]
        arm_x, arm_y = x - corners[k, 0], y - corners[k, 1]
        length = along_x * along_x + along_y * along_y
        t = (arm_x * along_x + arm_y * along_y) / (length if length > 0 else 1.0)
        t = min(max(t, 0.0), 1.0)
        across_x, across_y = arm_x - t * along_x, arm_y - t * along_y
        here = across_x * across_x + across_y * across_y
        if here < square:
            square, edge, share, dx, dy = here, k, t, across_x, across_y
        cross = along_x * arm_y - along_y * arm_x
        above, then = arm_y < 0, y < corners[after, 1]
        if above != then and (cross > 0) == then:
            within = not within  # one more edge crosses the ray to the right
    return within, square, edge, share, dx, dy
