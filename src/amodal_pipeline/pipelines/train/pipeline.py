"""Wiring of `train_<method>`: the same for every method, under the method's namespace."""

from kedro.pipeline import Pipeline, node
from kedro.pipeline.node import Node

from amodal_pipeline.pipelines import evaluate
from amodal_pipeline.pipelines.evaluate.nodes import complete_true_boxes_at_cost, draw
from amodal_pipeline.pipelines.evaluate.nodes import evaluate as score
from amodal_pipeline.pipelines.train.nodes import (
    choose_start,
    choose_start_or_pretrain,
    choose_start_or_train_upstream,
    choose_start_or_upstream,
    detect,
    draw_decoding,
    draw_reconstructions,
    draw_retrieval,
    find_detector,
    plot_losses,
    prepare_views,
    show_pretraining,
    train,
)


def create_pipeline(
    method: str,
    *,
    starts_from: str | None = None,
    in_same_run: bool = False,
    shape_prior: bool = False,
) -> Pipeline:
    """Training, prediction and evaluation of one method.

    Args:
        method: the namespace of its parameters and data sets.
        starts_from: the method whose checkpoint it may start from.
        in_same_run: that method is trained by another part of the same pipeline.
        shape_prior: it is trained with the shape prior of the data set.
    """
    own, upstream = f"params:{method}", f"params:{starts_from}"
    checkpoint, folder = f"{starts_from}.checkpoint", f"{starts_from}.folder"
    parameters, shared = {"params:restart", own}, {"annotations_train"}
    if starts_from is None:
        start = node(choose_start, own, "start", name="start")
    elif in_same_run:
        inputs = [own, upstream, checkpoint]
        start = node(choose_start_or_upstream, inputs, "start", name="start")
        parameters, shared = parameters | {upstream}, shared | {checkpoint}
    else:
        inputs = ["annotations_train", own, upstream, folder, "params:restart"]
        start = node(choose_start_or_train_upstream, inputs, "start", name="start")
        parameters, shared = parameters | {upstream}, shared | {folder}
    parts = ["shape_prior"] if shape_prior else []
    shared = shared | {*parts}
    steps = Pipeline([start, *_training("annotations_train", own, *parts)])
    if shape_prior:
        steps += Pipeline(
            [
                node(
                    draw_retrieval,
                    inputs=["checkpoint", "annotations_val", "params:pictures"],
                    outputs="retrieval",
                    name="draw_retrieval",
                )
            ]
        )
        shared, parameters = shared | {"annotations_val"}, parameters | {"params:pictures"}
    training = Pipeline(steps, namespace=method, inputs=shared, parameters=parameters)
    return training + evaluate.create_pipeline(method)


def create_completer_pipeline(method: str) -> Pipeline:
    """Training and evaluation of a completer, with the detections that it completes.

    Its mask tokenizer is that of the data set; its detector is the one that its parameters name.
    """
    own = f"params:{method}"
    training = Pipeline(
        [
            node(choose_start, own, "start", name="start"),
            node(
                train,
                inputs={
                    "annotations": "annotations_train",
                    "job": own,
                    "folder": "folder",
                    "restart": "params:restart",
                    "start": "start",
                    "tokenizer": "mask_tokenizer.checkpoint",
                    "detections": "detections_train",
                },
                outputs=["checkpoint", "history"],
                name="train",
                tags="training",
            ),
            node(plot_losses, [own, "history"], "loss_curves", name="plot_losses"),
            node(
                draw_decoding,
                inputs=["checkpoint", "annotations_val", "params:pictures"],
                outputs="decoding",
                name="draw_decoding",
            ),
        ],
        namespace=method,
        inputs={"annotations_train", "annotations_val", "mask_tokenizer.checkpoint"},
        parameters={"params:restart", "params:pictures", own},
    )
    return create_detection_pipeline(method) + training + evaluate.create_completer_pipeline(method)


def create_boxed_completer_pipeline(method: str) -> Pipeline:
    """Training and evaluation of a completer that looks within amodal boxes, and may start from a
    pretraining on views.

    It learns from true boxes and visible masks; its detector is stage one of what it is used for.
    """
    own, before = f"params:{method}", f"pretrain_{method}"
    training = Pipeline(
        [
            node(
                choose_start_or_pretrain,
                inputs={
                    "job": own,
                    "pretraining": f"params:{before}",
                    "views": "params:pretraining_views",
                    "dataset": "params:dataset",
                    "images": "views_images",
                    "raw": "views_raw",
                    "folder": f"{before}.folder",
                    "workers": "params:workers",
                    "restart": "params:restart",
                },
                outputs="start",
                name="start",
            ),
            *_training("annotations_train", own),
            _draw_reconstructions("annotations_val"),
        ],
        namespace=method,
        inputs={
            *("annotations_train", "annotations_val"),
            *("views_images", "views_raw", f"{before}.folder"),
        },
        parameters={
            *(own, f"params:{before}", "params:pretraining_views", "params:dataset"),
            *("params:workers", "params:restart", "params:pictures"),
        },
    )
    return (
        create_detection_pipeline(method, training=False)
        + training
        + evaluate.create_completer_pipeline(method, boxed=True)
    )


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
            *_training("views_train", own),
            _draw_reconstructions("views_val"),
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


def _draw_reconstructions(annotations: str) -> Node:
    return node(
        draw_reconstructions,
        inputs=["checkpoint", annotations, "params:pictures"],
        outputs=["reconstructions", "meshes"],
        name="draw_reconstructions",
    )


def create_detection_pipeline(method: str, *, training: bool = True) -> Pipeline:
    """What the detector that a completer names finds in both splits; trained where it is not.

    Args:
        training: what it finds in the training split is wanted too.
    """
    own = f"params:{method}"
    detectors = ("orcnn", "mask_rcnn", "mask_rcnn_visible")
    jobs = {name: f"params:{name}" for name in detectors}
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
                    **jobs,
                    "models": "models",
                    "restart": "params:restart",
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
        parameters={own, *jobs.values(), "params:restart", "params:inference"},
    )


def _training(data: str, own: str, *parts: str) -> list[Node]:
    return [
        node(
            train,
            inputs=[data, own, "folder", "params:restart", "start", *parts],
            outputs=["checkpoint", "history"],
            name="train",
            tags="training",
        ),
        node(plot_losses, [own, "history"], "loss_curves", name="plot_losses"),
    ]
