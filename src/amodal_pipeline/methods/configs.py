"""Configuration of every method; defaults are the papers' values.

This module does not import torch: Kedro checks parameters with these classes before a run starts.
"""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, PositiveInt, model_validator

from amodal_pipeline.layers.configs import (
    BackboneConfig,
    BoxHeadConfig,
    ClipCropConfig,
    CorruptionConfig,
    CropConfig,
    DetectorConfig,
    EncoderConfig,
    LocalPath,
    MaskHeadConfig,
    ProposalConfig,
    Seed,
    Strict,
)
from amodal_pipeline.methods.contract import Description, Part

SixChannels = Annotated[tuple[PositiveInt, ...], Field(min_length=6, max_length=6)]


class MaskRCNNConfig(Strict):
    """Mask R-CNN with amodal or visible boxes and masks: the baselines of all papers."""

    DESCRIPTION: ClassVar[Description] = Description(
        task="detect",
        network="amodal_pipeline.methods.mask_rcnn:MaskRCNN",
        jobs=("mask_rcnn", "mask_rcnn_visible"),
        starts_from="mask_rcnn",
        needs_amodal=lambda config: "amodal" in (config.boxes, config.masks),
        regresses_boxes=True,
    )

    name: Literal["mask_rcnn"] = "mask_rcnn"
    detector: DetectorConfig = DetectorConfig()
    mask_head: MaskHeadConfig = MaskHeadConfig()
    boxes: Literal["amodal", "visible"] = "amodal"
    masks: Literal["amodal", "visible"] = "amodal"

    @property
    def job(self) -> str:
        """Return the job that trains it; visible masks in amodal boxes are A3D's stage one."""
        stage_one = self.boxes == "amodal" and self.masks == "visible"
        return "mask_rcnn_visible" if stage_one else self.name


class ORCNNConfig(Strict):
    """ORCNN (Follmann et al., WACV 2019) and the variants of its Table 6.

    ``visible_loss``, ``invisible_loss``: whether these masks have a loss. ``independent``: their
    gradients do not reach the amodal head and the RoI features. ``visible``: the predicted visible
    mask is the output of the visible "head", or the amodal mask without the invisible one
    ("amodal_minus_invisible").
    """

    DESCRIPTION: ClassVar[Description] = Description(
        task="detect",
        network="amodal_pipeline.methods.orcnn:ORCNN",
        starts_from="mask_rcnn",
        compared_with=("mask_rcnn",),
        regresses_boxes=True,
        after_training=frozenset({"visible"}),
    )

    name: Literal["orcnn"] = "orcnn"
    detector: DetectorConfig = DetectorConfig()
    mask_head: MaskHeadConfig = MaskHeadConfig()
    visible_loss: bool = True
    invisible_loss: bool = True
    independent: bool = False
    visible: Literal["head", "amodal_minus_invisible"] = "head"

    @model_validator(mode="after")
    def _has_a_second_loss(self) -> "ORCNNConfig":
        if self.independent and not (self.visible_loss or self.invisible_loss):
            raise ValueError(
                "independent=true has no effect without visible_loss and invisible_loss: switch "
                "one of them on, or independent off"
            )
        return self


_ONCE_OF_A_FORM = ("predicted_by", "iterations", "batch_size", "learning_rate", "device", "seed")


class ShapePriorConfig(Strict):
    """The shape prior of VRSP (Xiao et al., AAAI 2021): mask auto-encoder and codebook.

    ``convolutions``: 3 make codes of 128 numbers (D2SA, COCOA-cls), 2 of 392 (KINS).
    ``clusters``: K-means centres per category; one with fewer different masks keeps them all.
    ``turned``: the codebook is made of every mask in its eight rotations and reflections.
    ``min_box_iou``, ``min_mask_iou``: masks that a detector has predicted for the training images
    are added where their box and mask overlap that of their object by more. ``poor_below``: a
    category with fewer entries is reported; no part of what is learnt. The paper does not state
    the optimisation.
    """

    DESCRIPTION: ClassVar[Description] = Description(
        task="part",
        network="amodal_pipeline.methods.vrsp.learning:LearntShapePrior",
        recipe={
            "iterations": 5_000,
            "batch_size": 256,
            "optimizer": "adam",
            "learning_rate": 0.01,
            "weight_decay": 0.0,
            "schedule": "cosine",
            "milestones": (),
            "warmup_iterations": 0,
            "precision": "float32",
        },
        batches="amodal_pipeline.methods.vrsp.learning:batches",
        learns_from="objects",
        learns_from_detections=True,
    )

    name: Literal["shape_prior"] = "shape_prior"
    convolutions: Literal[2, 3] = 3
    channels: int = Field(8, gt=0)
    clusters: int = Field(1024, gt=0)
    turned: bool = False
    min_box_iou: float = Field(0.8, ge=0, lt=1)
    min_mask_iou: float = Field(0.95, ge=0.5, lt=1)
    poor_below: int = Field(16, gt=0, exclude=True)

    @model_validator(mode="before")
    @classmethod
    def _is_a_form(cls, values: Any) -> Any:
        """Leave out how it was trained, which cards of earlier versions have beside the form."""
        if isinstance(values, dict) and "name" not in values:
            return {name: value for name, value in values.items() if name not in _ONCE_OF_A_FORM}
        return values


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
    suppression. ``reclassification_score``: the class score is multiplied by p, the probability of
    its class in reclassification ("product"), by 0.4 p + 0.6 ("released"; D2SA and COCOA-cls), or
    not at all ("none"; released, KINS).

    Where the released code differs: ``true_attention`` also trains both heads with the true masks
    for attention, and matches features with that pass; ``prior_input`` "logits" gives the encoder
    those of the coarse mask; ``all_channel_weighting`` weighs by the IoU of a head's masks of all
    classes, taken together, with the true one; ``reclassification_weighting`` weighs by the IoU of
    the refined visible mask; ``reclassification_input`` "logits" looks through the logits of that
    mask instead of its probabilities, and stops their gradient; ``reclassification_true_weight``
    (released: 0.1) is that of each RoI seen through its true visible mask, in the mean over both;
    ``reclassification_weight`` is 0.1 on D2SA; ``geometric_mean`` of the scores instead of their
    product. The row ``released`` of ``ablate_vrsp`` has all of them.
    """

    DESCRIPTION: ClassVar[Description] = Description(
        task="detect",
        network="amodal_pipeline.methods.vrsp.method:VRSP",
        # On KINS, by its authors' configuration.
        recipe={
            "iterations": 48_000,
            "batch_size": 1,
            "milestones": (30_000, 40_000),
            "warmup_iterations": 1_000,
            "warmup_factor": 0.001,
            "augmentation": {"max_size": 3_000},
        },
        starts_from="mask_rcnn",
        compared_with=("mask_rcnn", "orcnn"),
        picture=("amodal_pipeline.visuals.retrieval:retrieval_sheet", ("retrieval",)),
        regresses_boxes=True,
        parts={"prior": Part("shape_prior", used=lambda config: config.uses_prior)},
        after_training=frozenset(
            {
                "prior_post_process",
                "alpha",
                "candidates_per_image",
                "reclassification_score",
                "geometric_mean",
            }
        ),
    )

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
    all_channel_weighting: bool = False
    reclassification_weighting: bool = False
    reclassification_input: Literal["probability", "logits"] = "probability"
    reclassification_true_weight: float = Field(0.0, ge=0)
    reclassification_score: Literal["product", "released", "none"] = "product"
    geometric_mean: bool = False

    @property
    def uses_prior(self) -> bool:
        return self.prior_refinement or self.prior_post_process

    @property
    def rescores(self) -> bool:
        reclassified = self.reclassification and self.reclassification_score != "none"
        return reclassified or self.prior_post_process


class MaskTokenizerConfig(Strict):
    """The vector-quantised auto-encoder of C2F-Seg (Gao et al., ICCV 2023, sec. 3.2, app. A.1).

    ``channels`` times each of ``multipliers`` is the width of a level; each level but the first
    halves the resolution. ``blocks``: residual blocks per level. ``codes``: entries of the
    codebook, each of ``code_size`` numbers. ``enlargement``: range from which the crop's
    enlargement is drawn in training.

    Losses: ``commitment`` is beta. The discriminator's loss has ``adversarial`` times its adaptive
    weight from iteration ``adversarial_start`` on (0: no discriminator); ``adaptive_epsilon`` is
    delta of A.1 (1e-4 in the released code). ``perceptual_weights``: file of VGG-16 weights for the
    perceptual loss of weight ``perceptual``; None: no such loss.

    ``revive_after``: a code that was unused for that many iterations is replaced by the encoder's
    output for a badly represented place (0, as in the paper: never). ``poor_below``: warn if the
    reconstruction IoU (0-100) of the validation split is lower; without effect on training.
    """

    DESCRIPTION: ClassVar[Description] = Description(
        task="part",
        network="amodal_pipeline.methods.c2f_seg.tokenizer:MaskTokenizer",
        recipe={
            "iterations": 100_000,
            "batch_size": 4,
            "optimizer": "adam",
            "learning_rate": 5e-5,
            "betas": (0.5, 0.9),
            "weight_decay": 0.0,
            "milestones": (30_000, 60_000, 90_000),
            "gamma": 0.5,
            "warmup_iterations": 0,
        },
        batches="amodal_pipeline.methods.c2f_seg.tokenizer:batches",
        learns_from="objects",
    )

    name: Literal["mask_tokenizer"] = "mask_tokenizer"
    crop: CropConfig = CropConfig()
    enlargement: tuple[float, float] = (1.5, 3.0)
    channels: int = Field(128, gt=0)
    multipliers: tuple[PositiveInt, ...] = Field((1, 1, 2, 2, 4), min_length=1)
    blocks: int = Field(2, gt=0)
    codes: int = Field(256, gt=1)
    code_size: int = Field(256, gt=0)
    commitment: float = Field(0.25, ge=0)
    adversarial: float = Field(0.75, ge=0)
    adversarial_start: int = Field(0, ge=0)
    adaptive_epsilon: float = Field(1e-6, gt=0)
    perceptual: float = Field(1.0, ge=0)
    perceptual_weights: LocalPath | None = None
    revive_after: int = Field(0, ge=0)
    poor_below: float = Field(90.0, ge=0, le=100, exclude=True)

    @property
    def tokens(self) -> int:
        """Return the side of the grid of tokens."""
        return self.crop.side // 2 ** (len(self.multipliers) - 1)

    @model_validator(mode="after")
    def _divides(self) -> "MaskTokenizerConfig":
        low, high = self.enlargement
        if not 1 <= low <= high:
            raise ValueError(
                f"enlargement {self.enlargement} must be a range (low, high) with 1 <= low <= high"
            )
        if self.crop.side % 2 ** (len(self.multipliers) - 1):
            raise ValueError(
                f"crop.side {self.crop.side} cannot be halved {len(self.multipliers) - 1} times: "
                f"take a multiple of {2 ** (len(self.multipliers) - 1)}, or fewer multipliers"
            )
        return self


class _C2FSegNetwork(Strict):
    """What C2F-Seg for images and for videos have in common."""

    encoder: EncoderConfig = EncoderConfig()
    corruption: CorruptionConfig | None = CorruptionConfig()
    tokenizer: MaskTokenizerConfig | None = None
    fusion: Literal["sequence", "channels"] = "sequence"
    width: int = Field(768, gt=0)
    layers: int = Field(12, gt=0)
    heads: int = Field(12, gt=0)
    dropout: float = Field(0.01, ge=0, lt=1)
    mask_ratio: tuple[float, float] = (0.5, 1.0)
    cosine_mask_ratio: bool = False
    loss_on_all_tokens: bool = False
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    steps: int = Field(3, gt=0)
    top_k: int = Field(3, gt=0)
    temperature: float = Field(4.5, ge=0)
    refinement: bool = True
    refinement_channels: tuple[int, int, int, int, int] = (256, 128, 64, 32, 16)
    visible_branch: bool = True
    attention: bool = True
    attention_map: bool = False
    refinement_adapter: bool = False
    given_mask: Literal["none", "joined"] = "none"
    seed: Seed = 0

    @model_validator(mode="after")
    def _fits(self) -> "_C2FSegNetwork":
        if self.width % self.heads:
            raise ValueError(f"width {self.width} must be a multiple of heads {self.heads}")
        if self.fusion == "channels" and self.width % 4:
            raise ValueError(
                f'width {self.width} must be a multiple of 4 with fusion="channels", which splits '
                "it into a half and two quarters"
            )
        low, high = self.mask_ratio
        if not 0 <= low <= high <= 1:
            raise ValueError(
                f"mask_ratio {self.mask_ratio} must be a range (low, high) with "
                "0 <= low <= high <= 1"
            )
        if self.attention_map and not self.attention:
            raise ValueError("attention_map=true has no effect without attention")
        if self.refinement_adapter and not self.refinement:
            raise ValueError("refinement_adapter=true has no effect without refinement")
        if self.given_mask == "joined" and not self.refinement:
            raise ValueError("given_mask=joined has no effect without refinement")
        return self


class C2FSegConfig(_C2FSegNetwork):
    """C2F-Seg for images (Gao et al., ICCV 2023), its ablations and its released variants.

    ``tokenizer``: configuration of the mask tokenizer; None: that of the data set's. Training
    replaces the true visible mask by a detector's for the share ``predicted_share`` of the objects
    that the detector has found. ``fusion``: "sequence" concatenates image, visible and amodal
    tokens (sec. 3.3); "channels" joins the three at each place (released). ``mask_ratio``: range of
    the share of amodal tokens that are masked. ``steps``: K of the iterative decoding; a token is
    drawn from the ``top_k`` likeliest (1: always the likeliest), and the confidence has Gumbel
    noise of ``temperature`` (0: none). ``refinement`` false: the coarse mask is the result
    (Table 3); ``visible_branch`` false: single branch; ``attention`` false: Table B.3.
    ``given_mask`` "joined" is our extension: the refinement sees the coarse mask and the given
    visible mask once more at strides 8, 4 and 2 (the paper's, "none": the coarse mask alone, at
    stride 16).

    Options of the released code, where it differs: ``cosine_mask_ratio`` draws the ratio as
    max(cos(pi u / 2), lower end); ``loss_on_all_tokens``; ``label_smoothing`` (0.1);
    ``attention_map`` joins the map of the attention to the features instead of multiplying them
    (eq. 8); ``refinement_adapter`` passes the last features through a 1x1 convolution of the same
    width before the refinement, which then reduces them without normalisation or ReLU.
    """

    DESCRIPTION: ClassVar[Description] = Description(
        task="complete",
        network="amodal_pipeline.methods.c2f_seg.method:C2FSeg",
        # On KINS (sec. 4); the warm-up is the released code's.
        recipe={
            "iterations": 45_000,
            "batch_size": 16,
            "optimizer": "adamw",
            "learning_rate": 3e-4,
            "betas": (0.9, 0.95),
            "weight_decay": 0.01,
            "decay_vectors": False,
            "schedule": "linear",
            "warmup_iterations": 5_000,
            "warmup_factor": 0.001,
        },
        batches="amodal_pipeline.methods.c2f_seg.method:batches",
        learns_from="objects",
        parts={"tokenizer": Part("mask_tokenizer")},
        picture=("amodal_pipeline.visuals.decoding:decoding_sheet", ("decoding",)),
        learns_from_detections=True,
        # Without ``top_k``, because training draws coarse masks with it.
        after_training=frozenset({"steps", "temperature", "seed"}),
    )

    name: Literal["c2f_seg"] = "c2f_seg"
    crop: CropConfig = CropConfig()
    predicted_share: float = Field(0.5, ge=0, le=1)


def _check_looks_around_visible_masks(name: str, crop: CropConfig) -> None:
    """Refuse windows around amodal boxes, which videos do not have."""
    if crop.around != "visible":
        raise ValueError(f"{name} looks around visible masks: set crop.around to visible")


class C2FSegVideoConfig(_C2FSegNetwork):
    """C2F-Seg for videos (Gao et al., ICCV 2023, sec. 3.5), its ablations and released variants.

    All that :class:`C2FSegConfig` says of the network holds for each frame. ``frames``: T of a
    training clip. ``window``: w, the frames that attention across time sees together, within
    ``window_places`` x ``window_places`` of the grid; None is T/2 (released: T, with which ``roll``
    by w/2 frames after every block changes nothing). ``temporal`` false: no such attention
    (Table B.2, without ST). ``temporal_embedding``: a learned vector per frame of a clip tells
    their order. ``image`` false: the encoder sees the visible mask in place of the frame.
    ``inference_frames``: how many frames are completed together; None is T.

    Where the released code differs, or the paper is silent: ``all_frames``: repeated frames, and
    those in which the object is not seen, learn and are attended to as any other. ``combined``: the
    score of a pixel is the sum of refined and coarse mask, foreground above one half of it (in the
    released code for videos, whose numbers the paper prints); otherwise the refined mask alone.
    ``fusion``: "channels" is the only form with published numbers for videos; with "sequence"
    attention across time is within each of the three grids, with the same weights.
    """

    DESCRIPTION: ClassVar[Description] = Description(
        task="complete",
        network="amodal_pipeline.methods.c2f_seg.video:C2FSegVideo",
        # On FISHBOWL and MOViD-A (sec. 4), a clip per iteration; the released code's warm-up.
        recipe={
            "iterations": 75_000,
            "batch_size": 1,
            "optimizer": "adamw",
            "learning_rate": 3e-4,
            "betas": (0.9, 0.95),
            "weight_decay": 0.01,
            "decay_vectors": False,
            "schedule": "linear",
            "warmup_iterations": 5_000,
            "warmup_factor": 0.001,
        },
        batches="amodal_pipeline.methods.batches:clip_batches",
        learns_from="clips",
        starts_from="c2f_seg",
        compared_with=("c2f_seg", "mask_unet_video", "savos"),
        parts={"tokenizer": Part("mask_tokenizer")},
        picture=("amodal_pipeline.jobs.strips:strips", ("strips",)),
        after_training=frozenset({"steps", "temperature", "seed", "combined", "inference_frames"}),
    )

    name: Literal["c2f_seg_video"] = "c2f_seg_video"
    encoder: EncoderConfig = EncoderConfig(frozen_batch_norm=True)
    crop: ClipCropConfig = ClipCropConfig()
    corruption: CorruptionConfig | None = CorruptionConfig(blur=0.1, morphology=0.5, dilation=0.5)
    fusion: Literal["sequence", "channels"] = "channels"
    layers: int = Field(8, gt=0)
    frames: int = Field(16, gt=0)
    window: PositiveInt | None = None
    window_places: int = Field(4, gt=0)
    temporal: bool = True
    roll: bool = True
    temporal_embedding: bool = False
    image: bool = True
    all_frames: bool = False
    combined: bool = True
    inference_frames: PositiveInt | None = None

    @property
    def window_frames(self) -> int:
        """Return w."""
        return self.window or max(self.frames // 2, 1)

    @property
    def stretch(self) -> int:
        """Return how many frames are completed together."""
        return self.inference_frames or self.frames

    @property
    def overlap(self) -> int:
        """Return by how many frames two stretches of a longer track overlap."""
        return min(self.window_frames // 2, self.stretch - 1)

    @model_validator(mode="after")
    def _fits_in_time(self) -> "C2FSegVideoConfig":
        _check_looks_around_visible_masks(self.name, self.crop)
        if self.window and self.window > self.frames:
            raise ValueError(
                f"window {self.window} has more frames than a clip ({self.frames}): make it at "
                "most as many"
            )
        if self.temporal_embedding and not self.temporal:
            raise ValueError("temporal_embedding=true has no effect without temporal")
        if self.temporal_embedding and self.stretch > self.frames:
            raise ValueError(
                f"temporal_embedding knows {self.frames} frames, and inference_frames is "
                f"{self.inference_frames}: make it at most as many"
            )
        return self


class SLNConfig(Strict):
    """SLN (Zhang et al., ACM MM 2019), with switches for its parts.

    ``layers``: L, the number of visibility layers; deeper parts of objects are in the last one.
    ``layer_activation``: "softmax" assigns a pixel to at most one layer, with one more channel for
    no object; "sigmoid" decides per layer, so that a pixel can be in several, as in the true global
    map. ``global_module`` false: proposals and instances are predicted from the encoder's features
    only. ``refinement`` false: the map derived from the instance layers is the result.
    ``expected_level``: the refinement's input has the mean level of a pixel's layers instead of the
    likeliest, and so has a gradient. ``confidence``: C of eq. 1, of the likeliest layer ("max") or
    of any layer ("any"). ``hidden_unless_visible``: a pixel is visible if the first layer's
    probability is above c; otherwise it is in the likeliest deeper layer, even if the first layer
    is likelier than that.

    Two ambiguities of the paper have a switch. ``dilated``: sec. 4.2 calls the encoder dilated, but
    gives maps of 256, 128, 64 and 32 cells, which means strides 4, 8, 16 and 32 (default); dilated
    strides are 4, 8, 16 and 16. ``global_input``: by sec. 4.1 the global module's input is the
    "image", of which its three 3x3 convolutions see only 7x7 pixels, too few to count objects
    behind each other; the default is the encoder's "features".

    The paper does not give: ``layers``; ``stride`` and ``width`` of the map to which the encoder's
    maps are combined; ``global_channels`` and ``instance_channels``; ``roi_size`` (the six
    convolutions see 13 cells, enough to recognise the object of the RoI).

    ``classes``: a box head classifies and refines proposals, as in the methods of the comparison.
    The paper's method has no box head: detections are proposals, all of the first category, scored
    by objectness and suppressed once (``proposals.nms_threshold``; ``box_head.nms_threshold`` has
    no effect). Batch normalisation is trained in the modules and frozen in the encoder, because
    batches of a few images give no usable statistics.
    """

    DESCRIPTION: ClassVar[Description] = Description(
        task="detect",
        network="amodal_pipeline.methods.sln:SLN",
        recipe={
            "iterations": 15_000,
            "batch_size": 1,
            "learning_rate": 1e-3,
            "weight_decay": 5e-4,
            "decay_vectors": False,
            "milestones": (10_000,),
            "gradient_clip": 5.0,
            "augmentation": {"max_size": 1_024},
            "stages": (
                {"iterations": 2_500, "trained": ("global_module.",)},
                {"iterations": 5_000, "trained": ("detector.",)},
                {"iterations": 2_500, "trained": ("instance_",)},
            ),
        },
        batches="amodal_pipeline.methods.sln:batches",
        starts_from="mask_rcnn",
        compared_with=("mask_rcnn",),
        after_training=frozenset({"hidden_unless_visible"}),
    )

    name: Literal["sln"] = "sln"
    encoder: EncoderConfig = EncoderConfig(frozen_batch_norm=True)
    dilated: bool = False
    stride: Literal[4, 8, 16] = 8
    width: int = Field(256, gt=0)
    layers: int = Field(4, ge=1, le=8)
    layer_activation: Literal["softmax", "sigmoid"] = "softmax"
    global_module: bool = True
    global_input: Literal["features", "image"] = "features"
    global_channels: int = Field(64, gt=0)
    instance_channels: int = Field(256, gt=0)
    roi_size: int = Field(14, gt=0)
    refinement: bool = True
    expected_level: bool = False
    confidence: Literal["max", "any"] = "max"
    hidden_unless_visible: bool = False
    classes: bool = False
    proposals: ProposalConfig = ProposalConfig()
    box_head: BoxHeadConfig = BoxHeadConfig()
    min_size: int = Field(800, gt=0)
    max_size: int = Field(1333, gt=0)

    @model_validator(mode="after")
    def _has_the_parts_it_changes(self) -> "SLNConfig":
        if self.global_input == "image" and not self.global_module:
            raise ValueError('global_input="image" has no effect without global_module')
        if self.expected_level and not self.refinement:
            raise ValueError("expected_level=true has no effect without refinement")
        if self.hidden_unless_visible and (self.confidence == "max" or self.layers == 1):
            raise ValueError(
                'hidden_unless_visible=true needs confidence="any" and more than one layer'
            )
        return self


class OrderNetConfig(Strict):
    """OrderNet of Zhu et al. (CVPR 2017), as used by Zhang et al. (SLN, ACM MM 2019, sec. 5.2).

    It predicts which of two objects with overlapping amodal masks is in front. ``inputs``: the
    "amodal" or "visible" masks of both, or their semantics-aware distance maps ("maps"; levels from
    ``layers`` - 1 on count as one). ``image``: whether the image is an input too. All inputs are
    crops of a square ``enlarge`` times as large as the box around both objects, scaled to ``side``
    pixels. ``mutual``: whether to learn pairs that are in front of each other, with the target 0.5;
    otherwise they are left out. ``flip``: the share of pairs that are mirrored in training.

    The papers do not give ``enlarge``, ``side``, ``layers`` and ``flip``.
    """

    DESCRIPTION: ClassVar[Description] = Description(
        task="order",
        network="amodal_pipeline.methods.order_net:OrderNet",
        batches="amodal_pipeline.methods.order_net:batches",
        learns_from="pairs",
    )

    name: Literal["order_net"] = "order_net"
    encoder: EncoderConfig = EncoderConfig()
    inputs: Literal["amodal", "visible", "maps"] = "amodal"
    image: bool = True
    layers: int = Field(4, ge=1, le=8)
    enlarge: float = Field(1.2, ge=1)
    side: int = Field(224, gt=0)
    mutual: bool = False
    flip: float = Field(0.5, ge=0, le=1)

    @property
    def crop(self) -> CropConfig:
        """Return the crop of a pair: undistorted, and black beyond the border of the image."""
        return CropConfig(
            enlarge=self.enlarge,
            square=True,
            clipped=False,
            side=self.side,
            image_side=self.side,
        )


class A3DConfig(Strict):
    """A3D (Li et al., ECCV 2022) and its ablations.

    An object is seen in its amodal box (``crop``), scaled to a square. Its mesh is a sphere of
    4^``subdivisions`` x 20 faces, deformed by signed offsets. ``camera``: a preset in
    :data:`~..layers.cameras.PRESETS`. "smr" and "softras_estimated" estimate elevation, distance
    and azimuth; "softras" knows the first two, which the paper does not (sec. 3.7). ``fitted``: the
    projected mesh is shifted and scaled to fill the window, as its amodal box does; the paper
    leaves this to the network. ``spread``: (a_x, a_y) are standardised over a batch (batch
    normalisation without scale), because otherwise a short training sees all objects from one side;
    batches need at least two objects.

    ``sigma``: softness of silhouettes. ``mesh`` false: the code is decoded to the coarse mask
    without a mesh. ``refinement`` false: the coarse mask is the result. ``hidden_weight``: eq. 2's
    lambda, the weight of pixels that are not visible; the sum is divided by the number of pixels.
    ``edge_weight``, ``class_weight``, ``laplacian`` and ``flatten``: weights of the losses other
    than L_R (eq. 1). The last two are SoftRas' losses, for meshes scaled to its sphere of radius
    0.5; 0 omits them, as the paper's text does. ``cross_view``: a mesh is also rendered from the
    viewpoint of another view of the object (sec. 3.7), if the data has one. Not in the paper:
    ``corruption`` of visible masks, and ``box_noise``, the largest shift and scaling of a box in
    training as a share of its sides.

    The paper does not give: the size of crops; ``channels`` of an encoder's five convolutions;
    ``pooled`` (their last map is averaged over its positions as in SMR, or flattened); widths of
    fully connected layers, ``hidden`` before the ``code`` and ``decoder`` before the output;
    ``refinement_channels``. The defaults have 15.0 million parameters, the paper's modules 13.1
    (Table 2: 57.2 minus Mask R-CNN's 44.1). Image and masks have the same size, so
    ``crop.image_side`` must equal ``crop.side``.
    """

    DESCRIPTION: ClassVar[Description] = Description(
        task="complete",
        network="amodal_pipeline.methods.a3d.method:A3D",
        # The paper gives the optimiser but no schedule; these are our values for KINS.
        recipe={
            "iterations": 30_000,
            "batch_size": 64,
            "optimizer": "adam",
            "learning_rate": 1e-4,
            "weight_decay": 0.0,
            "milestones": (),
            "warmup_iterations": 0,
        },
        batches="amodal_pipeline.methods.a3d.method:batches",
        learns_from="objects",
        picture=(
            "amodal_pipeline.visuals.meshes:reconstructions",
            ("reconstructions", "meshes"),
        ),
        needs_boxes=True,
        pretrained_on_views=True,
    )

    name: Literal["a3d"] = "a3d"
    crop: CropConfig = CropConfig(
        around="amodal", enlarge=1.0, clipped=False, side=64, image_side=64
    )
    corruption: CorruptionConfig | None = None
    box_noise: float = Field(0.0, ge=0, lt=0.5)
    channels: tuple[PositiveInt, ...] = Field((32, 64, 128, 256, 512), min_length=1)
    pooled: bool = True
    hidden: tuple[PositiveInt, ...] = (1024, 1024)
    code: int = Field(512, gt=0)
    decoder: tuple[PositiveInt, ...] = (1024,)
    subdivisions: int = Field(3, ge=1, le=5)
    camera: Literal["smr", "softras", "softras_estimated"] = "smr"
    fitted: bool = False
    spread: bool = False
    sigma: float = Field(1e-4, gt=0)
    mesh: bool = True
    refinement: bool = True
    refinement_channels: int = Field(64, gt=0)
    hidden_weight: float = Field(0.5, ge=0)
    edge_weight: float = Field(1.0, gt=0)
    class_weight: float = Field(1.0, ge=0)
    laplacian: float = Field(5e-3, ge=0)
    flatten: float = Field(5e-4, ge=0)
    cross_view: bool = True

    @model_validator(mode="after")
    def _fits_together(self) -> "A3DConfig":
        if self.crop.side != self.crop.image_side:
            raise ValueError(
                f"a3d needs image and masks in one size: set crop.side {self.crop.side} and "
                f"crop.image_side {self.crop.image_side} to the same value"
            )
        if self.fitted and not self.mesh:
            raise ValueError("fitted=true has no effect without mesh")
        if self.spread and not self.mesh:
            raise ValueError("spread=true has no effect without mesh")
        crop = self.crop
        if self.fitted and (crop.square or crop.clipped or crop.around != "amodal"):
            raise ValueError(
                'fitted=true needs windows that amodal boxes fill: crop.around="amodal", '
                "crop.square=false, crop.clipped=false"
            )
        if self.fitted and self.box_noise:
            raise ValueError("fitted=true needs exact boxes: set box_noise=0, or fitted=false")
        return self


class MaskUNetVideoConfig(Strict):
    """A 3D U-Net over the visible masks of a clip: a control that other methods have to beat.

    ``channels``: of each level, finest first; every level but the first halves height and width,
    none halves time. ``image``: the frames are given beside the masks. ``corruption``: of the given
    masks in training. ``dice``: weight of a Dice loss beside the cross-entropy. ``frames``: T of a
    training clip; ``inference_frames``: how many frames are completed together; None is T.

    It is of no paper: form and schedule are ours.
    """

    DESCRIPTION: ClassVar[Description] = Description(
        task="complete",
        network="amodal_pipeline.methods.mask_unet_video:MaskUNetVideo",
        recipe={
            "iterations": 75_000,
            "batch_size": 4,
            "optimizer": "adamw",
            "learning_rate": 3e-4,
            "weight_decay": 0.01,
            "decay_vectors": False,
            "schedule": "cosine",
            "warmup_iterations": 1_000,
        },
        batches="amodal_pipeline.methods.batches:clip_batches",
        learns_from="clips",
        picture=("amodal_pipeline.jobs.strips:strips", ("strips",)),
        after_training=frozenset({"inference_frames"}),
    )

    name: Literal["mask_unet_video"] = "mask_unet_video"
    crop: ClipCropConfig = ClipCropConfig(side=128, image_side=128)
    corruption: CorruptionConfig | None = None
    channels: tuple[PositiveInt, ...] = Field((32, 64, 128, 256), min_length=1)
    image: bool = False
    dice: float = Field(0.0, ge=0)
    frames: int = Field(16, gt=0)
    inference_frames: PositiveInt | None = None

    @property
    def stretch(self) -> int:
        """Return how many frames are completed together."""
        return self.inference_frames or self.frames

    @property
    def overlap(self) -> int:
        """Return by how many frames two stretches of a longer track overlap."""
        return self.stretch // 2

    @model_validator(mode="after")
    def _fits_together(self) -> "MaskUNetVideoConfig":
        if self.crop.side % 2 ** (len(self.channels) - 1):
            raise ValueError(
                f"crops of {self.crop.side} pixels cannot be halved {len(self.channels) - 1} times "
                "(channels): choose another crop.side"
            )
        if self.image and self.crop.image_side != self.crop.side:
            raise ValueError(
                f"{self.name} sees image and masks as one: crop.side {self.crop.side} and "
                f"crop.image_side {self.crop.image_side} must be the same"
            )
        _check_looks_around_visible_masks(self.name, self.crop)
        return self


class ChangingTracksConfig(Strict):
    """Tracks whose visible outline changes (:func:`~..annotations.populations.changing`).

    Of objects that are visible in more than ``longer_than`` frames: those whose visible mask has an
    IoU below ``iou_below`` with the one ``apart`` frames before, at least once.
    """

    iou_below: float = Field(0.6, gt=0, le=1)
    apart: int = Field(4, gt=0)
    longer_than: int = Field(20, ge=0)


class SaVosConfig(Strict):
    """SaVos (Yao et al., NeurIPS 2022), which learns to complete from visible masks and motion.

    ``channels`` and ``flow_channels``: of the encoders' six convolutions; ``width``: of codes and
    LSTM. ``bidirectional``: what the next frame says is used beside what the one before says
    (Bi-SaVos). ``photometric``: weight of the loss of moved pixels; 0 leaves it out, as released
    for all data sets but FISHBOWL. ``supervised``: it learns from amodal masks, everywhere: the
    upper bound. ``flow_for_mask``: the mask decoder is given the first component of the flow in
    place of the visible mask, as in the released code. ``frames``: T of a training clip;
    ``inference_frames``: how many frames are completed together; None is T. ``training_tracks``:
    those that it learns from, as released for FISHBOWL; None: all.

    Crops are square, and patches 64 x 128: the rows of a crop are averaged in pairs.
    """

    DESCRIPTION: ClassVar[Description] = Description(
        task="complete",
        network="amodal_pipeline.methods.savos.method:SaVos",
        # 20 epochs of FISHBOWL's 13,197 objects, 3 on each of 4 GPUs. The rate is halved every 20
        # epochs: not before the end.
        recipe={
            "iterations": 22_000,
            "batch_size": 12,
            "optimizer": "adam",
            "learning_rate": 1e-4,
            "weight_decay": 0.0,
            "milestones": (),
            "gamma": 0.5,
            "warmup_iterations": 0,
        },
        batches="amodal_pipeline.methods.savos.method:batches",
        learns_from="clips",
        picture=("amodal_pipeline.jobs.strips:strips", ("strips",)),
        sees_flow=True,
        needs_amodal=lambda config: config.supervised,
        after_training=frozenset({"inference_frames"}),
    )

    name: Literal["savos"] = "savos"
    crop: ClipCropConfig = ClipCropConfig(enlarge=1.5, side=128, image_side=128)
    channels: SixChannels = (32, 64, 128, 256, 256, 512)
    flow_channels: SixChannels = (16, 32, 64, 128, 256, 256)
    width: int = Field(256, gt=0)
    bidirectional: bool = True
    photometric: float = Field(0.1, ge=0)
    supervised: bool = False
    flow_for_mask: bool = False
    training_tracks: ChangingTracksConfig | None = ChangingTracksConfig()
    frames: int = Field(40, ge=3)
    inference_frames: PositiveInt | None = None

    @property
    def stretch(self) -> int:
        """Return how many frames are completed together."""
        return self.inference_frames or self.frames

    @property
    def overlap(self) -> int:
        """Return by how many frames two stretches of a longer track overlap."""
        return self.stretch // 2

    @model_validator(mode="after")
    def _looks_around_visible_masks(self) -> "SaVosConfig":
        _check_looks_around_visible_masks(self.name, self.crop)
        return self
