"""Wiring of `predict` and `export_predictions`."""

from kedro.pipeline import Pipeline, node

from amodal_pipeline.jobs.export import export_predictions
from amodal_pipeline.jobs.predict import (
    draw_folder,
    name_damaged,
    predict_folder,
    write_results,
)


def create_pipeline() -> Pipeline:
    """The user's images, with the method that a parameter names."""
    return Pipeline(
        [
            node(
                predict_folder,
                inputs=[
                    "chosen.checkpoint",
                    "params:folders.user_images",
                    "params:masks",
                    "params:inference",
                    "params:folders.models",
                    "params:stage_one",
                    "params:detector",
                    "params:raw",
                ],
                outputs=["user_predictions", "damaged_images"],
                name="predict_folder",
            ),
            node(
                write_results,
                inputs=[
                    "user_predictions",
                    "params:folders.user_results",
                    "params:folders.user_masks",
                    "params:score_threshold",
                    "params:png",
                ],
                outputs="masks_written",
                name="write_results",
            ),
            node(
                draw_folder,
                inputs=[
                    "user_predictions",
                    "params:folders.user_overlays",
                    "params:score_threshold",
                ],
                outputs="overlays_drawn",
                name="draw_folder",
            ),
            node(
                name_damaged,
                inputs=["damaged_images", "masks_written", "overlays_drawn"],
                outputs=None,
                name="name_damaged",
            ),
        ]
    )


def create_export_pipeline() -> Pipeline:
    """The predictions of the method that a parameter names for an evaluation split, as JSON."""
    return Pipeline(
        [
            node(
                export_predictions,
                inputs=[
                    "params:folders.chosen",
                    "chosen.annotations",
                    "params:inference",
                    "params:folders.model_output",
                    "params:stage_one",
                    "params:detector",
                ],
                outputs=None,
                name="export_predictions",
            )
        ]
    )
