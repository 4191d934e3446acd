"""Where the shapes come from: the parametric families, and a folder of mesh files by category.

A category is a folder of ``.obj`` or ``.off`` files, or, as ShapeNet is laid out, of one folder a
model with ``models/model_normalized.obj`` (its first version: ``model.obj``). Folders named by one
of ShapeNet's class ids (:data:`.view_config.SYNSETS`) are the category of that name.
"""

import hashlib
import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict

from amodal_pipeline.annotations.storage import inside, is_relative_name
from amodal_pipeline.scenes.config import ScenesConfig
from amodal_pipeline.scenes.families import FAMILIES
from amodal_pipeline.scenes.shapes import Material, Shape, Surface, assemble
from amodal_pipeline.scenes.view_config import SYNSETS

MAX_FILE_BYTES = 16 * 2**20
MAX_FACES = 200_000
_DIAGONAL = 1.1  # of a loaded mesh's bounding box, like that of most families


class ShapeSource(BaseModel):
    """What one object's shape was made from: a family and its seed, or a mesh file."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    category: str
    family_seed: int | None = None
    mesh_file: str | None = None
    """Relative to the folder of meshes."""
    mesh_checksum: str | None = None
    up: Literal["y", "z"] = "y"
    """The axis of the mesh file that points up."""


@dataclass(frozen=True)
class Models:
    """All the shapes a configuration can place.

    ``files`` maps a category to the checksums of its mesh files, by name relative to ``folder``.
    """

    categories: tuple[str, ...]
    families: frozenset[str]
    folder: Path | None
    files: dict[str, dict[str, str]]

    @classmethod
    def of(cls, config: ScenesConfig) -> Self:
        """Look up the families and the mesh folder of ``config``.

        Raises:
            ValueError: the folder has no meshes, or ``categories`` names one that does not exist.
        """
        families = tuple(FAMILIES) if config.families else ()
        folder = Path(config.meshes) if config.meshes is not None else None
        files = mesh_files(folder) if folder is not None else {}
        wanted = wanted_categories(config.categories, families, files)
        return cls(
            wanted,
            frozenset(families) & frozenset(wanted),
            folder,
            {
                category: {name: mesh_checksum(folder, name) for name in files[category]}
                for category in wanted
                if category in files
            },
        )

    def draw(self, rng: np.random.Generator) -> ShapeSource:
        """A random category, and a random individual of it: half families where both exist."""
        category = self.categories[rng.integers(len(self.categories))]
        files = self.files.get(category)
        if files is None or (category in self.families and rng.uniform() < 0.5):
            return ShapeSource(category=category, family_seed=int(rng.integers(2**53)))
        name = list(files)[rng.integers(len(files))]
        return ShapeSource(category=category, mesh_file=name, mesh_checksum=files[name])


def wanted_categories(
    asked: Sequence[str] | None, families: Iterable[str], files: Iterable[str]
) -> tuple[str, ...]:
    """The categories that are ``asked`` for, or all there are: families first.

    Raises:
        ValueError: one does not exist.
    """
    known = tuple(dict.fromkeys((*families, *files)))
    unknown = [name for name in asked or () if name not in known]
    if unknown:
        raise ValueError(f"categories: {unknown} do not exist; there are {list(known)}")
    return known if asked is None else tuple(asked)


def build_shape(source: ShapeSource, folder: Path | None = None) -> Shape:
    """The shape of ``source``; mesh files are looked up in ``folder``.

    Raises:
        ValueError: an unknown family, or a mesh file that is missing, damaged or changed.
    """
    if source.mesh_file is None:
        if source.category not in FAMILIES or source.family_seed is None:
            raise ValueError(f"there is no mesh family {source.category!r} with a seed")
        return FAMILIES[source.category](np.random.default_rng(source.family_seed))
    if folder is None:
        raise ValueError(f"mesh {source.mesh_file}: name the folder of meshes it lies in")
    path = inside(folder, source.mesh_file)
    found = mesh_checksum(folder, source.mesh_file)
    if source.mesh_checksum not in (None, found):
        raise ValueError(f"{path}: the mesh has changed since the scene was made; restore it")
    return _cached_mesh(path, found, source.up)


def mesh_checksum(folder: Path, name: str) -> str:
    """SHA-256 of a mesh file below ``folder`` and of its material files.

    Raises:
        ValueError: a file is missing or too large, or a link leads out of the folder.
    """
    path = inside(folder, name)
    if not path.resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"{path}: leads out of the folder of meshes; copy the file into it")
    text = _read(path)
    digest = hashlib.sha256(text)
    for material in _material_files(path, text):
        digest.update(_read(path.parent / material))
    return digest.hexdigest()


@lru_cache(maxsize=16)  # with the most faces, hundreds of megabytes in every process
def _cached_mesh(path: Path, content: str, up: Literal["y", "z"]) -> Shape:
    """The mesh at ``path`` while its checksum is ``content``."""
    return load_mesh(path, up)


def load_mesh(path: Path, up: Literal["y", "z"] = "y") -> Shape:
    """An OBJ file with the diffuse colours of its material file, or an OFF file, as a shape.

    It is turned to +z up, centred over its base and scaled to a common size. Textures are not
    read, nor any file but ``.mtl`` files in the folder of the OBJ.

    Raises:
        ValueError: the file is missing, too large, or damaged; names it and the reason.
    """
    import trimesh  # a second of start-up, for loaded meshes only

    text = _read(path)
    kind = path.suffix.lower()[1:]
    materials = {name: _read(path.parent / name) for name in _material_files(path, text)}
    try:
        loaded = trimesh.load(
            io.BytesIO(text),
            file_type=kind,
            resolver=materials or None,
            skip_materials=not materials,
            force="scene",
            process=False,
            maintain_order=True,
        )
        meshes = [(m.vertices, m.faces, _diffuse(m)) for m in loaded.geometry.values()]
    except Exception as error:  # the parser has no error type of its own
        raise ValueError(
            f"{path}: not a readable {kind.upper()} mesh ({error}); mend or remove it"
        ) from error
    faces = sum(len(f) for _, f, _ in meshes)
    if not 0 < faces <= MAX_FACES:
        raise ValueError(f"{path}: has {faces} faces, allowed are 1 to {MAX_FACES}")
    parts = []
    for vertices, triangles, colour in meshes:
        if triangles.min() < 0 or triangles.max() >= len(vertices):
            raise ValueError(f"{path}: a face names a vertex that is not there")
        used, compact = np.unique(triangles, return_inverse=True)
        vertices = np.asarray(vertices, np.float64)[used]
        if not np.isfinite(vertices).all() or np.abs(vertices).max() > 1e9:
            raise ValueError(f"{path}: a vertex is not a finite number of sensible size")
        upright = vertices if up == "z" else vertices[:, [0, 2, 1]] * (1, -1, 1)
        surface = Surface(upright, compact.reshape(-1, 3).astype(np.int64))
        parts.append((surface, Material(colour, gloss=0.25)))
    points = np.concatenate([surface.vertices for surface, _ in parts])
    low, high = points.min(axis=0), points.max(axis=0)
    diagonal = np.linalg.norm(high - low)
    if diagonal == 0:
        raise ValueError(f"{path}: the mesh is a single point")
    x, y, _ = -(low + high) / 2
    scale = _DIAGONAL / diagonal
    return assemble((s.moved(x, y).scaled(scale, scale, scale), m) for s, m in parts)


def mesh_files(folder: Path) -> dict[str, list[str]]:
    """The names of the mesh files of each category, relative to ``folder``.

    Raises:
        ValueError: there are none.
    """
    layouts = (
        "*/*.[oO][bB][jJ]",
        "*/*.[oO][fF][fF]",
        "*/*/model.obj",
        "*/*/models/model_normalized.obj",
    )
    names = sorted(
        {p.relative_to(folder).as_posix() for glob in layouts for p in folder.glob(glob)}
    )
    if not names:
        raise ValueError(
            f"meshes: {folder} holds no <category>/<name>.obj or .off, nor "
            "<class>/<model>/models/model_normalized.obj or <class>/<model>/model.obj"
        )
    files: dict[str, list[str]] = {}
    for name in names:
        category = name.split("/")[0]
        files.setdefault(SYNSETS.get(category, category), []).append(name)
    return files


def _read(path: Path) -> bytes:
    try:
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise ValueError(f"{path}: has {size} bytes, allowed are {MAX_FILE_BYTES}")
        return path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error})") from error


def _material_files(path: Path, text: bytes) -> list[str]:
    if path.suffix.lower() != ".obj":
        return []
    names = [
        name.decode("utf-8", "replace") for name in re.findall(rb"(?m)^mtllib[ \t]+(\S+)", text)
    ]
    folder = path.parent.resolve()
    for name in names:
        # Checked after links are followed, too: a link may point anywhere.
        stays = is_relative_name(name) and (folder / name).resolve().is_relative_to(folder)
        if not stays or not name.lower().endswith(".mtl"):
            raise ValueError(f"{path}: its material file {name!r} is not a .mtl file beside it")
    return [name for name in names if (folder / name).is_file()]


def _diffuse(mesh) -> tuple[float, float, float]:
    material = getattr(mesh.visual, "material", None)
    colour = getattr(material, "diffuse", None)
    if colour is None:
        return (0.6, 0.6, 0.62)
    return tuple(float(c) / 255 for c in np.asarray(colour)[:3])
