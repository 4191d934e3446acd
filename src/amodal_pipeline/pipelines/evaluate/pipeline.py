"""Wiring of the evaluation of one method, and of those that a parameter names."""

from kedro.pipeline import Pipeline, node

from amodal_pipeline.pipelines.evaluate.nodes import (
    draw,
    draw_each,
    evaluate,
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


def create_chosen_pipeline() -> Pipeline:
    """The same for ``--params method=<name>``, or for predictions from elsewhere:
    ``--params predictions=<file or folder>``."""
    outside = ["params:predictions", "params:prediction_masks"]
    steps = Pipeline(
        [
            node(
                predict_or_read,
                inputs=["folder", "annotations_val", "params:inference", *outside],
                outputs="predictions",
                name="predict",
            ),
            node(
                evaluate_each,
                inputs=["annotations_val", "predictions", "params:evaluation", "model_output"],
                outputs="results",
                name="evaluate",
            ),
            node(
                draw_each,
                inputs=["annotations_val", "predictions", "params:pictures"],
                outputs="overlays",
                name="draw",
            ),
        ]
    )
    return Pipeline(
        steps, namespace="chosen", inputs=_SHARED, parameters=_PARAMETERS | set(outside)
    )
