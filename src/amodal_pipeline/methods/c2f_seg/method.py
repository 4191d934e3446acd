"""C2F-Seg: "Coarse-to-Fine Amodal Segmentation with Shape Prior", ICCV 2023, for images."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from amodal_pipeline.annotations import AmodalAnnotations, Predictions
from amodal_pipeline.layers.encoder import Encoder
from amodal_pipeline.layers.masks import mask_loss
from amodal_pipeline.methods import completer
from amodal_pipeline.methods.c2f_seg.decoding import Decoding, decode, drawn, masked_in_training
from amodal_pipeline.methods.c2f_seg.refinement import Refined, Refinement
from amodal_pipeline.methods.c2f_seg.tokenizer import Tokenizer
from amodal_pipeline.methods.c2f_seg.transformer import MaskTransformer
from amodal_pipeline.methods.configs import C2FSegConfig
from amodal_pipeline.methods.training_config import TrainingConfig
from amodal_pipeline.samples.objects import ObjectBatches


@dataclass(frozen=True)
class Completion:
    """What becomes of objects, probabilities [N, S, S] each.

    ``steps`` [K, N, S, S]: the mask that all tokens decode to at each step; ``decided`` [K, N]: the
    share of them that stays. ``coarse`` is the last step (eq. 7). ``visible`` is None with a single
    branch and without refinement; without it ``amodal`` is the coarse mask.
    """

    steps: Tensor
    decided: Tensor
    coarse: Tensor
    amodal: Tensor
    visible: Tensor | None


class C2FSeg(nn.Module):
    """Tokens of the amodal mask are predicted from image and visible mask, decoded to a coarse
    mask, and that is refined.

    In training ``model(images, targets)`` gives named losses, in evaluation {"amodal_masks" and,
    with two branches, "visible_masks": float [N, S, S] of 0–1}.

    Images are crops of objects, uint8 (or 0–1) [N, 3, I, I]. Targets in training: "input" (the
    visible mask that is given), "amodal" and "visible" (the true ones), uint8 [N, S, S]; where
    "amodal_tokens", int64 [N, T, T], are there too, "amodal" is not encoded. In evaluation:
    "input", and "key" int64 [N], which seeds what is drawn for an object: what comes out for it
    does not depend on the others.

    Raises:
        ValueError: ``config.tokenizer`` is None, or made for masks of another size.
    """

    def __init__(self, config: C2FSegConfig, classes: int = 1) -> None:
        super().__init__()
        self.config = config
        form = config.tokenizer
        if form is None:
            raise ValueError("tokenizer is None: give it the form of the data set's mask tokenizer")
        if form.crop.side != config.crop.side:
            raise ValueError(
                f"the tokenizer is of masks of {form.crop.side} pixels, c2f_seg has "
                f"{config.crop.side}: set crop.side of one to that of the other"
            )
        # Convolutions of few channels are faster so on a CPU, and those in bf16 on a GPU.
        self.encoder = Encoder(config.encoder).to(memory_format=torch.channels_last)
        self.tokenizer = Tokenizer(form).requires_grad_(False)
        side = -(-config.crop.image_side // 16)
        self.transformer = MaskTransformer(
            config, form.codes, form.tokens**2, self.encoder.channels[-1], side**2
        )
        if config.refinement:
            self.refinement = Refinement(config, self.encoder.channels)
            self.refinement.to(memory_format=torch.channels_last)

    def train(self, mode: bool = True) -> "C2FSeg":
        super().train(mode)
        self.tokenizer.eval()
        return self

    def prepare(self, batches: ObjectBatches) -> None:
        """Find the tokens of all true masks once, before training: the tokenizer is frozen."""
        device = self.tokenizer.codes.device
        batches.keep_tokens(lambda masks: tokenize_all(self.tokenizer, masks, device))

    def forward(self, images: Tensor, targets: dict[str, Tensor]) -> dict[str, Tensor]:
        if self.training:
            return self._losses(images, targets)
        maps, decoding = self._decode(images, targets)
        found = self._refine(maps, self._mask(decoding.tokens[-1]))
        masks = {"amodal_masks": found.amodal}
        return masks if found.visible is None else masks | {"visible_masks": found.visible}

    def explain(self, images: Tensor, targets: dict[str, Tensor]) -> Completion:
        """Return every step on the way to the masks of objects, in evaluation mode; takes what
        evaluation takes."""
        maps, decoding = self._decode(images, targets)
        steps = torch.stack([self._mask(tokens) for tokens in decoding.tokens])
        found = self._refine(maps, steps[-1])
        decided = decoding.decided.float().mean(dim=2)
        return Completion(steps, decided, steps[-1], found.amodal, found.visible)

    def complete(
        self,
        image: np.ndarray | Tensor,
        visible_mask: np.ndarray | Tensor,
        amodal_boxes: np.ndarray | Tensor | None = None,
        *,
        raw: bool = False,
    ) -> np.ndarray:
        """Amodal masks of objects of one image, in evaluation mode: see
        :func:`~amodal_pipeline.methods.completer.complete`."""
        return completer.complete(self, image, visible_mask, amodal_boxes, raw=raw)

    def _losses(self, images: Tensor, targets: dict[str, Tensor]) -> dict[str, Tensor]:
        config = self.config
        maps = self.encoder(images)
        context = self._context(maps, targets)
        if "amodal_tokens" in targets:
            truth = targets["amodal_tokens"].long().flatten(1)
        else:
            truth = self.tokenizer.encode(targets["amodal"].float()).flatten(1)

        masked = masked_in_training(*truth.shape, config, truth.device)
        logits = self.transformer(context, truth.masked_fill(masked, self._mask_token)).float()
        loss = F.cross_entropy(
            logits.transpose(1, 2), truth, reduction="none", label_smoothing=config.label_smoothing
        )
        counted = torch.ones_like(masked) if config.loss_on_all_tokens else masked
        losses = {"loss_tokens": (loss * counted).sum() / counted.sum()}  # eq. 6
        if not config.refinement:
            return losses

        # The paper does not say which coarse mask the refinement learns from: as in the released
        # code it is that of this one forward pass, which no gradient goes through.
        top = min(config.top_k, logits.shape[-1])
        noise = -torch.empty_like(logits[..., :top]).exponential_().log()
        predicted = torch.where(masked, drawn(logits.detach(), noise), truth)
        found = self.refinement(maps, self._mask(predicted), config.crop.side)
        losses["loss_amodal_mask"] = mask_loss(found.amodal, targets["amodal"].float())  # eq. 10
        if found.visible is not None:
            losses["loss_visible_mask"] = mask_loss(found.visible, targets["visible"].float())
        return losses

    def _decode(self, images: Tensor, targets: dict[str, Tensor]) -> tuple[list[Tensor], Decoding]:
        maps = self.encoder(images)
        context = self._context(maps, targets)
        decoding = decode(
            lambda tokens: self.transformer(context, tokens),
            targets["key"],
            self.transformer.length,
            self._mask_token,
            self.config,
        )
        return maps, decoding

    def _context(self, maps: list[Tensor], targets: dict[str, Tensor]) -> Tensor:
        visible = self.tokenizer.encode(targets["input"].float())
        return self.transformer.context(maps[-1], visible.flatten(1))

    def _refine(self, maps: list[Tensor], coarse: Tensor) -> Refined:
        """Probabilities; the coarse mask where there is no refinement."""
        if not self.config.refinement:
            return Refined(coarse, None)
        found = self.refinement(maps, coarse, self.config.crop.side)
        visible = None if found.visible is None else found.visible.sigmoid()
        return Refined(found.amodal.sigmoid(), visible)

    def _mask(self, tokens: Tensor) -> Tensor:
        """What tokens [N, T·T] decode to, float [N, S, S] of 0–1 (eq. 7)."""
        side = self.tokenizer.config.tokens
        return self.tokenizer.decode(tokens.unflatten(1, (side, side))).float()

    @property
    def _mask_token(self) -> int:
        return self.tokenizer.config.codes


@torch.inference_mode()
def tokenize_all(
    tokenizer: Tokenizer, batches: Iterable[Tensor], device: torch.device | str
) -> Tensor:
    """Tokens of masks that no augmentation changes, int16 [N, T, T] on the CPU: a training that is
    given them ("amodal_tokens") does not encode these masks in every epoch.

    Args:
        tokenizer: a trained one.
        batches: masks [n, S, S] of 0 and 1, a batch at a time.
        device: where to encode.
    """
    tokenizer = tokenizer.to(device).eval()
    side = tokenizer.config.tokens
    found = [tokenizer.encode(masks.to(device).float()).short().cpu() for masks in batches]
    return torch.cat([torch.zeros(0, side, side, dtype=torch.int16), *found])


def batches(
    config: C2FSegConfig,
    training: TrainingConfig,
    annotations: AmodalAnnotations,
    detected: Predictions | None = None,
) -> ObjectBatches:
    """Return objects with corrupted visible masks, some of them what a detector has predicted."""
    return ObjectBatches(
        annotations,
        config.crop,
        training.batch_size,
        training.seed,
        corruption=config.corruption,
        detected=detected,
        predicted_share=config.predicted_share,
    )
