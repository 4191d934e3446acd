"""How every benchmark measures, prints and records."""

import json
import os
import platform
import re
import resource
import tempfile
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from amodal_pipeline.annotations.storage import replacing
from amodal_pipeline.training.loop import git_revision

_NUMBERS = re.compile(r"\[([\s\d.,eE+-]+)\]")  # lists of numbers, which are written on one line


def write(result: dict, out: Path | None) -> None:
    """Print the result with machine, versions and revision; record it in ``out``."""
    import torch

    from amodal_pipeline.training.device import resolve_precision

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    context = {
        "device": gpu or f"CPU ({platform.machine()}, {os.cpu_count()} cores)",
        "processor": torch.cpu.get_capabilities().get("cpu_name", "unknown"),
        "bf16_in_hardware": resolve_precision("auto", "cpu") == "bfloat16",
        "load_average": round(os.getloadavg()[0], 1),
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("torch", "torchvision", "numpy", "trimesh")},
        },
        "git_revision": git_revision(),
    }
    text = json.dumps({**result, **context}, indent=2)
    text = _NUMBERS.sub(lambda found: f"[{' '.join(found[1].split())}]", text)
    print(text)
    if out is not None:
        with replacing(out) as path:
            path.write_text(text + "\n")


def timed(work, *arguments) -> tuple[Any, float]:
    """Return what a function returns, and the seconds that it took."""
    start = time.perf_counter()
    result = work(*arguments)
    return result, time.perf_counter() - start


def best_rates(make, workers: Sequence[int], rounds: int) -> dict[str, float]:
    """Return the best rate of ``rounds`` for each number of workers, which take turns.

    ``make(workers, folder)`` makes pictures and returns how many. Its first turn is not counted:
    processes start then, and libraries load.
    """
    best = dict.fromkeys(workers, 0.0)
    for turn in range(rounds + 1):
        for count in workers:
            with tempfile.TemporaryDirectory() as folder:
                made, seconds = timed(make, count, Path(folder))
            if turn:
                best[count] = max(best[count], made / seconds)
    return {str(count): round(rate, 2) for count, rate in best.items()}


def seconds_of(work, device: str, repeats: int) -> list[float]:
    """The first call is not counted: it compiles, and finds the fastest kernels."""
    import torch

    taken = []
    for _ in range(repeats + 1):
        if device == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        work()
        if device == "cuda":
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - start)
    return taken[1:]


def peak_gigabytes(device: str) -> float:
    """Since the last reset on a GPU; of the whole program so far on a CPU."""
    import torch

    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
