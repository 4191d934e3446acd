"""Bootstrap intervals over images: how much a figure depends on the images of the split.

Images are drawn with replacement, as many as there are (Efron, 1979); an interval is between the
2.5 % and 97.5 % quantiles. Objects of one image are not independent: drawing them one by one would
make intervals too narrow. Images of the same individuals are not independent either, nor are the
frames of a video, so they are drawn together (the cluster bootstrap).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from amodal_pipeline.annotations.tables import AmodalAnnotations
from amodal_pipeline.cores import usable_cores
from amodal_pipeline.metrics.tallies import Tally

_CHUNK = 50  # resamples at once, which limits the memory


def groups_of(annotations: AmodalAnnotations) -> np.ndarray:
    """Return which images are drawn together: frames of a video, or views of the same individuals.

    Returns:
        int64 [images], images in ascending order of id, groups numbered 0, 1, … as they first
        appear. Images with one ``video_id`` are one group. So are images that share a ``track_id``,
        directly or through others, if every counted object in them has one. Any other image is a
        separate group.
    """
    table = annotations.instances
    counted = table[~table["ignore"].to_numpy(dtype=bool)]
    images = annotations.images.sort_values("image_id")
    ids = images["image_id"].to_numpy(dtype=np.int64)
    image = np.searchsorted(ids, counted["image_id"].to_numpy(dtype=np.int64))
    untracked = counted["track_id"].isna().to_numpy(dtype=bool)
    linked = ~np.isin(image, image[untracked])
    track, tracks = pd.factorize(counted["track_id"][linked].to_numpy(dtype=np.int64))
    frames = images["video_id"].notna().to_numpy(dtype=bool)
    video, videos = pd.factorize(images["video_id"][frames].to_numpy(dtype=np.int64))
    # Images are linked to their tracks and their videos, which are nodes too.
    ends = np.concatenate([image[linked], np.flatnonzero(frames)])
    others = len(ids) + np.concatenate([track, len(tracks) + video])
    nodes = len(ids) + len(tracks) + len(videos)
    edges = coo_array((np.ones(len(ends), bool), (ends, others)), shape=(nodes, nodes))
    component = connected_components(edges, directed=False)[1][: len(ids)]
    _, first, group = np.unique(component, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[group]


def resamples(
    images: int, count: int, seed: int, groups: np.ndarray | None = None
) -> Iterator[np.ndarray]:
    """Yield how often each image is drawn, in chunks of uint16 [<= 50, images]; ``count`` in all.

    Equal arguments give equal draws, and a larger ``count`` begins with the draws of a smaller one,
    so that all methods and figures on a split share them. With ``groups`` (:func:`groups_of`),
    groups are drawn, as many as there are, each with all its images; groups of one image each are
    the same as None.
    """
    units = images if groups is None else int(groups.max(initial=-1)) + 1
    rng = np.random.default_rng([seed, units])
    for start in range(0, count, _CHUNK):
        size = min(_CHUNK, count - start)
        drawn = rng.integers(0, units, (_CHUNK, units))[:size]
        drawn += units * np.arange(size)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=size * units)
        counts = counts.reshape(size, units).astype(np.uint16)
        yield counts if groups is None else counts[:, groups]


def draw(
    tallies: Sequence[Tally],
    counts: Sequence[int],
    images: int,
    seed: int,
    on_progress: Callable[[int, int], None] | None = None,
    groups: np.ndarray | None = None,
) -> list[np.ndarray]:
    """Return the values of all rows of each tally per resample: float64 [counts[i], rows] each.

    ``on_progress(done, total)`` counts chunks; ``groups`` is passed to :func:`resamples`.
    """
    values: list[list[np.ndarray]] = [[np.zeros((0, len(t.rows)))] for t in tallies]
    most = max(counts, default=0)
    total = -(-most // _CHUNK)
    with ThreadPoolExecutor(usable_cores()) as pool:
        for chunk, weights in enumerate(resamples(images, most, seed, groups)):
            done = chunk * _CHUNK
            wanted = [i for i, count in enumerate(counts) if count > done]
            taken = [weights[: counts[i] - done] for i in wanted]
            for i, part in zip(
                wanted,
                pool.map(lambda i, w: tallies[i].values(w), wanted, taken),
                strict=True,
            ):
                values[i].append(part)
            if on_progress:
                on_progress(chunk + 1, total)
    return [np.concatenate(parts) for parts in values]


def interval(values: np.ndarray) -> tuple[float, float]:
    """Return the 2.5 % and 97.5 % quantiles of values [R], without NaN (no objects)."""
    values = values[np.isfinite(values)]
    if len(values) == 0:
        return np.nan, np.nan
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)


def compare(draws: pd.DataFrame, a: Mapping[str, object], b: Mapping[str, object]) -> pd.DataFrame:
    """Return a paired comparison of two methods on one split, by the resamples that they share.

    Args:
        draws: rows of :data:`~amodal_pipeline.metrics.scores.DRAWS`.
        a, b: column → value, which select the rows of each, e.g. ``{"method": "orcnn", "variant":
            "full"}``: of one method, variant and inputs. Several seeds of it are averaged resample
            by resample.

    Returns:
        One row per protocol and metric that both have: ``difference`` of a's value and b's,
        ``low`` and ``high`` of its 95 % interval, ``probability`` (0–1) that a is above b (ties
        count half), and the number of ``resamples``.

    Raises:
        ValueError: a selection matches nothing or several methods, or the two do not share their
            resamples, because the data or the seeds of the bootstrap differ.
    """
    sides = [_chosen(draws, choice) for choice in (a, b)]
    lines = []
    ours, theirs = (dict(list(side.groupby(["protocol", "metric"], sort=False))) for side in sides)
    for key in (key for key in ours if key in theirs):
        differ = _differing(pd.concat([ours[key], theirs[key]]))
        if differ:
            raise ValueError(
                f"{dict(a)} and {dict(b)} do not share the resamples of {key[1]} "
                f"({', '.join(differ)} differ): evaluate both again, on the same data and with the "
                "same evaluation.seed"
            )
        drawn = [_mean_of_seeds(side[key]["values"]) for side in (ours, theirs)]
        count = min(map(len, drawn))
        difference = drawn[0][:count] - drawn[1][:count]
        difference = difference[np.isfinite(difference)]
        low, high = interval(difference)
        above = np.sign(difference).mean() / 2 + 0.5 if len(difference) else np.nan
        lines.append(
            {
                "protocol": key[0],
                "metric": key[1],
                "difference": ours[key]["value"].mean() - theirs[key]["value"].mean(),
                "low": low,
                "high": high,
                "probability": float(above),
                "resamples": len(difference),
            }
        )
    columns = ["protocol", "metric", "difference", "low", "high", "probability", "resamples"]
    return pd.DataFrame(lines, columns=columns)


def _chosen(draws: pd.DataFrame, choice: Mapping[str, object]) -> pd.DataFrame:
    here = np.ones(len(draws), bool)
    for column, value in choice.items():
        here &= (draws[column] == value).to_numpy(dtype=bool)
    if not here.any():
        raise ValueError(f"no draws of {dict(choice)}: evaluate that method first")
    found = draws[here]
    lines = found[["method", "variant", "inputs"]].drop_duplicates()
    if len(lines) > 1:
        raise ValueError(
            f"{dict(choice)} chooses {len(lines)} kinds of predictions: "
            f"{lines.to_dict('records')}; name variant and inputs too"
        )
    return found


def _differing(draws: pd.DataFrame) -> list[str]:
    """Return the columns by which draws of one figure do not share their resamples."""
    resampled = draws[["dataset", "split", "images", "bootstrap_seed"]].assign(
        annotations=draws["run_id"].str.rpartition("-")[2]
    )
    kinds = resampled.drop_duplicates()
    return [name for name in kinds if len(set(kinds[name])) > 1]


def _mean_of_seeds(values: pd.Series) -> np.ndarray:
    rows = [np.asarray(row, np.float64) for row in values]
    count = min(map(len, rows))
    return np.mean([row[:count] for row in rows], axis=0)
