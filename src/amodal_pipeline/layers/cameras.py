"""Cameras that look at the origin, as tensors that pass gradients.

World and camera axes are those of :mod:`amodal_pipeline.scenes.camera`: the world's z axis points
up; a camera's axes are x right, y down, z forward.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor

from amodal_pipeline.layers.meshes import full_precision

NEAR = 0.1  # depth of the near plane: points up to it are not in front of the camera


@dataclass(frozen=True)
class Preset:
    """Assumptions about the cameras of a data set, and the radius of the sphere in front of them.

    ``field_of_view`` in degrees, across the longer side of a window; ``elevation`` (low, high) in
    degrees; ``distance`` (low, high) and ``radius`` in world units.
    """

    field_of_view: float
    distance: tuple[float, float]
    elevation: tuple[float, float]
    radius: float


PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        # Hu et al., CVPR 2021.
        "smr": Preset(math.degrees(2 * math.atan(1 / 2.5)), (2.0, 6.0), (0.0, 30.0), 1.0),
        # Liu et al., ICCV 2019: distance and elevation are those of the pictures of ShapeNet used
        # there, known and not estimated.
        "softras": Preset(30.0, (2.732, 2.732), (30.0, 30.0), 0.5),
        # The same field of view and radius, for unknown distance and elevation.
        "softras_estimated": Preset(30.0, (2.0, 4.0), (0.0, 60.0), 0.5),
    }
)


@dataclass(frozen=True)
class Viewpoints:
    """N cameras: ``elevation`` and ``azimuth`` [N] in radians, ``distance`` [N] from the origin.

    A camera's position is distance · (cos a cos e, sin a cos e, sin e).
    """

    elevation: Tensor
    azimuth: Tensor
    distance: Tensor


def viewpoints_of(raw: Tensor, preset: Preset) -> Viewpoints:
    """Return viewpoints from four unbounded numbers each: elevation, distance, a_x and a_y.

    Elevation and distance are squashed by a sigmoid into the preset's ranges; the azimuth is
    atan2(a_x, a_y) (A3D, sec. 3.4, as printed), which wraps around.

    Args:
        raw: [N, 4].
    """
    elevation, distance, a_x, a_y = full_precision(raw).unbind(dim=1)
    low, high = map(math.radians, preset.elevation)
    near, far = preset.distance
    return Viewpoints(
        elevation=low + (high - low) * elevation.sigmoid(),
        azimuth=torch.atan2(a_x, a_y),
        distance=near + (far - near) * distance.sigmoid(),
    )


def project(
    vertices: Tensor, viewpoints: Viewpoints, field_of_view: float, aspect: Tensor | None = None
) -> Tensor:
    """Return projected vertices [N, V, 3]: x right and y down in -1..1 on the window, and depth.

    Args:
        vertices: [N, V, 3] in world coordinates.
        viewpoints: N cameras.
        field_of_view: in degrees, across the longer side of the window.
        aspect: [N, 2], width and height of the window divided by the longer of them; square if
            None. The window is stretched to a square.

    A vertex whose depth is at most :data:`NEAR` is not in front of the camera; its x and y are
    meaningless but finite.
    """
    vertices = full_precision(vertices)
    cos_e, sin_e = viewpoints.elevation.cos(), viewpoints.elevation.sin()
    cos_a, sin_a = viewpoints.azimuth.cos(), viewpoints.azimuth.sin()
    right = torch.stack([-sin_a, cos_a, torch.zeros_like(sin_a)], dim=1)
    down = torch.stack([sin_e * cos_a, sin_e * sin_a, -cos_e], dim=1)
    back = torch.stack([cos_a * cos_e, sin_a * cos_e, sin_e], dim=1)
    # Products and sums instead of matrices, which autocast would compute in half precision.
    x, y, towards = ((vertices * axis[:, None]).sum(dim=2) for axis in (right, down, back))
    depth = viewpoints.distance[:, None] - towards
    spread = depth.clamp(min=NEAR) * math.tan(math.radians(field_of_view) / 2)
    flat = torch.stack([x / spread, y / spread], dim=2)
    if aspect is not None:
        flat = flat / aspect[:, None]
    return torch.cat([flat, depth[..., None]], dim=2)


def fit(screen: Tensor, extent: float, least: float) -> Tensor:
    """Return projected vertices shifted and scaled, x and y separately, to reach ±``extent``.

    Args:
        screen: [N, V, 3] of :func:`project`. Vertices that are not in front do not count.
        extent: 1 for the border of the window.
        least: smallest width or height, such as one pixel. A smaller extent is scaled as if it
            were this large: it does not reach ±``extent``, but scale and gradient stay bounded.
    """
    flat, depth = screen[..., :2], screen[..., 2:]
    front = depth > NEAR
    front = front | ~front.any(dim=1, keepdim=True)
    low = flat.masked_fill(~front, math.inf).amin(dim=1, keepdim=True)
    high = flat.masked_fill(~front, -math.inf).amax(dim=1, keepdim=True)
    scale = 2 * extent / (high - low).clamp(min=least)
    return torch.cat([(flat - (low + high) / 2) * scale, depth], dim=2)
