"""VRSP: "Amodal Segmentation Based on Visible Region Segmentation and Shape Prior", AAAI 2021."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.faster_rcnn import TwoMLPHead

from amodal_pipeline.layers import detector
from amodal_pipeline.layers.masks import MaskHead, mask_loss, mask_targets, of_class
from amodal_pipeline.methods.configs import VRSPConfig
from amodal_pipeline.methods.vrsp.codebook import ShapePrior

_AT_ONCE = 256  # RoIs per pass of the mask heads in evaluation: bounds the memory


@dataclass(frozen=True)
class Pass:
    """Outputs of a mask head for N RoIs.

    Attributes:
        logits: of each RoI's class, [N, 28, 28].
        convolved: features of the last convolution, [N, C, 14, 14].
        enlarged: features of the deconvolution, [N, C, 28, 28].
        channels: logits of all classes [N, classes, 28, 28], if the weighting asks for them.
    """

    logits: Tensor
    convolved: Tensor
    enlarged: Tensor
    channels: Tensor | None = None


@dataclass(frozen=True)
class Segmentation:
    """Coarse and refined masks of N RoIs.

    Attributes:
        classes: logits of the reclassification, [N, classes].
        prior: the nearest known shapes, [N, k, 28, 28].
        known: bool [N], whether the class has known shapes.
    """

    coarse_amodal: Pass
    coarse_visible: Pass
    visible: Pass
    amodal: Pass
    classes: Tensor | None
    prior: Tensor | None
    known: Tensor | None


class VRSP(nn.Module):
    """A detector with visible masks refined by coarse masks, and amodal masks refined by visible
    masks and by known shapes of the class.

    Inputs and outputs are those of :class:`~amodal_pipeline.methods.mask_rcnn.MaskRCNN`, with
    amodal_masks and visible_masks (both refined). ``without_prior`` counts the boxes of classes
    without known shapes, before suppression where scores are corrected. These boxes keep their
    coarse mask as prior, and their score.
    """

    # Both heads start from the mask head of a Mask R-CNN, which has only one.
    pretrained_names = {"amodal_head.": "mask_head.", "visible_head.": "mask_head."}  # noqa: RUF012
    box_kind = "amodal"

    def __init__(self, config: VRSPConfig, classes: int) -> None:
        super().__init__()
        self.config = config
        self.detector = detector.build(config.detector, classes)
        head = config.mask_head
        width = config.detector.backbone.pyramid_channels
        self.mask_pool = detector.roi_align(config.detector, head.roi_size)
        self.amodal_head = MaskHead(width, head, classes)
        self.visible_head = MaskHead(width, head, classes)
        self.without_prior = 0
        if config.uses_prior:
            if config.prior is None:
                raise ValueError("prior is None: give it the form of the data set's shape prior")
            self.prior = ShapePrior(config.prior, classes)
        if config.prior_refinement:
            # Eq. 4: reduces features and k masks to the width of the amodal head's input.
            self.fuse = nn.Conv2d(width + config.neighbours, width, 3, padding=1)
            # At first features pass unchanged: a pretrained amodal head expects them so.
            nn.init.dirac_(self.fuse.weight)
            nn.init.normal_(self.fuse.weight[:, width:], std=0.01)
            nn.init.zeros_(self.fuse.bias)
        if config.reclassification:
            self.reclassifier = nn.Sequential(
                TwoMLPHead(width * head.roi_size**2, config.reclassifier_channels),
                nn.Linear(config.reclassifier_channels, classes),
            )

    def forward(
        self, images: list[Tensor], targets: list[dict[str, Tensor]] | None = None
    ) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        if not self.training:
            return self._detect(images)
        targets = detector.on_boxes(targets, "amodal")
        batch, rois, losses = self.detector.learn(images, targets)
        features = self.mask_pool(batch.features, rois.boxes)
        size = 2 * self.config.mask_head.roi_size
        amodal, visible = (
            mask_targets(targets, kind, rois.boxes, rois.matched, size)
            for kind in ("amodal", "visible")
        )
        found = self.segment(features, rois.labels)
        losses |= self._mask_losses(found, amodal, visible)
        if found.classes is not None:
            losses["loss_reclassification"] = self._reclassification_loss(
                found, features, visible, rois.labels
            )
        teachers = None
        if self.config.true_attention:
            teachers = self._true_attention(features, rois.labels, amodal, visible, found.prior)
            losses["loss_amodal_mask_true"] = mask_loss(teachers[0].logits, amodal)
            losses["loss_visible_mask_true"] = mask_loss(teachers[1].logits, visible)
        if self.config.feature_matching:
            losses |= self._feature_matching(found, teachers)
        return losses

    def segment(self, features: Tensor, labels: Tensor) -> Segmentation:
        """Return all masks of RoIs from their features [N, C, 14, 14] and 1-based classes [N]."""
        config = self.config
        every = config.all_channel_weighting
        coarse_amodal = _apply(self.amodal_head, features, labels, every)
        coarse_visible = _apply(self.visible_head, features, labels, every)

        # Section "The Visible Mask Segmentation Module", eq. 1; Table 3 has the other schemes.
        by_amodal = config.attention in ("vrsp", "cross")
        seen_through = coarse_amodal if by_amodal else coarse_visible
        visible = _apply(self.visible_head, features * _attention(seen_through), labels)
        classes = None
        if config.reclassification:
            seen = _attention(visible)
            if config.reclassification_input == "logits":
                seen = F.avg_pool2d(visible.logits.detach()[:, None], 2)
            classes = self.reclassifier(features * seen).float()

        # Section "The Amodal Mask Segmentation Module", eq. 4.
        region = features
        match config.attention if config.visible_attention else None:
            case "vrsp" | "visible":
                region = features * _attention(visible)
            case "cross":
                region = features * _attention(coarse_visible)
            case "self":
                region = features * _attention(coarse_amodal)
        prior = known = None
        if config.prior_refinement:
            query = _query(coarse_amodal.logits.detach(), config.prior_input)
            found = self.prior.nearest(query, labels - 1, config.neighbours)
            known = found.known
            # The query may be logits: a class without shapes takes the coarse mask as prior.
            coarse = _query(coarse_amodal.logits.detach(), "mask")
            prior = torch.where(known[:, None, None, None], found.masks, coarse[:, None])
            region = self.fuse(torch.cat([region, F.avg_pool2d(prior, 2)], dim=1))
        amodal = _apply(self.amodal_head, region, labels)
        return Segmentation(coarse_amodal, coarse_visible, visible, amodal, classes, prior, known)

    def explain(self, image: Tensor, boxes: Tensor, labels: Tensor) -> Segmentation:
        """Return all masks of given objects of an image, in evaluation mode.

        Args:
            image: [3, H, W] as for detection.
            boxes: [N, 4] (x1, y1, x2, y2) in its pixels.
            labels: [N], 1-based.
        """
        batch = self.detector.batch([image])
        (h, w), (height, width) = batch.sizes[0], image.shape[-2:]
        scale = boxes.new_tensor([w / width, h / height] * 2)
        return self.segment(self.mask_pool(batch.features, [boxes * scale]), labels)

    def _mask_losses(
        self, found: Segmentation, amodal: Tensor, visible: Tensor
    ) -> dict[str, Tensor]:
        config = self.config
        # RoIs whose attention is far from the truth teach the heads little, and weigh less.
        weights = {
            "amodal": _weight(found.coarse_amodal, amodal),
            "visible": _weight(found.coarse_visible, visible),
        }
        seen_through = "amodal" if config.attention in ("vrsp", "cross") else "visible"
        attended = "amodal" if config.attention == "self" else "visible"
        of_visible = weights[seen_through] if config.weighting else None
        of_amodal = weights[attended] if config.weighting and config.visible_attention else None
        return {
            "loss_amodal_mask_coarse": mask_loss(found.coarse_amodal.logits, amodal),
            "loss_visible_mask_coarse": mask_loss(found.coarse_visible.logits, visible),
            "loss_visible_mask": mask_loss(found.visible.logits, visible, of_visible),
            "loss_amodal_mask": mask_loss(found.amodal.logits, amodal, of_amodal),
        }

    def _reclassification_loss(
        self, found: Segmentation, features: Tensor, visible: Tensor, labels: Tensor
    ) -> Tensor:
        """Return λ times the mean cross-entropy of eq. 2, a scalar; 0 without RoIs.

        Args:
            found: segmentation of the RoIs, with classes.
            features: features of the RoIs, [N, C, 14, 14].
            visible: true visible masks, [N, 28, 28] with values 0–1.
            labels: 1-based classes [N].
        """
        config = self.config
        loss = F.cross_entropy(found.classes, labels - 1, reduction="none")
        if config.reclassification_weighting:
            loss = loss * _weight(found.visible, visible)
        if config.reclassification_true_weight:
            classes = self.reclassifier(features * F.avg_pool2d(visible[:, None], 2)).float()
            true = F.cross_entropy(classes, labels - 1, reduction="none")
            loss = torch.cat([loss, config.reclassification_true_weight * true])
        return config.reclassification_weight * loss.sum() / max(len(loss), 1)

    def _true_attention(
        self,
        features: Tensor,
        labels: Tensor,
        amodal: Tensor,
        visible: Tensor,
        prior: Tensor | None,
    ) -> tuple[Pass, Pass]:
        """Return amodal and visible passes with true masks as attention (released code).

        ``prior``: the shapes nearest to the coarse mask. Shapes nearest to the true mask would hand
        the answer to the fusing convolution.
        """
        seen, whole = (F.avg_pool2d(mask[:, None], 2) for mask in (visible, amodal))
        region = features * seen
        if prior is not None:
            region = self.fuse(torch.cat([region, F.avg_pool2d(prior, 2)], dim=1))
        return (
            _apply(self.amodal_head, region, labels),
            _apply(self.visible_head, features * whole, labels),
        )

    def _feature_matching(
        self, found: Segmentation, teachers: tuple[Pass, Pass] | None
    ) -> dict[str, Tensor]:
        """Return the losses of eqs. 3 and 5, visible and amodal.

        Each is 1 minus the cosine similarity of features of the coarse and the refined pass.
        """
        amodal, visible = teachers or (found.amodal, found.visible)
        layers = self.config.mask_head.convolutions + 1  # S: convolutions and deconvolution
        losses = {}
        for name, coarse, refined in (
            ("visible", found.coarse_visible, visible),
            ("amodal", found.coarse_amodal, amodal),
        ):
            total = coarse.logits.sum() * 0
            for weight, a, b in zip(
                self.config.feature_matching_weights,
                (coarse.convolved, coarse.enlarged),
                (refined.convolved, refined.enlarged),
                strict=True,
            ):
                if len(a):
                    b = b.detach() if teachers else b
                    alike = F.cosine_similarity(a.flatten(1).float(), b.flatten(1).float())
                    total = total + weight * (1 - alike).mean()
            losses[f"loss_{name}_matching"] = total / (1 if teachers else layers)
        return losses

    def _detect(self, images: list[Tensor]) -> list[dict[str, Tensor]]:
        batch = self.detector.batch(images)
        if self.config.rescores:
            found = self.detector.candidates(batch, self.config.candidates_per_image)
        else:
            found = self.detector.detect(batch)
        counts = [len(d["boxes"]) for d in found]
        features = self.mask_pool(batch.features, [d["boxes"] for d in found])
        labels = torch.cat([d["labels"] for d in found])
        parts = [
            self._masks_and_factor(f, of)
            for f, of in zip(features.split(_AT_ONCE), labels.split(_AT_ONCE), strict=True)
        ]
        amodal, visible, factor = (torch.cat(p) for p in zip(*parts, strict=True))
        for own, a, v, f in zip(
            found, amodal.split(counts), visible.split(counts), factor.split(counts), strict=True
        ):
            own |= {"amodal_masks": a, "visible_masks": v}
            own["scores"] = self._combine(own["scores"], f)
        if self.config.rescores:
            found = [self.detector.suppress(d) for d in found]
        return detector.on_images(found, batch, images)

    def _masks_and_factor(self, features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return refined masks as probabilities, and factors of the score [N, rescorers]."""
        config, factors = self.config, []
        found = self.segment(features, labels)
        amodal, visible = found.amodal.logits.sigmoid(), found.visible.logits.sigmoid()
        if config.reclassification:
            own = found.classes.softmax(dim=1).gather(1, labels[:, None] - 1)[:, 0]
            match config.reclassification_score:
                case "product":
                    factors.append(own)
                case "released":
                    factors.append(0.4 * own + 0.6)
        if config.prior_post_process:
            mask = (amodal > 0.5).float()
            nearest = self.prior.nearest(mask, labels - 1, 1)
            shape = (nearest.masks[:, 0] > 0.5).float()
            distance = (mask - shape).square().mean(dim=(1, 2))
            alpha = distance.new_tensor(config.alpha)
            similarity = F.relu(torch.log((alpha - distance).clamp(min=1e-6)) / torch.log(alpha))
            factors.append(torch.where(nearest.known, similarity, 1.0))
            self.without_prior += int((~nearest.known).sum())
        elif found.known is not None:
            self.without_prior += int((~found.known).sum())
        empty = amodal.new_zeros((len(amodal), 0))
        return amodal, visible, torch.stack(factors, dim=1) if factors else empty

    def _combine(self, scores: Tensor, factors: Tensor) -> Tensor:
        """Return the class score times all factors; in the released code, their geometric mean."""
        product = scores * factors.prod(dim=1)
        return product ** (1 / (1 + factors.shape[1])) if self.config.geometric_mean else product


def _apply(head: MaskHead, features: Tensor, labels: Tensor, every: bool = False) -> Pass:
    logits, convolved, enlarged = head.with_features(features)
    return Pass(of_class(logits, labels), convolved, enlarged, logits if every else None)


def _attention(mask: Pass) -> Tensor:
    """Return a mask as a factor of RoI features, [N, 1, 14, 14] with values 0–1."""
    return F.avg_pool2d(mask.logits.sigmoid()[:, None], 2)


def _query(logits: Tensor, kind: str) -> Tensor:
    """Return a coarse mask in the form that the encoder of shapes takes."""
    match kind:
        case "mask":
            return (logits > 0).float()
        case "probability":
            return logits.sigmoid()
    return logits


def _weight(found: Pass, truth: Tensor) -> Tensor:
    """Return the IoU of predicted and true masks within RoIs, [N]; 0 where both are empty.

    If the pass has all channels, the masks of all classes are each compared with the true one, and
    their intersections and unions are summed.
    """
    logits = found.logits[:, None] if found.channels is None else found.channels
    masks, true = logits.detach() > 0, truth[:, None] > 0.5
    shared = (masks & true).sum(dim=(1, 2, 3))
    joined = (masks | true).sum(dim=(1, 2, 3))
    return shared / joined.clamp(min=1)
