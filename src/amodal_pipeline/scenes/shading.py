"""Colour: surface patterns, the surroundings of a scene, and the light that points reflect.

Light is computed in linear RGB, float32, over flat arrays of points. Only element-wise operations
are used, because a BLAS product may round differently with the number of threads.
"""

import colorsys
from collections.abc import Callable, Sequence

import numpy as np
from pydantic import BaseModel, ConfigDict

from amodal_pipeline.scenes.shapes import Material, Pattern

Vector = tuple[float, float, float]


class Surroundings(BaseModel):
    """Ground, backdrop and light of a scene. Colours are sRGB in 0 to 1, lengths world units."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    ground: Material
    wall: Material | None
    """None for open sky."""
    wall_distance: float
    """Distance behind the farthest object or the world's origin, along the camera's view."""
    horizon: Vector
    zenith: Vector
    to_sun: Vector
    """Unit vector towards the light."""
    sun: Vector
    """Radiance of the light, linear RGB."""
    ambient: float
    softness: float
    """Radius of the light as seen from the ground, radians (small)."""


def sample_surroundings(rng: np.random.Generator, azimuth: float) -> Surroundings:
    """Return random surroundings for a camera at ``azimuth`` degrees, never lit from behind it."""
    turn = np.radians(azimuth + rng.choice([-1, 1]) * rng.uniform(25, 140))
    height = np.radians(rng.uniform(32, 68))
    warmth = rng.uniform(-0.06, 0.12)
    strength = rng.uniform(1.0, 1.4)
    hue = rng.uniform()
    if rng.uniform() < 0.45:
        wall = _wall(rng)
        horizon = zenith = colorsys.hsv_to_rgb(hue, 0.15, 0.8)
    else:
        wall = None
        if rng.uniform() < 0.6:
            horizon = colorsys.hsv_to_rgb(rng.uniform(0.02, 0.15), rng.uniform(0.1, 0.4), 0.92)
            zenith = colorsys.hsv_to_rgb(rng.uniform(0.53, 0.66), rng.uniform(0.4, 0.75), 0.75)
        else:
            horizon = colorsys.hsv_to_rgb(hue, rng.uniform(0.1, 0.3), rng.uniform(0.5, 0.85))
            zenith = colorsys.hsv_to_rgb(hue, rng.uniform(0.3, 0.6), rng.uniform(0.25, 0.5))
    return Surroundings(
        ground=_ground(rng, wall is not None),
        wall=wall,
        wall_distance=rng.uniform(0.3, 1.2),
        horizon=horizon,
        zenith=zenith,
        to_sun=(
            float(np.cos(turn) * np.cos(height)),
            float(np.sin(turn) * np.cos(height)),
            float(np.sin(height)),
        ),
        sun=(strength * (1 + warmth), strength, strength * (1 - warmth)),
        ambient=rng.uniform(0.36, 0.54),
        softness=rng.uniform(0.01, 0.04),
    )


def _wall(rng: np.random.Generator) -> Material:
    hue, value = rng.uniform(), rng.uniform(0.4, 0.85)
    colour = colorsys.hsv_to_rgb(hue, rng.uniform(0.1, 0.5), value)
    near = (hue + rng.uniform(-0.1, 0.1)) % 1
    second = colorsys.hsv_to_rgb(near, rng.uniform(0.1, 0.5), value * 0.8)
    kind = rng.choice(
        [Pattern.PLAIN, Pattern.STRIPES, Pattern.DOTS, Pattern.BRICKS, Pattern.MARBLE]
    )
    return Material(colour, second, Pattern(kind), rng.uniform(2, 6), _level(rng), gloss=0.0)


def _ground(rng: np.random.Generator, indoors: bool) -> Material:
    kinds = [Pattern.PLANKS, Pattern.TILES, Pattern.CHECKS, Pattern.MARBLE, Pattern.STRIPES]
    kind = Pattern(rng.choice(kinds if indoors else [Pattern.MARBLE, *kinds[1:4]]))
    hue, saturation, value = rng.uniform(), rng.uniform(0.08, 0.45), rng.uniform(0.4, 0.85)
    if kind == Pattern.PLANKS:
        hue, saturation = rng.uniform(0.05, 0.11), rng.uniform(0.35, 0.65)
    elif not indoors and rng.uniform() < 0.6:  # grass or sand
        hue, saturation = rng.uniform(0.1, 0.33), rng.uniform(0.3, 0.55)
    colour = colorsys.hsv_to_rgb(hue, saturation, value)
    second = colorsys.hsv_to_rgb(hue, saturation * 0.9, value * rng.uniform(0.6, 0.82))
    frequency = {
        Pattern.PLANKS: rng.uniform(3, 6),
        Pattern.TILES: rng.uniform(1, 2.5),
        Pattern.CHECKS: rng.uniform(1, 2.5),
        Pattern.MARBLE: rng.uniform(2, 9),
        Pattern.STRIPES: rng.uniform(1.5, 4),
    }[kind]
    return Material(colour, second, kind, frequency, _level(rng), gloss=0.0)


def _level(rng: np.random.Generator) -> Vector:
    turn = rng.uniform(0, 2 * np.pi)
    return float(np.cos(turn)), float(np.sin(turn)), 0.0


class Surfaces:
    """The materials of a scene as arrays, to evaluate at many points at once."""

    def __init__(self, materials: Sequence[Material]):
        self._colour = linear(np.array([m.colour for m in materials], np.float32))
        self._second = linear(np.array([m.second for m in materials], np.float32))
        self._pattern = np.array([m.pattern for m in materials])
        self._frequency = np.array([m.frequency for m in materials], np.float32)
        self._direction = np.array([m.direction for m in materials], np.float32)
        self._offset = np.array([m.offset for m in materials], np.float32)
        self.gloss = np.array([m.gloss for m in materials], np.float32)

    def albedo(self, material: np.ndarray, points: np.ndarray) -> np.ndarray:
        """Return the linear RGB [N, 3] of ``material`` [N] at ``points`` [N, 3] of the object."""
        mix = np.zeros(len(points), np.float32)
        pattern = self._pattern[material]
        for kind, rule in _RULES.items():
            rows = np.flatnonzero(pattern == kind)
            if len(rows):
                m = material[rows]
                args = self._frequency[m], self._direction[m], self._offset[m]
                mix[rows] = rule(points[rows], *args)
        colour, second = self._colour[material], self._second[material]
        grain = 1 + 0.05 * _noise(points * np.float32(9), 1)
        return (colour + mix[:, None] * (second - colour)) * grain[:, None]


def light(
    albedo: np.ndarray,
    gloss: np.ndarray,
    normal: np.ndarray,
    to_eye: np.ndarray,
    lit: np.ndarray,
    open_share: np.ndarray,
    surroundings: Surroundings,
) -> np.ndarray:
    """Return the linear RGB [N, 3] reflected towards the eye, by Lambert plus Blinn and Phong.

    Args:
        albedo: [N, 3]; gloss: [N], 0 matt to 1 polished.
        normal, to_eye: unit vectors [N, 3], on the same side.
        lit: [N], share of the light that is not shadowed.
        open_share: [N], share of the sky that is not hidden by near objects.
    """
    to_sun = np.array(surroundings.to_sun, np.float32)
    sun = np.array(surroundings.sun, np.float32)
    sky = linear(np.array(surroundings.zenith, np.float32)) * 0.35 + 0.65
    bounce = linear(np.array(surroundings.ground.colour, np.float32)) * 0.6 + 0.25
    facing = np.maximum(dot(normal, to_sun), 0) * lit
    up = (0.5 + 0.5 * normal[:, 2])[:, None]
    ambient = (
        np.float32(surroundings.ambient) * open_share[:, None] * (up * sky + (1 - up) * bounce)
    )
    half = to_eye + to_sun
    half /= np.sqrt(dot(half, half))[:, None]
    edge = np.maximum(dot(normal, half), 0)
    shine = gloss * lit * (0.5 * edge ** (10 + 70 * gloss)) * (facing > 0)
    # A polished surface mirrors the sky at grazing angles.
    grazing = gloss * 0.25 * (1 - np.clip(dot(normal, to_eye), 0, 1)) ** 4 * open_share
    return (
        albedo * (ambient + facing[:, None] * sun) + shine[:, None] * sun + grazing[:, None] * sky
    )


def sky(directions: np.ndarray, surroundings: Surroundings) -> np.ndarray:
    """Return the linear RGB [N, 3] of the sky in ``directions`` [N, 3]."""
    length = np.sqrt(dot(directions, directions))
    unit = directions / length[:, None]
    height = np.clip(unit[:, 2] * 1.6, 0, 1)
    horizon = linear(np.array(surroundings.horizon, np.float32))
    zenith = linear(np.array(surroundings.zenith, np.float32))
    clouds = np.clip(_noise(unit * np.array([5, 5, 16], np.float32), 3) - 0.1, 0, 1) * 0.5
    clear = horizon + np.sqrt(height)[:, None] * (zenith - horizon)
    return clear + (clouds * np.minimum(height * 4, 1))[:, None] * (1 - clear) * 0.6


def linear(colour: np.ndarray) -> np.ndarray:
    """Return sRGB as linear light, by the power law 2.2."""
    return np.maximum(colour, 0) ** np.float32(2.2)


def to_bytes(light: np.ndarray) -> np.ndarray:
    """Return linear light as sRGB bytes, with highlights compressed rather than clipped."""
    knee = np.float32(0.6)
    over = np.maximum(light - knee, 0)
    rolled = np.minimum(light, knee) + (1 - knee) * (1 - np.exp(-over / (1 - knee)))
    return np.round(255 * np.maximum(rolled, 0) ** np.float32(1 / 2.2)).astype(np.uint8)


def dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return dot products over a last axis of three, without BLAS."""
    return a[..., 0] * b[..., 0] + a[..., 1] * b[..., 1] + a[..., 2] * b[..., 2]


_TURN = np.linalg.qr(np.array([[0.36, 0.48, -0.8], [-0.8, 0.6, 0.1], [0.48, 0.64, 0.6]]))[0]


def _noise(points: np.ndarray, octaves: int) -> np.ndarray:
    """Return smooth noise in about −1 to 1: octaves of gyroids, turned against one another."""
    p = points.astype(np.float32)
    total, weight = np.zeros(len(p), np.float32), np.float32(0.6)
    for _ in range(octaves):
        s, c = np.sin(p), np.cos(p)
        total += weight * (s[:, 0] * c[:, 1] + s[:, 1] * c[:, 2] + s[:, 2] * c[:, 0])
        x, y, z = p[:, 0], p[:, 1], p[:, 2]
        p = np.stack([x * t[0] + y * t[1] + z * t[2] for t in _TURN.astype(np.float32)], axis=1)
        p = p * np.float32(1.93) + np.float32(1.7) * total[:, None]
        weight *= np.float32(0.55)
    return total


def _step(wave: np.ndarray, width: float = 0.12) -> np.ndarray:
    """Return 0 below and 1 above zero, with a soft edge."""
    return np.clip(wave / width + 0.5, 0, 1)


def _stripes(p, frequency, direction, offset):
    return _step(np.sin(2 * np.pi * (dot(p, direction) * frequency + offset)), 0.25)


def _checks(p, frequency, direction, offset):
    # Shifted, so that the planes through the base and the axis lie inside a cell.
    s = np.sin(np.pi * (p * frequency[:, None] + np.array([0.5, 0.5, 0.31], np.float32)))
    return _step(s[:, 0] * s[:, 1] * s[:, 2], 0.12)


def _sectors(p, frequency, direction, offset):
    return _step(np.sin(np.arctan2(p[:, 1], p[:, 0]) * frequency), 0.25)


def _marble(p, frequency, direction, offset):
    q = p * frequency[:, None]
    return np.clip(0.5 + 0.55 * _noise(q + 7 * offset[:, None], 4), 0, 1)


def _wood(p, frequency, direction, offset):
    along = dot(p, direction)[:, None] * direction
    q = (p - along) + 0.12 * along
    rings = np.sin(
        frequency * 2 * (q[:, 0] + 1.3 * q[:, 1] + 0.9 * q[:, 2]) + 2 * _noise(q * 14, 2)
    )
    return 0.5 + 0.35 * rings


def _dots(p, frequency, direction, offset):
    q = p * frequency[:, None] + offset[:, None]
    cell = q - np.floor(q) - 0.5
    return _step(0.42**2 - dot(cell, cell), 0.06)


def _band(p, frequency, direction, offset):
    inside = (p[:, 2] - offset) * frequency
    return _step(np.minimum(inside, 1 - inside), 0.04)


def _bricks(p, frequency, direction, offset):
    row = p[:, 2] * frequency
    column = (p[:, 0] + p[:, 1]) * frequency * 0.45 + 0.5 * np.floor(row)
    joint = np.minimum(_to_joint(row), _to_joint(column) / 0.45)
    return 1 - _step(joint - 0.1, 0.08)


def _tiles(p, frequency, direction, offset):
    q = p[:, :2] * frequency[:, None]
    joint = np.minimum(_to_joint(q[:, 0]), _to_joint(q[:, 1]))
    return np.clip(
        1 - _step(joint - 0.03, 0.03) + 0.4 * _own(np.floor(q[:, 0]), np.floor(q[:, 1])), 0, 1
    )


def _planks(p, frequency, direction, offset):
    row = p[:, 1] * frequency
    shift = _own(np.floor(row), np.floor(row))
    column = p[:, 0] * 0.7 + 3 * shift
    joint = np.minimum(_to_joint(row) / frequency, _to_joint(column) / 0.7)
    tone = _own(np.floor(row), np.floor(column))
    fibre = _noise(p * np.array([2.5, 30, 1], np.float32) + 9 * tone[:, None], 2)
    return np.clip(1.3 * (1 - _step(joint - 0.008, 0.008)) + 0.5 * tone + 0.3 * fibre, 0, 1.3)


def _to_joint(x: np.ndarray) -> np.ndarray:
    cell = x - np.floor(x)
    return np.minimum(cell, 1 - cell)


def _own(row: np.ndarray, column: np.ndarray) -> np.ndarray:
    """Return a pseudorandom number in 0 to 1 per cell."""
    mixed = np.sin(row * np.float32(12.9898) + column * np.float32(78.233)) * np.float32(437.58)
    return mixed - np.floor(mixed)


Rule = Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray], np.ndarray]
_RULES: dict[Pattern, Rule] = {
    Pattern.STRIPES: _stripes,
    Pattern.CHECKS: _checks,
    Pattern.SECTORS: _sectors,
    Pattern.MARBLE: _marble,
    Pattern.WOOD: _wood,
    Pattern.DOTS: _dots,
    Pattern.BAND: _band,
    Pattern.BRICKS: _bricks,
    Pattern.TILES: _tiles,
    Pattern.PLANKS: _planks,
}
