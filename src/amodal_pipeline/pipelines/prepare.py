"""Wiring of `prepare` and `prepare_test`."""

from kedro.pipeline import Pipeline, node

from amodal_pipeline.jobs.prepare import audit, prepare, prepare_test, preview

_INPUTS = [
    "params:source",
    "params:dataset",
    "params:folders.images",
    "params:folders.raw",
    "params:workers",
]


def create_pipeline() -> Pipeline:
    return Pipeline(
        [
            node(
                prepare,
                inputs=_INPUTS,
                outputs=["annotations_train", "annotations_val"],
                name="prepare",
            ),
            _audit("train"),
            _audit("val"),
            node(
                preview,
                inputs=["annotations_train", "params:folders.report"],
                outputs=["preview_train", "occlusion_rates_train"],
                name="preview",
            ),
        ]
    )


def create_test_pipeline() -> Pipeline:
    """Return preparation of the test split, of a data set that has one."""
    return Pipeline(
        [
            node(prepare_test, inputs=_INPUTS, outputs="annotations_test", name="prepare_test"),
            _audit("test"),
        ]
    )


def _audit(split: str) -> node:
    return node(
        audit,
        inputs=[f"annotations_{split}", "params:audit", "params:folders.report"],
        outputs=f"audit_{split}",
        name=f"audit_{split}",
    )
