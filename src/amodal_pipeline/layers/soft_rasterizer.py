"""Silhouettes of meshes that gradients go through (SoftRas: Liu et al., ICCV 2019, sec. 3.1-3.2).

Face j covers a pixel with the probability D_j = sigmoid(± d² / sigma), d the distance of the
pixel's centre from the border of the triangle, + inside and - outside; the silhouette is
1 - prod_j (1 - D_j). Faces with D_j below :data:`NEGLIGIBLE` are left out.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from amodal_pipeline.layers.cameras import NEAR
from amodal_pipeline.layers.meshes import full_precision

NEGLIGIBLE = 1e-10
REACH = math.log(1 / NEGLIGIBLE - 1)  # d² / sigma at which a face is negligible
FARTHEST = 1e6  # of a corner from the centre of the window; its square is still a float32


def silhouettes(screen: Tensor, faces: Tensor, side: int, sigma: float) -> Tensor:
    """Soft silhouettes, [N, side, side] in 0-1; see :func:`silhouettes_reference`."""
    return silhouettes_reference(screen, faces, side, sigma)


def silhouettes_reference(screen: Tensor, faces: Tensor, side: int, sigma: float) -> Tensor:
    """Soft silhouettes, [N, side, side] in 0-1, from every face at every pixel.

    Pixel (r, c) has its centre at x = (2c + 1) / side - 1, y = (2r + 1) / side - 1. Faces of both
    orientations count. One with a corner that is not in front of the camera, or farther than
    :data:`FARTHEST` from the centre of the window, is left out.

    Args:
        screen: [N, V, 3] of :func:`~amodal_pipeline.layers.cameras.project`: x, y and depth.
        faces: int64 [F, 3].
        side: of the pictures, in pixels.
        sigma: sharpness, in squared units of the window, which is 2 wide.
    """
    centres = pixel_centres(side, screen)
    rows, columns = torch.meshgrid(centres, centres, indexing="ij")
    points = torch.stack([columns, rows], dim=-1).reshape(-1, 2)
    return coverage_reference(screen, faces, points, sigma).reshape(-1, side, side)


def coverage_reference(screen: Tensor, faces: Tensor, points: Tensor, sigma: float) -> Tensor:
    """What :func:`silhouettes_reference` shows at ``points`` [P, 2] (x, y): [N, P]."""
    screen = full_precision(screen)
    corners = screen[:, faces]  # [N, F, 3, 3]
    counted = faces_seen(corners)
    flat = torch.where(counted[..., None, None], corners[..., :2], 0)[:, :, :, None]
    start, end = flat, flat.roll(-1, dims=2)  # [N, F, 3 edges, 1, 2]
    edge, arm = end - start, points.to(screen.dtype) - start
    length = edge.square().sum(dim=-1)
    share = (arm * edge).sum(dim=-1) / torch.where(length > 0, length, 1)
    across = arm - share.clamp(0, 1)[..., None] * edge
    square = across.square().sum(dim=-1).min(dim=2).values  # [N, F, P]
    cross = edge[..., 0] * arm[..., 1] - edge[..., 1] * arm[..., 0]
    within = (cross > 0).all(dim=2) | (cross < 0).all(dim=2)
    x = torch.where(within, square, -square) / sigma
    logs = torch.where(counted[..., None] & (x >= -REACH), F.logsigmoid(-x), 0)
    return -torch.expm1(logs.sum(dim=1))


def pixel_centres(side: int, like: Tensor) -> Tensor:
    """Positions of the columns, or rows, across the window, [side] in -1..1."""
    numbers = torch.arange(side, dtype=full_precision(like).dtype, device=like.device)
    return (2 * numbers + 1) / side - 1


def faces_seen(corners: Tensor) -> Tensor:
    """Which faces [..., 3, 3] are wholly in front of the camera and not out of all bounds."""
    in_front = corners[..., 2] > NEAR
    return (in_front & (corners[..., :2].abs() <= FARTHEST).all(dim=-1)).all(dim=-1)
