"""Control encoders: each replaces Cosmos but lacks one property, to measure what that property contributes.

Shape legend: `B` images, `C` latent channels, `F` frames of a clip, `T = 1 + K` latent frames, `h, w` latent height and
width, `P` pixels per latent position and side.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import AutoencoderKLWan
from typing_extensions import override

from theworld.utils.pixel_features import lowest_frequencies, standardised
from theworld.utils.reproducibility import draw_weights

from .cosmos import CosmosWorldEncoder, Dynamics

RANDOM_SEED = 20_250_107  # fixed, so that the random encoder has the same weights in every process


class StillWorldEncoder(CosmosWorldEncoder):
    """The current latent frame, repeated. A useful rollout scores above this control."""

    kind = "still"
    seeded = False

    @override
    def prepare(self, num_world_steps: int) -> None:
        pass

    @override
    def rollout(self, first: torch.Tensor, num_world_steps: int, seed: int | Sequence[int]) -> torch.Tensor:
        return first.expand(-1, -1, 1 + num_world_steps, -1, -1)


class RandomWorldEncoder(CosmosWorldEncoder):
    """The architecture of Cosmos with random weights. Useful pretraining scores above this control.

    Latents are standardised over the positions of a frame, because the statistics of the trained VAE do not apply.
    """

    kind = "random"

    def __init__(self, vae: AutoencoderKLWan, *args: Any) -> None:
        super().__init__(vae, *args)
        draw_weights(vae, RANDOM_SEED)

    @override
    def load_dynamics(self) -> Dynamics:
        transformer, scheduler = super().load_dynamics()
        draw_weights(transformer, RANDOM_SEED)
        return transformer, scheduler

    @override
    def _encode_video(self, frames: torch.Tensor) -> torch.Tensor:
        return standardised(super()._encode_video(frames))

    @override
    def rollout(self, first: torch.Tensor, num_world_steps: int, seed: int | Sequence[int]) -> torch.Tensor:
        rolled = super().rollout(first, num_world_steps, seed)
        return torch.cat([first, standardised(rolled[:, :, 1:])], dim=2)


class PatchesWorldEncoder(StillWorldEncoder):
    """No world model: the lowest frequencies of the pixels at every latent position, repeated for every frame.

    There are as many tokens as with Cosmos. Features are the discrete cosine transform (as in JPEG) of patches of P x P
    pixels. Channels are ordered by frequency, then red, green, blue; each is in about [-1, 1].
    """

    kind = "patches"
    can_decode = False

    @override
    def _encode_video(self, frames: torch.Tensor) -> torch.Tensor:
        # Keep the last frame of each latent frame
        kept = frames[:, :, :: self.temporal_compression].float()  # (B, 3, T, H, W)
        images = kept.transpose(1, 2)  # (B, T, 3, H, W)
        latents = lowest_frequencies(images.flatten(0, 1), self.spatial_compression, self.feature_dim)  # (B T, C, h, w)
        return latents.unflatten(0, images.shape[:2]).transpose(1, 2)
