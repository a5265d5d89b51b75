"""NVIDIA Cosmos-Predict2 and 2.5 as a world encoder: Wan VAE latents and their diffusion rollout.

Components are loaded one by one: no text encoder without a prompt, no diffusion transformer without future frames.
Images are rolled out as one batch.

Shape legend: `B` images, `C` latent channels, `T = 1 + K` latent frames, `h, w` latent height and width, `S` prompt
tokens, `E` prompt width.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self, cast

import torch
from diffusers import AutoencoderKLWan, CosmosTransformer3DModel, UniPCMultistepScheduler
from transformers.utils.generic import maybe_autocast
from typing_extensions import override

from theworld.utils.errors import TheWorldError
from theworld.utils.hub import forget_origin
from theworld.utils.logging import warn_once
from theworld.utils.operating_points import outside_training
from theworld.utils.tensors import snapshot

from .base import Component, WorldEncoder
from .cosmos25_sampler import FPS, sample_flow_rollout
from .cosmos_sampler import (
    SIGMA_DATA,
    Scheduler,
    is_version_25,
    load_scheduler,
    padding_channels,
    sample_rollout,
    without_padding_mask,
)
from .prompt_embeds import load_prompt_embeds, no_text, save_prompt_embeds, stock_negative_prompt
from .repositories import latent_statistics, load_component, on_meta, text_width
from .single_frame import posterior_mode, runs_as_image

if TYPE_CHECKING:
    from theworld.utils.hub import Source

    from ..configuration_theworld import TheWorldConfig

MAX_SIZE = (128, 240, 240)
"""`max_size` in the config of Cosmos-Predict2: latent frames, rows and columns of its position embedding."""

SETTINGS = {  # attribute of the encoder: config field
    **{"num_inference_steps": "world_inference_steps", "guidance_scale": "world_guidance_scale", "fps": "world_fps"},
    **{"seed": "world_seed", "prompt": "world_prompt", "negative_prompt": "world_negative_prompt"},
}

Dynamics = tuple[CosmosTransformer3DModel, Scheduler]


class CosmosWorldEncoder(WorldEncoder):
    """VAE latents of the current frame, and `K` predicted latent frames.

    Args:
        vae: The VAE; frames in [-1, 1].
        config: Its fields `world_...` are the settings of a rollout.
        origin: Source of the diffusion transformer and the text encoder, which are loaded only for a rollout.
        hub: Arguments for loading them: `token`, `cache_dir`, `local_files_only`.
    """

    kind = "cosmos"  # key of `WORLD_ENCODERS`, for `fingerprint`
    licence = (
        "nvidia-open-model-licence",
        "Cosmos-Predict2 under the NVIDIA Open Model Licence, which requires a guardrail where its video is shown",
    )
    probe_file = "vae/config.json"
    can_decode = True
    settings: ClassVar[dict[str, str]] = SETTINGS

    num_inference_steps: int
    guidance_scale: float
    seed: int
    negative_prompt: str | None

    def __init__(self, vae: AutoencoderKLWan, config: TheWorldConfig, origin: Source, hub: dict[str, Any]) -> None:
        super().__init__()
        self.vae = vae
        self.transformer: CosmosTransformer3DModel | None = None
        self.scheduler: Scheduler | None = None
        self.source = {"model": origin.name, "revision": origin.revision}
        self.temporal_compression = vae.config["scale_factor_temporal"]
        self._origin, self._hub, self._dtype = origin, hub, vae.dtype
        self._prompt_embeds: list[torch.Tensor] = []
        for name, field in self.settings.items():
            setattr(self, name, getattr(config, field))

    @override
    @classmethod
    def from_pretrained(cls, config: TheWorldConfig, source: Source, *, dtype: torch.dtype, **hub: Any) -> Self:
        return cls(load_component(AutoencoderKLWan, source, "vae", dtype, **hub), config, source, hub)

    @override
    @classmethod
    def from_config(cls, config: TheWorldConfig, source: Source, **hub: Any) -> Self:
        encoder = cls(on_meta(AutoencoderKLWan, source, "vae", **hub), config, source, hub)
        if cls.uses_dynamics(config.num_world_steps):
            transformer = on_meta(CosmosTransformer3DModel, source, "transformer", **hub)
            encoder.scheduler = load_scheduler(source, transformer, **hub)
            encoder.transformer = without_padding_mask(transformer)
            encoder.assume_text(text_width(transformer))
        return encoder.eval().requires_grad_(False)

    @property
    @override
    def feature_dim(self) -> int:
        return self.vae.config["z_dim"]

    @property
    def spatial_compression(self) -> int:
        """Pixels per latent position and side."""
        return self.vae.config["scale_factor_spatial"]

    @override
    def grid(self, height: int, width: int, num_world_steps: int) -> tuple[int, int, int]:
        return 1 + num_world_steps, height // self.spatial_compression, width // self.spatial_compression

    @override
    def components(self) -> dict[str, Component]:
        return {
            # Runs between frames only. With a single frame it has no gradient, which DDP refuses
            "vae_temporal": Component(("vae.encoder.",), trains=False, part=".time_conv."),
            "vae_encoder": Component(("vae.encoder.", "vae.quant_conv."), "freeze_cosmos_vae"),
            "vae_decoder": Component(("vae.decoder.", "vae.post_quant_conv."), trains=False),
            "world_transformer": Component(("transformer.",), trains=False),
        }

    @override
    def fingerprint(self) -> dict[str, Any]:
        # The two ways to encode a frame differ in the last bits, and cached latents must be the same bits
        settings = {name: getattr(self, name) for name in self.settings} | {"encodes_as_image": runs_as_image(self.vae)}
        if settings.get("negative_prompt", "") is None:
            del settings["negative_prompt"]
        return {"encoder": self.kind, **self.source, "dtype": str(self.vae.dtype).removeprefix("torch."), **settings}

    @override
    def latent_weights(self, num_world_steps: int) -> dict[str, torch.Tensor]:
        unused = () if self.uses_dynamics(num_world_steps) else ("transformer.",)
        left_out = ("vae.decoder.", "vae.post_quant_conv.", *unused)
        return {name: value for name, value in self.state_dict().items() if not name.startswith(left_out)}

    @override
    def encode(
        self, pixels: torch.Tensor, num_world_steps: int = 0, seed: int | Sequence[int] | None = None
    ) -> torch.Tensor:
        with maybe_autocast(self.vae.device.type, enabled=False):  # the same latents in training and inference
            latents = first = self.encode_frame(pixels)  # (B, C, 1, h, w)
            if num_world_steps > 0:
                rolled = self.rollout(first, num_world_steps, self.seed if seed is None else seed)
                latents = torch.cat([first, rolled[:, :, 1:]], dim=2)  # a trained VAE has a gradient in `first`
        return latents.to(self.vae.dtype)

    @override
    def encode_futures(self, pixels: torch.Tensor, num_world_steps: int, seeds: Sequence[int]) -> torch.Tensor:
        repeated = pixels.repeat_interleave(len(seeds), dim=0)  # (B F, 3, H, W): all futures in one batch
        futures = self.encode(repeated, num_world_steps, [*seeds] * len(pixels))
        return futures.unflatten(0, (len(pixels), len(seeds)))

    def encode_frame(self, pixels: torch.Tensor) -> torch.Tensor:
        """Normalised mode of the VAE's distribution: (B, 3, H, W) in [-1, 1] -> (B, C, 1, h, w)."""
        trained = torch.is_grad_enabled() and any(value.requires_grad for value in self.vae.encoder.parameters())
        with torch.set_grad_enabled(trained):
            return self._encode_video(pixels.unsqueeze(2))

    @override
    @torch.no_grad()
    def encode_clip(self, clips: torch.Tensor) -> torch.Tensor:
        with maybe_autocast(self.vae.device.type, enabled=False):
            return self._encode_video(clips).to(self.vae.dtype)

    def _encode_video(self, frames: torch.Tensor) -> torch.Tensor:
        """(B, 3, F, H, W) in [-1, 1] -> (B, C, T, h, w), F = 1 + 4 (T - 1)."""
        frames = frames.to(self.vae.device, self.vae.dtype)
        if frames.shape[2] == 1 and runs_as_image(self.vae):
            latents = posterior_mode(self.vae, frames).float()
        else:
            latents = self.vae.encode(frames, return_dict=False)[0].mode().float()
        mean, std = latent_statistics(self.vae, latents)
        return (latents - mean) / std * SIGMA_DATA  # as the generator normalises

    @torch.no_grad()
    def rollout(self, first: torch.Tensor, num_world_steps: int, seed: int | Sequence[int]) -> torch.Tensor:
        """Predict the frames after the current latent frame: (B, C, 1, h, w) -> (B, C, T, h, w).

        All images get the noise of one seed, or each that of its own seed (B,), so a future does not depend on the
        batch.
        """
        transformer, scheduler = self.dynamics()
        self.patches(1 + num_world_steps, *first.shape[-2:])
        noise = self.noise(first, num_world_steps, seed)
        settings = {name: getattr(self, name) for name in ("num_inference_steps", "guidance_scale")}
        if isinstance(scheduler, UniPCMultistepScheduler):
            return sample_flow_rollout(transformer, scheduler, first, noise, *self.prompt_embeds(), **settings)
        self.warn_outside_training(first, num_world_steps, transformer)
        settings |= {"fps": self.fps, "show_progress": not self.training}
        return sample_rollout(transformer, scheduler, first, noise, *self.prompt_embeds(), **settings)

    def noise(self, first: torch.Tensor, num_world_steps: int, seed: int | Sequence[int]) -> torch.Tensor:
        """Standard normal (B, C, T, h, w) for the rollout of `first` (B, C, 1, h, w), drawn from each image's seed."""
        shape = (1, first.shape[1], 1 + num_world_steps, *first.shape[-2:])
        seeds = [seed] if isinstance(seed, int) else seed  # one for all, or (B,)
        drawn = {one: torch.randn(shape, generator=torch.Generator().manual_seed(one)) for one in dict.fromkeys(seeds)}
        return torch.cat([drawn[one] for one in seeds]).to(first.device).expand(len(first), -1, -1, -1, -1)

    def patches(self, frames: int, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of the transformer's patches in a latent grid.

        Raises:
            ValueError: Patches do not divide the grid, or it is larger than the transformer's position embeddings.
        """
        transformer, _ = self.dynamics()
        per_step, *patch = transformer.config["patch_size"]
        if height % patch[0] or width % patch[1]:
            raise TheWorldError(
                f"a latent grid of {(height, width)} does not divide into patches of {tuple(patch)}: "
                f"set world_image_size to a multiple of {self.spatial_compression * max(patch)}"
            )
        sides = (per_step, *patch)
        most = [size // side for size, side in zip(transformer.config["max_size"], sides, strict=True)]
        if not transformer.config["extra_pos_embed_type"]:  # rotary embeddings have one table for all three axes
            most = [max(most)] * 3
        if any(n // side > limit for n, side, limit in zip((frames, height, width), sides, most, strict=True)):
            largest = [n * side * self.spatial_compression for n, side in zip(most[1:], patch, strict=True)]
            raise TheWorldError(
                f"a rollout of {height} x {width} latents and num_world_steps={frames - 1}: this transformer "
                f"has positions for world_image_size={largest} and num_world_steps={most[0] - 1} at most"
            )
        return height // patch[0], width // patch[1]

    @classmethod
    def uses_dynamics(cls, num_world_steps: int) -> bool:
        """Whether the features of `num_world_steps` future frames need the diffusion transformer."""
        return num_world_steps > 0

    def warn_outside_training(self, first: torch.Tensor, num_world_steps: int, transformer: Any) -> None:
        """Warn once if a rollout from (B, C, 1, h, w) is outside of the training of Cosmos-Predict2."""
        if tuple(transformer.config["max_size"]) != MAX_SIZE:  # another model of its architecture, such as nano
            return
        height, width = (side * self.spatial_compression for side in first.shape[-2:])
        if outside := outside_training(height, width, 1 + num_world_steps, self.fps):
            warn_once(f"this rollout is outside of what Cosmos-Predict2 was trained on: {outside}; see operating_point")

    @override
    def prepare(self, num_world_steps: int) -> None:
        if self.uses_dynamics(num_world_steps):
            self.dynamics()

    def dynamics(self) -> Dynamics:
        """The diffusion transformer and its scheduler, loaded on the first call."""
        if self.transformer is None or self.scheduler is None:
            transformer, self.scheduler = self.load_dynamics()
            self.transformer = cast(Any, transformer).to(self.vae.device).eval().requires_grad_(False)
            self.late_weights = {f"transformer.{key}": snapshot(value) for key, value in transformer.named_parameters()}
        assert self.transformer is not None
        return self.transformer, self.scheduler

    def load_dynamics(self) -> Dynamics:
        """The diffusion transformer and its scheduler from their repository."""
        transformer = load_component(CosmosTransformer3DModel, self._origin, "transformer", self._dtype, **self._hub)
        scheduler = load_scheduler(self._origin, transformer, **self._hub)
        version_25 = is_version_25(transformer)
        if version_25 and self.fps != FPS:
            raise TheWorldError(f"world_fps={self.fps}: Cosmos-Predict2.5 takes no frame rate, its videos have {FPS}")
        if not version_25 and "num_inference_steps" in self.settings and self.num_inference_steps == 1:
            told = "the sampler of Cosmos-Predict2 stops at its smallest noise level, so one step leaves only noise"
            raise TheWorldError(f"world_inference_steps=1: {told}; set 2 or more")
        return without_padding_mask(transformer), scheduler

    def prompts(self) -> list[str | None]:
        """The prompt of a rollout and, with guidance, the negative prompt; `None` is no text."""
        if self.guidance_scale <= 1:
            return [self.prompt]
        return [self.prompt, stock_negative_prompt() if self.negative_prompt is None else self.negative_prompt]

    def prompt_embeds(self) -> list[torch.Tensor]:
        """Embeddings (1, S, E) of `prompts` on the transformer's device, computed once."""
        transformer, _ = self.dynamics()
        return self.embeds_for(transformer, text_width(transformer))

    def embeds_for(self, transformer: Any, width: int) -> list[torch.Tensor]:
        """As `prompt_embeds`, for a transformer that takes text of this width."""
        if not self._prompt_embeds:
            prompts = self.prompts()
            texts = [prompt for prompt in prompts if prompt is not None]
            origin, device = self._origin, self.vae.device
            where: dict[str, Any] = {"subfolder": origin.subfolder, "revision": origin.revision, **self._hub}
            loaded = iter(load_prompt_embeds(origin.name, texts, device=device, **where) if texts else ())
            self._prompt_embeds = [self.no_text(width) if prompt is None else next(loaded) for prompt in prompts]
        return [embeds.to(transformer.device, transformer.dtype) for embeds in self._prompt_embeds]

    def no_text(self, width: int) -> torch.Tensor:
        """The embedding (1, S, `width`) of no text among `prompts`."""
        return no_text(width, alone=all(prompt is None for prompt in self.prompts()))

    def assume_text(self, width: int) -> None:
        """Use zeros of the right length as embeddings of `prompts`, to count their cost."""
        self._prompt_embeds = [self.no_text(width)] * len(self.prompts())

    @override
    @torch.no_grad()
    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        # Frames of NVIDIA's weights fall under the NVIDIA Open Model Licence, which requires a guardrail wherever they
        # are shown; see the `cosmos-guardrail` extra
        latents = latents.float()
        mean, std = latent_statistics(self.vae, latents)
        frames = self.vae.decode((latents * std + mean).to(self.vae.dtype), return_dict=False)[0]  # (B, 3, F, H, W)
        return (frames.float().clamp(-1, 1) / 2 + 0.5).transpose(1, 2)

    @override
    def save_source(self, folder: Path, num_world_steps: int) -> None:
        """Write a Cosmos-Predict2 repository of the components in use, with prompt embeddings in place of a T5."""
        self.vae.save_pretrained(folder / "vae")
        if self.uses_dynamics(num_world_steps) or self.transformer is not None:
            transformer, scheduler = self.dynamics()
            transformer.register_to_config(concat_padding_mask=padding_channels(transformer) > 0)
            transformer.save_pretrained(folder / "transformer")
            without_padding_mask(transformer)
            scheduler.save_pretrained(folder / "scheduler")
            for prompt, embeds in zip(self.prompts(), self.prompt_embeds(), strict=True):
                if prompt is not None:
                    save_prompt_embeds(folder, prompt, embeds)
        forget_origin(folder)

    @override
    @classmethod
    def parameter_count(cls, config: TheWorldConfig, source: Source, **hub: Any) -> int:
        return sum(parameter.numel() for parameter in cls.from_config(config, source, **hub).parameters())


__all__ = ["SETTINGS", "CosmosWorldEncoder", "Dynamics"]
