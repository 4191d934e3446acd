"""Judging a claim by paired differences over images and seeds."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from scipy.stats import t

from amodal_pipeline.metrics.bootstrap import compare

Verdict = Literal["held", "refuted", "undecided"]
Expected = Literal["above", "below", "equal"]


@dataclass(frozen=True)
class Difference:
    """A paired difference in points with its 95 % interval, from trainings with ``seeds`` seeds."""

    value: float
    low: float
    high: float
    seeds: int

    @property
    def smallest(self) -> float:
        """Return the smallest difference that could have been seen: half the interval's width."""
        return (self.high - self.low) / 2


def paired(
    draws: pd.DataFrame,
    metric: tuple[str, str],
    a: Mapping[str, object],
    b: Mapping[str, object],
) -> Difference | None:
    """Return how far a is above b, over the seeds that both have.

    The value is the mean over seeds. Its interval has two independent parts, added in squares on
    each side: the bootstrap over images of that mean, and Student's interval of the mean over
    seeds, which measures what the draws of a training do. With one seed the second part is unknown
    and left out.

    Args:
        draws: rows of :data:`~amodal_pipeline.metrics.scores.DRAWS`, each seed once.
        metric: protocol and metric.
        a, b: column → value, as in :func:`~amodal_pipeline.metrics.bootstrap.compare`.

    Returns:
        None where no seed has both, or where an interval is missing.

    Raises:
        ValueError: see :func:`~amodal_pipeline.metrics.bootstrap.compare`.
    """
    rows = draws[(draws["protocol"] == metric[0]) & (draws["metric"] == metric[1])]
    seeds = sorted(_seeds(rows, a) & _seeds(rows, b))
    if not seeds:
        return None
    line = compare(rows[rows["seed"].isin(seeds)], a, b).iloc[0]
    value, low, high = (float(line[name]) for name in ("difference", "low", "high"))
    if not all(map(math.isfinite, (value, low, high))):
        return None
    between = _between(
        [compare(rows[rows["seed"] == seed], a, b).iloc[0]["difference"] for seed in seeds]
    )
    return Difference(
        value,
        value - math.hypot(value - low, between),
        value + math.hypot(high - value, between),
        len(seeds),
    )


def judge(found: Difference, expected: Expected, margin: float = 0.0) -> Verdict:
    """Return whether a difference confirms or refutes what is expected of it.

    "above" and "below": held if the interval excludes 0 on the expected side, refuted if it does
    on the other. "equal": held if the interval lies within ±``margin``, refuted if it lies outside
    of that. Otherwise undecided.
    """
    if expected == "equal":
        if -margin < found.low and found.high < margin:
            return "held"
        return "refuted" if found.low > margin or found.high < -margin else "undecided"
    low, high = (found.low, found.high) if expected == "above" else (-found.high, -found.low)
    if low > 0:
        return "held"
    return "refuted" if high < 0 else "undecided"


def _seeds(draws: pd.DataFrame, choice: Mapping[str, object]) -> set[int]:
    here = np.ones(len(draws), bool)
    for column, value in choice.items():
        here &= (draws[column] == value).to_numpy(dtype=bool)
    return set(draws["seed"][here])


def _between(differences: list[float]) -> float:
    """Return half the width of Student's 95 % interval of a mean; 0 of a single value."""
    count = len(differences)
    if count < 2:
        return 0.0
    return float(t.ppf(0.975, count - 1) * np.std(differences, ddof=1) / math.sqrt(count))
