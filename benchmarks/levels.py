"""Time of level maps as a loader makes them: 30 objects at 640x480, on one core.

Ellipses, each in front of the next, of run lengths as a table has them; once scattered, as in a
photograph, and once all at one place, where up to 30 are hidden behind one another. What is asked:
levels of the scattered ones within 20 ms of one core's time (median).
Time on the wall is recorded beside it; it has in it what other programs take.

    python benchmarks/levels.py [--out benchmarks/results/levels.json]
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np

from amodal_pipeline.annotations import rle
from amodal_pipeline.annotations.distance_maps import depth_order, true_distance_maps
from amodal_pipeline.annotations.levels import visibility_levels
from record import write

BUDGET_MILLISECONDS = 20.0
SIZE, OBJECTS = (480, 640), 30


def ellipses(spread: float, seed: int = 0) -> np.ndarray:
    """Masks bool [OBJECTS, H, W]; centres within ``spread`` times the canvas around its middle."""
    draw = np.random.default_rng(seed)
    y, x = np.ogrid[: SIZE[0], : SIZE[1]]
    masks = []
    for _ in range(OBJECTS):
        cy, cx = SIZE * (0.5 + spread * draw.uniform(-0.5, 0.5, 2))
        ry, rx = draw.uniform(30, 140, 2)
        masks.append(((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2 <= 1)
    return np.stack(masks)


def milliseconds(what: Callable, repeats: int) -> dict[str, float]:
    """Median time of this thread, and on the wall."""
    clocks = {"core": time.thread_time, "wall": time.perf_counter}
    times = {name: [] for name in clocks}
    for _ in range(repeats):
        start = {name: clock() for name, clock in clocks.items()}
        what()
        for name, clock in clocks.items():
            times[name].append(1e3 * (clock() - start[name]))
    return {f"{name}_milliseconds": round(median(t), 2) for name, t in times.items()}


def measure(spread: float, repeats: int) -> dict:
    """Times of every kind of map for one image."""
    amodal = ellipses(spread)
    nearer = np.cumsum(amodal, axis=0) - amodal
    texts = rle.encode(amodal), rle.encode(amodal & (nearer == 0))
    i, j = np.triu_indices(OBJECTS, 1)
    overlap = rle.shared_area_of_pairs(texts[0], i, texts[0], j) > 0
    order = np.stack([i, j], axis=1)[overlap]

    levels = visibility_levels(*texts, order, SIZE)  # compiled, and as they must be
    assert np.array_equal(levels.level, np.where(amodal, nearer, 0))
    maps = true_distance_maps(levels.amodal, levels.level)
    windows = rle.box(texts[0], SIZE)
    assert (depth_order(maps, windows, order) == 1).all()

    timed = {
        "levels": lambda: visibility_levels(*texts, order, SIZE),
        "distance_maps": lambda: true_distance_maps(levels.amodal, levels.level),
        "order_of_all_pairs": lambda: depth_order(maps, windows, order),
        "decoding_both_masks": lambda: [rle.decode(text, SIZE) for text in texts],
    }
    return {
        "pairs": len(order),
        "deepest_level": int(levels.level.max()),
        **{name: milliseconds(what, repeats) for name, what in timed.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=31)
    parser.add_argument("--out", type=Path, help="record the results in this JSON file")
    arguments = parser.parse_args()
    places = {"scattered": 0.75, "at_one_place": 0.02}
    results = {name: measure(spread, arguments.repeats) for name, spread in places.items()}
    taken = results["scattered"]["levels"]["core_milliseconds"]
    described = {"objects": OBJECTS, "size": SIZE, "threads": 1}
    within = {"within_budget": taken < BUDGET_MILLISECONDS}
    write(described | results | within, arguments.out)
    sys.exit(0 if within["within_budget"] else 1)


if __name__ == "__main__":
    main()
