"""From a checkpoint to predictions, scores and pictures."""

from amodal_pipeline.pipelines.evaluate.pipeline import (
    create_chosen_pipeline,
    create_completer_pipeline,
    create_pipeline,
)

__all__ = [
    "create_chosen_pipeline",
    "create_completer_pipeline",
    "create_pipeline",
]
