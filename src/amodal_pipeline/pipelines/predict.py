"""Wiring of `predict` and `export_predictions`."""

from kedro.pipeline import Pipeline, node

from amodal_pipeline.jobs.export import export_predictions
from amodal_pipeline.jobs.own_images import find_images
from amodal_pipeline.jobs.predict import (
    complete_objects,
    draw_folder,
    find_objects,
    name_damaged,
    write_results,
)


def create_pipeline() -> Pipeline:
    """Return prediction of a user's images, or a video, with the method that a parameter names."""
    return Pipeline(
        [
            node(
                find_images,
                inputs=["params:folders.user_images", "params:video", "params:folders.user_frames"],
                outputs=["found_images", "frames_per_second", "damaged_images"],
                name="find_images",
            ),
            node(
                find_objects,
                inputs=[
                    "chosen.checkpoint",
                    "found_images",
                    "params:masks",
                    "params:inference",
                    "params:detector",
                    "params:folders.models",
                    "params:folders.imported",
                    "params:score_threshold",
                ],
                outputs="found_objects",
                name="find_objects",
            ),
            node(
                complete_objects,
                inputs=[
                    "chosen.checkpoint",
                    "found_objects",
                    "params:inference",
                    "params:folders.models",
                    "params:stage_one",
                    "params:detector",
                    "params:raw",
                ],
                outputs="user_predictions",
                name="complete_objects",
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
                    "frames_per_second",
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
    """Return the export, as JSON, of the predictions of a method for an evaluation split."""
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
