"""How many cores this process may use, and that OpenMP shares them. Imports nothing heavy."""

import os
from collections.abc import Iterator
from pathlib import Path

_ROOT = Path("/")


def usable_cores(root: Path = _ROOT) -> int:
    """Return how many cores this process may use, at least 1.

    These are the cores it may run on, or fewer where its control group or one above it has a quota
    of processor time (a container's, a batch system's): two and a half cores count as two.

    Args:
        root: of the file system that holds ``proc/self/cgroup`` and ``sys/fs/cgroup``.
    """
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    return max(1, int(min([cores, *_quotas(root)])))


def _quotas(root: Path) -> Iterator[float]:
    """Quotas in cores, from the process's control group up to what is mounted as the topmost."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:  # another system than Linux
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            mounted, read = root / "sys/fs/cgroup", _quota
        elif "cpu" in controllers.split(","):
            mounted, read = root / "sys/fs/cgroup/cpu", _quota_of_version_1
        else:
            continue
        # A container's own group is mounted as the topmost, whatever path it has outside.
        own = mounted / path.strip("/")
        for group in (own, *own.parents):
            if group.is_relative_to(mounted) and (quota := read(group)):
                yield quota


def _quota(group: Path) -> float | None:
    try:
        quota, period = (group / "cpu.max").read_text().split()
    except OSError:
        return None
    return None if quota == "max" else int(quota) / int(period)


def _quota_of_version_1(group: Path) -> float | None:
    try:
        quota, period = (
            int((group / f"cpu.cfs_{name}_us").read_text()) for name in ("quota", "period")
        )
    except OSError:
        return None
    return quota / period if quota > 0 else None


def share_cores() -> None:
    """Let OpenMP's threads sleep while they wait, and have no more of them than usable cores.

    Threads that spin at every barrier, as is the default, take the core that another process could
    use: beside one busy process a training step is 1.34 times as fast without
    (benchmarks/results/threads.json). What the environment says already is kept. OpenMP reads it
    once: call this before torch is imported.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    if (cores := usable_cores()) < (os.cpu_count() or 1):
        os.environ.setdefault("OMP_NUM_THREADS", str(cores))
