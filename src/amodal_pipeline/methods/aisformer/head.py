"""AISFormer's mask head: four queries and a pixel map, whose dot products are the masks."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads
from torchvision.ops import MLP

from amodal_pipeline.methods.aisformer.config import AISFormerConfig
from amodal_pipeline.methods.aisformer.transformer import DecoderLayer, EncoderLayer

QUERIES = ("visible", "occluder", "amodal")  # the fourth is for the invisible mask, or for none


class AISFormerHead(nn.Module):
    """Maps RoI features [N, C, 14, 14] to logits of masks by name, each [N, 28, 28].

    The masks are those of :data:`QUERIES` and "invisible", the same for every class.
    """

    def __init__(self, width: int, config: AISFormerConfig) -> None:
        super().__init__()
        self.before_deconvolution = config.tokens == 14
        self.invisible_embedding = config.invisible_embedding
        self.convolutions = MaskRCNNHeads(width, (width,) * config.convolutions, dilation=1)
        self.deconvolution = nn.ConvTranspose2d(width, width, 2, stride=2)
        side = config.roi_size * (1 if self.before_deconvolution else 2)
        self.columns = nn.Parameter(torch.rand(side, width // 2))
        self.rows = nn.Parameter(torch.rand(side, width // 2))
        of_layer = (width, config.heads, config.feedforward, config.dropout)
        self.encoder = nn.ModuleList(EncoderLayer(*of_layer) for _ in range(config.layers))
        self.decoder = nn.ModuleList(DecoderLayer(*of_layer) for _ in range(config.layers))
        self.queries = nn.Parameter(torch.randn(len(QUERIES) + 1, width))
        self.norm = nn.LayerNorm(width)
        self.pixels = nn.Sequential(
            *MaskRCNNHeads(width, (width,) * config.pixel_convolutions, dilation=1),
            nn.Conv2d(width, width, 1),
        )
        self.embedding = MLP(width, [width] * 3, dropout=0.0)
        if self.invisible_embedding:
            self.invisible = MLP(2 * width, [width] * 2, dropout=0.0)
        self._initialise()

    def _initialise(self) -> None:
        nn.init.kaiming_normal_(self.deconvolution.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(self.deconvolution.bias)
        # Masks start near probability one half.
        nn.init.normal_(self.pixels[-1].weight, std=0.001)
        nn.init.zeros_(self.pixels[-1].bias)
        for name, layer in self.named_modules():
            if isinstance(layer, nn.Linear) and name.startswith(("embedding.", "invisible.")):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)

    def forward(self, features: Tensor) -> dict[str, Tensor]:
        pixels, embeddings = self.encode(features)
        logits = torch.einsum("nqc,nchw->nqhw", embeddings, pixels).float()
        return dict(zip((*QUERIES, "invisible"), logits.unbind(dim=1), strict=True))

    def encode(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return the pixel map [N, C, 28, 28] and the embeddings of the four masks [N, 4, C]."""
        local = self.convolutions(features)
        if not self.before_deconvolution:
            local = F.relu(self.deconvolution(local))
        tokens, position = local.flatten(2).transpose(1, 2), self.position()
        for layer in self.encoder:
            tokens = layer(tokens, position)
        found = self._decode(tokens, position)
        # Long range and short range.
        joined = tokens.transpose(1, 2).unflatten(2, local.shape[-2:]) + local
        if self.before_deconvolution:
            joined = F.relu(self.deconvolution(joined))
        normed = self.norm(joined.movedim(1, -1)).movedim(-1, 1)
        return self.pixels(normed), self._embed(found)

    def position(self) -> Tensor:
        """Return the position of each token, row by row, [L, C]: its column, then its row."""
        side = len(self.rows)
        columns = self.columns.expand(side, -1, -1)
        rows = self.rows[:, None].expand(-1, side, -1)
        return torch.cat([columns, rows], dim=-1).flatten(0, 1)

    def _decode(self, tokens: Tensor, position: Tensor) -> Tensor:
        queries = self.queries.expand(len(tokens), -1, -1)
        found = torch.zeros_like(queries)
        for layer in self.decoder:
            found = layer(found, queries, tokens, position)
        return found

    def _embed(self, found: Tensor) -> Tensor:
        """Return embeddings of the masks, [N, 4, C], from what the four queries have found."""
        embeddings = self.embedding(found)
        if not self.invisible_embedding:
            return embeddings
        named = dict(zip(QUERIES, embeddings.unbind(dim=1), strict=False))
        invisible = self.invisible(torch.cat([named["amodal"], named["visible"]], dim=-1))
        return torch.stack([*named.values(), invisible], dim=1)
