"""Jobs on clips: a method that learns from them trained, resumed, started from the image model;
its rivals as rows of one ablation; and the image model on their frames."""

import shutil

import pytest
import torch

from amodal_pipeline import methods
from amodal_pipeline.annotations import rle
from amodal_pipeline.jobs.ablate import (
    Materials,
    ablate,
    choose_rows,
    gather_parts,
    plan_of_row,
    workplace,
)
from amodal_pipeline.jobs.complete import (
    complete_detections,
    complete_true,
    complete_true_at_cost,
)
from amodal_pipeline.jobs.detect import predict
from amodal_pipeline.jobs.freshness import look
from amodal_pipeline.jobs.rows import AblationConfig
from amodal_pipeline.jobs.train import Job, on_true_objects, train_upstream
from amodal_pipeline.methods.checkpoints import Checkpoint, Fingerprint, NotMade
from amodal_pipeline.methods.configs import C2FSegConfig
from amodal_pipeline.methods.registry import MethodConfig, describe
from amodal_pipeline.methods.training_config import InferenceConfig
from amodal_pipeline.metrics.config import EvaluationConfig
from amodal_pipeline.metrics.evaluate import evaluate
from amodal_pipeline.metrics.score_files import load_scores
from amodal_pipeline.training.loop import Component, train
from tests.conftest import TINY_CLIPS, tiny_method, tiny_training
from tests.methods import test_c2f_seg as image_tests
from tests.methods.test_methods import checkpoint_of

INFERENCE = InferenceConfig(workers=0, device="cpu")


def components():
    torch.manual_seed(0)
    model = methods.build(tiny_method("c2f_seg_video"), classes=2)
    return {"tokenizer": Component(model.tokenizer.state_dict(), "made")}


def test_it_trains_goes_on_and_completes_tracks(moving, tmp_path):
    """A training that is cut after four of six iterations ends with the same bits."""
    method, parts = tiny_method("c2f_seg_video"), components()
    config = tiny_training(iterations=6, learning_rate=1e-3)
    whole = train(method, config, moving, tmp_path / "whole", components=parts)

    def cut(step):
        if step.iteration == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(method, config, moving, tmp_path / "cut", components=parts, on_step=cut)
    again = train(method, config, moving, tmp_path / "cut", components=parts)
    assert all(torch.equal(again.weights[k], whole.weights[k]) for k in whole.weights)

    found, cost = complete_true_at_cost(whole, moving, INFERENCE)
    assert cost["flops"] > 0
    table = found.predictions
    assert table["instance_id"].tolist() == moving.instances["instance_id"].tolist()
    assert table["track_id"].tolist() == moving.instances["track_id"].tolist()
    assert found.metadata.method == "c2f_seg_video"
    # What comes out for a track is that of the track alone.
    own = moving.images["image_id"][(moving.images["video_id"] == 1).to_numpy(dtype=bool)]
    alone = complete_true(whole, moving.subset(own), INFERENCE).predictions
    masks = table.set_index("instance_id")["amodal_rle"].loc[alone["instance_id"]]
    assert (rle.pair_iou(masks.tolist(), alone["amodal_rle"].tolist()) > 0.98).all()


def test_it_starts_from_a_finished_image_model_or_says_how_to_train_it(moving, shapes, tmp_path):
    job = Job.model_validate({"model": TINY_CLIPS, "pretrained": "c2f_seg"})
    image = Job.model_validate({"model": {"name": "c2f_seg", **image_tests.TINY}})

    def start(annotations):
        return train_upstream(annotations, job, image, tmp_path, False)

    with pytest.raises(ValueError, match="pipeline=train_c2f_seg"):
        start(moving)
    made = checkpoint_of(methods.build(image.model.root, classes=2))
    mark = Fingerprint(parts={"annotations_train": moving.fingerprint})
    card = made.card.model_copy(update={"fingerprint": mark})
    type(made)(card, made.weights).save(tmp_path / "c2f_seg")
    assert start(moving).card == card
    with pytest.raises(ValueError, match="other annotations"):
        start(shapes)
    free = job.model_copy(update={"pretrained": None})
    assert isinstance(train_upstream(moving, free, image, tmp_path, False), NotMade)


QUICK = EvaluationConfig(resamples=10, headline_resamples=10)
RIVALS = ("c2f_seg", "mask_unet_video", "savos")


def test_rivals_are_rows_of_one_ablation_and_the_image_model_is_a_start(moving, tmp_path):
    assert describe("c2f_seg_video").compared_with == RIVALS
    image = {name: value for name, value in TINY_CLIPS.items() if name in C2FSegConfig.model_fields}
    image |= {"name": "c2f_seg", "layers": 2, "fusion": "channels"}
    methods_ = [image, *(tiny_method(name) for name in (*RIVALS[1:], "c2f_seg_video"))]
    training = tiny_training(iterations=1, warmup_iterations=0)
    jobs = [Job.model_validate({"model": each, "training": training}) for each in methods_]
    rows = {name: {"job": name, "completes": "true"} for name in (*RIVALS, "c2f_seg_video")}
    rows["started"] = rows["c2f_seg_video"] | {"pretrained": "c2f_seg"}
    metrics = ["video/mIoU_full_per_object"]
    ablation = AblationConfig(reference="c2f_seg_video", metrics=metrics, rows=rows)
    tokenizer = MethodConfig.model_validate({"name": "mask_tokenizer", **TINY_CLIPS["tokenizer"]})
    parts = gather_parts(mask_tokenizer=checkpoint_of(methods.build(tokenizer.root, classes=2)))
    named, chosen = choose_rows(ablation, parts, *jobs)
    folders = [tmp_path / name for name in ("rows", "models", "output", "scores")]
    place = workplace(*folders, workers=1, restart=False)

    def run(*wanted):
        return ablate(list(wanted), moving, moving, place, Materials(parts), INFERENCE, QUICK)

    with pytest.raises(ValueError, match="pipeline=train_c2f_seg"):
        run(named["started"])
    run(named["c2f_seg"])
    shutil.copytree(tmp_path / "rows/c2f_seg", tmp_path / "models/c2f_seg")
    assert run(*chosen) == list(rows)
    for row in chosen:
        assert look(plan_of_row(row, *folders[:2])).fresh  # else the table leaves it out
        results = load_scores(folders[3], row.stem).results
        assert results["metric"].eq("mIoU_full_per_object").any()

    # Encoder, tokenizer, refinement and blocks: all that the image model has is taken.
    started, source = (Checkpoint.load(tmp_path / f) for f in ("rows/started", "models/c2f_seg"))
    assert started.card.reuse.copied == len(source.weights)
    assert all("blocks" in name for name in started.weights.keys() - source.weights.keys())


def test_the_image_model_and_a_detector_work_on_frames(moving, tmp_path):
    """Trained on the frames of clips, and scored by the protocol for videos on either input."""
    detector = train(tiny_method("orcnn"), tiny_training(iterations=1), moving, tmp_path / "orcnn")
    detections = predict(detector, moving, INFERENCE)
    values = {"name": "c2f_seg", **image_tests.TINY}
    method = MethodConfig.model_validate(values).root
    torch.manual_seed(0)
    parts = {"tokenizer": Component(methods.build(method, 2).tokenizer.state_dict(), "made")}
    matched = on_true_objects(moving, detections)
    training = tiny_training(iterations=1)
    made = train(method, training, moving, tmp_path / "c2f_seg", components=parts, detected=matched)
    given = complete_true(made, moving, INFERENCE)
    found = complete_detections(made, moving, detections, INFERENCE)
    assert given.predictions["track_id"].tolist() == moving.instances["track_id"].tolist()
    for predictions in (given, found, detections):
        results = evaluate(moving, predictions, QUICK).results
        row = results[results["metric"] == "mIoU_full_per_object"].iloc[0]
        assert row["protocol"] == "video" and row["n"] == 5
