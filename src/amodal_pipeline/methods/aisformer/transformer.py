"""Layers of DETR's transformer: positions are added to queries and keys, norms come last."""

import torch.nn.functional as F
from torch import Tensor, nn


class Attention(nn.Module):
    """Multi-head attention; inputs are [N, L, C] and the result has the queries' length."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.output = (nn.Linear(width, width) for _ in range(4))
        self.dropout = nn.Dropout(dropout)
        for layer in (self.query, self.key, self.value):
            # As in PyTorch's attention, whose three projections are one matrix.
            nn.init.xavier_uniform_(layer.weight, gain=0.5**0.5)
        for layer in (self.query, self.key, self.value, self.output):
            nn.init.zeros_(layer.bias)

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        parts = (self.query(query), self.key(key), self.value(value))
        split = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)
        # A frozen layer is in evaluation mode, and with it its dropout.
        dropped = self.dropout.p if self.dropout.training else 0.0
        attended = F.scaled_dot_product_attention(*split, dropout_p=dropped)
        return self.output(attended.transpose(1, 2).flatten(2))


class EncoderLayer(nn.Module):
    """Self-attention and a perceptron on tokens [N, L, C], each followed by a layer norm."""

    def __init__(self, width: int, heads: int, feedforward: int, dropout: float) -> None:
        super().__init__()
        self.attention = Attention(width, heads, dropout)
        self.perceptron = _perceptron(width, feedforward, dropout)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor, position: Tensor) -> Tensor:
        placed = tokens + position
        attended = self.attention(placed, placed, tokens)
        tokens = self.norms[0](tokens + self.dropout(attended))
        return self.norms[1](tokens + self.dropout(self.perceptron(tokens)))


class DecoderLayer(nn.Module):
    """Attention among queries [N, Q, C], attention to tokens [N, L, C], and a perceptron."""

    def __init__(self, width: int, heads: int, feedforward: int, dropout: float) -> None:
        super().__init__()
        self.among = Attention(width, heads, dropout)
        self.to_tokens = Attention(width, heads, dropout)
        self.perceptron = _perceptron(width, feedforward, dropout)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.dropout = nn.Dropout(dropout)

    def forward(self, found: Tensor, queries: Tensor, tokens: Tensor, position: Tensor) -> Tensor:
        """Return what the queries have found, [N, Q, C], from what they had found before."""
        placed = found + queries
        found = self.norms[0](found + self.dropout(self.among(placed, placed, found)))
        attended = self.to_tokens(found + queries, tokens + position, tokens)
        found = self.norms[1](found + self.dropout(attended))
        return self.norms[2](found + self.dropout(self.perceptron(found)))


def _perceptron(width: int, hidden: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(width, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, width)
    )
