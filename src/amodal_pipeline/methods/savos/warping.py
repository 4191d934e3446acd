"""Moving what is known in the window of one frame into that of another, by optical flow.

The paper lays patches onto the full frame, warps that, and compares full frames. Here the same is
computed at the places of the other frame's window only: out(p) = in(p − flow(p)), with p in pixels
of the frame, is looked up in the patch directly, which is empty beyond its window as the frame is.
It is exact but for one bilinear interpolation in place of two, and for places beyond the other
window, which are not looked at.

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
    """Return which cells of drawn windows lie in the objects' own ones, float [M, h, w] of 0, 1."""
    return (places(drawn, size) <= own[:, None, None, 2:]).all(dim=-1).float()


def looked_up(patches: Tensor, windows: Tensor, at: Tensor) -> Tensor:
    """Return what patches have at places [M, h, w, 2] in pixels, [M, C, h, w]; 0 beyond their
    windows."""
    corner, extent = windows[:, None, None, :2], (windows[:, 2:] - windows[:, :2])[:, None, None]
    share = (at - corner) / extent
    found = F.grid_sample(patches, 2 * share - 1, padding_mode="border", align_corners=False)
    inside = ((share >= 0) & (share <= 1)).all(dim=-1)
    return found * inside[:, None]


def amodal_flow(
    flow: Tensor, visible: Tensor, change: Tensor, windows: Tensor, at: Tensor
) -> Tensor:
    """Return the flow of whole objects at places, [M, 2, h, w] of (dx, dy) in pixels.

    It is the given flow where the object is visible, its mean over these pixels elsewhere (0 where
    nothing is visible), plus the predicted change.

    Args:
        flow: [M, 2, h, w], optical flow in the window.
        visible: [M, h, w], the visible mask, 0–1.
        change: [M, 2, h, w], predicted.
        windows: of these three.
        at: places, [M, h, w, 2].
    """
    visible = visible[:, None]
    total = (flow * visible).sum(dim=(2, 3), keepdim=True)
    mean = total / visible.sum(dim=(2, 3), keepdim=True).clamp(min=1e-6)
    return looked_up(visible * (flow - mean) + change, windows, at) + mean


def warped(patches: Tensor, windows: Tensor, at: Tensor, flow: Tensor, canvas: Tensor) -> Tensor:
    """Return patches of a frame, moved, at places of the next one: in(p − flow(p)), [M, C, h, w].

    What comes from beyond the frame is that of its border. The flow is that of the first frame,
    taken at the places of the next: the approximation of the paper.

    Args:
        patches, windows: of the first frame.
        at: p, [M, h, w, 2].
        flow: there, [M, 2, h, w].
        canvas: width and height of the frames, [M, 2].
    """
    source = at - flow.permute(0, 2, 3, 1)
    half = torch.full_like(canvas, 0.5)[:, None, None]
    source = torch.minimum(torch.maximum(source, half), canvas[:, None, None] - 0.5)
    return looked_up(patches, windows, source)
