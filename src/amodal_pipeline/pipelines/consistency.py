"""Wiring of `occluder_consistency`, for ``--params method=<name>``."""

from kedro.pipeline import Pipeline, node

from amodal_pipeline.jobs.consistency import (
    draw_variants,
    evaluate_variants,
    make_variants,
    predict_variants,
)


def create_pipeline() -> Pipeline:
    pictures = node(
        make_variants,
        inputs=[
            "annotations_val",
            "params:occluder_consistency",
            "params:folders.consistency_images",
            "params:workers",
        ],
        outputs="annotations_consistency",
        name="make_variants",
    )
    steps = Pipeline(
        [
            node(
                predict_variants,
                inputs=["params:folders.chosen", "annotations_consistency", "params:inference"],
                outputs="consistency.predictions",
                name="predict_variants",
            ),
            node(
                evaluate_variants,
                inputs=[
                    "annotations_val",
                    "annotations_consistency",
                    "consistency.predictions",
                    "params:evaluation",
                ],
                outputs="consistency.results",
                name="evaluate_variants",
            ),
            node(
                draw_variants,
                inputs=["annotations_consistency", "consistency.predictions", "params:pictures"],
                outputs="consistency.pictures",
                name="draw_variants",
            ),
        ]
    )
    return Pipeline([pictures]) + Pipeline(
        steps,
        namespace="chosen",
        inputs={"annotations_val", "annotations_consistency"},
        parameters={
            "params:folders.chosen",
            "params:inference",
            "params:evaluation",
            "params:pictures",
        },
    )
