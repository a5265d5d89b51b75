"""The sampler of Cosmos-Predict2: from noise and the latent of the current frame to latents of the next frames.

The arithmetic is that of diffusers' `Cosmos2VideoToWorldPipeline`, which preconditions as EDM (Karras et al., 2022,
arXiv:2206.00364) with the time `t = sigma / (sigma + 1)`: `c_in = c_skip = 1 - t` and `c_out = -t`.

Shape legend: `B` images, `C` latent channels, `T = 1 + K` latent frames, `h, w` latent height and width, `S` prompt
tokens, `E` prompt width.
"""

from __future__ import annotations

import copy
import math
from typing import TYPE_CHECKING, Any, cast

import torch
from diffusers import CosmosTransformer3DModel, FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler

from theworld.utils.errors import TheWorldError
from theworld.utils.hub import damage_named
from theworld.utils.logging import progress, quiet_third_party

if TYPE_CHECKING:
    from theworld.utils.hub import Source

Scheduler = FlowMatchEulerDiscreteScheduler | UniPCMultistepScheduler

# Constants of the stock pipeline: the range of noise that it samples, and the noise level of the clean frame
SIGMA_MAX, SIGMA_MIN, SIGMA_DATA = 80.0, 0.002, 1.0
SIGMA_CONDITIONING = 1e-4


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
    fps: float = 16,
    show_progress: bool = False,
) -> torch.Tensor:
    """Sample the latent frames after `first`.

    Args:
        first: (B, C, 1, h, w) normalised latents of the current frame.
        noise: (B, C, T, h, w) standard normal.
        prompt_embeds: (1, S, E), as `negative_prompt_embeds`, which is needed if `guidance_scale` is above 1.
        num_inference_steps: Denoising steps.
        guidance_scale: Classifier-free guidance; above 1 each step computes both prompts, as one batch.
        fps: Frames per second, an input of the transformer.
        show_progress: Show a progress bar of the steps on a terminal, if they take more than 3 seconds.

    Returns:
        (B, C, T, h, w) normalised latents; frame 0 is `first`, unchanged.
    """
    denoise = Denoiser(transformer, first, noise, fps)
    prompts = [prompt_embeds]
    if guidance_scale > 1:
        assert negative_prompt_embeds is not None
        prompts.append(negative_prompt_embeds)
        if prompt_embeds.shape == negative_prompt_embeds.shape:
            prompts = [torch.cat(prompts)]  # (2, S, E)
    scheduler = prepare_scheduler(scheduler, num_inference_steps, noise.device)
    timesteps, sigmas = cast(Any, scheduler.timesteps), cast(torch.Tensor, scheduler.sigmas)

    # 1. Start from noise of the largest level
    latents = noise.float() * SIGMA_MAX  # (B, C, T, h, w)
    steps = list(zip(timesteps, sigmas, strict=False))  # there is one sigma more than timesteps
    for timestep, sigma in progress(steps, "rollout", unit="step", show=show_progress):
        # 2. Predict the clean latents, with guidance under the negative prompt as well
        clean, *unwanted = (found for embeds in prompts for found in denoise(latents, sigma, embeds))
        # 3. Guide away from the negative prompt
        if unwanted:
            clean = clean + guidance_scale * (clean - unwanted[0])
        # 4. Take an Euler step towards them
        latents = cast(Any, scheduler).step((latents - clean) / sigma, timestep, latents, return_dict=False)[0]

    # 5. The current frame was given: put it back without rounding
    return torch.cat([first.float(), latents[:, :, 1:]], dim=2)


class Denoiser:
    """Predicts clean latents from noisy ones, with the first frames given.

    Args:
        given: (B, C, G, h, w) normalised latents of the first `G` of `T` frames: the current one, or all of a clip.
        noise: As `transformer` and `fps`, an argument of `sample_rollout`.
    """

    def __init__(self, transformer: Any, given: torch.Tensor, noise: torch.Tensor, fps: float) -> None:
        self.transformer, frames = transformer, given.shape[2]
        self.fps = None if is_version_25(transformer) else fps  # version 2.5 has no frame-rate input
        self.given = noise.new_zeros(1, 1, noise.shape[2], 1, 1)  # 1 where the latent frame is given
        self.given[:, :, :frames] = 1
        self.condition = torch.cat([given.float(), torch.zeros_like(noise[:, :, frames:])], dim=2)  # (B, C, T, h, w)
        self.mask = condition_mask(transformer, self.given, noise)
        sigma = torch.tensor(SIGMA_CONDITIONING, device=noise.device)
        self.given_time = sigma / (sigma + 1)

    def __call__(
        self, latents: torch.Tensor, sigma: torch.Tensor, prompt_embeds: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        """Clean latents (B, C, T, h, w) of noisy ones at noise level `sigma`, one for each prompt of (P, S, E)."""
        dtype, time = self.transformer.dtype, sigma / (sigma + 1)
        velocities = self.velocity(latents, sigma, prompt_embeds).chunk(len(prompt_embeds))
        # c_skip = 1 - t, c_out = -t
        cleans = (((1 - time) * latents - time * velocity.float()).to(dtype) for velocity in velocities)
        return tuple(self.given * self.condition + (1 - self.given) * clean for clean in cleans)

    def velocity(self, latents: torch.Tensor, sigma: torch.Tensor, prompt_embeds: torch.Tensor) -> torch.Tensor:
        """The transformer's raw output for the arguments of `__call__`: (P * B, C, T, h, w)."""
        dtype, time, prompts = self.transformer.dtype, sigma / (sigma + 1), len(prompt_embeds)
        # The given frames enter clean, and with a time of almost zero
        noisy = self.given * self.condition + (1 - self.given) * latents * (1 - time)  # c_in = 1 - t
        times = self.given * self.given_time + (1 - self.given) * time  # (1, 1, T, 1, 1)
        # One batch of P * B: all images with the first prompt, then all with the next
        return self.transformer(
            hidden_states=noisy.to(dtype).repeat(prompts, 1, 1, 1, 1),
            timestep=times.expand(prompts * len(latents), -1, -1, -1, -1).to(dtype),
            encoder_hidden_states=prompt_embeds.repeat_interleave(len(latents), dim=0),
            fps=self.fps,
            condition_mask=self.mask.repeat(prompts, 1, 1, 1, 1),
            return_dict=False,
        )[0]


def prepare_scheduler(
    scheduler: FlowMatchEulerDiscreteScheduler, num_inference_steps: int, device: torch.device
) -> FlowMatchEulerDiscreteScheduler:
    """A copy of `scheduler` with its timesteps set as the stock pipeline sets them; the original keeps no state."""
    scheduler = copy.deepcopy(scheduler)
    levels = {"sigma_max": SIGMA_MAX, "sigma_min": SIGMA_MIN, "sigma_data": SIGMA_DATA}
    scheduler.register_to_config(**levels, final_sigmas_type="sigma_min")
    spaced = torch.linspace(0, 1, num_inference_steps, dtype=torch.float64).tolist()
    scheduler.set_timesteps(sigmas=spaced, device=device)
    sigmas = cast(torch.Tensor, scheduler.sigmas)
    scheduler.set_begin_index(0)  # otherwise each step searches its timestep on the device
    sigmas[-1] = sigmas[-2]  # the pipeline stops at the smallest sigma, not at zero
    return scheduler


def condition_mask(transformer: CosmosTransformer3DModel, given: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """The mask channel(s) that are concatenated to the latents: (B, 1 or 2, T, h, w).

    Cosmos-Predict2 also concatenates a padding mask, which is zero for a whole frame. diffusers resizes that mask with
    torchvision. Given here as a second channel of zeros, it needs no torchvision (see `without_padding_mask`).
    """
    mask = given.expand(noise.shape[0], 1, -1, *noise.shape[-2:]).to(transformer.dtype)
    return torch.cat([mask, torch.zeros_like(mask).expand(-1, padding_channels(transformer), -1, -1, -1)], dim=1)


def padding_channels(transformer: CosmosTransformer3DModel) -> int:
    """Channels for a padding mask that the transformer's weights expect after the condition mask: 0 or 1."""
    channels = transformer.patch_embed.proj.in_features // math.prod(transformer.config["patch_size"])
    return channels - transformer.config["in_channels"]


def without_padding_mask(transformer: CosmosTransformer3DModel) -> CosmosTransformer3DModel:
    """Set a loaded transformer to take its padding-mask channel from the condition mask; no weight changes."""
    transformer.register_to_config(concat_padding_mask=False)
    return transformer


def is_version_25(transformer: CosmosTransformer3DModel) -> bool:
    """Whether it is a transformer of Cosmos-Predict2.5, which projects the hidden states of a language model."""
    return transformer.config["use_crossattn_projection"]


def load_scheduler(source: Source, transformer: CosmosTransformer3DModel, **hub: Any) -> Scheduler:
    """The scheduler of `source`; a ValueError if the model's rollout does not use this kind.

    diffusers would load the config of any scheduler into any other, and the rollout would be wrong.
    """
    kinds: list[Any] = [FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler]
    with quiet_third_party(), damage_named(source.name, "scheduler"):
        settings = kinds[0].load_config(source.name, **source.place("scheduler"), **hub)
        version_25, name = is_version_25(transformer), settings.get("_class_name")
        expected, version = kinds[version_25].__name__, "2.5" if version_25 else "2"
        if name != expected:
            raise TheWorldError(f"{source.name}: scheduler {name}: Cosmos-Predict{version} has {expected}")
        scheduler = kinds[version_25].from_config(settings)
    kind = scheduler.config.get("prediction_type")
    if version_25 and (kind != "flow_prediction" or not scheduler.config["use_flow_sigmas"]):
        raise TheWorldError(f"{source.name}: scheduler of {kind!r}: expected flow_prediction and use_flow_sigmas")
    return scheduler
