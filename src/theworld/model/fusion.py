"""Puts world tokens into the language model's input. Pure torch.

Shape legend: `B` batch, `L` sequence, `M` images, `N` world tokens of one image, `I` image tokens of one image, `T`
latent frames, `D` language-model width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch.nn import functional

from theworld.utils.errors import TheWorldError


@dataclass(frozen=True)
class Fusion:
    """How world tokens enter the language model."""

    block: bool  # whether the prompt has a block of placeholders for them


FUSIONS: dict[str, Fusion] = {"tokens": Fusion(block=True), "gated": Fusion(block=False)}


def scatter_tokens(inputs_embeds: torch.Tensor, placeholders: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
    """`tokens`: put every world token on its placeholder, in reading order.

    Args:
        inputs_embeds: (B, L, D).
        placeholders: (B, L) bool, true where a world token belongs.
        features: (M, N, D), or (1, N', D) for a chunk of a prompt.

    Raises:
        ValueError: The counts differ; names both.
    """
    if not torch.compiler.is_compiling():  # reading the value of a sum breaks the graph
        wanted, given = int(placeholders.sum()), features.shape[0] * features.shape[1]
        if wanted != given:
            raise TheWorldError(
                f"the prompt has {wanted} world tokens but the world encoder made {given} "
                f"({features.shape[0]} images x {features.shape[1]}): build both with the same processor call"
            )
    features = features.to(inputs_embeds.device, inputs_embeds.dtype)
    return inputs_embeds.masked_scatter(placeholders.unsqueeze(-1), features)  # (B, L, D)


def gate_images(
    image_features: torch.Tensor, features: torch.Tensor, gate: torch.Tensor, grid: tuple[int, int]
) -> torch.Tensor:
    """`gated`: add world tokens to the image tokens at the same place, through `tanh(gate)` (as arXiv:2204.14198).

    At gate 0 the result is `image_features`, bit for bit.

    Args:
        image_features: (M, I, D), I a square.
        features: (M, N, D), N = T x rows x columns.
        gate: (T_max,), one number for every latent frame.
        grid: Rows and columns of one latent frame.

    Returns:
        (M, I, D).
    """
    side = math.isqrt(image_features.shape[1])
    frames = features.unflatten(1, (-1, grid[0] * grid[1]))  # (M, T, rows * columns, D)
    weights = torch.tanh(gate[: frames.shape[1]]).to(features)
    summed = torch.einsum("mtnd,t->mnd", frames, weights)
    return image_features + fit_grid(summed, grid, (side, side)).to(image_features.device, image_features.dtype)


def fit_grid(tokens: torch.Tensor, source: tuple[int, int], target: tuple[int, int]) -> torch.Tensor:
    """Tokens (B, rows * columns, D) of one grid, interpolated to another grid."""
    if source == target:
        return tokens
    image = tokens.float().transpose(1, 2).unflatten(2, source)  # (B, D, rows, columns)
    return functional.interpolate(image, size=target, mode="bilinear", antialias=True).flatten(2).transpose(1, 2)
