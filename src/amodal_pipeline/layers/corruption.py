"""Corruption of true visible masks in training, so that they resemble a detector's."""

import numpy as np
from scipy.ndimage import gaussian_filter

from amodal_pipeline.layers.configs import CorruptionConfig

# Sigmas from the centre to the end of the blur's kernel; the released code uses 35 pixels at 11.
_REACH = 17 / 11


def corrupt(mask: np.ndarray, config: CorruptionConfig, draw: np.random.Generator) -> np.ndarray:
    """Return a mask that is blurred, dilated, eroded, or unchanged (C2F-Seg, sec. 4).

    A mask that would become empty is returned unchanged.

    Args:
        mask: bool [S, S].
        config: probabilities and strengths of the changes.
        draw: source of random numbers; equal generators give equal masks.
    """
    what = draw.random()
    if what >= config.blur + config.morphology:
        return mask
    if what < config.blur:
        spoiled = blur(mask, config.sigma)
    else:
        change = dilate if draw.random() < config.dilation else erode
        kernel = int(draw.integers(*config.kernel, endpoint=True))
        spoiled = change(mask, kernel, int(draw.integers(*config.iterations, endpoint=True)))
        if draw.random() < config.blur_after:
            spoiled = blur(spoiled, config.sigma)
    return spoiled if spoiled.any() else mask


def dilate(mask: np.ndarray, kernel: int, iterations: int) -> np.ndarray:
    """Return bool [H, W] dilated ``iterations`` times by a square of ``kernel`` pixels.

    A pixel is set if any pixel under the square centred on it is set; the centre of an even square
    is the pixel after its middle. Pixels beyond the border count as not set.
    """
    # Repeated dilation by a square is one by a larger square, done by rows and then by columns.
    before, after = iterations * (kernel // 2), iterations * (kernel - 1 - kernel // 2)
    for axis in (0, 1):
        around = [(0, 0), (0, 0)]
        around[axis] = (before + 1, after)
        set_before = np.moveaxis(np.cumsum(np.pad(mask, around), axis, dtype=np.int32), axis, 0)
        reach = before + after + 1
        mask = np.moveaxis(set_before[reach:] > set_before[:-reach], 0, axis)
    return mask


def erode(mask: np.ndarray, kernel: int, iterations: int) -> np.ndarray:
    """Return bool [H, W] eroded ``iterations`` times by a square of ``kernel`` pixels.

    A pixel stays set if all pixels under the square are set. The square is centred as in
    :func:`dilate`; pixels beyond the border count as set.
    """
    return ~dilate(~mask, kernel, iterations)


def blur(mask: np.ndarray, sigma: float) -> np.ndarray:
    """Return where a Gaussian blur of ``sigma`` pixels of bool [H, W] is above one half.

    The mask is mirrored at the centres of its outermost pixels.
    """
    smooth = gaussian_filter(mask.astype(np.float32), sigma, mode="mirror", truncate=_REACH)
    return smooth > 0.5
