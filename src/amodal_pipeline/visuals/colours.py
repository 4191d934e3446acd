"""Colours of objects and of plotted lines that colour-blind readers can tell apart."""

import numpy as np

# M. Okabe and K. Ito, "Color Universal Design", 2008, without black; ordered so that neighbours
# in the list differ in hue as well as in lightness.
PALETTE = np.array(
    [
        (230, 159, 0),  # orange
        (86, 180, 233),  # sky blue
        (213, 94, 0),  # vermilion
        (0, 158, 115),  # bluish green
        (240, 228, 66),  # yellow
        (204, 121, 167),  # reddish purple
        (0, 114, 178),  # blue
    ],
    dtype=np.uint8,
)

# Text, small print, ground of pages and of cells.
INK, FAINT, PAPER, EMPTY = (28, 32, 38), (104, 112, 124), (255, 255, 255), (241, 243, 246)

# Visibility levels from 0, where nothing is hidden: the more hidden objects, the darker.
LAYERS = np.array(
    [(237, 230, 190), (240, 160, 60), (205, 70, 80), (125, 30, 120), (40, 10, 90)], dtype=np.uint8
)


def object_colours(indices: np.ndarray | range) -> np.ndarray:
    """Return a colour for each index, uint8 [N, 3]; equal indices have equal colours.

    After a round through the palette its colours come lighter, then darker: 21 in all.
    """
    indices = np.asarray(indices, dtype=np.int64)
    colours = PALETTE[indices % len(PALETTE)].astype(np.float32)
    turn = (indices // len(PALETTE) % 3)[:, None]
    colours = np.where(turn == 1, colours + 0.5 * (255 - colours), colours)
    colours = np.where(turn == 2, 0.55 * colours, colours)
    return colours.round().astype(np.uint8)


def line_colours(count: int) -> list[str]:
    """Return hex colours for lines and bars on white: the palette with light tones darkened."""
    colours = object_colours(range(count)).astype(np.float32)
    light = luminance(colours) > 0.5
    colours[light] *= 0.8
    return ["#{:02x}{:02x}{:02x}".format(*c) for c in colours.round().astype(np.uint8)]


def line_styles(count: int) -> list[tuple[str, str]]:
    """Return colour and dash ("solid", "dashed", "dotted") of each line of a chart, 21 in all.

    After a round through the palette the dash changes: thin lines would hide another tone.
    """
    colours, dashes = line_colours(len(PALETTE)), ("solid", "dashed", "dotted")
    return [
        (colours[i % len(PALETTE)], dashes[i // len(PALETTE) % len(dashes)]) for i in range(count)
    ]


def luminance(colours: np.ndarray) -> np.ndarray:
    """Return the relative luminance (WCAG 2.1), 0–1, of sRGB colours [N, 3] of 0–255."""
    value = np.asarray(colours, dtype=np.float32) / 255
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    return linear @ np.array([0.2126, 0.7152, 0.0722], dtype=np.float32)
