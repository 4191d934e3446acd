"""Configuration of the plain completer. Does not import torch."""

from typing import ClassVar, Literal

from pydantic import Field, PositiveInt, model_validator

from amodal_pipeline.layers.configs import CorruptionConfig, CropConfig, EncoderConfig, Strict
from amodal_pipeline.methods.contract import Description


class PlainCompleterConfig(Strict):
    """One encoder and decoder on an object's crop and visible mask; defaults are ViTA-Seg's.

    ViTA-Seg (arXiv 2512.09510, 2025) completes with a vision transformer and two heads. Other
    encoders, inputs and losses make this the control with which other completers are compared.

    Inputs: ``image``; ``mask``, the visible mask; ``distance``, its signed distance
    (:mod:`~..layers.distance`); ``others``, where other objects of the image are visible, dilated
    by ``others_dilation`` pixels of the crop. At least one is needed.

    Decoder: ``shared`` and ``branch`` are the widths of its stages, each of which doubles the
    resolution; a branch ends with ``last`` channels. ``skips``: stages also see the encoder's map
    of their resolution, and the last convolution sees the inputs other than the image, which keeps
    thin parts and sharp borders (ViTA-Seg has neither). ``heads``: 2 predicts the hidden part, too;
    ``fusion``: the amodal head sees the features of the hidden one.

    Losses: ``amodal_weight`` and ``hidden_weight`` times the sum of binary cross-entropy and Dice.
    ``batch_dice``: one Dice loss over all pixels of a batch, as released, instead of one per
    object. ``iou_head``: predicts the IoU of the amodal mask, with a loss of weight ``iou_weight``;
    the score of a detection is multiplied by it (SAMEO, Table 4).

    ``prototypes``: K learned vectors, the memory of shapes, which the features after the shared
    stages attend to; 0: none. ``prototype_gate`` decides how much of it is added at a place, from
    the "distance" and the features, from the "features" alone, or everything ("open")
    (arXiv 2605.24533, whose abstract is all that is known of it).

    In training: ``corruption`` of visible masks; ``flip``, the share of objects that are mirrored;
    ``erased``, the share of objects of which another object, pasted over them, hides more;
    ``enlargement``, range from which that of the crop is drawn; ``predicted_share``, of objects
    found by the detector, that are seen through its mask.
    """

    DESCRIPTION: ClassVar[Description] = Description(
        task="complete",
        network="amodal_pipeline.methods.plain_completer.method:PlainCompleter",
        # On KINS, as released: 100 epochs of some 95,300 objects, two batches of 8 a step, of which
        # the first 500 warm up.
        recipe={
            "iterations": 595_700,
            "batch_size": 16,
            "optimizer": "adamw",
            "learning_rate": 5e-6,
            "weight_decay": 0.01,
            "schedule": "linear",
            "warmup_iterations": 500,
            "warmup_factor": 0.001,
            "gradient_clip": 0.1,
            "precision": "float32",
        },
        batches="amodal_pipeline.methods.plain_completer.method:batches",
        learns_from="objects",
        learns_from_detections=True,
        sees=lambda config: "others" if config.others else "itself",
        needs_pixels=lambda config: config.image,
    )

    name: Literal["plain_completer"] = "plain_completer"
    encoder: EncoderConfig = EncoderConfig(name="vit_base_patch16_224.mae", weights="mae")
    crop: CropConfig = CropConfig(side=224, image_side=224)
    image: bool = True
    mask: bool = True
    distance: bool = False
    others: bool = False
    others_dilation: int = Field(0, ge=0)
    shared: tuple[PositiveInt, ...] = (512, 256)
    branch: tuple[PositiveInt, ...] = (128, 64)
    last: int = Field(32, gt=0)
    skips: bool = False
    heads: Literal[1, 2] = 2
    fusion: bool = True
    amodal_weight: float = Field(1.0, gt=0)
    hidden_weight: float = Field(0.25, gt=0)
    batch_dice: bool = False
    iou_head: bool = False
    iou_weight: float = Field(0.05, gt=0)
    prototypes: int = Field(0, ge=0)
    prototype_gate: Literal["distance", "features", "open"] = "distance"
    corruption: CorruptionConfig | None = None
    flip: float = Field(0.0, ge=0, le=1)
    erased: float = Field(0.0, ge=0, le=1)
    enlargement: tuple[float, float] | None = None
    predicted_share: float = Field(0.5, ge=0, le=1)

    @model_validator(mode="after")
    def _fits_together(self) -> "PlainCompleterConfig":
        if not (self.image or self.mask or self.distance or self.others):
            raise ValueError(f"{self.name} has no input: set image or mask to true")
        if not self.shared:
            raise ValueError(f"{self.name}.shared has no stage: give at least one width")
        if self.others_dilation and not self.others:
            raise ValueError("others_dilation has no effect without others")
        if self.enlargement and not 1 <= self.enlargement[0] <= self.enlargement[1]:
            raise ValueError(
                f"enlargement {self.enlargement} must be a range (low, high) with 1 <= low <= high"
            )
        return self
