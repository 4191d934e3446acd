"""Pasting of one object's picture in front of another to hide a wanted share of the latter."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image
from scipy.signal import fftconvolve

from amodal_pipeline.scenes.render import Cutout
from amodal_pipeline.scenes.view_config import OcclusionConfig

_TRIES = 12
_SCALES = (0.6, 1.4)
_CLOSE = 0.03  # places whose rate differs by up to this from the best one's are equally good


@dataclass(frozen=True)
class Occlusion:
    """A picture with an occluder.

    ``pixels`` as in :class:`~.render.Cutout`; ``visible`` bool [H, W], the visible mask of the
    object; ``occluder`` bool [H, W], the occluder's mask, cut off at the border; ``candidate`` is
    the index of the occluder's cutout, scaled by ``scale``, ``flipped`` from left to right or not,
    and with its upper left corner at ``corner`` (row, column).
    """

    pixels: np.ndarray
    visible: np.ndarray
    occluder: np.ndarray
    candidate: int
    scale: float
    flipped: bool
    corner: tuple[int, int]


def occlude(
    seen: Cutout,
    candidates: Sequence[Cutout],
    config: OcclusionConfig,
    rng: np.random.Generator,
) -> Occlusion | None:
    """Return ``seen`` with one of ``candidates`` pasted over it.

    The place is drawn from those where it hides a rate within ``config.occlusion``. Returns None
    if no drawn candidate has such a place.
    """
    low, high = config.occlusion
    wanted = rng.uniform(low, high)
    area = seen.mask.sum()
    for _ in range(_TRIES):
        candidate = int(rng.integers(len(candidates)))
        scale, flipped = float(rng.uniform(*_SCALES)), bool(rng.uniform() < 0.5)
        piece = _piece(candidates[candidate], scale, flipped)
        # Pixels that are opaque to at least a half, also where scaling blurred the mask.
        covers = piece[..., 3] >= 0.5
        rates = shared_pixels(seen.mask, covers) / area
        distance = np.where((rates >= low) & (rates <= high), np.abs(rates - wanted), np.inf)
        if np.isfinite(distance.min()):
            places = np.flatnonzero(distance <= distance.min() + _CLOSE)
            place = np.unravel_index(places[rng.integers(len(places))], rates.shape)
            corner = tuple(int(p) - n + 1 for p, n in zip(place, covers.shape, strict=True))
            pixels, occluder = _pasted(seen, piece, covers, corner)
            visible = seen.mask & ~occluder
            return Occlusion(pixels, visible, occluder, candidate, scale, flipped, corner)
    return None


def shared_pixels(mask: np.ndarray, piece: np.ndarray) -> np.ndarray:
    """Return the number of pixels that ``mask`` [H, W] shares with ``piece`` [h, w] at every place.

    The result is int64 [H + h - 1, W + w - 1]; at (i, j) the piece's upper left corner is at
    (i - h + 1, j - w + 1).
    """
    count = fftconvolve(mask.astype(np.float64), piece[::-1, ::-1].astype(np.float64))
    return np.rint(count).astype(np.int64)


def _piece(cutout: Cutout, scale: float, flipped: bool) -> np.ndarray:
    """Return the object cut out, float32 [h, w, 4]: 255 minus its colour on white, and its opacity.

    The first three channels (0 to 255) are what it subtracts from white, the last (0 to 1) its
    opacity. A picture blended with white is 255 minus premultiplied colour, so that both scale and
    add up without a white rim.
    """
    covered = cutout.pixels[..., 3] > 0
    rows, columns = np.flatnonzero(covered.any(1)), np.flatnonzero(covered.any(0))
    if not len(rows):
        return np.zeros((1, 1, 4), np.float32)
    found = cutout.pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    out = found.astype(np.float32)
    out[..., :3] = np.where(found[..., 3:] > 0, 255 - out[..., :3], 0)
    out[..., 3] /= 255
    if flipped:
        out = out[:, ::-1]
    height, width = (max(1, round(n * scale)) for n in out.shape[:2])
    channels = [
        Image.fromarray(np.ascontiguousarray(out[..., k])).resize(
            (width, height), Image.Resampling.BILINEAR
        )
        for k in range(4)
    ]
    return np.stack([np.asarray(channel) for channel in channels], axis=2)


def _pasted(
    seen: Cutout, piece: np.ndarray, covers: np.ndarray, corner: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the picture with ``piece`` in front, and the mask of ``covers`` on its canvas."""
    top, left = corner
    height, width = seen.mask.shape
    on = slice(max(top, 0), min(top + len(piece), height))
    across = slice(max(left, 0), min(left + piece.shape[1], width))
    part = slice(on.start - top, on.stop - top), slice(across.start - left, across.stop - left)
    pixels, occluder = seen.pixels.copy(), np.zeros_like(seen.mask)
    occluder[on, across] = covers[part]
    front = piece[part]
    behind = pixels[on, across].astype(np.float32)
    through = 1 - front[..., 3:]
    colour = 255 - front[..., :3] - through * (255 - behind[..., :3])
    alpha = 255 * (1 - through * (1 - behind[..., 3:] / 255))
    pixels[on, across] = np.rint(np.concatenate([colour, alpha], 2)).clip(0, 255)
    return pixels, occluder
