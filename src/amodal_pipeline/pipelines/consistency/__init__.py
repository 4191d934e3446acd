"""The same objects under several occluders: does a method see the same shapes behind them?"""

from amodal_pipeline.pipelines.consistency.pipeline import create_pipeline

__all__ = ["create_pipeline"]
