"""World tokens into the language model's input. Pure torch.

Shape legend: `B` batch, `L` sequence, `M` images, `N` world tokens of one image, `D` language-model width.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

Fusion = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def scatter_tokens(inputs_embeds: torch.Tensor, placeholders: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
    """Put every world token on its placeholder, in reading order.

    Args:
        inputs_embeds: (B, L, D).
        placeholders: (B, L) bool, true where a world token belongs.
        features: (M, N, D), or (1, N', D) for a chunk of a prompt.

    Raises:
        ValueError: The counts differ; names both.
    """
    wanted, given = int(placeholders.sum()), features.shape[0] * features.shape[1]
    if wanted != given:
        raise ValueError(
            f"the prompt has {wanted} world tokens but the world encoder made {given} "
            f"({features.shape[0]} images x {features.shape[1]}): build both with the same processor call"
        )
    features = features.to(inputs_embeds.device, inputs_embeds.dtype)
    return inputs_embeds.masked_scatter(placeholders.unsqueeze(-1), features)  # (B, L, D)


FUSIONS: dict[str, Fusion] = {"tokens": scatter_tokens}

__all__ = ["FUSIONS", "scatter_tokens"]
