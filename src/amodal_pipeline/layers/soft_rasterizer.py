"""Differentiable silhouettes of meshes (SoftRas: Liu et al., ICCV 2019, sec. 3.1-3.2).

Face j covers a pixel with the probability D_j = sigmoid(± d² / sigma), where d is the distance of
the pixel's centre from the border of the triangle, + inside and - outside; the silhouette is
1 - prod_j (1 - D_j). Faces with D_j below :data:`NEGLIGIBLE` are left out.
"""

import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from amodal_pipeline.layers import soft_rasterizer_kernels as kernels
from amodal_pipeline.layers.cameras import NEAR
from amodal_pipeline.layers.meshes import full_precision

NEGLIGIBLE = 1e-10
REACH = math.log(1 / NEGLIGIBLE - 1)  # d² / sigma at which a face is negligible
FARTHEST = 1e6  # largest distance of a corner from the window's centre; its square fits a float32
PIECE = 1 << 19  # pairs of face and pixel in memory at once, except in compiled loops


def silhouettes(screen: Tensor, faces: Tensor, side: int, sigma: float) -> Tensor:
    """Return soft silhouettes, [N, side, side] in 0-1, equal to :func:`silhouettes_reference`.

    Compares a face only with the pixels near it, and stores only the result for the gradient. On
    the CPU it runs in compiled loops, bit for bit reproducible; on other devices with tensors.
    """
    way = COMPILED if screen.device.type == "cpu" else PAIRS
    return rasterize(way, screen, faces, side, sigma)


def silhouettes_reference(screen: Tensor, faces: Tensor, side: int, sigma: float) -> Tensor:
    """Return soft silhouettes, [N, side, side] in 0-1, from every face at every pixel.

    Pixel (r, c) has its centre at x = (2c + 1) / side - 1, y = (2r + 1) / side - 1. Faces of both
    orientations count. A face is left out if a corner is not in front of the camera, or is farther
    than :data:`FARTHEST` from the centre of the window.

    Args:
        screen: [N, V, 3] of :func:`~amodal_pipeline.layers.cameras.project`: x, y and depth.
        faces: int64 [F, 3].
        side: height and width of the pictures in pixels.
        sigma: softness, in squared units of the window, which is 2 wide.
    """
    centres = pixel_centres(side, screen)
    rows, columns = torch.meshgrid(centres, centres, indexing="ij")
    points = torch.stack([columns, rows], dim=-1).reshape(-1, 2)
    return coverage_reference(screen, faces, points, sigma).reshape(-1, side, side)


def coverage_reference(screen: Tensor, faces: Tensor, points: Tensor, sigma: float) -> Tensor:
    """Return the values of :func:`silhouettes_reference` at ``points`` [P, 2] (x, y): [N, P]."""
    screen = full_precision(screen)
    corners = screen[:, faces]  # [N, F, 3, 3]
    counted = faces_seen(corners)
    flat = torch.where(counted[..., None, None], corners[..., :2], 0)
    x, y = flat[..., None, :].unbind(dim=-1)  # [N, F, 3, 1]: starts of the edges
    edge_x, edge_y = x.roll(-1, dims=2) - x, y.roll(-1, dims=2) - y
    arm_x, arm_y = (axis - start for axis, start in zip(points.unbind(dim=1), (x, y), strict=True))
    length = edge_x * edge_x + edge_y * edge_y
    share = (arm_x * edge_x + arm_y * edge_y) / torch.where(length > 0, length, 1)
    share = share.clamp(0, 1)
    across_x, across_y = arm_x - share * edge_x, arm_y - share * edge_y
    square = (across_x * across_x + across_y * across_y).min(dim=2).values  # [N, F, P]
    cross = edge_x * arm_y - edge_y * arm_x
    within = _within(arm_y, cross, dim=2)
    x = torch.where(within, square, -square) / sigma
    logs = torch.where(counted[..., None] & (x >= -REACH), F.logsigmoid(-x), 0)
    return -torch.expm1(logs.sum(dim=1))


class Way(NamedTuple):
    """One implementation of silhouettes and their gradient.

    ``outside(screen, faces, side, sigma)`` returns prod_j (1 - D_j), [N, side, side].
    ``gradient(screen, faces, sigma, weights)`` returns the gradient [N, V, 3] of the sum of
    ``weights`` [N, side, side] times -log(outside).
    """

    outside: Callable[[Tensor, Tensor, int, float], Tensor]
    gradient: Callable[[Tensor, Tensor, float, Tensor], Tensor]


def rasterize(way: Way, screen: Tensor, faces: Tensor, side: int, sigma: float) -> Tensor:
    """Return :func:`silhouettes`, computed by :data:`PAIRS` or :data:`COMPILED`."""
    return _Silhouettes.apply(way, full_precision(screen), faces, side, sigma)


class _Silhouettes(torch.autograd.Function):
    @staticmethod
    def forward(ctx, way: Way, screen: Tensor, faces: Tensor, side: int, sigma: float) -> Tensor:
        outside = way.outside(screen, faces, side, sigma)
        ctx.way, ctx.sigma = way, sigma
        ctx.save_for_backward(screen, faces, outside)
        return 1 - outside

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple:
        screen, faces, outside = ctx.saved_tensors
        # d S / d x_j = (1 - S) D_j, x_j = ± d² / sigma.
        return None, ctx.way.gradient(screen, faces, ctx.sigma, gradient * outside), *[None] * 3


class _Near(NamedTuple):
    """Pairs [K] of a face and a pixel near it."""

    pixel: Tensor  # index counted through all meshes, row by row
    start: Tensor  # vertex at the start of the nearest edge, counted through all meshes
    end: Tensor  # vertex at its end
    share: Tensor  # position 0-1 along that edge of the point nearest to the pixel
    across: tuple[Tensor, Tensor]  # x and y from that point to the pixel
    x: Tensor  # ± d² / sigma; -inf where the face is negligible


def _near(screen: Tensor, faces: Tensor, side: int, sigma: float) -> Iterator[_Near]:
    """Yield all pairs that are not negligible, and some that are, up to :data:`PIECE` at a time."""
    corners = screen[:, faces]
    seen = faces_seen(corners).flatten()
    flat = corners.flatten(0, 1)[seen, :, :2]  # [T, 3, 2]
    first_vertex = torch.arange(len(screen), device=faces.device) * screen.shape[1]
    vertices = (first_vertex[:, None, None] + faces).flatten(0, 1)[seen]
    mesh = torch.arange(len(seen), device=faces.device)[seen] // max(len(faces), 1)

    radius = math.sqrt(REACH * sigma)
    low, high = flat.amin(dim=1) - radius, flat.amax(dim=1) + radius
    first = ((low + 1) * side / 2 - 0.5).ceil().clamp(0, side).long()
    extent = ((high + 1) * side / 2 - 0.5).floor().clamp(-1, side - 1).long() + 1 - first
    count = extent.clamp(min=0).prod(dim=1)
    ends = count.cumsum(dim=0)
    centres = pixel_centres(side, screen)
    total = int(count.sum())
    for begin in range(0, total, PIECE):
        size = min(PIECE, total - begin)
        here = ends.clamp(begin, begin + size) - (ends - count).clamp(begin, begin + size)
        face = torch.repeat_interleave(here, output_size=size)
        number = begin + torch.arange(size, device=face.device) - (ends - count)[face]
        width = extent[face, 0]
        row = first[face, 1] + number // width
        column = first[face, 0] + number % width

        a_x, a_y = flat[face].unbind(dim=2)  # [K, 3 edges]
        edge_x, edge_y = a_x.roll(-1, 1) - a_x, a_y.roll(-1, 1) - a_y
        arm_x, arm_y = centres[column, None] - a_x, centres[row, None] - a_y
        length = edge_x * edge_x + edge_y * edge_y
        share = (arm_x * edge_x + arm_y * edge_y) / torch.where(length > 0, length, 1)
        share = share.clamp(0, 1)
        across_x, across_y = arm_x - share * edge_x, arm_y - share * edge_y
        square, edge = (across_x * across_x + across_y * across_y).min(dim=1, keepdim=True)
        cross = edge_x * arm_y - edge_y * arm_x
        within = _within(arm_y, cross, dim=1)
        x = torch.where(within, square[:, 0], -square[:, 0]) / sigma
        ids = vertices[face]
        yield _Near(
            pixel=(mesh[face] * side + row) * side + column,
            start=ids.gather(1, edge)[:, 0],
            end=ids.gather(1, (edge + 1) % 3)[:, 0],
            share=share.gather(1, edge)[:, 0],
            across=(across_x.gather(1, edge)[:, 0], across_y.gather(1, edge)[:, 0]),
            x=torch.where(x >= -REACH, x, -math.inf),
        )


def _outside_of_pairs(screen: Tensor, faces: Tensor, side: int, sigma: float) -> Tensor:
    logs = screen.new_zeros(len(screen) * side * side)
    for near in _near(screen, faces, side, sigma):
        logs.index_add_(0, near.pixel, F.logsigmoid(-near.x))
    return logs.exp().reshape(-1, side, side)


def _gradient_of_pairs(screen: Tensor, faces: Tensor, sigma: float, weights: Tensor) -> Tensor:
    gradient = torch.zeros_like(screen).flatten()
    for near in _near(screen, faces, weights.shape[1], sigma):
        # The nearest point also moves along the edge, which does not change the distance.
        pull = weights.flatten()[near.pixel] * near.x.sigmoid() * -2 * near.x.sign() / sigma
        for axis, across in enumerate(near.across):
            gradient.index_add_(0, 3 * near.start + axis, pull * (1 - near.share) * across)
            gradient.index_add_(0, 3 * near.end + axis, pull * near.share * across)
    return gradient.reshape(screen.shape)


def _compiled_outside(screen: Tensor, faces: Tensor, side: int, sigma: float) -> Tensor:
    outside = screen.new_empty(len(screen), side, side)
    _share_out(kernels.cover, screen, faces, sigma, [outside])
    return outside


def _compiled_gradient(screen: Tensor, faces: Tensor, sigma: float, weights: Tensor) -> Tensor:
    gradient = torch.zeros_like(screen, memory_format=torch.contiguous_format)
    _share_out(kernels.pull, screen, faces, sigma, [weights, gradient])
    return gradient


def _share_out(
    kernel: Callable, screen: Tensor, faces: Tensor, sigma: float, others: list[Tensor]
) -> None:
    """Call a kernel on equal shares of the meshes, in as many threads as PyTorch may use."""
    threads = max(1, min(torch.get_num_threads(), len(screen)))
    arrays = [tensor.detach().contiguous().numpy() for tensor in (screen, *others)]
    numbers = faces.contiguous().numpy()
    if numbers.size and not 0 <= numbers.min() <= numbers.max() < screen.shape[1]:
        raise IndexError(
            f"faces name vertices that are not among the {screen.shape[1]}: pass the vertices and "
            "the faces of one mesh"
        )

    def work(i: int) -> None:
        some, *rest = (np.array_split(array, threads)[i] for array in arrays)
        kernel(some, numbers, sigma, REACH, NEAR, FARTHEST, *rest)

    if threads == 1:
        work(0)
        return
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, range(threads)))


PAIRS = Way(_outside_of_pairs, _gradient_of_pairs)
COMPILED = Way(_compiled_outside, _compiled_gradient)


def _within(arm_y: Tensor, cross: Tensor, dim: int) -> Tensor:
    """Return whether points are within triangles, whose three edges lie along ``dim``.

    A point is inside if an odd number of edges cross the ray to the right. Rounding errors matter
    only next to an edge, whereas the signs of ``cross`` alone would also be wrong on the
    continuation of the line of a triangle without area.
    """
    above = arm_y < 0  # the beginning of the edge
    after = above.roll(-1, dim)
    return ((above != after) & ((cross > 0) == after)).sum(dim) == 1


def pixel_centres(side: int, like: Tensor) -> Tensor:
    """Return the positions of columns, or rows, on the window, [side] in -1..1."""
    numbers = torch.arange(side, dtype=full_precision(like).dtype, device=like.device)
    return (2 * numbers + 1) / side - 1


def faces_seen(corners: Tensor) -> Tensor:
    """Return which faces [..., 3, 3] are wholly in front of the camera and within all bounds."""
    in_front = corners[..., 2] > NEAR
    return (in_front & (corners[..., :2].abs() <= FARTHEST).all(dim=-1)).all(dim=-1)
