"""A3D's meshes of objects, and pictures of these and of its masks."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Tensor

from amodal_pipeline.annotations import AmodalAnnotations
from amodal_pipeline.annotations.storage import replacing
from amodal_pipeline.layers.cameras import NEAR, Viewpoints, project
from amodal_pipeline.layers.crops import aspects
from amodal_pipeline.layers.meshes import Mesh, write_obj
from amodal_pipeline.methods.a3d.method import A3D, Reconstruction
from amodal_pipeline.visuals.colours import EMPTY, PALETTE
from amodal_pipeline.visuals.objects import Seen, caption
from amodal_pipeline.visuals.overlays import outline
from amodal_pipeline.visuals.selection import half_hidden
from amodal_pipeline.visuals.shape_prior import shape_cell
from amodal_pipeline.visuals.sheet import CELL, sheet

_OTHER = (90.0, 30.0)  # second viewpoint, in degrees: azimuth from the estimated one, elevation
_FILLED = 0.9  # share of a cell that the mesh fills from there
_LAMP = (-45.0, 35.0)  # azimuth and elevation from those of the camera, in degrees
_CLAY = (214, 202, 188)
_AMBIENT = 0.4  # of the light
_FINER = 3  # times as many pixels are drawn, and averaged
_LINE = PALETTE[2]  # vermilion, on pictures with a white ground too
_NAMED = 40  # characters of a category in a file's name
COLUMNS = (
    "file",
    "instance_id",
    "image_id",
    "category",
    "occlusion_rate",
    "elevation",
    "azimuth",
    "distance",
    "iou_coarse",
    "iou_amodal",
)


@dataclass(frozen=True)
class MeshTable:
    """Hold meshes by file name, and ``index``, with a row of :data:`COLUMNS` for each: angles in
    degrees, IoU in 0–1 with the true amodal mask."""

    meshes: dict[str, Mesh]
    index: pd.DataFrame

    def save(self, folder: str | os.PathLike) -> None:
        """Replace a folder by an OBJ file per mesh and ``index.csv``."""
        with replacing(folder) as path:
            path.mkdir()
            for name, mesh in self.meshes.items():
                write_obj(path / name, mesh.vertices, mesh.faces)
            self.index.to_csv(path / "index.csv", index=False, float_format="%.4f")


def reconstructions(
    model: A3D, annotations: AmodalAnnotations, count: int
) -> tuple[Image.Image, MeshTable]:
    """Return the meshes of objects and a picture with one row per object (the paper's Fig. 4).

    A row shows the photograph with the visible mask's outline, the mesh from the estimated
    viewpoint and from 90 degrees further round at an elevation of 30, coarse and refined mask, and
    the truth. Objects are those of :func:`~amodal_pipeline.visuals.selection.half_hidden`, in
    windows around their true boxes, whose aspect the cells keep. Without a mesh in the model there
    are no columns of it and no meshes.

    Args:
        model: on the CPU, in evaluation mode.
        annotations: the images and their truth.
        count: rows.
    """
    config, rows, meshes, index = model.config, [], {}, []
    for record in half_hidden(annotations, count):
        seen = Seen.of(annotations, record, config.crop)
        aspect = aspects(seen.window)
        with torch.inference_mode():
            found = model.explain(
                seen.crop(config.crop.image_side)[None], {"input": seen.visible, "aspect": aspect}
            )
        rows.append(_row(model, annotations, seen, aspect, found))
        if config.mesh:
            line = _line(annotations, seen, found)
            meshes[line["file"]] = Mesh(found.vertices[0], model.faces)
            index.append(line)
    headings = ["Image", *["Mesh", "From the side"] * config.mesh, "Coarse"]
    headings += ["Refined"] if config.refinement else []
    title = f"{annotations.metadata.dataset}, {annotations.metadata.split}: reconstructed objects"
    page = sheet(title, [*headings, "Truth"], rows)
    return page, MeshTable(meshes, pd.DataFrame(index, columns=list(COLUMNS)))


def _row(
    model: A3D, annotations: AmodalAnnotations, seen: Seen, aspect: Tensor, found: Reconstruction
) -> tuple[Sequence[Image.Image], str]:
    size = tuple(max(1, round(CELL * s)) for s in aspect[0].tolist())
    shapes, masks = [found.coarse[0]], {"coarse": found.coarse}
    if model.config.refinement:
        shapes.append(found.amodal[0])
        masks["refined"] = found.amodal
    shapes.append(seen.amodal[0].float())
    cells = [_photograph(seen), *(shape_cell(s.numpy(), CELL, rim=False) for s in shapes)]
    cells = [_framed(cell.resize(size, Image.Resampling.BICUBIC)) for cell in cells]
    if model.config.mesh:
        cells[1:1] = [
            _framed(_as_seen(model, found, aspect, size)),
            _from_the_side(model, found),
        ]
    return cells, caption(annotations, seen, masks)


def _photograph(seen: Seen) -> Image.Image:
    pixels = np.asarray(seen.photograph(CELL), np.float32)
    mask = Image.fromarray(seen.visible[0].numpy()).resize((CELL, CELL), Image.Resampling.NEAREST)
    line = outline(np.asarray(mask), 1.5)[..., None]
    return Image.fromarray((pixels + line * (_LINE - pixels)).round().astype(np.uint8))


def _as_seen(
    model: A3D, found: Reconstruction, aspect: Tensor, size: tuple[int, int]
) -> Image.Image:
    """Draw the mesh where its coarse mask is."""
    screen = model.screen(found.vertices, found.viewpoints, aspect)
    return _drawn(model, found, screen, found.viewpoints, size)


def _from_the_side(model: A3D, found: Reconstruction) -> Image.Image:
    turn, elevation = map(math.radians, _OTHER)
    viewpoints = replace(
        found.viewpoints,
        azimuth=found.viewpoints.azimuth + turn,
        elevation=torch.full_like(found.viewpoints.elevation, elevation),
        # Far enough for the whole mesh to be in front of the camera.
        distance=3 * found.vertices.norm(dim=2).amax(dim=1),
    )
    screen = project(found.vertices, viewpoints, model.preset.field_of_view)
    flat = screen[..., :2]
    low, high = flat.amin(dim=1), flat.amax(dim=1)
    scale = 2 * _FILLED / (high - low).max().clamp(min=1e-6)
    screen = torch.cat([(flat - (low + high)[:, None] / 2) * scale, screen[..., 2:]], dim=2)
    return _drawn(model, found, screen, viewpoints, (CELL, CELL))


def _drawn(
    model: A3D,
    found: Reconstruction,
    screen: Tensor,
    viewpoints: Viewpoints,
    size: tuple[int, int],
) -> Image.Image:
    turn, lift = map(math.radians, _LAMP)
    azimuth, elevation = viewpoints.azimuth.item() + turn, viewpoints.elevation.item() + lift
    level = math.cos(elevation)
    lamp = (math.cos(azimuth) * level, math.sin(azimuth) * level, math.sin(elevation))
    return shaded(found.vertices[0].numpy(), screen[0].numpy(), model.faces.numpy(), lamp, size)


def _framed(picture: Image.Image) -> Image.Image:
    """Paste a picture into the middle of a white cell."""
    cell = Image.new("RGB", (CELL, CELL), "white")
    cell.paste(picture, ((CELL - picture.width) // 2, (CELL - picture.height) // 2))
    return cell


def _line(annotations: AmodalAnnotations, seen: Seen, found: Reconstruction) -> dict:
    names = {c.id: c.name for c in annotations.metadata.categories}
    record, viewpoints = seen.record, found.viewpoints
    category, instance_id = names[record["category_id"].item()], record["instance_id"].item()
    plain = re.sub(r"[^a-z0-9]+", "_", category.lower()).strip("_")[:_NAMED]
    values = (
        f"{instance_id}_{plain}".rstrip("_") + ".obj",
        instance_id,
        record["image_id"].item(),
        category,
        record["occlusion_rate"].item(),
        math.degrees(viewpoints.elevation.item()),
        math.degrees(viewpoints.azimuth.item()),
        viewpoints.distance.item(),
        seen.iou(found.coarse),
        seen.iou(found.amodal),
    )
    return dict(zip(COLUMNS, values, strict=True))


def shaded(
    vertices: np.ndarray,
    screen: np.ndarray,
    faces: np.ndarray,
    lamp: tuple[float, float, float],
    size: tuple[int, int],
) -> Image.Image:
    """Draw a mesh of clay on a light ground, lit by Lambert's law, farthest faces first.

    Both sides of a face are lit. Faces with a vertex that is not in front of the camera are left
    out.

    Args:
        vertices: [V, 3], in the world.
        screen: [V, 3], the same as seen by the camera: x to the right and y down, both -1..1
            within the picture, and the depth.
        faces: int [F, 3], counter-clockwise from outside.
        lamp: direction in the world towards the light.
        size: (width, height) in pixels.
    """
    import trimesh
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.figure import Figure

    normals = trimesh.Trimesh(vertices, faces, process=False).vertex_normals
    corners = screen[faces]
    shown = np.isfinite(corners).all(axis=(1, 2)) & (corners[..., 2] > NEAR).all(axis=1)
    order = np.flatnonzero(shown)[np.argsort(-corners[shown, :, 2].mean(axis=1), kind="stable")]
    x, y, _ = np.moveaxis(corners[order], 2, 0)
    # Seen from outside, corners run counter-clockwise: clockwise in x and y, which points down.
    turn = (x[:, 1] - x[:, 0]) * (y[:, 2] - y[:, 0]) - (y[:, 1] - y[:, 0]) * (x[:, 2] - x[:, 0])
    facing = -np.sign(turn)[:, None] * (normals[faces[order]] @ (lamp / np.linalg.norm(lamp)))
    clay = np.array(_CLAY) / 255
    figure = Figure(figsize=size, dpi=_FINER, facecolor=np.array(EMPTY) / 255)
    canvas, axes = FigureCanvasAgg(figure), figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    if len(order):
        axes.tripcolor(
            x.ravel(),
            y.ravel(),
            np.maximum(facing, 0).ravel(),
            triangles=np.arange(x.size).reshape(-1, 3),
            cmap=LinearSegmentedColormap.from_list("clay", [_AMBIENT * clay, clay]),
            shading="gouraud",
            vmin=0,
            vmax=1,
        )
    axes.set(xlim=(-1, 1), ylim=(1, -1))
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3]).reduce(_FINER)
