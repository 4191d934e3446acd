"""From annotations to VRSP's shape prior: a mask auto-encoder and a codebook a category."""

from amodal_pipeline.pipelines.shape_prior.pipeline import create_pipeline

__all__ = ["create_pipeline"]
