"""The contract of a world encoder: pixels in, normalised latents of the present and of predicted frames out.

Shape legend: `B` images, `C` latent channels, `T = 1 + K` latent frames, `h, w` latent height and width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn


@dataclass(frozen=True)
class WorldFeatures:
    """What a world encoder returns.

    Args:
        latents: (B, C, T, h, w) in the encoder's dtype, normalised to about zero mean and unit variance per channel;
            index 0 of T is the current frame, the others are predicted.
    """

    latents: torch.Tensor


class WorldEncoder(nn.Module, ABC):
    """A frozen (or partly trained) model of the world behind one call, `encode`."""

    @property
    @abstractmethod
    def feature_dim(self) -> int:
        """Channels `C` of a latent."""

    @abstractmethod
    def grid(self, height: int, width: int, num_world_steps: int) -> tuple[int, int, int]:
        """`(T, h, w)` of the latents of a `height` x `width` frame, without running anything."""

    @abstractmethod
    def fingerprint(self) -> dict[str, Any]:
        """All that the latents depend on besides the pixels and the number of steps: the key of a latent cache."""

    @abstractmethod
    def encode(self, pixels: torch.Tensor, num_world_steps: int = 0, seed: int | None = None) -> WorldFeatures:
        """Encode the current frame and roll out `num_world_steps` latent frames.

        Deterministic: the same pixels, steps and seed give the same latents, alone or in any batch.

        Args:
            pixels: (B, 3, H, W) in [-1, 1].
            num_world_steps: Future latent frames `K`.
            seed: Seed of the rollout; `None` takes the encoder's own.
        """

    def encode_one_by_one(
        self, pixels: torch.Tensor, num_world_steps: int = 0, seed: int | None = None
    ) -> WorldFeatures:
        """`encode` with every frame alone: its latents are then the same bits in every batch, and in a latent cache.

        In a batch they differ in the last bits, because kernels round differently with its size.
        """
        frames = [self.encode(frame, num_world_steps, seed).latents for frame in pixels.split(1)]
        return WorldFeatures(torch.cat(frames))

    @abstractmethod
    def encode_clip(self, clips: torch.Tensor) -> WorldFeatures:
        """Latents of what did happen: frames (B, 3, F, H, W) in [-1, 1] -> (B, C, T, h, w).

        `T = 1 + K` of the encoder's temporal compression, 4 frames a step for Cosmos: F = 1 + 4K.
        """


__all__ = ["WorldEncoder", "WorldFeatures"]
