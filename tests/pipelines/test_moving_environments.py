"""The environments of embedded clips, as a user runs them, with few and small clips."""

import numpy as np
from kedro.framework.session import KedroSession
from PIL import Image

import amodal_pipeline as ap
from amodal_pipeline.annotations import AmodalAnnotations
from amodal_pipeline.jobs.sources import Source
from tests.pipelines.conftest import configuration

SMALL = {"image_size": 48, "frames": 3, "minimum_objects": 2, "maximum_objects": 3}


def test_prepare_renders_clips_and_draws_them(empty_project):
    env = "moving_scenes"
    few = {"train": 2, "val": 1, "config": SMALL | {"minimum_amodal_pixels": 10}}
    values = {"tracking": False, "workers": 1, "source": {"moving_scenes": few}}
    with KedroSession.create(empty_project, env=env, runtime_params=values) as session:
        session.run(pipeline_names=["prepare"])
    [found] = (empty_project / f"data/03_primary/{env}/annotations_train").iterdir()
    table = AmodalAnnotations.load(found / "annotations_train")
    assert table.metadata.dataset == env
    assert table.images["video_id"].tolist() == [0, 0, 0, 1, 1, 1]
    assert table.images["frame"].tolist() == [0, 1, 2] * 2
    assert table.instances["track_id"].notna().all()
    flows = [*(empty_project / f"data/02_intermediate/{env}").rglob("*.flo")]
    assert len(flows) == 3 * 4
    reports = empty_project / f"data/08_reporting/{env}"
    with Image.open(reports / "clips_train.webp") as animation:
        assert animation.n_frames == 3
    assert np.asarray(Image.open(reports / "clips_train.png")).std() > 10


def test_the_large_environment_has_the_size_of_movid_a():
    source = Source.model_validate(configuration("moving_scenes_large")["parameters"]["source"])
    config = source.chosen.config
    assert (source.chosen.train, source.chosen.val) == (630, 208)
    assert (config.frames, config.image_size, config.flow) == (24, 256, False)


def test_clips_are_read_in_python(tmp_path):
    train, val = ap.read("moving_scenes", tmp_path, train=1, val=1, workers=1)
    assert train.images["frame"].tolist() == val.images["frame"].tolist() == list(range(16))
    assert train.metadata.dataset == "moving_scenes" and len(train.rejected) == 0
