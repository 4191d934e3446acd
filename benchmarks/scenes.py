"""Images per second that the scenes render at, with one and two workers in turn.

python benchmarks/scenes.py --images 24 --out benchmarks/results/scenes.json
"""

import argparse
from pathlib import Path

from amodal_pipeline.scenes.config import ScenesConfig
from amodal_pipeline.scenes.dataset import RENDERER_VERSION, render_split
from record import best_rates, write


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    config = ScenesConfig()

    def make(workers: int, folder: Path) -> int:
        return len(render_split(config, "bench", arguments.images, folder, workers=workers).images)

    result = {
        "image_size": config.image_size,
        "images": arguments.images,
        "rounds": arguments.rounds,
        "renderer_version": RENDERER_VERSION,
        "images_per_second": best_rates(make, arguments.workers, arguments.rounds),
    }
    write(result, arguments.out)


if __name__ == "__main__":
    main()
