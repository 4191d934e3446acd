"""Where a data set comes from. An environment chooses one kind; imports nothing heavy."""

from typing import Literal

from pydantic import Field, model_validator

from amodal_pipeline.compose.config import ComposeConfig
from amodal_pipeline.layers.configs import Strict
from amodal_pipeline.scenes.config import ScenesConfig


class CocoFile(Strict):
    """A COCO-style file and the folder of its images, both relative to ``raw_root``.

    Data sets get unpacked in different ways: of several names the first that exists is taken.
    """

    annotations: tuple[str, ...] = Field(min_length=1)
    images: tuple[str, ...] = Field(min_length=1)


class RenderedScenes(Strict):
    """Procedural scenes, rendered when they are not there yet: ``train`` and ``val`` images."""

    config: ScenesConfig = ScenesConfig()
    train: int = Field(5_000, gt=0)
    val: int = Field(500, gt=0)


class ComposedPhotographs(Strict):
    """Photographs of a modal COCO-style data set with occluders pasted over their objects."""

    config: ComposeConfig = ComposeConfig()
    train: CocoFile
    val: CocoFile


class CocoAmodal(Strict):
    """Flat COCO-style files whose ``segmentation`` is amodal and that have visible masks too."""

    train: CocoFile
    val: CocoFile


class Source(Strict):
    """``kind`` names the section that counts; an environment need not clear the others."""

    kind: Literal["scenes", "composed", "coco_amodal"]
    scenes: RenderedScenes | None = None
    composed: ComposedPhotographs | None = None
    coco_amodal: CocoAmodal | None = None

    @model_validator(mode="after")
    def _has_its_section(self) -> "Source":
        if self.chosen is None:
            raise ValueError(
                f"source.kind is {self.kind}, but there is no section source.{self.kind}"
            )
        return self

    @property
    def chosen(self) -> RenderedScenes | ComposedPhotographs | CocoAmodal:
        """The section that ``kind`` names."""
        return getattr(self, self.kind)
