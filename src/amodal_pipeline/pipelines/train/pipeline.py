"""Wiring of `train_<method>`: the same for every method, under the method's namespace."""

from kedro.pipeline import Pipeline, node

from amodal_pipeline.pipelines.evaluate import create_pipeline as evaluate
from amodal_pipeline.pipelines.train.nodes import (
    choose_start,
    choose_start_or_train_upstream,
    choose_start_or_upstream,
    plot_losses,
    train,
)


def create_pipeline(
    method: str, *, starts_from: str | None = None, in_same_run: bool = False
) -> Pipeline:
    """Training, prediction and evaluation of one method.

    Args:
        method: the namespace of its parameters and data sets.
        starts_from: the method whose checkpoint it may start from.
        in_same_run: that method is trained by another part of the same pipeline.
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
    steps = Pipeline(
        [
            start,
            node(
                train,
                inputs=[
                    "annotations_train",
                    own,
                    "folder",
                    "params:restart",
                    "start",
                ],
                outputs=["checkpoint", "history"],
                name="train",
                tags="training",
            ),
            node(plot_losses, [own, "history"], "loss_curves", name="plot_losses"),
        ]
    )
    training = Pipeline(steps, namespace=method, inputs=shared, parameters=parameters)
    return training + evaluate(method)
