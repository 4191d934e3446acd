"""Rendering of meshes with a camera: exact depth per object, and a shaded picture.

Masks and picture come from separate ray casts. :func:`cast_layers` casts a ray through every
pixel centre against each object alone, which gives its amodal mask and depth;
:func:`render_colour` casts against all objects together, with shadows and smoothed edges.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np

from amodal_pipeline.scenes.camera import Camera
from amodal_pipeline.scenes.rays import Caster, Hits
from amodal_pipeline.scenes.shading import Surfaces, Surroundings, dot, light, linear, sky, to_bytes
from amodal_pipeline.scenes.shapes import Shape

_EDGE_CONTRAST = 20  # of 255; neighbours that differ by more are antialiased
# Sample positions within a pixel at an edge: a square turned by atan(1/2).
_SUBPIXELS = ((-0.125, -0.375), (0.375, -0.125), (0.125, 0.375), (-0.375, 0.125))


@dataclass(frozen=True)
class PlacedShape:
    """A shape and the ``pose`` [4, 4] to world coordinates (turn, uniform scale, move)."""

    shape: Shape
    pose: np.ndarray

    @cached_property
    def vertices(self) -> np.ndarray:
        """Return the world coordinates, float64 [V, 3]."""
        turned = np.einsum("ij,vj->vi", self.pose[:3, :3], self.shape.vertices)
        return turned + self.pose[:3, 3]

    @cached_property
    def footprint(self) -> np.ndarray:
        """Return the corners [4, 2] of its bounding rectangle on the ground, turned with it."""
        (x0, y0, _), (x1, y1, _) = self.shape.bounds
        corners = np.array([(x0, y0, 0), (x1, y0, 0), (x1, y1, 0), (x0, y1, 0)])
        return (np.einsum("ij,vj->vi", self.pose[:3, :3], corners) + self.pose[:3, 3])[:, :2]


@dataclass(frozen=True)
class Stage:
    """The ground z = 0 and, unless ``wall_at`` is None, an upright wall: the points whose
    coordinate along the unit vector ``away`` [2] is ``wall_at``.
    """

    away: np.ndarray
    wall_at: float | None

    @classmethod
    def behind(
        cls, objects: Sequence[PlacedShape], camera: Camera, surroundings: Surroundings
    ) -> Self:
        """Return the stage whose wall stands across the view, behind all objects."""
        forward = np.array(camera.rotation[2][:2], np.float64)
        away = forward / np.linalg.norm(forward)
        deepest = max([0.0, *(float((o.footprint @ away).max()) for o in objects)])
        wall = surroundings.wall is not None
        return cls(away, deepest + surroundings.wall_distance if wall else None)

    def cast(self, eye: np.ndarray, directions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return how far rays [N, 3] run to the ground and to the wall, in lengths of the ray's
        direction vector; inf where they miss.
        """
        with np.errstate(divide="ignore"):
            to_ground = np.where(directions[:, 2] < 0, -eye[2] / directions[:, 2], np.inf)
        to_wall = np.full(len(directions), np.inf, np.float32)
        if self.wall_at is not None:
            a, b = self.away.astype(np.float32)
            speed = directions[:, 0] * a + directions[:, 1] * b
            start = np.float32(self.wall_at) - (eye[0] * a + eye[1] * b)
            to_wall = np.where(speed > 0, start / np.maximum(speed, 1e-9), np.inf)
        return to_ground, to_wall


def cast_layers(objects: Sequence[PlacedShape], camera: Camera) -> np.ndarray:
    """Return the depth along the optical axis of each object alone, at pixel centres.

    Returns:
        float32 [N, H, W], inf where the ray misses the object; the amodal mask is where it is
        finite.
    """
    depth = np.full((len(objects), camera.height, camera.width), np.inf, np.float32)
    for layer, placed in zip(depth, objects, strict=True):
        left, top, right, bottom = camera.projected_box(placed.vertices)
        if left >= right or top >= bottom:
            continue
        rows, columns = np.mgrid[top:bottom, left:right]
        directions = camera.directions(columns.ravel() + 0.5, rows.ravel() + 0.5)
        caster = Caster([(placed.vertices, placed.shape.faces)])
        distance = caster.cast(camera.position, directions).distance
        layer[top:bottom, left:right] = distance.reshape(rows.shape)
    return depth


def visible_masks(depth: np.ndarray) -> np.ndarray:
    """Return the visible masks bool [N, H, W] of depths [N, H, W]: where an object is hit first.

    At equal depths the object with the lower index counts as nearer, here as in
    :func:`order_pairs`.
    """
    first = depth.argmin(axis=0)
    return (first == np.arange(len(depth))[:, None, None]) & np.isfinite(depth)


def order_pairs(depth: np.ndarray, minimum_pixels: int = 1) -> np.ndarray:
    """Return pairs (occluder, occludee) of object indices, int64 [P, 2].

    A occludes B when A is nearer on at least ``minimum_pixels`` of the pixels that both amodal
    masks cover; objects that interlock give (A, B) and (B, A).
    """
    amodal = np.isfinite(depth)
    rows, columns = amodal.any(axis=2), amodal.any(axis=1)
    n = len(depth)
    pairs = []
    for a in range(n):
        near = np.flatnonzero(rows[a])
        beside = np.flatnonzero(columns[a])
        if not len(near):
            continue
        window = slice(near[0], near[-1] + 1), slice(beside[0], beside[-1] + 1)
        own, others = depth[a][window], depth[a + 1 :, *window]
        both = np.isfinite(own) & amodal[a + 1 :, *window]
        in_front = (both & (own <= others)).sum(axis=(1, 2))
        behind = both.sum(axis=(1, 2)) - in_front
        pairs += [(a, a + 1 + b) for b in np.flatnonzero(in_front >= minimum_pixels)]
        pairs += [(a + 1 + b, a) for b in np.flatnonzero(behind >= minimum_pixels)]
    return np.array(sorted(pairs), np.int64).reshape(-1, 2)


def render_colour(
    objects: Sequence[PlacedShape],
    camera: Camera,
    surroundings: Surroundings,
    *,
    shadows: bool = True,
    antialiasing: bool = True,
    stage: Stage | None = None,
) -> np.ndarray:
    """Return the picture, uint8 [H, W, 3] sRGB.

    One ray goes through each pixel centre; where neighbours differ, four rays replace it.
    ``stage`` is by default the one with its wall behind all objects.
    """
    tracer = _Tracer(objects, camera, surroundings, shadows, stage)
    rows, columns = np.mgrid[: camera.height, : camera.width] + 0.5
    colour = tracer.trace(columns.ravel(), rows.ravel()).reshape(*rows.shape, 3)
    if antialiasing:
        rough = _edges(to_bytes(colour))
        x, y = columns[rough], rows[rough]
        # Each sample sees another part of the light; highlights are capped before averaging, since
        # a bright sample would outweigh the other three.
        samples = [
            np.minimum(tracer.trace(x + dx, y + dy, light_points=(k,)), 4)
            for k, (dx, dy) in enumerate(_SUBPIXELS)
        ]
        colour[rough] = sum(samples) / np.float32(len(samples))
    return to_bytes(colour)


@dataclass(frozen=True)
class Cutout:
    """One object on white, without its surroundings.

    ``pixels`` uint8 [H, W, 4]: sRGB blended with white, and the covered share of the pixel;
    ``mask`` bool [H, W]: whether the ray through the pixel's centre hits, the amodal mask.
    """

    pixels: np.ndarray
    mask: np.ndarray


def render_cutouts(
    placed: PlacedShape, shots: Sequence[tuple[Camera, Surroundings]]
) -> Iterator[Cutout]:
    """Yield pictures of one object that floats in white space, without shadows, one per shot.

    Every pixel is sampled at its centre and at four places around it.
    """
    tracer = None
    for camera, surroundings in shots:
        # Face tables and the acceleration structure depend on the object only.
        tracer = tracer or _Tracer([placed], camera, surroundings, shadows=False)
        tracer.camera, tracer.surroundings = camera, surroundings
        left, top, right, bottom = camera.projected_box(placed.vertices)
        rows, columns = np.mgrid[top:bottom, left:right] + 0.5
        offsets = np.array([(0, 0), *_SUBPIXELS])[:, :, None, None]
        at = np.stack([columns, rows]) + offsets
        light, hit = tracer.trace_meshes(at[:, 0].ravel(), at[:, 1].ravel())
        hit = hit.reshape(len(offsets), *rows.shape)
        light = np.minimum(light, 4).reshape(*hit.shape, 3).sum(axis=0)
        covered = hit.mean(axis=0, dtype=np.float32)[..., None]
        colour = to_bytes(light / np.maximum(hit.sum(axis=0), 1)[..., None].astype(np.float32))
        pixels = np.full((camera.height, camera.width, 4), 255, np.uint8)
        pixels[..., 3] = 0
        mask = np.zeros((camera.height, camera.width), bool)
        window = slice(top, bottom), slice(left, right)
        blended = np.round(covered * colour + (1 - covered) * 255).astype(np.uint8)
        pixels[window] = np.concatenate([blended, np.round(255 * covered).astype(np.uint8)], 2)
        mask[window] = hit[0]
        yield Cutout(pixels, mask)


def _edges(picture: np.ndarray) -> np.ndarray:
    """Return the pixels that differ clearly from one of their four neighbours, bool [H, W]."""
    values = picture.astype(np.int16)
    out = np.zeros(picture.shape[:2], bool)
    across = np.abs(np.diff(values, axis=1)).max(axis=2) > _EDGE_CONTRAST
    down = np.abs(np.diff(values, axis=0)).max(axis=2) > _EDGE_CONTRAST
    out[:, 1:] |= across
    out[:, :-1] |= across
    out[1:] |= down
    out[:-1] |= down
    return out


class _Tracer:
    """Computes colours along rays through a scene; its tables of faces are built once."""

    def __init__(
        self,
        objects: Sequence[PlacedShape],
        camera: Camera,
        surroundings: Surroundings,
        shadows: bool,
        stage: Stage | None = None,
    ):
        self.camera, self.surroundings, self.shadows = camera, surroundings, shadows
        self.caster = Caster([(o.vertices, o.shape.faces) for o in objects]) if objects else None
        self.face_start = np.cumsum([0, *(len(o.shape.faces) for o in objects)])
        empty = np.zeros((0, 3, 3), np.float32)
        self.corner_points = np.concatenate(
            [empty, *(o.shape.vertices[o.shape.faces].astype(np.float32) for o in objects)]
        )
        self.corner_normals = np.concatenate([empty, *(_world_normals(o) for o in objects)])
        materials = [surroundings.ground, surroundings.wall or surroundings.ground]
        owners = [np.zeros(0, np.int64)]
        for o in objects:
            owners.append(o.shape.material_of_face + len(materials))
            materials += o.shape.materials
        self.material_of_face = np.concatenate(owners)
        self.surfaces = Surfaces(materials)
        self.footprints = [o.footprint for o in objects]
        self.stage = stage or Stage.behind(objects, camera, surroundings)

    def trace(
        self, columns: np.ndarray, rows: np.ndarray, light_points: tuple[int, ...] = (0, 1, 2, 3)
    ) -> np.ndarray:
        """Return the linear RGB [N, 3] (float32) at pixel positions [N].

        ``light_points`` are those of the four points on the light's rim that light the scene.
        """
        directions = self.camera.directions(columns, rows)
        # The four points turn from pixel to pixel, by an even and aperiodic sequence, so that the
        # rims of shadows do not fall into steps.
        phase = (np.floor(columns) * 0.7548776662 + np.floor(rows) * 0.5698402910) % 1
        phase = phase.astype(np.float32)
        eye = self.camera.position.astype(np.float32)
        n = len(directions)
        colour = np.empty((n, 3), np.float32)
        distance = np.full(n, np.inf, np.float32)
        if self.caster is not None:
            hits = self.caster.cast(eye, directions)
            distance = hits.distance

        to_ground, to_wall = self.stage.cast(eye, directions)
        stage = np.minimum(to_ground, to_wall)
        stage = np.where(distance < np.inf, np.inf, stage)  # meshes are in front of the stage

        on_object = np.flatnonzero(np.isfinite(distance))
        on_stage = np.flatnonzero(np.isfinite(stage))
        in_sky = np.flatnonzero(~np.isfinite(distance) & ~np.isfinite(stage))
        if len(on_object):
            toward = directions[on_object]
            points = eye + distance[on_object, None] * toward
            near_ground = np.clip(points[:, 2] / 0.25, 0, 1)
            open_share = 0.6 + 0.4 * near_ground * (2 - near_ground)
            colour[on_object] = self._light_meshes(
                hits, on_object, points, toward, open_share, light_points, phase[on_object]
            )
        if len(on_stage):
            wall = to_wall[on_stage] < to_ground[on_stage]
            points = eye + stage[on_stage, None] * directions[on_stage]
            normal = np.where(
                wall[:, None], np.array([*-self.stage.away, 0], np.float32), np.float32([0, 0, 1])
            )
            local = points.copy()
            if wall.any():  # the wall's own coordinates: along it, and up
                side = np.array([-self.stage.away[1], self.stage.away[0]], np.float32)
                along = points[wall, 0] * side[0] + points[wall, 1] * side[1]
                local[wall, 0], local[wall, 1] = along, 0
            open_share = np.where(wall, np.float32(0.9), self._open_ground(points))
            lit = self._light(
                points,
                local,
                wall.astype(np.int64),
                normal,
                directions[on_stage],
                open_share,
                light_points,
                phase[on_stage],
            )
            far = 0.0
            if self.surroundings.wall is None:  # haze towards the horizon
                far = np.clip((stage[on_stage] - 6) / 30, 0, 1)[:, None] ** np.float32(0.6)
            haze = linear(np.array(self.surroundings.horizon, np.float32))
            colour[on_stage] = lit + far * (haze - lit)
        if len(in_sky):
            colour[in_sky] = sky(directions[in_sky], self.surroundings)
        return colour

    def trace_meshes(self, columns: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the linear RGB [N, 3] of the objects alone and whether they are hit, bool [N].

        Positions are [N] in pixels; the colour is 0 where no object is hit.
        """
        directions = self.camera.directions(columns, rows)
        eye = self.camera.position.astype(np.float32)
        hits = self.caster.cast(eye, directions)
        hit = np.isfinite(hits.distance)
        at = np.flatnonzero(hit)
        colour = np.zeros((len(hit), 3), np.float32)
        if len(at):
            points = eye + hits.distance[at, None] * directions[at]
            full = np.ones(len(at), np.float32)
            colour[at] = self._light_meshes(
                hits, at, points, directions[at], full, (0, 1, 2, 3), np.zeros_like(full)
            )
        return colour, hit

    def _light_meshes(
        self,
        hits: Hits,
        at: np.ndarray,
        points: np.ndarray,
        directions: np.ndarray,
        open_share: np.ndarray,
        light_points: tuple[int, ...],
        phase: np.ndarray,
    ) -> np.ndarray:
        """Return the linear RGB of the hits at indices ``at``, which lie at ``points``."""
        face = self.face_start[hits.mesh[at]] + hits.face[at]
        u, v = hits.u[at], hits.v[at]
        return self._light(
            points,
            _interpolated(self.corner_points[face], u, v),
            self.material_of_face[face],
            _interpolated(self.corner_normals[face], u, v),
            directions,
            open_share,
            light_points,
            phase,
        )

    def _light(
        self,
        points: np.ndarray,
        local: np.ndarray,
        material: np.ndarray,
        normal: np.ndarray,
        directions: np.ndarray,
        open_share: np.ndarray,
        light_points: tuple[int, ...],
        phase: np.ndarray,
    ) -> np.ndarray:
        to_eye = -directions / np.sqrt(dot(directions, directions))[:, None]
        normal = normal / np.maximum(np.sqrt(dot(normal, normal)), 1e-9)[:, None]
        normal = np.where((dot(normal, to_eye) < 0)[:, None], -normal, normal)
        lit = self._lit(points, normal, light_points, phase)
        return light(
            self.surfaces.albedo(material, local),
            self.surfaces.gloss[material],
            normal,
            to_eye,
            lit,
            open_share.astype(np.float32),
            self.surroundings,
        )

    def _lit(
        self,
        points: np.ndarray,
        normal: np.ndarray,
        light_points: tuple[int, ...],
        phase: np.ndarray,
    ) -> np.ndarray:
        """Return the share [N] of ``light_points``, turned by ``phase`` quarters, that is seen."""
        lit = np.ones(len(points), np.float32)
        if not self.shadows or self.caster is None:
            return lit
        to_sun = np.array(self.surroundings.to_sun, np.float32)
        side = np.cross(to_sun, np.float32([0, 0, 1]))
        side *= np.float32(self.surroundings.softness) / np.sqrt(dot(side, side))
        over = np.cross(to_sun, side)
        facing = np.flatnonzero(dot(normal, to_sun) > 0)
        start = points[facing] + np.float32(2e-3) * normal[facing]
        blocked = np.zeros(len(facing), np.float32)
        turn = np.float32(np.pi / 2) * phase[facing, None]
        toward = np.cos(turn) * side + np.sin(turn) * over
        beside = np.cos(turn) * over - np.sin(turn) * side
        rim = (toward, beside, -toward, -beside)
        for k in light_points:
            blocked += self.caster.blocked(start, to_sun + rim[k])
        lit[facing] -= blocked / len(light_points)
        return lit

    def _open_ground(self, points: np.ndarray) -> np.ndarray:
        """Return the share of the sky that ground points [N] see, less around footprints."""
        share = np.ones(len(points), np.float32)
        for corners in self.footprints:
            centre = corners.mean(axis=0).astype(np.float32)
            axes = np.stack([corners[1] - corners[0], corners[3] - corners[0]]).astype(np.float32)
            half = np.sqrt((axes**2).sum(axis=1)) / 2
            axes /= 2 * half[:, None]
            x, y = points[:, 0] - centre[0], points[:, 1] - centre[1]
            near = np.flatnonzero(x * x + y * y < (half.sum() + 0.4) ** 2)
            x, y = x[near], y[near]
            dx = np.maximum(np.abs(x * axes[0, 0] + y * axes[0, 1]) - half[0], 0)
            dy = np.maximum(np.abs(x * axes[1, 0] + y * axes[1, 1]) - half[1], 0)
            share[near] *= 1 - 0.5 * np.exp(-np.sqrt(dx * dx + dy * dy) / np.float32(0.08))
        return share


def _interpolated(corners: np.ndarray, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Return the values [N, 3] at barycentric (u, v), interpolated from the corners' [N, 3, 3]."""
    w = 1 - u - v
    return corners[:, 0] * w[:, None] + corners[:, 1] * u[:, None] + corners[:, 2] * v[:, None]


def _world_normals(placed: PlacedShape) -> np.ndarray:
    turn = placed.pose[:3, :3] / np.cbrt(np.linalg.det(placed.pose[:3, :3]))
    return np.einsum("ij,fkj->fki", turn.astype(np.float32), placed.shape.corner_normals)
