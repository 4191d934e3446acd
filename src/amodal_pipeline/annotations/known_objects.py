"""The true objects of a split as a table of predictions: what completers and OrderNet are given."""

import dataclasses

import numpy as np

from amodal_pipeline.annotations.tables import (
    PREDICTION_ORDER,
    PREDICTIONS,
    AmodalAnnotations,
    Predictions,
    PredictionsMetadata,
    frame,
)


def true_objects(annotations: AmodalAnnotations, boxes: bool = False) -> Predictions:
    """The true objects with their visible masks, for a completer to complete.

    Those that are to be ignored are left out. ``prediction_id`` and ``instance_id`` are the true
    object's, the score is 1; method "truth", inputs "true". With ``boxes`` their amodal boxes are
    known too: inputs "true_boxes".
    """
    counted = ~annotations.instances["ignore"].to_numpy(dtype=bool)
    table = annotations.instances[counted]
    same = ["image_id", "category_id", "instance_id", "track_id", "visible_rle", "visible_box"]
    if boxes:
        same.append("amodal_box")
    described = annotations.metadata.model_dump(
        include={"dataset", "split", "categories", "image_root"}
    )
    return Predictions(
        PredictionsMetadata(
            **described,
            method="truth",
            inputs="true_boxes" if boxes else "true",
            annotations=annotations.fingerprint,
        ),
        annotations.images,
        frame(
            PREDICTIONS,
            {
                "prediction_id": table["instance_id"],
                "score": np.ones(len(table)),
                **{name: table[name] for name in same},
            },
        ),
        frame(PREDICTION_ORDER, {}),
    )


def true_objects_with_order(annotations: AmodalAnnotations) -> Predictions:
    """The true objects that are not ignored, with both masks, and the order of the annotations
    between them (score 1, source "truth"); method "truth", inputs "true"."""
    objects = true_objects(annotations)
    table, truth, order = objects.predictions, annotations.instances, annotations.order
    counted = ~truth["ignore"].to_numpy(dtype=bool)
    ids = table["prediction_id"].to_numpy(dtype=np.int64)
    ends = [order[c].to_numpy(dtype=np.int64) for c in ("occluder_id", "occludee_id")]
    kept = np.isin(ends[0], ids) & np.isin(ends[1], ids)
    both = {name: truth[name][counted].array for name in ("amodal_rle", "amodal_box")}
    return dataclasses.replace(
        objects,
        predictions=frame(PREDICTIONS, table.assign(**both)),
        order=frame(
            PREDICTION_ORDER,
            {
                "image_id": order["image_id"][kept],
                "front_id": ends[0][kept],
                "back_id": ends[1][kept],
                "score": np.ones(kept.sum()),
                "source": ["truth"] * int(kept.sum()),
            },
        ),
    )
