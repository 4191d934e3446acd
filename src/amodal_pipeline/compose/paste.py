"""Cutting out objects, finding where one hides a wanted share of another, and pasting."""

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter
from scipy import fft

GRID = 96  # cells along the longer side of the search window
TOLERANCE = 0.03  # placements within this of the wanted occlusion rate count as equally good
MIN_ON_CANVAS = 0.6  # least share of a cutout's box that must lie on the canvas
MAX_HIDDEN = 0.9  # largest share of any other object that may be hidden, to learn from it still
TRIED = 6  # placements evaluated at full resolution

LUMINANCE = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601
MAX_GAIN = 1.35  # largest factor, and divisor, of brightness
MAX_CONTRAST = 1.2  # largest factor, and divisor, of contrast
MARGIN = 0.25  # width of the surroundings, as a share of a box's longer side


@dataclass(frozen=True)
class Cutout:
    """An object ready to be pasted, without its colours.

    ``alpha`` float32 [h, w] in [0, 1]; the object's mask is ``alpha > 0.5``. ``window`` is the
    part (y0, y1, x0, x1) of the source photograph that is scaled to [h, w], mirrored if ``flip``.
    """

    alpha: np.ndarray
    window: tuple[int, int, int, int]
    flip: bool

    @property
    def mask(self) -> np.ndarray:
        """Return the object's mask, bool [h, w]."""
        return self.alpha > 0.5


@dataclass(frozen=True)
class Placement:
    """The top left corner of a cutout on the canvas (may be negative), and its effect.

    ``rate`` is the target's occlusion rate after pasting; ``buries`` is the number of other
    objects that lose more than ``MAX_HIDDEN`` of their masks.
    """

    top: int
    left: int
    rate: float
    buries: int


def cut(mask: np.ndarray, scale: float, flip: bool, softness: float) -> Cutout | None:
    """Return the matte of an object, scaled and mirrored.

    The edge is blurred and moved inwards until the matte ends where the object's mask ends,
    because the colours of the old background outside it would show as a halo.

    Args:
        mask: bool [H, W] of the object in its photograph.
        scale: factor on its size.
        softness: standard deviation of the blur in pixels after scaling; 0 gives a hard edge.

    Returns:
        None if no pixel of the object remains at that scale.
    """
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return None
    y0, y1, x0, x1 = int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
    size = max(1, round((x1 - x0) * scale)), max(1, round((y1 - y0) * scale))
    image = Image.fromarray(mask[y0:y1, x0:x1] * np.uint8(255))
    image = image.resize(size, Image.Resampling.BILINEAR)
    if flip:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    pad = int(np.ceil(3 * softness)) + 1  # so that the blur includes background beyond the box
    padded = Image.new("L", (size[0] + 2 * pad, size[1] + 2 * pad))
    padded.paste(image, (pad, pad))
    if softness:
        padded = padded.filter(ImageFilter.GaussianBlur(softness))
    blurred = np.asarray(padded, np.float32)[pad:-pad, pad:-pad] / 255
    alpha = np.clip(2 * blurred - 1, 0, 1) if softness else np.float32(blurred > 0.5)
    if not (alpha > 0.5).any():
        return None
    return Cutout(alpha, (y0, y1, x0, x1), flip)


def find_placement(
    cutout: Cutout,
    visible: np.ndarray,
    visible_areas: np.ndarray,
    amodal_areas: np.ndarray,
    target: int,
    wanted: float,
    rng: np.random.Generator,
) -> Placement | None:
    """Return where to paste a cutout to hide ``wanted`` of the target.

    The number of pixels that a placement hides is a cross-correlation of the target's visible mask
    with the cutout's: one Fourier transform on a coarse grid gives it for all placements. Of those
    within ``TOLERANCE`` of the wanted rate, a few drawn at random are evaluated at full resolution;
    the result is the one nearest to the wanted rate among those that bury the fewest other objects.

    Args:
        visible: bool [N, H, W], the visible mask of each object so far.
        visible_areas, amodal_areas: int [N], pixels of each object's two masks.
        target: index of the object to be hidden.
        wanted: its occlusion rate after pasting, including what is hidden already.

    Returns:
        None if no placement with enough of the cutout on the canvas hides any of the target.
    """
    mask = cutout.mask
    size = visible.shape[1:]
    y0, y1, x0, x1 = _bounds(visible[target])
    reach = (y1 - y0 + 2 * mask.shape[0], x1 - x0 + 2 * mask.shape[1])
    step = max(1, -(-max(reach) // GRID))
    coarse_target = _block_means(visible[target, y0:y1, x0:x1], step)
    coarse_mask = _block_means(mask, step)
    hidden = _correlation(coarse_target, coarse_mask) * step**2
    tops = y0 + (np.arange(hidden.shape[0]) - coarse_mask.shape[0] + 1) * step
    lefts = x0 + (np.arange(hidden.shape[1]) - coarse_mask.shape[1] + 1) * step

    area = max(int(amodal_areas[target]), 1)
    remains = visible_areas[target] - hidden
    error = np.abs((1 - remains / area) - wanted)
    on_canvas = np.outer(
        _share_inside(tops, mask.shape[0], size[0]), _share_inside(lefts, mask.shape[1], size[1])
    )
    error[(on_canvas < MIN_ON_CANVAS) | (hidden < 0.5)] = np.inf
    nearest = error.min()
    if not np.isfinite(nearest):
        return None
    good = np.flatnonzero(error <= max(TOLERANCE, nearest + 1e-6))
    cells = [divmod(int(cell), len(lefts)) for cell in rng.permutation(good)[:TRIED]]
    found = []
    for row, column in cells:
        top, left = int(tops[row]), int(lefts[column])
        rates, buried = _outcome(mask, visible, visible_areas, amodal_areas, top, left)
        buried[target] = False
        found.append(Placement(top, left, float(rates[target]), int(buried.sum())))
    return min(found, key=lambda p: (p.buries, abs(p.rate - wanted)))


def place_anywhere(
    cutout: Cutout,
    visible: np.ndarray,
    visible_areas: np.ndarray,
    amodal_areas: np.ndarray,
    rng: np.random.Generator,
) -> Placement:
    """Return a random placement that buries few objects, wholly on the canvas if the cutout fits.

    The arguments are described at :func:`find_placement`.
    """
    room = [
        max(whole - part, 0) + 1
        for whole, part in zip(visible.shape[1:], cutout.alpha.shape, strict=True)
    ]
    found = []
    for top, left in rng.integers(0, room, (TRIED, 2)).tolist():
        _, buried = _outcome(cutout.mask, visible, visible_areas, amodal_areas, top, left)
        found.append(Placement(top, left, 0.0, int(buried.sum())))
    return min(found, key=lambda p: p.buries)


def paste(
    canvas: np.ndarray,
    photograph: np.ndarray,
    cutout: Cutout,
    placement: Placement,
    match_brightness: bool,
) -> np.ndarray:
    """Paste a cutout onto ``canvas`` uint8 [H, W, 3], in place, and return its mask.

    Returns:
        The pasted object's mask bool [H, W]: where ``alpha`` is above 0.5, on the canvas.
    """
    colours = colours_of(photograph, cutout)
    if match_brightness:
        colours = matched(colours, canvas, photograph, cutout, placement)
    return lay(canvas, colours, cutout, placement)


def colours_of(photograph: np.ndarray, cutout: Cutout) -> np.ndarray:
    """Return the colours of a cutout, float32 [h, w, 3], 0 to 255."""
    height, width = cutout.alpha.shape
    y0, y1, x0, x1 = cutout.window
    source = Image.fromarray(photograph[y0:y1, x0:x1])
    source = source.resize((width, height), Image.Resampling.BICUBIC)
    if cutout.flip:
        source = source.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return np.asarray(source, np.float32)


def matched(
    colours: np.ndarray,
    canvas: np.ndarray,
    photograph: np.ndarray,
    cutout: Cutout,
    placement: Placement,
) -> np.ndarray:
    """Return a cutout's colours adapted to the place where it is pasted; see :func:`match`."""
    rows, _ = _clip(placement.top, cutout.alpha.shape[0], canvas.shape[0])
    columns, _ = _clip(placement.left, cutout.alpha.shape[1], canvas.shape[1])
    here = _surroundings(canvas, rows.start, rows.stop, columns.start, columns.stop)
    return match(colours, cutout.mask, _surroundings(photograph, *cutout.window), here)


def lay(
    canvas: np.ndarray, colours: np.ndarray, cutout: Cutout, placement: Placement
) -> np.ndarray:
    """Blend a cutout of ``colours`` into ``canvas``, in place, and return its mask bool [H, W]."""
    height, width = cutout.alpha.shape
    rows, cut_rows = _clip(placement.top, height, canvas.shape[0])
    columns, cut_columns = _clip(placement.left, width, canvas.shape[1])
    alpha = cutout.alpha[cut_rows, cut_columns, None]
    under = canvas[rows, columns].astype(np.float32)
    mixed = under + alpha * (colours[cut_rows, cut_columns] - under)
    # Where the matte is 0 the sum is exact, so the photograph is unchanged.
    canvas[rows, columns] = np.clip(np.rint(mixed), 0, 255).astype(np.uint8)
    mask = np.zeros(canvas.shape[:2], bool)
    mask[rows, columns] = alpha[..., 0] > 0.5
    return mask


def match(colours: np.ndarray, mask: np.ndarray, there: np.ndarray, here: np.ndarray) -> np.ndarray:
    """Return an object's colours with brightness and contrast adapted to where it is pasted.

    The light is estimated from the pixels around the object before (``there``) and after
    (``here``) pasting, not from the object: a black dog stays black on snow. Half of the ratio
    (in the logarithm) of the means and spreads of luminance is applied, within ``MAX_GAIN`` and
    ``MAX_CONTRAST``. One factor for the three channels keeps the hue.

    Args:
        colours: float32 [h, w, 3], 0 to 255.
        mask: bool [h, w] of the object within them.
        there, here: pixels [.., 3] around the object in its photograph and on the canvas.
    """
    before, after = there @ LUMINANCE, here @ LUMINANCE
    gain = _half_ratio(after.mean() + 16, before.mean() + 16, MAX_GAIN)
    contrast = _half_ratio(after.std() + 8, before.std() + 8, MAX_CONTRAST)
    centre = (colours[mask] @ LUMINANCE).mean()
    # The gain is limited so that bright objects do not exceed the range of a pixel.
    gain = min(gain, max(1.0, 235 / max(centre, 1)))
    return (colours - centre) * (gain * contrast) + centre * gain


def _half_ratio(after: float, before: float, limit: float) -> float:
    return float(np.clip(np.sqrt(after / before), 1 / limit, limit))


def _surroundings(image: np.ndarray, y0: int, y1: int, x0: int, x1: int) -> np.ndarray:
    """Return some thousand pixels of a box and a margin around it, float32 [M, 3]."""
    margin = round(MARGIN * max(y1 - y0, x1 - x0)) + 4
    box = image[max(y0 - margin, 0) : y1 + margin, max(x0 - margin, 0) : x1 + margin]
    step = max(1, int(np.sqrt(box.shape[0] * box.shape[1] / 4096)))
    return box[::step, ::step].reshape(-1, 3).astype(np.float32)


def _correlation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the sums of a · b with b moved over a to every position at which they overlap.

    At (i, j), b's top left corner is at (i − height of b + 1, j − width of b + 1) of a.
    """
    shape = [m + n - 1 for m, n in zip(a.shape, b.shape, strict=True)]
    fast = [fft.next_fast_len(n, real=True) for n in shape]
    product = fft.rfft2(a, fast) * fft.rfft2(b[::-1, ::-1], fast)
    return fft.irfft2(product, fast)[: shape[0], : shape[1]]


def _outcome(
    mask: np.ndarray,
    visible: np.ndarray,
    visible_areas: np.ndarray,
    amodal_areas: np.ndarray,
    top: int,
    left: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the occlusion rates [N] if ``mask`` is pasted there, and which objects it buries."""
    rows, cut_rows = _clip(top, mask.shape[0], visible.shape[1])
    columns, cut_columns = _clip(left, mask.shape[1], visible.shape[2])
    covered = visible[:, rows, columns] & mask[cut_rows, cut_columns]
    lost = np.count_nonzero(covered, axis=(1, 2))
    rates = 1 - (visible_areas - lost) / np.maximum(amodal_areas, 1)
    return rates, (lost > 0) & (rates > MAX_HIDDEN)


def _clip(start: int, length: int, whole: int) -> tuple[slice, slice]:
    """Return the part of [start, start + length) in [0, whole), and that part relative to start."""
    first, last = max(start, 0), max(min(start + length, whole), max(start, 0))
    return slice(first, last), slice(first - start, last - start)


def _share_inside(starts: np.ndarray, length: int, whole: int) -> np.ndarray:
    return np.clip(np.minimum(starts + length, whole) - np.maximum(starts, 0), 0, None) / length


def _bounds(mask: np.ndarray) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1


def _block_means(mask: np.ndarray, step: int) -> np.ndarray:
    """Return the foreground's share per block of ``step`` × ``step`` pixels, padded with 0."""
    height, width = (-(-side // step) * step for side in mask.shape)
    padded = np.zeros((height, width), np.float32)
    padded[: mask.shape[0], : mask.shape[1]] = mask
    return padded.reshape(height // step, step, width // step, step).mean(axis=(1, 3))
