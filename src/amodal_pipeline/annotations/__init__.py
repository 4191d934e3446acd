"""Annotation and prediction tables, run-length encoded masks, validation and readers."""

from amodal_pipeline.annotations.tables import (
    Accounting,
    AmodalAnnotations,
    AnnotationsMetadata,
    Category,
    Predictions,
    PredictionsMetadata,
)
from amodal_pipeline.annotations.validation import Repair, build

__all__ = [
    "Accounting",
    "AmodalAnnotations",
    "AnnotationsMetadata",
    "Category",
    "Predictions",
    "PredictionsMetadata",
    "Repair",
    "build",
]
