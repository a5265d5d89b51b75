"""Hidden states as features: what a block of a transformer gives in the library's own forward, and its normalisation.

Shape legend: `B` images, `C` width, `T` latent frames, `h, w` rows and columns of patches.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from typing_extensions import override


class Kept(nn.Module):
    """Stands in for the output norm of a transformer, and keeps the hidden states of its last block."""

    hidden: torch.Tensor  # (B, T h w, C)

    @override
    def forward(self, hidden: torch.Tensor, *_: torch.Tensor) -> torch.Tensor:
        self.hidden = hidden
        return hidden


def up_to_block(transformer: Any, block: int, blocks: str) -> tuple[Any, Kept]:
    """A view of `transformer` that ends behind `block`, and where its forward leaves the hidden states.

    The view shares all weights. Unlike a hook on the block it is of one call, so calls may run side by side.

    Args:
        blocks: What the transformer calls the list of its blocks.
    """
    shortened, kept = copy.copy(transformer), Kept()
    first = getattr(transformer, blocks)[: block + 1]
    modules = {**vars(transformer)["_modules"], blocks: first, "norm_out": kept}
    vars(shortened).update(_modules=modules)  # `copy` has the dict of the original
    return shortened, kept


def normalised(hidden: torch.Tensor, grid: tuple[int, int, int]) -> torch.Tensor:
    """Features (B, C, T, h, w) in fp32 of hidden states (B, T h w, C), on a grid (T, h, w).

    Zero mean and unit variance over the channels of a position, without weights: a block adds to its input without
    bound.
    """
    return functional.layer_norm(hidden.float(), hidden.shape[-1:]).unflatten(1, grid).movedim(-1, 1)


__all__ = ["normalised", "up_to_block"]
