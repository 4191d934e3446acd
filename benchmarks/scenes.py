"""Images per second that the scenes render at, with one and two workers in turn.

python benchmarks/scenes.py --images 24 --out benchmarks/results/scenes.json
"""

import argparse
import tempfile
import time
from pathlib import Path

from amodal_pipeline.scenes.config import ScenesConfig
from amodal_pipeline.scenes.dataset import RENDERER_VERSION, render_split
from record import write


def measure(config: ScenesConfig, images: int, workers: tuple[int, ...], rounds: int) -> dict:
    """Best rate of ``rounds`` for each number of workers, which take turns."""
    best = dict.fromkeys(workers, 0.0)
    for count in workers:  # processes start and libraries load before the clock does
        with tempfile.TemporaryDirectory() as folder:
            render_split(config, "warm", 2 * count, folder, workers=count)
    for _ in range(rounds):
        for count in workers:
            with tempfile.TemporaryDirectory() as folder:
                start = time.perf_counter()
                render_split(config, "bench", images, folder, workers=count)
                best[count] = max(best[count], images / (time.perf_counter() - start))
    return {str(count): round(rate, 2) for count, rate in best.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    config = ScenesConfig()
    result = {
        "image_size": config.image_size,
        "images": arguments.images,
        "rounds": arguments.rounds,
        "renderer_version": RENDERER_VERSION,
        "images_per_second": measure(
            config, arguments.images, tuple(arguments.workers), arguments.rounds
        ),
    }
    write(result, arguments.out)


if __name__ == "__main__":
    main()
