"""Time and memory of converting annotation files of KINS' size, beside the plain way.

Makes up both splits (see made_up_files.py), converts them to tables, and does the same in the plain
way: json.load, then pycocotools one annotation at a time, to the same masks, boxes and rates in
Parquet. Each measurement has a fresh process; they take turns, and the median counts.

Seconds are those of a processor for reading, converting and writing, which other programs on the
machine disturb least; memory is the peak of the resident memory. Limits at full size: 15 s and
1.5 GiB.

    python benchmarks/readers.py [--out benchmarks/results/readers.json] [--scale 0.01]
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pandas as pd

MAX_SECONDS, MAX_MEGABYTES = 15.0, 1536


def convert(files: dict[str, Path], out: Path) -> None:
    """Convert both splits with the package's reader."""
    from amodal_pipeline.annotations.kins import read_kins

    for split, path in files.items():
        read_kins(path, "images", "kins", split).save(out / split)


def convert_plainly(files: dict[str, Path], out: Path) -> None:
    """Convert both splits as one does without a thought for speed; accounts for nothing."""
    from pycocotools import mask as coco_mask

    for split, path in files.items():
        document = json.loads(path.read_text())
        sizes = {image["id"]: (image["height"], image["width"]) for image in document["images"]}
        rows = []
        for record in document["annotations"]:
            drawn = coco_mask.frPyObjects(record["segmentation"], *sizes[record["image_id"]])
            amodal = coco_mask.merge(drawn)
            visible = coco_mask.merge([amodal, record["inmodal_seg"]], intersect=True)
            whole, area = int(coco_mask.area(amodal)), int(coco_mask.area(visible))
            rows.append(
                {
                    "instance_id": record["id"],
                    "image_id": record["image_id"],
                    "category_id": record["category_id"],
                    "amodal_rle": amodal["counts"].decode(),
                    "visible_rle": visible["counts"].decode(),
                    "amodal_box": coco_mask.toBbox(amodal),
                    "visible_box": coco_mask.toBbox(visible) if area else None,
                    "occlusion_rate": 1 - area / whole,
                }
            )
        (out / split).mkdir(parents=True)
        table = pd.DataFrame(rows).sort_values("image_id", kind="stable")
        table.to_parquet(out / split / "instances.parquet", compression="zstd")


WAYS = {"ours": convert, "plain": convert_plainly}


def run_step(way: str, folder: Path, out: Path) -> dict[str, float]:
    """Measure one conversion, in the process that was started for it."""
    files = {split: folder / f"{split}.json" for split in ("train", "val")}
    used = time.process_time()
    WAYS[way](files, out)
    return {
        "cpu_seconds": time.process_time() - used,
        "peak_megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def measured(way: str, folder: Path, out: Path) -> dict[str, float]:
    step = [sys.executable, __file__, "--step", way, "--files", folder, "--tables", out]
    done = subprocess.run(list(map(str, step)), check=True, stdout=subprocess.PIPE)
    return json.loads(done.stdout)


def benchmark(folder: Path, scale: float, runs: int) -> dict[str, Any]:
    """Return all measurements."""
    from made_up_files import SIZES, write

    for split, size in SIZES.items():
        write(folder / f"{split}.json", *(max(round(scale * n), 1) for n in size))
    measured("ours", folder, folder / "warm_up")  # compiles what is kept on disk then
    results: dict[str, list] = {way: [] for way in WAYS}
    for run in range(runs):
        for way in WAYS:
            results[way].append(measured(way, folder, folder / f"{way}_{run}"))
    ours = results["ours"]
    within = {
        f"more than {MAX_SECONDS:.0f} s": max(r["cpu_seconds"] for r in ours) <= MAX_SECONDS,
        f"more than {MAX_MEGABYTES} MB": max(r["peak_megabytes"] for r in ours) <= MAX_MEGABYTES,
    }
    return {
        "scale": scale,
        "runs": runs,
        "megabytes": sum((folder / f"{split}.json").stat().st_size for split in SIZES) >> 20,
        **{way: summary(found) for way, found in results.items()},
        "falls_short": [text for text, met in within.items() if not met],
    }


def summary(runs: list[dict[str, float]]) -> dict[str, float]:
    """Return the median of the seconds and the largest of the peaks."""
    return {
        "cpu_seconds": round(statistics.median(run["cpu_seconds"] for run in runs), 2),
        "peak_megabytes": round(max(run["peak_megabytes"] for run in runs)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scale", type=float, default=1.0, help="of KINS' size")
    parser.add_argument("--runs", type=int, default=3, help="of each way; the median counts")
    parser.add_argument("--out", type=Path, help="record the results in this JSON file")
    parser.add_argument("--step", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--files", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--tables", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.step is not None:
        print(json.dumps(run_step(arguments.step, arguments.files, arguments.tables)))
        return
    with tempfile.TemporaryDirectory() as folder:
        result = benchmark(Path(folder), arguments.scale, arguments.runs)
    from record import write  # torch, which the measured steps must not load

    write(result, arguments.out)
    sys.exit(1 if result["falls_short"] else 0)


if __name__ == "__main__":
    main()
