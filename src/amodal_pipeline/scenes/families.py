"""The parametric mesh families: one function per category, a new individual per generator.

Lengths are toy units: objects are about 0.3 to 1.3 high. Each function draws its proportions, its
parts and its surfaces from ``rng`` and returns a :class:`Shape` that stands on z = 0 and faces +x.
"""

import colorsys
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
    cushion,
    cylinder,
    hull_along_x,
    joined,
    lathe,
    loft,
    smooth,
    tube,
)

Colour = tuple[float, float, float]

_WOODS = ((0.72, 0.50, 0.30), (0.55, 0.34, 0.18), (0.84, 0.68, 0.46), (0.38, 0.22, 0.13))
_METALS = ((0.72, 0.73, 0.75), (0.45, 0.46, 0.50), (0.80, 0.66, 0.35), (0.75, 0.50, 0.38))
_PALE = ((0.93, 0.91, 0.86), (0.88, 0.90, 0.93), (0.95, 0.88, 0.78))


def _vivid(rng: np.random.Generator) -> Colour:
    hue, saturation, value = rng.uniform(), rng.uniform(0.5, 0.9), rng.uniform(0.5, 0.92)
    return colorsys.hsv_to_rgb(hue, saturation, value)


def _shade(colour: Colour, factor: float) -> Colour:
    return tuple(float(np.clip(c * factor, 0, 1)) for c in colour)


def _pick(rng: np.random.Generator, options: tuple) -> tuple | str:
    return options[rng.integers(len(options))]


def _wood(rng: np.random.Generator, along: int = 0) -> Material:
    colour = _pick(rng, _WOODS)
    direction = tuple(float(axis == along) for axis in range(3))
    return Material(
        colour, _shade(colour, 0.6), Pattern.WOOD, rng.uniform(14, 26), direction, gloss=0.15
    )


def _metal(rng: np.random.Generator) -> Material:
    return Material(_pick(rng, _METALS), gloss=0.9)


def _paint(rng: np.random.Generator, gloss: float = 0.4) -> Material:
    return Material(_vivid(rng), gloss=gloss)


def _decorated(rng: np.random.Generator, height: float, gloss: float = 0.6) -> Material:
    """Return a material for crockery or cloth: one colour, or a pattern sized to ``height``."""
    first = _vivid(rng) if rng.uniform() < 0.65 else _pick(rng, _PALE)
    second = _vivid(rng) if rng.uniform() < 0.6 else _pick(rng, _PALE)
    pattern = Pattern(
        rng.choice(
            [
                Pattern.PLAIN,
                Pattern.STRIPES,
                Pattern.CHECKS,
                Pattern.SECTORS,
                Pattern.MARBLE,
                Pattern.DOTS,
                Pattern.BAND,
            ]
        )
    )
    frequency = {
        Pattern.STRIPES: rng.uniform(2.5, 6) / height,
        Pattern.CHECKS: rng.uniform(3, 6) / height,
        Pattern.SECTORS: float(rng.integers(4, 11)),
        Pattern.MARBLE: rng.uniform(3, 6) / height,
        Pattern.DOTS: rng.uniform(4, 7) / height,
        Pattern.BAND: 1 / (rng.uniform(0.2, 0.4) * height),
    }.get(pattern, 1.0)
    offset = rng.uniform(0.25, 0.5) * height if pattern == Pattern.BAND else rng.uniform()
    return Material(first, second, pattern, frequency, offset=offset, gloss=gloss)


def _handle(rng: np.random.Generator, reach: float, low: float, high: float, out: float) -> Surface:
    """Return a bent tube between two heights; it leaves radius ``reach`` by ``out`` towards +x."""
    kind = rng.integers(3)
    tip = reach + out
    middle = (low + high) / 2
    paths = (
        [(reach, low), (tip, low), (tip, middle), (tip, high), (reach, high)],
        [(reach, low), (reach + 0.6 * out, low), (tip, middle), (tip, high), (reach, high)],
        [(reach, low), (tip, middle), (reach, high)],
    )
    curve = smooth(paths[kind])
    path = np.stack([curve[:, 0], np.zeros(len(curve)), curve[:, 1]], axis=1)
    return tube(path, rng.uniform(0.1, 0.16) * (high - low), (0, 1, 0))


def _vessel(outside: np.ndarray, wall: float) -> np.ndarray:
    """Return an outside profile (bottom to rim) followed by its inside, down to the axis."""
    inside = outside[::-1] - np.array([wall, 0])
    inside = inside[(inside[:, 1] > wall) & (inside[:, 0] > 0)]
    return np.concatenate([[(0, outside[0, 1])], outside, inside, [(0, inside[-1, 1])]])


def bottle(rng: np.random.Generator) -> Shape:
    height, radius = rng.uniform(0.75, 1.1), rng.uniform(0.12, 0.2)
    neck, shoulder = radius * rng.uniform(0.3, 0.45), height * rng.uniform(0.5, 0.72)
    neck_at = min(shoulder + radius * rng.uniform(0.8, 1.8), 0.88 * height)
    waist = radius * (rng.uniform(0.75, 0.9) if rng.uniform() < 0.4 else 1.0)
    side = smooth(
        [
            (radius * 0.9, 0.0),
            (radius, 0.04),
            (waist, 0.45 * shoulder),
            (radius, shoulder),
            (neck, neck_at),
            (neck, height),
        ]
    )
    glass = Material(_vivid(rng), gloss=1.0)
    if rng.uniform() < 0.75:
        label = _pick(rng, _PALE) if rng.uniform() < 0.5 else _vivid(rng)
        low, size = rng.uniform(0.2, 0.35) * shoulder, rng.uniform(0.4, 0.6) * shoulder
        glass = Material(glass.colour, label, Pattern.BAND, 1 / size, offset=low, gloss=0.8)
    parts = [(lathe([(0, 0), *side, (0, height)]), glass)]
    if rng.uniform() < 0.8:
        cap = neck * rng.uniform(1.1, 1.5)
        parts.append((cylinder(cap, height - 0.03, height + rng.uniform(0.03, 0.1)), _paint(rng)))
    return assemble(parts)


def bowl(rng: np.random.Generator) -> Shape:
    height, radius = rng.uniform(0.22, 0.4), rng.uniform(0.3, 0.48)
    foot = radius * rng.uniform(0.35, 0.6)
    belly = radius * rng.uniform(0.75, 1.15)
    side = smooth(
        [
            (foot, 0.0),
            (foot, 0.04),
            (belly, height * rng.uniform(0.2, 0.5)),
            (radius * rng.uniform(0.95, 1.05), height * 0.8),
            (radius, height),
        ],
        3,
    )
    material = _decorated(rng, height)
    parts = [(lathe(_vessel(side, 0.025), 36), material)]
    if rng.uniform() < 0.4:
        fill = height * rng.uniform(0.6, 0.8)
        reach = float(np.interp(fill, side[:, 1], side[:, 0])) - 0.02
        mound = smooth([(reach, fill), (reach * 0.6, fill + 0.06), (0, fill + 0.08)])
        colour = _vivid(rng)
        soup = Material(colour, _shade(colour, 0.6), Pattern.MARBLE, 12, gloss=0.3)
        parts.append((lathe(mound, 36), soup))
    return assemble(parts)


def mug(rng: np.random.Generator) -> Shape:
    height, radius = rng.uniform(0.34, 0.52), rng.uniform(0.17, 0.25)
    top, belly = radius * rng.uniform(0.85, 1.2), radius * rng.uniform(0.85, 1.2)
    side = smooth([(radius * 0.9, 0), (radius, 0.03), (belly, height / 2), (top, height)], 2)
    material = _decorated(rng, height)
    handle = _handle(
        rng,
        min(radius, top, belly) * 0.93,
        height * rng.uniform(0.15, 0.3),
        height * rng.uniform(0.7, 0.85),
        rng.uniform(0.12, 0.2),
    )
    same = Material(material.colour, gloss=material.gloss)
    drink = cylinder(min(radius, top, belly) * 0.9, height * 0.5, height * rng.uniform(0.75, 0.88))
    return assemble(
        [
            (lathe(_vessel(side, 0.022)), material),
            (handle, same if rng.uniform() < 0.7 else _paint(rng)),
            (drink, Material((0.25, 0.13, 0.06), gloss=0.7)),
        ]
    )


def vase(rng: np.random.Generator) -> Shape:
    height, wide = rng.uniform(0.6, 1.0), rng.uniform(0.17, 0.3)
    places = np.sort(rng.uniform(0.15, 0.85, 3))
    radii = wide * np.array([rng.uniform(0.6, 1.0), 1.0, rng.uniform(0.3, 0.55)])
    if rng.uniform() < 0.35:
        radii = radii[[0, 2, 1]]
    foot, rim = wide * rng.uniform(0.45, 0.75), wide * rng.uniform(0.4, 0.9)
    control = [(foot, 0.0), *zip(radii, places * height, strict=True), (rim, height)]
    side = smooth(control)
    segments = int(_pick(rng, (6, 8, 32, 32, 32)))
    material = _decorated(rng, height, gloss=0.8)
    parts = [(lathe(_vessel(side, 0.02), segments), material)]
    if rng.uniform() < 0.45:
        stems, heads = [], []
        for angle in rng.uniform(0, 2 * np.pi, rng.integers(2, 6)):
            lean, tall = rng.uniform(0.05, 0.22), rng.uniform(0.12, 0.35)
            foot_at = np.array([0, 0, 0.5 * height])
            tip = np.array([lean * np.cos(angle), lean * np.sin(angle), height + tall])
            bend = np.array([0.02 * np.cos(angle), 0.02 * np.sin(angle), height])
            stems.append(
                tube(smooth([foot_at, bend, tip]), 0.01, (np.sin(angle), -np.cos(angle), 0))
            )
            heads.append(ball(rng.uniform(0.05, 0.09), 0.7, 7, 10).moved(*tip))
        parts.append((joined(stems), Material((0.25, 0.48, 0.2))))
        parts.append((joined(heads), _paint(rng, 0.1)))
    return assemble(parts)


def teapot(rng: np.random.Generator) -> Shape:
    height, radius = rng.uniform(0.32, 0.5), rng.uniform(0.24, 0.33)
    foot, mouth = radius * rng.uniform(0.5, 0.8), radius * rng.uniform(0.35, 0.6)
    bulge = height * rng.uniform(0.3, 0.6)
    side = smooth([(foot, 0), (radius, bulge * 0.6), (radius, bulge * 1.4), (mouth, height)])
    material = _decorated(rng, height)
    plain = Material(material.colour, gloss=0.6)
    start, rise = 0.8 * radius, rng.uniform(0.75, 1.05) * height
    out = radius + rng.uniform(0.2, 0.32)
    spout = smooth(
        [
            (-start, 0, 0.3 * height),
            (-out, 0, 0.35 * height),
            (-out * 0.9, 0, rise),
            (-out, 0, rise),
        ]
    )
    lid = smooth([(mouth * 1.02, height - 0.01), (mouth * 0.9, height + 0.05), (0, height + 0.08)])
    if rng.uniform() < 0.65:
        handle = _handle(rng, radius * 0.7, 0.25 * height, 0.9 * height, radius * 0.3 + 0.16)
    else:  # an arch over the lid, from spout to back
        arch = np.linspace(0, np.pi, 17)
        path = np.stack([np.cos(arch) * radius * 0.75, 0 * arch, np.sin(arch) * 0.32], axis=1)
        handle = tube(path, 0.02, (0, 1, 0)).moved(z=0.78 * height)
    return assemble(
        [
            (lathe([(0, 0), *side, (0, height)], 32), material),
            (tube(spout, np.linspace(0.075, 0.032, len(spout)), (0, 1, 0)), plain),
            (handle, plain if rng.uniform() < 0.5 else _wood(rng, 2)),
            (lathe(lid, 32), plain if rng.uniform() < 0.5 else _paint(rng)),
            (ball(rng.uniform(0.03, 0.05)).moved(z=height + 0.1), _metal(rng)),
        ]
    )


def lamp(rng: np.random.Generator) -> Shape:
    height = rng.uniform(0.75, 1.25)
    stem = height * rng.uniform(0.5, 0.65)
    base, metal = rng.uniform(0.14, 0.22), _metal(rng)
    parts: list[tuple[Surface, Material]] = []
    if rng.uniform() < 0.5:
        parts.append((cylinder(base, 0, 0.04, base * 0.9), metal))
        parts.append((cylinder(rng.uniform(0.015, 0.03), 0.03, stem + 0.05), metal))
    else:  # a turned foot
        widths = base * rng.uniform(0.3, 1.0, 3)
        foot = [(base, 0), (base * 0.8, 0.06)]
        foot += [(w, stem * f) for w, f in zip(widths, (0.3, 0.55, 0.75), strict=True)]
        foot += [(0.025, 0.95 * stem), (0.025, stem + 0.05)]
        foot = [(0, 0), *smooth(foot), (0, stem + 0.05)]
        parts.append((lathe(foot), _decorated(rng, stem)))
    wide = rng.uniform(0.22, 0.34)
    narrow, sides = wide * rng.uniform(0.4, 1.0), int(_pick(rng, (4, 6, 32, 32)))
    shade = [(wide, stem), (narrow, height), (narrow - 0.015, height), (wide - 0.015, stem)]
    cloth = _decorated(rng, height - stem, gloss=0.0)
    parts.append((lathe(shade, sides).turned(2, 45), cloth))
    parts.append((ball(0.06).moved(z=stem + 0.08), Material((1.0, 0.96, 0.8), gloss=0.2)))
    return assemble(parts)


def chair(rng: np.random.Generator) -> Shape:
    width, depth = rng.uniform(0.4, 0.55), rng.uniform(0.4, 0.52)
    seat, back = rng.uniform(0.38, 0.5), rng.uniform(0.4, 0.65)
    wood = _wood(rng, 2) if rng.uniform() < 0.6 else _paint(rng)
    cloth = _decorated(rng, 0.5, 0.05)
    thick = rng.uniform(0.035, 0.06)
    x, y = depth / 2 - thick / 2, width / 2 - thick / 2
    frame: list[Surface] = []
    if rng.uniform() < 0.75:
        legs = [(x, y), (x, -y), (-x, y), (-x, -y)]
        if rng.uniform() < 0.5:
            frame += [box((thick, thick, seat), (a, b, 0)) for a, b in legs]
        else:
            spread = rng.uniform(1.0, 1.2)
            for a, b in legs:
                path = np.array([(a * spread, b * spread, 0), (a * 0.8, b * 0.8, seat)])
                frame.append(tube(path, np.array([0.4, 0.6]) * thick, (0, 1, 0)))
    else:  # one foot
        frame += [cylinder(depth * 0.45, 0, 0.03), cylinder(thick * 0.7, 0.02, seat)]
    tilt, rear = rng.uniform(4, 14), -x
    style = rng.integers(3)
    upright: list[Surface] = []
    if style == 0:  # a board
        upright.append(cushion((thick, width, back * 0.55), (0, 0, back * 0.45), 0.3))
        upright += [box((thick, thick, back * 0.6), (0, s * y * 0.8, 0)) for s in (-1, 1)]
    elif style == 1:  # slats between posts
        upright += [box((thick, thick, back), (0, s * y, 0)) for s in (-1, 1)]
        for at in np.linspace(0.3, 0.85, rng.integers(2, 5)):
            upright.append(box((thick * 0.6, width, back * 0.1), (0, 0, back * at)))
    else:  # one shell from the seat up
        upright.append(cushion((thick * 1.2, width, back), (0, 0, 0), 0.5))
    upright = [s.turned(1, -tilt).moved(rear, 0, seat) for s in upright]
    parts = [
        (joined(frame), wood),
        (joined(upright), cloth if style == 2 else wood),
        (cushion((depth, width, thick * rng.uniform(1, 2)), (0, 0, seat - 0.01), 0.3), cloth),
    ]
    if rng.uniform() < 0.3:
        rest = seat + rng.uniform(0.16, 0.22)
        arms = [box((depth, thick, thick * 0.7), (0, s * y, rest)) for s in (-1, 1)]
        arms += [box((thick, thick, rest - seat), (x, s * y, seat)) for s in (-1, 1)]
        parts.append((joined(arms), wood))
    return assemble(parts)


def table(rng: np.random.Generator) -> Shape:
    length, width = rng.uniform(0.6, 1.15), rng.uniform(0.5, 0.7)
    height, thick = rng.uniform(0.35, 0.6), rng.uniform(0.03, 0.06)
    top_material = _wood(rng) if rng.uniform() < 0.6 else _decorated(rng, 0.6, 0.4)
    leg_material = _wood(rng, 2) if rng.uniform() < 0.6 else _metal(rng)
    if rng.uniform() < 0.35:  # round, on one foot
        radius = length / 2
        profile = [(0.3 * radius, 0), (0.05, 0.08), (0.06, 0.6 * height), (0.12, height)]
        rim = [(0, height), (radius, height), (radius, height + thick), (0, height + thick)]
        foot = lathe([(0, 0), (0.45 * radius, 0), *smooth(profile), (0, height)])
        return assemble([(lathe(rim, 40), top_material), (foot, leg_material)])
    leg = rng.uniform(0.035, 0.07)
    x, y = length / 2 - leg, width / 2 - leg
    legs = [box((leg, leg, height), (a, b, 0), 1.0) for a in (-x, x) for b in (-y, y)]
    if rng.uniform() < 0.5:
        legs += [box((2 * x, 0.02, 0.08), (0, b, height - 0.08)) for b in (-y, y)]
        legs += [box((0.02, 2 * y, 0.08), (a, 0, height - 0.08)) for a in (-x, x)]
    parts = [
        (box((length, width, thick), (0, 0, height)), top_material),
        (joined(legs), leg_material),
    ]
    if rng.uniform() < 0.4:
        shelf = box((length - leg, width - leg, 0.025), (0, 0, height * rng.uniform(0.2, 0.4)))
        parts.append((shelf, top_material))
    return assemble(parts)


def sofa(rng: np.random.Generator) -> Shape:
    seats = int(rng.integers(1, 4))
    place, depth = rng.uniform(0.36, 0.44), rng.uniform(0.42, 0.52)
    arm, seat, back = rng.uniform(0.07, 0.14), rng.uniform(0.2, 0.27), rng.uniform(0.48, 0.65)
    width = seats * place + 2 * arm
    roundness = rng.uniform(0.15, 0.5)
    cloth = _decorated(rng, 0.6, 0.0) if rng.uniform() < 0.5 else _paint(rng, 0.05)
    body = [
        cushion((depth, width, seat * 0.8), (0, 0, 0.05), 0.15),
        cushion((arm * 1.2, width, back), (-depth / 2, 0, 0.05), roundness),
    ]
    rest = seat + rng.uniform(0.08, 0.18)
    for side in (-1, 1):
        at = (0, side * (width - arm) / 2, 0.05)
        body.append(cushion((depth * 1.05, arm, rest), at, roundness))
    across = (np.arange(seats) - (seats - 1) / 2) * place
    soft = [cushion((depth * 0.9, place, 0.12), (0.03, y, seat * 0.8), 0.35) for y in across]
    soft += [
        cushion((0.13, place * 0.96, (back - seat) * 0.9), (-depth * 0.36, y, seat), 0.45)
        for y in across
    ]
    feet = [
        cylinder(0.025, 0, 0.07).moved(a * (depth / 2 - 0.05), b * (width / 2 - 0.06))
        for a in (-1, 1)
        for b in (-1, 1)
    ]
    second = cloth if rng.uniform() < 0.5 else Material(_shade(cloth.colour, 1.25), gloss=0.0)
    return assemble([(joined(body), cloth), (joined(soft), second), (joined(feet), _wood(rng, 2))])


def car(rng: np.random.Generator) -> Shape:
    length, width = rng.uniform(0.85, 1.15), rng.uniform(0.4, 0.48)
    wheel = rng.uniform(0.085, 0.115)
    belt, clear = wheel + rng.uniform(0.13, 0.18), wheel * 0.6
    roof = belt + rng.uniform(0.13, 0.24)
    kind = _pick(rng, ("saloon", "hatch", "van", "pickup"))
    front, rear = length / 2, -length / 2
    hood = rng.uniform(0.75, 0.92) * belt
    cabin_start, cabin_end = {
        "saloon": (0.18, -0.34),
        "hatch": (0.2, -0.47),
        "van": (0.36, -0.48),
        "pickup": (0.18, -0.1),
    }[kind]
    x = [rear, rear + 0.04, cabin_end * length, cabin_start * length, front - 0.05, front]
    trunk = belt if kind != "saloon" else rng.uniform(0.9, 1.0) * belt
    high = [trunk * 0.85, trunk, belt, belt, hood, hood * 0.75]
    low = [clear + 0.03, clear, clear, clear, clear, clear + 0.03]
    wide = [width * 0.88, width * 0.97, width, width, width * 0.95, width * 0.82]
    paint = _paint(rng, 0.9)
    start, end = cabin_start * length, cabin_end * length
    slope, tail = (
        rng.uniform(0.1, 0.2),
        0.03 if kind in ("van", "pickup") else rng.uniform(0.05, 0.14),
    )
    gx = [end, end + tail, start - slope, start]
    glass = hull_along_x(
        gx,
        [belt - 0.05] * 4,
        [belt, roof - 0.02, roof - 0.02, belt],
        [width * 0.94] * 4,
        0.3,
        0.78,
    )
    top = hull_along_x(
        [gx[1] - 0.01, gx[1] + 0.01, gx[2] - 0.01, gx[2] + 0.01],
        [roof - 0.03] * 4,
        [roof - 0.01, roof, roof, roof - 0.01],
        [width * 0.76] * 4,
        0.4,
    )
    axles = (rear + length * rng.uniform(0.17, 0.22), front - length * rng.uniform(0.16, 0.22))
    disc = cylinder(wheel, -0.04, 0.04).turned(0, 90)
    hub = cylinder(wheel * 0.55, -0.046, 0.046).turned(0, 90)
    places = [(a, s * (width / 2 - 0.03), wheel) for a in axles for s in (-1, 1)]
    lamps = [
        ball(0.035).scaled(0.5).moved(front - 0.02, s * width * 0.32, hood * 0.75) for s in (-1, 1)
    ]
    tails = [box((0.02, 0.07, 0.04), (rear + 0.01, s * width * 0.32, trunk * 0.7)) for s in (-1, 1)]
    parts = [
        (hull_along_x(x, low, high, wide, 0.35), paint),
        (glass, Material((0.12, 0.16, 0.22), gloss=1.0)),
        (top, paint if rng.uniform() < 0.7 else _paint(rng, 0.9)),
        (joined(disc.moved(*p) for p in places), Material((0.07, 0.07, 0.08), gloss=0.1)),
        (joined(hub.moved(*p) for p in places), _metal(rng)),
        (joined(lamps), Material((1.0, 0.97, 0.85), gloss=0.8)),
        (joined(tails), Material((0.7, 0.06, 0.05), gloss=0.6)),
    ]
    if kind == "pickup":
        bed = (end - rear) * 0.9
        load = box((bed, width * 0.8, 0.09), ((rear + end) / 2, 0, belt - 0.02))
        parts.append((load, _wood(rng)))
    if rng.uniform() < 0.2:
        sign = box((0.08, 0.14, 0.05), ((gx[1] + gx[2]) / 2, 0, roof - 0.005), 0.8)
        parts.append((sign, _paint(rng)))
    return assemble(parts)


def rocket(rng: np.random.Generator) -> Shape:
    height, radius = rng.uniform(0.85, 1.3), rng.uniform(0.12, 0.2)
    tail, nose_at = rng.uniform(0.12, 0.2), height * rng.uniform(0.55, 0.72)
    bulge = rng.uniform(1.0, 1.3)
    body = [
        (radius * 0.7, tail),
        (radius * bulge, tail + 0.35 * (nose_at - tail)),
        (radius, nose_at),
    ]
    nose = [
        (radius, nose_at),
        (radius * rng.uniform(0.5, 0.85), (nose_at + height) / 2),
        (0, height),
    ]
    hull = _decorated(rng, height, 0.7)
    count = int(rng.integers(3, 5))
    reach, rise = radius * rng.uniform(1.6, 2.3), rng.uniform(0.25, 0.45)
    outline = smooth(
        [(radius * 0.4, tail), (reach, 0.0), (reach * 1.05, 0.1), (radius * 0.8, tail + rise)], 2
    )
    base = np.stack([np.full(len(outline), radius * 0.4), outline[:, 1]], axis=1)
    fin = np.stack([base, outline], axis=1)
    rings = np.concatenate([fin, fin[:, ::-1]], axis=1)
    rings = np.insert(rings, 1, 0.0, axis=2)
    rings[:, :, 1] = np.array([-0.018, -0.018, 0.018, 0.018])
    wing = loft(rings)
    fins = [wing.turned(2, 360 * k / count) for k in range(count)]
    port = ball(radius * rng.uniform(0.3, 0.42))
    window_at = tail + 0.6 * (nose_at - tail)
    reach_at = float(np.interp(window_at, *np.array(body).T[::-1]))
    accent = _paint(rng, 0.7)
    parts = [
        (lathe([(0, tail), *smooth(body)]), hull),
        (lathe(smooth(nose)), accent),
        (joined(fins), accent if rng.uniform() < 0.6 else _paint(rng)),
        (cylinder(radius * 0.6, tail - 0.07, tail + 0.02, radius * 0.4), _metal(rng)),
        (port.moved(reach_at * 0.8, 0, window_at), Material((0.35, 0.65, 0.85), gloss=1.0)),
    ]
    if rng.uniform() < 0.35:
        tank = lathe(
            smooth([(0.0, 0.05), (0.06, 0.05), (0.06, 0.45), (0.0, 0.55)], 2) * [1, height]
        )
        sides = [tank.moved(0, s * radius * 1.3, 0.04) for s in (-1, 1)]
        parts.append((joined(sides), _paint(rng)))
    return assemble(parts)


def house(rng: np.random.Generator) -> Shape:
    length, width = rng.uniform(0.55, 0.9), rng.uniform(0.45, 0.62)
    wall, roof = rng.uniform(0.3, 0.6), rng.uniform(0.2, 0.42)
    bricks = rng.uniform() < 0.45
    colour = _pick(rng, ((0.62, 0.3, 0.22), (0.7, 0.45, 0.3), (0.75, 0.7, 0.6)))
    if bricks:
        plaster = Material(colour, (0.8, 0.77, 0.72), Pattern.BRICKS, 22.0, gloss=0.0)
    else:
        plaster = Material(_pick(rng, _PALE) if rng.uniform() < 0.5 else _vivid(rng), gloss=0.05)
    tiles_colour = _vivid(rng) if rng.uniform() < 0.5 else (0.6, 0.25, 0.18)
    tiles = Material(
        tiles_colour, _shade(tiles_colour, 0.7), Pattern.STRIPES, rng.uniform(14, 22), gloss=0.05
    )
    over = rng.uniform(0.03, 0.08)
    x, y = length / 2, width / 2
    gable = np.array([(-x, 0, wall), (x, 0, wall)])[:, None] + np.array(
        [(0, -y, 0), (0, y, 0), (0, 0, roof)]
    )
    parts = [(box((length, width, wall), (0, 0, 0)), plaster)]
    if rng.uniform() < 0.7:  # a gable roof of two slabs
        parts.append((loft(gable), plaster))
        slope = roof / y
        edge, thick = y + over, 0.035
        section = np.array(
            [
                (0, -edge, -over * slope),
                (0, 0, roof),
                (0, edge, -over * slope),
                (0, edge, -over * slope + thick),
                (0, 0, roof + thick),
                (0, -edge, -over * slope + thick),
            ]
        )
        ends = np.array([(-x - over, 0, wall), (x + over, 0, wall)])
        slabs = [section[[0, 1, 4, 5]], section[[1, 2, 3, 4]]]
        parts.append((joined(loft(ends[:, None] + slab) for slab in slabs), tiles))
    else:  # a hipped roof
        cap = box((length + 2 * over, width + 2 * over, roof), (0, 0, wall), rng.uniform(0.05, 0.4))
        parts.append((cap, tiles))
    pane, trim = Material((0.2, 0.3, 0.42), gloss=1.0), Material(_pick(rng, _PALE), gloss=0.1)
    size, columns = rng.uniform(0.09, 0.13), int(rng.integers(2, 4))
    levels = [0.16] if wall < 0.45 else [0.12, 0.34]
    spots = [(a, z) for z in levels for a in np.linspace(-0.32, 0.32, columns) * length]
    panes = [box((size, width + 0.012, size * 1.2), (a, 0, z)) for a, z in spots]
    edge, rise = size * 1.25, size * 1.45
    frames = [box((edge, width + 0.006, rise), (a, 0, z - 0.012)) for a, z in spots]
    panes += [box((length + 0.012, size, size * 1.2), (0, 0.14, z)) for z in levels]
    frames += [
        box((length + 0.006, size * 1.25, size * 1.45), (0, 0.14, z - 0.012)) for z in levels
    ]
    door = box((0.03, 0.12, 0.24), (x, -0.08, 0))
    parts += [(joined(panes), pane), (joined(frames), trim), (door, _wood(rng, 2))]
    if rng.uniform() < 0.65:
        at = (rng.uniform(-0.3, 0.3) * length, y * 0.4, wall + roof * 0.3)
        brick = Material((0.55, 0.28, 0.22), (0.8, 0.75, 0.7), Pattern.BRICKS, 30.0)
        parts.append((box((0.09, 0.09, roof * 0.9), at), brick))
    return assemble(parts)


def mushroom(rng: np.random.Generator) -> Shape:
    height, cap = rng.uniform(0.4, 0.85), rng.uniform(0.22, 0.42)
    stem = cap * rng.uniform(0.22, 0.42)
    dome, brim = cap * rng.uniform(0.5, 1.1), height * rng.uniform(-0.12, 0.04)
    base = height - min(dome, 0.6 * height)
    foot = smooth(
        [(stem * rng.uniform(1.1, 1.7), 0), (stem, 0.4 * base), (stem * 0.8, base + 0.05)], 3
    )
    profile = [
        (stem * 0.7, base + 0.03),
        (cap * 0.9, base + 0.3 * brim),
        (cap, base + brim),
        (cap, base + brim + 0.1),
        (cap * 0.75, base + 0.8 * (height - base)),
        (cap * 0.3, height),
        (0, height),
    ]
    hue = rng.uniform(-0.05, 0.12) % 1
    skin = colorsys.hsv_to_rgb(hue, rng.uniform(0.5, 0.95), rng.uniform(0.4, 0.9))
    if rng.uniform() < 0.2:
        skin = _vivid(rng)
    if rng.uniform() < 0.6:
        size, offset = rng.uniform(5, 9), rng.uniform()
        top = Material(skin, (0.95, 0.92, 0.86), Pattern.DOTS, size, offset=offset, gloss=0.4)
    else:
        top = Material(skin, _shade(skin, 0.6), Pattern.MARBLE, rng.uniform(4, 8), gloss=0.3)
    flesh = Material((0.93, 0.89, 0.8), (0.8, 0.72, 0.6), Pattern.WOOD, 30.0, gloss=0.05)
    parts = [(lathe([(0, 0), *foot]), flesh), (lathe(smooth(profile, 2), 32), top)]
    if rng.uniform() < 0.4:
        ring = [(stem, base * 0.75), (stem * 1.6, base * 0.6), (stem * 0.9, base * 0.66)]
        parts.append((lathe(ring), flesh))
    return assemble(parts)


def tree(rng: np.random.Generator) -> Shape:
    height, trunk = rng.uniform(0.9, 1.35), rng.uniform(0.045, 0.075)
    bark = Material((0.42, 0.28, 0.18), (0.28, 0.18, 0.1), Pattern.WOOD, 30.0, gloss=0.0)
    hue = rng.uniform(0.22, 0.42) if rng.uniform() < 0.8 else rng.uniform(0.03, 0.12)
    green = colorsys.hsv_to_rgb(hue, rng.uniform(0.45, 0.8), rng.uniform(0.35, 0.7))
    leaves = Material(green, _shade(green, 0.55), Pattern.MARBLE, rng.uniform(8, 14), gloss=0.05)
    wide = rng.uniform(0.28, 0.42)
    clear = height * rng.uniform(0.15, 0.35)
    crown: list[Surface] = []
    if rng.uniform() < 0.5:  # a conifer
        tiers = int(rng.integers(2, 5))
        for k in range(tiers):
            low = clear + (height - clear) * k / tiers * 0.85
            top = low + (height - clear) / tiers * 1.5
            radius = wide * (1 - 0.7 * k / tiers)
            top = min(top, height) if k < tiers - 1 else height
            crown.append(lathe([(0, low + 0.04), (radius, low), (0.02, top), (0, top)], 16))
    else:
        middle = (clear + height) / 2 + 0.1
        stretch = rng.uniform(0.8, 1.2)
        crown.append(ball(wide * 0.85, stretch).moved(z=middle))
        for angle in np.arange(rng.integers(3, 7)) + rng.uniform(0, 6):
            radius = wide * rng.uniform(0.4, 0.6)
            at = wide * 0.6 * np.array([np.cos(2 * angle), np.sin(2 * angle)])
            crown.append(ball(radius).moved(*at, middle + wide * rng.uniform(-0.5, 0.5)))
    parts = [
        (cylinder(trunk * 1.3, 0, 0.5 * (clear + height), trunk * 0.6), bark),
        (joined(crown), leaves),
    ]
    if rng.uniform() < 0.25:
        parts.append(
            (lathe([(0, 0), (trunk * 2.2, 0), (trunk * 2.8, 0.16), (0, 0.16)]), _paint(rng))
        )
    return assemble(parts)


FAMILIES: dict[str, Callable[[np.random.Generator], Shape]] = {
    family.__name__: family
    for family in (
        bottle,
        bowl,
        car,
        chair,
        house,
        lamp,
        mug,
        mushroom,
        rocket,
        sofa,
        table,
        teapot,
        tree,
        vase,
    )
}
