"""Configuration of single-object views. Imports nothing heavy: Kedro reads it at start-up."""

from typing import Literal, Self

import numpy as np
from pydantic import Field, model_validator

from amodal_pipeline.layers.configs import LocalPath, Seed, Strict

SYNSETS = {
    "02691156": "airplane",
    "02828884": "bench",
    "02933112": "cabinet",
    "02958343": "car",
    "03001627": "chair",
    "03211117": "display",
    "03636649": "lamp",
    "03691459": "speaker",
    "04090263": "rifle",
    "04256520": "sofa",
    "04379243": "table",
    "04401088": "phone",
    "04530566": "vessel",
}
"""ShapeNet's thirteen classes of the published comparisons, by their WordNet ids."""


class OcclusionConfig(Strict):
    """Which views are occluded by another individual, and how much."""

    seed: Seed = 0
    occluded: float = Field(0.7, ge=0, le=1)
    """Share of the views that are occluded."""
    occlusion: tuple[float, float] = (0.1, 0.6)
    """Range of their occlusion rate."""

    @model_validator(mode="after")
    def _rates_can_be_reached(self) -> Self:
        if not 0 < self.occlusion[0] <= self.occlusion[1] < 1:
            raise ValueError("occlusion must be a range of rates above 0 and below 1")
        return self


class ViewsConfig(OcclusionConfig):
    """Pictures of one object each, seen from all around, made from meshes by category.

    By default the camera is that of SoftRas' pictures of ShapeNet (Liu et al., ICCV 2019): 24
    azimuths, elevation 30 degrees, distance 2.732, opening angle 30 degrees. An object's bounding
    box is centred on the origin, and its farthest vertex lies ``radius`` from there, so that no
    view cuts it off.
    """

    image_size: int = Field(64, ge=16, le=1024)
    """Side of the square pictures, pixels."""
    azimuths: int = Field(24, ge=1, le=360)
    """Viewpoints around the object, evenly spaced; the first lies on its +x axis."""
    elevation: tuple[float, float] = (30.0, 30.0)
    """Range of the camera's angle above the horizontal, degrees; drawn for every view."""
    distance: float = Field(2.732, gt=0)
    field_of_view: float = Field(30.0, ge=5, le=100)
    """Opening angle across the picture, degrees."""
    radius: float = Field(0.5, gt=0)
    categories: tuple[str, ...] | None = None
    """Names to use, in the order of their ids; None uses all."""
    families: bool = True
    """Use the parametric mesh families."""
    meshes: LocalPath | None = None
    """Folder of mesh files (docs/data_sets.md has the layouts); used in addition to the families,
    or instead of them with ``families: false``."""
    up: Literal["y", "z"] = "y"
    """The axis of mesh files that points up: y in ShapeNet, z in PASCAL3D+."""
    held_out: tuple[tuple[float, float], ...] = ()
    """Ranges of azimuth, degrees, that training does not show; other splits show only these."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if not self.families and self.meshes is None:
            raise ValueError(
                "families is false and meshes names no folder, so there is nothing to show: set "
                "one of them"
            )
        if not -85 <= self.elevation[0] <= self.elevation[1] <= 85:
            raise ValueError("elevation must be a range within -85 to 85 degrees")
        largest = self.distance * np.sin(np.radians(self.field_of_view / 2))
        if self.radius > largest:
            raise ValueError(
                f"radius {self.radius} does not fit into the picture: at this distance and field "
                f"of view it may be at most {largest:.3f}"
            )
        if self.categories is not None and (
            not self.categories or len(set(self.categories)) < len(self.categories)
        ):
            raise ValueError("categories is empty or names one twice: list each name once")
        if any(not 0 <= low <= high < 360 for low, high in self.held_out):
            raise ValueError("held_out: every range must be 0 <= low <= high < 360 degrees")
        for split in ("train", "val"):
            if not self.views_of(split):
                raise ValueError(
                    f"held_out leaves none of the {self.azimuths} azimuths for {split}: change it"
                )
        return self

    def views_of(self, split: str) -> tuple[int, ...]:
        """Return which of the azimuths, counted from 0, a split shows."""
        step = 360 / self.azimuths
        held = [
            any(low <= view * step <= high for low, high in self.held_out)
            for view in range(self.azimuths)
        ]
        wanted = bool(self.held_out) and split != "train"
        return tuple(view for view in range(self.azimuths) if held[view] == wanted)


class RenderedArchiveConfig(OcclusionConfig):
    """Pictures rendered by others, as SoftRas and the Neural 3D Mesh Renderer distribute them.

    ``classes`` maps the ids at the start of file names to names, in the order of category ids.
    """

    classes: dict[str, str] = Field(SYNSETS, min_length=1)
    objects_per_class: int | None = Field(None, gt=0)
    """Number of objects used from the start of every file; None uses all."""
