"""Wiring of `train_order_net`."""

from kedro.pipeline import Pipeline, node

from amodal_pipeline.jobs.ablate import workplace
from amodal_pipeline.jobs.order_net import (
    choose_networks,
    draw,
    plot_losses,
    tabulate,
    train_and_score,
)


def create_pipeline() -> Pipeline:
    own = "params:order_net"
    return Pipeline(
        [
            node(choose_networks, own, "chosen", name="choose_networks"),
            node(
                workplace,
                inputs=[
                    *(
                        "params:folders.jobs.order_net",
                        "params:folders.models",
                        "params:folders.model_output",
                        "params:folders.parts",
                    ),
                    *("params:workers", "params:restart"),
                ],
                outputs="place",
                name="workplace",
            ),
            node(
                train_and_score,
                inputs=[
                    *("chosen", own, "annotations_train", "annotations_val", "place"),
                    *("params:inference", "params:evaluation"),
                ],
                outputs="done",
                name="train_and_score",
            ),
            node(
                tabulate,
                ["params:folders.parts", "annotations_val", "done"],
                "table",
                name="tabulate",
            ),
            node(
                draw,
                inputs=[
                    "done",
                    "annotations_val",
                    "params:folders.jobs.order_net",
                    "params:folders.model_output",
                    "params:pictures",
                ],
                outputs="overlays",
                name="draw",
            ),
            node(
                plot_losses,
                ["done", "params:folders.jobs.order_net"],
                "loss_curves",
                name="plot_losses",
            ),
        ],
        namespace="order_net",
        # Several networks with a child run each, as the rows of an ablation have one.
        tags="ablation",
        inputs={"annotations_train", "annotations_val"},
        parameters={
            *(
                f"params:folders.{each}"
                for each in ("models", "model_output", "parts", "jobs.order_net")
            ),
            *(own, "params:inference", "params:evaluation", "params:pictures"),
            *("params:workers", "params:restart"),
        },
    )
