"""Pastes the picture of one object in front of another, so that a wanted share of it is hidden."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image
from scipy.signal import fftconvolve

from amodal_pipeline.scenes.render import Cutout
from amodal_pipeline.scenes.view_config import OcclusionConfig

_TRIES = 12
_SCALES = (0.6, 1.4)
_CLOSE = 0.03  # places whose rate is this near to the best one's are as good


@dataclass(frozen=True)
class Occlusion:
    """A picture with an occluder.

    ``pixels`` as :class:`~.render.Cutout` has them; ``visible`` bool [H, W], what is left of the
    object; ``occluder`` bool [H, W], the other one's mask, cut off at the border; ``candidate``
    is its position among those offered, scaled by ``scale``, perhaps ``flipped`` from left to
    right, and with its upper left corner at ``corner`` (row, column).
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
    """Paste one of ``candidates`` over ``seen``, at a place where it hides a rate within
    ``config.occlusion``; None where none of some that are drawn has such a place."""
    low, high = config.occlusion
    wanted = rng.uniform(low, high)
    area = seen.mask.sum()
    for _ in range(_TRIES):
        candidate = int(rng.integers(len(candidates)))
        scale, flipped = float(rng.uniform(*_SCALES)), bool(rng.uniform() < 0.5)
        piece = _piece(candidates[candidate], scale, flipped)
        # Opaque to at least a half: the mask, too, where the picture was scaled.
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
    """Pixels that ``mask`` [H, W] shares with ``piece`` [h, w], wherever that is put: int64
    [H + h - 1, W + w - 1]; at (i, j) the piece's upper left corner is at (i - h + 1, j - w + 1)."""
    count = fftconvolve(mask.astype(np.float64), piece[::-1, ::-1].astype(np.float64))
    return np.rint(count).astype(np.int64)


def _piece(cutout: Cutout, scale: float, flipped: bool) -> np.ndarray:
    """The object cut out, float32 [h, w, 4]: what it takes away from white (0 to 255), and its
    opacity (0 to 1). Blended with white, a picture is 255 minus premultiplied colour, so that both
    scale and add up without a white rim."""
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
    """The picture with ``piece`` in front, and the mask of ``covers`` on its canvas."""
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
