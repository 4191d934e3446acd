"""Wiring of `train_<method>`: the same for every method, under the method's namespace."""

from collections.abc import Callable

from kedro.pipeline import Pipeline, node
from kedro.pipeline.node import Node

from amodal_pipeline.jobs.complete import complete_true_boxes_at_cost
from amodal_pipeline.jobs.evaluate import draw
from amodal_pipeline.jobs.evaluate import evaluate as score
from amodal_pipeline.jobs.train import (
    choose_start,
    choose_start_or_pretraining,
    choose_start_or_upstream,
    detect,
    draw_particulars,
    find_detector,
    plan_views,
    plot_losses,
    prepare_views,
    show_pretraining,
    train,
    train_first_upstream,
    train_part,
    train_pretraining,
    train_upstream,
)
from amodal_pipeline.methods.contract import Description
from amodal_pipeline.methods.registry import describe, jobs
from amodal_pipeline.pipelines import evaluate


def create_pipeline(job: str) -> Pipeline:
    """Return training, prediction and evaluation of a job, wired as its method's description says.

    The methods that it starts from or works with are other parts of the same run: see
    :func:`create_upstream_pipeline`.

    Args:
        job: the namespace of its parameters and data sets.
    """
    method = describe(job)
    steps = [_start(job, method), *_training(_data(job, method))]
    if method.picture:
        steps.append(_picture(method, "annotations_val"))
    training = _within(job, steps)
    if method.task == "detect":
        return training + evaluate.create_pipeline(job)
    detection = create_detection_pipeline(
        job, upstream_of(job), training=method.learns_from_detections
    )
    scores = evaluate.create_completer_pipeline(job, boxed=method.needs_boxes)
    return detection + training + scores


def create_part_pipeline(job: str, *, wanted_by: str | None = None) -> Pipeline:
    """Return training of a part, in its namespace.

    A detector that it names must be trained, or be one that ``wanted_by`` starts from or works
    with.

    Args:
        job: the job that makes the part.
        wanted_by: the job that the part is made for, which ``restart`` is meant for; None where
            the part itself is asked for.
    """
    method = describe(job)
    run = train_part if wanted_by else train
    training = _within(job, [_start(job, method), *_training(_data(job, method), run)])
    if not method.learns_from_detections:
        return training
    detectors = upstream_of(wanted_by) if wanted_by else ()
    return create_detection_pipeline(job, detectors, validation=False) + training


def upstream_of(job: str) -> tuple[str, ...]:
    """Return the jobs that may have to be trained before another job.

    These are its start and, of a completer, its detector, if that needs no part made before it.
    """
    method = describe(job)
    found = [method.starts_from] if method.starts_from else []
    if method.task == "complete":
        found += [
            name for name in jobs() if describe(name).task == "detect" and not describe(name).parts
        ]
    return tuple(name for name in dict.fromkeys(found) if name != job)


def create_upstream_pipeline(job: str) -> Pipeline:
    """Return training of the methods that a job starts from and works with, each in its namespace.

    Methods that the job's parameters do not name, and finished ones, are not trained.
    """
    names = upstream_of(job)
    steps = [_upstream(name, job, names) for name in names]
    if describe(job).pretrained_on_views:
        steps.append(_pretraining(job))
    return sum(steps, Pipeline([]))


def _upstream(name: str, job: str, names: tuple[str, ...]) -> Pipeline:
    below = describe(name).starts_from
    data = {"annotations": "annotations_train", "job": f"params:{job}", "this": f"params:{name}"}
    data |= {"models": "params:folders.models", "restart": "params:restart"}
    run = train_first_upstream
    if below in names and below != name:
        run, data["start"] = train_upstream, f"{below}.checkpoint"
    data |= {other: f"params:{other}" for other in names if other != name}
    step = node(run, data, "checkpoint", name="train", tags="upstream")
    return _within(name, [step])


def _pretraining(job: str) -> Pipeline:
    name = f"pretrain_{job}"
    folders = ["params:folders.views_images", "params:folders.views_raw"]
    return _within(
        name,
        [
            node(
                plan_views,
                [f"params:{name}", "params:pretraining_views", *folders],
                "plan",
                name="plan_views",
                tags="upstream",
            ),
            node(
                train_pretraining,
                [
                    *(f"params:{job}", "plan", "params:dataset", f"params:folders.jobs.{name}"),
                    *("params:workers", "params:restart"),
                ],
                "checkpoint",
                name="train",
                tags="upstream",
            ),
        ],
    )


def _data(job: str, method: Description) -> dict[str, str]:
    """Return the inputs of a training."""
    data = {"annotations": "annotations_train", "job": f"params:{job}"}
    data |= {"folder": f"params:folders.jobs.{job}", "restart": "params:restart", "start": "start"}
    if method.learns_from_detections:
        data["detections"] = "detections_train"
    return data | {part.job: f"{part.job}.checkpoint" for part in method.parts.values()}


def create_pretraining_pipeline(method: str) -> Pipeline:
    """Return training on views of single objects, and its evaluation.

    Views are another data set, so that these scores are kept apart from the results.
    """
    name = f"pretrain_{method}"
    own = f"params:{name}"
    return Pipeline(
        [
            node(
                prepare_views,
                inputs=[
                    "params:pretraining_views",
                    "params:dataset",
                    "params:folders.views_images",
                    "params:folders.views_raw",
                    "params:workers",
                ],
                outputs=["views_train", "views_val"],
                name="prepare_views",
            ),
            node(choose_start, own, "start", name="start"),
            *_training(
                {
                    "annotations": "views_train",
                    "job": own,
                    "folder": f"params:folders.jobs.{name}",
                    "restart": "params:restart",
                    "start": "start",
                }
            ),
            _picture(describe(method), "views_val"),
            node(
                complete_true_boxes_at_cost,
                inputs=["checkpoint", "views_val", "params:inference"],
                outputs=["predictions_true_boxes", "cost"],
                name="complete_true_boxes",
            ),
            node(
                score,
                inputs=[
                    "views_val",
                    "predictions_true_boxes",
                    "params:evaluation",
                    "params:folders.model_output",
                ],
                outputs="results",
                name="evaluate",
            ),
            node(
                draw,
                inputs=["views_val", "predictions_true_boxes", "params:pictures"],
                outputs="overlays",
                name="draw",
            ),
            node(show_pretraining, "results", None, name="show"),
        ],
        namespace=name,
        outputs={"views_train", "views_val"},
        parameters={
            *(f"params:folders.{each}" for each in ("views_images", "views_raw", "model_output")),
            *(
                f"params:folders.jobs.{name}",
                own,
                "params:pretraining_views",
                "params:dataset",
                "params:workers",
            ),
            *("params:restart", "params:inference", "params:evaluation", "params:pictures"),
        },
    )


def create_detection_pipeline(
    method: str, detectors: tuple[str, ...] = (), *, training: bool = True, validation: bool = True
) -> Pipeline:
    """Return prediction of both splits by the detector that a method names.

    Args:
        method: the namespace.
        detectors: detectors that the same pipeline trains; another one must be trained.
        training, validation: which of the splits to predict.
    """
    own = f"params:{method}"
    trained = {name: f"{name}.checkpoint" for name in detectors}
    splits = {"annotations_val": "detections"} if validation else {}
    if training:
        splits["annotations_train"] = "detections_train"
    found = {"annotations": "annotations_train", "job": own, "models": "params:folders.models"}
    return _within(
        method,
        [
            node(find_detector, found | trained, "detector", name="find_detector"),
            *(
                node(
                    detect,
                    inputs=["detector", annotations, "params:inference", own],
                    outputs=detections,
                    name=f"detect_{annotations.removeprefix('annotations_')}",
                )
                for annotations, detections in splits.items()
            ),
        ],
    )


def _start(job: str, method: Description) -> Node:
    """Return the node that loads the checkpoint that a training starts from."""
    own, upstream = f"params:{job}", method.starts_from
    if method.pretrained_on_views:
        inputs = [own, f"pretrain_{job}.checkpoint"]
        return node(choose_start_or_pretraining, inputs, "start", name="start")
    if upstream is None or upstream == job:
        return node(choose_start, own, "start", name="start")
    inputs = [own, f"params:{upstream}", f"{upstream}.checkpoint"]
    return node(choose_start_or_upstream, inputs, "start", name="start")


def _training(data: dict[str, str], run: Callable = train) -> list[Node]:
    return [
        node(run, data, ["checkpoint", "history"], name="train", tags="training"),
        node(plot_losses, [data["job"], "history"], "loss_curves", name="plot_losses"),
    ]


def _picture(method: Description, annotations: str) -> Node:
    _, outputs = method.picture
    return node(
        draw_particulars,
        inputs=["checkpoint", annotations, "params:pictures"],
        outputs=list(outputs) if len(outputs) > 1 else outputs[0],
        name=f"draw_{outputs[0]}",
    )


def _within(namespace: str, steps: list[Node]) -> Pipeline:
    """Return nodes in a namespace; data sets made by other nodes keep their names."""
    pipeline = Pipeline(steps)
    inputs = pipeline.inputs()
    own = {"detections_train"}
    return Pipeline(
        pipeline,
        namespace=namespace,
        inputs={name for name in inputs if not name.startswith("params:")} - own,
        parameters={name for name in inputs if name.startswith("params:")},
    )
