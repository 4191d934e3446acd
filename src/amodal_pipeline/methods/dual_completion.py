"""Who is in front of whom, from a completer: "dual completion" of Zhan et al. (CVPR 2020).

Of two objects that touch, each is completed into the visible mask of the other; the one that grows
more is behind (section 3.3). A completer that ``sees`` "in_front" is given, as the
target "in_front", uint8 [N, S, S], where all occluders of an object are visible: those in front of
it, and those in front of these. Its network has the method ``gains(images, targets)``, which
returns {"gains": float [N]}, the share of each window in 0–1 by which an object grows into
"in_front". Its configuration has

- ``order``: "own", by dual completion; "true", the order that the table states; "none": all objects
  that touch it are taken for occluders;
- ``most_shared`` and ``score_threshold``: see :func:`neighbours`.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from amodal_pipeline.annotations import rle
from amodal_pipeline.annotations.order import all_in_front, touching_pairs
from amodal_pipeline.annotations.tables import PREDICTION_ORDER, Predictions, frame

# As by default in PCNet-M's configuration, for completers that have no such parameters.
MOST_SHARED = 0.5
SCORE_THRESHOLD = 0.5


def neighbours(
    config: Any,
    image_ids: np.ndarray,
    visible: pa.Array,
    sizes: rle.Sizes,
    scores: np.ndarray | None = None,
) -> np.ndarray:
    """Return the pairs of objects that are compared, or are all taken for occluders.

    These are objects whose visible masks touch. Detections can be of one object: pairs that share
    more than ``most_shared`` of the smaller mask are left out, and so are objects with a score
    below ``score_threshold``.

    Args:
        config: of the completer.
        image_ids, visible, sizes: see :func:`~..annotations.order.touching_pairs`.
        scores: of the objects, float [N]; NaN counts as certain.

    Returns:
        rows, int64 [P, 2].
    """
    pairs = touching_pairs(image_ids, visible, sizes, config.most_shared)
    if scores is None:
        return pairs
    return pairs[~(scores[pairs] < config.score_threshold).any(axis=1)]


def both_ways(pairs: np.ndarray) -> np.ndarray:
    """Return pairs and the same in the other direction, int64 [2 P, 2]: (completed, eraser)."""
    return np.concatenate([pairs, pairs[:, ::-1]])


def decided(pairs: np.ndarray, gains: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return who is in front, by how much each of two objects grows into the other.

    Args:
        pairs: int64 [P, 2].
        gains: of all :func:`both_ways`, in pixels of the image, float64 [2 P].

    Returns:
        ``front`` and ``back``, int64 [D] of the pairs whose gains differ; and the score, their
        difference as a share of their sum, float64 [D] in 0–1.
    """
    first, second = gains.reshape(2, -1)
    differ = first != second
    pairs, first, second = pairs[differ], first[differ], second[differ]
    behind = (first > second).astype(np.int64)  # the first one grows more: the second is in front
    at = np.arange(len(pairs))
    score = np.abs(first - second) / (first + second)
    return pairs[at, behind], pairs[at, 1 - behind], score


def by_growth(
    image_ids: np.ndarray,
    visible: pa.Array,
    amodal: pa.Array,
    sizes: rle.Sizes,
    scores: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return who is in front among objects that a completer of another kind has completed.

    The same rule: of two objects that touch, the one whose completed mask has more of the other's
    visible mask is behind.

    Args:
        image_ids, visible, sizes: see :func:`~..annotations.order.touching_pairs`.
        amodal: completed masks, N run lengths.
        scores: of detections, float [N]; NaN counts as certain.

    Returns:
        as :func:`decided`; pairs that are not decided are left out.
    """
    pairs = touching_pairs(image_ids, visible, sizes, MOST_SHARED)
    if scores is not None:
        pairs = pairs[~(scores[pairs] < SCORE_THRESHOLD).any(axis=1)]
    completed, other = (pa.array(rows) for rows in both_ways(pairs).T)
    grown = rle.difference(amodal.take(completed), visible.take(completed))
    gains = rle.shared_area(grown, visible.take(other)).astype(np.float64)
    return decided(pairs, gains)


def occluders(
    order: str, pairs: np.ndarray, front: np.ndarray, back: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return all occluders of each object as pairs (``front``, ``back``), each once.

    Args:
        order: see the module's text.
        pairs: neighbours, int64 [P, 2].
        front, back: the order between neighbours, int64 [E]; not used if ``order`` is "none".
    """
    if order == "none":
        ways = both_ways(pairs)
        return ways[:, 0], ways[:, 1]
    return all_in_front(front, back)


def stated(objects: Predictions) -> tuple[np.ndarray, np.ndarray]:
    """Return the order that a table states, rows ``front`` and ``back``, int64 [E] each.

    Raises:
        ValueError: the table states no order.
    """
    if len(objects.predictions) and not len(objects.order):
        raise ValueError(
            f"the objects of {objects.metadata.method!r} have no order: use true objects of a data "
            "set with depth order, or (pcnet_m) order=own, which finds it"
        )
    ids = pd.Index(objects.predictions["prediction_id"].to_numpy(dtype=np.int64))
    ends = np.stack([ids.get_indexer(objects.order[f"{end}_id"]) for end in ("front", "back")])
    front, back = ends[:, (ends >= 0).all(axis=0)].astype(np.int64)
    return front, back


def order_rows(
    table: pd.DataFrame, front: np.ndarray, back: np.ndarray, score: np.ndarray, source: str
) -> pd.DataFrame:
    """Return rows of PREDICTION_ORDER for pairs of rows of a table of predictions."""
    ids, image_id = (table[c].to_numpy(dtype=np.int64) for c in ("prediction_id", "image_id"))
    columns: Mapping[str, Any] = {
        "image_id": image_id[front],
        "front_id": ids[front],
        "back_id": ids[back],
        "score": score,
        "source": [source] * len(front),
    }
    return frame(PREDICTION_ORDER, columns)
