"""Networks that tell which of two objects is in front, beside rules that need no training."""

from amodal_pipeline.pipelines.order_net.pipeline import create_pipeline

__all__ = ["create_pipeline"]
