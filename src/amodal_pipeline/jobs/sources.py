"""Sources of data sets, of which an environment chooses one kind. Imports nothing heavy."""

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from amodal_pipeline.compose.config import ComposeConfig, ComposedClipsConfig, PoolConfig
from amodal_pipeline.layers.configs import Strict
from amodal_pipeline.scenes.config import ScenesConfig
from amodal_pipeline.scenes.moving_config import MovingScenesConfig
from amodal_pipeline.scenes.view_config import RenderedArchiveConfig, ViewsConfig


class AnnotatedFile(Strict):
    """A file (or folder) of annotations and the folder of its images, relative to ``raw_root``.

    Data sets are unpacked in different ways: of several names the first that exists is taken.
    """

    annotations: tuple[str, ...] = Field(min_length=1)
    images: tuple[str, ...] = Field(min_length=1)


class RenderedScenes(Strict):
    """Procedural scenes, rendered if missing: the numbers of ``train`` and ``val`` images."""

    config: ScenesConfig = ScenesConfig()
    train: int = Field(5_000, gt=0)
    val: int = Field(500, gt=0)


class RenderedMovingScenes(Strict):
    """Clips of moving scenes, rendered if missing: the numbers of ``train`` and ``val`` clips."""

    config: MovingScenesConfig = MovingScenesConfig()
    train: int = Field(72, gt=0)
    val: int = Field(20, gt=0)


class RenderedViews(Strict):
    """Views of single objects, rendered if missing: the numbers of ``train`` and ``val`` objects,
    limited by the number of meshes."""

    config: ViewsConfig = ViewsConfig()
    train: int = Field(168, gt=0)
    val: int = Field(56, gt=0)


class RenderedArchives(Strict):
    """``<class>_<split>_images.npz`` of rendered ShapeNet objects, in a folder below ``raw_root``.

    Of several names the first folder that exists is taken.
    """

    config: RenderedArchiveConfig = RenderedArchiveConfig()
    folder: tuple[str, ...] = Field((".",), min_length=1)
    obtain: str = ""


class ComposedPhotographs(Strict):
    """Photographs of a modal COCO-style data set with occluders pasted over their objects.

    ``pool``: how the photographs of both files are divided anew; null: as the files say.
    """

    config: ComposeConfig = ComposeConfig()
    pool: PoolConfig | None = None
    train: AnnotatedFile
    val: AnnotatedFile
    obtain: str = ""


class ComposedClips(Strict):
    """Clips of photographs of a modal COCO-style data set over which cut-outs of objects move."""

    config: ComposedClipsConfig = ComposedClipsConfig()
    train: AnnotatedFile
    val: AnnotatedFile
    obtain: str = ""


class Splits(Strict):
    """One or several files per split."""

    train: tuple[AnnotatedFile, ...] = Field(min_length=1)
    val: tuple[AnnotatedFile, ...] = Field(min_length=1)
    test: tuple[AnnotatedFile, ...] = ()

    @field_validator("train", "val", "test", mode="before")
    @classmethod
    def _one_file_is_a_list_of_one(cls, value: Any) -> Any:
        return [value] if isinstance(value, dict) else value


class AnnotatedImages(Splits):
    """A published data set.

    ``obtain`` says where to get its files and under which licence; errors of missing files show it.
    ``absent_images``: images that are missing, damaged or of another size than the annotations say
    are an error ("error"), rejected with their objects ("reject"), or not checked ("unchecked", for
    tables and audits without images).
    """

    absent_images: Literal["error", "reject", "unchecked"] = "error"
    obtain: str = ""


class Cocoa(AnnotatedImages):
    """COCOA. ``annotators``: of several annotators of an image take the first, or make an image of
    each. ``regions``: take all regions, or only things or stuff."""

    annotators: Literal["first", "all"] = "first"
    regions: Literal["all", "things", "stuff"] = "all"


class CocoaCls(AnnotatedImages):
    """COCOA-cls: its ready files, or, where those are absent, the merge of COCOA with COCO 2014.

    ``coco_instances`` are COCO's instance files of each split, relative to ``raw_root``;
    ``cocoa`` the files of COCOA.
    """

    cocoa: Splits
    coco_instances: dict[Literal["train", "val", "test"], tuple[str, ...]]

    @model_validator(mode="after")
    def _can_be_merged(self) -> "CocoaCls":
        for split in ("train", "val", "test"):
            files = getattr(self.cocoa, split)
            if len(files) > 1:
                raise ValueError(f"cocoa.{split}: only one file of COCOA per split can be merged")
            if files and not self.coco_instances.get(split):
                raise ValueError(f"coco_instances.{split}: name COCO's instances of the split")
        return self


class FishTracks(Strict):
    """When a fish of FISHBOWL is tracked: see ``annotations.fishbowl.TrackRules``."""

    amodal_above: int = Field(400, ge=0)
    visible_above: int = Field(64, ge=0)
    border: int = Field(16, ge=0)


class Fishbowl(AnnotatedImages):
    """FISHBOWL: folders of the generator's files, or pickles that SaVos's rules made of them."""

    tracks: FishTracks = FishTracks()


class Source(Strict):
    """The source of a data set: the section that ``kind`` names. Other sections are ignored."""

    kind: Literal[
        *("scenes", "moving_scenes", "views", "nmr", "composed", "composed_clips"),
        *("coco_amodal", "coco_modal", "kins", "cocoa", "cocoa_cls", "d2sa"),
        *("fishbowl", "movid_a"),
    ]
    scenes: RenderedScenes | None = None
    moving_scenes: RenderedMovingScenes | None = None
    views: RenderedViews | None = None
    nmr: RenderedArchives | None = None
    composed: ComposedPhotographs | None = None
    composed_clips: ComposedClips | None = None
    coco_amodal: AnnotatedImages | None = None
    coco_modal: AnnotatedImages | None = None
    kins: AnnotatedImages | None = None
    cocoa: Cocoa | None = None
    cocoa_cls: CocoaCls | None = None
    d2sa: AnnotatedImages | None = None
    fishbowl: Fishbowl | None = None
    movid_a: AnnotatedImages | None = None

    @model_validator(mode="after")
    def _has_its_section(self) -> "Source":
        if self.chosen is None:
            raise ValueError(
                f"source.kind is {self.kind}, but there is no section source.{self.kind}"
            )
        return self

    @property
    def chosen(
        self,
    ) -> (
        RenderedScenes
        | RenderedMovingScenes
        | RenderedViews
        | RenderedArchives
        | ComposedPhotographs
        | ComposedClips
        | AnnotatedImages
    ):
        """Return the section that ``kind`` names."""
        return getattr(self, self.kind)


class AuditConfig(Strict):
    """``published``: figures of the data set's paper by split, under the audit's names.

    A split that is null has none.
    """

    published: dict[Literal["train", "val", "test"], dict[str, float]] = Field({})

    @field_validator("published", mode="before")
    @classmethod
    def _null_is_left_out(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {split: figures for split, figures in value.items() if figures is not None}

    @field_validator("published")
    @classmethod
    def _can_be_compared(cls, value: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
        if value:
            # Checked here, not after the conversion of a hundred thousand records.
            from amodal_pipeline.annotations.audit import check_published

            for names in value.values():
                check_published(names)
        return value
