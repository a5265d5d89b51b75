"""What a fusion adds to Gemma 3 and its world encoder: a projector, and two block markers or a gate."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import nn

from .configuration_theworld import TheWorldConfig
from .fusion import FUSIONS
from .projectors import PROJECTORS

# Tokens whose embeddings the projector's gain is measured on: a sample is enough for a root mean square
EMBEDDING_SAMPLE = 4096


class WorldParts(nn.Module):
    """Holds the new modules, under the names that `TheWorldModel` gives them."""

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
    sample = torch.arange(min(EMBEDDING_SAMPLE, embed.num_embeddings), device=device)
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


__all__ = ["WorldParts", "make_world_parts"]
