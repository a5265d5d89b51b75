"""What a block of a diffusion transformer gives, from the library's own forward."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn
from typing_extensions import override


class Kept(nn.Module):
    """Stands in for the output norm of a transformer, and keeps the hidden states of its last block."""

    hidden: torch.Tensor  # (B, N, C)

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
