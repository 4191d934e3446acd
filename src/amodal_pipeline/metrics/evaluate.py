"""Evaluation of one table of predictions by all protocols."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from amodal_pipeline.annotations.tables import (
    AmodalAnnotations,
    Predictions,
    PredictionsMetadata,
    frame,
)
from amodal_pipeline.metrics import bootstrap, completion, protocols, results, video
from amodal_pipeline.metrics.checks import check
from amodal_pipeline.metrics.coco import RECALLS, Precision
from amodal_pipeline.metrics.completion import DetectionMatches, Population, completes_truth
from amodal_pipeline.metrics.config import EvaluationConfig
from amodal_pipeline.metrics.evidence import Evidence
from amodal_pipeline.metrics.order import order_tallies
from amodal_pipeline.metrics.scores import CURVES, DRAWS, OBJECTS, WHOSE, Scores
from amodal_pipeline.metrics.tallies import Tally

MODAL = "truth: visible masks only, whole objects unknown"


def evaluate(
    annotations: AmodalAnnotations,
    predictions: Predictions,
    config: EvaluationConfig,
    matches: DetectionMatches | None = None,
    run_id: str = "",
    *,
    common: Population | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Scores:
    """Return the scores of predictions by every published protocol that applies.

    Args:
        annotations: the truth; all of its images count.
        predictions: of any method, for the same data set, split and images.
        config: which metrics to compute.
        matches: the detector's :func:`match_detections`, for the detector itself and for methods
            that completed its detections, so that their mIoU is over the same objects.
        run_id: stored in every row.
        common: objects for which separate figures are computed.
        on_progress: called with (done, total) parts of the bootstrap.

    Returns:
        Results of the protocols "coco", "coco_agnostic", "vrsp", "vrsp_released" (if configured),
        "orcnn", "amodalapi", "completion", "order" (if the predictions have one) and "video" (if
        the annotations follow objects through videos).
        Predictions that complete true objects (``instance_id``) get only the last three, because
        nothing was detected. Predictions without amodal masks get no rows of these three, because
        objects are matched by amodal masks.

    Raises:
        ValueError: the predictions do not belong to these annotations or are damaged; says what
            to do.
    """
    check(annotations, predictions)
    evidence = Evidence(annotations, predictions)
    found = None
    if evidence.has("amodal_rle"):
        found = completion.completions(evidence, matches)
    named = list(_tallies(evidence, config, found, common))
    images = evidence.where.images
    table, draws = tabulate(
        named,
        images,
        predictions.metadata,
        config,
        run_id,
        on_progress,
        bootstrap.groups_of(annotations),
    )
    if annotations.metadata.modal:
        notes = [f"{MODAL}; {note}" if note else MODAL for note in table["note"]]
        table = frame(results.RESULTS, table.assign(note=notes))
    return Scores(
        results=table,
        draws=draws,
        curves=_frame(CURVES, predictions.metadata, run_id, _curves(named)),
        objects=_frame(
            OBJECTS,
            predictions.metadata,
            run_id,
            completion.objects(evidence, found) if found else {},
        ),
    )


def tabulate(
    named: Sequence[tuple[str, Tally]],
    images: int,
    metadata: PredictionsMetadata,
    config: EvaluationConfig,
    run_id: str,
    on_progress: Callable[[int, int], None] | None = None,
    groups: np.ndarray | None = None,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return results and draws of tallies, each given with its protocol.

    Args:
        images: number of images that the tallies weigh.
        metadata: of the predictions.
        run_id, on_progress: see :func:`evaluate`.
        groups: int64 [images], the group of each image, drawn together; None draws single images.
    """
    tallies = [tally for _, tally in named]
    counts = [
        config.headline_resamples if _is_headline(tally, config.headline) else config.resamples
        for tally in tallies
    ]
    values = [tally.values(np.ones((1, images), np.uint16))[0] for tally in tallies]
    draws = bootstrap.draw(tallies, counts, images, config.seed, on_progress, groups)

    rows: dict[str, list[results.Measurement]] = {}
    drawn: dict[str, list] = {"protocol": [], "metric": [], "value": [], "values": []}
    for (protocol, tally), value, sample in zip(named, values, draws, strict=True):
        for row, v, d in zip(tally.rows, value, sample.T, strict=True):
            measured = results.Measurement(
                row.metric, float(v), row.n, row.category, *bootstrap.interval(d), row.note
            )
            rows.setdefault(protocol, []).append(measured)
            if row.category == "all":
                for name, cell in zip(drawn, (protocol, row.metric, v, d), strict=True):
                    drawn[name].append(cell)
    joined = results.join(
        results.rows(metadata, protocol, measured, run_id) for protocol, measured in rows.items()
    )
    n = len(drawn["metric"])
    units = images if groups is None else int(groups.max(initial=-1)) + 1
    drawn |= {"images": [units] * n, "bootstrap_seed": [config.seed] * n}
    return joined, _frame(DRAWS, metadata, run_id, drawn)


def _tallies(
    evidence: Evidence,
    config: EvaluationConfig,
    found: completion.Completions | None,
    common: Population | None,
) -> Iterator[tuple[str, Tally]]:
    """Yield every tally with its protocol."""
    thresholds = config.occlusion_thresholds
    if not completes_truth(evidence.predictions):
        by_protocol = {
            "coco": protocols.coco(evidence, per_category=config.per_category),
            "coco_agnostic": protocols.coco(evidence, class_agnostic=True),
            "vrsp": protocols.vrsp(evidence, thresholds),
            "orcnn": protocols.orcnn(evidence),
            "amodalapi": protocols.amodalapi(evidence),
        }
        for protocol, tallies in by_protocol.items():
            if protocol in config.protocols:
                yield from ((protocol, tally) for tally in tallies)
        if config.vrsp_released:
            for tally in protocols.vrsp_released(evidence, thresholds):
                yield "vrsp_released", tally
    if found is None:
        return
    if "completion" in config.protocols:
        for tally in completion.tallies(evidence, found, common, per_category=config.per_category):
            yield "completion", tally
    if "order" in config.protocols and len(evidence.predictions.order):
        instance = np.flatnonzero(found.prediction >= 0)
        prediction = found.prediction[instance]
        for tally in order_tallies(
            evidence.annotations, evidence.predictions, prediction, instance
        ):
            yield "order", tally
    if "video" in config.protocols and video.applies(evidence.annotations):
        for tally in video.tallies(evidence, found):
            yield "video", tally


def _is_headline(tally: Tally, headline: Sequence[str]) -> bool:
    return any(row.metric in headline and row.category == "all" for row in tally.rows)


def _curves(named: Sequence[tuple[str, Tally]]) -> dict[str, np.ndarray]:
    """Return precision against recall of COCO's tallies, as columns."""
    columns: dict[str, list] = {"target": [], "iou": [], "recall": [], "precision": []}
    for protocol, tally in named:
        if protocol != "coco" or not isinstance(tally, Precision):
            continue
        target = tally.rows[0].metric.removeprefix("AP_")
        of = {0.5: tally.curve[0], 0.75: tally.curve[5], None: tally.curve.mean(axis=0)}
        for iou, precision in of.items() if target != "box" else ():
            cells = ([target] * len(RECALLS), [iou] * len(RECALLS), RECALLS, precision)
            for column, values in zip(columns.values(), cells, strict=True):
                column.extend(values)
    return columns


def _frame(
    schema: pa.Schema, metadata: PredictionsMetadata, run_id: str, columns: Mapping[str, Any]
) -> pd.DataFrame:
    """Return a table of the columns, with those that identify the method and run."""
    n = len(next(iter(columns.values()), ()))
    whose = metadata.model_dump(include=set(WHOSE)) | {"run_id": run_id}
    return frame(schema, {**{k: [v] * n for k, v in whose.items()}, **columns})
