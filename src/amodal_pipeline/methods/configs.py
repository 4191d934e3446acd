"""Configuration of every method. Defaults are the papers' values; conf/ makes them smaller.

This module imports no torch: Kedro checks parameters against these classes before a run starts.
"""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field, RootModel, model_validator

from amodal_pipeline.layers.configs import DetectorConfig, MaskHeadConfig, Strict


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


AnyMethod = MaskRCNNConfig | ORCNNConfig


class MethodConfig(RootModel[Annotated[AnyMethod, Field(discriminator="name")]]):
    """The configuration of one method, told apart by its ``name``."""

    model_config = ConfigDict(frozen=True)
