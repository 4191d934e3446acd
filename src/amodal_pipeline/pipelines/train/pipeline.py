"""Wiring of `train_<method>`: the same for every method, under the method's namespace."""

from kedro.pipeline import Pipeline, node

from amodal_pipeline.pipelines.evaluate import create_pipeline as evaluate
from amodal_pipeline.pipelines.train.nodes import (
    choose_start,
    from_checkpoint,
    no_start,
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
    if starts_from and in_same_run:
        start = node(from_checkpoint, f"{starts_from}.checkpoint", "start", name="start")
    elif starts_from:
        start = node(
            choose_start,
            inputs=[
                "annotations_train",
                f"params:{method}",
                f"params:{starts_from}",
                f"{starts_from}.folder",
            ],
            outputs="start",
            name="start",
        )
    else:
        start = node(no_start, None, "start", name="start")
    steps = Pipeline(
        [
            start,
            node(
                train,
                inputs=[
                    "annotations_train",
                    f"params:{method}",
                    "folder",
                    "params:restart",
                    "start",
                ],
                outputs=["checkpoint", "history"],
                name="train",
                tags="training",
            ),
            node(plot_losses, [f"params:{method}", "history"], "loss_curves", name="plot_losses"),
        ]
    )
    shared = {"annotations_train"}
    parameters = {"params:restart", f"params:{method}"}
    if starts_from and in_same_run:
        shared.add(f"{starts_from}.checkpoint")
    elif starts_from:
        shared.add(f"{starts_from}.folder")
        parameters.add(f"params:{starts_from}")
    training = Pipeline(steps, namespace=method, inputs=shared, parameters=parameters)
    return training + evaluate(method)
