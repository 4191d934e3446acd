"""Configuration of procedural scenes. Imports nothing heavy, because Kedro reads it at start-up."""

from typing import Self

from pydantic import Field, model_validator

from amodal_pipeline.layers.configs import LocalPath, Seed, Strict

MAX_OBJECTS = 99  # instance ids have two decimal digits for the object


class PlacedObjectsConfig(Strict):
    """What still scenes and clips have in common: which objects, and how they are drawn."""

    seed: Seed = 0
    minimum_objects: int = Field(ge=1, le=MAX_OBJECTS)
    maximum_objects: int = Field(ge=1, le=MAX_OBJECTS)
    categories: tuple[str, ...] | None = None
    """Names to use, in the order of their ids; None uses all."""
    families: bool = True
    """Use the parametric mesh families."""
    meshes: LocalPath | None = None
    """Folder of OBJ files, ``<category>/<name>.obj`` with +Y up; used in addition to the families,
    or instead of them with ``families: false``."""
    minimum_order_pixels: int = Field(1, ge=1)
    """Least number of pixels on which one object must be in front of another for an order pair."""
    shadows: bool = True
    antialiasing: bool = True

    @model_validator(mode="after")
    def _can_be_placed(self) -> Self:
        if self.minimum_objects > self.maximum_objects:
            raise ValueError("minimum_objects is above maximum_objects: lower it")
        if not self.families and self.meshes is None:
            raise ValueError(
                "families is false and meshes names no folder, so there is nothing to place: set "
                "one of them"
            )
        if self.categories is not None and (
            not self.categories or len(set(self.categories)) < len(self.categories)
        ):
            raise ValueError("categories is empty or names one twice: list each name once")
        return self


class ScenesConfig(PlacedObjectsConfig):
    """Parameters of the embedded data set; the caller gives the sizes of its splits."""

    image_size: int = Field(320, ge=32, le=4096)
    """Side of the square pictures, pixels."""
    minimum_objects: int = Field(4, ge=1, le=MAX_OBJECTS)
    maximum_objects: int = Field(14, ge=1, le=MAX_OBJECTS)
    crowding: float = Field(0.7, ge=0, le=1)
    """Chance that an object is put close in front of, behind or next to another, as the camera sees
    it, and not anywhere on the ground: the higher, the heavier the occlusion."""
    elevation: tuple[float, float] = (7.0, 38.0)
    """Range of the camera's angle above the ground, degrees."""
    field_of_view: tuple[float, float] = (28.0, 55.0)
    """Range of the camera's opening angle, degrees."""
    minimum_amodal_pixels: int = Field(150, ge=1)
    """An object with a smaller amodal mask is removed from the scene."""
    max_occlusion_rate: float = Field(0.9, ge=0, le=1)
    """Objects with a higher occlusion rate are removed from the scene, the most occluded first; 1
    keeps all, including fully hidden ones."""
    minimum_visible_pixels: int = Field(40, ge=0)
    """An object that shows fewer pixels stays, but is marked ``ignore``."""

    @model_validator(mode="after")
    def _is_within_limits(self) -> Self:
        if not 1 <= self.elevation[0] <= self.elevation[1] <= 85:
            raise ValueError("elevation must be a range within 1 to 85 degrees")
        if not 10 <= self.field_of_view[0] <= self.field_of_view[1] <= 100:
            raise ValueError("field_of_view must be a range within 10 to 100 degrees")
        return self
