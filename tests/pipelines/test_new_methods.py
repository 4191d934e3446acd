"""A new method is one file and a line in the registry: all jobs and tests follow from them."""

import pandas as pd
import pytest
import torch
from kedro.framework.project import pipelines
from kedro.framework.session import KedroSession
from PIL import Image

from amodal_pipeline import methods
from amodal_pipeline.annotations import Predictions
from amodal_pipeline.jobs.train import Job
from amodal_pipeline.methods.checkpoints import MethodCard
from amodal_pipeline.methods.registry import METHODS, MethodConfig
from tests.pipelines.conftest import TRAINING
from tests.pipelines.toy_methods import LINES, PARTS

SMALL = {
    "source": {"scenes": {"train": 4, "val": 3, "config": {"image_size": 64}}},
    "evaluation": {"resamples": 20, "headline_resamples": 20},
    "workers": 1,
    "pictures": 2,
    "tracking": False,
    **{name: {"training": TRAINING | {"schedule": "cosine"}} for name in PARTS | LINES},
}


def rebuild():
    """What a start does by itself: these classes were made before the lines were there."""
    for model in (MethodConfig, Job, MethodCard):
        model.model_rebuild(force=True)
    pipelines.configure("amodal_pipeline.pipeline_registry")


@pytest.fixture(scope="module")
def project(empty_project):
    with pytest.MonkeyPatch.context() as patch:
        for name, line in (PARTS | LINES).items():
            patch.setitem(METHODS, name, line)
        rebuild()
        for name in LINES:
            run(empty_project, f"train_{name}")
        yield empty_project
    rebuild()


def run(project, pipeline, **changes):
    with KedroSession.create(project, runtime_params=SMALL | changes) as session:
        return session.run(pipeline_names=[pipeline])


def test_jobs_are_registered(project):
    for name in LINES:
        assert {f"train_{name}", f"ablate_{name}"} <= pipelines.keys()
    assert PARTS.keys() <= pipelines.keys()


def test_they_are_trained_and_scored_beside_others(project):
    results = pd.read_csv(project / "data/08_reporting/scenes/results.csv")
    assert set(LINES) <= set(results["method"])
    detector = results[results["method"] == "toy_detector"]
    assert {"coco", "completion", "amodalapi"} <= set(detector["protocol"])
    assert set(results.query("method == 'toy_completer'")["inputs"]) == {"true"}
    model = methods.load(project / "data/06_models/scenes/toy_completer")
    assert float(model.bias.detach()) != 0


def test_a_part_is_made_first_by_the_same_loop_and_taken_over(project):
    models = project / "data/06_models/scenes"
    part, own = methods.load(models / "toy_part"), methods.load(models / "toy_completer")
    assert int(part.network.seen) > 0 != float(part.network.share.detach())
    for name, value in part.network.state_dict().items():
        assert torch.equal(own.shape.state_dict()[name], value)
    assert own.config.shape == part.config
    made = MethodCard.load(models / "toy_part").fingerprint.digest
    assert MethodCard.load(models / "toy_completer").fingerprint.parts["shape"] == made


@pytest.mark.parametrize("name", LINES)
def test_they_are_evaluated_again(project, name):
    part = project / f"data/08_reporting/scenes/parts/{name}.csv"
    before = pd.read_csv(part)
    part.unlink()
    given = {"inputs": "true"} if name == "toy_completer" else {}
    run(project, "evaluate", method=name, **given)
    pd.testing.assert_frame_equal(pd.read_csv(part), before)


@pytest.mark.parametrize("name", LINES)
def test_their_ablation_has_the_method_itself_as_its_row(project, name):
    run(project, f"ablate_{name}")
    table = pd.read_csv(project / f"data/08_reporting/scenes/ablation_{name}.csv")
    assert set(table["row"]) == {name}


@pytest.mark.parametrize("name", LINES)
def test_they_predict_on_images_of_ones_own(project, name, tmp_path):
    (tmp_path / "images").mkdir()
    Image.new("RGB", (40, 30), "grey").save(tmp_path / "images/a.png")
    mask = Image.new("L", (40, 30))
    mask.paste(1, (10, 5, 25, 20))
    (tmp_path / "masks").mkdir()
    mask.save(tmp_path / "masks/a.png")
    given = {"masks": str(tmp_path / "masks")} if name == "toy_completer" else {}
    run(project, "predict", method=name, images=str(tmp_path / "images"), **given)
    folder = project / f"data/07_model_output/scenes/{name}/user_predictions"
    found = Predictions.load(sorted(folder.iterdir())[-1] / "user_predictions")
    assert found.predictions["amodal_rle"].notna().sum() == 1
