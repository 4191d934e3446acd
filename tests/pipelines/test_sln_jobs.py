"""`train_sln` and `ablate_sln`: their parameters, and a run of both with everything small."""

import pandas as pd
import pytest
from kedro.framework.session import KedroSession

from amodal_pipeline import methods
from amodal_pipeline.annotations import Predictions
from amodal_pipeline.jobs.rows import AblationConfig, resolve
from amodal_pipeline.jobs.train import Job
from tests.pipelines.conftest import configuration

ENVIRONMENTS = (
    *("scenes", "scenes_large", "composed_coco"),
    *("cocoa", "cocoa_bsds", "cocoa_cls", "d2sa", "kins"),
)
SMALL = {
    "source": {"scenes": {"train": 5, "val": 3, "config": {"image_size": 64}}},
    "sln": {
        "pretrained": None,
        "model": {
            "encoder": {"weights": None},
            "width": 16,
            "global_channels": 8,
            "instance_channels": 16,
            "roi_size": 14,
            "proposals": {"after_nms_train": 40, "after_nms_test": 40},
            "box_head": {"channels": 32, "samples_per_image": 32, "score_threshold": 0.0},
            "min_size": 64,
            "max_size": 64,
        },
        "training": {
            "iterations": 4,
            "warmup_iterations": 1,
            "checkpoint_every": 1,
            "log_every": 1,
            "augmentation": {"min_sizes": [64], "max_size": 64},
            "stages": [{"iterations": 1, "trained": ["detector."]}],
        },
    },
    "evaluation": {"resamples": 20, "headline_resamples": 20},
    "workers": 1,
    "pictures": 2,
    "tracking": False,
}


@pytest.mark.parametrize("env", ENVIRONMENTS)
def test_every_environment_has_a_training_in_stages_and_its_rows(env):
    values = configuration(env)["parameters"]
    jobs = {name: Job.model_validate(values[name]) for name in ("mask_rcnn", "sln")}
    own = jobs["sln"]
    staged = [stage.trained[0] for stage in own.training.stages]
    assert staged == ["global_module.", "detector.", "instance_"]
    assert sum(stage.iterations for stage in own.training.stages) < own.training.iterations
    assert own.model.root.classes is (env not in ("cocoa", "cocoa_bsds", "d2sa"))
    rows = resolve(AblationConfig.model_validate(values["ablate_sln"]), jobs)
    assert len(rows) == (12 if own.model.root.hidden_unless_visible else 11)
    assert own.model.root.global_input == "features" and not own.model.root.dilated
    assert rows["global_image"].job.model.root.global_input == "image"
    assert rows["dilated"].job.model.root.dilated
    models = [row.job.model.root for row in rows.values()]
    assert len(set(map(str, models))) == len(rows)  # no two are the same
    assert {m.layers for m in models if m.name == "sln"} == {2, 3, 4, 5}
    alone = rows["without_global_module"].job
    assert [stage.trained[0] for stage in alone.training.stages] == staged[1:]
    assert [s.iterations for s in alone.training.stages] == [
        s.iterations for s in own.training.stages[1:]
    ]


@pytest.fixture(scope="module")
def project(empty_project):
    run(empty_project, "train_sln")
    return empty_project


def run(project, pipeline, parameters=SMALL, **options):
    with KedroSession.create(project, runtime_params=parameters) as session:
        return session.run(pipeline_names=[pipeline], **options)


def test_from_nothing_to_results_with_order(project):
    model = methods.load(project / "data/06_models/scenes/sln")
    assert model.config.classes
    found = Predictions.load(
        next((project / "data/07_model_output/scenes/sln").rglob("metadata.json")).parent
    )
    assert len(found.predictions) > 0
    images = found.predictions.set_index("prediction_id")["image_id"]
    assert (images.loc[found.order["front_id"]].to_numpy() == found.order["image_id"]).all()
    assert (images.loc[found.order["back_id"]].to_numpy() == found.order["image_id"]).all()
    results = pd.read_csv(project / "data/08_reporting/scenes/results.csv")
    assert {"coco", "amodalapi", "completion"} <= set(results.query("method == 'sln'")["protocol"])


def test_rows_of_the_ablation(project):
    with KedroSession.create(project, runtime_params=SMALL) as session:
        rows = session.load_context().params["ablate_sln"].rows
    kept = ("sln", "without_global_module", "without_refinement")
    ours = SMALL | {
        "ablate_sln": {
            "pretrained": None,
            "rows": {name: None for name in rows if name not in kept}
            | {"without_global_module": {"training": {"stages": []}}},
        }
    }
    run(project, "ablate_sln", ours)
    table = pd.read_csv(project / "data/08_reporting/scenes/ablation_sln.csv")
    assert set(table["row"]) == set(kept)
