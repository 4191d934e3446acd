"""Claims of papers: the file of them, the trainings for them, and the page."""

import json
import sys
from functools import cache
from pathlib import Path

import pandas as pd
import pytest

from amodal_pipeline.jobs.claims import (
    ClaimsFile,
    judge_claims,
    paper_figure,
    read_claims,
    trainings,
    write_page,
)
from amodal_pipeline.metrics.published import read_published
from amodal_pipeline.metrics.results import RESULTS, Measurement
from amodal_pipeline.metrics.score_files import save_scores
from amodal_pipeline.metrics.scores import CURVES, OBJECTS, Scores
from tests.metrics.test_verdicts import draws

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

import claims as program  # noqa: E402


@pytest.fixture(autouse=True)
def in_the_project(monkeypatch):
    monkeypatch.chdir(ROOT)


@cache
def shipped() -> ClaimsFile:
    return read_claims(ROOT / "docs/claims.yml")


def test_every_claim_has_figures_of_its_paper_and_rows_of_its_ablation():
    published = read_published(ROOT / "docs/published.csv")
    for claim in shipped().claims:
        figure = paper_figure(claim, published)
        # The paper's own figures are on the side that the claim expects.
        sign = {"above": "+", "below": "−"}.get(claim.expected, "")
        assert figure.startswith(sign), figure
    for training in trainings(shipped().only(seeds=[0])):
        given = program.configuration(training.environment)
        assert training.row in getattr(given, f"ablate_{training.run.ablation}").wanted


def test_a_pass_with_one_seed_comes_before_the_next_seed():
    order = list(trainings(shipped().only(["vrsp", "orcnn"], [0, 1], 50, ["scenes"])))
    seeds = [training.seed for training in order]
    assert seeds == sorted(seeds)
    assert {training.run.iterations for training in order} == {50}
    assert {training.environment for training in order} == {"scenes"}
    first = [training.run.ablation for training in order if training.seed == 0]
    assert first == sorted(first, key=["orcnn", "vrsp"].index)
    assert len({(t.run.ablation, t.row, t.seed) for t in order}) == len(order)


def claims(**changes) -> ClaimsFile:
    claim = {
        "paper": "vrsp",
        "says": "a is above b",
        "stated": {"value": 1.0, "where": "sec. 1"},
        "ablation": "vrsp",
        "row": "a",
        "against": "b",
        "metric": "coco/AP_amodal",
        "data": ["made_up"],
    }
    values = {"seeds": [0], "runs": [{"ablation": "vrsp"}], "claims": [claim | changes]}
    return ClaimsFile.model_validate(values)


def save(folder: Path, a: float, b: float, seed: int = 0, variants=("a", "b")) -> None:
    folder.mkdir(parents=True)
    table = draws({"a": [a], "b": [b]}, {"a": [seed], "b": [seed]})
    names = dict(zip("ab", variants, strict=True))
    for name, rows in table.groupby("variant"):
        method = name if names[name] == "full" else "vrsp"
        rows = rows.assign(variant=names[name], method=method)
        run_id = rows["run_id"].iloc[0]
        shared = {"dataset": "made_up", "split": "val", "method": method, "seed": seed}
        shared |= {"variant": names[name], "inputs": "image", "run_id": run_id}
        measured = Measurement("AP_amodal", rows["value"].iloc[0], 1)._asdict()
        results = pd.DataFrame([measured | shared | {"protocol": "coco"}])[RESULTS.names]
        empty = [pd.DataFrame(columns=schema.names) for schema in (CURVES, OBJECTS)]
        stem = f"{method}.{name}" if method == "vrsp" else method
        save_scores(folder, stem, Scores(results, rows, *empty))


def test_the_longest_schedule_that_has_both_rows_decides(tmp_path):
    place = tmp_path / "made_up/claims"
    save(place / "1000_iterations/seed_0/vrsp", 60.0, 50.0)
    save(place / "1000_iterations/seed_1/vrsp", 60.5, 50.5, seed=1)
    save(place / "200_iterations/seed_0/vrsp", 40.0, 50.0)
    save(tmp_path / "made_up/parts", 30.0, 50.0)
    (line,) = judge_claims(claims(), tmp_path)
    assert (line.verdict, line.found.seeds, line.schedule) == ("held", 2, "1,000 iterations")
    for path in place.glob("1000_iterations/*/vrsp/*.b.*"):
        path.unlink()
    (line,) = judge_claims(claims(), tmp_path)
    assert (line.verdict, line.schedule) == ("refuted", "200 iterations")
    page = write_page([line], read_published(ROOT / "docs/published.csv"), {"vrsp": "VRSP"})
    assert "1 lines: 0 held, 1 refuted, 0 undecided, 0 not run" in page
    assert "| +1.0 (sec. 1) | `a` − `b`, AP_amodal | + | made_up | −10.0 (" in page
    assert "**refuted**¹" in page


def test_methods_as_they_are_count_only_where_a_claim_names_no_ablation(tmp_path):
    save(tmp_path / "made_up/parts", 60.0, 50.0, variants=("full", "full"))
    (line,) = judge_claims(claims(), tmp_path)
    assert line.verdict == "not run"
    (line,) = judge_claims(claims(ablation=None), tmp_path)
    assert (line.verdict, line.schedule) == ("held", "own schedule")


def test_finished_rows_are_skipped_and_a_failed_one_stops_no_other(tmp_path, monkeypatch):
    file = shipped().only(["orcnn"], [0], 50)
    chosen = [claim for claim in file.claims if "One mask for all" in claim.says]
    file = file.model_copy(update={"claims": tuple(chosen)})
    monkeypatch.setattr(program, "REPORTS", tmp_path)
    monkeypatch.setattr(program, "PAGE", tmp_path / "claims.md")
    published, started = read_published(ROOT / "docs/published.csv"), []

    def run(step):
        step.record.parent.mkdir(parents=True, exist_ok=True)
        started.append(step.name)
        return int("ablate_orcnn orcnn" in step.name and failing)

    monkeypatch.setattr(program, "run", run)
    failing = True
    program.work(file, published)
    start, bad, good = started
    assert "starts from" in start
    assert ("ablate_orcnn orcnn" in bad, "class_agnostic" in good) == (True, True)
    assert "0 held, 0 refuted, 0 undecided, 1 not run" in (tmp_path / "claims.md").read_text()

    started.clear()
    failing = False
    program.work(file, published)
    assert started == [bad]
    program.work(file, published)
    assert started == [bad]

    records = list(tmp_path.rglob("class_agnostic.json"))
    assert json.loads(records[0].read_text()).keys() >= {"digest", "processor_seconds"}
    records[0].write_text('{"digest": "of other values"}')
    program.work(file, published)
    assert started == [bad, good]
