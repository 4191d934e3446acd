"""Mask R-CNN (He et al., ICCV 2017) on amodal or visible boxes and masks: the usual baseline."""

from torch import Tensor, nn

from amodal_pipeline.layers import detector
from amodal_pipeline.layers.masks import MaskHead, mask_loss, mask_targets, of_class
from amodal_pipeline.methods.configs import MaskRCNNConfig


class MaskRCNN(nn.Module):
    """Mask R-CNN with one mask head.

    ``images`` is a list of tensors [3, H, W], uint8 or float in 0–1, of any sizes. In training
    ``model(images, targets)`` returns named losses. In evaluation ``model(images)`` returns a dict
    per image:

    - boxes [N, 4]: x1, y1, x2, y2 in pixels of the given image
    - labels [N]: int64, from 1
    - scores [N]: 0–1
    - amodal_masks or visible_masks [N, 28, 28], by ``config.masks``: probabilities in the box

    Targets, a dict per image:

    - amodal_boxes, visible_boxes [N, 4]: NaN if nothing is visible
    - labels [N]: int64, from 1; -1 for an object to ignore
    - amodal_masks, visible_masks: uint8 [N, h, w] at any resolution
    - mask_scale: (x, y), factors from image pixels to mask pixels

    >>> model = MaskRCNN(MaskRCNNConfig(), classes=7).eval()
    >>> detections = model([torch.rand(3, 480, 640)])
    """

    def __init__(self, config: MaskRCNNConfig, classes: int) -> None:
        super().__init__()
        self.config = config
        self.box_kind = config.boxes
        self.detector = detector.build(config.detector, classes)
        head = config.mask_head
        self.mask_pool = detector.roi_align(config.detector, head.roi_size)
        self.mask_head = MaskHead(config.detector.backbone.pyramid_channels, head, classes)

    def forward(
        self, images: list[Tensor], targets: list[dict[str, Tensor]] | None = None
    ) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        if not self.training:
            return self.detector.detect_masks(images, self.mask_pool, self._masks)
        kind = self.config.masks
        targets = detector.on_boxes(targets, self.config.boxes)
        batch, rois, losses = self.detector.learn(images, targets)
        pooled = self.mask_pool(batch.features, rois.boxes)
        logits = self._masks(pooled, rois.labels)[kind]
        truth = mask_targets(targets, kind, rois.boxes, rois.matched, logits.shape[-1])
        return {**losses, f"loss_{kind}_mask": mask_loss(logits, truth)}

    def _masks(self, pooled: Tensor, labels: Tensor) -> dict[str, Tensor]:
        return {self.config.masks: of_class(self.mask_head(pooled), labels)}
