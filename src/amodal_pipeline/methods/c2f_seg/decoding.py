"""Masking of tokens in training, and their iterative decoding in inference (sec. 3.3, app. A.2)."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from amodal_pipeline.methods.configs import C2FSegConfig


@dataclass(frozen=True)
class Decoding:
    """K steps of decoding, [K, N, L] each.

    ``tokens`` int64: all tokens as they stand at a step, those that are drawn again later too;
    ``decided`` bool: which stay. In the last step all do.
    """

    tokens: Tensor
    decided: Tensor


def masked_in_training(count: int, length: int, config: C2FSegConfig, device) -> Tensor:
    """Which tokens of ``count`` objects are masked, bool [count, length]; at least one of each.

    Drawn by torch's global generator.
    """
    low, high = config.mask_ratio
    uniform = torch.rand(count, 1, device=device)
    if config.cosine_mask_ratio:
        ratio = torch.cos(math.pi / 2 * uniform).clamp(min=low)
    else:
        ratio = low + (high - low) * uniform
    rank = torch.rand(count, length, device=device).argsort(dim=1).argsort(dim=1)
    return rank < (ratio * length).round().clamp(min=1)


def masked_after(length: int, steps: int) -> list[int]:
    """How many of ``length`` tokens are still masked after each step: gamma of A.2, a cosine.

    Every step but the last leaves at least one, and decides one where there is another.
    """
    left, counts = length, []
    for step in range(1, steps):
        left = max(1, min(math.floor(length * math.cos(math.pi / 2 * step / steps)), left - 1))
        counts.append(left)
    return [*counts, 0]


def drawn(logits: Tensor, gumbel: Tensor) -> Tensor:
    """Return a token from the k likeliest at each place, by its probability among them.

    Args:
        logits: [..., codes].
        gumbel: [..., k], standard Gumbel noise; nothing is random where k is 1.
    """
    likeliest, tokens = logits.topk(gumbel.shape[-1], dim=-1)
    return tokens.gather(-1, (likeliest + gumbel).argmax(dim=-1, keepdim=True))[..., 0]


def decode(
    predict: Callable[[Tensor], Tensor],
    keys: Tensor,
    length: int,
    codes: int,
    config: C2FSegConfig,
) -> Decoding:
    """Decide ``length`` tokens of every object in ``config.steps`` steps, the surest first.

    What is drawn for an object depends on (config.seed, its key) alone.

    Args:
        predict: tokens int64 [N, length], ``codes`` where masked, to logits [N, length, codes].
        keys: int64 [N].
        length: tokens of an object.
        codes: entries of the codebook.
        config: steps, top_k, temperature, seed.
    """
    steps, top = config.steps, min(config.top_k, codes)
    noise = _gumbel(config.seed, keys, (steps, length, top + 1))
    tokens = torch.full((len(keys), length), codes, device=keys.device)
    found, kept = [], []
    for step, left in enumerate(masked_after(length, steps)):
        own = noise[:, step]
        logits = predict(tokens).float()
        candidates = drawn(logits, own[..., :top])
        sure = logits.log_softmax(dim=-1).gather(-1, candidates[..., None])[..., 0]
        sure = sure + config.temperature * (1 - (step + 1) / steps) * own[..., top]
        decided = tokens != codes
        candidates = torch.where(decided, tokens, candidates)
        sure = sure.masked_fill(decided, torch.inf)
        rank = sure.argsort(dim=1, stable=True).argsort(dim=1)
        tokens = torch.where(rank < left, codes, candidates)
        found.append(candidates)
        kept.append(tokens != codes)
    return Decoding(torch.stack(found), torch.stack(kept))


def _gumbel(seed: int, keys: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Standard Gumbel noise float32 [N, *shape], an object's own stream for each key."""
    noise = np.empty((len(keys), *shape), np.float32)
    for own, key in zip(noise, keys.tolist(), strict=True):
        own[:] = np.random.default_rng([seed, key % 2**64]).gumbel(size=shape)
    return torch.from_numpy(noise).to(keys.device)
