"""Configuration of moving scenes. Imports nothing heavy, because Kedro reads it at start-up."""

from typing import Self

from pydantic import Field, model_validator

from amodal_pipeline.scenes.config import MAX_OBJECTS, PlacedObjectsConfig


class MovingScenesConfig(PlacedObjectsConfig):
    """Parameters of the embedded clips; the caller gives the sizes of its splits.

    A clip is of one of two kinds. ``orbit`` resembles MOViD-A (C2F-Seg's paper, sec. 4.1): the
    objects rest, and the camera goes around them on a low circle. ``glide`` resembles FISHBOWL
    (Tangemann et al. 2021): the camera rests, and objects move in front of and behind each other
    and behind scenery, which has no label.
    """

    image_size: int = Field(128, ge=32, le=4096)
    """Side of the square pictures, pixels."""
    frames: int = Field(16, ge=2, le=1000)
    """Pictures of a clip."""
    orbits: float = Field(0.5, ge=0, le=1)
    """Chance that a clip is of the kind ``orbit``."""
    minimum_objects: int = Field(5, ge=1, le=MAX_OBJECTS)
    maximum_objects: int = Field(8, ge=1, le=MAX_OBJECTS)
    crowding: float = Field(0.85, ge=0, le=1)
    """Chance that an object is put in front of or behind another (``orbit``), or passes there
    (``glide``), as the camera sees it, and not anywhere on the ground."""
    arc: tuple[float, float] = (60.0, 120.0)
    """Range of the angle that the camera goes around, degrees."""
    elevation: tuple[float, float] = (6.0, 22.0)
    """Range of the camera's angle above the ground, degrees: low, so that objects hide others."""
    field_of_view: tuple[float, float] = (32.0, 50.0)
    """Range of the camera's opening angle, degrees."""
    travel: tuple[float, float] = (0.7, 2.0)
    """Range of the distance that a moving object covers in a clip, world units (objects are 0.3 to
    1.3 high)."""
    turn: tuple[float, float] = (0.0, 150.0)
    """Range of the angle that a moving object turns in a clip, degrees, to either side."""
    resting: float = Field(0.2, ge=0, le=1)
    """Chance that an object of a ``glide`` clip does not move."""
    scenery: tuple[int, int] = (0, 2)
    """Range of the number of rocks, pillars and fences in a ``glide`` clip."""
    minimum_amodal_pixels: int = Field(60, ge=1)
    """An object with a smaller amodal mask in every frame is removed from the clip."""
    minimum_visible_pixels: int = Field(16, ge=1)
    """Where an object shows fewer pixels it is marked ``ignore`` in that frame."""
    minimum_seen: float = Field(0.5, ge=0, le=1)
    """Objects that show ``minimum_visible_pixels`` in a smaller share of the frames are removed
    from the clip, those seen least first."""
    flow: bool = True
    """Write the true optical flow to the next and to the previous frame."""
    depth: bool = True
    """Write the true depth."""

    @model_validator(mode="after")
    def _is_within_limits(self) -> Self:
        limits = {
            "arc": (0, 360),
            "elevation": (1, 85),
            "field_of_view": (10, 100),
            "travel": (0, 10),
            "turn": (0, 720),
            "scenery": (0, 20),
        }
        for name, (lowest, highest) in limits.items():
            low, high = getattr(self, name)
            if not lowest <= low <= high <= highest:
                raise ValueError(f"{name} must be a range within {lowest} to {highest}")
        return self
