"""Pictures per second that are composed, with one and two workers in turn.

python benchmarks/compose.py ../shared/data/coco_panoptic/instances_train2017_from_panoptic.json \
    ../shared/data/coco_panoptic/images/train2017 --out benchmarks/results/compose.json
"""

import argparse
from pathlib import Path

from amodal_pipeline.compose.composite import VERSION
from amodal_pipeline.compose.config import ComposeConfig
from amodal_pipeline.compose.dataset import compose_split
from record import best_rates, write


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source_json", type=Path, help="COCO instances with modal masks")
    parser.add_argument("raw_root", type=Path, help="folder of its photographs")
    parser.add_argument("--max-side", type=int, default=640)
    parser.add_argument("--composites", type=int, default=2, help="per photograph")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    config = ComposeConfig(max_side=arguments.max_side, composites_per_image=arguments.composites)
    source = arguments.source_json, arguments.raw_root

    def make(workers: int, folder: Path) -> int:
        return len(compose_split(config, "bench", *source, folder, workers=workers).images)

    result = {
        "max_side": config.max_side,
        "rounds": arguments.rounds,
        "version": VERSION,
        "images_per_second": best_rates(make, arguments.workers, arguments.rounds),
    }
    write(result, arguments.out)


if __name__ == "__main__":
    main()
