"""From a raw data set, or none, to checked annotations."""

from amodal_pipeline.pipelines.prepare.pipeline import create_pipeline, create_test_pipeline

__all__ = ["create_pipeline", "create_test_pipeline"]
