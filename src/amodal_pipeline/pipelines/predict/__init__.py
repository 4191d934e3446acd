"""A trained method on a folder of images, and its predictions for a split as JSON."""

from amodal_pipeline.pipelines.predict.pipeline import create_export_pipeline, create_pipeline

__all__ = ["create_export_pipeline", "create_pipeline"]
