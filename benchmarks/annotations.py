"""Time and memory of loading annotations of the size of KINS.

Makes a table of 15,000 images and 190,000 objects (ellipses, half of them cut by an occluder),
saves it, and loads it in a fresh process. Budget: under 3 s and under 700 MB.

    python benchmarks/annotations.py [--out benchmarks/results/annotations.json]
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from amodal_pipeline.annotations import AmodalAnnotations, Category, build, rle

HEIGHT, WIDTH = 375, 1242
BUDGET_SECONDS, BUDGET_MEGABYTES = 3.0, 700.0


def ellipses(centres: np.ndarray, radii: np.ndarray, cut: np.ndarray) -> list[str]:
    """Run lengths of ellipses [N] without the share ``cut`` of their columns, from the left."""
    left = np.ceil(np.maximum(centres[:, 0] - radii[:, 0] * (1 - 2 * cut), 0)).astype(np.int64)
    right = np.floor(np.minimum(centres[:, 0] + radii[:, 0], WIDTH - 1)).astype(np.int64)
    columns = np.maximum(right - left + 1, 0)
    of = np.repeat(np.arange(len(centres)), columns)
    x = left[of] + np.arange(len(of)) - np.repeat(np.cumsum(columns) - columns, columns)
    share = 1 - ((x - centres[of, 0]) / radii[of, 0]) ** 2
    half = radii[of, 1] * np.sqrt(np.maximum(share, 0))
    top = np.clip(np.round(centres[of, 1] - half), 0, HEIGHT - 1).astype(np.int64)
    bottom = np.clip(np.round(centres[of, 1] + half), top, HEIGHT - 1).astype(np.int64)
    start, stop = x * HEIGHT + top, x * HEIGHT + bottom + 1
    return rle.from_intervals(of, start, stop, (HEIGHT, WIDTH), len(centres))


def made_up(images: int, instances: int, seed: int = 0) -> AmodalAnnotations:
    """Annotations with as many objects and pairs as a data set of street scenes has."""
    random = np.random.default_rng(seed)
    image_ids = np.sort(random.integers(0, images, instances))
    radii = np.clip(random.lognormal(3.4, 0.6, (instances, 2)), 4, 180)
    centres = np.stack(
        [random.uniform(100, WIDTH - 100, instances), random.uniform(60, HEIGHT - 60, instances)],
        axis=1,
    )
    # Every second object stands beside the one before it and is hidden by it, if in one image.
    behind = np.flatnonzero(image_ids[1::2] == image_ids[:-1:2]) * 2 + 1
    centres[behind] = centres[behind - 1] + 0.5 * radii[behind - 1]
    centres = np.clip(centres, 30, (WIDTH - 30, HEIGHT - 30))
    cut = np.zeros(instances)
    cut[behind] = random.uniform(0.1, 0.9, len(behind))
    batches = [slice(i, i + 10_000) for i in range(0, instances, 10_000)]
    nothing = np.zeros(instances)
    return build(
        dataset="made_up",
        split="train",
        categories=[Category(id=i, name=f"category {i}") for i in range(1, 8)],
        image_root="images",
        images={
            "image_id": np.arange(images),
            "file_name": [f"training/image_2/{i:06d}.png" for i in range(images)],
            "height": np.full(images, HEIGHT),
            "width": np.full(images, WIDTH),
        },
        instances={
            "instance_id": np.arange(instances),
            "image_id": image_ids,
            "category_id": random.integers(1, 8, instances),
            "amodal_rle": [m for b in batches for m in ellipses(centres[b], radii[b], nothing[b])],
            "visible_rle": [m for b in batches for m in ellipses(centres[b], radii[b], cut[b])],
        },
        order={
            "image_id": image_ids[behind],
            "occluder_id": behind - 1,
            "occludee_id": behind,
        },
    )


def peak_megabytes() -> float:
    """Largest memory of this process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def measure_load(folder: str) -> dict[str, float]:
    """Load the table in this process, which has only imported what it needs."""
    imports = peak_megabytes()
    start = time.perf_counter()
    annotations = AmodalAnnotations.load(folder)
    loaded = time.perf_counter()
    annotations.of_image(0)
    assert len(annotations.sizes) == len(annotations.instances)
    return {
        "load_seconds": loaded - start,
        "first_access_seconds": time.perf_counter() - loaded,
        "peak_megabytes": peak_megabytes(),
        "imports_megabytes": imports,
    }


def measure_build(folder: str, images: int, instances: int) -> dict[str, float]:
    """Make and save the table in this process."""
    start = time.perf_counter()
    annotations = made_up(images, instances)
    built = time.perf_counter()
    annotations.save(folder)
    assert len(annotations.instances) == instances, annotations.rejected.head()
    return {
        "order_pairs": len(annotations.order),
        "build_seconds": built - start,
        "save_seconds": time.perf_counter() - built,
        "build_peak_megabytes": peak_megabytes(),
        "file_megabytes": sum(f.stat().st_size for f in Path(folder).iterdir()) / 2**20,
    }


def _rounded(value: float | bool) -> float | bool:
    return round(value, 2) if isinstance(value, float) else value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=15_000)
    parser.add_argument("--instances", type=int, default=190_000)
    parser.add_argument("--out", type=Path, help="record the results in this JSON file")
    parser.add_argument("--step", choices=["build", "load"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    size = (arguments.images, arguments.instances)
    if arguments.step == "build":
        print(json.dumps(measure_build(arguments.folder, *size)))
        return
    if arguments.step == "load":
        print(json.dumps(measure_load(arguments.folder)))
        return

    results = {
        "images": arguments.images,
        "instances": arguments.instances,
    }
    # On Linux a process starts with its parent's peak memory: each step gets a small parent.
    with tempfile.TemporaryDirectory() as folder:
        table = ["--folder", str(Path(folder) / "annotations")]
        counts = ["--images", str(size[0]), "--instances", str(size[1])]
        for step in ("build", "load"):
            command = [sys.executable, __file__, "--step", step, *table, *counts]
            process = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            results |= json.loads(process.stdout)
    results["within_budget"] = (
        results["load_seconds"] < BUDGET_SECONDS and results["peak_megabytes"] < BUDGET_MEGABYTES
    )
    from record import write  # torch, which the measured steps must not load

    write({k: _rounded(v) for k, v in results.items()}, arguments.out)
    sys.exit(0 if results["within_budget"] else 1)


if __name__ == "__main__":
    main()
