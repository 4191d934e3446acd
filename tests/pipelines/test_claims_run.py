"""The runs that `make claims` starts, on a small project."""

from pathlib import Path

import pandas as pd
from kedro.framework.session import KedroSession
from omegaconf import OmegaConf

from amodal_pipeline.jobs.claims import ClaimsFile, judge_claims, trainings
from tests.pipelines.test_ablate import SMALL

FILE = ClaimsFile.model_validate(
    {
        "seeds": [1],
        "runs": [{"ablation": "orcnn", "iterations": 2}],
        "claims": [
            {
                "paper": "orcnn",
                "says": "One mask for all is better",
                "stated": {"value": 1.0, "where": "made up"},
                "ablation": "orcnn",
                "row": "class_agnostic",
                "against": "orcnn",
                "metric": "orcnn/AP_both",
                "data": ["scenes"],
            }
        ],
    }
)


def test_rows_have_folders_of_their_own_and_decide_their_claim(empty_project):
    table, started = "ablate_orcnn", False
    for training in trainings(FILE):
        own = [f"{key}={value}" for key, value in training.parameters("scenes", True).items()]
        # As the command line reads them.
        asked = OmegaConf.to_container(OmegaConf.merge(SMALL, OmegaConf.from_dotlist(own)))
        runs = [{"namespaces": [table], "to_nodes": [f"{table}.ablate"]}]
        if not started:
            runs, started = [{"to_nodes": [f"{table}.gather"]}, *runs], True
        for options in runs:
            with KedroSession.create(empty_project, runtime_params=asked) as session:
                session.run(pipeline_names=[table], **options)
    reports = Path(empty_project, "data/08_reporting")
    (line,) = judge_claims(FILE, reports)
    assert (line.found.seeds, line.schedule) == (1, "2 iterations")
    scores = pd.read_csv(next(reports.rglob("orcnn.class_agnostic.csv")))
    assert set(scores["seed"]) == {1}
    # Nothing of the ordinary ablation is there.
    assert not list((reports / "scenes/parts").glob("orcnn.*"))
    assert not Path(empty_project, "data/06_models/scenes", table).exists()
