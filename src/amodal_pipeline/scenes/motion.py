"""Clips as geometry: actors on paths over the ground, and a camera for every frame."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from amodal_pipeline.scenes.camera import Camera
from amodal_pipeline.scenes.models import Models, ShapeSource, build_shape
from amodal_pipeline.scenes.moving_config import MovingScenesConfig
from amodal_pipeline.scenes.placement import arrange
from amodal_pipeline.scenes.render import PlacedShape, Stage, cast_layers, visible_masks
from amodal_pipeline.scenes.scene import aim, corners_of, generator
from amodal_pipeline.scenes.scenery import SCENERY
from amodal_pipeline.scenes.shading import Surroundings, sample_surroundings
from amodal_pipeline.scenes.shapes import Shape

Kind = Literal["orbit", "glide"]

_ATTEMPTS = 50
_TRIES = 100  # attempts to find a path for an actor before it is left out
_GAP = 0.03  # least distance between two actors, taken as circles


@dataclass(frozen=True)
class Actor:
    """A moving shape: ``path`` [T, 3] holds x, y and the turn about z (radians) by frame."""

    source: ShapeSource
    shape: Shape
    scale: float
    path: np.ndarray

    def placed(self, frame: int) -> PlacedShape:
        """Return the shape at its place in a frame."""
        x, y, turn = self.path[frame]
        c, s = self.scale * np.cos(turn), self.scale * np.sin(turn)
        pose = np.array(
            [[c, -s, 0, x], [s, c, 0, y], [0, 0, self.scale, 0], [0, 0, 0, 1]], np.float64
        )
        return PlacedShape(self.shape, pose)


@dataclass(frozen=True)
class Clip:
    """The geometry of a clip of T frames.

    ``objects`` have labels, ``scenery`` has none; ``cameras`` and the paths have T entries.
    """

    kind: Kind
    objects: tuple[Actor, ...]
    scenery: tuple[Actor, ...]
    cameras: tuple[Camera, ...]
    surroundings: Surroundings

    def placed(self, frame: int) -> list[PlacedShape]:
        """Return the objects and then the scenery at their places in a frame."""
        return [actor.placed(frame) for actor in (*self.objects, *self.scenery)]

    def stage(self) -> Stage:
        """Return ground and wall; the wall stands behind all actors of the clip."""
        everything = [p for frame in range(len(self.cameras)) for p in self.placed(frame)]
        return Stage.behind(everything, self.cameras[0], self.surroundings)

    def layers(self) -> np.ndarray:
        """Return the depths of objects, then scenery, each alone: float32 [T, N + S, H, W]."""
        return np.stack([cast_layers(self.placed(t), c) for t, c in enumerate(self.cameras)])


def sample_clip(
    config: MovingScenesConfig, models: Models, split: str, index: int
) -> tuple[Clip, np.ndarray]:
    """Return a clip, and the depths of its actors as :meth:`Clip.layers` has them.

    Objects that cover too little of the picture, or are seen in too few frames, are removed before
    pictures are made. A clip left with too few objects is discarded and drawn again.

    Raises:
        ValueError: no clip with enough objects was found, because limits of ``config`` conflict.
    """
    # Drawn once: otherwise a kind whose clips are discarded more often would become rare.
    chance = generator(config.seed, split, index, _ATTEMPTS).uniform()
    draw = _orbit if chance < config.orbits else _glide
    for attempt in range(_ATTEMPTS):
        clip = draw(config, models, generator(config.seed, split, index, attempt))
        depth = clip.layers()
        count = len(clip.objects)
        keep = _presentable(depth, count, config)
        if len(keep) >= config.minimum_objects:
            kept = Clip(
                clip.kind,
                tuple(clip.objects[k] for k in keep),
                clip.scenery,
                clip.cameras,
                clip.surroundings,
            )
            return kept, depth[:, [*keep, *range(count, depth.shape[1])]]
    raise ValueError(
        f"moving scenes: no clip for {split} {index} keeps minimum_objects="
        f"{config.minimum_objects} in {_ATTEMPTS} attempts: lower it, minimum_amodal_pixels, "
        "minimum_seen or crowding, or raise maximum_objects"
    )


def shape_of(source: ShapeSource, folder: Path | None) -> Shape:
    """Return the shape of an object or of a piece of scenery.

    Raises:
        ValueError: see :func:`.models.build_shape`.
    """
    if source.category in SCENERY and source.mesh_file is None:
        return SCENERY[source.category](np.random.default_rng(source.family_seed))
    return build_shape(source, folder)


def _presentable(depth: np.ndarray, count: int, config: MovingScenesConfig) -> np.ndarray:
    """Return the indices of the objects, the first ``count`` layers, that stay in the clip."""
    area = np.isfinite(depth[:, :count]).sum(axis=(2, 3))
    keep = np.flatnonzero(area.max(axis=0) >= config.minimum_amodal_pixels)
    while len(keep):
        layers = [*keep, *range(count, depth.shape[1])]
        shown = np.stack([visible_masks(d[layers])[: len(keep)].sum(axis=(1, 2)) for d in depth])
        seen = (shown >= config.minimum_visible_pixels).mean(axis=0)
        worst = seen.argmin()
        if seen[worst] >= config.minimum_seen:
            break
        keep = np.delete(keep, worst)
    return keep


def _orbit(config: MovingScenesConfig, models: Models, rng: np.random.Generator) -> Clip:
    """Return objects at rest, and a camera that goes around them at a constant speed."""
    middle, elevation = rng.uniform(0, 360), rng.uniform(*config.elevation)
    field_of_view = rng.uniform(*config.field_of_view)
    count = rng.integers(config.minimum_objects, config.maximum_objects, endpoint=True)
    sources = [models.draw(rng) for _ in range(count)]
    shapes = [shape_of(source, models.folder) for source in sources]
    poses = arrange([s.bounds for s in shapes], middle, config.crowding, rng)
    placed = [PlacedShape(s, p) for s, p in zip(shapes, poses, strict=True)]
    corners = corners_of(placed)
    target = (corners.min(axis=0) + corners.max(axis=0)) / 2
    arc = rng.uniform(*config.arc) * rng.choice([-1, 1])
    fill, size = rng.uniform(1.0, 1.3), config.image_size
    # The radius of the circle is chosen for the group as seen from the middle of the arc.
    seen = aim(corners, middle, elevation, field_of_view, fill, size)
    distance = float(seen.project(target[None])[1][0])
    cameras = tuple(
        Camera.looking_at(
            target,
            azimuth=middle + arc * (t / (config.frames - 1) - 0.5),
            elevation=elevation,
            distance=distance,
            field_of_view=field_of_view,
            width=size,
            height=size,
        )
        for t in range(config.frames)
    )
    actors = []
    for source, shape, pose in zip(sources, shapes, poses, strict=True):
        rest = (*pose[:2, 3], np.arctan2(pose[1, 0], pose[0, 0]))
        path = np.tile(np.array(rest), (config.frames, 1))
        actors.append(Actor(source, shape, float(pose[2, 2]), path))
    # No wall: the camera would run through it.
    surroundings = sample_surroundings(rng, middle).model_copy(update={"wall": None})
    return Clip("orbit", tuple(actors), (), cameras, surroundings)


def _glide(config: MovingScenesConfig, models: Models, rng: np.random.Generator) -> Clip:
    """Return objects that pass each other and some scenery, in front of a camera at rest."""
    azimuth, elevation = rng.uniform(0, 360), rng.uniform(*config.elevation)
    field_of_view = rng.uniform(*config.field_of_view)
    names = tuple(SCENERY)
    things = [
        ShapeSource(category=names[rng.integers(len(names))], family_seed=int(rng.integers(2**53)))
        for _ in range(rng.integers(config.scenery[0], config.scenery[1], endpoint=True))
    ]
    # Start with the maximum, because some actors find no room.
    sources = [models.draw(rng) for _ in range(config.maximum_objects)]
    room = 1.3 + 0.4 * np.sqrt(len(sources))
    placed: list[Actor] = []
    reach: list[float] = []
    scenery = 0
    for k, source in enumerate((*things, *sources)):
        shape, scale = shape_of(source, models.folder), float(rng.uniform(0.75, 1.25))
        radius = scale * float(np.hypot(*shape.vertices[:, :2].T).max())
        still = k < len(things) or rng.uniform() < config.resting
        for _ in range(_TRIES):
            path = _path(config, azimuth, radius, placed, reach, still, rng)
            if _clear(path, radius, placed, reach, room):
                placed.append(Actor(source, shape, scale, path))
                reach.append(radius)
                scenery += k < len(things)
                break
    every = [a.placed(t) for a in placed for t in (0, config.frames // 2, config.frames - 1)]
    fill = rng.uniform(1.3, 1.65)
    camera = aim(corners_of(every), azimuth, elevation, field_of_view, fill, config.image_size)
    return Clip(
        "glide",
        tuple(placed[scenery:]),
        tuple(placed[:scenery]),
        (camera,) * config.frames,
        sample_surroundings(rng, azimuth),
    )


def _path(
    config: MovingScenesConfig,
    azimuth: float,
    radius: float,
    placed: Sequence[Actor],
    reach: Sequence[float],
    still: bool,
    rng: np.random.Generator,
) -> np.ndarray:
    """Return a smooth path [T, 3] that crosses another actor's line of sight, or any place.

    At a random moment of the clip, the actor is in front of or behind the other one as the camera
    sees it; before and after, it is to the side.
    """
    time = np.linspace(0, 1, config.frames)
    moment = rng.uniform(0.2, 0.8)
    if placed and rng.uniform() < config.crowding:
        other = int(rng.integers(len(placed)))
        sight = np.radians(azimuth + rng.choice([0.0, 180.0]) + rng.normal(0, 12))
        away = np.array([np.cos(sight), np.sin(sight)])
        at = np.array([np.interp(moment, time, placed[other].path[:, i]) for i in range(2)])
        meeting = at + away * (radius + reach[other] + _GAP + rng.uniform(0, 0.8))
    else:
        angle = rng.uniform(0, 2 * np.pi)
        meeting = 0.9 * np.sqrt(rng.uniform()) * np.array([np.cos(angle), np.sin(angle)])
    path = np.empty((config.frames, 3))
    path[:, 2] = rng.uniform(0, 2 * np.pi)
    if still:
        path[:, :2] = meeting
        return path
    # Mostly across the view, in a slight wave.
    heading = np.radians(azimuth + rng.choice([90.0, -90.0]) + rng.normal(0, 15))
    along = np.array([np.cos(heading), np.sin(heading)])
    across = np.array([-along[1], along[0]])
    travel = rng.uniform(*config.travel)
    beat, phase = np.pi * rng.uniform(1, 2), rng.uniform(0, 2 * np.pi)
    wave = np.sin(beat * time + phase) - np.sin(beat * moment + phase)
    path[:, :2] = meeting + travel * (time - moment)[:, None] * along
    path[:, :2] += rng.uniform(0.03, 0.18) * wave[:, None] * across
    path[:, 2] += np.radians(rng.uniform(*config.turn) * rng.choice([-1, 1])) * time
    return path


def _clear(
    path: np.ndarray, radius: float, placed: Sequence[Actor], reach: Sequence[float], limit: float
) -> bool:
    """Return whether an actor stays near the middle and never touches another."""
    if np.hypot(path[:, 0], path[:, 1]).max() > limit:
        return False
    return all(
        np.hypot(*(path - other.path)[:, :2].T).min() > radius + size + _GAP
        for other, size in zip(placed, reach, strict=True)
    )
