"""Small tables of annotations and of predictions, from the columns that a test is about."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from amodal_pipeline.annotations import (
    AmodalAnnotations,
    Category,
    Predictions,
    PredictionsMetadata,
    build,
)
from amodal_pipeline.annotations.tables import PREDICTION_ORDER, PREDICTIONS, frame

THINGS = (Category(id=1, name="thing"),)


def annotations(
    sizes: Mapping[int, tuple[int, int]],
    instances: Mapping[str, Any],
    pairs: Sequence[tuple[int, int, int]] = (),
    images: Mapping[str, Any] | None = None,
    **options: Any,
) -> AmodalAnnotations:
    """Build a table of images ``<id>.png``.

    Args:
        sizes: image id: (height, width).
        instances: columns; without ids they are numbered from 1, without categories all are 1.
        pairs: order as (image, occluder, occludee).
        images: further columns of the images.
        options: of :func:`build`.
    """
    count = len(instances["image_id"])
    image_id, front, back = np.array(pairs, np.int64).reshape(-1, 3).T
    listed = {
        "image_id": [*sizes],
        "file_name": [f"{i}.png" for i in sizes],
        "height": [height for height, _ in sizes.values()],
        "width": [width for _, width in sizes.values()],
    }
    numbered = {"instance_id": np.arange(1, count + 1), "category_id": np.ones(count, np.int64)}
    described = {"dataset": "made_up", "split": "val", "categories": THINGS, "image_root": ""}
    return build(
        images=listed | dict(images or {}),
        instances=numbered | dict(instances),
        order={"image_id": image_id, "occluder_id": front, "occludee_id": back},
        **described | options,
    )


def metadata_for(truth: AmodalAnnotations, **changes: Any) -> PredictionsMetadata:
    """Return the metadata of a method's predictions for annotations."""
    described = truth.metadata.model_dump(include={"dataset", "split", "categories", "image_root"})
    return PredictionsMetadata(**described | {"method": "method"} | changes)


def predictions(
    truth: AmodalAnnotations,
    columns: Mapping[str, Any],
    order: Mapping[str, Any] | None = None,
    **metadata: Any,
) -> Predictions:
    """Return predictions for the images of annotations; without ids they are numbered from 1."""
    numbered = {"prediction_id": np.arange(1, len(columns["image_id"]) + 1)}
    return Predictions(
        metadata_for(truth, **metadata),
        truth.images,
        frame(PREDICTIONS, numbered | dict(columns)),
        frame(PREDICTION_ORDER, order or {}),
    )
