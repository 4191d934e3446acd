"""The surface that each pixel shows: its depth, its position and visibility in other frames."""

from dataclasses import dataclass
from typing import Self

import numpy as np

from amodal_pipeline.scenes.camera import Camera
from amodal_pipeline.scenes.motion import Clip
from amodal_pipeline.scenes.render import Stage

STAGE, SKY = -1, -2

_TOLERANCE = 0.02  # share of the depth within which two surfaces at a pixel count as the same


@dataclass(frozen=True)
class Seen:
    """The surfaces at the centres of the pixels of a frame.

    ``owner`` int64 [H, W] is an actor's index, STAGE (ground or wall) or SKY; ``depth`` float64
    [H, W] along the optical axis, world units, 1 for the sky, which has none; ``points`` float64
    [H, W, 3] in world coordinates, for the sky a point in its direction.
    """

    owner: np.ndarray
    depth: np.ndarray
    points: np.ndarray

    @classmethod
    def of(cls, depth: np.ndarray, camera: Camera, stage: Stage) -> Self:
        """Return the visible surfaces, given the depths [N, H, W] of the actors, each alone."""
        rows, columns = np.mgrid[: camera.height, : camera.width] + 0.5
        directions = camera.directions(columns.ravel(), rows.ravel())
        # The renderer's own arithmetic, so that both have the same edge of the wall.
        eye = camera.position.astype(np.float32)
        behind = np.minimum(*stage.cast(eye, directions)).reshape(rows.shape)
        nearest = depth.min(axis=0, initial=np.inf)
        owner = depth.argmin(axis=0) if len(depth) else np.zeros(rows.shape, np.int64)
        owner = np.where(np.isfinite(nearest), owner, np.where(np.isfinite(behind), STAGE, SKY))
        found = np.where(np.isfinite(nearest), nearest, behind).astype(np.float64)
        found[owner == SKY] = 1
        return cls(owner, found, _points(camera, columns, rows, found))


def flow(clip: Clip, seen: Seen, start: int, end: int) -> np.ndarray:
    """Return how far the surface at each pixel of frame ``start`` is moved in frame ``end``.

    The flow is exact for the point of the surface at the pixel's centre, whether or not it is
    visible in the other frame; where neither the camera nor the surface moves it is exactly 0.

    Args:
        clip: the clip.
        seen: surfaces of frame ``start``.
        start, end: indices of the two frames.

    Returns:
        float32 [H, W, 2], in pixels, to the right and down; NaN where the point lies behind the
        camera of frame ``end``.
    """
    camera, other = clip.cameras[start], clip.cameras[end]
    out = np.zeros((*seen.owner.shape, 2))
    before, after = clip.placed(start), clip.placed(end)
    for owner in np.unique(seen.owner):
        at = seen.owner == owner
        points = seen.points[at]
        if owner >= 0:
            moved = after[owner].pose @ np.linalg.inv(before[owner].pose)
            if camera == other and np.array_equal(after[owner].pose, before[owner].pose):
                continue
            points = np.einsum("ij,nj->ni", moved[:3, :3], points) + moved[:3, 3]
        elif camera == other:
            continue
        elif owner == SKY:  # infinitely far: only the camera's turn counts
            points = points - camera.position + other.position
        position, depth = other.project(points)
        rows, columns = np.nonzero(at)
        out[at] = position - np.stack([columns + 0.5, rows + 0.5], axis=1)
        out[rows[depth <= 0], columns[depth <= 0]] = np.nan
    return out.astype(np.float32)


def seen_elsewhere(clip: Clip, depth: np.ndarray, visible: np.ndarray) -> np.ndarray:
    """Return the share of each object's hidden part that another frame shows, float64 [T, N].

    The hidden part is the object's surface at its hidden pixels, as the camera sees it without
    occluders. A point of it counts if it is visible in any other frame of the clip. NaN where
    nothing is hidden.

    Args:
        depth: float32 [T, N, H, W], of each object alone, as :func:`.cast_layers` has them.
        visible: bool [T, N, H, W].
    """
    frames, count = depth.shape[:2]
    share = np.full((frames, count), np.nan)
    hidden = np.isfinite(depth) & ~visible
    for k in range(count):
        poses = [clip.objects[k].placed(t).pose for t in range(frames)]
        for t in np.flatnonzero(hidden[:, k].any(axis=(1, 2))):
            rows, columns = np.nonzero(hidden[t, k])
            found = depth[t, k, rows, columns].astype(np.float64)
            world = _points(clip.cameras[t], columns + 0.5, rows + 0.5, found)
            back = np.linalg.inv(poses[t])
            own = np.einsum("ij,nj->ni", back[:3, :3], world) + back[:3, 3]
            shown = np.zeros(len(own), bool)
            for u in range(frames):
                if u == t or shown.all():
                    continue
                points = np.einsum("ij,nj->ni", poses[u][:3, :3], own) + poses[u][:3, 3]
                shown |= _shows(clip.cameras[u], points, depth[u, k], visible[u, k])
            share[t, k] = shown.mean()
    return share


def _shows(
    camera: Camera, points: np.ndarray, depth: np.ndarray, visible: np.ndarray
) -> np.ndarray:
    """Return whether a frame shows points [N, 3] of an object, bool [N]."""
    position, distance = camera.project(points)
    column, row = np.floor(position).T
    inside = (distance > 0) & (column >= 0) & (column < camera.width)
    inside &= (row >= 0) & (row < camera.height)
    at = np.where(inside, row, 0).astype(int), np.where(inside, column, 0).astype(int)
    near = np.abs(depth[at] - distance) <= _TOLERANCE * distance
    return inside & visible[at] & near


def _points(camera: Camera, columns: np.ndarray, rows: np.ndarray, depth: np.ndarray) -> np.ndarray:
    """Return the world points [..., 3] at pixel positions and depths along the optical axis."""
    x = (columns - camera.principal_point[0]) / camera.focal_length
    y = (rows - camera.principal_point[1]) / camera.focal_length
    local = np.stack([x, y, np.ones_like(x)], axis=-1) * depth[..., None] - camera.translation
    return np.einsum("ji,...j->...i", np.array(camera.rotation), local)
