"""C2F-Seg: "Coarse-to-Fine Amodal Segmentation with Shape Prior", ICCV 2023, for images."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

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
from amodal_pipeline.methods.configs import C2FSegConfig, C2FSegVideoConfig
from amodal_pipeline.methods.training_config import TrainingConfig
from amodal_pipeline.samples.objects import ObjectBatches

if TYPE_CHECKING:
    from amodal_pipeline.methods.c2f_seg.space_time import Clips


@dataclass(frozen=True)
class Completion:
    """All outputs of C2F-Seg for N objects; masks are probabilities.

    Attributes:
        steps: [K, N, S, S], the mask decoded from the tokens after each step.
        decided: [K, N], the share of tokens that are final after each step.
        coarse: [N, S, S], the mask of the last step (eq. 7).
        amodal: [N, S, S], the refined mask; the coarse one without refinement.
        visible: [N, S, S]; None without refinement or with a single branch.
    """

    steps: Tensor
    decided: Tensor
    coarse: Tensor
    amodal: Tensor
    visible: Tensor | None


class C2FSeg(nn.Module):
    """C2F-Seg: predicts the tokens of the amodal mask, decodes them, and refines the coarse mask.

    In training ``model(images, targets)`` returns named losses, in evaluation {"amodal_masks" and,
    with two branches, "visible_masks": float [N, S, S] in 0–1}. In evaluation each object's masks
    are independent of the others.

    Images are crops of objects, uint8 (or float in 0–1) [N, 3, I, I]. Targets in training:

    - "input": the given visible masks, uint8 [N, S, S]
    - "amodal", "visible": the true masks, uint8 [N, S, S]
    - "amodal_tokens" (optional): int64 [N, T, T], which saves encoding "amodal"
    - "maps" (optional): the encoder's, which saves encoding the images

    In evaluation: "input" and "key", int64 [N], the seeds of random draws.

    Raises:
        ValueError: ``config.tokenizer`` is None, or made for masks of another size.
    """

    def __init__(self, config: C2FSegConfig | C2FSegVideoConfig, classes: int = 1) -> None:
        super().__init__()
        self.config = config
        form = config.tokenizer
        if form is None:
            raise ValueError(
                f"{config.name}.model.tokenizer is None: set it to the configuration of the data "
                "set's mask tokenizer"
            )
        if form.crop.side != config.crop.side:
            raise ValueError(
                f"the tokenizer is for masks of {form.crop.side} pixels, {config.name} has "
                f"{config.crop.side}: set both to the same crop.side"
            )
        # channels_last is faster: with few channels on a CPU, and in bf16 on a GPU.
        self.encoder = Encoder(config.encoder).to(memory_format=torch.channels_last)
        self.tokenizer = Tokenizer(form).requires_grad_(False)
        side = -(-config.crop.image_side // 16)
        self.transformer = MaskTransformer(
            config,
            form.codes,
            form.tokens**2,
            self.encoder.channels[-1],
            side**2,
            self._blocks(side, form.tokens),
        )
        if config.refinement:
            self.refinement = Refinement(config, self.encoder.channels)
            self.refinement.to(memory_format=torch.channels_last)

    def _blocks(self, image_side: int, mask_side: int) -> nn.Module | None:
        """Blocks of the transformer for grids of these sides, if other than the plain ones."""
        return None

    def train(self, mode: bool = True) -> C2FSeg:
        super().train(mode)
        self.tokenizer.eval()
        return self

    def prepare(self, batches: ObjectBatches) -> None:
        """Encode what does not change once before training: true masks, and images if frozen."""
        device = self.tokenizer.codes.device
        batches.keep_tokens(lambda masks: tokenize_all(self.tokenizer, masks, device))
        if self.encoder.fixed:
            batches.keep_maps(torch.no_grad()(lambda images: self.encoder(images.to(device))))

    def forward(self, images: Tensor, targets: dict[str, Tensor]) -> dict[str, Tensor]:
        if self.training:
            return self._losses(images, targets)
        maps, decoding = self._decode(images, targets)
        found = self._refine(maps, self._mask(decoding.tokens[-1]), targets["input"])
        masks = {"amodal_masks": found.amodal}
        return masks if found.visible is None else masks | {"visible_masks": found.visible}

    def explain(self, images: Tensor, targets: dict[str, Tensor]) -> Completion:
        """Return the masks of objects after every step; in evaluation mode, with its inputs."""
        maps, decoding = self._decode(images, targets)
        steps = torch.stack([self._mask(tokens) for tokens in decoding.tokens])
        found = self._refine(maps, steps[-1], targets["input"])
        decided = decoding.decided.float().mean(dim=2)
        return Completion(steps, decided, steps[-1], found.amodal, found.visible)

    complete = completer.complete  # of one picture: model.complete(image, visible_mask)

    def _losses(
        self, images: Tensor, targets: dict[str, Tensor], clips: Clips | None = None
    ) -> dict[str, Tensor]:
        """Named losses; "counts" float [N] among the targets weigh the objects."""
        config, counts = self.config, targets.get("counts")
        maps = self._maps(images, targets)
        context = self._context(maps, targets)
        if "amodal_tokens" in targets:
            truth = targets["amodal_tokens"].long().flatten(1)
        else:
            truth = self.tokenizer.encode(targets["amodal"].float()).flatten(1)

        of = None if clips is None else clips.of
        masked = masked_in_training(*truth.shape, config, truth.device, of)
        known = truth.masked_fill(masked, self._mask_token)
        logits = self.transformer(context, known, clips).float()
        loss = F.cross_entropy(
            logits.transpose(1, 2), truth, reduction="none", label_smoothing=config.label_smoothing
        )
        counted = torch.ones_like(masked) if config.loss_on_all_tokens else masked
        weights = None
        if counts is not None:
            counted = counted * counts[:, None]
            weights = counts / counts.mean()
        losses = {"loss_tokens": (loss * counted).sum() / counted.sum()}  # eq. 6
        if not config.refinement:
            return losses

        # The paper does not say which coarse mask the refinement learns from. As in the released
        # code, it is decoded from this single forward pass, without a gradient.
        top = min(config.top_k, logits.shape[-1])
        noise = -torch.empty_like(logits[..., :top]).exponential_().log()
        predicted = torch.where(masked, drawn(logits.detach(), noise), truth)
        found = self.refinement(maps, self._mask(predicted), config.crop.side, targets["input"])
        for kind, logits in (("amodal", found.amodal), ("visible", found.visible)):  # eq. 10
            if logits is not None:
                wanted = targets[kind].float()
                losses[f"loss_{kind}_mask"] = mask_loss(logits, wanted, weights)
        return losses

    def _decode(
        self, images: Tensor, targets: dict[str, Tensor], clips: Clips | None = None
    ) -> tuple[list[Tensor], Decoding]:
        maps = self._maps(images, targets)
        context = self._context(maps, targets)
        decoding = decode(
            lambda tokens: self.transformer(context, tokens, clips),
            targets["key"],
            self.transformer.length,
            self._mask_token,
            self.config,
        )
        return maps, decoding

    def _maps(self, images: Tensor, targets: dict[str, Tensor]) -> list[Tensor]:
        """What the encoder makes of the crops."""
        return targets["maps"] if "maps" in targets else self.encoder(images)

    def _context(self, maps: list[Tensor], targets: dict[str, Tensor]) -> Tensor:
        visible = self.tokenizer.encode(targets["input"].float())
        return self.transformer.context(maps[-1], visible.flatten(1))

    def _refine(self, maps: list[Tensor], coarse: Tensor, given: Tensor) -> Refined:
        """Return masks as probabilities; the coarse mask if there is no refinement."""
        if not self.config.refinement:
            return Refined(coarse, None)
        found = self.refinement(maps, coarse, self.config.crop.side, given)
        visible = None if found.visible is None else found.visible.sigmoid()
        return Refined(found.amodal.sigmoid(), visible)

    def _mask(self, tokens: Tensor) -> Tensor:
        """Return the masks decoded from tokens [N, T·T], float [N, S, S] in 0–1 (eq. 7)."""
        side = self.tokenizer.config.tokens
        return self.tokenizer.decode(tokens.unflatten(1, (side, side))).float()

    @property
    def _mask_token(self) -> int:
        return self.tokenizer.config.codes


@torch.inference_mode()
def tokenize_all(
    tokenizer: Tokenizer, batches: Iterable[Tensor], device: torch.device | str
) -> Tensor:
    """Return the tokens of masks, int16 [N, T, T] on the CPU.

    Training with these ("amodal_tokens") does not encode the same masks in every epoch.

    Args:
        tokenizer: a trained tokenizer.
        batches: masks [n, S, S] of 0 and 1.
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
    """Return batches of objects with corrupted visible masks, some predicted by a detector."""
    return ObjectBatches(
        annotations,
        config.crop,
        training.batch_size,
        training.seed,
        corruption=config.corruption,
        detected=detected,
        predicted_share=config.predicted_share,
    )
