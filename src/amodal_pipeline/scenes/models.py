"""The sources of shapes: the parametric families, and a folder of mesh files by category.

A category is a folder of ``.obj`` or ``.off`` files or, in ShapeNet's layout, of one folder per
model with ``models/model_normalized.obj`` (``model.obj`` in its first version). A folder named by
one of ShapeNet's class ids (:data:`.view_config.SYNSETS`) becomes the category of that name.
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
    """The source of one object's shape: a family and its seed, or a mesh file."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    category: str
    family_seed: int | None = None
    mesh_file: str | None = None
    """Path relative to the folder of meshes."""
    mesh_checksum: str | None = None
    up: Literal["y", "z"] = "y"
    """The axis of the mesh file that points up."""


@dataclass(frozen=True)
class Models:
    """All shapes that a configuration can place.

    ``files`` maps a category to the checksums of its mesh files, by name relative to ``folder``.
    """

    categories: tuple[str, ...]
    families: frozenset[str]
    folder: Path | None
    files: dict[str, dict[str, str]]

    @classmethod
    def of(cls, config: ScenesConfig) -> Self:
        """Read the families and the mesh folder of ``config``.

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
        """Return a random individual of a random category.

        A category with both a family and files gives each in half of the draws.
        """
        category = self.categories[rng.integers(len(self.categories))]
        files = self.files.get(category)
        if files is None or (category in self.families and rng.uniform() < 0.5):
            return ShapeSource(category=category, family_seed=int(rng.integers(2**53)))
        name = list(files)[rng.integers(len(files))]
        return ShapeSource(category=category, mesh_file=name, mesh_checksum=files[name])


def wanted_categories(
    asked: Sequence[str] | None, families: Iterable[str], files: Iterable[str]
) -> tuple[str, ...]:
    """Return the categories ``asked`` for, or all known ones, families first, if that is None.

    Raises:
        ValueError: a category does not exist.
    """
    known = tuple(dict.fromkeys((*families, *files)))
    unknown = [name for name in asked or () if name not in known]
    if unknown:
        raise ValueError(f"categories: {unknown} do not exist; choose from {list(known)}")
    return known if asked is None else tuple(asked)


def build_shape(source: ShapeSource, folder: Path | None = None) -> Shape:
    """Return the shape of ``source``; mesh files are looked up in ``folder``.

    Raises:
        ValueError: the family is unknown, or a mesh file is missing, damaged or changed.
    """
    if source.mesh_file is None:
        if source.category not in FAMILIES or source.family_seed is None:
            raise ValueError(
                f"there is no mesh family {source.category!r} with a seed: the record of the scene "
                "is damaged; render it again"
            )
        return FAMILIES[source.category](np.random.default_rng(source.family_seed))
    if folder is None:
        raise ValueError(f"mesh {source.mesh_file}: no folder of meshes is given; pass its folder")
    path = inside(folder, source.mesh_file)
    found = mesh_checksum(folder, source.mesh_file)
    if source.mesh_checksum not in (None, found):
        raise ValueError(f"{path}: the mesh has changed since it was rendered; restore it")
    return _cached_mesh(path, found, source.up)


def mesh_checksum(folder: Path, name: str) -> str:
    """Return the SHA-256 of a mesh file below ``folder`` and of its material files.

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


@lru_cache(maxsize=16)  # the largest meshes take hundreds of megabytes in every process
def _cached_mesh(path: Path, content: str, up: Literal["y", "z"]) -> Shape:
    """Return the mesh at ``path``; ``content``, its checksum, is part of the cache's key."""
    return load_mesh(path, up)


def load_mesh(path: Path, up: Literal["y", "z"] = "y") -> Shape:
    """Return a shape from an OFF file, or an OBJ file with its material file's diffuse colours.

    The mesh is turned to +z up, centred over its base and scaled to a common size. Reads no
    textures, and no file other than the ``.mtl`` files in the folder of the OBJ.

    Raises:
        ValueError: the file is missing, too large, or damaged; names the file and the reason.
    """
    import trimesh  # takes a second to import, needed for mesh files only

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
            f"{path}: not a readable {kind.upper()} mesh ({error}); repair or remove the file"
        ) from error
    faces = sum(len(f) for _, f, _ in meshes)
    if not 0 < faces <= MAX_FACES:
        raise ValueError(
            f"{path}: the mesh has {faces} faces, allowed are 1 to {MAX_FACES}; "
            "simplify or remove it"
        )
    parts = []
    for vertices, triangles, colour in meshes:
        if triangles.min() < 0 or triangles.max() >= len(vertices):
            raise ValueError(
                f"{path}: a face names a vertex that does not exist; repair or remove the file"
            )
        used, compact = np.unique(triangles, return_inverse=True)
        vertices = np.asarray(vertices, np.float64)[used]
        if not np.isfinite(vertices).all() or np.abs(vertices).max() > 1e9:
            raise ValueError(
                f"{path}: a vertex coordinate is not a finite number of at most 1e9; repair or "
                "remove the file"
            )
        upright = vertices if up == "z" else vertices[:, [0, 2, 1]] * (1, -1, 1)
        surface = Surface(upright, compact.reshape(-1, 3).astype(np.int64))
        parts.append((surface, Material(colour, gloss=0.25)))
    points = np.concatenate([surface.vertices for surface, _ in parts])
    low, high = points.min(axis=0), points.max(axis=0)
    diagonal = np.linalg.norm(high - low)
    if diagonal == 0:
        raise ValueError(f"{path}: the mesh is a single point; repair or remove the file")
    x, y, _ = -(low + high) / 2
    scale = _DIAGONAL / diagonal
    return assemble((s.moved(x, y).scaled(scale, scale, scale), m) for s, m in parts)


def mesh_files(folder: Path) -> dict[str, list[str]]:
    """Return the names of the mesh files of each category, relative to ``folder``.

    Raises:
        ValueError: there are no mesh files.
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
            f"meshes: {folder} holds no <category>/<name>.obj or .off, "
            "<class>/<model>/models/model_normalized.obj or <class>/<model>/model.obj: name the "
            "folder above the categories"
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
            raise ValueError(
                f"{path}: has {size} bytes, allowed are {MAX_FILE_BYTES}; simplify or "
                "remove the file"
            )
        return path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error}); restore the file") from error


def _material_files(path: Path, text: bytes) -> list[str]:
    if path.suffix.lower() != ".obj":
        return []
    names = [
        name.decode("utf-8", "replace") for name in re.findall(rb"(?m)^mtllib[ \t]+(\S+)", text)
    ]
    folder = path.parent.resolve()
    for name in names:
        # Checked after links are resolved, because a link may point anywhere.
        stays = is_relative_name(name) and (folder / name).resolve().is_relative_to(folder)
        if not stays or not name.lower().endswith(".mtl"):
            raise ValueError(
                f"{path}: its material file {name!r} is not a .mtl file in the same folder; "
                "move it there or remove the line mtllib"
            )
    return [name for name in names if (folder / name).is_file()]


def _diffuse(mesh) -> tuple[float, float, float]:
    material = getattr(mesh.visual, "material", None)
    colour = getattr(material, "diffuse", None)
    if colour is None:
        return (0.6, 0.6, 0.62)
    return tuple(float(c) / 255 for c in np.asarray(colour)[:3])
