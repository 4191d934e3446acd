"""Placement of objects: upright on the ground, apart, and often one behind the other."""

from collections.abc import Sequence

import numpy as np

_GAP = 0.015  # least distance between two footprints
_TRIES = 8
_STEPS = np.linspace(0.1, 2.1, 41)


def arrange(
    bounds: Sequence[np.ndarray], azimuth: float, crowding: float, rng: np.random.Generator
) -> list[np.ndarray]:
    """Return poses that put objects on the ground without touching footprints.

    A footprint is the bounding rectangle of the object seen from above, so that disjoint footprints
    mean disjoint objects.

    Args:
        bounds: lowest and highest coordinates [2, 3] of each object.
        azimuth: the camera's direction from the group, degrees.
        crowding: chance that an object is put next to another, mostly in front of or behind it as
            the camera sees it; the others stand anywhere in a disc.

    Returns:
        A matrix [4, 4] per object: uniform scale, turn about z, move over the ground.
    """
    radius = 0.4 * np.sqrt(len(bounds))
    placed = np.zeros((0, 4, 2))
    poses = []
    for box in bounds:
        scale, yaw = rng.uniform(0.75, 1.25), rng.uniform(0, 2 * np.pi)
        turn = scale * np.array([[np.cos(yaw), -np.sin(yaw)], [np.sin(yaw), np.cos(yaw)]])
        (x0, y0, _), (x1, y1, _) = box
        corners = np.einsum("ij,vj->vi", turn, np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)]))
        spot = _spot(corners, placed, radius, azimuth, crowding, rng)
        placed = np.concatenate([placed, (corners + spot)[None]])
        pose = np.eye(4)
        pose[:2, :2], pose[2, 2], pose[:2, 3] = turn, scale, spot
        poses.append(pose)
    return poses


def _spot(
    corners: np.ndarray,
    placed: np.ndarray,
    radius: float,
    azimuth: float,
    crowding: float,
    rng: np.random.Generator,
) -> np.ndarray:
    """Return the move of a footprint [4, 2] to a free place near another one or in the disc."""
    middle = corners.mean(axis=0)
    if len(placed) and rng.uniform() < crowding:
        for _ in range(_TRIES):
            anchor = placed[rng.integers(len(placed))].mean(axis=0)
            angle = np.radians(azimuth + rng.choice([0.0, 180.0]) + rng.normal(0, 40))
            away = np.array([np.cos(angle), np.sin(angle)])
            spots = anchor + _STEPS[:, None] * away
            clear = ~overlaps(corners - middle + spots[:, None], placed).any(axis=1)
            # The nearest free place in that direction, if it keeps the group compact.
            if clear.any() and np.hypot(*spots[clear.argmax()]) < 1.2 * radius:
                return spots[clear.argmax()] - middle
    # The disc grows until there is room; the last circle lies outside everything placed.
    growth = radius * np.geomspace(0.8, 3, 64)
    growth[-1] += 2 * (np.abs(placed).max(initial=0.0) + np.abs(corners).max())
    angle = rng.uniform(0, 2 * np.pi, len(growth))
    reach = growth * np.sqrt(rng.uniform(size=len(growth)))
    reach[-1] = growth[-1]
    spots = reach[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    clear = ~overlaps(corners - middle + spots[:, None], placed).any(axis=1)
    return spots[clear.argmax()] - middle


def overlaps(quads: np.ndarray, others: np.ndarray, gap: float = _GAP) -> np.ndarray:
    """Return whether convex quadrilaterals [K, 4, 2] come nearer than ``gap`` to others [M, 4, 2].

    Uses separating axes: two convex shapes are apart if the normal of an edge separates them. Near
    corners the test is slightly stricter than the distance.

    Returns:
        bool [K, M].
    """
    ours, theirs = _normals(quads), _normals(others)
    return ~(
        _separated(ours[:, None], quads[:, None], others[None], gap)
        | _separated(theirs[None], quads[:, None], others[None], gap)
    )


def _normals(quads: np.ndarray) -> np.ndarray:
    edges = np.roll(quads, -1, axis=-2) - quads
    return np.stack([-edges[..., 1], edges[..., 0]], axis=-1) / np.linalg.norm(
        edges, axis=-1, keepdims=True
    )


def _separated(axes: np.ndarray, a: np.ndarray, b: np.ndarray, gap: float) -> np.ndarray:
    """Return whether one of ``axes`` [..., 4, 2] separates a and b [..., 4, 2] by ``gap``."""
    along_a = axes[..., None, 0] * a[..., None, :, 0] + axes[..., None, 1] * a[..., None, :, 1]
    along_b = axes[..., None, 0] * b[..., None, :, 0] + axes[..., None, 1] * b[..., None, :, 1]
    apart = np.maximum(along_b.min(-1) - along_a.max(-1), along_a.min(-1) - along_b.max(-1))
    return (apart >= gap).any(axis=-1)
