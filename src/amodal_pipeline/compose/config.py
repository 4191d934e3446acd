"""Configuration of composed data sets."""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, Field, model_validator

from amodal_pipeline.layers.configs import Seed, Strict

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]


def _check_ranges(config: BaseModel, *names: str) -> None:
    for name in names:
        low, high = getattr(config, name)
        if low > high:
            raise ValueError(f"{name}: the lowest value {low} is above the highest {high}")


class ComposeConfig(Strict):
    """Parameters of :func:`amodal_pipeline.compose.dataset.compose_split`.

    Ranges are (lowest, highest); values are drawn from them uniformly.

    Attributes:
        seed: seed of all random choices.
        composites_per_image: number of pictures made from each source photograph.
        occluders: number of objects pasted on one picture.
        occlusion_rates: wanted share of a target's amodal mask that is hidden.
        occlusion_weights: how often each part of ``occlusion_rates`` is wanted: the range is
            divided into as many equal bins as there are weights. One weight: uniform.
        same_image_probability: how often an occluder is cut from the same picture that it is
            pasted on, if that has a suitable object.
        size_to_target: square root of an occluder's area divided by its target's.
        scale: limits of the factor by which a cutout may be shrunk or enlarged to get that size.
        flip_probability: how often a cutout is mirrored left to right.
        edge_softness: standard deviation of the blur of a cutout's edge, in pixels; 0: hard.
        match_brightness: adapt luminance and contrast of a cutout to where it is pasted.
        min_source_area: smallest mask of an occluder, and of a target, in pixels at working size.
        touching_is_incomplete: treat an original object whose mask touches another's as one that
            may lack hidden parts. If hardly any object is isolated, false lets such objects be
            pasted and covered, as if each mask were complete.
        exclude_incomplete: mark original objects whose mask may lack hidden parts as ``ignore``,
            so that they count neither for nor against a method.
        class_agnostic: use one category "object" with id 1 instead of the source's.
        dual_annotation: splits that also have every photograph as it was, after the composed
            pictures, so that each object is shown occluded and whole (SAMEO, arXiv 2503.06261).
        max_side: photographs with a longer side are scaled down to it, in pixels.
        image_format, jpeg_quality: file format of the pictures; PNG is lossless and larger.
    """

    seed: Seed = 0
    composites_per_image: int = Field(1, ge=1)
    occluders: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]] = (2, 5)
    occlusion_rates: tuple[Share, Share] = (0.05, 0.5)
    occlusion_weights: tuple[Annotated[float, Field(ge=0)], ...] = (1.0,)
    same_image_probability: Share = 0.2
    size_to_target: tuple[Positive, Positive] = (0.6, 1.4)
    scale: tuple[Positive, Positive] = (0.2, 1.5)
    flip_probability: Share = 0.5
    edge_softness: float = Field(1.0, ge=0, le=20)
    match_brightness: bool = True
    min_source_area: int = Field(1024, ge=1)
    touching_is_incomplete: bool = True
    exclude_incomplete: bool = True
    class_agnostic: bool = False
    dual_annotation: tuple[str, ...] = ()
    max_side: int = Field(640, ge=32)
    image_format: Literal["jpeg", "png"] = "jpeg"
    jpeg_quality: int = Field(95, ge=1, le=100)

    @model_validator(mode="after")
    def _check(self) -> Self:
        _check_ranges(self, "occluders", "occlusion_rates", "size_to_target", "scale")
        if not sum(self.occlusion_weights) > 0:
            raise ValueError("occlusion_weights: at least one weight must be above 0")
        return self


class PoolConfig(Strict):
    """How the photographs of several files are divided (:func:`~.pool.divide`).

    Attributes:
        seed: of the draw.
        held_out: share of all photographs that is for validation.
        photographs: number of photographs to train on, at most; null: all that are not held out.
        train_on_all: train on all photographs, those held out among them: for weights that are to
            be used. Scores on the validation split mean nothing then.
    """

    seed: Seed = 0
    held_out: float = Field(0.2, gt=0, lt=1)
    photographs: int | None = Field(None, ge=1)
    train_on_all: bool = False


class ComposedClipsConfig(Strict):
    """Parameters of :func:`amodal_pipeline.compose.clips.compose_clips`.

    Ranges are (lowest, highest); values are drawn from them uniformly.

    Attributes:
        pictures: how objects are chosen, cut out and pasted, as for still pictures
            (``composites_per_image`` clips are made of each photograph). Wanted occlusion rates
            have no meaning here: an occluder passes over its target.
        frames: pictures of a clip.
        travel: distance that an occluder covers in a clip, as a share of the longer side.
        sway: largest distance from the straight line, as a share of the longer side.
        flow: write the optical flow (8 bytes a pixel in each direction).
    """

    pictures: ComposeConfig = ComposeConfig()
    frames: int = Field(16, ge=2, le=1000)
    travel: tuple[Positive, Positive] = (0.4, 1.0)
    sway: tuple[Share, Share] = (0.0, 0.05)
    flow: bool = False

    @model_validator(mode="after")
    def _check(self) -> Self:
        _check_ranges(self, "travel", "sway")
        if self.pictures.dual_annotation:
            raise ValueError("dual_annotation is for still pictures only: leave it out of clips")
        return self


class VariantsConfig(Strict):
    """Parameters of :func:`amodal_pipeline.compose.variants.compose_variants`.

    Ranges are (lowest, highest); values are drawn from them uniformly.

    Attributes:
        seed: seed of all random choices.
        variants: pictures of each target, each with another occluder.
        images: largest number of images with targets, drawn at random.
        targets_per_image: largest number of targets in an image.
        hidden: share of a target's visible area that an occluder hides. One share is drawn per
            target, and all its occluders hide about that share.
        max_occlusion_rate: largest occlusion rate in the original images, of targets and of the
            objects that are cut out.
        min_area: smallest visible area of a target, and of an object that is cut out, in pixels.
        size_to_target: square root of an occluder's area divided by its target's.
        scale: limits of the factor by which a cutout may be shrunk or enlarged to get that size.
        flip_probability, edge_softness, match_brightness: see :class:`ComposeConfig`.
    """

    seed: Seed = 0
    variants: int = Field(4, ge=2)
    images: int = Field(200, ge=1)
    targets_per_image: int = Field(1, ge=1)
    hidden: tuple[Share, Share] = (0.2, 0.6)
    max_occlusion_rate: Share = 0.1
    min_area: int = Field(1024, ge=1)
    size_to_target: tuple[Positive, Positive] = (0.7, 1.4)
    scale: tuple[Positive, Positive] = (0.2, 1.5)
    flip_probability: Share = 0.5
    edge_softness: float = Field(1.0, ge=0, le=20)
    match_brightness: bool = True

    @model_validator(mode="after")
    def _check(self) -> Self:
        _check_ranges(self, "hidden", "size_to_target", "scale")
        if not 0 < self.hidden[0] <= self.hidden[1] < 1:
            raise ValueError("hidden: shares must be above 0 and below 1, the lowest first")
        return self
