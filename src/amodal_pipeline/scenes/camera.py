"""A pinhole camera above the ground plane z = 0."""

from typing import Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

Vector = tuple[float, float, float]


class Camera(BaseModel):
    """Intrinsics and pose of a camera; its axes are x right, y down, z forward (as in OpenCV).

    A world point p has camera coordinates ``rotation`` p + ``translation`` and falls on the pixel
    position (column, row) = ``principal_point`` + ``focal_length`` (x / z, y / z); pixel (i, j) is
    the square [i, i + 1) × [j, j + 1), so that its centre lies at i + 0.5.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    width: int = Field(ge=1, le=16384)
    height: int = Field(ge=1, le=16384)
    focal_length: float = Field(gt=0)
    principal_point: tuple[float, float]
    rotation: tuple[Vector, Vector, Vector]
    translation: Vector

    @classmethod
    def looking_at(
        cls,
        target: np.ndarray,
        *,
        azimuth: float,
        elevation: float,
        distance: float,
        field_of_view: float,
        width: int,
        height: int,
    ) -> Self:
        """Return a camera at ``distance`` from ``target``.

        Angles are in degrees; ``field_of_view`` is horizontal.
        """
        a, e = np.radians(azimuth), np.radians(elevation)
        back = np.array([np.cos(a) * np.cos(e), np.sin(a) * np.cos(e), np.sin(e)])
        right = np.array([-np.sin(a), np.cos(a), 0.0])
        down = np.cross(-back, right)
        rotation = np.stack([right, down, -back])
        translation = -np.einsum("ij,j->i", rotation, np.asarray(target) + distance * back)
        return cls(
            width=width,
            height=height,
            focal_length=float(width / 2 / np.tan(np.radians(field_of_view) / 2)),
            principal_point=(width / 2, height / 2),
            rotation=tuple(tuple(map(float, row)) for row in rotation),
            translation=tuple(map(float, translation)),
        )

    @property
    def intrinsics(self) -> np.ndarray:
        """Return the 3 × 3 matrix K."""
        (x, y), f = self.principal_point, self.focal_length
        return np.array([[f, 0, x], [0, f, y], [0, 0, 1]])

    @property
    def extrinsics(self) -> np.ndarray:
        """Return the 3 × 4 matrix from world to camera coordinates."""
        return np.column_stack([np.array(self.rotation), self.translation])

    @property
    def position(self) -> np.ndarray:
        """Return the centre of projection in world coordinates, [3]."""
        return -np.einsum("ji,j->i", np.array(self.rotation), np.array(self.translation))

    def project(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return pixel positions (column, row) [N, 2] and depths along the optical axis [N]."""
        local = np.einsum("ij,nj->ni", np.array(self.rotation), points) + self.translation
        depth = local[:, 2]
        with np.errstate(divide="ignore", invalid="ignore"):
            position = self.focal_length * local[:, :2] / depth[:, None] + self.principal_point
        return position, depth

    def directions(self, columns: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Return the world directions [N, 3] (float32) of the rays through pixel positions [N].

        Each advances by 1 along the optical axis, so that a hit's distance in units of its ray's
        direction is its depth.
        """
        right, down, forward = np.array(self.rotation, np.float32)
        x = ((columns - self.principal_point[0]) / self.focal_length).astype(np.float32)
        y = ((rows - self.principal_point[1]) / self.focal_length).astype(np.float32)
        return x[:, None] * right + y[:, None] * down + forward

    def projected_box(self, points: np.ndarray) -> tuple[int, int, int, int]:
        """Return the pixels (left, top, right, bottom) that ``points`` [N, 3] can cover.

        Right and bottom are exclusive. The box is the whole canvas if a point lies behind the
        camera.
        """
        position, depth = self.project(points)
        if depth.min() <= 1e-3:
            return 0, 0, self.width, self.height
        left, top = np.floor(position.min(axis=0) - 0.5).clip(0, (self.width, self.height))
        right, bottom = np.ceil(position.max(axis=0) + 0.5).clip(0, (self.width, self.height))
        return int(left), int(top), int(right), int(bottom)
