"""The mask-and-predict transformer (sec. 3.3)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from amodal_pipeline.methods.configs import C2FSegConfig


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
        parts = self.query_key_value(self.attention_norm(x)).chunk(3, dim=-1)
        query, key, value = (p.unflatten(-1, (self.heads, -1)).transpose(1, 2) for p in parts)
        attended = F.scaled_dot_product_attention(query, key, value)
        x = x + self.dropout(self.projection(attended.transpose(1, 2).flatten(2)))
        return x + self.dropout(self.perceptron(x))


class MaskTransformer(nn.Module):
    """Predicts the amodal mask's tokens from image, visible mask and the tokens known so far.

    Args:
        config: fusion, width, layers, heads, dropout.
        codes: entries of the codebook; the token [MASK] has this number and is never predicted.
        length: tokens per mask.
        channels: channels of the image features.
        places: positions of the image features, h·w.

    Raises:
        ValueError: ``fusion`` joins the channels of maps that differ in size.
    """

    def __init__(
        self, config: C2FSegConfig, codes: int, length: int, channels: int, places: int
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
        self.blocks = nn.Sequential(
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

    def forward(self, context: Tensor, tokens: Tensor) -> Tensor:
        """Return logits [N, length, codes] for tokens int64 [N, length], ``codes`` if masked."""
        amodal = self.amodal(tokens)
        joined = torch.cat([context, amodal], dim=1 if self.sequence else 2)
        # In a sequence the amodal tokens come last; with joined channels there are no others.
        found = self.blocks(self.dropout(joined + self.position))[:, -self.length :]
        return self.head(found)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)
