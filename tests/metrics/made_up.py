"""Small random annotations and predictions for the tests of the metrics."""

from collections.abc import Iterable

import numpy as np
import pandas as pd

from amodal_pipeline.annotations import AmodalAnnotations, Category, Predictions, rle
from amodal_pipeline.annotations.tables import boxes
from amodal_pipeline.metrics.tallies import Tally
from tests import tables

HEIGHT, WIDTH = 24, 30
CATEGORIES = (Category(id=3, name="car"), Category(id=1, name="rider"), Category(id=7, name="cow"))


def rectangles(corners: np.ndarray) -> list[str]:
    """Masks of boxes (x0, y0, x1, y1) int [N, 4] on the small canvas."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    c = np.asarray(corners).reshape(-1, 4)[..., None, None]
    return rle.encode((x >= c[:, 0]) & (y >= c[:, 1]) & (x < c[:, 2]) & (y < c[:, 3]))


def annotations(
    amodal: np.ndarray,
    hidden_columns: np.ndarray | None = None,
    image_ids: np.ndarray | None = None,
    category_ids: np.ndarray | None = None,
    ignore: np.ndarray | None = None,
    images: int = 1,
) -> AmodalAnnotations:
    """Rectangular objects whose left ``hidden_columns`` columns are hidden."""
    amodal = np.asarray(amodal).reshape(-1, 4)
    n = len(amodal)
    visible = amodal.copy()
    if hidden_columns is not None:
        visible[:, 0] += np.asarray(hidden_columns)
    image_ids = np.full(n, 1) if image_ids is None else image_ids
    return tables.annotations(
        dict.fromkeys(range(images, 0, -1), (HEIGHT, WIDTH)),
        {
            "image_id": image_ids,
            "category_id": np.full(n, 3) if category_ids is None else category_ids,
            "amodal_rle": rectangles(amodal),
            "visible_rle": rectangles(visible),
            "ignore": np.zeros(n, bool) if ignore is None else ignore,
        },
        categories=CATEGORIES,
    )


def predictions(truth: AmodalAnnotations, columns: dict, **metadata) -> Predictions:
    columns = dict(columns)
    for name in ("amodal", "visible"):
        if f"{name}_rle" in columns:
            columns.setdefault(f"{name}_box", rle.box(columns[f"{name}_rle"], (HEIGHT, WIDTH)))
    return tables.predictions(truth, columns, **{"method": "detector"} | metadata)


def truth_as_predictions(truth: AmodalAnnotations, **metadata) -> Predictions:
    instances = truth.instances
    return predictions(
        truth,
        {
            "image_id": instances["image_id"],
            "category_id": instances["category_id"],
            "score": np.full(len(instances), 0.9),
            "amodal_rle": instances["amodal_rle"],
            "visible_rle": instances["visible_rle"],
            "amodal_box": boxes(instances["amodal_box"]),
            "visible_box": boxes(instances["visible_box"]),
        },
        **metadata,
    )


def random_corners(random: np.random.Generator, n: int) -> np.ndarray:
    x, y = random.integers(0, WIDTH - 4, n), random.integers(0, HEIGHT - 4, n)
    w, h = random.integers(2, 12, n), random.integers(2, 12, n)
    return np.stack([x, y, np.minimum(x + w, WIDTH), np.minimum(y + h, HEIGHT)], axis=1)


def random_scene(
    seed: int, objects: int = 40, detections: int = 150, images: int = 6
) -> tuple[AmodalAnnotations, Predictions]:
    """Objects and jittered detections of them, with many equal scores and equal IoUs."""
    random = np.random.default_rng(seed)
    amodal = random_corners(random, objects)
    amodal[: objects // 4] = amodal[objects // 4 : 2 * (objects // 4)]  # twins: equal IoUs
    hidden = random.integers(0, 4, objects) * random.integers(0, 2, objects)
    hidden = np.minimum(hidden, amodal[:, 2] - amodal[:, 0])
    image_ids = random.integers(1, images + 1, objects)
    # The last category has no objects; the detector uses it nevertheless.
    category_ids = random.choice([1, 3], objects)
    for ids in (image_ids, category_ids):
        ids[: objects // 4] = ids[objects // 4 : 2 * (objects // 4)]
    truth = annotations(
        amodal, hidden, image_ids, category_ids, random.random(objects) < 0.15, images
    )
    source = random.integers(0, objects, detections)
    moved = amodal[source] + random.integers(-1, 2, (detections, 4)) * random.integers(
        0, 2, (detections, 1)
    )
    moved = np.stack(
        [
            np.clip(moved[:, 0], 0, WIDTH - 1),
            np.clip(moved[:, 1], 0, HEIGHT - 1),
            np.clip(np.maximum(moved[:, 2], moved[:, 0] + 1), 1, WIDTH),
            np.clip(np.maximum(moved[:, 3], moved[:, 1] + 1), 1, HEIGHT),
        ],
        axis=1,
    )
    seen = moved.copy()
    seen[:, 0] += np.minimum(hidden[source], np.maximum(moved[:, 2] - moved[:, 0], 0))
    stray = random.random(detections) < 0.1
    found = predictions(
        truth,
        {
            "image_id": image_ids[source],
            "category_id": np.where(stray, 7, category_ids[source]),
            "score": random.integers(1, 12, detections) / 12,
            "amodal_rle": rectangles(moved),
            "visible_rle": rectangles(seen),
        },
    )
    return truth, found


def measured(tallies: Iterable[Tally], images: int) -> pd.DataFrame:
    """Metric, category, value, n and note of all rows, each image counted once."""
    lines = []
    for tally in tallies:
        values = tally.values(np.ones((1, images)))[0]
        for row, value in zip(tally.rows, values, strict=True):
            lines.append((row.metric, row.category, value, row.n, row.note))
    return pd.DataFrame(lines, columns=["metric", "category", "value", "n", "note"])


def value_of(rows: pd.DataFrame, metric: str, category: str = "all") -> pd.Series:
    chosen = rows[(rows["metric"] == metric) & (rows["category"] == category)]
    assert len(chosen) == 1, (metric, len(chosen))
    return chosen.iloc[0]
