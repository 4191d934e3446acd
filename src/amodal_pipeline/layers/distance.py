"""Signed distance of masks, computed on the masks' own device."""

import torch
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
    rows = torch.arange(side, device=mask.device, dtype=torch.float32)[:, None]
    # Nearest set pixel above and below within a column, then the nearest of all columns.
    above = rows - torch.where(mask, rows, -2.0 * side).cummax(dim=1).values
    below = torch.where(mask, rows, 3.0 * side).flip(1).cummin(dim=1).values.flip(1) - rows
    in_column = torch.minimum(above, below).square()
    nearest = in_column.clone()
    for step in range(1, min(int(LIMIT * side) + 1, side)):
        far = step * step
        torch.minimum(nearest[..., step:], in_column[..., :-step] + far, out=nearest[..., step:])
        torch.minimum(nearest[..., :-step], in_column[..., step:] + far, out=nearest[..., :-step])
    return (nearest.sqrt() / side).clamp(max=LIMIT)
