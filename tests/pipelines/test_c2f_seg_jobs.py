"""`train_c2f_seg` and `ablate_c2f_seg` as a user runs them, with everything small."""

import json

import numpy as np
import pandas as pd
import pytest
import yaml
from kedro.framework.session import KedroSession
from PIL import Image

from amodal_pipeline import methods
from amodal_pipeline.annotations import Predictions
from amodal_pipeline.jobs.rows import AblationConfig, resolve
from amodal_pipeline.jobs.train import Job
from amodal_pipeline.methods.checkpoints import Checkpoint
from amodal_pipeline.training.state import ChangedTrainingError
from tests.pipelines.conftest import ENVIRONMENTS, METHOD, SMALL_ENVIRONMENTS, configuration

OBJECTS = {"iterations": 3, "batch_size": 4, "checkpoint_every": 1, "log_every": 1}
COMPLETER = {
    "model": {
        "encoder": {"name": "test_resnet", "weights": None},
        "crop": {"side": 16, "image_side": 32},
        "width": 16,
        "layers": 1,
        "heads": 2,
        "refinement_channels": [8, 8, 8, 8, 8],
    },
    "training": OBJECTS,
}
KEPT = ("c2f_seg", "without_refinement", "on_detections", "steps_1")
SMALL = {
    "source": {"scenes": {"train": 5, "val": 3, "config": {"image_size": 64}}},
    "mask_rcnn": METHOD,
    "orcnn": METHOD,
    "mask_tokenizer": {
        "model": {
            "crop": {"side": 16, "image_side": 32},
            "channels": 4,
            "multipliers": [1, 1, 1, 1],
            "codes": 8,
            "code_size": 4,
        },
        "training": OBJECTS,
    },
    "c2f_seg": COMPLETER,
    "evaluation": {"resamples": 20, "headline_resamples": 20},
    "workers": 1,
    "pictures": 2,
    "tracking": False,
}


@pytest.mark.parametrize("env", ENVIRONMENTS)
def test_every_environment_has_a_tokenizer_that_fits_and_rows_that_are_trained_alike(env):
    values = configuration(env)["parameters"]
    job = Job.model_validate(values["c2f_seg"])
    tokenizer = Job.model_validate(values["mask_tokenizer"]).model.root
    completer = job.model.root.model_copy(update={"tokenizer": tokenizer})
    assert completer.crop.side == tokenizer.crop.side
    published = env not in SMALL_ENVIRONMENTS
    assert (completer.layers, completer.width, tokenizer.channels) == (
        (12, 768, 128) if published else (4, 192, 8)
    )
    ablation = AblationConfig.model_validate(values["ablate_c2f_seg"])
    rows = resolve(ablation, {"c2f_seg": job})
    assert len({row.job.training.model_dump_json() for row in rows.values()}) == 1
    if published:
        assert rows["c2f_seg"].job == job


@pytest.fixture(scope="module")
def project(empty_project):
    run(empty_project, "train_c2f_seg")
    return empty_project


def run(project, pipeline, parameters=SMALL, **options):
    with KedroSession.create(project, runtime_params=parameters) as session:
        return session.run(pipeline_names=[pipeline], **options)


def newest(project, name):
    folder = project / "data/07_model_output/scenes/c2f_seg" / name
    return Predictions.load(sorted(folder.iterdir())[-1] / name)


def card(project):
    return json.loads((project / "data/06_models/scenes/c2f_seg/method.json").read_text())


def test_from_nothing_to_results_on_true_and_on_predicted_masks(project):
    folder = project / "data/08_reporting/scenes"
    results = pd.read_csv(folder / "results.csv")
    own = results[results["method"] == "c2f_seg"]
    assert set(own["inputs"]) == {"true", "orcnn"}
    for inputs in ("true", "orcnn"):
        beside = results[results["inputs"] == inputs]
        assert {"c2f_seg", "visible_mask", "convex_hull"} <= set(beside["method"])
    overall = own[own["category"] == "all"]
    metrics = overall.set_index(["inputs", "protocol", "metric"])["value"]
    assert metrics["true", "completion", "mIoU_full"] > 0
    assert ("orcnn", "coco", "AP_amodal") in metrics.index
    assert Image.open(folder / "c2f_seg/decoding.png").size[1] > 200
    history = pd.read_csv(folder / "c2f_seg/history.csv")
    assert {"loss_tokens", "loss_amodal_mask", "loss_visible_mask"} <= set(history)


def test_true_objects_and_detections_are_completed_one_to_one(project):
    true, detected = newest(project, "predictions_true"), newest(project, "predictions")
    assert true.predictions["instance_id"].notna().all()
    assert true.metadata.inputs == "true"
    assert detected.predictions["source_id"].notna().all()
    assert detected.metadata.inputs == "orcnn"
    found = newest(project, "detections")
    assert len(found.predictions) == len(detected.predictions)


def test_what_decides_the_weights_is_in_the_fingerprint(project):
    parts = card(project)["fingerprint"]["parts"]
    tokenizer = project / "data/06_models/scenes/mask_tokenizer"
    made = Checkpoint.load(tokenizer)
    assert made.card.method.root.name == "mask_tokenizer"
    assert parts["tokenizer"] == made.card.fingerprint.digest


def test_a_trained_completer_completes_a_mask_in_python(project):
    model = methods.load(project / "data/06_models/scenes/c2f_seg")
    image = np.full((40, 50, 3), 128, np.uint8)
    mask = np.zeros((40, 50), bool)
    mask[10:20, 10:30] = True
    completed = model.complete(image, mask)
    assert completed.shape == mask.shape and completed.dtype == bool
    assert np.array_equal(completed, model.complete(image, mask))


def test_a_second_run_trains_nothing(project):
    before = card(project)
    run(project, "train_c2f_seg", only_missing_outputs=True)
    assert card(project) == before
    assert len(list((project / "data/07_model_output/scenes/c2f_seg/predictions").iterdir())) == 1


def test_another_tokenizer_is_refused_where_things_are_skipped(project):
    folder = project / "data/06_models/scenes/mask_tokenizer"
    kept = (folder / "method.json").read_text()
    other = json.loads(kept)
    del other["sha256"]  # a card of an earlier version, which has none
    other["fingerprint"]["parts"]["training.seed"] = "1"
    (folder / "method.json").write_text(json.dumps(other))
    try:
        with pytest.raises(ChangedTrainingError, match="tokenizer"):
            run(project, "train_c2f_seg", only_missing_outputs=True)
    finally:
        (folder / "method.json").write_text(kept)


def test_a_detector_that_is_not_there_is_named_with_the_remedy(project):
    changed = SMALL | {"c2f_seg": COMPLETER | {"detector": "vrsp"}}
    with pytest.raises(ValueError, match="--pipeline=train_vrsp"):
        run(project, "train_c2f_seg", changed)


def test_rows_of_the_ablation(project):
    text = (project / "conf/base/parameters_ablate_c2f_seg.yml").read_text()
    rows = yaml.safe_load(text.replace("${runtime_params:row, null}", "null"))
    small = yaml.safe_load((project / "conf/profiles/small/parameters_ablate.yml").read_text())
    named = {*rows["ablate_c2f_seg"]["rows"], *small["ablate_c2f_seg"]["rows"]}
    unwanted = named - set(KEPT)
    run(
        project,
        "ablate_c2f_seg",
        SMALL | {"ablate_c2f_seg": {"training": OBJECTS, "rows": dict.fromkeys(unwanted)}},
    )
    table = pd.read_csv(project / "data/08_reporting/scenes/ablation_c2f_seg.csv")
    assert set(table["row"]) == set(KEPT)
    models = project / "data/06_models/scenes/ablate_c2f_seg"
    own = json.loads((models / "c2f_seg/method.json").read_text())
    assert own["fingerprint"] == card(project)["fingerprint"]  # taken, not trained again
    steps = json.loads((models / "steps_1/method.json").read_text())
    assert steps["method"]["steps"] == 1
