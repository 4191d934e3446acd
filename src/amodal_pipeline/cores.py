"""The number of cores that this process may use, and OpenMP's settings for sharing them.

Imports the standard library only.
"""

import os
from collections.abc import Iterator
from pathlib import Path

_ROOT = Path("/")


def usable_cores(root: Path = _ROOT) -> int:
    """Return how many cores this process may use, at least 1.

    These are the cores of its affinity mask, or fewer if its control group or a parent of it has a
    quota of processor time (set by a container or a batch system); 2.5 cores count as 2.

    Args:
        root: of the file system with ``proc/self/cgroup`` and ``sys/fs/cgroup``.
    """
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    return max(1, int(min([cores, *_quotas(root)])))


def _quotas(root: Path) -> Iterator[float]:
    """Yield quotas in cores, of the process's control group and of all mounted parents."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:  # not Linux
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            mounted, read = root / "sys/fs/cgroup", _quota
        elif "cpu" in controllers.split(","):
            mounted, read = root / "sys/fs/cgroup/cpu", _quota_of_version_1
        else:
            continue
        # In a container the own group is mounted as the root, whatever its path outside.
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
    """Set OpenMP's threads to sleep while they wait, and their number to the usable cores.

    By default threads spin at every barrier and so block cores that another process could use. With
    one other busy process, sleeping makes a training step 1.34 times as fast
    (benchmarks/results/threads.json). Variables that are set already are kept. Call this before
    torch is imported, because OpenMP reads them only once.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    if (cores := usable_cores()) < (os.cpu_count() or 1):
        os.environ.setdefault("OMP_NUM_THREADS", str(cores))
