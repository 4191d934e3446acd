"""Configuration of AISFormer. Does not import torch."""

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from amodal_pipeline.layers.configs import BackboneConfig, BoxHeadConfig, DetectorConfig, Strict
from amodal_pipeline.methods.contract import Description


class AISFormerConfig(Strict):
    """AISFormer (Tran et al., BMVC 2022), with switches for its parts and its released variants.

    The width of all layers is that of the detector's pyramid. ``layers`` of encoder and of decoder
    each, with ``heads`` and perceptrons of width ``feedforward``. ``tokens``: side of the map that
    is encoded, 28; 14 encodes before the deconvolution instead of after it, a quarter of the
    tokens (ours, for CPUs). ``invisible_embedding`` false: the invisible mask is that of the fourth
    query, which otherwise has no mask.

    Weights of the four losses; where one is 0, that mask is not predicted. ``convolutions`` before
    the deconvolution and ``pixel_convolutions`` before the 1x1 convolution of the pixel map: 8 and
    8 with all weights 1 in the author's later code.

    Occluders are the visible masks of "any" other objects, or only of those "in_front"
    (``occluders``; the latter is ours). As released: ``occluder_gate`` 0.05 and
    ``occluder_balance``, see :mod:`~amodal_pipeline.layers.occluders`.
    """

    DESCRIPTION: ClassVar[Description] = Description(
        task="detect",
        network="amodal_pipeline.methods.aisformer.method:AISFormer",
        # On KINS, by its author's configuration.
        recipe={
            "iterations": 48_000,
            "batch_size": 1,
            "milestones": (30_000, 40_000),
            "warmup_iterations": 1_000,
            "warmup_factor": 0.001,
            "augmentation": {"max_size": 3_000},
        },
        starts_from="mask_rcnn",
        compared_with=("mask_rcnn",),
        regresses_boxes=True,
    )

    name: Literal["aisformer"] = "aisformer"
    detector: DetectorConfig = DetectorConfig(
        backbone=BackboneConfig(name="resnet50"),
        box_head=BoxHeadConfig(samples_per_image=512),
        max_size=1333,
    )
    roi_size: int = Field(14, gt=0)
    convolutions: int = Field(1, gt=0)
    pixel_convolutions: int = Field(0, ge=0)
    tokens: Literal[14, 28] = 28
    layers: int = Field(1, gt=0)
    heads: int = Field(2, gt=0)
    feedforward: int = Field(2048, gt=0)
    dropout: float = Field(0.1, ge=0, lt=1)
    invisible_embedding: bool = True
    amodal_weight: float = Field(1.0, gt=0)
    visible_weight: float = Field(1.0, ge=0)
    occluder_weight: float = Field(0.25, ge=0)
    invisible_weight: float = Field(0.25, ge=0)
    occluders: Literal["any", "in_front"] = "any"
    occluder_gate: float | None = Field(None, ge=0, lt=1)
    occluder_balance: bool = False

    @model_validator(mode="after")
    def _fits(self) -> "AISFormerConfig":
        width = self.detector.backbone.pyramid_channels
        if width % self.heads or width % 2:
            raise ValueError(
                f"detector.backbone.pyramid_channels {width} must be an even multiple of heads "
                f"{self.heads}"
            )
        return self
