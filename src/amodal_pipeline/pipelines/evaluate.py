"""Wiring of the evaluation of one method, and of methods that a parameter names."""

from collections.abc import Callable, Iterable

from kedro.pipeline import Pipeline, node
from kedro.pipeline.node import Node

from amodal_pipeline.jobs.chosen import KINDS, Choice, predict_chosen
from amodal_pipeline.jobs.complete import (
    complete_detections,
    complete_true_at_cost,
    complete_true_boxes_at_cost,
    complete_true_where_boxes_are_known,
)
from amodal_pipeline.jobs.detect import predict_at_cost
from amodal_pipeline.jobs.evaluate import (
    draw,
    draw_completions,
    draw_each,
    evaluate,
    evaluate_completions,
    evaluate_each,
)

_SHARED = {"annotations_val"}
_PARAMETERS = {
    "params:folders.model_output",
    "params:inference",
    "params:evaluation",
    "params:pictures",
}


def create_pipeline(method: str) -> Pipeline:
    """Return prediction and evaluation of a detector, under its namespace."""
    steps = Pipeline(
        [
            node(
                predict_at_cost,
                inputs=["checkpoint", "annotations_val", "params:inference"],
                outputs=["predictions", "cost"],
                name="predict",
            ),
            node(
                evaluate,
                inputs=[
                    "annotations_val",
                    "predictions",
                    "params:evaluation",
                    "params:folders.model_output",
                ],
                outputs="results",
                name="evaluate",
            ),
            node(
                draw,
                inputs=["annotations_val", "predictions", "params:pictures"],
                outputs="overlays",
                name="draw",
            ),
        ]
    )
    return Pipeline(steps, namespace=method, inputs=_SHARED, parameters=_PARAMETERS)


def create_completer_pipeline(method: str, *, boxed: bool = False) -> Pipeline:
    """Return completion and evaluation of a completer, under its namespace.

    It completes the true objects, and its ``detections`` of the validation split.

    Args:
        method: the namespace.
        boxed: whether it looks within amodal boxes. Then true objects are completed twice: within
            their true boxes, and within boxes that its ``detector`` estimates.
    """
    given = ["checkpoint", "annotations_val", "params:inference", "detector"]
    true = [node(complete_true_at_cost, given, ["predictions_true", "cost"], name="complete_true")]
    within = []
    if boxed:
        within = ["predictions_true_boxes"]
        true = [
            node(complete_true_boxes_at_cost, given, [*within, "cost"], name="complete_true_boxes"),
            node(
                complete_true_where_boxes_are_known,
                given,
                "predictions_true",
                name="complete_true",
            ),
        ]
    steps = Pipeline(
        [
            *true,
            node(
                complete_detections,
                inputs=["checkpoint", "annotations_val", "detections", "params:inference"],
                outputs="predictions",
                name="complete_detections",
            ),
            *_scoring(
                evaluate_completions,
                draw_completions,
                [*within, "predictions_true", "predictions"],
            ),
        ]
    )
    return Pipeline(steps, namespace=method, inputs=_SHARED, parameters=_PARAMETERS)


def create_chosen_pipeline() -> Pipeline:
    """Return prediction and evaluation of the method in ``--params method=<name>``.

    With ``--params predictions=<file or folder>`` it evaluates another program's predictions.
    """
    asked = {
        "predictions": "params:predictions",
        "masks": "params:prediction_masks",
        "inputs": "params:inputs",
        "stage_one": "params:stage_one",
        "detector": "params:detector",
    }
    steps = Pipeline(
        [
            node(Choice, {"folder": "params:folders.chosen", **asked}, "choice", name="choose"),
            node(
                predict_chosen,
                inputs=[
                    "choice",
                    "annotations_val",
                    "params:inference",
                    "params:folders.model_output",
                ],
                outputs=[*KINDS, "detections"],
                name="predict",
            ),
            *_scoring(evaluate_each, draw_each, reversed(KINDS)),
        ]
    )
    return Pipeline(
        steps,
        namespace="chosen",
        inputs=_SHARED,
        parameters=_PARAMETERS | {"params:folders.chosen", *asked.values()},
    )


def _scoring(score: Callable, picture: Callable, completions: Iterable[str]) -> list[Node]:
    """Return the nodes that score and draw ``completions``, names of data sets, in their order."""
    scored = ["annotations_val", "detections", "params:evaluation", "params:folders.model_output"]
    drawn = ["annotations_val", "params:pictures"]
    completions = list(completions)
    return [
        node(score, [*scored, *completions], "results", name="evaluate"),
        node(picture, [*drawn, *completions], "overlays", name="draw"),
    ]
