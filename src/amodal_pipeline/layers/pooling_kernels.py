"""The compiled loop of :mod:`amodal_pipeline.layers.pooling` for the CPU."""

import math

import numpy as np
from numba import njit

compiled = njit(cache=True, nogil=True, error_model="numpy")


@compiled
def spread(gradient, boxes, scale, sampling_ratio, aligned, image):
    """Add the gradient of RoIAlign to ``image``, RoI after RoI.

    A cell of a RoI is the mean of a grid of samples, a sample the bilinear mean of four cells of
    the map. So weights are products of one per row and one per column of the map, and a row of a
    RoI is first spread over columns, then added to the rows that it has a weight in.

    Args:
        gradient: float32 [N, S, S, C], of the RoIs' features.
        boxes: float32 [N, 4], corners (x1, y1, x2, y2) in pixels.
        scale: float32, cells of the map per pixel.
        sampling_ratio, aligned: see :class:`~.pooling.PyramidRoIAlign`.
        image: float32 [H, W, C], the gradient of the map of one image.
    """
    side = gradient.shape[1]
    height, width, channels = image.shape
    rows, columns = np.empty((side, height), np.float32), np.empty((side, width), np.float32)
    down, across = np.empty((side, 2), np.int64), np.empty((side, 2), np.int64)
    line = np.empty((width, channels), np.float32)
    for n in range(len(gradient)):
        weigh(boxes[n, 1], boxes[n, 3], scale, sampling_ratio, aligned, rows, down)
        weigh(boxes[n, 0], boxes[n, 2], scale, sampling_ratio, aligned, columns, across)
        left, right = across[:, 0].min(), across[:, 1].max()
        for i in range(side):
            line[left:right] = 0
            for j in range(side):
                for x in range(across[j, 0], across[j, 1]):
                    weight = columns[j, x]
                    for c in range(channels):
                        line[x, c] += weight * gradient[n, i, j, c]
            for y in range(down[i, 0], down[i, 1]):
                weight = rows[i, y]
                for x in range(left, right):
                    for c in range(channels):
                        image[y, x, c] += weight * line[x, c]


@compiled
def weigh(low, high, scale, sampling_ratio, aligned, weights, ends):
    """Write what each cell of the map weighs in each cell of a RoI along one axis.

    Positions are float32, so that those at the border of the map fall on the same side of it as in
    torchvision's forward pass.

    Args:
        low, high: borders of the RoI in pixels.
        scale, sampling_ratio, aligned: see :func:`spread`.
        weights: float32 [S, cells of the map].
        ends: int64 [S, 2], the first cell with a weight and the one after the last.
    """
    side, cells = weights.shape
    half, one = np.float32(0.5), np.float32(1)
    shift = half if aligned else np.float32(0)
    start = low * scale - shift
    extent = high * scale - shift - start
    if not aligned:
        extent = max(extent, one)
    step = extent / np.float32(side)
    count = sampling_ratio if sampling_ratio > 0 else math.ceil(step)
    weights[:] = 0
    for i in range(side):
        first, last = cells, 0
        for k in range(count):
            at = start + np.float32(i) * step + (np.float32(k) + half) * step / np.float32(count)
            if at < -one or at > np.float32(cells):
                continue
            at = max(at, np.float32(0))
            near = min(int(at), cells - 1)
            far = min(near + 1, cells - 1)
            share = at - np.float32(near) if far > near else np.float32(0)
            weights[i, near] += (one - share) / np.float32(count)
            weights[i, far] += share / np.float32(count)
            first, last = min(first, near), max(last, far + 1)
        ends[i] = min(first, last), last
