"""Trainings that differ in a few values, compared with one another."""

from amodal_pipeline.pipelines.ablate.pipeline import create_pipeline

__all__ = ["create_pipeline"]
