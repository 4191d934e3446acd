"""ORCNN: "Learning to See the Invisible", Follmann et al., WACV 2019."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from amodal_pipeline.layers import detector
from amodal_pipeline.layers.masks import MaskHead, mask_loss, mask_targets, of_class
from amodal_pipeline.methods.configs import ORCNNConfig


class ORCNN(nn.Module):
    """A detector of amodal boxes with an amodal and a visible mask head on the same RoIs.

    The invisible mask has no parameters: its logits are the amodal ones minus the positive part of
    the visible ones (section 3.1). The three mask losses have weight 1 (section 3.2, eq. 1).
    Inputs and outputs are those of :class:`~amodal_pipeline.methods.mask_rcnn.MaskRCNN`, with
    amodal_masks, visible_masks and invisible_masks.
    """

    # Section 4 (appendix A): both heads start from the one mask head of a Mask R-CNN.
    pretrained_names = {"amodal_head.": "mask_head.", "visible_head.": "mask_head."}  # noqa: RUF012
    box_kind = "amodal"

    def __init__(self, config: ORCNNConfig, classes: int) -> None:
        super().__init__()
        self.config = config
        self.detector = detector.build(config.detector, classes)
        head = config.mask_head
        self.mask_pool = detector.roi_align(config.detector, head.roi_size)
        width = config.detector.backbone.pyramid_channels
        self.amodal_head = MaskHead(width, head, classes)
        self.visible_head = MaskHead(width, head, classes)

    def forward(
        self, images: list[Tensor], targets: list[dict[str, Tensor]] | None = None
    ) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        if not self.training:
            return self.detector.detect_masks(images, self.mask_pool, self._masks)
        targets = detector.on_boxes(targets, "amodal")
        batch, rois, losses = self.detector.learn(images, targets)
        pooled = self.mask_pool(batch.features, rois.boxes)
        logits = self._masks(pooled, rois.labels)
        return {**losses, **self._mask_losses(logits, rois, targets)}

    def _masks(self, pooled: Tensor, labels: Tensor) -> dict[str, Tensor]:
        amodal = of_class(self.amodal_head(pooled), labels)
        # "independent" (Table 6): the visible branch's gradient does not reach the shared features.
        independent = self.config.independent
        visible = of_class(self.visible_head(pooled.detach() if independent else pooled), labels)
        minuend = amodal.detach() if independent else amodal
        invisible = minuend - F.relu(visible)
        if not self.training and self.config.visible == "amodal_minus_invisible":
            # Visible pixels are in the amodal, not in the invisible mask; σ(−x) = 1 − σ(x).
            visible = torch.minimum(amodal, -invisible)
        return {"amodal": amodal, "visible": visible, "invisible": invisible}

    def _mask_losses(
        self, logits: dict[str, Tensor], rois: detector.Sample, targets: list[dict]
    ) -> dict[str, Tensor]:
        size = logits["amodal"].shape[-1]
        amodal = mask_targets(targets, "amodal", rois.boxes, rois.matched, size)
        losses = {"loss_amodal_mask": mask_loss(logits["amodal"], amodal)}
        if not (self.config.visible_loss or self.config.invisible_loss):
            return losses
        visible = mask_targets(targets, "visible", rois.boxes, rois.matched, size)
        if self.config.visible_loss:
            losses["loss_visible_mask"] = mask_loss(logits["visible"], visible)
        if self.config.invisible_loss:
            # The target of an object without a hidden part is 0 everywhere.
            invisible = amodal * (1 - visible)
            losses["loss_invisible_mask"] = mask_loss(logits["invisible"], invisible)
        return losses
