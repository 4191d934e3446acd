"""The codebook of VRSP's shape prior: typical shapes of each category, and search for the nearest.

Paper, "Amodal Mask Segmentation Module": K-means splits the codes of a category's true amodal masks
into K clusters, whose centres are the category's entries.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from amodal_pipeline.methods.configs import ShapePriorConfig
from amodal_pipeline.methods.vrsp.auto_encoder import (
    AutoEncoder,
    decode_all,
    encode_all,
    turned,
)

_TOGETHER = 16  # masks per row of the batched product that finds the nearest entries


@dataclass(frozen=True)
class Codebook:
    """Entries of each category, ordered by descending number of masks.

    Attributes:
        codes: float32 [categories, K, code size], zeros beyond a category's ``count``.
        count: int64 [categories], entries per category.
        members: int64 [categories, K], masks per entry.
    """

    codes: Tensor
    count: Tensor
    members: Tensor


@dataclass(frozen=True)
class Retrieved:
    """The k entries nearest to each of N masks.

    Attributes:
        masks: [N, k, 28, 28] with values 0–1.
        distance: [N, k], squared L2 distance between codes.
        known: bool [N], whether the category has entries.
    """

    masks: Tensor
    distance: Tensor
    known: Tensor


class ShapePrior(nn.Module):
    """Auto-encoder and codebook as a frozen part of a detector, stored in its state dict.

    Args:
        config: form of the auto-encoder, and K.
        categories: their number, without background.
    """

    def __init__(self, config: ShapePriorConfig, categories: int) -> None:
        super().__init__()
        self.auto_encoder = AutoEncoder(config.convolutions, config.channels)
        size = (categories, config.clusters)
        self.register_buffer("codes", torch.zeros(*size, self.auto_encoder.code_size))
        self.register_buffer("count", torch.zeros(categories, dtype=torch.int64))
        self.register_buffer("members", torch.zeros(*size, dtype=torch.int64))
        self.requires_grad_(False)

    def take(self, codebook: Codebook) -> None:
        """Copy the learnt entries of a codebook into the buffers."""
        for name in ("codes", "count", "members"):
            getattr(self, name).copy_(getattr(codebook, name))

    @property
    def codebook(self) -> Codebook:
        return Codebook(self.codes, self.count, self.members)

    @torch.no_grad()
    def nearest(self, masks: Tensor, category: Tensor, k: int) -> Retrieved:
        """Return the k entries of each mask's category whose codes are nearest to the mask's code.

        They come in ascending distance. A category with fewer entries repeats them in turn; one
        without any gives the mask itself with distance 0. No gradient goes through.

        Args:
            masks: [N, 28, 28] with values 0–1.
            category: int64 [N], from 0.
            k: number of entries, positive.
        """
        with torch.autocast(masks.device.type, enabled=False):
            masks = masks.float()
            own = self.auto_encoder.encode(masks)
            count = self.count[category]
            found = self._distances(own, category).topk(min(k, self.codes.shape[1]), largest=False)
            # These sums cancel where codes are close, so the chosen entries are compared exactly.
            exact = (self.codes[category[:, None], found.indices] - own[:, None]).square().sum(2)
            there = torch.arange(exact.shape[1], device=masks.device) < count[:, None]
            order = exact.masked_fill(~there, torch.inf).sort(dim=1, stable=True).indices
            turn = torch.arange(k, device=masks.device) % count.clamp(1, exact.shape[1])[:, None]
            chosen = order.gather(1, turn)
            known = count > 0
            entry = category[:, None] * self.codes.shape[1] + found.indices.gather(1, chosen)
            # Many masks share their entries: each is decoded once.
            used, entry = entry.unique(return_inverse=True)
            shapes = decode_all(self.auto_encoder, self.codes.flatten(0, 1)[used])[entry]
            return Retrieved(
                torch.where(known[:, None, None, None], shapes, masks[:, None]),
                torch.where(known[:, None], exact.gather(1, chosen), 0.0),
                known,
            )

    def _distances(self, own: Tensor, category: Tensor) -> Tensor:
        """Return squared distances [N, K] to the entries of each mask's category.

        The mask's own squared length is left out; distances beyond the category's ``count`` are
        infinite. Masks are laid out in rows of a single category, so that entries are gathered once
        per row and compared in one batched product, without a loop. Memory: at most
        N / 16 + categories copies of a category's entries.
        """
        order = category.argsort(stable=True)
        masks = category.bincount(minlength=len(self.count))
        rows = (masks + _TOGETHER - 1) // _TOGETHER
        of_row = torch.arange(len(rows), device=own.device).repeat_interleave(rows)
        first_mask, first_row = masks.cumsum(0) - masks, rows.cumsum(0) - rows
        rank = torch.arange(len(own), device=own.device) - first_mask[category[order]]
        place = torch.empty_like(order)
        place[order] = first_row[category[order]] * _TOGETHER + rank
        laid = own.new_zeros(len(of_row) * _TOGETHER, own.shape[1])
        laid[place] = own
        entries = self.codes[of_row]
        lengths = entries.square().sum(2)
        empty = torch.arange(entries.shape[1], device=own.device) >= self.count[of_row][:, None]
        lengths = lengths.masked_fill(empty, torch.inf)
        products = torch.baddbmm(
            lengths[:, None], laid.unflatten(0, (-1, _TOGETHER)), entries.mT, alpha=-2
        )
        # The mask's own squared length is the same for all entries and changes no order.
        return products.flatten(0, 1)[place]


def build_codebook(
    model: AutoEncoder,
    masks: Tensor,
    category: np.ndarray,
    categories: int,
    config: ShapePriorConfig,
    seed: int,
) -> Codebook:
    """Return the entries of every category: K-means centres of its codes.

    A category with at most K different masks keeps the codes of all of them.

    Args:
        masks: bool [N, 28, 28].
        category: int64 [N], from 0.
        categories: their number.
        config: K.
        seed: of the first centres.
    """
    codes = torch.zeros(categories, config.clusters, model.code_size)
    count = torch.zeros(categories, dtype=torch.int64)
    members = torch.zeros(categories, config.clusters, dtype=torch.int64)
    for each in range(categories):
        own = masks[torch.from_numpy(category == each)]
        if config.turned:
            own = torch.cat([turned(own, way) for way in range(8)])
        entries, sizes = _entries(model, own, config.clusters, seed)
        codes[each, : len(entries)], members[each, : len(entries)] = entries, sizes
        count[each] = len(entries)
    return Codebook(codes, count, members)


def _entries(model: AutoEncoder, masks: Tensor, clusters: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return codes [n, code size] and their numbers of masks [n], in descending order of these."""
    packed = np.packbits(masks.flatten(1).numpy(), axis=1)
    _, first, sizes = np.unique(packed, axis=0, return_index=True, return_counts=True)
    if len(first) <= clusters:
        entries = encode_all(model, masks[torch.from_numpy(first)])
    else:
        entries, sizes = _cluster(encode_all(model, masks).numpy(), clusters, seed)
    order = np.argsort(-sizes, kind="stable")
    return entries[order], torch.from_numpy(sizes[order])


def _cluster(codes: np.ndarray, clusters: int, seed: int) -> tuple[Tensor, np.ndarray]:
    # Imported here: only building a codebook needs scikit-learn and its compiled parts.
    from sklearn.cluster import MiniBatchKMeans
    from threadpoolctl import threadpool_limits

    means = MiniBatchKMeans(
        clusters,
        batch_size=max(4096, 2 * clusters),
        n_init=1,
        random_state=seed,
    )
    # Several threads sum in varying order; one thread gives the same bits on any number of cores.
    with threadpool_limits(1):
        nearest = means.fit(codes).predict(codes)
    sizes = np.bincount(nearest, minlength=clusters)
    kept = np.flatnonzero(sizes)
    return torch.from_numpy(means.cluster_centers_[kept]).float(), sizes[kept]
