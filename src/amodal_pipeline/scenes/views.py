"""Rendering of splits of single objects seen from all around, some occluded, and their table."""

import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Self

import numpy as np
from joblib import Parallel, delayed

from amodal_pipeline.annotations import AmodalAnnotations
from amodal_pipeline.annotations.processes import working
from amodal_pipeline.annotations.storage import is_relative_name
from amodal_pipeline.annotations.validation import Finding
from amodal_pipeline.scenes.camera import Camera
from amodal_pipeline.scenes.families import FAMILIES
from amodal_pipeline.scenes.models import (
    ShapeSource,
    build_shape,
    mesh_checksum,
    mesh_files,
    wanted_categories,
)
from amodal_pipeline.scenes.render import Cutout, PlacedShape, render_cutouts
from amodal_pipeline.scenes.scene import generator
from amodal_pipeline.scenes.shading import Surroundings
from amodal_pipeline.scenes.shapes import Material, Shape
from amodal_pipeline.scenes.view_config import ViewsConfig
from amodal_pipeline.scenes.view_records import (
    Candidate,
    ObjectViews,
    Viewpoint,
    existing,
    reported,
    table_of,
    write_object,
)

VIEWS_VERSION = 3
"""Raise this with every change that alters a picture or a mask: old ones are rendered again."""

_OCCLUDERS, _SIDES = 4, 2  # individuals that may occlude an object, views of each
_HELD_BACK = 0.2  # share of a category's mesh files that is kept from training

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Individuals:
    """The shapes of one split. Splits share neither mesh files nor individuals of a family.

    ``files`` are those of the split by category, in their order of use.
    """

    config: ViewsConfig
    split: str
    categories: tuple[str, ...]
    families: frozenset[str]
    files: dict[str, tuple[str, ...]]

    @classmethod
    def of(cls, config: ViewsConfig, split: str) -> Self:
        """Read the families and the mesh folder of ``config``.

        A fifth of the files of a category, and at least one, is kept from training; which ones
        depends on the seed and their names. If a category is also a family and has a single file,
        that file is used in training.

        Raises:
            ValueError: the folder has no meshes, ``categories`` names one that does not exist, or
                a category without a family has a single file.
        """
        families = tuple(FAMILIES) if config.families else ()
        found = mesh_files(Path(config.meshes)) if config.meshes is not None else {}
        wanted = wanted_categories(config.categories, families, found)
        files = {}
        for category in wanted:
            names = sorted(found.get(category, ()), key=lambda n: _digest(f"{config.seed}/{n}"))
            held = max(1, round(_HELD_BACK * len(names))) if len(names) > 1 else 0
            if category not in families and not held:
                raise ValueError(
                    f"{config.meshes}: {names[0]} is the only mesh of {category!r}, which leaves "
                    "none to validate on: add another, or leave this category out of categories"
                )
            files[category] = tuple(names[held:] if split == "train" else names[:held])
        return cls(config, split, wanted, frozenset(families), files)

    def __iter__(self) -> Iterator[ShapeSource]:
        """Yield the objects in the order of their numbers, the categories taking turns.

        Every mesh file is used once, alternating with individuals of the family if the category
        has one. Never ends if any category has a family.
        """
        index = rank = 0
        while True:
            before = index
            for category in self.categories:
                source = self._individual(category, rank, index)
                if source is not None:
                    yield source
                    index += 1
            if index == before:
                return
            rank += 1

    def _individual(self, category: str, rank: int, index: int) -> ShapeSource | None:
        files, family = self.files[category], category in self.families
        place = rank // 2 if family else rank
        if place < len(files) and (rank % 2 or not family):
            return self._of_file(category, files[place])
        if not family:
            return None
        return _of_family(category, generator(self.config.seed, self.split, index))

    def others(self, own: ShapeSource, index: int) -> tuple[ShapeSource, ...]:
        """Return individuals that may occlude object ``index``, from its split and not itself."""
        rng = generator(self.config.seed, self.split, index, 1)
        known = [
            c
            for c in self.categories
            if c in self.families or any(name != own.mesh_file for name in self.files[c])
        ]
        out = []
        for _ in range(_OCCLUDERS if known else 0):
            category = known[rng.integers(len(known))]
            files = [name for name in self.files[category] if name != own.mesh_file]
            if category in self.families and (not files or rng.uniform() < 0.5):
                out.append(_of_family(category, rng))
            else:
                out.append(self._of_file(category, files[rng.integers(len(files))]))
        return tuple(out)

    def _of_file(self, category: str, name: str) -> ShapeSource:
        return ShapeSource(category=category, mesh_file=name, up=self.config.up)


def render_views(
    config: ViewsConfig,
    split: str,
    count: int,
    folder: str | Path,
    workers: int = 1,
    on_progress: Callable[[int, int], None] | None = None,
    dataset: str = "views",
) -> AmodalAnnotations:
    """Render the views of ``count`` objects into ``<folder>/<split>/``, return their annotations.

    Pictures are ``<object>/<view>.png``, white where nothing is drawn, with an alpha channel, next
    to ``<object>.json`` (:class:`.view_records.ObjectViews`). They depend on the seed, the split,
    the number of the object and the mesh files only; existing ones made in the same way are kept.

    Args:
        config: what the views are like.
        split: name of the split, a plain folder name; "train", or one that is not trained on.
        count: number of objects; fewer are rendered if categories run out of mesh files.
        workers: processes; each computes in one thread.
        on_progress: called with (done, total) after every object.

    Returns:
        The validated table (:func:`.view_records.table_of`). Mesh files that cannot be read are
        in ``rejected``.

    Raises:
        ValueError: ``split`` is not a plain folder name, ``count`` is below 1, no mesh file can be
            read, or :meth:`Individuals.of` fails.
    """
    if not is_relative_name(split) or len(Path(split).parts) != 1:
        raise ValueError(f"split {split!r} is not a plain folder name; use one such as 'train'")
    if count < 1:
        raise ValueError(f"split {split}: {count} objects asked for, at least 1 is needed")
    individuals, target = Individuals.of(config, split), Path(folder) / split
    target.mkdir(parents=True, exist_ok=True)
    sources = list(islice(individuals, count))
    if len(sources) < count:
        _log.warning(
            "%s %s: %d objects asked for, %d are rendered: there are no more mesh files; add some "
            "or lower the count",
            dataset,
            split,
            count,
            len(sources),
        )
    tasks = (
        (config, split, index, source, individuals.others(source, index), target)
        for index, source in enumerate(sources)
    )
    made = reported(_run(tasks, min(workers, len(sources))), len(sources), on_progress)
    return table_of(made, individuals.categories, dataset, split, Path(folder), "views")


def render_object(
    config: ViewsConfig,
    split: str,
    index: int,
    source: ShapeSource,
    others: Sequence[ShapeSource],
    target: Path,
) -> ObjectViews | Finding:
    """Render the views of one object below ``target``, or keep existing ones; return the record.

    Returns a finding if its mesh cannot be read.
    """
    folder = Path(config.meshes) if config.meshes is not None else None
    source, *others = (_identified(s, folder) for s in (source, *others))
    described = {
        "version": VIEWS_VERSION,
        "config": config.model_dump(mode="json", exclude={"meshes"}),
        "sources": [s.model_dump() for s in (source, *others)],
    }
    fingerprint = _digest(json.dumps(described, sort_keys=True))
    record = existing(target, split, index, fingerprint)
    if record is not None:
        return record
    try:
        shape = build_shape(source, folder)
    except ValueError as error:
        return {
            "file": source.mesh_file,
            "record": f"object {index}",
            "field": "mesh",
            "reason": str(error),
            "share": None,
        }
    rng = generator(config.seed, split, index, 2)
    numbers = config.views_of(split)
    seen = zip(numbers, *_pictures(shape, numbers, config, rng), strict=True)
    candidates: list[Candidate] = []
    for other in others:
        try:
            front = build_shape(other, folder)
        except ValueError:  # reported where this mesh is the object itself
            continue
        # Views that are held out are not used for occluders either.
        sides = [numbers[k] for k in rng.integers(len(numbers), size=_SIDES)]
        pictures = zip(*_pictures(front, sides, config, rng), strict=True)
        candidates += [(other, viewpoint, cutout) for viewpoint, cutout in pictures]
    return write_object(
        target, split, index, fingerprint, source, list(seen), candidates, config, rng
    )


def _run(tasks: Iterator[tuple], workers: int) -> Iterator[ObjectViews | Finding]:
    if workers <= 1:
        for task in tasks:
            yield render_object(*task)
        return
    with working(workers):
        yield from Parallel(return_as="generator")(delayed(render_object)(*task) for task in tasks)


def _pictures(
    shape: Shape, numbers: Sequence[int], config: ViewsConfig, rng: np.random.Generator
) -> tuple[list[Viewpoint], list[Cutout]]:
    viewpoints = [
        Viewpoint(
            azimuth=360 / config.azimuths * int(number),
            elevation=float(rng.uniform(*config.elevation)),
            distance=config.distance,
            field_of_view=config.field_of_view,
        )
        for number in numbers
    ]
    shots = [(_camera(v, config.image_size), _soft_light(v.azimuth, rng)) for v in viewpoints]
    return viewpoints, list(render_cutouts(_centred(shape, config.radius), shots))


def _centred(shape: Shape, radius: float) -> PlacedShape:
    """Return the shape placed with its bounding box's middle at the origin.

    It is scaled so that its farthest vertex is ``radius`` from there.
    """
    middle = shape.bounds.mean(axis=0)
    scale = radius / np.sqrt(((shape.vertices - middle) ** 2).sum(axis=1).max())
    pose = np.diag([scale, scale, scale, 1.0])
    pose[:3, 3] = -scale * middle
    return PlacedShape(shape, pose)


def _camera(viewpoint: Viewpoint, size: int) -> Camera:
    return Camera.looking_at(np.zeros(3), **viewpoint.model_dump(), width=size, height=size)


def _soft_light(azimuth: float, rng: np.random.Generator) -> Surroundings:
    """Return white surroundings with a weak light, placed anew in every view.

    A fixed light would tell from which side the object is seen.
    """
    turn = np.radians(azimuth + rng.uniform(-100, 100))
    height = np.radians(rng.uniform(25, 70))
    strength = rng.uniform(0.45, 0.75)
    white = (1.0, 1.0, 1.0)
    return Surroundings(
        ground=Material(white),
        wall=None,
        wall_distance=0.0,
        horizon=white,
        zenith=white,
        to_sun=(
            float(np.cos(turn) * np.cos(height)),
            float(np.sin(turn) * np.cos(height)),
            float(np.sin(height)),
        ),
        sun=(strength,) * 3,
        ambient=rng.uniform(0.36, 0.48),
        softness=0.0,
    )


def _of_family(category: str, rng: np.random.Generator) -> ShapeSource:
    return ShapeSource(category=category, family_seed=int(rng.integers(2**53)))


def _identified(source: ShapeSource, folder: Path | None) -> ShapeSource:
    """Return the source with the checksum of its file, if that can be read."""
    if source.mesh_file is None or folder is None:
        return source
    try:
        found = mesh_checksum(folder, source.mesh_file)
    except ValueError:
        return source
    return source.model_copy(update={"mesh_checksum": found})


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
