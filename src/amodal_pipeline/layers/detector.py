"""The box detector of every two-stage method: backbone, proposals, box head, RoI sampling.

Built from torchvision's detection parts. Masks are predicted by the methods; this module combines
images into one batch and converts boxes to the coordinates of the caller's images.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import (
    FastRCNNConvFCHead,
    FastRCNNPredictor,
    TwoMLPHead,
)
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import (
    RegionProposalNetwork,
    RPNHead,
    concat_box_prediction_layers,
)
from torchvision.ops import (
    FrozenBatchNorm2d,
    batched_nms,
    box_iou,
    clip_boxes_to_image,
    remove_small_boxes,
)

from amodal_pipeline.layers.backbone import STRIDES, PyramidBackbone
from amodal_pipeline.layers.configs import BoxHeadConfig, DetectorConfig, ProposalConfig
from amodal_pipeline.layers.pooling import PyramidRoIAlign

BACKGROUND_IOU = 0.3  # an anchor whose IoU with every object is below this is background
BOX_SIZE = 7  # cells per side of the box head's RoIs
ANCHOR_STRIDES = (*STRIDES, 64)
_DIVISIBLE = 32  # images are padded to multiples of this


@dataclass(frozen=True)
class Batch:
    """Images ready for the network.

    ``images`` [B, 3, H, W] normalised and padded; ``sizes`` (h, w) of each before padding;
    ``features`` by pyramid level.
    """

    images: Tensor
    sizes: list[tuple[int, int]]
    features: OrderedDict[str, Tensor]


@dataclass(frozen=True)
class Sample:
    """The RoIs of one training step that overlap an object, per image."""

    boxes: list[Tensor]  # [P, 4] in input coordinates
    matched: list[Tensor]  # [P], index of the object
    labels: Tensor  # [all P], 1-based classes


class FullPrecisionHead(RPNHead):
    """torchvision's proposal head with float32 results.

    torchvision decodes boxes in their type; bf16 would place them to a few pixels only.
    """

    def forward(self, x: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        logits, deltas = super().forward(x)
        return [v.float() for v in logits], [v.float() for v in deltas]


class ExactAnchors(AnchorGenerator):
    """Anchors as in detectron2: ``ANCHOR_STRIDES`` apart, with sides that are not rounded.

    torchvision rounds sides to whole pixels, and spreads the anchors of the coarsest level over the
    padded image: on a map of 13 cells for 800 pixels they are 61 pixels apart.
    """

    def generate_anchors(self, scales: Sequence[float], aspect_ratios: Sequence[float]) -> Tensor:
        scales, ratios = torch.tensor(scales), torch.tensor(aspect_ratios)
        widths = (scales[None] / ratios[:, None].sqrt()).flatten()
        heights = (scales[None] * ratios[:, None].sqrt()).flatten()
        return torch.stack([-widths, -heights, widths, heights], dim=1) / 2

    def forward(self, image_list: ImageList, feature_maps: list[Tensor]) -> list[Tensor]:
        sizes = [tuple(m.shape[-2:]) for m in feature_maps]
        self.set_cell_anchors(feature_maps[0].dtype, feature_maps[0].device)
        anchors = torch.cat(self.grid_anchors(sizes, [(s, s) for s in ANCHOR_STRIDES]))
        return [anchors] * len(image_list.image_sizes)


class ProposalNetwork(RegionProposalNetwork):
    """torchvision's, except that anchors on an ignored object (label -1) are not background.

    The box head does not need this, because its sampler skips proposals with the label -1.
    ``box_loss_beta``: see :class:`~amodal_pipeline.layers.configs.ProposalConfig`.
    """

    box_loss_beta = 1 / 9

    def assign_targets_to_anchors(
        self, anchors: list[Tensor], targets: list[dict[str, Tensor]]
    ) -> tuple[list[Tensor], list[Tensor]]:
        real = [{"boxes": t["boxes"][t["labels"] > 0]} for t in targets]
        labels, matched = super().assign_targets_to_anchors(anchors, real)
        for label, anchor, target in zip(labels, anchors, targets, strict=True):
            ignored = target["boxes"][target["labels"] < 0]
            if len(ignored):
                near = box_iou(anchor, ignored).amax(dim=1) >= BACKGROUND_IOU
                label[near & (label == 0)] = -1
        return labels, matched

    def compute_loss(
        self,
        objectness: Tensor,
        pred_bbox_deltas: Tensor,
        labels: list[Tensor],
        regression_targets: list[Tensor],
    ) -> tuple[Tensor, Tensor]:
        """Return torchvision's losses of objectness and of boxes, with ``box_loss_beta``."""
        positive, negative = (
            torch.where(torch.cat(chosen))[0] for chosen in self.fg_bg_sampler(labels)
        )
        sampled = torch.cat([positive, negative])
        box_loss = F.smooth_l1_loss(
            pred_bbox_deltas[positive],
            torch.cat(regression_targets)[positive],
            beta=self.box_loss_beta,
            reduction="sum",
        )
        loss = F.binary_cross_entropy_with_logits(
            objectness.flatten()[sampled], torch.cat(labels)[sampled]
        )
        return loss, box_loss / sampled.numel()

    def scored(self, batch: Batch) -> list[tuple[Tensor, Tensor]]:
        """Return proposals [N, 4] per image with their objectness [N] (0–1), best first."""
        maps = list(batch.features.values())
        logits, deltas = self.head(maps)
        anchors = self.anchor_generator(ImageList(batch.images, batch.sizes), maps)
        counts = [level[0].numel() for level in logits]
        logits, deltas = concat_box_prediction_layers(logits, deltas)
        boxes = self.box_coder.decode(deltas, anchors).view(len(anchors), -1, 4)
        found = self.filter_proposals(boxes, logits, batch.sizes, counts)
        return list(zip(*found, strict=True))


class BoxDetector(nn.Module):
    """Faster R-CNN, up to and including the box head.

    Args:
        backbone: returns maps by name, a pyramid of them or one.
        min_size, max_size: scaling of images in evaluation (shorter side, longer side at most).
        mean, std: of RGB images in 0–1.
        rpn, roi_heads: from :func:`proposal_network` and :func:`box_heads`. Without a box head,
            detections are proposals, of one class, and their scores objectness.
        box_loss_beta: see :class:`~amodal_pipeline.layers.configs.BoxHeadConfig`.
    """

    def __init__(
        self,
        backbone: nn.Module,
        rpn: ProposalNetwork,
        roi_heads: RoIHeads,
        min_size: int,
        max_size: int,
        mean: Sequence[float],
        std: Sequence[float],
        box_loss_beta: float,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.rpn = rpn
        self.roi_heads = roi_heads
        self.min_size, self.max_size = min_size, max_size
        self.box_loss_beta = box_loss_beta
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)

    def batch(self, images: Sequence[Tensor]) -> Batch:
        """Return images [3, H, W] normalised, scaled (in evaluation), padded and encoded.

        Images are uint8, or float in 0–1.
        """
        padded, sizes = self.stack(images)
        return Batch(padded, sizes, self.encode(padded))

    def stack(self, images: Sequence[Tensor]) -> tuple[Tensor, list[tuple[int, int]]]:
        """Return images normalised, scaled (in evaluation) and padded, and their sizes.

        The images are [B, 3, H, W]; sizes are (h, w) of each before padding.
        """
        prepared = [self.prepare(image) for image in images]
        sizes = [tuple(p.shape[-2:]) for p in prepared]
        height, width = (
            -(-max(side) // _DIVISIBLE) * _DIVISIBLE for side in zip(*sizes, strict=True)
        )
        padded = torch.stack(
            [F.pad(p, (0, width - p.shape[-1], 0, height - p.shape[-2])) for p in prepared]
        )
        return padded, sizes

    def encode(self, padded: Tensor) -> OrderedDict[str, Tensor]:
        """Return the backbone's maps of images [B, 3, H, W], in float32."""
        # Anchors and RoIs take the type of the maps, and bf16 cannot represent coordinates exactly.
        return OrderedDict((name, m.float()) for name, m in self.backbone(padded).items())

    def prepare(self, image: Tensor) -> Tensor:
        """Return one image [3, H, W], in 0–1 or uint8, normalised and (in evaluation) scaled."""
        if image.ndim != 3 or image.shape[0] != 3:
            raise ValueError(f"an image must be [3, H, W], not {list(image.shape)}")
        image = image.to(self.mean.device)
        image = image.float() / 255 if image.dtype == torch.uint8 else image.float()
        if not self.training:
            size = scaled_size(image.shape[-2:], self.min_size, self.max_size)
            image = resize(image, size)
        return (image - self.mean) / self.std

    def learn(
        self, images: Sequence[Tensor], targets: list[dict[str, Tensor]]
    ) -> tuple[Batch, Sample, dict[str, Tensor]]:
        """Return the encoded batch and the results of :meth:`learn_boxes`, in training mode.

        ``targets`` have boxes [N, 4] and labels [N] (-1: ignore this object).
        """
        batch = self.batch(images)
        return batch, *self.learn_boxes(batch, targets)

    def learn_boxes(
        self, batch: Batch, targets: list[dict[str, Tensor]]
    ) -> tuple[Sample, dict[str, Tensor]]:
        """Return the RoIs that overlap an object, and the losses of proposals and boxes.

        The losses are loss_objectness, loss_rpn_box_reg and, with a box head, loss_classifier and
        loss_box_reg. This is the part of :meth:`learn` after the backbone.
        """
        proposals, losses = self.rpn(ImageList(batch.images, batch.sizes), batch.features, targets)
        boxes, matched, labels, regression = self.roi_heads.select_training_samples(
            proposals, targets
        )
        if self.classifies:
            logits, deltas = self._box_head(batch, boxes)
            losses |= box_head_losses(
                logits, deltas, torch.cat(labels), torch.cat(regression), self.box_loss_beta
            )
        positive = [torch.where(label > 0)[0] for label in labels]
        rois = Sample(
            [b[p] for b, p in zip(boxes, positive, strict=True)],
            [m[p] for m, p in zip(matched, positive, strict=True)],
            torch.cat([label[p] for label, p in zip(labels, positive, strict=True)]),
        )
        return rois, losses

    @property
    def classifies(self) -> bool:
        """Return whether the detector has a box head."""
        return self.roi_heads.box_head is not None

    def detect(self, batch: Batch) -> list[dict[str, Tensor]]:
        """Return boxes (input coordinates), labels (1-based) and scores (0–1) after suppression.

        Without a box head these are the best proposals, which were suppressed as proposals.
        """
        if not self.classifies:
            return self.candidates(batch, self.roi_heads.detections_per_img)
        return [self.suppress(found) for found in self.candidates(batch)]

    def candidates(self, batch: Batch, most: int | None = None) -> list[dict[str, Tensor]]:
        """Return the detections of :meth:`detect` before suppression.

        These are every class of every proposal with a score above the threshold, best first, up to
        ``most`` per image.
        """
        if not self.classifies:
            return [
                _as_detections(boxes[:most], scores[:most], self.roi_heads.score_thresh)
                for boxes, scores in self.rpn.scored(batch)
            ]
        proposals, _ = self.rpn(ImageList(batch.images, batch.sizes), batch.features)
        logits, deltas = self._box_head(batch, proposals)
        counts = [len(p) for p in proposals]
        boxes = self.roi_heads.box_coder.decode(deltas, proposals).split(counts)
        found = []
        for own, scores, size in zip(
            boxes, logits.softmax(dim=1).split(counts), batch.sizes, strict=True
        ):
            scores = scores[:, 1:]  # without background
            row, label = torch.where(scores > self.roi_heads.score_thresh)
            clipped = clip_boxes_to_image(own[row, label + 1], size)
            scores = scores[row, label]
            large = remove_small_boxes(clipped, min_size=1e-2)
            order = large[scores[large].argsort(descending=True, stable=True)][:most]
            found.append(
                {"boxes": clipped[order], "labels": label[order] + 1, "scores": scores[order]}
            )
        return found

    def regress(
        self, images: Sequence[Tensor], boxes: Sequence[Tensor], labels: Sequence[Tensor]
    ) -> list[Tensor]:
        """Return boxes [N, 4] that the box head refines from known ones, as if from proposals.

        Boxes are (x1, y1, x2, y2) in pixels of the images as given, and are clipped to them. They
        are refined for the classes ``labels`` [N] (1-based; 0 selects each box's most likely
        class). Runs in evaluation mode.
        """
        batch = self.batch(images)
        factors = [
            own.new_tensor([w / image.shape[-1], h / image.shape[-2]] * 2)
            for own, image, (h, w) in zip(boxes, images, batch.sizes, strict=True)
        ]
        scaled = [own * factor for own, factor in zip(boxes, factors, strict=True)]
        logits, deltas = self._box_head(batch, scaled)
        likeliest = (logits[:, 1:].argmax(dim=1) + 1).split([len(b) for b in boxes])
        chosen = [
            torch.where(label > 0, label, own) for label, own in zip(labels, likeliest, strict=True)
        ]
        found = self.roi_heads.box_coder.decode(deltas, scaled).split([len(b) for b in boxes])
        return [
            clip_boxes_to_image(own[torch.arange(len(own)), label], size) / factor
            for own, label, size, factor in zip(found, chosen, batch.sizes, factors, strict=True)
        ]

    def suppress(self, found: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the best detections of an image after non-maximum suppression per class.

        All other values in ``found`` are kept with their detections.
        """
        kept = batched_nms(
            found["boxes"], found["scores"], found["labels"], self.roi_heads.nms_thresh
        )[: self.roi_heads.detections_per_img]
        return {name: values[kept] for name, values in found.items()}

    def detect_masks(
        self,
        images: Sequence[Tensor],
        pool: PyramidRoIAlign,
        masks_of: Callable[[Tensor, Tensor], dict[str, Tensor]],
    ) -> list[dict[str, Tensor]]:
        """Return detections with masks, and boxes in the coordinates of the images as given.

        ``masks_of(features, labels)`` returns mask logits [all RoIs, M, M] by kind; the detections
        have them as probabilities under "<kind>_masks".
        """
        batch = self.batch(images)
        detections = self.detect(batch)
        boxes = [d["boxes"] for d in detections]
        pooled = pool(batch.features, boxes)
        masks = masks_of(pooled, torch.cat([d["labels"] for d in detections]))
        for kind, logits in masks.items():
            split = logits.float().sigmoid().split([len(b) for b in boxes])
            for found, own in zip(detections, split, strict=True):
                found[f"{kind}_masks"] = own
        return on_images(detections, batch, images)

    def _box_head(self, batch: Batch, boxes: list[Tensor]) -> tuple[Tensor, Tensor]:
        pooled = self.roi_heads.box_roi_pool(batch.features, boxes)
        logits, deltas = self.roi_heads.box_predictor(self.roi_heads.box_head(pooled))
        return logits.float(), deltas.float()


def build(config: DetectorConfig, classes: int) -> BoxDetector:
    """Return a detector of ``classes`` categories (background not counted)."""
    b, p, h = config.backbone, config.proposals, config.box_head
    backbone = PyramidBackbone(**b.model_dump(), batch_norm=config.batch_norm)
    anchors = (ExactAnchors if p.exact_anchors else AnchorGenerator)(
        tuple((size,) for size in p.anchor_sizes), (p.aspect_ratios,) * len(p.anchor_sizes)
    )
    if len(p.anchor_sizes) != len(ANCHOR_STRIDES):
        raise ValueError(f"anchor_sizes needs {len(ANCHOR_STRIDES)} values, one per pyramid level")
    rpn = proposal_network(backbone.out_channels, anchors, p)
    roi_heads = box_heads(
        roi_align(config, BOX_SIZE), backbone.out_channels, h, classes, config.batch_norm
    )
    return BoxDetector(
        backbone,
        rpn,
        roi_heads,
        config.min_size,
        config.max_size,
        config.mean or backbone.mean,
        config.std or backbone.std,
        h.box_loss_beta,
    )


def roi_align(config: DetectorConfig, size: int) -> PyramidRoIAlign:
    """Return RoIAlign to ``size`` x ``size`` cells from the pyramid of a detector."""
    return PyramidRoIAlign(size, config.canonical_size, config.sampling_ratio, config.aligned)


def proposal_network(
    channels: int, anchors: AnchorGenerator, config: ProposalConfig
) -> ProposalNetwork:
    """Return a proposal network for maps of ``channels`` channels."""
    network = ProposalNetwork(
        anchors,
        FullPrecisionHead(channels, anchors.num_anchors_per_location()[0], config.convolutions),
        fg_iou_thresh=0.7,
        bg_iou_thresh=BACKGROUND_IOU,
        batch_size_per_image=config.samples_per_image,
        positive_fraction=config.positive_fraction,
        pre_nms_top_n={"training": config.before_nms_train, "testing": config.before_nms_test},
        post_nms_top_n={"training": config.after_nms_train, "testing": config.after_nms_test},
        nms_thresh=config.nms_threshold,
    )
    network.box_loss_beta = config.box_loss_beta
    return network


def box_heads(
    pool: nn.Module,
    channels: int,
    config: BoxHeadConfig,
    classes: int | None,
    batch_norm: bool = False,
) -> RoIHeads:
    """Return the sampling of RoIs and a box head of ``classes`` categories (None: no box head)."""
    head = predictor = None
    if classes is not None:
        if config.convolutions:
            head = FastRCNNConvFCHead(
                (channels, BOX_SIZE, BOX_SIZE),
                [channels] * config.convolutions,
                [config.channels],
                FrozenBatchNorm2d if batch_norm else None,
            )
        else:
            head = TwoMLPHead(channels * BOX_SIZE**2, config.channels)
        predictor = FastRCNNPredictor(config.channels, classes + 1)
        if config.initialisation == "detectron":
            _initialise_as_detectron(head, predictor)
    return RoIHeads(
        pool,
        head,
        predictor,
        fg_iou_thresh=0.5,
        bg_iou_thresh=0.5,
        batch_size_per_image=config.samples_per_image,
        positive_fraction=config.positive_fraction,
        bbox_reg_weights=None,
        score_thresh=config.score_threshold,
        nms_thresh=config.nms_threshold,
        detections_per_img=config.detections_per_image,
    )


def _initialise_as_detectron(head: nn.Module, predictor: FastRCNNPredictor) -> None:
    for layer in head.modules():
        if isinstance(layer, nn.Linear):
            # Caffe2's Xavier initialisation: bounds of sqrt(3 / inputs).
            nn.init.kaiming_uniform_(layer.weight, a=1)
            nn.init.zeros_(layer.bias)
    for layer, std in ((predictor.cls_score, 0.01), (predictor.bbox_pred, 0.001)):
        nn.init.normal_(layer.weight, std=std)
        nn.init.zeros_(layer.bias)


def box_head_losses(
    logits: Tensor, deltas: Tensor, labels: Tensor, targets: Tensor, beta: float
) -> dict[str, Tensor]:
    """Return torchvision's loss_classifier and loss_box_reg of RoIs, with another ``beta``.

    Args:
        logits: [N, classes + 1], background first.
        deltas: [N, 4 (classes + 1)].
        labels: int64 [N], 0 for background.
        targets: [N, 4], of each RoI's object.
        beta: see :class:`~amodal_pipeline.layers.configs.BoxHeadConfig`.
    """
    positive = torch.where(labels > 0)[0]
    own = deltas.reshape(len(deltas), -1, 4)[positive, labels[positive]]
    box_loss = F.smooth_l1_loss(own, targets[positive], beta=beta, reduction="sum")
    return {
        "loss_classifier": F.cross_entropy(logits, labels),
        "loss_box_reg": box_loss / labels.numel(),
    }


def _as_detections(boxes: Tensor, scores: Tensor, threshold: float) -> dict[str, Tensor]:
    above = scores > threshold
    labels = torch.ones(int(above.sum()), dtype=torch.int64, device=boxes.device)
    return {"boxes": boxes[above], "labels": labels, "scores": scores[above]}


def on_images(
    detections: list[dict[str, Tensor]], batch: Batch, images: Sequence[Tensor]
) -> list[dict[str, Tensor]]:
    """Return detections with boxes in the coordinates of the images as given."""
    for found, (h, w), image in zip(detections, batch.sizes, images, strict=True):
        factors = [image.shape[-1] / w, image.shape[-2] / h] * 2
        found["boxes"] = found["boxes"] * found["boxes"].new_tensor(factors)
    return detections


def scaled_size(size: Sequence[int], min_size: int, max_size: int) -> tuple[int, int]:
    """Return (height, width) with shorter side ``min_size``, or less if ``max_size`` needs it."""
    factor = min(min_size / min(size), max_size / max(size))
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def resize(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Return a float image [C, H, W] resized bilinearly, with antialiasing if it shrinks."""
    if tuple(image.shape[-2:]) == tuple(size):
        return image
    return F.interpolate(image[None], size, mode="bilinear", align_corners=False, antialias=True)[0]


def on_boxes(targets: list[dict], kind: str) -> list[dict]:
    """Return targets with amodal or visible ``boxes``, of the objects that have such a box."""
    chosen = []
    for target in targets:
        boxes = target[f"{kind}_boxes"]
        there = torch.isfinite(boxes).all(dim=1)
        objects = {k: v[there] for k, v in target.items() if k != "mask_scale"}
        chosen.append({**objects, "mask_scale": target["mask_scale"], "boxes": boxes[there]})
    return chosen
