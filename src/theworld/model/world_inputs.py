"""What a call asks of the world, settled once at the door: which prompt, which frames, how many steps.

Shape legend: `B` batch, `L` sequence, `M` images of all prompts, `S` world image size, `C` latent channels, `T = 1 + K`
latent frames.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import torch

from theworld.utils.images import flatten_images

from .configuration_theworld import TheWorldConfig, check_world_steps
from .image_processing_world import world_pixel_values
from .world_block import Prompt, RewrittenPrompt, insert_world_blocks, remove_world_blocks

NO_WORLD_INPUT = (
    "the world is enabled and the prompt has an image, but no world input came with it: make the inputs with "
    "model.processor, or pass images=[...]; use_world=False asks for plain Gemma 3"
)


@dataclass(frozen=True)
class WorldRequest:
    """The world's arguments of one call of `forward` or `generate`, as the caller gave them."""

    pixels: torch.Tensor | None = None
    images: Any = None
    num_world_steps: int | None = None
    use_world: bool | None = None
    latents: torch.Tensor | None = None

    @property
    def given(self) -> bool:
        """Whether the caller said anything about the world."""
        return bool(self.sources()) or self.num_world_steps is not None or self.use_world is not None

    def sources(self) -> list[str]:
        """Names of the arguments that bring the world's frames."""
        brought = {"world_pixel_values": self.pixels, "world_latents": self.latents, "images=": self.images}
        return [name for name, value in brought.items() if value is not None]


@dataclass(frozen=True)
class WorldInputs:
    """The settled call.

    Args:
        prompt: What the model runs on.
        rewritten: Set if `prompt` is not the caller's own.
        pixels: (M, 3, S, S) in [-1, 1] to encode; `None` for plain Gemma 3 and beside `latents`.
        num_world_steps: Future latent frames `K` of the prompt's blocks.
        latents: (M, C, T, h, w) that were computed before.
    """

    prompt: Prompt
    rewritten: RewrittenPrompt | None = None
    pixels: torch.Tensor | None = None
    num_world_steps: int = 0
    latents: torch.Tensor | None = None


def settle_world_inputs(
    config: TheWorldConfig, prompt: Prompt, request: WorldRequest, *, has_image: bool, strict: bool
) -> WorldInputs:
    """Insert or remove blocks as the call asks, and check that blocks and frames belong together.

    Args:
        has_image: Whether Gemma 3's own image input came with the prompt.
        strict: Raise, not warn, if an image came without world input (training).

    Raises:
        ValueError: The arguments contradict each other, the config or the prompt.
    """
    if not config.enable_world:
        return _world_disabled(prompt, request)
    world_tokens = int((prompt.input_ids == config.world_token_id).sum())
    if request.use_world is False:
        rewritten = remove_world_blocks(config, prompt) if world_tokens else None
        return WorldInputs(rewritten.prompt if rewritten else prompt, rewritten)
    if len(request.sources()) > 1:
        raise ValueError(f"both {' and '.join(request.sources())} were given: keep one")
    pixels, latents, rewritten = request.pixels, request.latents, None
    if latents is not None:
        _check_latents(config, latents)
    if request.images is not None:
        frames = flatten_images(request.images)
        pixels = world_pixel_values(frames, config.world_image_size)
        if not world_tokens:
            steps = config.num_world_steps if request.num_world_steps is None else request.num_world_steps
            check_world_steps(steps, config.max_world_steps)
            rewritten = insert_world_blocks(config, prompt, len(frames), steps)
            prompt = rewritten.prompt
    count = sum(len(frames) for frames in (pixels, latents) if frames is not None)
    if not count and not world_tokens:
        _no_world_input(request, has_image=has_image, strict=strict)
        return WorldInputs(prompt)
    steps = _steps_of_blocks(config, prompt.input_ids, count, request.num_world_steps)
    if latents is not None and latents.shape[2] != 1 + steps:
        raise ValueError(
            f"world_latents hold {latents.shape[2] - 1} future latent frames and the prompt's world block {steps}: "
            "pass the num_world_steps of the latents to the processor call"
        )
    return WorldInputs(prompt, rewritten, pixels, steps, latents)


def _world_disabled(prompt: Prompt, request: WorldRequest) -> WorldInputs:
    if request.sources() or request.use_world or request.num_world_steps:
        raise ValueError("world input was given but enable_world=False: load the model with enable_world=True")
    return WorldInputs(prompt)


def _no_world_input(request: WorldRequest, *, has_image: bool, strict: bool) -> None:
    if request.use_world or (has_image and strict):
        raise ValueError(NO_WORLD_INPUT)
    if has_image:
        warnings.warn(NO_WORLD_INPUT, stacklevel=2)


def _check_latents(config: TheWorldConfig, latents: torch.Tensor) -> None:
    side = config.world_image_size // config.world_spatial_compression
    channels = config.world_latent_channels
    fits = latents.ndim == 5 and (latents.shape[1], *latents.shape[3:]) == (channels, side, side)
    if not fits or not latents.is_floating_point():
        raise ValueError(
            f"world_latents {tuple(latents.shape)} {latents.dtype}: expected (images, {channels}, 1 + num_world_steps, "
            f"{side}, {side}) in floating point, as model.model.world_encoder.encode makes them"
        )


def _steps_of_blocks(config: TheWorldConfig, input_ids: torch.Tensor, frames: int, explicit: int | None) -> int:
    """`K` of the blocks in the prompt, one per frame and all equal; an explicit number must agree with it."""
    per_frame = config.world_tokens_per_frame
    world_tokens = int((input_ids == config.world_token_id).sum())
    starts = (input_ids.flatten() == config.start_of_world_token_id).nonzero().flatten()
    ends = (input_ids.flatten() == config.end_of_world_token_id).nonzero().flatten()
    lengths = (ends - starts - 1).tolist() if len(starts) == len(ends) else []
    latent_frames, remainder = divmod(lengths[0], per_frame) if lengths else (0, 0)
    fits = len(lengths) == frames and len(set(lengths)) == 1 and sum(lengths) == world_tokens
    if not fits or latent_frames < 1 or remainder:
        raise ValueError(
            f"the prompt has {len(starts)} world blocks of together {world_tokens} world tokens and the call {frames} "
            f"world images of {per_frame} tokens per latent frame: these do not fit; build prompt and pixels with the "
            "same processor call"
        )
    steps = check_world_steps(latent_frames - 1, config.max_world_steps)
    if explicit is not None and explicit != steps:
        raise ValueError(
            f"num_world_steps={explicit} does not fit the prompt, whose world block holds {steps} steps "
            f"({lengths[0]} tokens an image): pass num_world_steps to the processor call instead"
        )
    return steps


__all__ = ["WorldInputs", "WorldRequest", "settle_world_inputs"]
