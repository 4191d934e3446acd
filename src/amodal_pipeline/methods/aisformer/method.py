"""AISFormer: "Amodal Instance Segmentation with Transformer", Tran et al., BMVC 2022."""

import torch
from torch import Tensor, nn

from amodal_pipeline.layers import detector
from amodal_pipeline.layers.masks import mask_loss, mask_targets
from amodal_pipeline.layers.occluders import occluder_loss, with_occluders
from amodal_pipeline.methods.aisformer.config import AISFormerConfig
from amodal_pipeline.methods.aisformer.head import AISFormerHead

_AT_ONCE = 64  # RoIs per pass of the head in evaluation: bounds the memory


class AISFormer(nn.Module):
    """A detector of amodal boxes whose mask head predicts four masks of a RoI together.

    Inputs and outputs are those of :class:`~amodal_pipeline.methods.mask_rcnn.MaskRCNN`, with
    amodal_masks, visible_masks and invisible_masks (without those whose weight is 0). The occluder
    mask is learnt; it is no part of the detections.
    """

    pretrained_names = {  # noqa: RUF012
        "head.convolutions.": "mask_head.layers.",
        "head.deconvolution.": "mask_head.predictor.conv5_mask.",
    }
    box_kind = "amodal"

    def __init__(self, config: AISFormerConfig, classes: int) -> None:
        super().__init__()
        self.config = config
        self.detector = detector.build(config.detector, classes)
        self.mask_pool = detector.roi_align(config.detector, config.roi_size)
        self.head = AISFormerHead(config.detector.backbone.pyramid_channels, config)
        self.weights = {
            "amodal": config.amodal_weight,
            "visible": config.visible_weight,
            "occluder": config.occluder_weight,
            "invisible": config.invisible_weight,
        }

    def forward(
        self, images: list[Tensor], targets: list[dict[str, Tensor]] | None = None
    ) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        if not self.training:
            return self.detector.detect_masks(images, self.mask_pool, self._detected)
        targets = detector.on_boxes(targets, "amodal")
        batch, rois, losses = self.detector.learn(images, targets)
        logits = self.head(self.mask_pool(batch.features, rois.boxes))
        return {**losses, **self.mask_losses(logits, rois, targets)}

    def mask_losses(
        self, logits: dict[str, Tensor], rois: detector.Sample, targets: list[dict]
    ) -> dict[str, Tensor]:
        """Return the weighted losses of the masks that have a weight."""
        truth = self.truth(rois, targets, logits["amodal"].shape[-1])
        losses = {}
        for name, weight in self.weights.items():
            if weight and name == "occluder":
                loss = occluder_loss(logits[name], truth[name], self.config.occluder_balance)
                losses[f"loss_{name}_mask"] = weight * loss
            elif weight:
                losses[f"loss_{name}_mask"] = weight * mask_loss(logits[name], truth[name])
        return losses

    def truth(self, rois: detector.Sample, targets: list[dict], size: int) -> dict[str, Tensor]:
        """Return the true masks of RoIs by name, each [N, size, size] of 0 and 1."""
        if self.config.occluder_weight:
            targets = with_occluders(
                targets,
                "visible",
                in_front=self.config.occluders == "in_front",
                gate=self.config.occluder_gate,
            )
        kinds = [name for name in ("amodal", "visible", "occluder") if self.weights[name]]
        if self.config.invisible_weight and "visible" not in kinds:
            kinds.append("visible")
        found = {
            kind: mask_targets(targets, kind, rois.boxes, rois.matched, size) for kind in kinds
        }
        if self.config.invisible_weight:
            found["invisible"] = (found["amodal"] - found["visible"]).abs()
        return found

    def _detected(self, pooled: Tensor, labels: Tensor) -> dict[str, Tensor]:
        parts = [self.head(part) for part in pooled.split(_AT_ONCE)]
        kinds = [kind for kind in self.weights if kind != "occluder" and self.weights[kind]]
        return {kind: torch.cat([part[kind] for part in parts]) for kind in kinds}
