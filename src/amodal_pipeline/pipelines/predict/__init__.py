"""A trained method on a folder of images."""

from amodal_pipeline.pipelines.predict.pipeline import create_pipeline

__all__ = ["create_pipeline"]
