"""Wiring of `export`."""

from kedro.pipeline import Pipeline, node

from amodal_pipeline.jobs.export_model import export_model


def create_pipeline() -> Pipeline:
    """Return the export of the completer that a parameter names."""
    return Pipeline(
        [
            node(
                export_model,
                inputs=["chosen.checkpoint", "params:folders.exported"],
                outputs=None,
                name="export_model",
            )
        ]
    )
