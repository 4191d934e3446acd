"""Pure functions from (annotations, predictions) to rows of results."""

from amodal_pipeline.metrics.completion import DetectionMatches, match_detections
from amodal_pipeline.metrics.config import EvaluationConfig
from amodal_pipeline.metrics.evaluate import evaluate
from amodal_pipeline.metrics.results import join, summary_table, validate

__all__ = [
    "DetectionMatches",
    "EvaluationConfig",
    "evaluate",
    "join",
    "match_detections",
    "summary_table",
    "validate",
]
