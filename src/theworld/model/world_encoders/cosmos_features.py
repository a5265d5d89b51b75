"""Hidden states of NVIDIA Cosmos-Predict2's diffusion transformer, in one forward, as a world encoder.

The forward is the first of a rollout: the current latent frame is given, the future frames are noise. Hidden states of
a late block contain the model's prediction of them.

Shape legend: `B` images, `C` transformer width, `T = 1 + K` latent frames, `G` given ones, `H, W` latent height and
width, `h, w` rows and columns of patches.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from diffusers import AutoencoderKLWan, CosmosTransformer3DModel
from transformers.utils.generic import maybe_autocast
from typing_extensions import override

from .base import WorldEncoder
from .cosmos import SETTINGS, CosmosWorldEncoder, Dynamics
from .cosmos_sampler import Denoiser
from .hidden_states import check_one_forward, chosen_block, normalised, up_to_block

if TYPE_CHECKING:
    from ..configuration_theworld import TheWorldConfig


class CosmosFeaturesWorldEncoder(CosmosWorldEncoder):
    """Hidden states of one block of the diffusion transformer, at one noise level of the future frames.

    All latent frames attend to each other, so the features of the current frame depend on `K` as well. There is no
    text and no guidance. Arguments as `CosmosWorldEncoder`.

    Raises:
        ValueError: The config has a prompt or guidance, which one forward without text does not support.
    """

    kind = "cosmos_features"
    can_decode, causal = False, False
    settings: ClassVar = {
        **{name: SETTINGS[name] for name in ("fps", "seed")},
        **{"block": "world_feature_block", "sigma": "world_feature_sigma"},
    }

    block: int | None
    sigma: float

    def __init__(self, vae: AutoencoderKLWan, config: TheWorldConfig, *args: Any) -> None:
        super().__init__(vae, config, *args)
        check_one_forward(config)

    @property
    @override
    def feature_dim(self) -> int:
        transformer, _ = self.dynamics()
        return transformer.config["num_attention_heads"] * transformer.config["attention_head_dim"]

    @override
    def grid(self, height: int, width: int, num_world_steps: int) -> tuple[int, int, int]:
        frames, *latent = super().grid(height, width, num_world_steps)
        return frames, *self.patches(frames, *latent)

    @override
    def fingerprint(self) -> dict[str, Any]:
        transformer, _ = self.dynamics()
        return {**super().fingerprint(), "block": self.block_of(transformer)}

    @classmethod
    @override
    def uses_dynamics(cls, num_world_steps: int) -> bool:
        return True

    @override
    def load_dynamics(self) -> Dynamics:
        transformer, scheduler = super().load_dynamics()
        self.block_of(transformer)
        return transformer, scheduler

    @override
    def prompts(self) -> list[str | None]:
        return [None]

    @override
    def encode(
        self, pixels: torch.Tensor, num_world_steps: int = 0, seed: int | Sequence[int] | None = None
    ) -> torch.Tensor:
        with maybe_autocast(self.vae.device.type, enabled=False):  # the same features in training and inference
            first = self.encode_frame(pixels)
            noise = self.noise(first, num_world_steps, self.seed if seed is None else seed)
            return self.features(first, noise).to(self.vae.dtype)

    @override
    @torch.no_grad()
    def encode_clip(self, clips: torch.Tensor) -> torch.Tensor:
        """Features of a real clip: every latent frame is given, none is noise."""
        with maybe_autocast(self.vae.device.type, enabled=False):
            latents = self._encode_video(clips)
            return self.features(latents, torch.zeros_like(latents)).to(self.vae.dtype)

    decode = WorldEncoder.decode

    def features(self, given: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """Normalised hidden states (B, C, T, h, w).

        A trained VAE gets its gradient through the transformer.

        Args:
            given: (B, 16, G, H, W) normalised latents of the first frames.
            noise: (B, 16, T, H, W) standard normal; used for the frames that are not given.
        """
        # 1. The first forward of a rollout, up to the block
        transformer, _ = self.dynamics()
        rows, columns = self.patches(noise.shape[2], *given.shape[-2:])
        shortened, kept = up_to_block(transformer, self.block_of(transformer), "transformer_blocks")
        sigma = torch.tensor(self.sigma, device=given.device)
        (no_text,) = self.prompt_embeds()
        Denoiser(shortened, given, noise, self.fps).velocity(noise * sigma, sigma, no_text)
        # 2. Put its hidden states on the grid of patches
        return normalised(kept.hidden, (noise.shape[2], rows, columns))

    def block_of(self, transformer: CosmosTransformer3DModel) -> int:
        """Index of the block whose hidden states are the features; a ValueError if there is none."""
        return chosen_block(self.block, len(transformer.transformer_blocks))


__all__ = ["CosmosFeaturesWorldEncoder"]
