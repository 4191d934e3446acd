"""Signed distance of masks, computed on the masks' own device."""

import torch
import torch.nn.functional as F
from torch import Tensor

LIMIT = 0.5  # of a distance, in units of the crop's side


def signed_distance(masks: Tensor) -> Tensor:
    """Return the distance of each pixel to the border of its mask, float32 [N, S, S].

    Outside it is the distance to the nearest pixel of the mask, inside it is minus the distance to
    the nearest pixel off the mask. Distances are Euclidean, between centres of pixels, in units of
    S, and clamped to ±0.5. An empty mask has 0.5 everywhere, a full one -0.5.

    Args:
        masks: [N, S, S], nonzero where set.
    """
    inside = masks != 0
    return _to_nearest(inside) - _to_nearest(~inside)


def _to_nearest(mask: Tensor) -> Tensor:
    """Return the distance to the nearest set pixel in units of S, at most LIMIT; 0 on the mask."""
    side = mask.shape[-1]
    # Within a column, by steps of 1, 2, 4, …: together they make any number, in either direction.
    distance, step = torch.where(mask, 0.0, 2.0 * side), 1
    above, below = distance, distance
    while step < side:
        above = torch.minimum(above, F.pad(above[:, :-step], (0, 0, step, 0), value=side) + step)
        below = torch.minimum(below, F.pad(below[:, step:], (0, 0, 0, step), value=side) + step)
        step *= 2
    in_column = torch.minimum(above, below).square()
    # Then the nearest of all columns.
    nearest, reach = in_column, min(int(LIMIT * side), side - 1)
    beside = F.pad(in_column, (reach, reach), value=float(side * side))
    for step in range(1, reach + 1):
        left, right = (beside[..., reach + at :][..., :side] for at in (-step, step))
        nearest = torch.minimum(nearest, torch.minimum(left, right) + step * step)
    return (nearest.sqrt() / side).clamp(max=LIMIT)
