"""Wiring of `train_<method>`: the same for every method, under the method's namespace."""

from kedro.pipeline import Pipeline, node
from kedro.pipeline.node import Node

from amodal_pipeline.jobs.complete import complete_true_boxes_at_cost
from amodal_pipeline.jobs.evaluate import draw
from amodal_pipeline.jobs.evaluate import evaluate as score
from amodal_pipeline.jobs.train import (
    choose_start,
    choose_start_or_pretrain,
    choose_start_or_train_upstream,
    choose_start_or_upstream,
    detect,
    draw_particulars,
    find_detector,
    plan_views,
    plot_losses,
    prepare_views,
    show_pretraining,
    train,
)
from amodal_pipeline.methods.contract import Description
from amodal_pipeline.methods.registry import describe, jobs
from amodal_pipeline.pipelines import evaluate

# What makes a part, as the data set that it leaves and the argument of `train` that takes it.
PARTS = {
    "shape_prior": ("shape_prior", "shape_prior"),
    "mask_tokenizer": ("mask_tokenizer.checkpoint", "tokenizer"),
}


def create_pipeline(job: str, *, start_in_same_run: bool = False) -> Pipeline:
    """Return training, prediction and evaluation of a job, wired as its method's description says.

    Args:
        job: the namespace of its parameters and data sets.
        start_in_same_run: what it starts from is trained by another part of the same pipeline.
    """
    method = describe(job)
    data = {"annotations": "annotations_train", "job": f"params:{job}", "restart": "params:restart"}
    data |= {"folder": "folder", "start": "start"}
    for part in method.parts.values():
        made, argument = PARTS[part.job]
        data[argument] = made
    if method.learns_from_detections:
        data["detections"] = "detections_train"
    steps = [_start(job, method, start_in_same_run), *_training(data)]
    if method.pretrained_on_views:
        plan = [f"params:pretrain_{job}", "params:pretraining_views", "views_images", "views_raw"]
        steps.append(node(plan_views, plan, "plan", name="plan_views"))
    if method.picture:
        steps.append(_picture(method, "annotations_val"))
    training = _within(job, steps)
    if method.task == "detect":
        return training + evaluate.create_pipeline(job)
    detection = create_detection_pipeline(job, training=method.learns_from_detections)
    scores = evaluate.create_completer_pipeline(job, boxed=method.needs_boxes)
    return detection + training + scores


def create_pretraining_pipeline(method: str) -> Pipeline:
    """Training on views of single objects, before that on the data set, and how well it went.

    Views are another data set: what is measured on them stands apart from the results.
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
                    "views_images",
                    "views_raw",
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
                    "restart": "params:restart",
                    "folder": "folder",
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
                    "model_output",
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
        inputs={"views_images", "views_raw", "model_output"},
        outputs={"views_train", "views_val"},
        parameters={
            *(own, "params:pretraining_views", "params:dataset", "params:workers"),
            *("params:restart", "params:inference", "params:evaluation", "params:pictures"),
        },
    )


def create_detection_pipeline(method: str, *, training: bool = True) -> Pipeline:
    """What the detector that a completer names finds in both splits; trained where it is not.

    Args:
        training: what it finds in the training split is wanted too.
    """
    own = f"params:{method}"
    # Those that need no part made before them are trained where they are missing.
    detectors = [
        job for job in jobs() if describe(job).task == "detect" and not describe(job).parts
    ]
    parameters = {job: f"params:{job}" for job in detectors}
    splits = {"annotations_val": "detections"}
    if training:
        splits["annotations_train"] = "detections_train"
    steps = Pipeline(
        [
            node(
                find_detector,
                inputs={
                    "annotations": "annotations_train",
                    "job": own,
                    "models": "models",
                    "restart": "params:restart",
                    **parameters,
                },
                outputs="detector",
                name="find_detector",
            ),
            *(
                node(
                    detect,
                    inputs=["detector", annotations, "params:inference", own],
                    outputs=found,
                    name=f"detect_{annotations.removeprefix('annotations_')}",
                )
                for annotations, found in splits.items()
            ),
        ]
    )
    return Pipeline(
        steps,
        namespace=method,
        inputs={"annotations_train", "annotations_val", "models"},
        parameters={own, *parameters.values(), "params:restart", "params:inference"},
    )


def _start(job: str, method: Description, in_same_run: bool) -> Node:
    """The node that finds what a training starts from."""
    own, upstream = f"params:{job}", method.starts_from
    if upstream == job:
        upstream = None
    if method.pretrained_on_views:
        inputs = [own, "plan", "params:dataset", f"pretrain_{job}.folder"]
        inputs += ["params:workers", "params:restart"]
        return node(choose_start_or_pretrain, inputs, "start", name="start")
    if upstream is None:
        return node(choose_start, own, "start", name="start")
    if in_same_run:
        inputs = [own, f"params:{upstream}", f"{upstream}.checkpoint"]
        return node(choose_start_or_upstream, inputs, "start", name="start")
    inputs = ["annotations_train", own, f"params:{upstream}", f"{upstream}.folder"]
    inputs.append("params:restart")
    return node(choose_start_or_train_upstream, inputs, "start", name="start")


def _training(data: dict[str, str]) -> list[Node]:
    return [
        node(train, data, ["checkpoint", "history"], name="train", tags="training"),
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
    """Put nodes into a namespace; what others make keeps its name."""
    pipeline = Pipeline(steps)
    inputs = pipeline.inputs()
    own = {"folder", "detections_train"}
    return Pipeline(
        pipeline,
        namespace=namespace,
        inputs={name for name in inputs if not name.startswith("params:")} - own,
        parameters={name for name in inputs if name.startswith("params:")},
    )
