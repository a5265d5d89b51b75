"""Normalised hidden states of a transformer block as features, from the library's own forward.

Shape legend: `B` images, `C` width, `T` latent frames, `h, w` rows and columns of patches.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional
from typing_extensions import override

from theworld.utils.errors import TheWorldError

if TYPE_CHECKING:
    from ..configuration_theworld import TheWorldConfig


class Kept(nn.Module):
    """Replaces the output norm of a transformer and stores the hidden states of its last block."""

    hidden: torch.Tensor  # (B, T h w, C)

    @override
    def forward(self, hidden: torch.Tensor, *_: torch.Tensor) -> torch.Tensor:
        self.hidden = hidden
        return hidden


def up_to_block(transformer: Any, block: int, blocks: str) -> tuple[Any, Kept]:
    """A view of `transformer` that ends after `block`, and the module that stores its hidden states.

    The view shares all weights. Unlike a hook, it belongs to one call, so calls may run in parallel.

    Args:
        blocks: Attribute of the transformer that lists its blocks.
    """
    shortened, kept = copy.copy(transformer), Kept()
    first = getattr(transformer, blocks)[: block + 1]
    modules = {**vars(transformer)["_modules"], blocks: first, "norm_out": kept}
    vars(shortened).update(_modules=modules)  # a new dict, because the copy shares that of the original
    return shortened, kept


def normalised(hidden: torch.Tensor, grid: tuple[int, int, int]) -> torch.Tensor:
    """Features (B, C, T, h, w) in fp32 of hidden states (B, T h w, C), on a grid (T, h, w).

    Zero mean and unit variance over the channels of a position, without weights. Residual blocks can grow their hidden
    states without bound.
    """
    return functional.layer_norm(hidden.float(), hidden.shape[-1:]).unflatten(1, grid).movedim(-1, 1)


def chosen_block(block: int | None, count: int) -> int:
    """Index of the block `world_feature_block` of `count`, the last for `None`; a ValueError if there is none."""
    if block is not None and block >= count:
        raise TheWorldError(f"world_feature_block={block}: the transformer has the blocks 0 to {count - 1}")
    return count - 1 if block is None else block


def check_one_forward(config: TheWorldConfig, *, takes_text: bool = False) -> None:
    """Raise a ValueError for settings that one forward does not support: guidance, and a prompt if it takes no text."""
    kind = config.world_encoder
    if config.world_prompt is not None and not takes_text:
        raise TheWorldError(f"world_prompt={config.world_prompt!r}: {kind} takes no text; leave it out")
    if config.world_guidance_scale > 1:
        given = f"world_guidance_scale={config.world_guidance_scale}"
        raise TheWorldError(f"{given}: {kind} runs one forward without guidance; leave it out")


__all__ = ["check_one_forward", "chosen_block", "normalised", "up_to_block"]
