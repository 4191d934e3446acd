"""All rows of results for one table of predictions."""

import pandas as pd

from amodal_pipeline.annotations.tables import AmodalAnnotations, Predictions
from amodal_pipeline.metrics import results
from amodal_pipeline.metrics.checks import check
from amodal_pipeline.metrics.coco import coco_rows
from amodal_pipeline.metrics.completion import DetectionMatches, completes_truth, completion_rows
from amodal_pipeline.metrics.config import EvaluationConfig


def evaluate(
    annotations: AmodalAnnotations,
    predictions: Predictions,
    config: EvaluationConfig,
    matches: DetectionMatches | None = None,
    run_id: str = "",
) -> pd.DataFrame:
    """Score predictions against the truth.

    Args:
        annotations: the truth; all of its images count.
        predictions: of any method, for the same data set, split and images.
        config: which metrics.
        matches: the detector's :func:`match_detections`, for the detector itself and for methods
            that completed its detections, so that their mIoU stand on the same objects.
        run_id: stored in every row.

    Returns:
        Rows of :data:`amodal_pipeline.metrics.results.RESULTS` of the protocols "coco" and
        "completion". Predictions that complete true objects (``instance_id``) get no "coco" rows:
        nothing was detected. Without amodal masks there are no "completion" rows.

    Raises:
        ValueError: the predictions are not of these annotations or are damaged; says what to do.
    """
    check(annotations, predictions)
    parts = []
    if not completes_truth(predictions):
        parts.append(coco_rows(annotations, predictions, config))
    table = predictions.predictions
    if len(table) == 0 or table["amodal_rle"].notna().any():
        parts.append(completion_rows(annotations, predictions, matches))
    return results.join(part.assign(run_id=run_id) for part in parts)
