"""Wiring of `predict`."""

from kedro.pipeline import Pipeline, node

from amodal_pipeline.pipelines.predict.nodes import draw_folder, predict_folder


def create_pipeline() -> Pipeline:
    return Pipeline(
        [
            node(
                predict_folder,
                inputs=[
                    "chosen.checkpoint",
                    "user_images",
                    "params:masks",
                    "params:inference",
                    "models",
                    "params:stage_one",
                    "params:a3d.detector",
                    "params:raw",
                ],
                outputs="user_predictions",
                name="predict_folder",
            ),
            node(
                draw_folder,
                inputs=["user_predictions", "user_overlays", "params:score_threshold"],
                outputs=None,
                name="draw_folder",
            ),
        ]
    )
