"""Wan 2.1 and 2.2 as world encoders: VAE latents, or hidden states of the diffusion transformer in one forward.

Shape legend: `B` images, `C` latent channels, `D` transformer width, `T = 1 + K` latent frames, `G` given ones, `H, W`
latent height and width, `h, w` rows and columns of patches.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, cast

import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from torch.nn import functional
from transformers.utils.generic import maybe_autocast
from typing_extensions import override

from theworld.utils.errors import TheWorldError
from theworld.utils.hub import forget_origin
from theworld.utils.io import write_json

from .base import WorldEncoder
from .cosmos import CosmosWorldEncoder
from .hidden_states import normalised, up_to_block
from .prompt_embeds import save_prompt_embeds
from .repositories import load_component, on_meta
from .wan_repositories import INDEX, TIMESTEPS, conditioning_of, flow_time, least_time, read_index, transformer_name

if TYPE_CHECKING:
    from theworld.utils.hub import Source

    from ..configuration_theworld import TheWorldConfig


class WanLatentsWorldEncoder(CosmosWorldEncoder):
    """VAE latents of the current frame, 8 pixels per side or, in Wan 2.2 TI2V, 16. Arguments as `CosmosWorldEncoder`.

    Raises:
        ValueError: The repository is not Wan's, or future frames are requested.
    """

    kind = "wan_latents"
    seeded = False
    licence = ("apache-2.0", "Wan under the Apache License 2.0")
    probe_file = INDEX

    @override
    @classmethod
    def from_pretrained(cls, config: TheWorldConfig, source: Source, *, dtype: torch.dtype, **hub: Any) -> Self:
        read_index(source)
        return super().from_pretrained(config, source, dtype=dtype, **hub)

    @property
    def cell(self) -> int:
        """Pixels per side of one feature."""
        return self.spatial_compression

    @override
    def grid(self, height: int, width: int, num_world_steps: int) -> tuple[int, int, int]:
        if height % self.cell or width % self.cell:
            given = f"world_image_size={[height, width]}"
            raise TheWorldError(f"{given}: {self.kind} of this Wan model needs multiples of {self.cell}")
        return 1 + num_world_steps, height // self.cell, width // self.cell

    @override
    def fingerprint(self) -> dict[str, Any]:
        given = super().fingerprint()
        return {name: value for name, value in given.items() if name not in self.settings}

    @override
    def prepare(self, num_world_steps: int) -> None:
        if num_world_steps > 0:
            raise TheWorldError(
                f"num_world_steps={num_world_steps}: {self.kind} encodes the current frame only; set it to 0, or use "
                "world_encoder='wan', which gives features of future frames in one forward"
            )

    @override
    def rollout(self, first: torch.Tensor, num_world_steps: int, seed: Any) -> torch.Tensor:
        self.prepare(num_world_steps)
        return first


class WanWorldEncoder(WanLatentsWorldEncoder):
    """Hidden states of one block of the diffusion transformer, in one forward.

    The current frame is given as in the transformer's training (`Conditioning`); future frames are noise of level
    `world_feature_sigma`. With `K = 0`, and for a clip, all frames are given. If given frames are `noisy`, they have
    that level too, and a level that hides the image raises an error. All frames attend to each other, so the features
    of the current frame depend on `K`.

    Without a prompt the text embedding is zero, and no text encoder is needed. Wan's pipelines embed "" instead, which
    is zero except for 1 of 512 tokens; `world_prompt=""` does the same. There is no guidance.

    Args:
        vae: The VAE; frames in [-1, 1].
        transformer: The diffusion transformer; blocks after the config's are removed.
        index: `INDEX_FIELDS` of the repository's `model_index.json`.
        config: `world_feature_...`, `world_seed` and `world_prompt` are used.
        origin: Source of the text encoder, which is loaded only for a prompt.
        hub: Arguments for loading it: `token`, `cache_dir`, `local_files_only`.

    Raises:
        ValueError: As `conditioning_of`.
    """

    kind = "wan"
    can_decode, causal, seeded = False, False, True

    def __init__(
        self,
        vae: AutoencoderKLWan,
        transformer: WanTransformer3DModel,
        index: dict[str, Any],
        config: TheWorldConfig,
        origin: Source,
        hub: dict[str, Any],
    ) -> None:
        super().__init__(vae, config, origin, hub)
        self.index, self.sigma = index, config.world_feature_sigma
        self.conditioning, self.block = conditioning_of(vae.config, transformer.config, index, config)
        del transformer.blocks[self.block + 1 :]
        transformer.register_to_config(num_layers=self.block + 1)
        self.transformer = cast(Any, transformer)

    @override
    @classmethod
    def from_pretrained(cls, config: TheWorldConfig, source: Source, *, dtype: torch.dtype, **hub: Any) -> Self:
        index, vae = read_index(source), load_component(AutoencoderKLWan, source, "vae", dtype, **hub)
        name = transformer_name(index, config.world_feature_sigma)
        # Check before a large download
        conditioning_of(vae.config, on_meta(WanTransformer3DModel, source, name, **hub).config, index, config)
        transformer = load_component(WanTransformer3DModel, source, name, dtype, **hub)
        return cls(vae, transformer, index, config, source, hub)

    @property
    @override
    def feature_dim(self) -> int:
        settings = cast(Any, self.transformer).config
        return settings["num_attention_heads"] * settings["attention_head_dim"]

    @property
    @override
    def cell(self) -> int:
        return self.spatial_compression * cast(Any, self.transformer).config["patch_size"][1]

    @override
    def fingerprint(self) -> dict[str, Any]:
        settings = {"block": self.block, "sigma": self.sigma, "seed": self.seed, "prompt": self.prompt}
        return {**super().fingerprint(), **settings}

    @override
    def prepare(self, num_world_steps: int) -> None:
        pass

    @override
    def latent_weights(self, num_world_steps: int) -> dict[str, torch.Tensor]:
        return super().latent_weights(1)

    @override
    def encode(
        self, pixels: torch.Tensor, num_world_steps: int = 0, seed: int | Sequence[int] | None = None
    ) -> torch.Tensor:
        with maybe_autocast(self.vae.device.type, enabled=False):  # the same features in training and inference
            given, image = self.encode_frame(pixels), pixels.unsqueeze(2)
            return self.features(given, image, 1 + num_world_steps, self.seed if seed is None else seed)

    @override
    @torch.no_grad()
    def encode_clip(self, clips: torch.Tensor) -> torch.Tensor:
        with maybe_autocast(self.vae.device.type, enabled=False):
            given = self._encode_video(clips)
            return self.features(given, clips[:, :, :1], given.shape[2], self.seed)

    @override
    def rollout(self, first: torch.Tensor, num_world_steps: int, seed: Any) -> torch.Tensor:
        raise TheWorldError(f"{self.kind} gives features of future frames but no rollout")

    decode = WorldEncoder.decode

    def features(
        self, given: torch.Tensor, image: torch.Tensor, frames: int, seed: int | Sequence[int]
    ) -> torch.Tensor:
        """Normalised hidden states of `frames` latent frames: (B, D, T, h, w). A trained VAE gets its gradient.

        Args:
            given: (B, C, G, H, W) normalised latents of the first frames.
            image: (B, 3, 1, height, width) the first frame in [-1, 1].
            frames: Latent frames `T`; those that are not given are predicted.
            seed: Seed of the noise, one for all images or one each, so that features do not depend on the batch.
        """
        transformer = cast(Any, self.transformer)
        batch, _, known, *_ = given.shape
        _, rows, columns = self.grid(image.shape[-2], image.shape[-1], frames - 1)
        # 1. Mix every frame with noise at its time; a frame that is not given has no signal
        times = given.new_tensor(self.times(known, frames))  # (T,)
        noise = self.noise(given, frames - 1, seed).to(given)
        level = times.view(-1, 1, 1)
        noisy = (1 - level) * functional.pad(given, (0, 0, 0, 0, 0, frames - known)) + level * noise  # (B, C, T, H, W)
        timestep = TIMESTEPS * times
        timestep = timestep.repeat_interleave(rows * columns) if self.conditioning == "timesteps" else timestep[0]
        # 2. Add the image in channels of its own
        if self.conditioning == "channels":
            noisy = torch.cat([noisy, self.image_channels(image, frames)], dim=1)  # (B, 2 C + 4, T, H, W)
        # 3. Run one forward up to the block
        (text,) = self.prompt_embeds()
        with torch.set_grad_enabled(given.requires_grad):
            shortened, kept = up_to_block(transformer, self.block, "blocks")
            shortened(
                hidden_states=noisy.to(transformer.dtype),
                timestep=timestep.expand(batch, *timestep.shape),
                encoder_hidden_states=text.expand(batch, -1, -1),
            )
            # 4. Put its hidden states on the grid of patches
            return normalised(kept.hidden, (frames, rows, columns)).to(self.vae.dtype)

    def times(self, known: int, frames: int) -> list[float]:
        """The time of each of `frames` latent frames, of which the first `known` are given."""
        time = flow_time(self.sigma)
        if self.conditioning == "timesteps":
            return [0.0] * known + [time] * (frames - known)
        if self.conditioning == "channels" and known == frames:
            time = least_time(self.index, self.sigma)
        return [time] * frames

    @torch.no_grad()
    def image_channels(self, image: torch.Tensor, frames: int) -> torch.Tensor:
        """The image input of Wan's image-to-video models: a mask, and latents of the frame followed by grey frames.

        (B, 3, 1, height, width) in [-1, 1] -> (B, 4 + C, T, H, W).
        """
        latents = self._encode_video(functional.pad(image, (0, 0, 0, 0, 0, self.temporal_compression * (frames - 1))))
        mask = torch.zeros_like(latents[:, :1]).repeat(1, self.temporal_compression, 1, 1, 1)
        mask[:, :, 0] = 1
        return torch.cat([mask, latents], dim=1)

    @override
    def prompts(self) -> list[str | None]:
        return [self.prompt]

    @override
    def prompt_embeds(self) -> list[torch.Tensor]:
        return self.embeds_for(self.transformer, cast(Any, self.transformer).config["text_dim"])

    @override
    def save_source(self, folder: Path, num_world_steps: int) -> None:
        """Write a Wan repository of the blocks that are used, with an embedding in place of the text encoder."""
        self.vae.save_pretrained(folder / "vae")
        cast(Any, self.transformer).save_pretrained(folder / transformer_name(self.index, self.sigma))
        write_json(folder / INDEX, self.index)
        if self.prompt is not None:
            save_prompt_embeds(folder, self.prompt, *self.prompt_embeds())
        forget_origin(folder)

    @override
    @classmethod
    def from_config(cls, config: TheWorldConfig, source: Source, **hub: Any) -> Self:
        index, vae = read_index(source), on_meta(AutoencoderKLWan, source, "vae", **hub)
        transformer = on_meta(WanTransformer3DModel, source, transformer_name(index, config.world_feature_sigma), **hub)
        encoder = cls(vae, transformer, index, config, source, hub)
        encoder.assume_text(transformer.config["text_dim"])
        return encoder.eval().requires_grad_(False)
