"""BCNet: "Deep Occlusion-Aware Instance Segmentation with Overlapping BiLayers", Ke et al., CVPR
2021, trained with amodal masks."""

from torch import Tensor, nn

from amodal_pipeline.layers import detector
from amodal_pipeline.layers.masks import mask_loss, mask_targets
from amodal_pipeline.layers.occluders import occluder_loss, with_occluders
from amodal_pipeline.methods.bcnet.config import BCNetConfig
from amodal_pipeline.methods.bcnet.head import BCNetHead, Segmentation, boundary


class BCNet(nn.Module):
    """A detector of amodal boxes whose mask head segments the occluder before the object.

    Inputs and outputs are those of :class:`~amodal_pipeline.methods.mask_rcnn.MaskRCNN`, with
    amodal_masks. Occluder and boundaries are learnt; they are no part of the detections.
    """

    # The object's layer has the form of Mask R-CNN's head.
    pretrained_names = {  # noqa: RUF012
        "head.occludee.convolutions.": "mask_head.layers.",
        "head.occludee.mask.": "mask_head.predictor.",
    }
    box_kind = "amodal"

    def __init__(self, config: BCNetConfig, classes: int) -> None:
        super().__init__()
        self.config = config
        self.detector = detector.build(config.detector, classes)
        self.mask_pool = detector.roi_align(config.detector, config.roi_size)
        self.head = BCNetHead(config.detector.backbone.pyramid_channels, config)

    def forward(
        self, images: list[Tensor], targets: list[dict[str, Tensor]] | None = None
    ) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        if not self.training:
            return self.detector.detect_masks(
                images, self.mask_pool, lambda pooled, labels: {"amodal": self.head.amodal(pooled)}
            )
        targets = detector.on_boxes(targets, "amodal")
        batch, rois, losses = self.detector.learn(images, targets)
        occluder, occludee = self.head(self.mask_pool(batch.features, rois.boxes))
        return {**losses, **self.mask_losses(occluder, occludee, rois, targets)}

    def mask_losses(
        self,
        occluder: Segmentation,
        occludee: Segmentation,
        rois: detector.Sample,
        targets: list[dict],
    ) -> dict[str, Tensor]:
        """Return the weighted losses of both masks and of their boundaries."""
        config, size = self.config, occludee.mask.shape[-1]
        targets = with_occluders(
            targets,
            config.occluder_masks,
            in_front=config.occluders == "in_front",
            gate=config.occluder_gate,
        )
        amodal, others = (
            mask_targets(targets, kind, rois.boxes, rois.matched, size)
            for kind in ("amodal", "occluder")
        )
        balance = config.occluder_balance
        losses = {
            "loss_amodal_mask": mask_loss(occludee.mask, amodal),
            "loss_occluder_mask": config.occluder_weight
            * occluder_loss(occluder.mask, others, balance),
        }
        if config.boundaries:
            losses["loss_boundary"] = config.boundary_weight * mask_loss(
                occludee.boundary, boundary(amodal)
            )
            losses["loss_occluder_boundary"] = config.boundary_weight * occluder_loss(
                occluder.boundary, boundary(others), balance
            )
        return losses
