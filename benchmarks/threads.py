"""A training step of the embedded ORCNN, quiet and beside a busy process, with threads that spin.

OpenMP's threads spin at every barrier unless the environment says otherwise (see
amodal_pipeline/cores.py). It is read once, so that every measurement is a process of its own; the
four kinds take turns. The busy process beside uses one core all the time, as another training or a
backup does. Nothing else may run.

    python benchmarks/threads.py --out benchmarks/results/threads.json
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

from amodal_pipeline.cores import share_cores

VARIABLES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "OMP_NUM_THREADS")


def measure(size: int, batch: int, repeats: int) -> None:
    """Print the seconds of each step, and the number of threads, as JSON."""
    import torch
    from training_step import targets_of

    from amodal_pipeline import methods
    from amodal_pipeline.methods.registry import MethodConfig
    from record import seconds_of  # imports torch, which the settings come before

    torch.manual_seed(0)
    # The sizes of conf/profiles/small/globals.yml.
    config = {
        "name": "orcnn",
        "detector": {
            "backbone": {
                "name": "tf_efficientnet_lite0",
                "weights": None,
                "pyramid_channels": 64,
            },
            "proposals": {"anchor_sizes": [12, 24, 48, 96, 144], "after_nms_train": 200},
            "box_head": {"channels": 256, "samples_per_image": 64},
            "min_size": size,
            "max_size": size,
        },
        "mask_head": {"convolutions": 4, "channels": 64},
    }
    model = methods.build(MethodConfig.model_validate(config).root, 8).train()
    images = [torch.rand(3, size, size) for _ in range(batch)]
    targets = [targets_of(size, "cpu", objects=8, classes=8) for _ in images]

    def step() -> None:
        sum(model(images, targets).values()).backward()
        model.zero_grad(set_to_none=True)

    taken = seconds_of(step, "cpu", repeats)
    print(json.dumps({"seconds": taken, "threads": torch.get_num_threads()}))


@contextmanager
def busy(wanted: bool):
    """One process beside that never waits."""
    beside = subprocess.Popen([sys.executable, "-c", "while True: pass"]) if wanted else None
    try:
        yield
    finally:
        if beside:
            beside.kill()
            beside.wait()


def run(arguments: argparse.Namespace, *, settings: bool, beside: bool) -> dict:
    """What :func:`measure` prints in a process of its own."""
    given = [f"--{name}={getattr(arguments, name)}" for name in ("size", "batch", "repeats")]
    environment = {k: v for k, v in os.environ.items() if k not in VARIABLES}
    command = [sys.executable, __file__, "--measure", *given]
    with busy(beside):
        done = subprocess.run(
            [*command, "--settings"] if settings else command,
            env=environment,
            check=True,
            capture_output=True,
            text=True,
        )
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=8, help="steps of a process")
    parser.add_argument("--rounds", type=int, default=3, help="processes of each kind")
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--settings", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.settings:
        share_cores()
    if arguments.measure:
        measure(arguments.size, arguments.batch, arguments.repeats)
        return

    kinds = {
        f"{load}, {'with' if settings else 'without'} settings": (settings, load != "quiet")
        for load in ("quiet", "one busy process beside")
        for settings in (False, True)
    }
    seconds, threads = {name: [] for name in kinds}, {}
    for _ in range(arguments.rounds):
        for name, (settings, beside) in kinds.items():
            found = run(arguments, settings=settings, beside=beside)
            seconds[name] += found["seconds"]
            threads[name] = found["threads"]
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    quiet, quiet_with, loaded, loaded_with = medians.values()
    result = {
        "what": "training step (forward and backward) of the embedded ORCNN",
        "size": arguments.size,
        "batch": arguments.batch,
        "seconds": {name: [round(t, 3) for t in values] for name, values in seconds.items()},
        "threads": threads,
        "median_seconds": {name: round(value, 3) for name, value in medians.items()},
        "cost_of_settings_quiet": round(quiet_with / quiet, 3),
        "gain_of_settings_beside_a_busy_process": round(loaded / loaded_with, 2),
        "busy_over_quiet_without_settings": round(loaded / quiet, 2),
        "busy_over_quiet_with_settings": round(loaded_with / quiet_with, 2),
    }
    from record import write

    write(result, arguments.out)


if __name__ == "__main__":
    main()
