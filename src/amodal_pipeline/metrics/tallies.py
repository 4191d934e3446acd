"""The output of a protocol: numbers that can be recomputed with weighted images.

Expensive work (intersections, matching) is done when a tally is made. Recomputing its values with
one image counted twice and another left out then takes one pass over sums, which a bootstrap does
thousands of times.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from scipy.sparse import csc_array


@dataclass(frozen=True)
class Row:
    """A row of results without its numbers.

    ``n`` is the number of objects or pairs measured; ``note`` must be considered before comparison.
    """

    metric: str
    n: int
    category: str = "all"
    note: str = ""


class Tally(Protocol):
    """Rows that are computed together."""

    @property
    def rows(self) -> tuple[Row, ...]: ...

    def values(self, weights: np.ndarray) -> np.ndarray:
        """Return all rows' values in 0–100 per weighting, float64 [R, rows]; NaN for none.

        ``weights`` [R, images]: how often each image counts, images in ascending order of id.
        """
        ...


@dataclass(frozen=True)
class Ratio:
    """100 × sum of numerators / sum of denominators over images.

    With several columns (categories), the mean of their ratios over those with a denominator.
    ``numerator``, ``denominator`` float64 [images, columns], dense or sparse; images in ascending
    order of id.
    """

    row: Row
    numerator: np.ndarray | csc_array
    denominator: np.ndarray | csc_array

    @property
    def rows(self) -> tuple[Row, ...]:
        return (self.row,)

    def values(self, weights: np.ndarray) -> np.ndarray:
        """Return the ratio in 0–100 for each weighting [R, images], float64 [R, 1]."""
        weights = np.asarray(weights, np.float64)
        below = weights @ self.denominator
        there = below > 0
        ratios = np.where(there, weights @ self.numerator / np.where(there, below, 1), 0)
        columns = there.sum(axis=1)
        mean = 100 * ratios.sum(axis=1) / np.maximum(columns, 1)
        return np.where(columns > 0, mean, np.nan)[:, None]


def per_image(image: np.ndarray, values: np.ndarray, images: int) -> np.ndarray:
    """Return sums of ``values`` [N] by ``image`` (index of the sorted ids), float64 [images, 1]."""
    return np.bincount(image, np.asarray(values, np.float64), images)[:, None]
