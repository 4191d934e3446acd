"""Cameras that look at the origin, as tensors that gradients go through.

World and camera axes are those of :mod:`amodal_pipeline.scenes.camera`: the world's z is up, a
camera's axes are x right, y down, z forward.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor

from amodal_pipeline.layers.meshes import full_precision

NEAR = 0.1  # depth of the near plane: what is not beyond it is not in front of the camera


@dataclass(frozen=True)
class Preset:
    """What is assumed of the cameras of a data set, and how large the sphere in front of them is.

    ``field_of_view`` in degrees, across the longer side of a window; ``elevation`` (low, high) in
    degrees; ``distance`` (low, high) and ``radius`` in units of the world.
    """

    field_of_view: float
    distance: tuple[float, float]
    elevation: tuple[float, float]
    radius: float


PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        # Hu et al., CVPR 2021.
        "smr": Preset(math.degrees(2 * math.atan(1 / 2.5)), (2.0, 6.0), (0.0, 30.0), 1.0),
        # Liu et al., ICCV 2019, and the pictures of ShapeNet it uses: distance and elevation are
        # those of these pictures, known and not estimated.
        "softras": Preset(30.0, (2.732, 2.732), (30.0, 30.0), 0.5),
        # The same lens and sphere where neither is known.
        "softras_estimated": Preset(30.0, (2.0, 4.0), (0.0, 60.0), 0.5),
    }
)


@dataclass(frozen=True)
class Viewpoints:
    """N cameras: ``elevation`` and ``azimuth`` [N] in radians, ``distance`` [N] from the origin.

    A camera stands at distance · (cos a cos e, sin a cos e, sin e).
    """

    elevation: Tensor
    azimuth: Tensor
    distance: Tensor


def viewpoints_of(raw: Tensor, preset: Preset) -> Viewpoints:
    """Viewpoints from any four numbers each: elevation, distance, a_x and a_y.

    Elevation and distance are squashed into the ranges of the preset; the azimuth is
    atan2(a_x, a_y) (A3D, sec. 3.4, as printed), which has no ends.

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
    """Where vertices are seen, [N, V, 3]: x right, y down, both -1..1 across the window, and depth.

    Args:
        vertices: [N, V, 3] in world coordinates.
        viewpoints: N of them.
        field_of_view: in degrees, across the longer side of the window.
        aspect: [N, 2], width and height of the window over the longer of them; square if None. The
            window is stretched to a square.

    A vertex whose depth is not beyond :data:`NEAR` is not in front of the camera; its x and y say
    nothing, but are finite.
    """
    vertices = full_precision(vertices)
    cos_e, sin_e = viewpoints.elevation.cos(), viewpoints.elevation.sin()
    cos_a, sin_a = viewpoints.azimuth.cos(), viewpoints.azimuth.sin()
    right = torch.stack([-sin_a, cos_a, torch.zeros_like(sin_a)], dim=1)
    down = torch.stack([sin_e * cos_a, sin_e * sin_a, -cos_e], dim=1)
    back = torch.stack([cos_a * cos_e, sin_a * cos_e, sin_e], dim=1)
    # Products and sums, not matrices: autocast would compute those in half precision.
    x, y, towards = ((vertices * axis[:, None]).sum(dim=2) for axis in (right, down, back))
    depth = viewpoints.distance[:, None] - towards
    spread = depth.clamp(min=NEAR) * math.tan(math.radians(field_of_view) / 2)
    flat = torch.stack([x / spread, y / spread], dim=2)
    if aspect is not None:
        flat = flat / aspect[:, None]
    return torch.cat([flat, depth[..., None]], dim=2)


def fit(screen: Tensor, extent: float, least: float) -> Tensor:
    """Projected vertices shifted and scaled, x and y each, so that they reach ±``extent``.

    Args:
        screen: [N, V, 3] of :func:`project`. Vertices that are not in front do not count.
        extent: 1 for the border of the window.
        least: what is narrower, or less high, is scaled as if it were so wide, such as a pixel: it
            does not reach ±``extent``, and neither scale nor gradient grows without bound.
    """
    flat, depth = screen[..., :2], screen[..., 2:]
    front = depth > NEAR
    front = front | ~front.any(dim=1, keepdim=True)
    low = flat.masked_fill(~front, math.inf).amin(dim=1, keepdim=True)
    high = flat.masked_fill(~front, -math.inf).amax(dim=1, keepdim=True)
    scale = 2 * extent / (high - low).clamp(min=least)
    return torch.cat([(flat - (low + high) / 2) * scale, depth], dim=2)
