"""Damaged and hostile annotation files for every reader, and what became of them.

Each input is written, read, and judged: either the reader gives a table whose invariants hold, or a
ValueError that names the file. Any other exception, a call of more than 10 s, more than 1 GiB of
resident memory, or the end of the process is a failure: the input is kept beside the result, with
the command that repeats it. Inputs follow from seed and index (see fuzz_inputs.py, fuzz_large.py).

    python benchmarks/fuzz_readers.py --reader kins_2020 --count 1000
    python benchmarks/fuzz_readers.py --count 100000 --large 300 --workers 2 \\
        --out benchmarks/results/fuzz_readers.json
    python benchmarks/fuzz_readers.py --reader d2sa --index 5 [--large 1]      # one input again
"""

import argparse
import contextlib
import logging
import multiprocessing
import os
import re
import resource
import sys
import tempfile
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from fuzz_inputs import files
from fuzz_large import large_file, small_file

READERS = (
    *("kins_2019", "kins_2020", "d2sa", "cocoa", "cocoa_single", "cocoa_cls", "merge"),
    *("flat", "coco_modal"),
)
MAX_SECONDS = 10.0  # of a processor
STUCK_SECONDS = 600.0  # of the clock: for one that waits for what never comes
MAX_MEGABYTES = 1024
CHUNK, LARGE_CHUNK = 500, 4  # inputs that a process is given at once
ADDRESS_SPACE = 16 << 30  # bytes: beyond it memory is refused, so that the machine survives
TIRED_MEGABYTES = 500  # resident memory after which a process is replaced by a fresh one
COMMON_MESSAGES = 15
SMALL_PIECE, MOST_PIECES = 300, 20  # bytes of a piece, and how many there are of a large file


@dataclass(frozen=True)
class Chunk:
    """Inputs ``start`` to before ``stop`` of a reader."""

    reader: str
    large: bool
    start: int
    stop: int
    seed: int


@dataclass
class Tally:
    """What became of some inputs. ``slowest`` and ``largest`` are (seconds or megabytes, index)."""

    inputs: int = 0
    seconds: float = 0.0
    outcomes: Counter = field(default_factory=Counter)
    messages: Counter = field(default_factory=Counter)
    slowest: tuple[float, int] = (0.0, -1)
    largest: tuple[float, int] = (0.0, -1)
    kinds: dict[str, dict[str, float]] = field(default_factory=dict)
    failures: list[dict[str, Any]] = field(default_factory=list)

    def add(self, other: "Tally") -> None:
        self.inputs += other.inputs
        self.seconds += other.seconds
        self.outcomes += other.outcomes
        self.messages += other.messages
        self.slowest = max(self.slowest, other.slowest)
        self.largest = max(self.largest, other.largest)
        for kind, peaks in other.kinds.items():
            self.note(kind, **peaks)
        self.failures += other.failures

    def note(self, kind: str, seconds: float, megabytes: float) -> None:
        was = self.kinds.get(kind, {"seconds": 0.0, "megabytes": 0.0})
        self.kinds[kind] = {
            "seconds": max(was["seconds"], seconds),
            "megabytes": max(was["megabytes"], megabytes),
        }


def reader(name: str) -> Callable[[Sequence[Path], int], Any]:
    """A function that reads files as users of a reader do; the index varies its options.

    Every third file is read in small pieces, as files of many megabytes are read in large ones.
    """
    from amodal_pipeline.annotations import json_records

    read, scan = _import(name), json_records.scan

    def call(paths: Sequence[Path], index: int) -> Any:
        small = max(SMALL_PIECE, paths[0].stat().st_size // MOST_PIECES)
        json_records.scan = scan if index % 3 else partial(scan, piece_bytes=small)
        given = {"image_root": paths[0].parent, "dataset": name, "split": "train"}
        if name == "merge":
            table, report = read(paths[0], paths[1], **given)
            parts = report[report["section"] != "categories"]  # two regions may take one instance
            assert (parts["count"] <= parts["of"]).all(), report
            return table
        if name in ("cocoa", "cocoa_single"):
            given["annotators"] = ("all", "first")[index % 2]
            given["regions"] = ("all", "things", "stuff")[index // 2 % 3]
        return read(paths[0], **given)

    return call


def _import(name: str) -> Callable[..., Any]:
    """Imported here: processes that only watch others need none of it."""
    if name in ("kins_2019", "kins_2020"):
        from amodal_pipeline.annotations.kins import read_kins as read
    elif name == "d2sa":
        from amodal_pipeline.annotations.d2sa import read_d2sa as read
    elif name == "flat":
        from amodal_pipeline.annotations.coco_amodal import read_coco_amodal as read
    elif name in ("cocoa", "cocoa_single"):
        from amodal_pipeline.annotations.cocoa import read_cocoa as read
    elif name == "cocoa_cls":
        from amodal_pipeline.annotations.cocoa_cls import read_cocoa_cls as read
    elif name == "merge":
        from amodal_pipeline.annotations.cocoa_cls import merge_cocoa_cls as read
    else:
        return _read_modal
    return read


def _read_modal(path: Path, **names: Any) -> Any:
    """As compose.source.read_source, but for the photographs, which must be there for it."""
    from amodal_pipeline.annotations import flat
    from amodal_pipeline.annotations.formats import Format

    return flat.read_table(path, forms={Format.MODAL: flat.MODAL}, **names)


def make(chunk: Chunk, index: int) -> tuple[str, dict[str, bytes]]:
    """What is special about an input, and its files."""
    if chunk.large:
        return large_file(chunk.reader, chunk.seed, index)
    return "", files(chunk.reader, chunk.seed, index)


def run_chunk(chunk: Chunk, folder: Path, begin: Callable[[int], None]) -> tuple[Tally, int]:
    """Give the inputs of a chunk to their reader; up to which of them, and what became of them.

    Args:
        begin: called with an index before that input is read.
    """
    from fuzz_checks import called, in_file, outcome

    read, tally = reader(chunk.reader), Tally()
    warm(chunk.reader, folder)
    for index in range(chunk.start, chunk.stop):
        kind, given = make(chunk, index)
        paths = [folder / name for name in given]
        for old in folder.iterdir():
            old.unlink()
        for path, data in zip(paths, given.values(), strict=True):
            path.write_bytes(data)
        reset_peak()
        begin(index)
        start = time.process_time()
        result = called(partial(read, index=index), paths)
        seconds = time.process_time() - start
        begin(-1)
        megabytes = memory("VmHWM")
        each = chunk.reader.startswith("cocoa") and index % 2 == 0
        found = outcome(result, paths, in_file(given[paths[0].name], each))
        del result
        message = found.message
        if found.kind != "failure" and megabytes > MAX_MEGABYTES:
            found, message = None, f"{megabytes:.0f} MiB of memory"
        tally.inputs += 1
        tally.seconds += seconds
        tally.outcomes[found.kind if found else "failure"] += 1
        tally.slowest = max(tally.slowest, (seconds, index))
        tally.largest = max(tally.largest, (megabytes, index))
        if kind:
            tally.note(kind, seconds, megabytes)
        if found is None or found.kind == "failure":
            tally.failures.append(failure(chunk, index, f"{kind} {message}".strip()))
        elif found.kind == "error":
            tally.messages[re.sub(r"\d+", "#", message)[:90]] += 1
        if memory("VmRSS") > TIRED_MEGABYTES:
            return tally, index + 1
    return tally, chunk.stop


def warm(name: str, folder: Path) -> None:
    """Read a sound file first: compiling what it takes is no input's work."""
    given = small_file(name)
    paths = [folder / file for file in given]
    for path, data in zip(paths, given.values(), strict=True):
        path.write_bytes(data)
    with contextlib.suppress(ValueError):
        reader(name)(paths, 1)


def failure(chunk: Chunk, index: int, message: str) -> dict[str, Any]:
    return {
        "reader": chunk.reader,
        "large": chunk.large,
        "index": index,
        "message": message.encode("ascii", "backslashreplace").decode(),
        "again": f"python benchmarks/fuzz_readers.py --reader {chunk.reader} --seed {chunk.seed} "
        f"--index {index}{' --large 1' if chunk.large else ''}",
    }


def reset_peak() -> None:
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def memory(key: str) -> float:
    """Resident memory of this process in MiB, now (VmRSS) or at most since it was reset (VmHWM)."""
    text = Path("/proc/self/status").read_text()
    return int(re.search(rf"^{key}:\s+(\d+)", text, re.MULTILINE)[1]) / 1024


def cpu_seconds(process: int) -> float:
    """What a process has worked: other work on the machine does not count against a reader."""
    with contextlib.suppress(OSError):
        user, system = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[11:13]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")
    return 0.0


def work(link: Connection, now: Any, folder: Path) -> None:
    """A process: takes chunks for ever. ``now`` = [index, CPU seconds and time when it began]."""
    import pyarrow

    pyarrow.set_cpu_count(1)
    logging.disable(logging.WARNING)
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))

    def begin(index: int) -> None:
        now[1], now[2], now[0] = time.process_time(), time.monotonic(), index

    while True:
        link.send(run_chunk(link.recv(), folder, begin))


class Worker:
    """A process that can be watched, ended and replaced."""

    def __init__(self, context: Any, folder: Path):
        self.now = context.Array("d", [-1.0, 0.0, 0.0], lock=False)
        self.link, theirs = context.Pipe()
        self.process = context.Process(target=work, args=(theirs, self.now, folder), daemon=True)
        self.process.start()
        theirs.close()
        self.chunk: Chunk | None = None

    def give(self, chunk: Chunk) -> None:
        self.chunk = chunk
        self.link.send(chunk)

    def done(self) -> tuple[Tally, int] | str | None:
        """The result of the chunk, or what went wrong; None while all is well."""
        with contextlib.suppress(EOFError, ConnectionError):
            if self.link.poll():
                return self.link.recv()
        if not self.process.is_alive():
            return f"the process ended with code {self.process.exitcode}"
        if self.now[0] >= 0 and cpu_seconds(self.process.pid) - self.now[1] > MAX_SECONDS:
            return f"not done after {MAX_SECONDS:.0f} s"
        if self.now[0] >= 0 and time.monotonic() - self.now[2] > STUCK_SECONDS:
            return f"stuck for {STUCK_SECONDS:.0f} s"
        return None

    def end(self) -> None:
        self.process.kill()
        self.process.join()
        self.link.close()


def run(
    chunks: deque[Chunk], workers: int, folder: Path, progress: Callable[[str], None]
) -> dict[tuple[str, bool], Tally]:
    """All chunks, by as many processes; their files lie in the folder."""
    context = multiprocessing.get_context("spawn")
    tallies: dict[tuple[str, bool], Tally] = {}
    pool: list[Worker] = []
    while chunks or any(worker.chunk for worker in pool):
        while chunks and len(pool) < workers:
            pool.append(Worker(context, Path(tempfile.mkdtemp(dir=folder))))
        for worker in list(pool):
            chunk = worker.chunk
            if chunk is None:
                if chunks:
                    worker.give(chunks.popleft())
                continue
            result = worker.done()
            if result is None:
                continue
            tally = tallies.setdefault((chunk.reader, chunk.large), Tally())
            worker.chunk = None
            if isinstance(result, str):
                index, code = int(worker.now[0]), worker.process.exitcode
                worker.end()
                pool.remove(worker)
                if index < 0 or code == 1:  # 1: an exception of this program
                    raise SystemExit(f"{chunk}: {result}, outside of any reader")
                # What came before it in the chunk is done again: its results are lost.
                before = Chunk(chunk.reader, chunk.large, chunk.start, index, chunk.seed)
                after = Chunk(chunk.reader, chunk.large, index + 1, chunk.stop, chunk.seed)
                chunks.extendleft(part for part in (after, before) if part.start < part.stop)
                kind = make(chunk, index)[0]
                lost = Tally(1, outcomes=Counter(failure=1))
                lost.failures.append(failure(chunk, index, f"{kind} {result}".strip()))
                tally.add(lost)
            else:
                part, stopped = result
                tally.add(part)
                if stopped < chunk.stop:
                    rest = Chunk(chunk.reader, chunk.large, stopped, chunk.stop, chunk.seed)
                    chunks.appendleft(rest)
                    worker.end()
                    pool.remove(worker)
            progress(f"{chunk.reader}: {tally.inputs} inputs, {dict(tally.outcomes)}")
        time.sleep(0.01)
    for worker in pool:
        worker.end()
    return tallies


def described(tally: Tally) -> dict[str, Any]:
    return {
        "inputs": tally.inputs,
        "outcomes": dict(sorted(tally.outcomes.items())),
        "inputs_per_second_and_core": round(tally.inputs / max(tally.seconds, 1e-9), 1),
        "slowest": {"seconds": round(tally.slowest[0], 3), "index": tally.slowest[1]},
        "peak": {"megabytes": round(tally.largest[0]), "index": tally.largest[1]},
        "common_errors": dict(tally.messages.most_common(COMMON_MESSAGES)),
        **(
            {
                "kinds": {
                    kind: {name: round(value, 2) for name, value in peaks.items()}
                    for kind, peaks in sorted(tally.kinds.items())
                }
            }
            if tally.kinds
            else {}
        ),
        "failures": sorted(tally.failures, key=lambda f: f["index"]),
    }


def keep(failures: list[dict[str, Any]], seed: int, folder: Path) -> None:
    """Write the inputs that failed."""
    folder.mkdir(parents=True, exist_ok=True)
    for found in failures:
        chunk = Chunk(found["reader"], found["large"], 0, 0, seed)
        for name, data in make(chunk, found["index"])[1].items():
            size = "large_" if chunk.large else ""
            (folder / f"{chunk.reader}_{size}{found['index']}_{name}").write_bytes(data)


def one(arguments: argparse.Namespace) -> None:
    """A single input, in this process: what it is and how it ends."""
    name = arguments.reader[0]
    chunk = Chunk(name, arguments.large > 0, 0, 0, arguments.seed)
    kind, given = make(chunk, arguments.index)
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / file for file in given]
        for path, data in zip(paths, given.values(), strict=True):
            path.write_bytes(data)
            print(kind, path.name, len(data), data[:2000])
        start = time.perf_counter()
        try:
            print(reader(name)(paths, arguments.index).metadata)
        finally:
            print(f"{time.perf_counter() - start:.2f} s, {memory('VmHWM'):.0f} MiB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--reader", nargs="+", default=["all"], choices=[*READERS, "all"])
    parser.add_argument("--count", type=int, default=1000, help="small inputs a reader")
    parser.add_argument("--large", type=int, default=0, help="inputs of up to 1 MiB a reader")
    parser.add_argument("--first", type=int, default=0, help="index of the first input")
    parser.add_argument("--index", type=int, help="only this input, in this process")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    if arguments.index is not None:
        return one(arguments)

    names = READERS if "all" in arguments.reader else arguments.reader
    chunks: deque[Chunk] = deque()
    for name in names:
        for large, count, step in (
            (False, arguments.count, CHUNK),
            (True, arguments.large, LARGE_CHUNK),
        ):
            last = arguments.first + count
            for start in range(arguments.first, last, step):
                chunks.append(Chunk(name, large, start, min(start + step, last), arguments.seed))
    start = time.perf_counter()
    memory_disk = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(dir=memory_disk) as folder:
        tallies = run(
            chunks,
            arguments.workers,
            Path(folder),
            lambda text: print(f"\r{text}", end="", flush=True),
        )
    print()
    failures = [found for tally in tallies.values() for found in tally.failures]
    result = {
        "seed": arguments.seed,
        "first": arguments.first,
        "workers": arguments.workers,
        "seconds": round(time.perf_counter() - start, 1),
        "limits": {"seconds": MAX_SECONDS, "megabytes": MAX_MEGABYTES},
        "readers": {
            name: {
                "large" if large else "small": described(tallies[name, large])
                for large in (False, True)
                if (name, large) in tallies
            }
            for name in names
        },
        "failures": len(failures),
    }
    if failures:
        folder = (arguments.out or Path("fuzz_readers.json")).with_suffix("")
        keep(failures, arguments.seed, folder)
        print(f"{len(failures)} inputs failed; they are kept in {folder}")
    from record import write

    write(result, arguments.out)
    if failures:
        sys.exit(1)


if __name__ == "__main__":
    main()
