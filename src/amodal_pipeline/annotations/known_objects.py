"""Objects that are known before a method runs: the input of completers and OrderNet."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import pandas as pd

from amodal_pipeline.annotations.given import Given
from amodal_pipeline.annotations.tables import (
    PREDICTION_ORDER,
    PREDICTIONS,
    AmodalAnnotations,
    Predictions,
    PredictionsMetadata,
    frame,
)


@dataclass(frozen=True)
class KnownObjects:
    """Objects with visible masks, and where these come from.

    ``table`` holds the objects, with amodal boxes where they are known. ``given`` says what they
    are, and ``detector`` who found them where they are DETECTIONS: a detector, another program, or
    the masks of a user.
    """

    table: Predictions
    given: Given
    detector: str = ""

    @classmethod
    def of(cls, objects: Predictions | KnownObjects) -> KnownObjects:
        """Return the objects of a table as known objects.

        A table that completes objects (it names true ones by ``instance_id``, or detections by
        ``source_id``) holds these objects. The rows of any other are detections of its method.
        """
        if isinstance(objects, KnownObjects):
            return objects
        made, table = objects.metadata, objects.predictions
        completes = table["instance_id"].notna().any()
        completes |= len(table) > 0 and table["source_id"].notna().all()
        if completes or made.given.from_truth:
            detector = made.inputs if made.given is Given.DETECTIONS else ""
            return cls(objects, made.given, detector)
        return cls(objects, Given.DETECTIONS, made.method)

    @property
    def inputs(self) -> str:
        """Return the ``inputs`` of predictions that are made of these objects."""
        return self.detector if self.given is Given.DETECTIONS else self.given.value

    @property
    def source_id(self) -> pd.Series:
        """Return the detection that each object is; null for true objects."""
        table = self.table.predictions
        if self.given is Given.DETECTIONS and table["source_id"].isna().any():
            return table["prediction_id"]
        return table["source_id"]

    def with_columns(self, **columns: object) -> KnownObjects:
        """Return the same objects with other values in some columns."""
        table = self.table.predictions
        changed = {name: table[name] for name in table.columns} | columns
        changed = dataclasses.replace(self.table, predictions=frame(PREDICTIONS, changed))
        return dataclasses.replace(self, table=changed)


def true_objects(annotations: AmodalAnnotations, boxes: bool = False) -> KnownObjects:
    """Return the true objects of a split with their visible masks, without those to be ignored.

    ``prediction_id`` and ``instance_id`` are the true object's, the score is 1, the method is
    "truth". With ``boxes`` their amodal boxes are known too. The table has the true order between
    the objects, with the score 1 and the source "truth".
    """
    counted = ~annotations.instances["ignore"].to_numpy(dtype=bool)
    table = annotations.instances[counted]
    same = ["image_id", "category_id", "instance_id", "track_id", "visible_rle", "visible_box"]
    if boxes:
        same.append("amodal_box")
    given = Given.TRUE_BOXES if boxes else Given.TRUE_MASKS
    columns = {name: table[name] for name in same}
    columns |= {"prediction_id": table["instance_id"], "score": np.ones(len(table))}
    objects = _table(annotations, "truth", given, columns)
    return KnownObjects(dataclasses.replace(objects, order=_true_order(annotations)), given)


def no_objects(annotations: AmodalAnnotations) -> KnownObjects:
    """Return what is found in a split where no detector is configured: an empty table."""
    return KnownObjects(_table(annotations, "none", Given.NOTHING, {}), Given.NOTHING)


def _table(
    annotations: AmodalAnnotations, method: str, given: Given, columns: dict[str, object]
) -> Predictions:
    metadata = PredictionsMetadata.of(annotations.metadata, method=method, inputs=given.value)
    rows = frame(PREDICTIONS, columns)
    return Predictions(metadata, annotations.images, rows, frame(PREDICTION_ORDER, {}))


def true_objects_with_order(annotations: AmodalAnnotations) -> Predictions:
    """Return the true objects with both masks, and the true order between them.

    Ignored objects are left out. The order has the score 1 and the source "truth".
    """
    objects, truth = true_objects(annotations).table, annotations.instances
    counted = ~truth["ignore"].to_numpy(dtype=bool)
    both = {name: truth[name][counted].array for name in ("amodal_rle", "amodal_box")}
    table = objects.predictions.assign(**both)
    return dataclasses.replace(objects, predictions=frame(PREDICTIONS, table))


def _true_order(annotations: AmodalAnnotations) -> pd.DataFrame:
    """Return the order between objects that are not ignored, as predictions have it."""
    truth, order = annotations.instances, annotations.order
    counted = ~truth["ignore"].to_numpy(dtype=bool)
    ids = truth["instance_id"].to_numpy(dtype=np.int64)[counted]
    ends = [order[c].to_numpy(dtype=np.int64) for c in ("occluder_id", "occludee_id")]
    kept = np.isin(ends[0], ids) & np.isin(ends[1], ids)
    return frame(
        PREDICTION_ORDER,
        {
            "image_id": order["image_id"][kept],
            "front_id": ends[0][kept],
            "back_id": ends[1][kept],
            "score": np.ones(kept.sum()),
            "source": ["truth"] * int(kept.sum()),
        },
    )
