"""Wiring of `train_<method>`: the same for every method, under the method's namespace."""

from kedro.pipeline import Pipeline, node

from amodal_pipeline.pipelines import evaluate
from amodal_pipeline.pipelines.train.nodes import (
    choose_start,
    choose_start_or_train_upstream,
    choose_start_or_upstream,
    detect,
    draw_decoding,
    draw_retrieval,
    find_detector,
    plot_losses,
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
    inputs = ["annotations_train", own, "folder", "params:restart", "start"]
    if shape_prior:
        inputs.append("shape_prior")
        shared = shared | {"shape_prior"}
    steps = Pipeline(
        [
            start,
            node(
                train,
                inputs=inputs,
                outputs=["checkpoint", "history"],
                name="train",
                tags="training",
            ),
            node(plot_losses, [own, "history"], "loss_curves", name="plot_losses"),
        ]
    )
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


def create_detection_pipeline(method: str) -> Pipeline:
    """What the detector that a completer names finds in both splits; trained where it is not."""
    own = f"params:{method}"
    jobs = {"params:orcnn", "params:mask_rcnn"}
    steps = Pipeline(
        [
            node(
                find_detector,
                inputs={
                    "annotations": "annotations_train",
                    "job": own,
                    "orcnn": "params:orcnn",
                    "mask_rcnn": "params:mask_rcnn",
                    "models": "models",
                    "restart": "params:restart",
                },
                outputs="detector",
                name="find_detector",
            ),
            node(
                detect,
                inputs=["detector", "annotations_train", "params:inference"],
                outputs="detections_train",
                name="detect_train",
            ),
            node(
                detect,
                inputs=["detector", "annotations_val", "params:inference"],
                outputs="detections",
                name="detect_val",
            ),
        ]
    )
    return Pipeline(
        steps,
        namespace=method,
        inputs={"annotations_train", "annotations_val", "models"},
        parameters={own, *jobs, "params:restart", "params:inference"},
    )
