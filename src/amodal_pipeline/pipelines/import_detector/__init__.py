"""From a file of torchvision or detectron2 to a checkpoint that methods start from."""

from amodal_pipeline.pipelines.import_detector.pipeline import create_pipeline

__all__ = ["create_pipeline"]
