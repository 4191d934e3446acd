"""Masking of tokens in training, and their iterative decoding in inference (sec. 3.3, app. A.2)."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from amodal_pipeline.methods.configs import C2FSegConfig, C2FSegVideoConfig


@dataclass(frozen=True)
class Decoding:
    """Tokens of N objects after each of K steps of decoding.

    Attributes:
        tokens: int64 [K, N, L], including tokens that a later step draws again.
        decided: bool [K, N, L], whether a token is final; all are after the last step.
    """

    tokens: Tensor
    decided: Tensor


def masked_in_training(
    count: int,
    length: int,
    config: C2FSegConfig | C2FSegVideoConfig,
    device: torch.device | str,
    clips: Tensor | None = None,
) -> Tensor:
    """Return which tokens are masked, bool [count, length]; at least one per object.

    Draws from torch's global generator.

    Args:
        count: number of objects.
        length: tokens per object.
        config: mask_ratio, cosine_mask_ratio.
        device: where to draw.
        clips: which clip each object is a frame of, int64 [count], from 0; frames of one clip have
            the same share of masked tokens.
    """
    low, high = config.mask_ratio
    uniform = torch.rand(count, 1, device=device)
    if clips is not None:
        uniform = uniform[clips]
    if config.cosine_mask_ratio:
        ratio = torch.cos(math.pi / 2 * uniform).clamp(min=low)
    else:
        ratio = low + (high - low) * uniform
    rank = torch.rand(count, length, device=device).argsort(dim=1).argsort(dim=1)
    return rank < (ratio * length).round().clamp(min=1)


def masked_after(length: int, steps: int) -> list[int]:
    """Return how many of ``length`` tokens are masked after each step (gamma of A.2, a cosine).

    Each step decides at least one token and leaves at least one, if enough are left; the last step
    decides all.
    """
    left, counts = length, []
    for step in range(1, steps):
        left = max(1, min(math.floor(length * math.cos(math.pi / 2 * step / steps)), left - 1))
        counts.append(left)
    return [*counts, 0]


def drawn(logits: Tensor, gumbel: Tensor) -> Tensor:
    """Return one of the k likeliest tokens per place, drawn by its probability among them.

    Args:
        logits: [..., codes].
        gumbel: standard Gumbel noise, [..., k]; with k = 1 the result is not random.

    Returns:
        int64 [...].
    """
    likeliest, tokens = logits.topk(gumbel.shape[-1], dim=-1)
    return tokens.gather(-1, (likeliest + gumbel).argmax(dim=-1, keepdim=True))[..., 0]


def decode(
    predict: Callable[[Tensor], Tensor],
    keys: Tensor,
    length: int,
    codes: int,
    config: C2FSegConfig | C2FSegVideoConfig,
) -> Decoding:
    """Return the tokens of N objects, decided in ``config.steps`` steps, the most certain first.

    Random draws for an object depend only on (config.seed, the object's key).

    Args:
        predict: maps tokens int64 [N, length], ``codes`` where masked, to logits
            [N, length, codes].
        keys: int64 [N].
        length: tokens per object.
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
    """Return standard Gumbel noise, float32 [N, *shape], from one random stream per key."""
    noise = np.empty((len(keys), *shape), np.float32)
    for own, key in zip(noise, keys.tolist(), strict=True):
        own[:] = np.random.default_rng([seed, key % 2**64]).gumbel(size=shape)
    return torch.from_numpy(noise).to(keys.device)
