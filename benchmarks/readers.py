"""Time and memory of converting annotation files of published size, beside the plain way.

Makes up the files (see made_up_files.py), converts every split of a data set to its table with one
and with two workers, and measures the plain way on the same files: json.load, then pycocotools one
annotation at a time, in one process, to the same masks, boxes, rates and order pairs in Parquet.
Each measurement has a fresh process; they take turns, and the median counts. Checked as well: the
tables of one and two workers have the same bytes, the plain way has the same masks, and a
conversion that is killed leaves no half table and succeeds when started again.

Seconds are those of reading, converting and writing; ``process_seconds`` are those of the whole
process, with the start of Python and the imports; ``cpu_seconds`` are those that all its processes
computed, which other programs on the machine disturb least. Memory is the resident memory of the
process and its workers, added up every 20 ms: pages they share count once for each of them. Budget
for KINS with two workers: 90 s, 3 GiB, three times faster than the plain way.

    python benchmarks/readers.py [--out benchmarks/results/readers.json] [--scale 0.01]
"""

import argparse
import hashlib
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from plain_readers import plain

if TYPE_CHECKING:
    from made_up_files import MadeUp

BUDGET_SECONDS, BUDGET_MEGABYTES, BUDGET_RATIO = 90.0, 3 * 1024, 3.0
WORKERS = (1, 2)
SAMPLE_SECONDS = 0.02
GRACE_SECONDS = 10.0  # for the workers of a killed process to notice that it is gone

Splits = dict[str, list[str]]  # the files of each split


def reader(data_set: str) -> Callable[..., Any]:
    """The function that reads a data set; imported here, for imports are not timed."""
    if data_set == "cocoa":
        from amodal_pipeline.annotations.cocoa import read_cocoa as read
    elif data_set == "d2sa":
        from amodal_pipeline.annotations.d2sa import read_d2sa as read
    else:
        from amodal_pipeline.annotations.kins import read_kins as read
    return read


def convert(
    read: Callable[..., Any], data_set: str, splits: Splits, out: Path, workers: int
) -> None:
    """Convert all splits of a data set; the files of a split become one table."""
    from amodal_pipeline.annotations.validation import join

    for split, paths in splits.items():
        parts = [read(path, "images", data_set, split, workers=workers) for path in paths]
        join(parts).save(out / split)


def command(step: str, data_set: str, splits: Splits, out: Path, workers: int = 0) -> list[str]:
    """How to run a step of this program in a process of its own."""
    options = ["--step", step, "--data-sets", data_set, "--workers", str(workers)]
    return [
        *(sys.executable, __file__, *options),
        *("--splits", json.dumps(splits), "--tables", str(out)),
    ]


def run_step(arguments: argparse.Namespace) -> dict[str, Any]:
    """A step, in the process that was started for it."""
    data_set, splits = arguments.data_sets[0], json.loads(arguments.splits)
    tables = Path(arguments.tables)
    if arguments.step == "compare":
        return compare(splits, tables)
    if arguments.step == "plain":
        start, used = time.perf_counter(), cpu_seconds()
        plain(data_set, splits, tables)
    else:
        read = reader(data_set)
        start, used = time.perf_counter(), cpu_seconds()
        convert(read, data_set, splits, tables, int(arguments.workers))
    return {"seconds": time.perf_counter() - start, "cpu_seconds": cpu_seconds() - used}


def cpu_seconds() -> float:
    """Of this process, and of those it started that have ended."""
    return sum(os.times()[:4])


def measured(step: list[str]) -> dict[str, float]:
    """Run a step; its seconds, those of the whole process, and the peak memory of all processes."""
    started = time.perf_counter()
    with subprocess.Popen(step, stdout=subprocess.PIPE, text=True) as process:
        peak = 0.0
        while process.poll() is None:
            peak = max(peak, sum(resident_megabytes(pid) for pid in family(process.pid)))
            time.sleep(SAMPLE_SECONDS)
        if process.returncode:
            raise SystemExit(f"{' '.join(step[:6])} … ended with code {process.returncode}")
        result = json.loads(process.stdout.read())
    return result | {
        "process_seconds": time.perf_counter() - started,
        "peak_megabytes": peak,
    }


def family(pid: int) -> list[int]:
    """The process and all processes it started, and those they started (Linux)."""
    pids = [pid]
    for member in pids:
        for children in Path(f"/proc/{member}/task").glob("*/children"):
            try:
                pids += [int(child) for child in children.read_text().split()]
            except OSError:  # it has ended meanwhile
                continue
    return pids


def resident_megabytes(pid: int) -> float:
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def digest(table: Path) -> str:
    """Of the names and bytes of all files in a folder."""
    total = hashlib.sha256()
    for file in sorted(table.rglob("*")):
        total.update(file.name.encode() + b"\0")
        total.update(hashlib.sha256(file.read_bytes()).digest())
    return total.hexdigest()


def digests(tables: Path) -> dict[str, str]:
    return {table.name: digest(table) for table in sorted(tables.glob("[!.]*"))}


def interrupted(
    data_set: str, splits: Splits, folder: Path, finished: dict[str, str], seconds: float
) -> dict[str, Any]:
    """Kill conversions by two workers at several moments, and start each of them again.

    The last one is killed while a table is being written. A table that stands afterwards must be
    one of the ``finished``, byte for byte. Processes that outlive the killed one for ten seconds
    are counted, and ended.
    """
    half_tables = stayed = 0
    moments: list[float | None] = []
    again = []
    for moment in (0.25 * seconds, 0.6 * seconds, None):
        out = folder / f"killed_{len(moments)}"
        step = command("ours", data_set, splits, out, workers=WORKERS[-1])
        silent = subprocess.DEVNULL
        with subprocess.Popen(step, stdout=silent, stderr=silent) as process:
            started = wait_for(process, lambda: len(family(process.pid)) > 1)
            if moment is None:
                # A table is written in a folder beside its place.
                wait_for(process, lambda out=out: any(out.glob(".*/*/*.parquet")))
            else:
                time.sleep(moment)
            workers = family(process.pid)[1:]
            killed = process.poll() is None
            process.kill()
        moments.append(round(time.perf_counter() - started, 2) if killed else None)
        limit = time.perf_counter() + GRACE_SECONDS
        while any(map(alive, workers)) and time.perf_counter() < limit:
            time.sleep(0.05)
        for pid in filter(alive, workers):
            stayed += 1
            os.kill(pid, signal.SIGKILL)
        half_tables += sum(finished.get(name) != found for name, found in digests(out).items())
        code = subprocess.run(step, stdout=subprocess.DEVNULL).returncode
        again.append(code == 0 and digests(out) == finished)
    return {
        "seconds_after_workers_started": moments,
        "half_tables": half_tables,
        "processes_that_stayed": stayed,
        "second_start_succeeds": all(again),
    }


def wait_for(process: subprocess.Popen, happened: Callable[[], bool]) -> float:
    """Wait until something has happened or the process has ended; returns the time."""
    while process.poll() is None and not happened():
        time.sleep(0.001)
    return time.perf_counter()


def compare(splits: Splits, tables: Path) -> dict[str, Any]:
    """What the tables say of themselves, and how many rows the plain way has otherwise."""
    from amodal_pipeline.annotations import AmodalAnnotations

    accounting: Counter = Counter()
    differences: Counter = Counter()
    for split in splits:
        ours = AmodalAnnotations.load(tables / "ours" / split)
        for kind, counts in ours.metadata.accounting.items():
            accounting.update({f"{kind}_{name}": n for name, n in counts.model_dump().items()})
        for name, columns in (
            ("instances", ["instance_id", "image_id", "category_id", "amodal_rle", "visible_rle"]),
            ("order", ["image_id", "occluder_id", "occludee_id", "area"]),
        ):
            found = rows_of(getattr(ours, name), columns)
            other = rows_of(pd.read_parquet(tables / "plain" / split / f"{name}.parquet"), columns)
            differences[name] += ((found - other) + (other - found)).total()
    return {"accounting": dict(accounting), "rows_unlike_plain": dict(differences)}


def rows_of(table: pd.DataFrame, columns: Sequence[str]) -> Counter:
    """The rows of some columns, each with how often it occurs."""
    if table.empty:
        return Counter()
    return Counter(zip(*(table[column].tolist() for column in columns), strict=True))


def paths_of(made: dict[str, tuple["MadeUp", ...]]) -> Splits:
    return {split: [str(file.path) for file in files] for split, files in made.items()}


def benchmark(data_set: str, made: dict[str, tuple["MadeUp", ...]], runs: int) -> dict[str, Any]:
    """All measurements and checks of one data set."""
    from made_up_files import make

    splits = paths_of(made)
    files = [file for some in made.values() for file in some]
    counts: Counter = Counter()
    for file in files:
        counts.update({k: v for k, v in asdict(file).items() if k != "path"})
    ways = {"plain": ("plain", 0)} | {f"workers_{n}": ("ours", n) for n in WORKERS}
    results = defaultdict(list)
    tables: dict[str, set] = {"plain": set(), "ours": set()}
    with tempfile.TemporaryDirectory(dir=files[0].path.parent) as name:
        folder = Path(name)
        # What is compiled once and kept on disk is compiled now.
        few = make(data_set, folder / "few", scale=0.001)
        measured(command("ours", data_set, paths_of(few), folder / "warm_up", workers=1))
        for _ in range(runs):
            for way, (step, workers) in ways.items():
                out = folder / step
                shutil.rmtree(out, ignore_errors=True)
                results[way].append(measured(command(step, data_set, splits, out, workers)))
                tables[step].add(tuple(digests(out).items()))
        checks = command("compare", data_set, splits, folder)
        compared = json.loads(subprocess.run(checks, check=True, stdout=subprocess.PIPE).stdout)
        timings = {way: summary(found) for way, found in results.items()}
        finished = digests(folder / "ours")
        seconds = timings[f"workers_{WORKERS[-1]}"]["seconds"]
        killed = interrupted(data_set, splits, folder, finished, seconds)
    return {
        "made_up": dict(counts) | {"megabytes": sum(f.path.stat().st_size for f in files) >> 20},
        **timings,
        "times_faster": {
            str(n): round(timings["plain"]["seconds"] / timings[f"workers_{n}"]["seconds"], 2)
            for n in WORKERS
        },
        "same_bytes": len(tables["ours"]) == 1,
        **compared,
        "all_read": compared["accounting"]["instances_read"] == counts["objects"],
        "killed": killed,
    }


def summary(runs: list[dict[str, float]]) -> dict[str, Any]:
    """Medians of the seconds, the largest of the peaks, and the seconds of each run."""
    names = ("seconds", "cpu_seconds", "process_seconds")
    return {
        **{name: round(statistics.median(run[name] for run in runs), 2) for name in names},
        "peak_megabytes": round(max(run["peak_megabytes"] for run in runs)),
        "runs": [round(run["seconds"], 2) for run in runs],
    }


def shortcomings(data_set: str, result: dict[str, Any], full_size: bool) -> list[str]:
    """What a result falls short of; speed and memory count at full size only."""
    killed = result["killed"]
    found = {
        "tables differ from run to run": not result["same_bytes"],
        "records are missing": not result["all_read"],
        "the plain way has other rows": any(result["rows_unlike_plain"].values()),
        "a killed run left half a table": killed["half_tables"] > 0,
        "the second start failed": not killed["second_start_succeeds"],
    }
    if full_size and data_set.startswith("kins"):
        two = result[f"workers_{WORKERS[-1]}"]
        ratio = result["times_faster"][str(WORKERS[-1])]
        found |= {
            f"more than {BUDGET_SECONDS:.0f} s": two["seconds"] > BUDGET_SECONDS,
            f"more than {BUDGET_MEGABYTES} MB": two["peak_megabytes"] > BUDGET_MEGABYTES,
            f"not {BUDGET_RATIO:.0f} times faster than the plain way": ratio < BUDGET_RATIO,
        }
    return [text for text, true in found.items() if true]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-sets", nargs="+", help="kins_2019, kins_2020, cocoa, d2sa")
    parser.add_argument("--scale", type=float, default=1.0, help="of the published sizes")
    parser.add_argument("--runs", type=int, default=3, help="of each way; the median counts")
    parser.add_argument("--files", type=Path, help="keep the made-up files in this folder")
    parser.add_argument("--out", type=Path, help="record the results in this JSON file")
    parser.add_argument("--step", choices=["plain", "ours", "compare"], help=argparse.SUPPRESS)
    for option in ("--splits", "--tables", "--workers"):
        parser.add_argument(option, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.step is not None:
        print(json.dumps(run_step(arguments)))
        return

    # What is measured runs in processes of their own, which load only what they need.
    from made_up_files import DATA_SETS, make
    from record import write

    results: dict[str, Any] = {"scale": arguments.scale, "runs": arguments.runs}
    failed = []
    with tempfile.TemporaryDirectory() as temporary:
        for data_set in arguments.data_sets or DATA_SETS:
            made = make(data_set, arguments.files or Path(temporary), arguments.scale)
            result = benchmark(data_set, made, arguments.runs)
            result["falls_short"] = shortcomings(data_set, result, arguments.scale >= 1)
            failed += result["falls_short"]
            results[data_set] = result
    write(results, arguments.out)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
