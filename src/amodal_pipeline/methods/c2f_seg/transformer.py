"""The mask-and-predict transformer (sec. 3.3)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from amodal_pipeline.methods.configs import C2FSegConfig, C2FSegVideoConfig

if TYPE_CHECKING:
    from amodal_pipeline.methods.c2f_seg.space_time import Clips


class Block(nn.Module):
    """Self-attention and a two-layer perceptron on tokens [N, L, C], each after a layer norm."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.projection = nn.Linear(width, width)
        self.perceptron = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, 4 * width),
            nn.GELU(),
            nn.Linear(4 * width, width),
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.mapped(self.attended(x))

    def attended(self, x: Tensor) -> Tensor:
        """Return x after the self-attention."""
        parts = self.query_key_value(self.attention_norm(x))
        return x + self.dropout(self.projection(attend(parts, self.heads)))

    def mapped(self, x: Tensor) -> Tensor:
        """Return x after the perceptron."""
        return x + self.dropout(self.perceptron(x))


def attend(parts: Tensor, heads: int, mask: Tensor | None = None) -> Tensor:
    """Return what each of L tokens attends to, [N, L, C].

    Args:
        parts: queries, keys and values side by side, [N, L, 3 C].
        heads: of the attention.
        mask: bool [N, 1, L, L], which keys (last) a query may attend to; None is all of them.
    """
    query, key, value = (
        part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in parts.chunk(3, dim=-1)
    )
    attended = F.scaled_dot_product_attention(query, key, value, mask)
    return attended.transpose(1, 2).flatten(2)


class MaskTransformer(nn.Module):
    """Predicts the amodal mask's tokens from image, visible mask and the tokens known so far.

    Args:
        config: fusion, width, layers, heads, dropout.
        codes: entries of the codebook; the token [MASK] has this number and is never predicted.
        length: tokens per mask.
        channels: channels of the image features.
        places: positions of the image features, h·w.
        blocks: modules that tokens [N, L, width] pass through, called with clips too if
            :meth:`forward` is; by default ``layers`` of :class:`Block`.

    Raises:
        ValueError: ``fusion`` joins the channels of maps that differ in size.
    """

    def __init__(
        self,
        config: C2FSegConfig | C2FSegVideoConfig,
        codes: int,
        length: int,
        channels: int,
        places: int,
        blocks: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.sequence = config.fusion == "sequence"
        self.length = length
        if not self.sequence and places != length:
            raise ValueError(
                f'fusion "channels" joins {places} places of the image and {length} tokens: make '
                "crop.image_side / 16 the side of the tokenizer's grid"
            )
        of_image, of_tokens = config.width, config.width
        if not self.sequence:
            of_image, of_tokens = config.width // 2, config.width // 4
        self.image = nn.Conv2d(channels, of_image, 3, padding=1)
        self.visible = nn.Embedding(codes, of_tokens)
        self.amodal = nn.Embedding(codes + 1, of_tokens)
        # One embedding per kind of token and place, so it also tells the three kinds apart.
        rows = places + 2 * length if self.sequence else length
        self.position = nn.Parameter(torch.empty(rows, config.width))
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = blocks or nn.Sequential(
            *(Block(config.width, config.heads, config.dropout) for _ in range(config.layers))
        )
        self.head = nn.Sequential(
            nn.LayerNorm(config.width),
            nn.Linear(config.width, config.width),
            nn.GELU(),
            nn.LayerNorm(config.width),
            nn.Linear(config.width, codes),
        )
        self.apply(_initialise)
        nn.init.normal_(self.position, std=0.02)

    def context(self, features: Tensor, visible: Tensor) -> Tensor:
        """Return embeddings of image and visible mask, the same for all steps of decoding.

        Args:
            features: image features [N, channels, h, w].
            visible: tokens of the visible mask, int64 [N, length].

        Returns:
            [N, h·w + length, width] with the fusion "sequence", else [N, length, 3/4 width].
        """
        image = self.image(features).flatten(2).transpose(1, 2)
        return torch.cat([image, self.visible(visible)], dim=1 if self.sequence else 2)

    def forward(self, context: Tensor, tokens: Tensor, clips: Clips | None = None) -> Tensor:
        """Return logits [N, length, codes] for tokens int64 [N, length], ``codes`` if masked.

        ``clips``: which of the N objects are frames of one clip.
        """
        amodal = self.amodal(tokens)
        joined = torch.cat([context, amodal], dim=1 if self.sequence else 2)
        x = self.dropout(joined + self.position)
        x = self.blocks(x) if clips is None else self.blocks(x, clips)
        # In a sequence the amodal tokens come last; with joined channels there are no others.
        return self.head(x[:, -self.length :])


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)
