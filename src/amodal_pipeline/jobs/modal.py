"""Training data with amodal truth, composed from visible masks alone."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import orjson

from amodal_pipeline.annotations import AmodalAnnotations, rle
from amodal_pipeline.annotations.storage import replacing
from amodal_pipeline.annotations.tables import boxes
from amodal_pipeline.compose.config import ComposeConfig
from amodal_pipeline.compose.dataset import compose_split


def compose_modal(
    annotations: AmodalAnnotations,
    config: ComposeConfig,
    folder: Path,
    workers: int,
    on_progress: Callable[[int, int], None] | None = None,
) -> AmodalAnnotations:
    """Compose pictures in which objects of a split hide one another, from visible masks only.

    This is the data that Follmann et al. (WACV 2019, section 4.3) call "modal augmented". The
    visible masks go to ``folder/visible.json`` as plain COCO, and pictures are composed from that
    file.

    Args:
        annotations: the training split; its amodal masks are not looked at.
        folder: of the file and, below ``folder/<split>``, of the pictures; existing ones are kept.

    Returns:
        The pictures with their truth.

    Raises:
        ValueError: see :func:`~amodal_pipeline.compose.dataset.compose_split`.
    """
    source = folder / "visible.json"
    write_modal(annotations, source)
    metadata = annotations.metadata
    return compose_split(
        config,
        metadata.split,
        source,
        Path(metadata.image_root),
        folder,
        workers,
        on_progress,
        metadata.dataset,
    )


def write_modal(annotations: AmodalAnnotations, path: Path) -> None:
    """Write the visible masks of a table as plain COCO, without wholly hidden objects."""
    images = [
        {"id": image_id, "file_name": name, "height": height, "width": width}
        for image_id, name, height, width in zip(
            *(annotations.images[c] for c in ("image_id", "file_name", "height", "width")),
            strict=True,
        )
    ]
    table = annotations.instances
    area = rle.area(table["visible_rle"].tolist())
    seen = np.flatnonzero(area > 0)
    table = table.iloc[seen]
    records = [
        {
            "id": id_,
            "image_id": image,
            "category_id": category,
            "iscrowd": int(ignore),
            "area": pixels,
            "bbox": box,
            "segmentation": {"size": size, "counts": counts},
        }
        for id_, image, category, ignore, counts, pixels, box, size in zip(
            *(table[c] for c in ("instance_id", "image_id", "category_id", "ignore")),
            table["visible_rle"],
            area[seen].tolist(),
            boxes(table["visible_box"]).tolist(),
            annotations.sizes[seen].tolist(),
            strict=True,
        )
    ]
    document = {
        "images": images,
        "categories": [c.model_dump() for c in annotations.metadata.categories],
        "annotations": records,
    }
    with replacing(path) as temporary:
        temporary.write_bytes(orjson.dumps(document))
