"""Scenery: rocks, pillars and fences, which hide objects but are not annotated."""

from collections.abc import Callable

import numpy as np

from amodal_pipeline.scenes.shapes import (
    Material,
    Pattern,
    Shape,
    Surface,
    assemble,
    ball,
    box,
    cylinder,
)

_STONES = ((0.46, 0.44, 0.42), (0.58, 0.52, 0.45), (0.38, 0.41, 0.44))


def rock(rng: np.random.Generator) -> Shape:
    height, width = rng.uniform(0.5, 0.9), rng.uniform(0.55, 0.9)
    stone = ball(0.5, rows=14, segments=24)
    # A few dents and bulges of the ball; the lowest part lies under the ground.
    ways = rng.normal(size=(6, 3))
    ways /= np.linalg.norm(ways, axis=1, keepdims=True)
    toward = np.clip(np.einsum("vi,wi->vw", stone.vertices / 0.5, ways), 0, 1) ** 3
    bulge = 1 + np.einsum("vw,w->v", toward, rng.uniform(-0.3, 0.3, 6))
    points = stone.vertices * bulge[:, None] * (width, width * rng.uniform(0.6, 0.9), height * 1.3)
    points[:, 2] = np.maximum(points[:, 2] + 0.4 * height, 0)
    return assemble([(Surface(points, stone.faces), _stone(rng))])


def pillar(rng: np.random.Generator) -> Shape:
    height, radius = rng.uniform(1.2, 1.7), rng.uniform(0.1, 0.2)
    foot, head = 1.5 * radius, 1.35 * radius
    material = _stone(rng)
    shaft = cylinder(radius, 0.0, height, radius * rng.uniform(0.8, 1.0))
    base = box((2 * foot, 2 * foot, 0.12), (0, 0, 0))
    top = box((2 * head, 2 * head, 0.1), (0, 0, height))
    return assemble([(shaft, material), (base, material), (top, material)])


def fence(rng: np.random.Generator) -> Shape:
    length, height = rng.uniform(0.9, 1.4), rng.uniform(0.45, 0.75)
    slats = int(rng.integers(4, 8))
    colour = (0.72, 0.68, 0.6) if rng.uniform() < 0.5 else (0.45, 0.32, 0.22)
    wood = Material(colour, tuple(0.7 * c for c in colour), Pattern.WOOD, 18.0, gloss=0.1)
    wide = length / slats * rng.uniform(0.45, 0.65)
    at = (np.arange(slats) + 0.5) / slats * length - length / 2
    parts = [(box((wide, 0.03, height), (float(x), 0, 0)), wood) for x in at]
    parts += [(box((length, 0.03, 0.06), (0, 0.03, z * height)), wood) for z in (0.25, 0.75)]
    return assemble(parts)


def _stone(rng: np.random.Generator) -> Material:
    colour = _STONES[rng.integers(len(_STONES))]
    dark = tuple(0.65 * c for c in colour)
    return Material(colour, dark, Pattern.MARBLE, rng.uniform(3, 7), offset=rng.uniform(), gloss=0)


SCENERY: dict[str, Callable[[np.random.Generator], Shape]] = {
    "rock": rock,
    "pillar": pillar,
    "fence": fence,
}
