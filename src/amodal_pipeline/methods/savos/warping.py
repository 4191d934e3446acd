"""Moving the patch of one frame's window into another frame's window, by optical flow.

The paper pastes patches into full frames, warps these, and compares full frames. Here the same
formula, out(p) = in(p − flow(p)) with p in pixels of the frame, is evaluated in the other frame's
window only, and "in" is sampled from the patch directly, with 0 beyond its window. Two things
differ: one bilinear interpolation takes the place of two, and pixels beyond the other window are
not compared.

Windows are float [M, 4] (x1, y1, x2, y2) in pixels; patches are [M, C, h, w].
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def places(windows: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the centres of the h x w cells of windows, float [M, h, w, 2] of (x, y) in pixels."""
    corner, extent = windows[:, None, None, :2], (windows[:, 2:] - windows[:, :2])[:, None, None]
    steps = [(torch.arange(n, device=windows.device) + 0.5) / n for n in size[::-1]]
    return corner + torch.stack(torch.meshgrid(*steps, indexing="xy"), dim=-1) * extent


def within(own: Tensor, drawn: Tensor, size: tuple[int, int]) -> Tensor:
    """Return which cells of drawn windows lie in objects' own ones, float [M, h, w] of 0, 1."""
    return (places(drawn, size) <= own[:, None, None, 2:]).all(dim=-1).float()


def looked_up(patches: Tensor, windows: Tensor, at: Tensor) -> Tensor:
    """Return samples [M, C, h, w] of patches at ``at``, [M, h, w, 2] in pixels; 0 outside."""
    corner, extent = windows[:, None, None, :2], (windows[:, 2:] - windows[:, :2])[:, None, None]
    share = (at - corner) / extent
    found = F.grid_sample(patches, 2 * share - 1, padding_mode="border", align_corners=False)
    inside = ((share >= 0) & (share <= 1)).all(dim=-1)
    return found * inside[:, None]


def amodal_flow(
    flow: Tensor, visible: Tensor, change: Tensor, windows: Tensor, at: Tensor
) -> Tensor:
    """Return the flow of whole objects at some pixels, [M, 2, h, w] of (dx, dy) in pixels.

    It is the sum of the predicted change and of the given flow, where the object is visible, or
    else the mean of the given flow over the visible pixels (0 if there are none).

    Args:
        flow: [M, 2, h, w], optical flow in the window.
        visible: [M, h, w], the visible mask, 0–1.
        change: [M, 2, h, w], predicted.
        windows: [M, 4], of these three.
        at: positions of the result, [M, h, w, 2].
    """
    visible = visible[:, None]
    total = (flow * visible).sum(dim=(2, 3), keepdim=True)
    mean = total / visible.sum(dim=(2, 3), keepdim=True).clamp(min=1e-6)
    return looked_up(visible * (flow - mean) + change, windows, at) + mean


def warped(patches: Tensor, windows: Tensor, at: Tensor, flow: Tensor, canvas: Tensor) -> Tensor:
    """Return patches of a frame, moved into the next one: in(p − flow(p)), [M, C, h, w].

    Positions beyond the frame take the value at its border. The flow is the first frame's, read at
    positions of the next frame: the approximation of the paper.

    Args:
        patches, windows: of the first frame.
        at: p, [M, h, w, 2].
        flow: at p, [M, 2, h, w].
        canvas: width and height of the frames, [M, 2].
    """
    source = at - flow.permute(0, 2, 3, 1)
    half = torch.full_like(canvas, 0.5)[:, None, None]
    source = torch.minimum(torch.maximum(source, half), canvas[:, None, None] - 0.5)
    return looked_up(patches, windows, source)
