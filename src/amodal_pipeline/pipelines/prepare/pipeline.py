"""Wiring of `prepare`."""

from kedro.pipeline import Pipeline, node

from amodal_pipeline.pipelines.prepare.nodes import prepare, preview


def create_pipeline() -> Pipeline:
    return Pipeline(
        [
            node(
                prepare,
                inputs=["params:source", "params:dataset", "images", "raw", "params:workers"],
                outputs=["annotations_train", "annotations_val"],
                name="prepare",
            ),
            node(
                preview,
                inputs="annotations_train",
                outputs=["preview_train", "occlusion_rates_train"],
                name="preview",
            ),
        ]
    )
