"""Wiring of the evaluation of one method, and of those that a parameter names."""

from kedro.pipeline import Pipeline, node

from amodal_pipeline.jobs.evaluate import (
    complete_detections,
    complete_true_at_cost,
    complete_true_boxes_at_cost,
    complete_true_where_boxes_are_known,
    draw,
    draw_completions,
    draw_each,
    evaluate,
    evaluate_completions,
    evaluate_each,
    predict_at_cost,
    predict_or_read,
)

_SHARED = {"annotations_val", "model_output"}
_PARAMETERS = {"params:inference", "params:evaluation", "params:pictures"}


def create_pipeline(method: str) -> Pipeline:
    """Prediction and evaluation under a method's namespace."""
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
                inputs=["annotations_val", "predictions", "params:evaluation", "model_output"],
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
    """Completion and evaluation under a method's namespace: of the true objects, and of its
    ``detections`` of the validation split.

    Args:
        method: the namespace.
        boxed: it looks within amodal boxes: true objects are completed within their true boxes too,
            and otherwise within those that its ``detector`` estimates.
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
            node(
                evaluate_completions,
                inputs=[
                    "annotations_val",
                    "predictions_true",
                    "predictions",
                    "detections",
                    "params:evaluation",
                    "model_output",
                    *within,
                ],
                outputs="results",
                name="evaluate",
            ),
            node(
                draw_completions,
                inputs=[
                    *("annotations_val", "predictions_true", "predictions", "params:pictures"),
                    *within,
                ],
                outputs="overlays",
                name="draw",
            ),
        ]
    )
    return Pipeline(steps, namespace=method, inputs=_SHARED, parameters=_PARAMETERS)


def create_chosen_pipeline() -> Pipeline:
    """The same for ``--params method=<name>``, or for predictions from elsewhere:
    ``--params predictions=<file or folder>``."""
    outside = ["params:predictions", "params:prediction_masks", "params:inputs"]
    stage_one = ["params:stage_one", "params:detector"]
    steps = Pipeline(
        [
            node(
                predict_or_read,
                inputs=[
                    "folder",
                    "annotations_val",
                    "params:inference",
                    *outside,
                    "model_output",
                    *stage_one,
                ],
                outputs=[
                    "predictions",
                    "predictions_true",
                    "detections",
                    "predictions_true_boxes",
                ],
                name="predict",
            ),
            node(
                evaluate_each,
                inputs=[
                    "annotations_val",
                    "predictions",
                    "predictions_true",
                    "detections",
                    "params:evaluation",
                    "model_output",
                    "predictions_true_boxes",
                ],
                outputs="results",
                name="evaluate",
            ),
            node(
                draw_each,
                inputs=[
                    "annotations_val",
                    "predictions",
                    "predictions_true",
                    "params:pictures",
                    "predictions_true_boxes",
                ],
                outputs="overlays",
                name="draw",
            ),
        ]
    )
    return Pipeline(
        steps,
        namespace="chosen",
        inputs=_SHARED,
        parameters=_PARAMETERS | {*outside, *stage_one},
    )
