"""Configuration of every method. Defaults are the papers' values; conf/ makes them smaller.

This module imports no torch: Kedro checks parameters against these classes before a run starts.
"""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field, RootModel, model_validator

from amodal_pipeline.layers.configs import (
    BackboneConfig,
    BoxHeadConfig,
    DetectorConfig,
    MaskHeadConfig,
    Strict,
)


class MaskRCNNConfig(Strict):
    """Mask R-CNN trained on amodal or visible boxes and masks: the baselines of every paper."""

    name: Literal["mask_rcnn"] = "mask_rcnn"
    detector: DetectorConfig = DetectorConfig()
    mask_head: MaskHeadConfig = MaskHeadConfig()
    boxes: Literal["amodal", "visible"] = "amodal"
    masks: Literal["amodal", "visible"] = "amodal"


class ORCNNConfig(Strict):
    """ORCNN (Follmann et al., WACV 2019) and the variants of its Table 6.

    ``independent``: the gradients of the visible and the invisible loss stop before the amodal head
    and the RoI features.
    """

    name: Literal["orcnn"] = "orcnn"
    detector: DetectorConfig = DetectorConfig()
    mask_head: MaskHeadConfig = MaskHeadConfig()
    visible_loss: bool = True
    invisible_loss: bool = True
    independent: bool = False

    @model_validator(mode="after")
    def _has_a_second_loss(self) -> "ORCNNConfig":
        if self.independent and not (self.visible_loss or self.invisible_loss):
            raise ValueError("independent=true has no effect when both other losses are off")
        return self


class ShapePriorConfig(Strict):
    """The shape prior of VRSP (Xiao et al., AAAI 2021): mask auto-encoder and codebook.

    ``convolutions``: 3 make codes of 128 numbers (D2SA, COCOA-cls), 2 of 392 (KINS).
    ``clusters``: K-means centres a category; one with no more different masks keeps them all.
    ``turned``: the codebook is made of every mask in its eight rotations and reflections.
    ``predicted_by``: the method of this data set whose predictions for the training images are
    added where their box and mask overlap that of their object by more than ``min_box_iou`` and
    ``min_mask_iou``; None for true masks only. ``poor_below``: a category with fewer entries is
    reported. Optimisation (Adam, the rate falling to 0 along a cosine) is not stated in the paper.
    """

    convolutions: Literal[2, 3] = 3
    channels: int = Field(8, gt=0)
    clusters: int = Field(1024, gt=0)
    turned: bool = False
    predicted_by: str | None = None
    min_box_iou: float = Field(0.8, ge=0, lt=1)
    min_mask_iou: float = Field(0.95, ge=0.5, lt=1)
    poor_below: int = Field(16, gt=0)
    iterations: int = Field(5_000, gt=0)
    batch_size: int = Field(256, gt=0)
    learning_rate: float = Field(0.01, gt=0)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    seed: int = 0


class VRSPConfig(Strict):
    """VRSP (Xiao et al., AAAI 2021), its ablations (Tables 2 and 3) and its released variants.

    ``attention``: which mask is looked through when the other is refined. "vrsp": the coarse
    amodal one for the visible, the refined visible one for the amodal (Table 3 d); "cross": the
    coarse ones for each other (c); "visible": the coarse visible one for the visible, the refined
    visible one for the amodal (b); "self": the coarse ones for themselves (a).
    ``visible_attention`` false: the amodal mask is refined from the features of the whole RoI.
    ``prior_refinement`` and ``prior_post_process``: known shapes help to refine the amodal mask,
    and lower the score of unlikely ones; ``prior`` is their form, taken from the shape prior of the
    data set where it is None. ``neighbours``: the nearest shapes that the refinement sees (k).
    ``alpha``: a shape at a mean squared distance of alpha − 1 has no likelihood left (the released
    code has 3 on KINS).
    ``weighting``: RoIs whose coarse mask is poor weigh less in the refinement losses.
    ``feature_matching_weights``: of the last convolution and of the deconvolution (eqs. 3, 5).
    ``candidates_per_image``: boxes that masks are predicted for, and scores corrected, before
    suppression.

    Where the released code differs: ``true_attention`` also trains both heads with the true masks
    for attention, and matches features with that pass; ``prior_input`` "logits" gives the encoder
    those of the coarse mask; ``reclassification_weighting`` weighs by the IoU of the refined
    visible mask; ``released_reclassification_score`` is score · (0.4 p + 0.6);
    ``geometric_mean`` of the scores instead of their product.
    """

    name: Literal["vrsp"] = "vrsp"
    detector: DetectorConfig = DetectorConfig(
        backbone=BackboneConfig(name="resnet50"),
        box_head=BoxHeadConfig(samples_per_image=512),
        max_size=1333,
    )
    mask_head: MaskHeadConfig = MaskHeadConfig()
    attention: Literal["vrsp", "cross", "visible", "self"] = "vrsp"
    visible_attention: bool = True
    reclassification: bool = True
    reclassification_weight: float = Field(0.25, ge=0)
    reclassifier_channels: int = Field(1024, gt=0)
    prior_refinement: bool = True
    prior_post_process: bool = True
    feature_matching: bool = True
    feature_matching_weights: tuple[float, float] = (0.01, 0.05)
    weighting: bool = True
    prior: ShapePriorConfig | None = None
    neighbours: int = Field(16, gt=0)
    alpha: float = Field(2.0, gt=1)
    candidates_per_image: int = Field(1000, gt=0)
    true_attention: bool = False
    prior_input: Literal["mask", "probability", "logits"] = "mask"
    reclassification_weighting: bool = False
    released_reclassification_score: bool = False
    geometric_mean: bool = False

    @property
    def uses_prior(self) -> bool:
        return self.prior_refinement or self.prior_post_process

    @property
    def rescores(self) -> bool:
        return self.reclassification or self.prior_post_process


AnyMethod = MaskRCNNConfig | ORCNNConfig | VRSPConfig


class MethodConfig(RootModel[Annotated[AnyMethod, Field(discriminator="name")]]):
    """The configuration of one method, told apart by its ``name``."""

    model_config = ConfigDict(frozen=True)
