"""Wiring of `import_detector`."""

from kedro.pipeline import Pipeline, node

from amodal_pipeline.jobs.import_detector import import_detector


def create_pipeline() -> Pipeline:
    return Pipeline(
        [
            node(
                import_detector,
                inputs=["params:from", "params:file"],
                outputs="imported.checkpoint",
                name="import_detector",
            )
        ]
    )
