"""The jobs that ``kedro run --pipeline=<name>`` knows."""

import warnings
from functools import partial

from kedro.pipeline import Pipeline

from amodal_pipeline.methods.contract import Description
from amodal_pipeline.methods.registry import describe, jobs
from amodal_pipeline.pipelines import (
    ablate,
    consistency,
    evaluate,
    export_model,
    import_detector,
    mask_tokenizer,
    order_net,
    predict,
    prepare,
    report,
    shape_prior,
    ship,
    train,
)

# Parts that are measured and drawn, too; others are only trained.
_PARTS = {
    "shape_prior": shape_prior.create_pipeline,
    "mask_tokenizer": mask_tokenizer.create_pipeline,
}


def register_pipelines() -> dict[str, Pipeline]:
    """Return every job by its name; ``__default__`` is the main job."""
    # Kedro advises against "orcnn.results" outside the namespace orcnn, but that is the only name
    # by which a report can ask for it.
    warnings.filterwarnings("ignore", message="One or more dataset names contain '.'")
    main = ("mask_rcnn", "orcnn")
    pipelines = {
        "__default__": prepare.create_pipeline()
        + train.create_pipeline("mask_rcnn")
        + train.create_pipeline("orcnn")
        + report.create_pipeline(main),
        "prepare": prepare.create_pipeline(),
        "prepare_test": prepare.create_test_pipeline(),
        "train_order_net": prepare.create_pipeline() + order_net.create_pipeline(),
        "evaluate": evaluate.create_chosen_pipeline(),
        "export": export_model.create_pipeline(),
        "export_predictions": predict.create_export_pipeline(),
        "import_detector": import_detector.create_pipeline(),
        "occluder_consistency": consistency.create_pipeline(),
        "predict": predict.create_pipeline(),
        "report": report.create_pipeline(),
        "ship": ship.create_pipeline(),
    }
    for job, name in jobs().items():
        method = describe(job)
        if method.task == "part":
            pipelines[job] = prepare.create_pipeline() + _part(job)
        if method.task not in ("detect", "complete"):
            continue
        pipelines[f"train_{job}"] = (
            _before(job)
            + train.create_upstream_pipeline(job)
            + train.create_pipeline(job)
            + report.create_pipeline((job,))
        )
        if method.pretrained_on_views:
            pipelines[f"pretrain_{job}"] = train.create_pretraining_pipeline(job)
        if job == name:
            pipelines[f"ablate_{job}"] = (
                _before(job) + _detections(job, method) + ablate.create_pipeline(job)
            )
    return pipelines


def _before(job: str) -> Pipeline:
    """Return what makes the data, and the parts that a method is trained with."""
    parts = (_part(part.job, job) for part in describe(job).parts.values())
    return sum(parts, prepare.create_pipeline())


def _part(job: str, wanted_by: str | None = None) -> Pipeline:
    create = _PARTS.get(job, partial(train.create_part_pipeline, job))
    return create(wanted_by=wanted_by)


def _detections(job: str, method: Description) -> Pipeline:
    """Return what finds the objects that rows of a completer's ablation complete."""
    if method.task != "complete":
        return Pipeline([])
    return train.create_upstream_pipeline(job) + train.create_detection_pipeline(
        job, train.upstream_of(job), training=method.learns_from_detections
    )
