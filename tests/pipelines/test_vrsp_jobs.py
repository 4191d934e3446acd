"""`train_vrsp` and `ablate_vrsp` as a user runs them, with everything small."""

import json

import pandas as pd
import pytest
import torch
from kedro.framework.session import KedroSession
from PIL import Image

from amodal_pipeline import methods
from amodal_pipeline.annotations import Predictions
from amodal_pipeline.jobs.rows import AblationConfig, resolve
from amodal_pipeline.jobs.train import Job
from amodal_pipeline.training.state import ChangedTrainingError
from tests.pipelines.conftest import METHOD, configuration

VRSP = METHOD | {
    "model": METHOD["model"]
    | {"reclassifier_channels": 16, "neighbours": 4, "candidates_per_image": 30}
}
PRIOR = {"model": {"clusters": 4}, "training": {"iterations": 10, "batch_size": 8}}
KEPT = ("vrsp", "without_feature_matching", "without_post_process", "attention_self")
SMALL = {
    "source": {"scenes": {"train": 5, "val": 3, "config": {"image_size": 64}}},
    "mask_rcnn": METHOD,
    "orcnn": METHOD,
    "vrsp": VRSP,
    "shape_prior": PRIOR,
    "evaluation": {"resamples": 20, "headline_resamples": 20},
    "workers": 1,
    "pictures": 2,
    "tracking": False,
}


# λ, what reclassification does to scores, and α of the authors' configurations
# "…_CtRef_VAR_SPRef_SPRet_FM", and whether "…_SPRet" turns the masks of the codebook.
RELEASED = {
    "d2sa": (0.1, "released", 2.0, True),
    "cocoa_cls": (0.25, "released", 2.0, True),
    "kins": (0.25, "none", 3.0, False),
}


@pytest.mark.parametrize("env", RELEASED)
def test_the_released_row_has_every_difference_of_the_authors_code(env):
    values = configuration(env)["parameters"]
    jobs = {name: Job.model_validate(values[name]) for name in ("mask_rcnn", "orcnn", "vrsp")}
    rows = resolve(AblationConfig.model_validate(values["ablate_vrsp"]), jobs)
    own, paper = rows["released"].job.model.root, jobs["vrsp"].model.root
    differences = {
        name
        for name, value in own.model_dump().items()
        if value != paper.model_dump()[name] and name != "reclassification_weight"
    }
    assert differences == {
        *("true_attention", "prior_input", "all_channel_weighting", "geometric_mean"),
        *("reclassification_weighting", "reclassification_input"),
        *("reclassification_true_weight", "reclassification_score"),
    }
    assert (own.prior_input, own.reclassification_input) == ("logits", "logits")
    assert own.reclassification_true_weight == 0.1
    prior = Job.model_validate(values["shape_prior"]).model.root
    found = (own.reclassification_weight, own.reclassification_score, own.alpha)
    assert (*found, prior.turned) == RELEASED[env]
    assert prior.clusters == 1024  # the paper's


@pytest.fixture(scope="module")
def project(empty_project):
    run(empty_project, "train_vrsp")
    return empty_project


def run(project, pipeline, parameters=SMALL, **options):
    with KedroSession.create(project, runtime_params=parameters) as session:
        return session.run(pipeline_names=[pipeline], **options)


def test_from_nothing_to_results_and_pictures(project):
    folder = project / "data/08_reporting/scenes"
    results = pd.read_csv(folder / "results.csv")
    assert {"vrsp", "visible_mask", "convex_hull"} <= set(results["method"])
    assert Image.open(folder / "vrsp/retrieval.png").size[1] > 300
    history = pd.read_csv(folder / "vrsp/history.csv")
    assert {"amodal_matching", "reclassification"} <= {
        name.removeprefix("loss_") for name in history
    }


def test_the_checkpoint_holds_the_shape_prior_and_says_which(project):
    models = project / "data/06_models/scenes"
    model = methods.load(models / "vrsp")
    prior = methods.load(models / "shape_prior").network
    assert model.prior.count.tolist() == prior.count.tolist() != [0]
    assert all(
        torch.equal(a, b)
        for a, b in zip(model.prior.state_dict().values(), prior.state_dict().values(), strict=True)
    )
    assert model.config.prior.clusters == 4
    card = json.loads((models / "vrsp/method.json").read_text())
    assert len(card["fingerprint"]["parts"]["prior"]) == 64


def test_a_second_run_trains_nothing(project):
    card = project / "data/06_models/scenes/vrsp/method.json"
    before = card.stat().st_mtime_ns
    run(project, "train_vrsp", only_missing_outputs=True)
    assert card.stat().st_mtime_ns == before


def test_another_shape_prior_is_another_training(project):
    changed = SMALL | {"shape_prior": PRIOR | {"model": {"clusters": 3}}}
    with pytest.raises(ChangedTrainingError, match=r"clusters: 4 -> 3"):
        run(project, "train_vrsp", changed, only_missing_outputs=True)


def test_rows_of_the_ablation(project):
    ours = json.loads(json.dumps(SMALL))
    with KedroSession.create(project, runtime_params=SMALL) as session:
        rows = session.load_context().params["ablate_vrsp"].rows
    ours["ablate_vrsp"] = {
        "trunk": {"training": {"iterations": 2, "warmup_iterations": 1, "checkpoint_every": 1}},
        "rows": {name: None for name in rows if name not in KEPT},
    }
    run(project, "ablate_vrsp", ours)
    models = project / "data/06_models/scenes/ablate_vrsp"
    assert {path.name for path in models.iterdir()} == set(KEPT)
    # One row is another, scored in another way: nothing was trained for it.
    trained, used = (models / n for n in ("without_feature_matching", "without_post_process"))
    weights = "model.safetensors"
    assert (trained / weights).read_bytes() == (used / weights).read_bytes()
    assert (trained / "history.jsonl").exists() and not (used / "history.jsonl").exists()
    output = project / "data/07_model_output/scenes/ablate_vrsp"
    found = [Predictions.load(output / path.name / "predictions") for path in (trained, used)]
    assert found[0].metadata.checkpoint != found[1].metadata.checkpoint
    used_otherwise = [methods.load(path).config.prior_post_process for path in (trained, used)]
    assert used_otherwise == [True, False]
    table = pd.read_csv(project / "data/08_reporting/scenes/ablation_vrsp.csv")
    assert set(table["row"]) == set(KEPT)
