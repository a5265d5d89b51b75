"""The sampler of Cosmos-Predict2.5: flow matching, integrated by UniPC.

The arithmetic is that of diffusers' `Cosmos2_5_PredictBasePipeline`. A noisy latent is `(1 - t) x + t n` of the clean
`x` and the noise `n`. The transformer predicts the velocity `n - x`; it has no frame-rate input.

Shape legend: as in `cosmos_sampler.py`.
"""

from __future__ import annotations

import copy
from typing import Any, cast

import torch
from diffusers import CosmosTransformer3DModel, UniPCMultistepScheduler

from .cosmos_sampler import condition_mask

GIVEN_TIME = 1e-4  # time of the clean frame in the stock pipeline
FPS = 16  # frame rate of its training videos


@torch.no_grad()
def sample_flow_rollout(
    transformer: CosmosTransformer3DModel,
    scheduler: UniPCMultistepScheduler,
    first: torch.Tensor,
    noise: torch.Tensor,
    prompt_embeds: torch.Tensor,
    negative_prompt_embeds: torch.Tensor | None = None,
    *,
    num_inference_steps: int = 36,
    guidance_scale: float = 1.0,
) -> torch.Tensor:
    """Sample the latent frames after `first`: arguments and result as of `sample_rollout`."""
    # 1. The current frame is given, so its velocity is known: the noise minus the frame
    given = noise.new_zeros(1, 1, noise.shape[2], 1, 1)
    given[:, :, 0] = 1
    condition = torch.cat([first.float(), torch.zeros_like(noise[:, :, 1:])], dim=2)  # (B, C, T, h, w)
    given_velocity = (noise - condition) * given
    mask = condition_mask(transformer, given, noise)

    def velocity_at(latents: torch.Tensor, time: torch.Tensor, embeds: torch.Tensor) -> torch.Tensor:
        """Velocity (B, C, T, h, w) of noisy latents at `time` from 0 to 1, under a prompt (1, S, E)."""
        noisy = given * condition + (1 - given) * latents
        times = given * GIVEN_TIME + (1 - given) * time  # (1, 1, T, 1, 1)
        predicted = cast(Any, transformer)(
            hidden_states=noisy.to(transformer.dtype),
            timestep=times.expand(len(latents), -1, -1, -1, -1),
            encoder_hidden_states=embeds.expand(len(latents), -1, -1),
            condition_mask=mask,
            return_dict=False,
        )[0]
        return given_velocity + predicted * (1 - given)

    # 2. Copy the scheduler, which stores its last steps
    scheduler = copy.deepcopy(scheduler)
    scheduler.set_timesteps(num_inference_steps, device=cast(Any, noise.device))
    sigmas, timesteps = scheduler.sigmas.to(noise.device), scheduler.timesteps
    # 3. Integrate from noise to clean latents
    latents = noise.float()
    for time, timestep in zip(sigmas, timesteps, strict=False):  # there is one sigma more than timesteps
        velocity = velocity_at(latents, time, prompt_embeds)
        if guidance_scale > 1:
            assert negative_prompt_embeds is not None
            velocity = velocity + guidance_scale * (velocity - velocity_at(latents, time, negative_prompt_embeds))
        latents = cast(Any, scheduler).step(velocity, timestep, latents, return_dict=False)[0]

    # 4. The current frame was given: put it back without rounding
    return torch.cat([first.float(), latents[:, :, 1:]], dim=2)
