"""Wiring of `shape_prior`."""

from kedro.pipeline import Pipeline, node

from amodal_pipeline.jobs.shape_prior import (
    describe_shape_prior,
    draw_shape_prior,
    learn_shape_prior,
)


def create_pipeline() -> Pipeline:
    return Pipeline(
        [
            node(
                learn_shape_prior,
                inputs=[
                    "annotations_train",
                    "params:shape_prior",
                    "shape_prior_folder",
                    "models",
                    "params:inference",
                    "params:restart",
                ],
                outputs="shape_prior",
                name="learn_shape_prior",
            ),
            node(
                describe_shape_prior,
                inputs=[
                    "shape_prior",
                    "annotations_train",
                    "annotations_val",
                    "params:shape_prior",
                ],
                outputs="shape_prior_table",
                name="describe_shape_prior",
            ),
            node(
                draw_shape_prior,
                inputs="shape_prior",
                outputs=["shape_prior_entries", "shape_prior_map"],
                name="draw_shape_prior",
            ),
        ]
    )
