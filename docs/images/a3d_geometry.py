"""Draw the figure of A3D's geometry for docs/methods/a3d.md, with masks by the project's functions.

python docs/images/a3d_geometry.py
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from amodal_pipeline.annotations.storage import replacing
from amodal_pipeline.layers.cameras import PRESETS, Viewpoints, project
from amodal_pipeline.layers.meshes import icosphere
from amodal_pipeline.layers.soft_rasterizer import silhouettes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_INK, _FAINT, _CLAY, _BLUE, _ORANGE = "#1c2026", "#68707c", "#d6cabc", "#0072b2", "#d55e00"
_AZIMUTH, _ELEVATION, _DISTANCE = np.radians(38.0), np.radians(24.0), 2.45
_ASPECT = (1.0, 0.77)
_PRESET = PRESETS["smr"]
_HALF = np.tan(np.radians(_PRESET.field_of_view) / 2)
_PLANE = 0.9  # how far from the camera the image plane is drawn
_ONLOOKER = (np.radians(-24.0), np.radians(24.0))


def geometry_figure() -> Figure:
    """World and camera, the window on the image plane, the square that the network sees, and the
    offsets that make a mesh of the sphere."""
    from matplotlib.figure import Figure

    sphere = icosphere(3)
    vertices = _car(sphere.vertices.numpy())
    figure = Figure(figsize=(12.4, 7.0), dpi=110)
    grid = figure.add_gridspec(
        2, 3, width_ratios=(1, 1, 1.12), left=0.01, right=0.985, top=0.94, bottom=0.06, hspace=0.3
    )
    _draw_world(figure.add_subplot(grid[:, :2]), vertices, sphere.faces.numpy())
    right = grid[:, 2].subgridspec(3, 1, hspace=0.42)
    _draw_offsets(figure.add_subplot(right[0]), sphere.vertices.numpy(), vertices)
    screen = project(
        torch.from_numpy(vertices)[None],
        Viewpoints(*(torch.tensor([v]).float() for v in (_ELEVATION, _AZIMUTH, _DISTANCE))),
        _PRESET.field_of_view,
        torch.tensor([_ASPECT]),
    )
    mask = silhouettes(screen, sphere.faces, 64, 1e-4)[0].numpy()
    _draw_window(figure.add_subplot(right[1]), mask)
    _draw_square(figure.add_subplot(right[2]), mask)
    return figure


def _car(directions: np.ndarray) -> np.ndarray:
    """A body with a cabin: the outermost points of both on the rays from the origin."""
    reach = np.linspace(0, 1.6, 400)
    points = directions[:, None] * reach[:, None]
    body = ((np.abs(points) / (1.12, 0.48, 0.27)) ** 4).sum(axis=-1)
    cabin = ((np.abs(points - (-0.15, 0, 0.24)) / (0.54, 0.4, 0.31)) ** 4).sum(axis=-1)
    inside = np.minimum(body, cabin) <= 1
    last = len(reach) - 1 - inside[:, ::-1].argmax(axis=1)
    return (directions * reach[last, None] + (-0.17, 0.13, 0.06)).astype(np.float32)


def _onlooker(points: np.ndarray) -> np.ndarray:
    """Where points [..., 3] of the world lie in the drawing, [..., 2], and how near, last."""
    a, e = _ONLOOKER
    back = np.array([np.cos(a) * np.cos(e), np.sin(a) * np.cos(e), np.sin(e)])
    right = np.array([-np.sin(a), np.cos(a), 0.0])
    return np.asarray(points) @ np.stack([right, np.cross(back, right), back]).T


def _draw_world(axes: Axes, vertices: np.ndarray, faces: np.ndarray) -> None:
    axes.set_title("World, camera and image plane", color=_INK, fontsize=12, fontweight="bold")
    axes.set_axis_off()
    axes.set_aspect("equal")
    axes.set_xlim(-0.9, 2.55)
    axes.set_ylim(-1.1, 1.3)
    turn, lift = _AZIMUTH, _ELEVATION
    out = np.array([np.cos(turn), np.sin(turn), 0.0])
    back = np.cos(lift) * out + (0, 0, np.sin(lift))
    right = np.array([-np.sin(turn), np.cos(turn), 0.0])
    down = np.cross(-back, right)
    camera = _DISTANCE * back

    for axis, name in zip(np.eye(3) * (1.75, 1.05, 1.15), "xyz", strict=True):
        _arrow(axes, np.zeros(3), axis, _FAINT)
        _say(axes, axis * 1.07, name, _FAINT)
    _mesh(axes, vertices, faces)

    foot = camera * (1, 1, 0)
    _line(axes, [np.zeros(3), foot, camera], _FAINT, style=":")
    _line(axes, [np.zeros(3), camera], _INK, style="--")
    _say(axes, camera * 0.5 + (0, 0, 0.1), "distance d", _INK, "right")
    steps = np.linspace(0, 1, 40)[:, None]
    around = np.concatenate(
        [np.cos(turn * steps), np.sin(turn * steps), np.zeros_like(steps)], axis=1
    )
    _line(axes, 1.45 * around, _ORANGE)
    _say(axes, 1.62 * around[18], "azimuth a", _ORANGE, "left")
    up = np.cos(lift * steps) * out + np.sin(lift * steps) * np.array((0, 0, 1.0))
    _line(axes, 1.9 * up, _ORANGE)
    _say(axes, 2.02 * up[16], "elevation e", _ORANGE, "left")

    # The longer side of the window spans the field of view.
    wide, high = (_PLANE * _HALF * s for s in _ASPECT)
    centre = camera - _PLANE * back
    corners = [
        centre + x * wide * right + y * high * down for x, y in ((-1, -1), (1, -1), (1, 1), (-1, 1))
    ]
    for corner in corners:
        _line(axes, [camera, camera + (corner - camera) * _DISTANCE / _PLANE], _BLUE, width=0.5)
    _fill(axes, corners, _BLUE, 0.12)
    _line(axes, [*corners, corners[0]], _BLUE)
    shadow = camera + (vertices - camera) * (_PLANE / ((camera - vertices) @ back))[:, None]
    for face in faces:
        _fill(axes, shadow[face], _BLUE, 1.0)
    _say(axes, corners[1] + (0, 0, 0.1), "window on the\nimage plane", _BLUE, "left")
    for axis, name in ((right, "x"), (down, "y"), (-back, "z")):
        _arrow(axes, camera, camera + 0.32 * axis, _INK)
        _say(axes, camera + 0.4 * axis + 0.06 * down * (name == "z"), name, _INK)
    _say(axes, camera + np.array((0, 0, 0.12)), "camera", _INK, "right")


def _draw_offsets(axes: Axes, sphere: np.ndarray, vertices: np.ndarray) -> None:
    axes.set_title("Sphere + offsets = mesh", color=_INK, fontsize=12, fontweight="bold")
    axes.set_axis_off()
    axes.set_aspect("equal")
    near = np.flatnonzero(np.abs(sphere[:, 1]) < 0.04)
    near = near[np.argsort(np.arctan2(sphere[near, 2], sphere[near, 0]))]
    turn = np.linspace(0, 2 * np.pi, 200)
    axes.plot(np.cos(turn), np.sin(turn), color=_FAINT, linewidth=1, linestyle="--")
    ring = np.append(near, near[0])
    axes.fill(vertices[ring, 0], vertices[ring, 2], facecolor=_CLAY, edgecolor=_INK, linewidth=1.2)
    for start, end in zip(sphere[near], vertices[near], strict=True):
        if np.linalg.norm(end - start) > 0.1:
            axes.annotate(
                "",
                (end[0], end[2]),
                (start[0], start[2]),
                arrowprops={"arrowstyle": "->", "color": _ORANGE, "linewidth": 0.9},
            )
    axes.plot(sphere[near, 0], sphere[near, 2], ".", color=_FAINT, markersize=4)
    axes.text(1.3, 0.75, "V⁰, a sphere", color=_FAINT, fontsize=10)
    axes.text(1.3, 0.4, "ΔV, of either sign", color=_ORANGE, fontsize=10)
    axes.text(1.3, 0.05, "Vʳ = V⁰ + ΔV", color=_INK, fontsize=10)
    axes.set_xlim(-1.3, 2.6)


def _draw_window(axes: Axes, mask: np.ndarray) -> None:
    axes.set_title("The window: square pixels", color=_INK, fontsize=12, fontweight="bold")
    wide, high = _ASPECT
    axes.imshow(
        mask, cmap="Blues", vmin=0, vmax=1.25, extent=(-wide, wide, high, -high), aspect="equal"
    )
    axes.set_xticks([-wide, wide], ["", ""])
    axes.set_yticks([-high, high], ["", ""])
    axes.set_xlabel("w / max(w, h) = 1", color=_FAINT, fontsize=10)
    axes.set_ylabel(f"h / max(w, h) = {high:g}", color=_FAINT, fontsize=10)


def _draw_square(axes: Axes, mask: np.ndarray) -> None:
    axes.set_title("Stretched to S × S", color=_INK, fontsize=12, fontweight="bold")
    axes.imshow(mask, cmap="Blues", vmin=0, vmax=1.25, extent=(-1, 1, 1, -1), aspect="equal")
    axes.set_xticks([-1, 0, 1])
    axes.set_yticks([-1, 0, 1])
    axes.tick_params(colors=_FAINT, labelsize=9)
    axes.set_xlabel("x →", color=_FAINT, fontsize=10)
    axes.set_ylabel("← y", color=_FAINT, fontsize=10)


def _mesh(axes: Axes, vertices: np.ndarray, faces: np.ndarray) -> None:
    from matplotlib.collections import PolyCollection

    seen = _onlooker(vertices)[faces]
    normal = np.cross(seen[:, 1] - seen[:, 0], seen[:, 2] - seen[:, 0])
    normal /= np.linalg.norm(normal, axis=1, keepdims=True)
    order = np.argsort(seen[:, :, 2].mean(axis=1))
    order = order[normal[order, 2] > 0]
    lamp = np.array([-0.45, 0.7, 0.55])
    bright = 0.45 + 0.55 * np.maximum(normal[order] @ (lamp / np.linalg.norm(lamp)), 0)
    colours = bright[:, None] * np.array([0.84, 0.79, 0.74])
    axes.add_collection(
        PolyCollection(seen[order, :, :2], facecolors=colours, edgecolors=colours * 0.85, lw=0.4)
    )


def _line(axes: Axes, points, colour: str, width: float = 1.2, style: str = "-") -> None:
    x, y, _ = _onlooker(np.array(points)).T
    axes.plot(x, y, color=colour, linewidth=width, linestyle=style)


def _fill(axes: Axes, points, colour: str, opacity: float) -> None:
    x, y, _ = _onlooker(np.array(points)).T
    axes.fill(x, y, facecolor=colour, edgecolor="none", alpha=opacity)


def _arrow(axes: Axes, start: np.ndarray, end: np.ndarray, colour: str) -> None:
    style = {"arrowstyle": "-|>", "color": colour, "linewidth": 1.2, "shrinkA": 0, "shrinkB": 0}
    axes.annotate("", _onlooker(end)[:2], _onlooker(start)[:2], arrowprops=style)


def _say(axes: Axes, at: np.ndarray, text: str, colour: str, side: str = "center") -> None:
    x, y, _ = _onlooker(at)
    ground = {"facecolor": "white", "edgecolor": "none", "pad": 1}
    axes.text(x, y, text, color=colour, fontsize=11, ha=side, va="center", bbox=ground)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".png"))
    out = parser.parse_args().out
    with replacing(out) as path:
        geometry_figure().savefig(path, format="png")
