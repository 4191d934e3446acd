"""Where a data set comes from. An environment chooses one kind; imports nothing heavy."""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field, RootModel

from amodal_pipeline.compose.config import ComposeConfig
from amodal_pipeline.layers.configs import Strict
from amodal_pipeline.scenes.config import ScenesConfig


class CocoFile(Strict):
    """A COCO-style file and the folder of its images, both relative to ``raw_root``."""

    annotations: str
    images: str


class RenderedScenes(Strict):
    """Procedural scenes, rendered when they are not there yet: ``train`` and ``val`` images."""

    kind: Literal["scenes"] = "scenes"
    scenes: ScenesConfig = ScenesConfig()
    train: int = Field(5_000, gt=0)
    val: int = Field(500, gt=0)


class ComposedPhotographs(Strict):
    """Photographs of a modal COCO-style data set with occluders pasted over their objects."""

    kind: Literal["composed"] = "composed"
    compose: ComposeConfig = ComposeConfig()
    train: CocoFile
    val: CocoFile


class CocoAmodal(Strict):
    """Flat COCO-style files whose ``segmentation`` is amodal and that have visible masks too."""

    kind: Literal["coco_amodal"] = "coco_amodal"
    train: CocoFile
    val: CocoFile


class Source(
    RootModel[
        Annotated[RenderedScenes | ComposedPhotographs | CocoAmodal, Field(discriminator="kind")]
    ]
):
    """The source of a data set, told apart by its ``kind``."""

    model_config = ConfigDict(frozen=True)
