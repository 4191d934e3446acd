"""From annotations to a trained, evaluated method: one template for all of them."""

from amodal_pipeline.pipelines.train.pipeline import create_pipeline

__all__ = ["create_pipeline"]
