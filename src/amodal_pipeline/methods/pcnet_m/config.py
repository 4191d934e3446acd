"""Configuration of PCNet-M; its defaults are the paper's, for COCOA. Does not import torch."""

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from amodal_pipeline.layers.configs import CropConfig, Strict
from amodal_pipeline.methods.contract import Description

HALVINGS = 4


class PCNetMConfig(Strict):
    """PCNet-M of Zhan et al., "Self-Supervised Scene De-occlusion" (CVPR 2020).

    ``width``: times 16, the channels of the finest level of the U-Net; the paper's is 2. ``image``:
    the image is an input too, black where the eraser is. ``use_category``: the mask is given as the
    number of its category, as in the released configurations for KINS and LVIS.

    Training (section 3.2): the mask of an object is cut by that of another, the eraser, and is to
    be recovered; with the probability ``behind`` the eraser is cut by the mask instead, which must
    not grow into it. ``eraser_weight``: of pixels within the eraser in the loss.

    Inference (section 3.3): ``order``: which of two objects that touch is in front. "own": the one
    that grows less into the other; "true": as the data set states; "none": both are taken for the
    other's occluder, without an order (the paper's rows without it). ``order_threshold`` and
    ``amodal_threshold``: a pixel is foreground above these probabilities, when order is decided,
    and when objects are completed. ``keep``: what is kept of the input. "none": the prediction is
    the result, also where it loses visible pixels or grows over background (released); "visible":
    it is united with the visible mask; "eraser": in addition, it grows into occluders only.
    ``dilation``: pixels of the crop by which erasers grow on each side, for predicted visible masks
    with gaps between them. ``most_shared`` and ``score_threshold``: of detections, those below this
    score are not compared with others, nor two that share more than this of the smaller one.
    """

    DESCRIPTION: ClassVar[Description] = Description(
        task="complete",
        network="amodal_pipeline.methods.pcnet_m.method:PCNetM",
        # COCOA: eight GPUs with 32 objects each.
        recipe={
            "iterations": 56_000,
            "batch_size": 256,
            "learning_rate": 1e-3,
            "milestones": (32_000, 48_000),
            "warmup_iterations": 0,
        },
        batches="amodal_pipeline.methods.pcnet_m.method:batches",
        learns_from="objects",
        sees=lambda config: "in_front",
        needs_pixels=lambda config: config.image,
        needs_amodal=lambda config: False,
        needs_order=lambda config: config.order == "true",
        after_training=frozenset(
            {
                *("order", "order_threshold", "amodal_threshold", "keep"),
                *("dilation", "most_shared", "score_threshold"),
            }
        ),
    )

    name: Literal["pcnet_m"] = "pcnet_m"
    crop: CropConfig = CropConfig(enlarge=1.1, square="by_area", clipped=False)
    width: float = Field(2.0, gt=0)
    image: bool = False
    use_category: bool = False
    behind: float = Field(0.2, ge=0, le=1)
    eraser_weight: float = Field(5.0, gt=0)
    order: Literal["own", "true", "none"] = "own"
    order_threshold: float = Field(0.1, gt=0, lt=1)
    amodal_threshold: float = Field(0.2, gt=0, lt=1)
    keep: Literal["none", "visible", "eraser"] = "none"
    dilation: int = Field(0, ge=0)
    most_shared: float = Field(0.5, ge=0, le=1)
    score_threshold: float = Field(0.5, ge=0, le=1)

    @model_validator(mode="after")
    def _fits_together(self) -> "PCNetMConfig":
        crop = self.crop
        if crop.side % 2**HALVINGS:
            raise ValueError(
                f"crops of {crop.side} pixels cannot be halved {HALVINGS} times: choose a multiple "
                f"of {2**HALVINGS} as crop.side"
            )
        if self.image and crop.image_side != crop.side:
            raise ValueError(
                f"pcnet_m sees image and masks as one: crop.side {crop.side} and crop.image_side "
                f"{crop.image_side} must be the same"
            )
        if crop.around != "visible":
            raise ValueError("pcnet_m knows visible masks only: set crop.around to visible")
        if (self.width * 16) % 1:
            raise ValueError(
                f"width {self.width} is no multiple of 1/16: 16 times it are whole channels"
            )
        return self
