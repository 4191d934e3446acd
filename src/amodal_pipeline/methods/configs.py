"""Configuration of every method. Defaults are the papers' values; conf/ makes them smaller.

This module imports no torch: Kedro checks parameters against these classes before a run starts.
"""

from typing import ClassVar, Literal

from pydantic import Field, PositiveInt, model_validator

from amodal_pipeline.layers.configs import (
    BackboneConfig,
    BoxHeadConfig,
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


class MaskRCNNConfig(Strict):
    """Mask R-CNN trained on amodal or visible boxes and masks: the baselines of every paper."""

    DESCRIPTION: ClassVar[Description] = Description(
        task="detect",
        network="amodal_pipeline.methods.mask_rcnn:MaskRCNN",
        jobs=("mask_rcnn", "mask_rcnn_visible"),
        starts_from="mask_rcnn",
        regresses_boxes=True,
    )

    name: Literal["mask_rcnn"] = "mask_rcnn"
    detector: DetectorConfig = DetectorConfig()
    mask_head: MaskHeadConfig = MaskHeadConfig()
    boxes: Literal["amodal", "visible"] = "amodal"
    masks: Literal["amodal", "visible"] = "amodal"

    @property
    def job(self) -> str:
        """The job that trains it: with visible masks in amodal boxes it is A3D's stage one."""
        stage_one = self.boxes == "amodal" and self.masks == "visible"
        return "mask_rcnn_visible" if stage_one else self.name


class ORCNNConfig(Strict):
    """ORCNN (Follmann et al., WACV 2019) and the variants of its Table 6.

    ``independent``: the gradients of the visible and the invisible loss stop before the amodal head
    and the RoI features. ``visible``: what the visible mask is after training, that of the visible
    "head", or the amodal mask without the invisible one ("amodal_minus_invisible").
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
    reported; no part of what is learnt, and neither is ``device``. Optimisation (Adam, the rate
    falling to 0 along a cosine) is not stated in the paper.
    """

    convolutions: Literal[2, 3] = 3
    channels: int = Field(8, gt=0)
    clusters: int = Field(1024, gt=0)
    turned: bool = False
    predicted_by: str | None = None
    min_box_iou: float = Field(0.8, ge=0, lt=1)
    min_mask_iou: float = Field(0.95, ge=0.5, lt=1)
    poor_below: int = Field(16, gt=0, exclude=True)
    iterations: int = Field(5_000, gt=0)
    batch_size: int = Field(256, gt=0)
    learning_rate: float = Field(0.01, gt=0)
    device: Literal["auto", "cpu", "cuda"] = Field("auto", exclude=True)
    seed: Seed = 0


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

    ``multipliers``: channels of each level are ``channels`` times these; each level but the first
    halves the resolution. ``codes``: entries of the codebook, of ``code_size`` numbers.
    ``enlargement``: range that the crop's is drawn from in training. Losses: ``commitment`` is
    beta; the discriminator enters after ``adversarial_start`` iterations with ``adversarial``
    times its adaptive weight (0 leaves it out); ``perceptual_weights`` is a file of VGG-16 weights
    for the perceptual loss, None leaves that out. ``adaptive_epsilon`` is delta of A.1 (1e-4 in
    the released code). ``revive_after``: a code that no mask has used for so many iterations
    becomes what the encoder makes of a badly represented place of the batch; 0, as in the paper,
    never. ``poor_below``: a reconstruction IoU (0-100) of the validation split that is warned of;
    no part of what is learnt.
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
        """Side of the grid of tokens."""
        return self.crop.side // 2 ** (len(self.multipliers) - 1)

    @model_validator(mode="after")
    def _divides(self) -> "MaskTokenizerConfig":
        low, high = self.enlargement
        if not 1 <= low <= high:
            raise ValueError(f"enlargement {self.enlargement} is no range from 1 on")
        if self.crop.side % 2 ** (len(self.multipliers) - 1):
            raise ValueError(
                f"a crop of {self.crop.side} pixels cannot be halved "
                f"{len(self.multipliers) - 1} times"
            )
        return self


class C2FSegConfig(Strict):
    """C2F-Seg for images (Gao et al., ICCV 2023), its ablations and its released variants.

    ``tokenizer``: the form of the mask tokenizer, taken from that of the data set where it is None.
    ``predicted_share``: of training objects that a detector has found, how many get its visible
    mask instead of the true one. ``fusion``: "sequence" makes a row of image, visible and amodal
    tokens (sec. 3.3); "channels" joins the three at each place (released). ``mask_ratio``: range of
    the share of amodal tokens that is masked. ``steps``: K of the iterative decoding; a token is
    drawn from its ``top_k`` likeliest (1: always the likeliest), and confidence has Gumbel noise of
    ``temperature`` (0: none). ``refinement`` false: the coarse mask is the result (Table 3);
    ``visible_branch`` false: single branch; ``attention`` false: Table B.3.

    Where the released code differs: ``cosine_mask_ratio`` draws max(cos(pi u / 2), lower end);
    ``loss_on_all_tokens``; ``label_smoothing`` (0.1); ``attention_map``: the attention's map is
    joined to the features instead of multiplied with them (eq. 8); ``refinement_adapter``: the last
    features pass a 1x1 convolution of their own width before the refinement attends to them and
    narrows them, without norm or ReLU.
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
        # ``top_k`` is none of them: training draws coarse masks with it.
        after_training=frozenset({"steps", "temperature", "seed"}),
    )

    name: Literal["c2f_seg"] = "c2f_seg"
    encoder: EncoderConfig = EncoderConfig()
    crop: CropConfig = CropConfig()
    corruption: CorruptionConfig | None = CorruptionConfig()
    predicted_share: float = Field(0.5, ge=0, le=1)
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
    seed: Seed = 0

    @model_validator(mode="after")
    def _fits(self) -> "C2FSegConfig":
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is no multiple of heads {self.heads}")
        if self.fusion == "channels" and self.width % 4:
            raise ValueError(f"width {self.width} cannot be split in a half and two quarters")
        low, high = self.mask_ratio
        if not 0 <= low <= high <= 1:
            raise ValueError(f"mask_ratio {self.mask_ratio} is no range of shares, 0 to 1")
        if self.attention_map and not self.attention:
            raise ValueError("attention_map=true has no effect without attention")
        if self.refinement_adapter and not self.refinement:
            raise ValueError("refinement_adapter=true has no effect without refinement")
        return self


class SLNConfig(Strict):
    """SLN (Zhang et al., ACM MM 2019) and its parts, each of which can be left out.

    ``layers``: L, the layers of visibility; deeper parts of objects are in the last one.
    ``layer_activation``: "softmax" puts a pixel into one layer, or into none, by a channel more
    that stands for no object; "sigmoid" decides on each layer, so that a pixel may be in several,
    as it is in the truth of the global map. ``global_module`` false: proposals and instances are
    found from the encoder's features alone. ``refinement`` false: the map derived from the
    instance layers is the result. ``expected_level``: the map that the refinement is given has the
    mean level of a pixel's layers in place of the likeliest, which lets gradients through.
    ``confidence``: C of eq. 1, that of the likeliest layer ("max") or of any layer ("any").
    ``hidden_unless_visible``: a pixel of an object is visible where the first layer has more than
    c, and in the likeliest of the deeper ones elsewhere, even if the first is likelier than that.

    The encoder's maps have strides 4, 8, 16 and 32, each half the size of the one before (sec. 4.2:
    256, 128, 64 and 32 cells). The same section calls the network dilated, and a dilated stage
    keeps the size of its input: ``dilated`` gives that reading, with strides 4, 8, 16 and 16.
    The global module takes the encoder's features. The text has it take the image (sec. 4.1), of
    which its three 3x3 convolutions see 7x7 pixels, too few to tell how many objects lie behind one
    another; ``global_input`` "image" is that literal form.

    The paper leaves open: ``layers``; ``stride`` of the one map that the encoder's are scaled to;
    ``width`` that a convolution brings it to; ``global_channels`` and ``instance_channels`` of the
    convolutions; ``roi_size`` (six of them see 13 cells, by which they can tell whose RoI it is).
    ``classes``: a box head classifies and refines proposals, as in the methods it is compared with.
    The paper's method has none: every detection is of the first category, a proposal whose score is
    its objectness, and proposals are suppressed once, as such (``proposals.nms_threshold``, while
    ``box_head.nms_threshold`` has no effect). Batch normalisation is trained in the modules, and
    frozen in the encoder, which sees a few images at once.
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
                'hidden_unless_visible=true needs confidence="any", and more than one layer'
            )
        return self


class OrderNetConfig(Strict):
    """OrderNet of Zhu et al. (CVPR 2017), as Zhang et al. (ACM MM 2019, sec. 5.2) use it for SLN.

    Of two objects whose amodal masks overlap, which one is in front. ``inputs``: what is seen of
    each, its "amodal" or "visible" mask, or its semantics-aware distance map ("maps"; levels from
    ``layers`` - 1 on are one). ``image`` false: nothing else. Otherwise the image too, both within
    a square ``enlarge`` times as large as the box around the two, scaled to ``side`` pixels.
    ``mutual`` true: a pair of which each is in front of the other is learnt as undecided; it is
    left out otherwise. ``flip``: the share of pairs that are mirrored in training.

    The papers leave open: ``enlarge``, ``side``, ``layers`` and ``flip``.
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
        """What is seen of a pair: undistorted, and black beyond the border of the image."""
        return CropConfig(
            enlarge=self.enlarge,
            square=True,
            clipped=False,
            side=self.side,
            image_side=self.side,
        )


class A3DConfig(Strict):
    """A3D (Li et al., ECCV 2022), its ablations, and what its paper leaves open.

    An object is seen within its amodal box (``crop``), whatever the aspect of that; the mesh behind
    it is a sphere of 4^``subdivisions`` x 20 faces that is bent by signed offsets. ``camera``: one
    of the presets of :data:`~..layers.cameras.PRESETS`, "smr" and "softras_estimated" (elevation
    and distance are estimated too) or "softras" (only the azimuth is: it knows the others, which
    the paper never does, sec. 3.7). ``fitted``: the projected mesh is shifted and scaled so that it
    fills the window as its amodal box does; the paper leaves that to the network.
    ``spread``: (a_x, a_y) are standardised over a batch (batch normalisation without a scale), so
    that objects are not all seen from one side, to which a short training without it falls; in
    training it needs batches of two objects at least.
    ``sigma``: sharpness of silhouettes. ``mesh`` false: the code is decoded to the coarse mask
    itself, without a third dimension. ``refinement`` false: the coarse mask is the result.
    ``hidden_weight``: lambda of eq. 2, of pixels that are not visible; its sum is divided by the
    number of pixels. ``edge_weight``, ``class_weight``, ``laplacian`` and ``flatten`` weigh losses
    beside L_R (eq. 1); the last two come from SoftRas, for meshes scaled to its sphere of radius
    0.5, and 0 leaves a loss out, as the paper's text does. ``cross_view``: meshes of an object seen
    twice are rendered from both viewpoints (sec. 3.7); without effect on data that shows every
    object once. ``corruption`` of the visible masks and ``box_noise``, the share of its sides by
    which a box is shifted and scaled in training, are no part of the paper.

    The paper leaves open: the size of crops, ``channels`` of the five convolutions of an encoder,
    ``pooled`` (their last map is averaged over its positions, as SMR's; false: it is flattened),
    ``hidden`` widths of its fully connected layers before the ``code``, ``decoder`` widths before
    the last layer, ``refinement_channels``. The defaults have 15.0 million parameters, the paper's
    modules 13.1 (its Table 2: 57.2 less Mask R-CNN's 44.1). Image and masks are of one size:
    ``crop.image_side`` is ``crop.side``.
    """

    DESCRIPTION: ClassVar[Description] = Description(
        task="complete",
        network="amodal_pipeline.methods.a3d.method:A3D",
        # As on KINS here: the paper prints the optimiser and no schedule.
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
                f"a3d sees image and masks as one: crop.side {self.crop.side} and crop.image_side "
                f"{self.crop.image_side} must be the same"
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
            raise ValueError(
                "fitted=true takes boxes to be exact: box_noise=0 with it, or fitted=false"
            )
        return self
