"""Wiring of `ship`."""

from kedro.pipeline import Pipeline, node

from amodal_pipeline.jobs.ship import ship


def create_pipeline() -> Pipeline:
    """Return the writing of the method that a parameter names as the package ships it."""
    return Pipeline(
        [
            node(
                ship,
                inputs=[
                    "chosen.checkpoint",
                    "params:folders.shipped",
                    "params:folders.scores",
                    "params:source",
                ],
                outputs=None,
                name="ship",
            )
        ]
    )
