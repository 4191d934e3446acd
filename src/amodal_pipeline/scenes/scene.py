"""A scene: sampled from a seed, or read from the record of its picture."""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from amodal_pipeline.scenes.camera import Camera
from amodal_pipeline.scenes.config import ScenesConfig
from amodal_pipeline.scenes.models import Models, ShapeSource, build_shape
from amodal_pipeline.scenes.placement import arrange
from amodal_pipeline.scenes.render import PlacedShape, cast_layers, visible_masks
from amodal_pipeline.scenes.shading import Surroundings, sample_surroundings

Row = tuple[float, float, float, float]
_ATTEMPTS = 50


class ObjectRecord(BaseModel):
    """One object: its shape, its pose, and its masks in the picture."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    instance_id: int
    source: ShapeSource
    scale: float
    yaw: float
    """Turn about the vertical, degrees; ``pose`` includes it."""
    pose: tuple[Row, Row, Row, Row]
    amodal_rle: str
    visible_rle: str
    ignore: bool


class SceneRecord(BaseModel):
    """All about one picture; written as ``<name>.json`` next to ``<name>.png``."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    fingerprint: str
    """Checksum of the configuration, the meshes and the renderer's version."""
    split: str
    index: int
    picture_checksum: str
    camera: Camera
    surroundings: Surroundings
    objects: tuple[ObjectRecord, ...]
    order: tuple[tuple[int, int], ...]
    """Pairs of instance ids (occluder, occludee)."""


@dataclass(frozen=True)
class Scene:
    """Objects in the world, with the camera and surroundings of their picture."""

    objects: tuple[PlacedShape, ...]
    sources: tuple[ShapeSource, ...]
    camera: Camera
    surroundings: Surroundings


def generator(seed: int, split: str, index: int, attempt: int = 0) -> np.random.Generator:
    """Return the generator of random numbers of one image, independent of all other images."""
    entropy = (seed, zlib.crc32(split.encode()), index, attempt)
    return np.random.default_rng(np.random.SeedSequence(entropy))


def sample_scene(
    config: ScenesConfig, models: Models, split: str, index: int
) -> tuple[Scene, np.ndarray]:
    """Return the scene of one image, and the depths [N, H, W] of its objects.

    Objects that cover too little of the picture, or are hidden too much, are removed before the
    picture is made. A scene left with too few objects is discarded and drawn again.

    Raises:
        ValueError: no scene with enough objects was found, because limits of ``config`` conflict.
    """
    for attempt in range(_ATTEMPTS):
        scene = _draw(config, models, generator(config.seed, split, index, attempt))
        depth = cast_layers(scene.objects, scene.camera)
        keep = _presentable(depth, config)
        if len(keep) >= config.minimum_objects:
            objects = tuple(scene.objects[k] for k in keep)
            sources = tuple(scene.sources[k] for k in keep)
            return Scene(objects, sources, scene.camera, scene.surroundings), depth[keep]
    raise ValueError(
        f"scenes: no scene for {split} {index} keeps minimum_objects={config.minimum_objects} in "
        f"{_ATTEMPTS} attempts: lower it, minimum_amodal_pixels or crowding, or raise "
        "max_occlusion_rate"
    )


def load_scene(path: str | Path, meshes: str | Path | None = None) -> Scene:
    """Return the exact scene of a picture, rebuilt from its ``.json`` record.

    Args:
        path: the record.
        meshes: the folder of meshes, needed if the scene has mesh files.

    Raises:
        ValueError: the record is missing or damaged, or a mesh file is missing or has changed.
    """
    record = load_record(path)
    folder = Path(meshes) if meshes is not None else None
    try:
        shapes = [build_shape(o.source, folder) for o in record.objects]
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    objects = tuple(
        PlacedShape(shape, np.array(o.pose))
        for shape, o in zip(shapes, record.objects, strict=True)
    )
    sources = tuple(o.source for o in record.objects)
    return Scene(objects, sources, record.camera, record.surroundings)


def load_record(path: str | Path) -> SceneRecord:
    """Return the record of a picture, read from a file.

    Raises:
        ValueError: the file is missing or damaged.
    """
    try:
        return SceneRecord.model_validate_json(Path(path).read_bytes())
    except (OSError, ValidationError) as error:
        raise ValueError(f"{path}: not a readable scene ({error}); render it again") from error


def _draw(config: ScenesConfig, models: Models, rng: np.random.Generator) -> Scene:
    azimuth, elevation = rng.uniform(0, 360), rng.uniform(*config.elevation)
    field_of_view = rng.uniform(*config.field_of_view)
    count = rng.integers(config.minimum_objects, config.maximum_objects, endpoint=True)
    sources = tuple(models.draw(rng) for _ in range(count))
    shapes = [build_shape(source, models.folder) for source in sources]
    poses = arrange([s.bounds for s in shapes], azimuth, config.crowding, rng)
    objects = tuple(PlacedShape(s, p) for s, p in zip(shapes, poses, strict=True))
    fill = rng.uniform(0.92, 1.3)
    camera = aim(corners_of(objects), azimuth, elevation, field_of_view, fill, config.image_size)
    return Scene(objects, sources, camera, sample_surroundings(rng, azimuth))


def corners_of(objects: Sequence[PlacedShape]) -> np.ndarray:
    """Return the corners [8 N, 3] of the objects' bounding boxes along the world's axes."""
    boxes = [(o.vertices.min(axis=0), o.vertices.max(axis=0)) for o in objects]
    return np.array([
        (x, y, z) for low, high in boxes
        for x in (low[0], high[0]) for y in (low[1], high[1]) for z in (low[2], high[2])
    ])  # fmt: skip


def aim(
    corners: np.ndarray,
    azimuth: float,
    elevation: float,
    field_of_view: float,
    fill: float,
    size: int,
) -> Camera:
    """Return the camera at the distance where the group's outline is ``fill`` × the picture.

    ``corners`` [K, 3] are points around the group; angles are in degrees, ``size`` in pixels.
    """
    target = (corners.min(axis=0) + corners.max(axis=0)) / 2
    near = np.linalg.norm(corners - target, axis=1).max() + 0.3
    for distance in near * np.geomspace(1, 6, 40):
        camera = Camera.looking_at(
            target,
            azimuth=azimuth,
            elevation=elevation,
            distance=distance,
            field_of_view=field_of_view,
            width=size,
            height=size,
        )
        position, _ = camera.project(corners)
        low, high = position.min(axis=0), position.max(axis=0)
        if (high - low).max() <= fill * size:
            break
    # Move the camera sideways and up until the outline is in the middle.
    shift = ((low + high) / 2 - size / 2) * distance / camera.focal_length
    x, y, z = camera.translation
    return camera.model_copy(update={"translation": (float(x - shift[0]), float(y - shift[1]), z)})


def _presentable(depth: np.ndarray, config: ScenesConfig) -> np.ndarray:
    """Return the indices of the objects that stay in the scene."""
    area = np.isfinite(depth).sum(axis=(1, 2))
    keep = np.flatnonzero(area >= config.minimum_amodal_pixels)
    while len(keep):
        rate = 1 - visible_masks(depth[keep]).sum(axis=(1, 2)) / area[keep]
        worst = rate.argmax()
        if rate[worst] <= config.max_occlusion_rate:
            break
        keep = np.delete(keep, worst)
    return keep
