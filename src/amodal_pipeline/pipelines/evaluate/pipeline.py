"""Wiring of the evaluation of one method."""

from kedro.pipeline import Pipeline, node

from amodal_pipeline.pipelines.evaluate.nodes import draw, evaluate, predict


def create_pipeline(method: str) -> Pipeline:
    """Prediction and evaluation under a method's namespace.

    ``kedro run --pipeline=evaluate --params method=<name>`` is the namespace "chosen".
    """
    steps = Pipeline(
        [
            node(
                predict,
                inputs=["checkpoint", "annotations_val", "params:inference"],
                outputs="predictions",
                name="predict",
            ),
            node(
                evaluate,
                inputs=["annotations_val", "predictions", "params:evaluation"],
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
    return Pipeline(
        steps,
        namespace=method,
        inputs={"annotations_val"},
        parameters={"params:inference", "params:evaluation", "params:pictures"},
    )
