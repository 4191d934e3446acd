"""Attention across the frames of clips (C2F-Seg's sec. 3.5 and Fig. 4)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from amodal_pipeline.methods.c2f_seg.transformer import Block, attend
from amodal_pipeline.methods.configs import C2FSegVideoConfig


@dataclass(frozen=True)
class Clips:
    """The grouping of M real frames into n clips.

    ``shape``: (n, T), n clips of at most T frames. ``at`` int64 [M]: the position of each frame
    among the n·T, ascending.
    """

    shape: tuple[int, int]
    at: Tensor

    @classmethod
    def where(cls, real: Tensor) -> Clips:
        """Return the clips of the frames that are ``real``, bool [n, T]; others are left out."""
        return cls(tuple(real.shape), real.flatten().nonzero()[:, 0])

    @classmethod
    def alone(cls, count: int, device: torch.device) -> Clips:
        """Return clips of one frame each."""
        return cls((count, 1), torch.arange(count, device=device))

    @property
    def of(self) -> Tensor:
        """Return the clip of each frame, int64 [M]."""
        return self.at // self.shape[1]

    @property
    def time(self) -> Tensor:
        """Return the position of each frame in its clip, int64 [M]."""
        return self.at % self.shape[1]

    def in_a_row(self, values: Tensor) -> Tensor:
        """Return the real frames' part, [M, …], of values [n, T, …]."""
        return values.flatten(0, 1)[self.at]

    def spread(self, values: Tensor) -> Tensor:
        """Return values [M, …] at their positions in [n, T, …]; 0 elsewhere."""
        return _placed(values, self.at, self.shape)

    def rolled(self, shift: int, frames: int) -> Rolled:
        """Return the positions of frames after each clip is rolled by ``shift`` frames.

        The length of a clip is rounded up to whole windows of ``frames``, so that the result for a
        clip does not depend on the length of others.
        """
        n, length = self.shape
        last = torch.zeros(n, dtype=torch.int64, device=self.at.device)
        last = last.scatter_reduce(0, self.of, self.time, "amax")
        lengths = (last // frames + 1) * frames
        padded = -(-length // frames) * frames
        places = self.of * padded + (self.time + shift) % lengths[self.of]
        return Rolled((n, padded), places)


@dataclass(frozen=True)
class Rolled:
    """The positions of M frames, int64 [M], among the n·T of ``shape``."""

    shape: tuple[int, int]
    places: Tensor

    def spread(self, values: Tensor) -> Tensor:
        """Return values [M, …] at their positions in [n, T, …]; 0 elsewhere."""
        return _placed(values, self.places, self.shape)

    def mask(self, size: tuple[int, int, int], count: int) -> Tensor | None:
        """Return which tokens of windows may be attended to, bool [count, 1, L, L].

        Only tokens of frames may; None means all. Tokens of empty places attend to all tokens, so
        that their softmax is defined; their result is not used.

        Args:
            size: of a window, (frames, rows, columns).
            count: windows of all clips.
        """
        if len(self.places) == self.shape[0] * self.shape[1]:
            return None
        frames, rows, columns = size
        real = torch.zeros(self.shape, dtype=torch.bool, device=self.places.device).flatten()
        own = real.index_fill(0, self.places, True).unflatten(0, (-1, frames))
        own = own.repeat_interleave(rows * columns, dim=1)
        allowed = own[:, None, :] | ~own[:, :, None]
        return allowed.repeat_interleave(count // len(own), dim=0)[:, None]


def _placed(values: Tensor, places: Tensor, shape: tuple[int, int]) -> Tensor:
    empty = values.new_zeros(shape[0] * shape[1], *values.shape[1:])
    return empty.index_copy(0, places, values).unflatten(0, shape)


class SpaceTimeBlock(Block):
    """Self-attention within each frame, then within windows over space and time, then a perceptron.

    Tokens [M, L, C] of M frames lie on ``grids`` (height, width), one grid after the other.
    """

    def __init__(self, config: C2FSegVideoConfig, grids: tuple[tuple[int, int], ...]) -> None:
        super().__init__(config.width, config.heads, config.dropout)
        width = config.width
        self.temporal_norm = nn.LayerNorm(width)
        self.temporal_query_key_value = nn.Linear(width, 3 * width)
        self.temporal_projection = nn.Linear(width, width)
        self.grids, self.frames, self.places = grids, config.window_frames, config.window_places

    def forward(self, x: Tensor, clips: Clips, shift: int = 0) -> Tensor:
        """Return the tokens after the block.

        Args:
            x: [M, L, C].
            clips: the grouping of frames by object.
            shift: frames by which clips are rolled before they are cut into windows.
        """
        x = self.attended(x)
        frames = min(self.frames, clips.shape[1])
        rolled = clips.rolled(shift, frames)
        parts = self.temporal_query_key_value(self.temporal_norm(x))
        across = self._across(rolled.spread(parts), rolled, frames)
        across = across.flatten(0, 1)[rolled.places]
        return self.mapped(x + self.dropout(self.temporal_projection(across)))

    def _across(self, parts: Tensor, rolled: Rolled, frames: int) -> Tensor:
        """Return attention in windows of ``frames``, [n, T, L, C], from [n, T, L, 3 C]."""
        size = (frames, self.places, self.places)
        split = parts.split([height * width for height, width in self.grids], dim=2)
        cut = [
            windows(tokens.unflatten(2, grid), size)
            for tokens, grid in zip(split, self.grids, strict=True)
        ]
        counts = [len(own) for own in cut]
        masks = [rolled.mask(size, count) for count in counts]
        mask = None if masks[0] is None else torch.cat(masks)
        attended = attend(torch.cat(cut), self.heads, mask).split(counts)
        joined = [
            from_windows(own, (*rolled.shape, *grid), size).flatten(2, 3)
            for own, grid in zip(attended, self.grids, strict=True)
        ]
        return torch.cat(joined, dim=2)


class SpaceTimeBlocks(nn.ModuleList):
    """The blocks of the transformer for clips.

    Before each block but the first, frames are rolled by half a window once more; they are rolled
    back at the end. Only the windows depend on this, so each block rolls its input of the windows
    and rolls their result back, and tokens stay where they are.

    Args:
        config: layers, width, heads, dropout, frames, window, window_places, temporal, roll,
            temporal_embedding.
        grids: (height, width) of the grids of a frame's tokens, in their order.

    Raises:
        ValueError: windows do not fit into a grid.
    """

    def __init__(self, config: C2FSegVideoConfig, grids: tuple[tuple[int, int], ...]) -> None:
        if config.temporal and any(side % config.window_places for grid in grids for side in grid):
            raise ValueError(
                f"windows of {config.window_places} x {config.window_places} places do not fit "
                f"into grids of {', '.join(f'{h} x {w}' for h, w in grids)}: set window_places to "
                "a divisor of their sides"
            )
        plain = (config.width, config.heads, config.dropout)
        super().__init__(
            SpaceTimeBlock(config, grids) if config.temporal else Block(*plain)
            for _ in range(config.layers)
        )
        self.temporal = config.temporal
        self.step = config.window_frames // 2 if config.roll else 0
        if config.temporal_embedding:
            self.time = nn.Parameter(torch.empty(config.frames, config.width))
            nn.init.normal_(self.time, std=0.02)
        else:
            self.time = None

    def forward(self, x: Tensor, clips: Clips | None = None) -> Tensor:
        """Return tokens [M, L, C] after all blocks; without ``clips`` each frame is a clip."""
        clips = clips or Clips.alone(len(x), x.device)
        if self.time is not None:
            x = x + self.time[clips.time][:, None]
        for number, block in enumerate(self):
            x = block(x, clips, number * self.step) if self.temporal else block(x)
        return x


def windows(x: Tensor, size: tuple[int, int, int]) -> Tensor:
    """Split tokens [n, T, h, w, C] into windows, [windows, frames · rows · columns, C].

    ``size`` of a window: (frames, rows, columns), divisors of T, h and w.
    """
    n, length, height, width, channels = x.shape
    frames, rows, columns = size
    parts = (n, length // frames, frames, height // rows, rows, width // columns, columns, channels)
    cut = x.reshape(parts).permute(0, 1, 3, 5, 2, 4, 6, 7)
    return cut.reshape(-1, frames * rows * columns, channels)


def from_windows(
    cut: Tensor, shape: tuple[int, int, int, int], size: tuple[int, int, int]
) -> Tensor:
    """Join windows of ``size`` to tokens of ``shape`` (n, T, h, w): undoes :func:`windows`."""
    n, length, height, width = shape
    frames, rows, columns = size
    parts = (n, length // frames, height // rows, width // columns, frames, rows, columns, -1)
    joined = cut.reshape(parts).permute(0, 1, 4, 2, 5, 3, 6, 7)
    return joined.reshape(n, length, height, width, -1)
