"""PCNet-M (Zhan et al., "Self-Supervised Scene De-occlusion", CVPR 2020)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from amodal_pipeline.annotations import AmodalAnnotations, Predictions
from amodal_pipeline.methods import completer
from amodal_pipeline.methods.pcnet_m.config import PCNetMConfig
from amodal_pipeline.methods.pcnet_m.network import UNet
from amodal_pipeline.methods.training_config import TrainingConfig
from amodal_pipeline.samples.erasers import EraserBatches


class PCNetM(nn.Module):
    """Completes the visible mask of an object under an eraser, the visible masks of occluders.

    Targets: "input" [N, S, S], the visible mask; "in_front" [N, S, S], the eraser, both of 0 and 1;
    "labels" int64 [N], positions of categories from 1, if ``config.use_category``. Images uint8
    [N, 3, S, S] if ``config.image``, else of any size. In training "visible" [N, S, S], the mask
    that "input" was cut from, is the truth (:class:`~amodal_pipeline.samples.erasers`), and
    ``model(images, targets)`` returns the loss; in evaluation {"amodal_masks": float [N, S, S] with
    values 0–1, one half where the probability is ``config.amodal_threshold``}.
    """

    def __init__(self, config: PCNetMConfig, classes: int = 1) -> None:
        super().__init__()
        self.config = config
        self.network = UNet(5 if config.image else 2, 2, config.width)
        # This layout is a quarter faster on a CPU.
        self.network.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor, targets: dict[str, Tensor]) -> dict[str, Tensor]:
        if self.training:
            logits = self._logits(images, targets, targets["in_front"])
            loss = F.cross_entropy(logits, targets["visible"].long(), reduction="none")
            weights = torch.where(targets["in_front"].bool(), self.config.eraser_weight, 1.0)
            return {"loss_mask": (loss * weights).mean()}
        eraser = self._eraser(targets)
        # One half at the threshold, so that edges lie between the pixels of the crop.
        chance, at = self._probability(images, targets, eraser), self.config.amodal_threshold
        found = torch.where(chance < at, chance / (2 * at), (chance - at) / (2 * (1 - at)) + 0.5)
        if self.config.keep == "eraser":
            found = found * eraser
        if self.config.keep != "none":
            found = torch.maximum(found, targets["input"].float())
        return {"amodal_masks": found}

    def gains(self, images: Tensor, targets: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return "gains" [N], the share of a window by which its object grows into the eraser."""
        eraser = self._eraser(targets)
        found = self._probability(images, targets, eraser) > self.config.order_threshold
        return {"gains": (found & eraser).float().mean(dim=(1, 2))}

    complete = completer.complete  # of one picture: model.complete(image, visible_mask)

    def _eraser(self, targets: dict[str, Tensor]) -> Tensor:
        """Return the eraser, dilated, bool [N, S, S]."""
        eraser, by = targets["in_front"].float(), self.config.dilation
        return F.max_pool2d(eraser[:, None], 2 * by + 1, 1, by)[:, 0] > 0

    def _probability(self, images: Tensor, targets: dict[str, Tensor], eraser: Tensor) -> Tensor:
        return self._logits(images, targets, eraser).softmax(dim=1)[:, 1]

    def _logits(self, images: Tensor, targets: dict[str, Tensor], eraser: Tensor) -> Tensor:
        """Return logits of background and object, float32 [N, 2, S, S]."""
        free = ~eraser.bool()
        mask = (targets["input"].bool() & free).float()
        if self.config.use_category:
            if "labels" not in targets:
                raise ValueError(
                    "use_category=true needs the categories of objects, which masks alone do not "
                    "have: complete a table of objects, or train with use_category=false"
                )
            mask *= targets["labels"][:, None, None]
        planes = [mask[:, None], eraser[:, None].float()]
        if self.config.image:
            # The eraser's own pixels tell nothing of what it hides, but they do in training.
            planes.append(images.float() / 255 * free[:, None])
        return self.network(torch.cat(planes, dim=1)).float()


def batches(
    config: PCNetMConfig,
    training: TrainingConfig,
    annotations: AmodalAnnotations,
    detected: Predictions | None = None,
) -> EraserBatches:
    """Return batches of visible masks cut by those of other objects."""
    return EraserBatches(
        annotations,
        config.crop,
        training.batch_size,
        training.seed,
        behind=config.behind,
        with_images=config.image,
    )
