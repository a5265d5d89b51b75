"""The new modules of a fusion: a projector, and two block markers or a gate. Pure torch.

Shape legend: `B` images, `C` latent channels, `T` latent frames, `h, w` latent height and width, `p` pooling factor,
`u` unpooling factor, `rows = h / p`, `columns = w / p` of cells, `F = C * p * p` features of one cell, `D`
language-model width, `N = T * rows * columns * u * u` world tokens.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn
from torch.nn import functional

from theworld.utils.errors import TheWorldError

from .fusion import FUSIONS

if TYPE_CHECKING:
    from .configuration_theworld import TheWorldConfig


class WorldProjector(nn.Module):
    """`body` per cell of latents, which gives `u * u` tokens, then row, column and time embeddings, then RMSNorm.

    The norm's learned gain starts at the RMS of the language model's own (scaled) token embeddings: language models use
    visual tokens of another scale poorly (arXiv 2503.17349, 2512.08374). There is no activation at the end.
    """

    def __init__(self, config: TheWorldConfig) -> None:
        super().__init__()
        self.pooling, self.unpooling = config.world_pooling, config.world_unpooling
        features = config.world_latent_channels * self.pooling**2
        width = config.text_config.hidden_size  # type: ignore[union-attr]
        rows, columns = config.world_grid
        hidden = config.projector_hidden_size or width
        self.body = self.build_body(features, hidden, width * self.unpooling**2, config)
        self.row_embedding = nn.Parameter(torch.zeros(rows, 1, width))
        self.column_embedding = nn.Parameter(torch.zeros(1, columns, width))
        self.time_embedding = nn.Parameter(torch.zeros(1 + config.max_world_steps, 1, 1, width))
        self.output_norm = nn.RMSNorm(width, eps=1e-6)

    def build_body(self, features: int, hidden: int, outputs: int, config: TheWorldConfig) -> nn.Module:
        """A module that maps (B, T, rows, columns, `features`) to (B, T, rows, columns, `outputs`)."""
        raise NotImplementedError

    @torch.no_grad()
    def initialise(self, embedding_rms: float, generator: torch.Generator | None = None) -> None:
        """Draw small random embeddings, and set the output gain to `embedding_rms`."""
        for embedding in (self.row_embedding, self.column_embedding, self.time_embedding):
            embedding.normal_(std=0.02, generator=generator)
        self.output_norm.weight.fill_(embedding_rms)

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        """Project normalised latents (B, C, T, h, w) to world tokens (B, N, D), frame by frame, row by row."""
        cells = unshuffle(latents.to(self.time_embedding.dtype), self.pooling)  # (B, T, rows, columns, F)
        tokens = shuffle(self.body(cells), self.unpooling)  # (B, T, rows * u, columns * u, D)
        tokens = tokens + self.row_embedding + self.column_embedding
        tokens = tokens + self.time_embedding[: tokens.shape[1]]
        return self.output_norm(tokens).flatten(1, 3)  # (B, N, D)


class LinearProjector(WorldProjector):
    """One linear map per token."""

    def build_body(self, features: int, hidden: int, outputs: int, config: TheWorldConfig) -> nn.Module:
        return nn.Linear(features, outputs)


class MLPProjector(WorldProjector):
    """RMSNorm, Linear, GELU, Linear per token."""

    def build_body(self, features: int, hidden: int, outputs: int, config: TheWorldConfig) -> nn.Module:
        norm = nn.RMSNorm(features, eps=1e-6)
        return nn.Sequential(norm, nn.Linear(features, hidden), nn.GELU(approximate="tanh"), nn.Linear(hidden, outputs))


class TransformerProjector(WorldProjector):
    """A few pre-norm transformer layers over the tokens of a frame and of the frames before it."""

    def build_body(self, features: int, hidden: int, outputs: int, config: TheWorldConfig) -> nn.Module:
        return FrameTransformer(features, hidden, outputs, config)

    @torch.no_grad()
    def initialise(self, embedding_rms: float, generator: torch.Generator | None = None) -> None:
        super().initialise(embedding_rms, generator)
        assert isinstance(self.body, FrameTransformer)
        for embedding in (self.body.position, self.body.time):
            embedding.normal_(std=0.1, generator=generator)


class FrameTransformer(nn.Module):
    """Tokens attend to their frame and earlier ones, so the current frame's do not depend on the number of frames."""

    def __init__(self, features: int, hidden: int, outputs: int, config: TheWorldConfig) -> None:
        super().__init__()
        rows, columns = (side // config.world_unpooling for side in config.world_grid)
        layers = (ProjectorLayer(hidden, config.projector_heads) for _ in range(config.projector_layers))
        self.enter = nn.Linear(features, hidden)
        self.position = nn.Parameter(torch.zeros(rows, columns, hidden))
        self.time = nn.Parameter(torch.zeros(1 + config.max_world_steps, 1, 1, hidden))
        self.layers = nn.ModuleList(layers)
        self.leave = nn.Linear(hidden, outputs)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """(B, T, rows, columns, F) -> (B, T, rows, columns, `outputs`)."""
        batch, frames, rows, columns, _ = tokens.shape
        hidden = (self.enter(tokens) + self.position + self.time[:frames]).flatten(1, 3)  # (B, N, hidden)
        frame = torch.arange(frames, device=tokens.device).repeat_interleave(rows * columns)
        visible = frame[:, None] >= frame[None, :]  # (N, N)
        for layer in self.layers:
            hidden = layer(hidden, visible)
        return self.leave(hidden).view(batch, frames, rows, columns, -1)


class ProjectorLayer(nn.Module):
    """Pre-norm self-attention and a GELU MLP of twice the width."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        if width % heads:
            raise TheWorldError(f"projector_heads={heads}: expected a divisor of projector_hidden_size={width}")
        self.heads = heads
        self.attention_norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.attention_out = nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.GELU(approximate="tanh"), nn.Linear(2 * width, width)
        )

    def forward(self, hidden: torch.Tensor, visible: torch.Tensor) -> torch.Tensor:
        batch, length, width = hidden.shape
        qkv = self.qkv(self.attention_norm(hidden)).view(batch, length, 3, self.heads, width // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # each (B, heads, N, width / heads)
        attended = functional.scaled_dot_product_attention(query, key, value, attn_mask=visible)
        hidden = hidden + self.attention_out(attended.transpose(1, 2).flatten(2))
        return hidden + self.mlp(hidden)


def unshuffle(latents: torch.Tensor, pooling: int) -> torch.Tensor:
    """Gather `pooling x pooling` neighbours into one token: (B, C, T, h, w) -> (B, T, h / p, w / p, C * p * p)."""
    *_, height, width = latents.shape
    if height % pooling or width % pooling:
        raise TheWorldError(f"world latents of {height} x {width}: expected multiples of world_pooling={pooling}")
    cells = functional.pixel_unshuffle(latents.transpose(1, 2), pooling)  # (B, T, C * p * p, h / p, w / p)
    return cells.movedim(2, -1).contiguous()


def shuffle(cells: torch.Tensor, unpooling: int) -> torch.Tensor:
    """Split each cell into `unpooling x unpooling` tokens: (B, T, h, w, D * u * u) -> (B, T, h * u, w * u, D)."""
    return functional.pixel_shuffle(cells.movedim(-1, 2), unpooling).movedim(2, -1) if unpooling > 1 else cells


PROJECTORS: dict[str, type[WorldProjector]] = {
    "linear": LinearProjector,
    "mlp": MLPProjector,
    "transformer": TransformerProjector,
}


class WorldParts(nn.Module):
    """The new modules, by their names in `TheWorldModel`."""

    def __init__(self, config: TheWorldConfig) -> None:
        super().__init__()
        block = FUSIONS[config.fusion].block
        width = cast(Any, config.text_config).hidden_size
        self.world_projector = PROJECTORS[config.projector](config)
        self.world_markers = nn.Embedding.from_pretrained(torch.zeros(2, width), freeze=False) if block else None
        self.world_gate = None if block else nn.Parameter(torch.zeros(1 + config.max_world_steps))


def make_world_parts(config: TheWorldConfig, embed: nn.Embedding) -> WorldParts:
    """New modules on the device and in the dtype of the token embeddings.

    The markers start as the embeddings of Gemma's own image markers, the projector's gain at the RMS of the embeddings,
    the gate at zero.
    """
    weight = embed.weight
    dtype = weight.dtype if weight.is_floating_point() else torch.get_default_dtype()
    # 1. Measure the embeddings through their module: offloaded weights are in memory only while it runs
    device = torch.device("cpu") if weight.is_meta and hasattr(embed, "_hf_hook") else weight.device
    ids = torch.tensor([config.boi_token_index, config.eoi_token_index], device=device)
    sample = torch.arange(min(4096, embed.num_embeddings), device=device)  # enough for a root mean square
    with torch.no_grad():
        markers, rms = embed(ids).to(dtype), embed(sample).float().square().mean().sqrt()  # (2, D), ()
    # 2. Make the modules where the embeddings are computed
    parts = WorldParts(config).to(markers.device, dtype)
    if not markers.is_meta:
        parts.world_projector.initialise(rms.item())
        if parts.world_markers is not None:
            parts.world_markers.weight.data.copy_(markers)
    for module in parts.modules():
        cast(Any, module)._is_hf_initialized = True  # transformers must not initialise them again
    return parts


__all__ = ["PROJECTORS", "WorldParts", "WorldProjector", "make_world_parts"]
