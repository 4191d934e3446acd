"""Configuration of the shared network parts.

The defaults of detectors are those of ORCNN's appendix A, of completers those of C2F-Seg.

This module does not import torch: Kedro checks parameters with these classes before a run starts.
"""

from difflib import get_close_matches
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PositiveInt,
    StrictStr,
    model_validator,
)

from amodal_pipeline.local_paths import check_local

# A path on this machine; remote ones ("s3://bucket/images") are refused.
LocalPath = Annotated[StrictStr, AfterValidator(check_local)]
# The values that torch accepts as a seed, without negative ones.
Seed = Annotated[int, Field(ge=0, le=2**63 - 1)]


class Strict(BaseModel):
    """A configuration that refuses unknown names, infinity and NaN."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _names_are_known(cls, values: Any) -> Any:
        """Raise an error that suggests the nearest name, which ``extra="forbid"`` does not."""
        known = sorted(field.alias or name for name, field in cls.model_fields.items())
        for name in values if isinstance(values, dict) else ():
            if name not in known:
                near = get_close_matches(str(name), known, n=1, cutoff=0.0)
                raise ValueError(f"{name} is unknown; the nearest name is {near[0]}")
        return values


class BackboneConfig(Strict):
    """A timm image encoder with a feature pyramid.

    ``weights``: "embedded" (ImageNet weights of tf_efficientnet_lite0, from the Python package of
    the extra ``weights``), a pretrained tag of timm (downloaded), "imagenet" (timm's preferred
    tag), a path to a state dict, or None. "tv_in1k", torchvision's first weights of a residual
    network, is the tag for which published recipes are made; timm prefers "a1_in1k".
    ``frozen_stages``: number of stages, from the image on, that are not trained (2 = stem and the
    stage at stride 4, "FREEZE_AT 2" of the Detectron family); batch normalisation is always frozen.
    ``stride_in_1x1``: the first convolution of a bottleneck has the stride instead of the second,
    as in MSRA's ResNets ("STRIDE_IN_1X1", the networks of Detectron's files).
    """

    name: str = "resnet101"
    weights: LocalPath | None = "tv_in1k"
    frozen_stages: int = Field(2, ge=0, le=5)
    pyramid_channels: int = Field(256, gt=0)
    stride_in_1x1: bool = False


class EncoderConfig(Strict):
    """A timm image encoder; completers dilate its last stage, which thus keeps stride 16.

    ``weights``, ``stride_in_1x1``: see :class:`BackboneConfig`. ``frozen_batch_norm``: batch
    normalisation keeps its pretrained statistics and scale.
    """

    name: str = "resnet50"
    weights: LocalPath | None = "tv_in1k"
    frozen_batch_norm: bool = False
    stride_in_1x1: bool = False


class ProposalConfig(Strict):
    """Region proposal network; one anchor size per pyramid level (strides 4, 8, 16, 32, 64).

    ``convolutions``: number of 3x3 convolutions before the two outputs. ``exact_anchors``: sides of
    anchors are not rounded to whole pixels, and anchors of the coarsest level are 64 pixels apart
    for every image size, as in detectron2; otherwise as in torchvision. ``box_loss_beta``: where
    the loss of boxes changes from quadratic to linear; 1/9 in Detectron and torchvision, 0 (L1) in
    detectron2.
    """

    anchor_sizes: tuple[float, ...] = (32, 64, 128, 256, 512)
    aspect_ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    samples_per_image: int = Field(256, gt=0)
    positive_fraction: float = Field(0.5, gt=0, le=1)
    before_nms_train: int = Field(2000, gt=0)
    before_nms_test: int = Field(1000, gt=0)
    after_nms_train: int = Field(1000, gt=0)
    after_nms_test: int = Field(1000, gt=0)
    nms_threshold: float = Field(0.7, gt=0, lt=1)
    convolutions: int = Field(1, gt=0)
    exact_anchors: bool = False
    box_loss_beta: float = Field(1 / 9, ge=0)


class BoxHeadConfig(Strict):
    """Two fully connected layers that classify each RoI and refine its box.

    ``convolutions`` above 0: that many 3x3 convolutions and one fully connected layer replace them.
    ``samples_per_image``: number of RoIs in the losses, of which at most ``positive_fraction``
    overlap an object (IoU >= 0.5). ``box_loss_beta``: see :class:`ProposalConfig`; 1 in
    Detectron, 1/9 in torchvision, 0 in detectron2. ``initialisation`` of the fully connected
    layers: "detectron" (Xavier; outputs from N(0, 0.01) and N(0, 0.001), so that boxes start as the
    proposals; the same in detectron2), or "torchvision" (PyTorch's default of linear layers).
    """

    channels: int = Field(1024, gt=0)
    samples_per_image: int = Field(256, gt=0)
    positive_fraction: float = Field(0.25, gt=0, le=1)
    score_threshold: float = Field(0.05, ge=0, lt=1)
    nms_threshold: float = Field(0.5, gt=0, lt=1)
    detections_per_image: int = Field(100, gt=0)
    convolutions: int = Field(0, ge=0)
    box_loss_beta: float = Field(1.0, ge=0)
    initialisation: Literal["detectron", "torchvision"] = "detectron"


class DetectorConfig(Strict):
    """Faster R-CNN with a feature pyramid, as configured by ORCNN (its appendix A).

    In evaluation, images are scaled so that the shorter side is ``min_size`` pixels and the longer
    one at most ``max_size``. RoIs of about ``canonical_size`` pixels use the map of stride 16.
    ``mean`` and ``std`` (0–1) default to those of the backbone's training. ``aligned``: RoIs are
    cropped exactly to the half pixel; torchvision's detectors were trained half a cell off.
    ``sampling_ratio``: sampling points per cell of a RoI in each direction; 0: one per cell of the
    map, as in detectron2. ``batch_norm``: the pyramid and the box head's convolutions have batch
    normalisation (torchvision's v2), which is frozen.
    """

    backbone: BackboneConfig = BackboneConfig()
    canonical_size: int = Field(224, gt=0)
    aligned: bool = True
    sampling_ratio: int = Field(2, ge=0)
    batch_norm: bool = False
    proposals: ProposalConfig = ProposalConfig()
    box_head: BoxHeadConfig = BoxHeadConfig()
    min_size: int = Field(800, gt=0)
    max_size: int = Field(1111, gt=0)
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None


class MaskHeadConfig(Strict):
    """``convolutions`` 3x3 convolutions on a RoI of 14x14 (8: "C8"), a deconvolution, a 1x1 one.

    ``batch_norm``: frozen batch normalisation follows each convolution (torchvision's v2).
    """

    convolutions: int = Field(4, gt=0)
    channels: int = Field(256, gt=0)
    roi_size: int = Field(14, gt=0)
    class_agnostic: bool = False
    batch_norm: bool = False


class CropConfig(Strict):
    """The window of an image around an object that is the input of a completer.

    The box ``around`` its visible or amodal mask, enlarged ``enlarge`` times around its centre, is
    scaled to ``image_side`` x ``image_side`` pixels, its masks to ``side`` x ``side``. ``square``:
    the longer side is used for both; with "by_area" the window's side is the larger of this and
    sqrt(3 w h) of the box (the released code of Zhan et al., CVPR 2020). ``clipped``: the window
    ends at the border of the image; otherwise pixels beyond it are black and masks are empty there.
    """

    around: Literal["visible", "amodal"] = "visible"
    enlarge: float = Field(2.0, ge=1)
    square: bool | Literal["by_area"] = False
    clipped: bool = True
    side: int = Field(256, gt=0)
    image_side: int = Field(256, gt=0)


class ClipCropConfig(CropConfig):
    """The windows of one object in the frames of a clip.

    ``shared_scale``: all are scaled alike, by the widest and the highest of them, and the others
    are black and empty at the right and at the bottom (C2F-Seg for videos, as released). Otherwise
    each is stretched to the whole crop, as for images.
    """

    shared_scale: bool = True


class CorruptionConfig(Strict):
    """How visible masks are corrupted in training, to resemble those that a detector predicts.

    Each mask is blurred with probability ``blur``, dilated or eroded with probability
    ``morphology``, or else unchanged. Of the second kind the share ``dilation`` is dilated;
    ``iterations`` and the side ``kernel`` of the square in pixels are drawn from their range, ends
    included; it is then blurred with probability ``blur_after``. The blur is a Gaussian of
    ``sigma`` pixels, thresholded at one half. Pixels are those of the crop. Defaults: KINS, as
    released; the paper names only the three operations.
    """

    blur: float = Field(0.2, ge=0, le=1)
    morphology: float = Field(0.4, ge=0, le=1)
    dilation: float = Field(0.55, ge=0, le=1)
    blur_after: float = Field(0.1, ge=0, le=1)
    iterations: tuple[int, int] = (1, 4)
    kernel: tuple[int, int] = (5, 13)
    sigma: float = Field(11.0, gt=0)

    @model_validator(mode="after")
    def _can_be_drawn(self) -> "CorruptionConfig":
        if self.blur + self.morphology > 1:
            raise ValueError(
                "blur and morphology are shares of all masks: their sum must be at most 1"
            )
        for name in ("iterations", "kernel"):
            low, high = getattr(self, name)
            if not 1 <= low <= high:
                raise ValueError(f"{name} must be a range (low, high) with 1 <= low <= high")
        return self


class AugmentationConfig(Strict):
    """Flip and scale jitter, applied to image, boxes and both masks together.

    The shorter side becomes one of ``min_sizes`` (drawn), the longer at most ``max_size`` pixels.
    """

    flip: float = Field(0.5, ge=0, le=1)
    min_sizes: tuple[PositiveInt, ...] = Field((800,), min_length=1)
    max_size: int = Field(1111, gt=0)
