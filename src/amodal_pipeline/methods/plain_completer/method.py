"""The plain completer: crop and visible mask in, amodal and hidden mask out.

It is ViTA-Seg ("ViTA-Seg", arXiv 2512.09510, 2025) with any encoder, and the control with which
methods that complete in another way (tokens, meshes) are compared.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from amodal_pipeline.annotations import AmodalAnnotations, Predictions
from amodal_pipeline.layers.distance import signed_distance
from amodal_pipeline.layers.encoder import encoder_of_all_strides
from amodal_pipeline.layers.masks import mask_loss
from amodal_pipeline.methods import completer
from amodal_pipeline.methods.plain_completer.config import PlainCompleterConfig
from amodal_pipeline.methods.plain_completer.network import (
    Branch,
    IoUHead,
    ShapeMemory,
    Stages,
    convolution,
    scaled,
)
from amodal_pipeline.methods.training_config import TrainingConfig
from amodal_pipeline.samples.objects import ObjectBatches


@dataclass(frozen=True)
class Predicted:
    """Logits of masks [N, S, S] and estimated IoU [N]; None where there is no such head."""

    amodal: Tensor
    hidden: Tensor | None
    iou: Tensor | None


class PlainCompleter(nn.Module):
    """Predicts the amodal mask of an object, and its hidden part.

    Images are crops of objects, uint8 (or float in 0–1) [N, 3, I, I]. Targets are those of
    :class:`~amodal_pipeline.samples.objects.ObjectBatches`: "input", the given visible mask,
    uint8 [N, S, S]; with ``config.others``, "others"; and in training "amodal" and "visible".

    In training ``model(images, targets)`` returns named losses, in evaluation
    {"amodal_masks": float [N, S, S] in 0–1}, with a second head "invisible_masks" likewise, and
    with ``config.iou_head`` "iou" [N]. There each object's masks are independent of the others.

    Raises:
        ValueError: the decoder has more stages than the encoder has halved the resolution.
    """

    def __init__(self, config: PlainCompleterConfig, classes: int = 1) -> None:
        super().__init__()
        self.config = config
        given = config.mask + config.distance + config.others
        self.encoder = encoder_of_all_strides(
            config.encoder, config.crop.image_side, given, image=config.image
        )
        strides, channels = self.encoder.strides, self.encoder.channels
        stages = len(config.shared) + len(config.branch)
        if strides[-1] >> stages == 0:
            raise ValueError(
                f"{config.name}.shared and branch have {stages} stages, which is more than "
                f"{config.encoder.name} with its stride {strides[-1]} needs: leave out some"
            )
        skips = dict(zip(strides[:-1], channels[:-1], strict=True)) if config.skips else {}
        self.shared = Stages(channels[-1], config.shared, strides[-1], skips)
        width, last = self.shared.channels, config.last
        if config.prototypes:
            gate = config.prototype_gate
            self.memory = ShapeMemory(width, config.prototypes, gate != "open", gate == "distance")

        def branch() -> Branch:
            seen = given if config.skips else 0
            return Branch(width, config.branch, self.shared.stride, skips, seen, last)

        self.amodal, self.amodal_logits = branch(), nn.Conv2d(last, 1, 1)
        if config.heads == 2:
            self.hidden, self.hidden_logits = branch(), nn.Conv2d(last, 1, 1)
            if config.fusion:
                self.fused = convolution(2 * last, last)
        if config.iou_head:
            self.iou = IoUHead(channels[-1], last)
        # channels_last is faster: with few channels on a CPU, and in bf16 on a GPU.
        self.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor, targets: dict[str, Tensor]) -> dict[str, Tensor]:
        if self.training:
            images, targets = _mirrored(images, targets, self.config.flip)
            return self._losses(self._predict(images, targets), targets)
        return composed(self._predict(images, targets), targets["input"])

    complete = completer.complete  # of one picture: model.complete(image, visible_mask)

    def _predict(self, images: Tensor, targets: dict[str, Tensor]) -> Predicted:
        config, side = self.config, self.config.crop.side
        given, distance = self._given(targets)
        image_size = (config.crop.image_side,) * 2
        beside = None if given is None else scaled(given, image_size)
        maps = self.encoder(images if config.image else None, beside)
        skips = dict(zip(self.encoder.strides, maps, strict=True)) if config.skips else {}
        skips.pop(self.encoder.strides[-1], None)
        x = self.shared(maps[-1], skips)
        if config.prototypes:
            x = self.memory(x, distance)

        amodal, hidden = self.amodal(x, skips, given), None
        if config.heads == 2:
            features = self.hidden(x, skips, given)
            hidden = _sized(self.hidden_logits(features), side)
            if config.fusion:
                amodal = self.fused(torch.cat([amodal, features], dim=1))
        logits = self.amodal_logits(amodal).float()
        iou = None
        if config.iou_head:
            iou = self.iou(maps[-1], amodal, logits[:, 0].sigmoid())
        return Predicted(_sized(logits, side), hidden, iou)

    def _given(self, targets: dict[str, Tensor]) -> tuple[Tensor | None, Tensor | None]:
        """Return the inputs beside the image [N, G, S, S], and the signed distance [N, S, S]."""
        config, mask, distance = self.config, targets["input"], None
        given = [mask.float()] if config.mask else []
        if config.distance or (config.prototypes and config.prototype_gate == "distance"):
            distance = signed_distance(mask)
        if config.distance:
            given.append(distance)
        if config.others:
            others, reach = targets["others"].float(), config.others_dilation
            given.append(F.max_pool2d(others, 2 * reach + 1, 1, reach) if reach else others)
        return torch.stack(given, dim=1) if given else None, distance

    def _losses(self, found: Predicted, targets: dict[str, Tensor]) -> dict[str, Tensor]:
        config, amodal = self.config, targets["amodal"].float()
        losses = {}

        def add(kind: str, logits: Tensor, truth: Tensor, weight: float) -> None:
            losses[f"loss_{kind}_mask"] = weight * mask_loss(logits, truth)
            losses[f"loss_{kind}_dice"] = weight * dice_loss(logits, truth, config.batch_dice)

        add("amodal", found.amodal, amodal, config.amodal_weight)
        if found.hidden is not None:
            add("hidden", found.hidden, amodal * (targets["visible"] == 0), config.hidden_weight)
        if found.iou is not None:
            reached = _iou(found.amodal.detach() > 0, amodal > 0)
            losses["loss_iou"] = config.iou_weight * (found.iou - reached).abs().mean()
        return losses


def composed(found: Predicted, given: Tensor) -> dict[str, Tensor]:
    """Return the masks of an object, from the logits of the heads and the given visible mask.

    The amodal mask is the amodal head's, as it is: it may lack visible pixels, and uniting it with
    the given mask is the caller's choice. The hidden mask is that of the hidden head, if there is
    one, and empty within the given mask.
    """
    masks = {"amodal_masks": found.amodal.sigmoid()}
    if found.hidden is not None:
        masks["invisible_masks"] = found.hidden.sigmoid() * (given == 0)
    return masks if found.iou is None else masks | {"iou": found.iou}


def dice_loss(logits: Tensor, truth: Tensor, over_batch: bool) -> Tensor:
    """Return 1 - Dice, smoothed by one pixel: the mean over objects, or over the whole batch.

    ``logits`` and ``truth`` are [N, S, S].
    """
    found, truth = (x.flatten(0 if over_batch else 1) for x in (logits.sigmoid(), truth))
    both, all_ = (found * truth).sum(-1), found.sum(-1) + truth.sum(-1)
    return (1 - (2 * both + 1) / (all_ + 1)).mean()


def _iou(found: Tensor, truth: Tensor) -> Tensor:
    """Return the IoU of masks, bool [N, S, S], as float [N]."""
    both, either = (x.sum((1, 2)) for x in (found & truth, found | truth))
    return both / either.clamp(min=1)


def _sized(logits: Tensor, side: int) -> Tensor:
    """Return logits [N, 1, h, w] as float32 [N, side, side]."""
    logits = logits.float()
    if logits.shape[-1] != side:
        logits = F.interpolate(logits, size=(side, side), mode="bilinear")
    return logits[:, 0]


def _mirrored(
    images: Tensor, targets: dict[str, Tensor], share: float
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return a batch in which each object is mirrored left to right with probability ``share``."""
    if not share:
        return images, targets
    masks = ("input", "others", "amodal", "visible")
    turned = torch.rand(len(images), device=images.device) < share

    def mirror(x: Tensor) -> Tensor:
        return torch.where(turned.view(-1, *[1] * (x.ndim - 1)), x.flip(-1), x)

    changed = {name: mirror(targets[name]) for name in masks if name in targets}
    return mirror(images), targets | changed


def batches(
    config: PlainCompleterConfig,
    training: TrainingConfig,
    annotations: AmodalAnnotations,
    detected: Predictions | None = None,
) -> ObjectBatches:
    """Return batches of objects, seen through true or corrupted masks or those of a detector."""
    return ObjectBatches(
        annotations,
        config.crop,
        training.batch_size,
        training.seed,
        corruption=config.corruption,
        enlargement=config.enlargement,
        detected=detected,
        predicted_share=config.predicted_share,
        with_images=config.image,
        others=config.others,
        erased=config.erased,
    )
