"""SLN: "Learning Semantics-aware Distance Map with Semantics Layering Network for Amodal Instance
Segmentation", Zhang et al., ACM MM 2019."""

from collections import OrderedDict
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator

from amodal_pipeline.annotations import AmodalAnnotations, Predictions
from amodal_pipeline.annotations.distance_maps import (
    CONFIDENCE,
    TRUE_CONFIDENCE,
    amodal_heatmap,
    depth_order,
    distance_map,
    modal_heatmap,
)
from amodal_pipeline.layers import detector
from amodal_pipeline.layers.backbone import normalisation
from amodal_pipeline.layers.encoder import Encoder
from amodal_pipeline.layers.masks import mask_targets
from amodal_pipeline.layers.pooling import MapRoIAlign
from amodal_pipeline.methods.configs import SLNConfig
from amodal_pipeline.methods.training_config import TrainingConfig
from amodal_pipeline.samples.images import TrainingBatches

_AT_ONCE = 256  # RoIs whose maps are predicted at once in evaluation, to limit memory
_ORDER_SIDE = 160  # pixels of the longer side of the canvas on which overlaps are compared
_LEAST = 1e-7  # smallest number for which 1 - x differs from 1 in float32


@dataclass(frozen=True)
class LayerMaps:
    """Log probabilities, [N, L, H, W] each, that a layer has an object at a pixel, and that not."""

    present: Tensor
    absent: Tensor

    @property
    def probability(self) -> Tensor:
        """Return the probability of an object, [N, L, H, W] in 0–1."""
        return self.present.exp()

    def loss(self, truth: Tensor) -> Tensor:
        """Return the binary cross-entropy with true layers [N, L, H, W], summed to [N, H, W]."""
        return -(truth * self.present + (1 - truth) * self.absent).sum(dim=1)


class ConcatenatedEncoder(nn.Module):
    """ENC (section 4.2): maps normalised images [B, 3, H, W] to {"0": [B, width, H/s, W/s]}.

    The maps of all stages, at strides 4, 8, 16 and 32, are scaled to one size, concatenated and
    reduced by one 1x1 convolution. s is ``config.stride``.
    """

    def __init__(self, config: SLNConfig) -> None:
        super().__init__()
        self.encoder = Encoder(config.encoder, strides=(4, 8, 16, 16 if config.dilated else 32))
        self.stride, self.out_channels = config.stride, config.width
        # A convolution of concatenated maps is the sum of one convolution per map. A 1x1
        # convolution before the scaling gives the same result and is cheaper.
        self.reduce = nn.ModuleList(
            nn.Conv2d(channels, config.width, 1, bias=not number)
            for number, channels in enumerate(self.encoder.channels)
        )
        together = sum(self.encoder.channels)
        for layer in self.reduce:
            nn.init.normal_(layer.weight, std=(2 / together) ** 0.5)
        nn.init.zeros_(self.reduce[0].bias)

    @property
    def body(self) -> nn.Module:
        return self.encoder.body

    def forward(self, images: Tensor) -> OrderedDict[str, Tensor]:
        # The detector has already normalised and padded the images.
        maps = [layer(m) for layer, m in zip(self.reduce, self.body(images), strict=True)]
        size = [side // self.stride for side in images.shape[-2:]]
        return OrderedDict({"0": sum(_scaled(m, size) for m in maps)})


class LayeringModule(nn.Module):
    """Maps features [N, C, H, W] to layers [N, L, H, W]: GLM (section 4.3) and ILM (4.4).

    Three 3x3 convolutions, two of them with batch normalisation and ReLU, and the activation.
    """

    def __init__(self, in_channels: int, channels: int, config: SLNConfig) -> None:
        super().__init__()
        self.softmax = config.layer_activation == "softmax"
        self.convolutions = _convolutions(in_channels, channels, config.layers + self.softmax)

    def forward(self, maps: Tensor) -> LayerMaps:
        logits = self.convolutions(maps).float()
        if not self.softmax:
            return LayerMaps(F.logsigmoid(logits), F.logsigmoid(-logits))
        present = logits.log_softmax(dim=1)[:, :-1]  # the last channel is for "no object"
        return LayerMaps(present, torch.log(-torch.expm1(present.clamp(max=-_LEAST))))


class SLN(nn.Module):
    """SLN: a detector that predicts a semantics-aware distance map per object.

    A global module predicts layers of visibility of the image, an instance module those of each
    object, from which its distance map is derived and refined.

    Inputs and outputs are those of :class:`~amodal_pipeline.methods.mask_rcnn.MaskRCNN`. Targets
    also have levels, uint8 [N, h, w] (:mod:`~amodal_pipeline.annotations.levels`). Detections also
    have:

    - amodal_masks and visible_masks (eqs. 3 and 2)
    - distance_maps, float32 [N, S, S] within the boxes (eq. 1)
    - order, int64 [P, 2]: positions (front, back) of detections that overlap, by eqs. 4 and 5 and
      the largest region of the overlap (section 5.2)
    - order_scores [P]: the product of the two scores

    The losses of eq. 6 have weight 1; those of layers are summed over layers and averaged over
    pixels. The paper does not say how binary cross-entropy applies to a distance map, whose values
    can be negative. Here the refinement predicts layers, from which eq. 1 gives the refined map,
    and the loss compares the layers. A module without trained parameters (see
    :class:`~amodal_pipeline.methods.training_config.StageConfig`) has no loss.
    """

    # Names in checkpoints of other detectors with the same encoder.
    pretrained_names = {"detector.backbone.encoder.body.": "detector.backbone.body."}  # noqa: RUF012
    box_kind = "amodal"

    def __init__(self, config: SLNConfig, classes: int) -> None:
        super().__init__()
        self.config = config
        encoder = ConcatenatedEncoder(config)
        channels = config.width + (config.layers if config.global_module else 0)
        proposals = config.proposals
        anchors = AnchorGenerator((proposals.anchor_sizes,), (proposals.aspect_ratios,))
        self.detector = detector.BoxDetector(
            encoder,
            detector.proposal_network(channels, anchors, proposals),
            detector.box_heads(
                MapRoIAlign(detector.BOX_SIZE, config.stride),
                channels,
                config.box_head,
                classes if config.classes else None,
            ),
            config.min_size,
            config.max_size,
            *normalisation(config.encoder.name),
            config.box_head.box_loss_beta,
        )
        if config.global_module:
            of_image = config.global_input == "image"
            self.global_module = LayeringModule(
                3 if of_image else config.width, config.global_channels, config
            )
        self.pool = MapRoIAlign(config.roi_size, config.stride)
        self.instance_module = LayeringModule(channels, config.instance_channels, config)
        if config.refinement:
            self.instance_refinement = LayeringModule(
                channels + 1, config.instance_channels, config
            )

    def forward(
        self, images: list[Tensor], targets: list[dict[str, Tensor]] | None = None
    ) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        if not self.training:
            return self._detect(images)
        targets = [
            with_layers(target, self.config.layers)
            for target in detector.on_boxes(targets, "amodal")
        ]
        padded, sizes = self.detector.stack(images)
        losses = {}
        only_global = not (_trains(self.detector) or self._trains_instances)
        if only_global and self.config.global_input == "image":
            layers = self.global_module(padded)
            return {"loss_global_layers": self._global_loss(layers, sizes, targets)}
        batch, layers = self._encoded(padded, sizes)
        if layers is not None and _trains(self.global_module):
            losses["loss_global_layers"] = self._global_loss(layers, sizes, targets)
        if only_global:
            return losses
        rois, of_boxes = self.detector.learn_boxes(batch, targets)
        if _trains(self.detector):
            losses |= of_boxes
        if self._trains_instances:
            losses |= self._instance_losses(batch, rois, targets)
        return losses

    @property
    def _trains_instances(self) -> bool:
        return _trains(self.instance_module) or (
            self.config.refinement and _trains(self.instance_refinement)
        )

    def _encoded(
        self, padded: Tensor, sizes: list[tuple[int, int]]
    ) -> tuple[detector.Batch, LayerMaps | None]:
        """Return a batch whose features include the global layering map, and this map."""
        features = self.detector.encode(padded)
        if not self.config.global_module:
            return detector.Batch(padded, sizes, features), None
        of_image = self.config.global_input == "image"
        layers = self.global_module(padded if of_image else features["0"])
        probability = layers.probability
        if of_image:
            probability = F.avg_pool2d(probability, self.config.stride)
        joined = OrderedDict({"0": torch.cat([features["0"], probability], dim=1)})
        return detector.Batch(padded, sizes, joined), layers

    def _global_loss(
        self, layers: LayerMaps, sizes: list[tuple[int, int]], targets: list[dict]
    ) -> Tensor:
        stride = 1 if self.config.global_input == "image" else self.config.stride
        losses = []
        for number, (size, target) in enumerate(zip(sizes, targets, strict=True)):
            height, width = (-(-side // stride) for side in size)
            window = slice(number, number + 1), slice(None), slice(height), slice(width)
            own = LayerMaps(layers.present[window], layers.absent[window])
            truth = global_truth(target, (height, width), stride, self.config.layers)
            losses.append(own.loss(truth[None]).flatten())
        return torch.cat(losses).mean()

    def _instance_losses(
        self, batch: detector.Batch, rois: detector.Sample, targets: list[dict]
    ) -> dict[str, Tensor]:
        features = self.pool(batch.features, rois.boxes)
        if len(features) == 0:  # batch normalisation fails without values
            return {}
        truth = torch.stack(
            [
                mask_targets(
                    targets, f"layer{number}", rois.boxes, rois.matched, self.config.roi_size
                )
                for number in range(self.config.layers)
            ],
            dim=1,
        )
        instance, refined = self.segment(features)
        losses = {}
        if _trains(self.instance_module):
            losses["loss_instance_layers"] = instance.loss(truth).mean()
        if refined is not None and _trains(self.instance_refinement):
            losses["loss_distance_map"] = refined.loss(truth).mean()
        return losses

    def segment(self, features: Tensor) -> tuple[LayerMaps, LayerMaps | None]:
        """Return the instance layers of RoIs, and those of their refined distance maps (4.4).

        The latter are None without refinement. ``features`` [N, C, S, S] include the global map.
        """
        instance = self.instance_module(features)
        if not self.config.refinement:
            return instance, None
        derived = self.distance_maps(instance, expected=self.config.expected_level)
        return instance, self.instance_refinement(torch.cat([derived[:, None], features], dim=1))

    def distance_maps(
        self, layers: LayerMaps, *, expected: bool = False, result: bool = False
    ) -> Tensor:
        """Return distance maps M = C − L (eq. 1), [N, H, W], of layers [N, L, H, W].

        C is the confidence. L is 0 where C is at most c, and the likeliest layer elsewhere.

        Args:
            layers: of the instances.
            expected: L is the mean over a pixel's layers, everywhere.
            result: the maps are the output, so that ``config.hidden_unless_visible`` applies.
        """
        probability = layers.probability
        largest, likeliest = probability.max(dim=1)
        if self.config.confidence == "max":
            confidence = largest
        elif self.config.layer_activation == "softmax":
            confidence = probability.sum(dim=1)
        else:
            confidence = -torch.expm1(layers.absent.sum(dim=1))
        # A confidence rounded to 1 would count as background one level nearer.
        confidence = confidence.clamp(0, float(TRUE_CONFIDENCE))
        if expected:
            number = torch.arange(probability.shape[1], device=probability.device)
            mean = (probability * number[:, None, None]).sum(dim=1)
            return distance_map(confidence, mean / probability.sum(dim=1).clamp(min=_LEAST))
        if result and self.config.hidden_unless_visible:
            deeper = probability[:, 1:].argmax(dim=1) + 1
            likeliest = torch.where(probability[:, 0] > CONFIDENCE, 0, deeper)
        return distance_map(confidence, likeliest * (confidence > CONFIDENCE))

    def _detect(self, images: list[Tensor]) -> list[dict[str, Tensor]]:
        batch, _ = self._encoded(*self.detector.stack(images))
        detections = self.detector.detect(batch)
        boxes = [found["boxes"] for found in detections]
        maps = self._maps_of(batch, boxes).split([len(b) for b in boxes])
        for found, own, size in zip(detections, maps, batch.sizes, strict=True):
            found["amodal_masks"] = amodal_heatmap(own)
            found["visible_masks"] = modal_heatmap(own)
            found["distance_maps"] = own
            found["order"] = order_of(own, found["boxes"], size)
            found["order_scores"] = found["scores"][found["order"]].prod(dim=1)
        return detector.on_images(detections, batch, images)

    def _maps_of(self, batch: detector.Batch, boxes: list[Tensor]) -> Tensor:
        features = self.pool(batch.features, boxes)
        maps = []
        for some in features.split(_AT_ONCE):
            instance, refined = self.segment(some)
            found = instance if refined is None else refined
            maps.append(self.distance_maps(found, result=True))
        return torch.cat(maps)


def with_layers(target: dict, layers: int) -> dict:
    """Return a target with layer0_masks, layer1_masks, …: uint8 [N, h, w].

    Each is the part of the objects in one layer (section 4.4), by amodal_masks and levels.
    """
    levels = target["levels"]
    parts = [levels == number for number in range(layers - 1)] + [levels >= layers - 1]
    masks = {f"layer{n}_masks": target["amodal_masks"] * part for n, part in enumerate(parts)}
    return {**target, **masks}


def global_truth(target: dict, size: tuple[int, int], stride: int, layers: int) -> Tensor:
    """Return the true global layering map (section 4.3) of an image, float [L, H, W] of 0 and 1.

    Args:
        target: a target from :func:`with_layers`.
        size: (H, W) of the map.
        stride: pixels of the network's input per pixel of the map.
        layers: L.
    """
    found = torch.stack([target[f"layer{n}_masks"].amax(dim=0) for n in range(layers)])
    columns, rows = (
        ((torch.arange(count, device=found.device) + 0.5) * stride * scale)
        .long()
        .clamp(max=most - 1)
        for count, scale, most in zip(
            size[::-1], target["mask_scale"], found.shape[:0:-1], strict=True
        )
    )
    return found[:, rows[:, None], columns].float()


def order_of(maps: Tensor, boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the order of objects that overlap (section 5.2), int64 [P, 2] (front, back).

    Args:
        maps: distance maps [N, S, S] within the boxes.
        boxes: [N, 4] (x1, y1, x2, y2) in pixels of the image.
        size: (height, width) of the image.
    """
    factor = min(1.0, _ORDER_SIDE / max(size))
    canvas = tuple(max(1, round(side * factor)) for side in size)
    boxes = boxes * factor
    pasted = paste_nearest(maps, boxes, canvas)
    there = (amodal_heatmap(pasted) > CONFIDENCE**2).flatten(1).float()
    pairs = (there @ there.T).triu(diagonal=1).nonzero()
    extent = torch.cat([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], dim=1)
    sign = torch.from_numpy(
        depth_order(*(t.cpu().numpy() for t in (pasted, extent.double(), pairs)))
    ).to(maps.device)
    return torch.where(sign[:, None] > 0, pairs, pairs.flip(1))[sign != 0]


def paste_nearest(maps: Tensor, boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Return maps [N, S, S] within boxes [N, 4] pasted on canvases [N, H, W] of zeros.

    Each pixel takes the value of the cell that contains its centre, because values between two
    levels have no meaning.
    """
    height, width = size
    places = []
    for axis, count in ((0, width), (1, height)):
        low, high = boxes[:, axis, None], boxes[:, axis + 2, None]
        centre = torch.arange(count, device=boxes.device) + 0.5
        cell = ((centre - low) / (high - low).clamp(min=1e-6) * maps.shape[-1]).floor().long()
        places.append(cell)
    (column, row), last = places, maps.shape[-1] - 1
    inside = ((row >= 0) & (row <= last))[:, :, None] & ((column >= 0) & (column <= last))[:, None]
    number = torch.arange(len(maps), device=maps.device)[:, None, None]
    return maps[number, row.clamp(0, last)[:, :, None], column.clamp(0, last)[:, None]] * inside


def _convolutions(in_channels: int, channels: int, outputs: int) -> nn.Sequential:
    layers = [
        nn.Conv2d(in_channels, channels, 3, padding=1, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(inplace=True),
        nn.Conv2d(channels, channels, 3, padding=1, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(inplace=True),
        nn.Conv2d(channels, outputs, 3, padding=1),
    ]
    for layer in layers[:-1:3]:  # He et al., 2015 (section 4.6)
        nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    # Layers start near probability one half, as the masks of other heads do.
    nn.init.normal_(layers[-1].weight, std=0.001)
    nn.init.zeros_(layers[-1].bias)
    return nn.Sequential(*layers)


def _scaled(maps: Tensor, size: list[int]) -> Tensor:
    if list(maps.shape[-2:]) == size:
        return maps
    return F.interpolate(maps, size, mode="bilinear", align_corners=False)


def _trains(module: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in module.parameters())


def batches(
    config: SLNConfig,
    training: TrainingConfig,
    annotations: AmodalAnnotations,
    detected: Predictions | None = None,
) -> TrainingBatches:
    """Return batches of augmented images whose objects have visibility levels."""
    return TrainingBatches(
        annotations, training.augmentation, training.batch_size, training.seed, levels=True
    )
