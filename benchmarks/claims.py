"""Check the claims of papers: train what docs/claims.yml asks for, and write docs/claims.md.

    make claims
    python benchmarks/claims.py --only vrsp --seeds 0 1 2 --iterations 1000
    python benchmarks/claims.py --page              # the page alone, from what is finished

One row of an ablation with one seed is one `kedro run`, in a process of its own. The program can be
killed at any time, by Ctrl-C or SIGTERM too: started again, it goes on in the middle of the row.
Finished rows are skipped while their parameters and what they start from are unchanged; a row that
fails is logged (beside its scores, `<row>.log`) and the others go on. The page is written after
every row. Run it in a clone, at low priority for the hours that it takes:

    nice -n 19 make claims
"""

import argparse
import hashlib
import json
import logging
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from amodal_pipeline.annotations.storage import replacing
from amodal_pipeline.configuration import LayeredConfigLoader
from amodal_pipeline.jobs.claims import (
    ClaimsFile,
    Training,
    judge_claims,
    read_claims,
    trainings,
    write_page,
)
from amodal_pipeline.jobs.freshness import card_of
from amodal_pipeline.jobs.rows import AblationConfig, Row, resolve
from amodal_pipeline.jobs.train import Job, Pretraining
from amodal_pipeline.methods.contract import parts_of
from amodal_pipeline.methods.registry import describe
from amodal_pipeline.metrics.published import read_published
from amodal_pipeline.pipelines.parameters import Parameters, check
from amodal_pipeline.settings import CONFIG_LOADER_ARGS

CLAIMS, PAGE, PUBLISHED = Path("docs/claims.yml"), Path("docs/claims.md"), "docs/published.csv"
CONF, MODELS, REPORTS = Path("conf"), Path("data/06_models"), Path("data/08_reporting")
TITLES = {
    "orcnn": "ORCNN (Follmann et al., WACV 2019)",
    "vrsp": "VRSP (Xiao et al., AAAI 2021)",
    "sln": "SLN (Zhang et al., ACM MM 2019)",
    "a3d": "A3D (Li et al., ECCV 2022)",
    "c2f_seg": "C2F-Seg (Gao et al., ICCV 2023), and what it says of rivals and videos",
}

_log = logging.getLogger("amodal_pipeline.claims")  # whose lines conf/logging.yml shows


@dataclass(frozen=True)
class Step:
    """A `kedro run`: its arguments, the file that records that it is finished, and its values.

    ``row`` is None for the run that prepares data and starts.
    """

    name: str
    arguments: tuple[str, ...]
    record: Path
    given: Parameters
    row: Row | None = None

    @property
    def digest(self) -> str:
        """Return a digest of all values, and of the checkpoints that the row is made from."""
        given, row = self.given, self.row
        text = repr((given.source, given.inference, given.evaluation, row))
        if row is not None:
            names = [*parts_of(row.job.model.root).values(), row.job.pretrained]
            cards = {name: card_of(MODELS / given.dataset / str(name)) for name in names}
            text += repr({name: card and card.fingerprint.digest for name, card in cards.items()})
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@cache
def configuration(environment: str, changes: tuple[tuple[str, Any], ...] = ()) -> Parameters:
    """Return the parameters of an environment under other values of ``--params``."""
    loader = LayeredConfigLoader(
        str(CONF), environment, runtime_params=_nested(dict(changes)), **CONFIG_LOADER_ARGS
    )
    return check(loader["parameters"])


def row_of(training: Training) -> Row | None:
    """Return a row with all its values; None where its environment has no such row."""
    given = configuration(training.environment)
    table: AblationConfig = getattr(given, f"ablate_{training.run.ablation}")
    if training.row not in table.wanted:
        return None
    own = training.parameters(given.dataset, table.trunk is not None)
    values = {key: value for key, value in own.items() if not key.startswith(("folders.", "row"))}
    changed = configuration(training.environment, tuple(values.items()))
    method = training.run.ablation
    jobs = {job: getattr(changed, job) for job in (*describe(method).compared_with, method)}
    pretraining = None
    if describe(method).pretrained_on_views:
        start: Job = getattr(changed, f"pretrain_{method}")
        pretraining = Pretraining(start, changed.pretraining_views)
    return resolve(getattr(changed, f"ablate_{method}"), jobs, pretraining)[training.row]


def steps(training: Training) -> list[Step]:
    """Return the run that prepares data and starts, once per ablation, and that of the row."""
    row = row_of(training)
    if row is None:
        return []
    given = configuration(training.environment)
    table = f"ablate_{training.run.ablation}"
    trunk = getattr(given, table).trunk is not None
    own = training.parameters(given.dataset, trunk)
    text = ",".join(f"{key}={_text(value)}" for key, value in own.items())
    run = ("run", f"--env={training.environment}", f"--pipeline={table}")
    folder = REPORTS / given.dataset / training.place
    shared = Step(
        f"{training.environment}: what {table} starts from",
        (*run, f"--to-nodes={table}.gather", f"--params={text}"),
        folder.parents[2] / f"prepared_{training.run.ablation}.json",
        given,
    )
    alone = Step(
        training.name,
        (*run, f"--namespaces={table}", f"--to-nodes={table}.ablate", f"--params={text}"),
        folder / f"{training.row}.json",
        given,
        row,
    )
    return [shared, alone]


def _nested(values: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in values.items():
        *above, last = name.split(".")
        place = found
        for key in above:
            place = place.setdefault(key, {})
        place[last] = value
    return found


def _text(value: object) -> str:
    return "null" if value is None else str(value).lower() if value in (True, False) else str(value)


def finished(step: Step) -> bool:
    """Return whether a step was finished with its present values."""
    try:
        return json.loads(step.record.read_text())["digest"] == step.digest
    except (OSError, ValueError, KeyError):
        return False


def run(step: Step) -> int:
    """Run a step in a process of its own, which is told when this one is stopped.

    Returns:
        Its exit status.
    """
    step.record.parent.mkdir(parents=True, exist_ok=True)
    with step.record.with_suffix(".log").open("w") as output:
        child = subprocess.Popen(
            [sys.executable, "-m", "kedro", *step.arguments],
            stdout=output,
            stderr=subprocess.STDOUT,
            process_group=0,  # Ctrl-C is for this process, which tells it
        )
        try:
            return child.wait()
        except KeyboardInterrupt:
            child.send_signal(signal.SIGTERM)
            child.wait()
            raise


def work(file: ClaimsFile, published) -> None:
    """Run everything that is not finished; write the page after every row."""
    failed: set[str] = set()
    for training in trainings(file):
        made = steps(training)
        if not made:
            _log.info("%s: no such row there", training.name)
        for step in made:
            if finished(step):
                continue
            if step.name in failed:
                break
            _log.info("%s ...", step.name)
            start, before = time.time(), os.times()
            status = run(step)
            after = os.times()
            if status:
                failed.add(step.name)
                log = step.record.with_suffix(".log")
                _log.warning("%s failed (%d), see %s; the others go on", step.name, status, log)
                break
            seconds = after.children_user - before.children_user
            record = {
                "digest": step.digest,  # now: what it starts from may be new
                "processor_seconds": round(seconds),
                "seconds": round(time.time() - start),
            }
            with replacing(step.record) as path:
                path.write_text(json.dumps(record))
            _log.info("%s: finished, %.0f s of processor time", step.name, seconds)
        write(file, published)


def write(file: ClaimsFile, published) -> None:
    """Write the page from all scores that are on disk."""
    with replacing(PAGE) as path:
        path.write_text(write_page(judge_claims(file, REPORTS), published, TITLES))


def _stop(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", default=(), metavar="ABLATION")
    parser.add_argument("--seeds", nargs="+", type=int, default=())
    parser.add_argument("--iterations", type=int)
    parser.add_argument("--data", nargs="+", default=(), metavar="ENVIRONMENT")
    parser.add_argument("--page", action="store_true", help="train nothing")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, _stop)
    file, published = read_claims(CLAIMS), read_published(PUBLISHED)
    try:
        if not given.page:
            chosen = file.only(given.only, given.seeds, given.iterations, given.data)
            work(chosen, published)
    except KeyboardInterrupt:
        sys.exit("stopped; the same command goes on")
    finally:
        write(file, published)


if __name__ == "__main__":
    main()
