"""Spoiling true visible masks in training, so that they look as a detector's do."""

import numpy as np
from scipy.ndimage import gaussian_filter

from amodal_pipeline.layers.configs import CorruptionConfig

# Sigmas from the centre to the end of the blur's kernel: the released code has 35 pixels at 11.
_REACH = 17 / 11


def corrupt(mask: np.ndarray, config: CorruptionConfig, draw: np.random.Generator) -> np.ndarray:
    """A mask that is blurred, dilated, eroded, or left as it is (C2F-Seg, sec. 4).

    A mask of which nothing would be left stays as it is.

    Args:
        mask: bool [S, S].
        config: what happens how often.
        draw: decides; equal generators give equal masks.
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
    """``iterations`` times: a pixel of bool [H, W] is set where one under a square of ``kernel``
    pixels is, whose centre (of an even one: the pixel after it) lies on it.

    Nothing beyond the border is set.
    """
    # A square over a square is a larger square, and rows and columns of it go one after the other.
    before, after = iterations * (kernel // 2), iterations * (kernel - 1 - kernel // 2)
    for axis in (0, 1):
        around = [(0, 0), (0, 0)]
        around[axis] = (before + 1, after)
        set_before = np.moveaxis(np.cumsum(np.pad(mask, around), axis, dtype=np.int32), axis, 0)
        reach = before + after + 1
        mask = np.moveaxis(set_before[reach:] > set_before[:-reach], 0, axis)
    return mask


def erode(mask: np.ndarray, kernel: int, iterations: int) -> np.ndarray:
    """As :func:`dilate`, a pixel being set where all of them are.

    What is beyond the border takes nothing away.
    """
    return ~dilate(~mask, kernel, iterations)


def blur(mask: np.ndarray, sigma: float) -> np.ndarray:
    """Where a Gaussian of ``sigma`` pixels over bool [H, W] is above one half.

    The mask is mirrored at the centres of its outermost pixels.
    """
    smooth = gaussian_filter(mask.astype(np.float32), sigma, mode="mirror", truncate=_REACH)
    return smooth > 0.5
