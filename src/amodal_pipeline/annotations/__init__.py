"""Annotation and prediction tables, run-length encoded masks, validation and readers."""

from typing import TYPE_CHECKING, Any

from amodal_pipeline.annotations.given import Given
from amodal_pipeline.annotations.known_objects import KnownObjects
from amodal_pipeline.annotations.tables import (
    Accounting,
    AmodalAnnotations,
    AnnotationsMetadata,
    Category,
    Predictions,
    PredictionsMetadata,
)

if TYPE_CHECKING:
    from amodal_pipeline.annotations.validation import Repair, build

__all__ = [
    "Accounting",
    "AmodalAnnotations",
    "AnnotationsMetadata",
    "Category",
    "Given",
    "KnownObjects",
    "Predictions",
    "PredictionsMetadata",
    "Repair",
    "build",
]


def __getattr__(name: str) -> Any:
    # The compiler behind the run-length loops takes half a second to import: only who checks
    # masks waits for it, not every `kedro` command.
    if name in ("Repair", "build"):
        from amodal_pipeline.annotations import validation

        return getattr(validation, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
