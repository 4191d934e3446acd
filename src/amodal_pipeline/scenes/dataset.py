"""Rendering of splits of scenes to a folder, and their annotations."""

import hashlib
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np
from joblib import Parallel, delayed
from PIL import Image

from amodal_pipeline.annotations import AmodalAnnotations, Category, build, rle
from amodal_pipeline.annotations.processes import working
from amodal_pipeline.annotations.storage import checksum, is_relative_name, replacing
from amodal_pipeline.scenes.config import ScenesConfig
from amodal_pipeline.scenes.models import Models
from amodal_pipeline.scenes.render import order_pairs, render_colour, visible_masks
from amodal_pipeline.scenes.scene import ObjectRecord, SceneRecord, load_record, sample_scene

RENDERER_VERSION = 1
"""Raise this with every change that alters a picture or a mask: old ones are rendered again."""

ID_STEP = 100  # instance ids per image; see config.MAX_OBJECTS

Record = TypeVar("Record")


def render_split(
    config: ScenesConfig,
    split: str,
    count: int,
    folder: str | Path,
    workers: int = 1,
    on_progress: Callable[[int, int], None] | None = None,
    dataset: str = "scenes",
) -> AmodalAnnotations:
    """Render ``count`` scenes into ``<folder>/<split>/`` and return their annotations.

    Writes ``000000.png`` and its record ``000000.json`` per image, and ``statistics.json``. Image
    ``index`` depends on the seed, the split and the index only: not on ``count``, the number of
    workers, or what was rendered before. Existing images made with the same configuration are
    kept.

    Args:
        config: what the scenes are like.
        split: name of the split, a plain folder name.
        count: number of images.
        workers: processes; each computes in one thread.
        on_progress: called with (done, total) after every image.

    Returns:
        The validated table: image_id is the index, instance_id 100 × index + place + 1. Objects
        that show fewer than ``minimum_visible_pixels`` are marked ``ignore``.

    Raises:
        ValueError: ``split`` is not a plain folder name, ``count`` is below 1, a category is
            unknown, a mesh file is damaged, or the limits leave no scene.
    """
    place = Place.of(config, split, count, folder, RENDERER_VERSION)
    records = place.complete(count, _existing, render_image, workers, on_progress)
    table = _annotations(records, place.models, dataset, split, str(folder), place.fingerprint)
    with replacing(place.target / "statistics.json") as path:
        path.write_text(json.dumps(statistics(table), indent=2))
    return table


@dataclass(frozen=True)
class Place:
    """Where the pictures of a split are rendered, and from what.

    Attributes:
        config, split: of the pictures.
        models: the objects.
        target: folder of the split, an absolute path: worker processes may have been started in
            another folder than this process is in now.
        fingerprint: SHA-256 of all that decides the pictures: configuration, mesh files, renderer.
    """

    config: Any
    split: str
    models: Models
    target: Path
    fingerprint: str

    @classmethod
    def of(
        cls, config: Any, split: str, count: int, folder: str | Path, version: int | list[int]
    ) -> Self:
        """Return the place of ``count`` pictures or clips below ``folder``, which is made.

        Raises:
            ValueError: ``split`` is not a plain folder name, or ``count`` is below 1.
        """
        if not is_relative_name(split) or len(Path(split).parts) != 1:
            raise ValueError(f"split {split!r} is not a plain folder name; use one such as 'train'")
        if count < 1:
            raise ValueError(f"split {split}: {count} images asked for, at least 1 is needed")
        target = (Path(folder) / split).absolute()
        target.mkdir(parents=True, exist_ok=True)
        models = Models.of(config)
        described = {
            "version": version,
            "config": config.model_dump(mode="json", exclude={"meshes"}),
            "categories": models.categories,
            "files": models.files,
        }
        digest = hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()
        return cls(config, split, models, target, digest)

    def made(self, record: Record) -> bool:
        """Return whether a record is of this split, made from the same."""
        return (record.fingerprint, record.split) == (self.fingerprint, self.split)

    def complete(
        self,
        count: int,
        existing: Callable[["Place", int], Record | None],
        render: Callable[["Place", int], Record],
        workers: int,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> list[Record]:
        """Return the records 0 to ``count`` − 1, rendering those that do not exist yet.

        Args:
            existing: the record of a number that is on disk, or None.
            render: makes the record of a number, in one of ``workers`` processes.
            on_progress: called with (done, total) at first and after every record made.
        """
        records = {index: existing(self, index) for index in range(count)}
        missing = [index for index, record in records.items() if record is None]
        done = count - len(missing)
        if on_progress is not None:
            on_progress(done, count)
        for index, record in _render_all(partial(render, self), missing, workers):
            records[index] = record
            done += 1
            if on_progress is not None:
                on_progress(done, count)
        return list(records.values())


def render_image(place: Place, index: int) -> SceneRecord:
    """Render one image and write it into the folder of its split; the record is written last."""
    config = place.config
    scene, depth = sample_scene(config, place.models, place.split, index)
    colour = render_colour(
        scene.objects,
        scene.camera,
        scene.surroundings,
        shadows=config.shadows,
        antialiasing=config.antialiasing,
    )
    data = io.BytesIO()
    Image.fromarray(colour).save(data, "PNG", compress_level=4)
    picture = data.getvalue()

    visible = visible_masks(depth)
    amodal_rle, visible_rle = rle.encode(np.isfinite(depth)), rle.encode(visible)
    first = ID_STEP * index + 1
    objects = tuple(
        ObjectRecord(
            instance_id=first + k,
            source=scene.sources[k],
            scale=float(np.cbrt(np.linalg.det(placed.pose[:3, :3]))),
            yaw=float(np.degrees(np.arctan2(placed.pose[1, 0], placed.pose[0, 0]))),
            pose=tuple(map(tuple, placed.pose.tolist())),
            amodal_rle=amodal_rle[k],
            visible_rle=visible_rle[k],
            ignore=bool(visible[k].sum() < config.minimum_visible_pixels),
        )
        for k, placed in enumerate(scene.objects)
    )
    record = SceneRecord(
        fingerprint=place.fingerprint,
        split=place.split,
        index=index,
        picture_checksum=hashlib.sha256(picture).hexdigest(),
        camera=scene.camera,
        surroundings=scene.surroundings,
        objects=objects,
        order=tuple(map(tuple, (first + order_pairs(depth, config.minimum_order_pixels)).tolist())),
    )
    with replacing(place.target / f"{index:06d}.png") as path:
        path.write_bytes(picture)
    with replacing(place.target / f"{index:06d}.json") as path:
        path.write_text(record.model_dump_json(indent=1))
    return record


def statistics(table: AmodalAnnotations) -> dict:
    """Return how much a split's objects occlude one another; rates and shares are in 0 to 1."""
    rate = table.instances["occlusion_rate"].to_numpy(dtype=np.float64)
    occluded = rate > 0
    names = {category.id: category.name for category in table.metadata.categories}
    counts = table.instances["category_id"].value_counts()
    return {
        "images": len(table.images),
        "objects": len(rate),
        "ignored": int(table.instances["ignore"].sum()),
        "order_pairs": len(table.order),
        "share_occluded": float(occluded.mean()),
        "mean_occlusion_rate": float(rate.mean()),
        "mean_occlusion_rate_of_occluded": float(rate[occluded].mean()) if occluded.any() else 0.0,
        "objects_by_category": {name: int(counts.get(id_, 0)) for id_, name in names.items()},
    }


def _existing(place: Place, index: int) -> SceneRecord | None:
    """Return the record of an image that exists undamaged with the same fingerprint, or None."""
    path = place.target / f"{index:06d}.json"
    picture = path.with_suffix(".png")
    if not path.is_file() or not picture.is_file():
        return None
    try:
        record = load_record(path)
    except ValueError:
        return None
    same = place.made(record) and record.index == index
    return record if same and record.picture_checksum == checksum(picture) else None


def _render_all(
    render: Callable[[int], Record], indices: list[int], workers: int
) -> Iterator[tuple[int, Record]]:
    if workers <= 1 or len(indices) <= 1:
        for index in indices:
            yield index, render(index)
        return

    def numbered(index: int) -> tuple[int, Record]:
        return index, render(index)

    with working(min(workers, len(indices))):
        yield from Parallel(return_as="generator_unordered")(
            delayed(numbered)(index) for index in indices
        )


def _annotations(
    records: list[SceneRecord],
    models: Models,
    dataset: str,
    split: str,
    image_root: str,
    fingerprint: str,
) -> AmodalAnnotations:
    ids = {name: k + 1 for k, name in enumerate(models.categories)}
    rows = [(record.index, o) for record in records for o in record.objects]
    pairs = [(record.index, *pair) for record in records for pair in record.order]
    return build(
        dataset=dataset,
        split=split,
        categories=[Category(id=id_, name=name) for name, id_ in ids.items()],
        image_root=image_root,
        images={
            "image_id": [r.index for r in records],
            "file_name": [f"{split}/{r.index:06d}.png" for r in records],
            "height": [r.camera.height for r in records],
            "width": [r.camera.width for r in records],
        },
        instances={
            "instance_id": [o.instance_id for _, o in rows],
            "image_id": [index for index, _ in rows],
            "category_id": [ids[o.source.category] for _, o in rows],
            "amodal_rle": [o.amodal_rle for _, o in rows],
            "visible_rle": [o.visible_rle for _, o in rows],
            "ignore": [o.ignore for _, o in rows],
        },
        order={
            "image_id": [p[0] for p in pairs],
            "occluder_id": [p[1] for p in pairs],
            "occludee_id": [p[2] for p in pairs],
        },
        sources={"scenes": fingerprint},
        file="scenes",
    )
