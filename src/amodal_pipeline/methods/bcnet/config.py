"""Configuration of BCNet. Does not import torch."""

from typing import ClassVar, Literal

from pydantic import Field

from amodal_pipeline.layers.configs import BackboneConfig, BoxHeadConfig, DetectorConfig, Strict
from amodal_pipeline.methods.contract import Description


class BCNetConfig(Strict):
    """BCNet (Ke et al., CVPR 2021) for amodal masks, on Faster R-CNN.

    The width of all layers is that of the detector's pyramid. ``graph`` false: both layers are
    plain convolutions. ``zero_init``: the graph convolutions start without effect, which the
    released code says and does not do. ``boundaries`` false: no boundary is predicted. Weights of
    the losses beside that of the mask; each boundary has ``boundary_weight`` (in the released code
    0.5 of two equal losses).

    Occluders are the ``occluder_masks`` of "any" other objects, or only of those "in_front"
    (``occluders``; the latter is ours): "amodal" ones by the author's word, "visible" ones in
    AISFormer's author's later code. As released: ``occluder_gate`` 0.05 and ``occluder_balance``,
    see :mod:`~amodal_pipeline.layers.occluders`.
    """

    DESCRIPTION: ClassVar[Description] = Description(
        task="detect",
        network="amodal_pipeline.methods.bcnet.method:BCNet",
        # No amodal schedule was released: that of the comparison on KINS.
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

    name: Literal["bcnet"] = "bcnet"
    detector: DetectorConfig = DetectorConfig(
        backbone=BackboneConfig(name="resnet50"),
        box_head=BoxHeadConfig(samples_per_image=512),
        max_size=1333,
    )
    roi_size: int = Field(14, gt=0)
    convolutions: int = Field(4, ge=2)
    graph: bool = True
    zero_init: bool = False
    boundaries: bool = True
    boundary_weight: float = Field(1.0, gt=0)
    occluder_weight: float = Field(0.25, gt=0)
    occluder_masks: Literal["amodal", "visible"] = "amodal"
    occluders: Literal["any", "in_front"] = "any"
    occluder_gate: float | None = Field(None, ge=0, lt=1)
    occluder_balance: bool = False
