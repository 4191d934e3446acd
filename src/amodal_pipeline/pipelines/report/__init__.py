"""All results of a data set in one table and one page."""

from amodal_pipeline.pipelines.report.pipeline import create_pipeline

__all__ = ["create_pipeline"]
