"""From annotations to a trained, evaluated method: one template for all of them."""

from amodal_pipeline.pipelines.train.pipeline import (
    PARTS,
    create_detection_pipeline,
    create_pipeline,
    create_pretraining_pipeline,
)

__all__ = [
    "PARTS",
    "create_detection_pipeline",
    "create_pipeline",
    "create_pretraining_pipeline",
]
