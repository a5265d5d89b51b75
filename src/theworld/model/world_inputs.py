"""What a call asks of the world, settled once at the door: which prompt, which frames, how many steps.

Shape legend: `B` batch, `L` sequence, `M` images of all prompts, `S` world image size.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import torch

from .configuration_theworld import TheWorldConfig, check_world_steps
from .image_processing_world import flatten_images, world_pixel_values
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

    @property
    def given(self) -> bool:
        """Whether the caller said anything about the world."""
        return any(value is not None for value in (self.pixels, self.images, self.num_world_steps, self.use_world))


@dataclass(frozen=True)
class WorldInputs:
    """The settled call.

    Args:
        prompt: What the model runs on.
        rewritten: Set if `prompt` is not the caller's own.
        pixels: (M, 3, S, S) in [-1, 1], or `None` for plain Gemma 3.
        num_world_steps: Future latent frames `K` of the prompt's blocks.
    """

    prompt: Prompt
    rewritten: RewrittenPrompt | None = None
    pixels: torch.Tensor | None = None
    num_world_steps: int = 0


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
    pixels, rewritten = request.pixels, None
    if request.images is not None:
        if pixels is not None:
            raise ValueError("both world_pixel_values and images= were given: drop one")
        frames = flatten_images(request.images)
        pixels = world_pixel_values(frames, config.world_image_size)
        if not world_tokens:
            steps = config.num_world_steps if request.num_world_steps is None else request.num_world_steps
            check_world_steps(steps, config.max_world_steps)
            rewritten = insert_world_blocks(config, prompt, len(frames), steps)
            prompt = rewritten.prompt
    if (pixels is None or not len(pixels)) and not world_tokens:
        _no_world_input(request, has_image=has_image, strict=strict)
        return WorldInputs(prompt)
    steps = _steps_of_blocks(config, prompt.input_ids, 0 if pixels is None else len(pixels), request.num_world_steps)
    return WorldInputs(prompt, rewritten, pixels, steps)


def _world_disabled(prompt: Prompt, request: WorldRequest) -> WorldInputs:
    asked = request.pixels is not None or request.images is not None or request.use_world or request.num_world_steps
    if asked:
        raise ValueError("world input was given but enable_world=False: load the model with enable_world=True")
    return WorldInputs(prompt)


def _no_world_input(request: WorldRequest, *, has_image: bool, strict: bool) -> None:
    if request.use_world or (has_image and strict):
        raise ValueError(NO_WORLD_INPUT)
    if has_image:
        warnings.warn(NO_WORLD_INPUT, stacklevel=2)


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
