"""NVIDIA Cosmos-Predict2 as a world encoder: Wan VAE latents and their diffusion rollout.

The arithmetic is that of diffusers' `Cosmos2VideoToWorldPipeline`, on components loaded one by one: no text encoder is
held for a fixed prompt, no diffusion transformer while no step is rolled out, and images are rolled out as one batch.

Shape legend: `B` images, `C` latent channels, `T = 1 + K` latent frames, `h, w` latent height and width, `S` prompt
tokens, `E` prompt width.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any, cast

import torch
from diffusers import AutoencoderKLWan, CosmosTransformer3DModel, FlowMatchEulerDiscreteScheduler
from typing_extensions import override

from .base import WorldEncoder, WorldFeatures

# Constants of Cosmos2VideoToWorldPipeline: the noise range it samples, and the noise it tells for the clean frame.
SIGMA_MAX, SIGMA_MIN, SIGMA_DATA = 80.0, 0.002, 1.0
SIGMA_CONDITIONING = 1e-4

LoadTransformer = Callable[[], tuple[CosmosTransformer3DModel, FlowMatchEulerDiscreteScheduler]]
LoadPromptEmbeds = Callable[[list[str]], list[torch.Tensor]]


class CosmosWorldEncoder(WorldEncoder):
    """VAE latents of the current frame, and `K` predicted latent frames.

    Args:
        vae: The VAE; frames in [-1, 1].
        load_transformer: Called once, when the first rollout is asked for.
        load_prompt_embeds: `prompts -> each (1, S, E)`; called once, when the first rollout is asked for.
        source: Where the components came from, for `fingerprint`.
        num_inference_steps: Denoising steps.
        guidance_scale: Classifier-free guidance; above 1 each step costs two forwards.
        fps: Frames a second that the transformer is told.
        seed: Seed of the noise.
        prompt: The fixed text that conditions a rollout.
    """

    kind = "cosmos"
    """Key of `WORLD_ENCODERS`, for `fingerprint`."""

    def __init__(
        self,
        vae: AutoencoderKLWan,
        load_transformer: LoadTransformer,
        load_prompt_embeds: LoadPromptEmbeds,
        *,
        source: dict[str, Any],
        num_inference_steps: int = 35,
        guidance_scale: float = 7.0,
        fps: int = 16,
        seed: int = 0,
        prompt: str = "",
    ) -> None:
        super().__init__()
        self.vae = vae
        self.transformer: CosmosTransformer3DModel | None = None
        self.scheduler: FlowMatchEulerDiscreteScheduler | None = None
        self._load_transformer = load_transformer
        self._load_prompt_embeds = load_prompt_embeds
        self._prompt_embeds: list[torch.Tensor] = []
        self.source = source
        self.num_inference_steps = num_inference_steps
        self.guidance_scale = guidance_scale
        self.fps = fps
        self.seed = seed
        self.prompt = prompt

    @property
    @override
    def feature_dim(self) -> int:
        return self.vae.config["z_dim"]

    @property
    def spatial_compression(self) -> int:
        """Pixels per latent position and side."""
        return 2 ** len(self.vae.temperal_downsample)

    @property
    def temporal_compression(self) -> int:
        """Video frames per latent frame after the first."""
        return 2 ** sum(self.vae.temperal_downsample)

    @override
    def grid(self, height: int, width: int, num_world_steps: int) -> tuple[int, int, int]:
        return 1 + num_world_steps, height // self.spatial_compression, width // self.spatial_compression

    @override
    def fingerprint(self) -> dict[str, Any]:
        return {
            "encoder": self.kind,
            **self.source,
            "dtype": str(self.vae.dtype).removeprefix("torch."),
            "num_inference_steps": self.num_inference_steps,
            "guidance_scale": self.guidance_scale,
            "fps": self.fps,
            "seed": self.seed,
            "prompt": self.prompt,
        }

    @override
    def encode(self, pixels: torch.Tensor, num_world_steps: int = 0, seed: int | None = None) -> WorldFeatures:
        with torch.autocast(self.vae.device.type, enabled=False):  # the same latents in training and inference
            latents = first = self.encode_frame(pixels)  # (B, C, 1, h, w)
            if num_world_steps > 0:
                rolled = self.rollout(first, num_world_steps, self.seed if seed is None else seed)
                latents = torch.cat([first, rolled[:, :, 1:]], dim=2)  # a trained VAE has a gradient in `first`
        return WorldFeatures(latents.to(self.vae.dtype))

    def encode_frame(self, pixels: torch.Tensor) -> torch.Tensor:
        """Normalised mode of the VAE's distribution: (B, 3, H, W) in [-1, 1] -> (B, C, 1, h, w)."""
        trained = any(parameter.requires_grad for parameter in self.vae.encoder.parameters())
        with torch.set_grad_enabled(trained and torch.is_grad_enabled()):
            return self._encode_video(pixels.unsqueeze(2))

    @override
    @torch.no_grad()
    def encode_clip(self, clips: torch.Tensor) -> WorldFeatures:
        with torch.autocast(self.vae.device.type, enabled=False):
            return WorldFeatures(self._encode_video(clips).to(self.vae.dtype))

    def _encode_video(self, frames: torch.Tensor) -> torch.Tensor:
        """(B, 3, F, H, W) in [-1, 1] -> (B, C, T, h, w), F = 1 + 4 (T - 1)."""
        frames = frames.to(self.vae.device, self.vae.dtype)
        latents = self.vae.encode(frames, return_dict=False)[0].mode().float()
        return normalise_latents(self.vae, latents)

    @torch.no_grad()
    def rollout(self, first: torch.Tensor, num_world_steps: int, seed: int) -> torch.Tensor:
        """Roll the current latent frame out: (B, C, 1, h, w) -> (B, C, T, h, w).

        Every image gets the noise of the same seed, so an image's future does not depend on its batch.
        """
        transformer, scheduler = self.dynamics()
        patch = transformer.config["patch_size"][1:]
        if any(side % size for side, size in zip(first.shape[-2:], patch, strict=True)):
            raise ValueError(
                f"a latent grid of {tuple(first.shape[-2:])} does not divide into patches of {patch}: "
                f"set world_image_size to a multiple of {self.spatial_compression * max(patch)}"
            )
        shape = (1, self.feature_dim, 1 + num_world_steps, *first.shape[-2:])
        noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(first.device)
        return sample_rollout(
            transformer,
            scheduler,
            first,
            noise.expand(len(first), -1, -1, -1, -1),
            *self.prompt_embeds(),
            num_inference_steps=self.num_inference_steps,
            guidance_scale=self.guidance_scale,
            fps=self.fps,
        )

    def prepare_rollouts(self) -> None:
        """Load what a rollout needs now rather than with the first one."""
        self.dynamics()

    def dynamics(self) -> tuple[CosmosTransformer3DModel, FlowMatchEulerDiscreteScheduler]:
        """The diffusion transformer and its scheduler, loaded on the first call."""
        if self.transformer is None or self.scheduler is None:
            transformer, self.scheduler = self._load_transformer()
            self.transformer = cast(Any, transformer).to(self.vae.device).eval().requires_grad_(False)
        assert self.transformer is not None
        return self.transformer, self.scheduler

    def prompts(self) -> list[str]:
        """The texts that a rollout needs embedded: the prompt, and with guidance the one to guide away from."""
        return [self.prompt, negative_prompt()] if self.guidance_scale > 1 else [self.prompt]

    def prompt_embeds(self) -> list[torch.Tensor]:
        """Embeddings (1, S, E) of `prompts` on the transformer's device, computed once."""
        transformer, _ = self.dynamics()
        if not self._prompt_embeds:
            self._prompt_embeds = self._load_prompt_embeds(self.prompts())
        return [embeds.to(transformer.device, transformer.dtype) for embeds in self._prompt_embeds]

    @torch.no_grad()
    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Frames (B, 1 + 4K, 3, H, W) in [0, 1] of normalised latents (B, C, T, h, w).

        Frames decoded from NVIDIA's weights fall under the NVIDIA Open Model Licence, which asks for a guardrail
        wherever they are shown; see the `cosmos-guardrail` extra.
        """
        latents = latents.float()
        mean, std = latent_statistics(self.vae, latents)
        frames = self.vae.decode((latents * std + mean).to(self.vae.dtype), return_dict=False)[
            0
        ]  # (B, 3, F, H, W) in [-1, 1]
        return (frames.float().clamp(-1, 1) / 2 + 0.5).transpose(1, 2)


def latent_statistics(vae: AutoencoderKLWan, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The VAE's latent mean and standard deviation per channel, each (1, C, 1, 1, 1)."""
    shape = (1, vae.config["z_dim"], 1, 1, 1)
    mean, std = torch.tensor(vae.config["latents_mean"]), torch.tensor(vae.config["latents_std"])
    return mean.view(shape).to(like.device, like.dtype), std.view(shape).to(like.device, like.dtype)


def normalise_latents(vae: AutoencoderKLWan, latents: torch.Tensor) -> torch.Tensor:
    """Normalise as the generator does: `(z - mean) / std * sigma_data`, (B, C, T, h, w)."""
    mean, std = latent_statistics(vae, latents)
    return (latents - mean) / std * SIGMA_DATA


def negative_prompt() -> str:
    """The text that the stock pipeline guides away from."""
    # That module imports NVIDIA's guardrail where it is installed, and the guardrail turns gradients off for good
    with torch.set_grad_enabled(torch.is_grad_enabled()):
        from diffusers.pipelines.cosmos.pipeline_cosmos2_video2world import DEFAULT_NEGATIVE_PROMPT

    return DEFAULT_NEGATIVE_PROMPT


@torch.no_grad()
def sample_rollout(
    transformer: CosmosTransformer3DModel,
    scheduler: FlowMatchEulerDiscreteScheduler,
    first: torch.Tensor,
    noise: torch.Tensor,
    prompt_embeds: torch.Tensor,
    negative_prompt_embeds: torch.Tensor | None = None,
    *,
    num_inference_steps: int = 35,
    guidance_scale: float = 1.0,
    fps: int = 16,
) -> torch.Tensor:
    """Sample the latent frames after `first` with the stock pipeline's sampler.

    Args:
        first: (B, C, 1, h, w) normalised latents of the current frame.
        noise: (B, C, T, h, w) standard normal.
        prompt_embeds: (1, S, E).
        negative_prompt_embeds: (1, S, E); needed if `guidance_scale` is above 1.

    Returns:
        (B, C, T, h, w) normalised latents; frame 0 is `first`, untouched.
    """
    batch, frames = noise.shape[0], noise.shape[2]
    scheduler = prepare_scheduler(scheduler, num_inference_steps, noise.device)
    known = noise.new_zeros(1, 1, frames, 1, 1)  # 1 where the latent frame is given
    known[:, :, 0] = 1
    condition = torch.cat([first.float(), torch.zeros_like(noise[:, :, 1:])], dim=2)
    condition_mask = _condition_mask(transformer, known, noise)
    known_time = torch.tensor(SIGMA_CONDITIONING, device=noise.device)
    known_time = known_time / (known_time + 1)

    def denoise(latents: torch.Tensor, sigma: torch.Tensor, embeds: torch.Tensor) -> torch.Tensor:
        time = sigma / (sigma + 1)
        noisy = known * condition + (1 - known) * latents * (1 - time)
        times = known * known_time + (1 - known) * time.view(1, 1, 1, 1, 1).expand(batch, -1, frames, -1, -1)
        velocity = transformer(
            hidden_states=noisy.to(transformer.dtype),
            timestep=times.to(transformer.dtype),
            encoder_hidden_states=embeds.expand(batch, -1, -1),
            fps=fps,
            condition_mask=condition_mask,
            return_dict=False,
        )[0]
        clean = ((1 - time) * latents - time * velocity.float()).to(transformer.dtype)
        return known * condition + (1 - known) * clean

    latents = noise.float() * SIGMA_MAX
    timesteps, sigmas = cast(Any, scheduler.timesteps), cast(torch.Tensor, scheduler.sigmas)
    for timestep, sigma in zip(timesteps, sigmas, strict=False):  # there is one sigma more than timesteps
        clean = denoise(latents, sigma, prompt_embeds)
        if guidance_scale > 1:
            assert negative_prompt_embeds is not None
            clean = clean + guidance_scale * (clean - denoise(latents, sigma, negative_prompt_embeds))
        latents = cast(Any, scheduler).step((latents - clean) / sigma, timestep, latents, return_dict=False)[0]
    return torch.cat([first.float(), latents[:, :, 1:]], dim=2)


def prepare_scheduler(
    scheduler: FlowMatchEulerDiscreteScheduler, num_inference_steps: int, device: torch.device
) -> FlowMatchEulerDiscreteScheduler:
    """A copy of `scheduler` with its timesteps set as the stock pipeline sets them; the original keeps no state."""
    scheduler = copy.deepcopy(scheduler)
    scheduler.register_to_config(
        sigma_max=SIGMA_MAX, sigma_min=SIGMA_MIN, sigma_data=SIGMA_DATA, final_sigmas_type="sigma_min"
    )
    spaced = torch.linspace(0, 1, num_inference_steps, dtype=torch.float64).tolist()
    scheduler.set_timesteps(sigmas=spaced, device=device)
    sigmas = cast(torch.Tensor, scheduler.sigmas)
    sigmas[-1] = sigmas[-2]  # the pipeline stops at the smallest sigma, not at zero
    return scheduler


def _condition_mask(transformer: CosmosTransformer3DModel, known: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """The mask channel(s) that are concatenated to the latents: (B, 1 or 2, T, h, w).

    Cosmos-Predict2 also concatenates a padding mask that is zero for a whole frame. diffusers resizes that mask with
    torchvision; given here as a second channel of zeros, it needs no torchvision (see `without_padding_mask`).
    """
    mask = known.expand(noise.shape[0], 1, -1, *noise.shape[-2:]).to(transformer.dtype)
    extra = padding_channels(transformer)
    return torch.cat([mask, mask.new_zeros(mask.shape[0], extra, *mask.shape[2:])], dim=1)


def padding_channels(transformer: CosmosTransformer3DModel) -> int:
    """Channels for a padding mask that the transformer's weights expect behind the condition mask: 0 or 1."""
    channels = transformer.patch_embed.proj.in_features // math.prod(transformer.config["patch_size"])
    return channels - transformer.config["in_channels"]


def without_padding_mask(transformer: CosmosTransformer3DModel) -> CosmosTransformer3DModel:
    """Tell a loaded transformer that its padding-mask channel comes with the condition mask; no weight changes."""
    transformer.register_to_config(concat_padding_mask=False)
    return transformer


__all__ = ["CosmosWorldEncoder", "normalise_latents", "sample_rollout", "without_padding_mask"]
