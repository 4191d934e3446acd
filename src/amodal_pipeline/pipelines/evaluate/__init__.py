"""From a checkpoint to predictions, scores and pictures."""

from amodal_pipeline.pipelines.evaluate.pipeline import create_pipeline

__all__ = ["create_pipeline"]
