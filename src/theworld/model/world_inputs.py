"""Validates the world arguments of one `forward` or `generate` call: which prompt, which frames, how many steps.

Shape legend: `B` batch, `L` sequence, `M` images of all prompts, `H, W` world image size, `C` latent channels,
`T = 1 + K` latent frames.
"""

from __future__ import annotations

import inspect
import warnings
from dataclasses import dataclass
from typing import Any

import torch
from transformers import Gemma3Model

from theworld.constants import FP16_REFUSED
from theworld.utils.errors import TheWorldError
from theworld.utils.frames import image_frames
from theworld.utils.images import flatten_images

from .configuration_theworld import TheWorldConfig, check_world_steps
from .fusion import FUSIONS
from .world_block import Prompt, RewrittenPrompt, insert_world_blocks, remove_world_blocks

# transformers 5.24 renamed the argument and the output of the key-value cache
CACHE = "cache" if "cache" in inspect.signature(Gemma3Model.forward).parameters else "past_key_values"
NO_WORLD_INPUT = (
    "the world is enabled and the prompt has an image, but no world input was given: make the inputs with "
    "model.processor, or pass images=[...]; use_world=False runs plain Gemma 3"
)


@dataclass(frozen=True)
class WorldRequest:
    """The world arguments of one call of `forward` or `generate`, as given by the caller."""

    pixels: torch.Tensor | None = None
    images: Any = None
    num_world_steps: int | torch.Tensor | None = None
    use_world: bool | None = None
    latents: torch.Tensor | None = None

    def __post_init__(self) -> None:
        if self.use_world is not None and type(self.use_world) is not bool:
            raise TheWorldError(f"use_world={self.use_world!r}: expected True, False or None")

    @property
    def steps(self) -> int | None:
        """Future latent frames that the caller gave; a processor of `gated` fusion gives them per image."""
        steps = self.num_world_steps
        if not isinstance(steps, torch.Tensor):
            return steps
        if len(found := set(steps.flatten().tolist())) != 1:
            raise TheWorldError(f"num_world_steps={sorted(found)} in one batch: use one number per call")
        return found.pop()

    def steps_of(self, config: TheWorldConfig) -> int:
        """Future latent frames if the prompt has no block: the caller's, those of the latents, or the config's."""
        stated = config.num_world_steps if self.latents is None else self.latents.shape[2] - 1
        return check_world_steps(stated if self.steps is None else self.steps, config.max_world_steps)

    @property
    def given(self) -> bool:
        """Whether the caller passed any world argument."""
        return bool(self.sources()) or self.num_world_steps is not None or self.use_world is not None

    def sources(self) -> list[str]:
        """Names of the arguments that hold world frames or latents."""
        given = {"world_pixel_values": self.pixels, "world_latents": self.latents, "images=": self.images}
        return [name for name, value in given.items() if value is not None]


@dataclass(frozen=True)
class WorldInputs:
    """The validated call."""

    prompt: Prompt  # what the model runs on
    rewritten: RewrittenPrompt | None = None  # set if `prompt` is not the caller's own
    pixels: torch.Tensor | None = None  # (M, 3, H, W) in [-1, 1] to encode; `None` without a world, or with latents
    num_world_steps: int = 0  # future latent frames `K` of the prompt's blocks
    latents: torch.Tensor | None = None  # (M, C, T, h, w), computed before the call


def is_prefill(input_ids: torch.Tensor | None, cache: Any) -> bool:
    """Whether a forward begins a prompt; a later one only continues what is in the cache."""
    return input_ids is not None and input_ids.shape[1] > 1 and (cache is None or int(cache.get_seq_length()) == 0)


def check_length(config: TheWorldConfig, input_ids: torch.Tensor) -> None:
    """Raise a ValueError for a prompt that is longer than the model's positions."""
    limit = config.get_text_config().max_position_embeddings
    if input_ids.shape[1] > limit:
        raise TheWorldError(
            f"the prompt is {input_ids.shape[1]} tokens long and the model reads at most {limit}: shorten it, give "
            "fewer images, or lower num_world_steps"
        )


def check_call(config: TheWorldConfig, input_ids: Any, weight: Any, *, prefill: bool, hidden: bool) -> None:
    """Raise a ValueError for float16, a prompt that is too long, or embeddings that hide the positions of world tokens.

    Args:
        weight: The token embeddings' table.
        hidden: Whether a training batch with images comes as `inputs_embeds`.
    """
    if prefill:
        check_length(config, input_ids)
        device = "cpu" if weight.is_meta else weight.device.type
        autocast = torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device) == torch.float16
        if weight.dtype == torch.float16 or autocast:
            raise TheWorldError(FP16_REFUSED)
    if hidden and config.enable_world:
        raise TheWorldError(
            "inputs_embeds with pixel_values in training, and the world is enabled: only input_ids show the positions "
            "of its tokens; pass input_ids, or use_world=False for plain Gemma 3"
        )


def validate_world_inputs(
    config: TheWorldConfig, prompt: Prompt, request: WorldRequest, *, has_image: bool, strict: bool
) -> WorldInputs:
    """Insert or remove world blocks, and check that blocks and frames fit.

    Args:
        has_image: Whether Gemma 3's own image input came with the prompt.
        strict: Raise, not warn, if an image came without world input (training).

    Raises:
        ValueError: The arguments contradict each other, the config or the prompt.
    """
    if not config.enable_world:
        if request.sources() or request.use_world or request.num_world_steps:
            raise TheWorldError("world input was given but enable_world=False: load the model with enable_world=True")
        return WorldInputs(prompt)
    if torch.compiler.is_compiling():  # a graph cannot read token ids; `scatter_tokens` fails if they do not fit
        if request.images is not None or request.use_world is False:
            raise TheWorldError("images= and use_world=False change the prompt: call the processor before compiling")
        return WorldInputs(prompt, None, _pixels(config, request), request.steps_of(config), request.latents)
    # 1. Remove blocks if the world is off
    world_tokens = int((prompt.input_ids == config.world_token_id).sum())
    if request.use_world is False:
        rewritten = remove_world_blocks(config, prompt) if world_tokens else None
        return WorldInputs(rewritten.prompt if rewritten else prompt, rewritten)
    # 2. Take the frames from one source
    if len(request.sources()) > 1:
        raise TheWorldError(f"both {' and '.join(request.sources())} were given: keep one")
    pixels, latents, rewritten = _pixels(config, request), request.latents, None
    if latents is not None:
        _check_latents(config, latents)
    count = sum(len(frames) for frames in (pixels, latents) if frames is not None)
    # 3. Insert blocks into a plain Gemma 3 prompt
    block = FUSIONS[config.fusion].block
    if request.images is not None and not world_tokens and block:
        rewritten = insert_world_blocks(config, prompt, count, request.steps_of(config))
        prompt = rewritten.prompt
    if not count and not world_tokens:
        if request.use_world or (has_image and strict):
            raise TheWorldError(NO_WORLD_INPUT)
        if has_image:
            warnings.warn(NO_WORLD_INPUT, stacklevel=2)
        return WorldInputs(prompt)
    # 4. Check that blocks (or images), frames and steps fit
    if not block and not has_image:
        raise TheWorldError(
            "world input of 'gated' fusion without pixel_values: it is added to Gemma's image features, so give both"
        )
    count_steps = _steps_of_blocks if block else _steps_of_gated
    steps = count_steps(config, prompt.input_ids, count, request)
    if latents is not None and latents.shape[2] != 1 + steps:
        raise TheWorldError(
            f"world_latents hold {latents.shape[2] - 1} future latent frames and the prompt's world block {steps}: "
            "pass the num_world_steps of the latents to the processor call"
        )
    return WorldInputs(prompt, rewritten, pixels, steps, latents)


def _pixels(config: TheWorldConfig, request: WorldRequest) -> torch.Tensor | None:
    """Frames (M, 3, H, W) of a request. A batch of transformers' pipeline has them flattened, (M, 3 * H * W)."""
    shape = config.world_image_shape
    if request.images is not None:
        return image_frames(flatten_images(request.images), shape, config.world_image_fit)
    pixels = request.pixels
    if pixels is not None and pixels.ndim == 2 and pixels.shape[1] == 3 * shape[0] * shape[1]:
        pixels = pixels.unflatten(1, (3, *shape))
    if pixels is not None and (tuple(pixels.shape[1:]) != (3, *shape) or not pixels.is_floating_point()):
        expected = f"expected (images, 3, {shape[0]}, {shape[1]}) of floats in [-1, 1]"
        raise TheWorldError(f"world_pixel_values {tuple(pixels.shape)} {pixels.dtype}: {expected}")
    return pixels


def _check_latents(config: TheWorldConfig, latents: torch.Tensor) -> None:
    rows, columns = (side // config.world_spatial_compression for side in config.world_image_shape)
    channels = config.world_latent_channels
    fits = latents.ndim == 5 and (latents.shape[1], *latents.shape[3:]) == (channels, rows, columns)
    if not fits or not latents.is_floating_point():
        raise TheWorldError(
            f"world_latents {tuple(latents.shape)} {latents.dtype}: expected (images, {channels}, 1 + num_world_steps, "
            f"{rows}, {columns}) in floating point, as model.model.world_encoder.encode returns them"
        )


def _steps_of_gated(config: TheWorldConfig, input_ids: torch.Tensor, frames: int, request: WorldRequest) -> int:
    """`K` of a call whose prompt has no block (see `WorldRequest.steps_of`); checks for one frame per image."""
    images = int((input_ids == config.boi_token_index).sum())
    if (input_ids == config.world_token_id).any():
        raise TheWorldError(
            "the prompt has a world block and the model's fusion is 'gated', which has none: make the inputs with "
            "model.processor"
        )
    if images != frames:
        raise TheWorldError(f"the prompt has {images} images and the call {frames} world images: give one per image")
    return request.steps_of(config)


def _steps_of_blocks(config: TheWorldConfig, input_ids: torch.Tensor, frames: int, request: WorldRequest) -> int:
    """`K` of the blocks in the prompt, one per frame and all equal; an explicit number must agree with it."""
    per_frame, explicit = config.world_tokens_per_frame, request.steps
    world_tokens = int((input_ids == config.world_token_id).sum())
    starts = (input_ids.flatten() == config.start_of_world_token_id).nonzero().flatten()
    ends = (input_ids.flatten() == config.end_of_world_token_id).nonzero().flatten()
    lengths = (ends - starts - 1).tolist() if len(starts) == len(ends) else []
    latent_frames, remainder = divmod(lengths[0], per_frame) if lengths else (0, 0)
    fits = len(lengths) == frames and len(set(lengths)) == 1 and sum(lengths) == world_tokens
    if not fits or latent_frames < 1 or remainder:
        raise TheWorldError(
            f"the prompt has {len(starts)} world blocks with {world_tokens} world tokens in total, and the call "
            f"{frames} world images of {per_frame} tokens per latent frame: these do not fit; make prompt and "
            "pixels with the same processor call"
        )
    steps = check_world_steps(latent_frames - 1, config.max_world_steps)
    if explicit is not None and explicit != steps:
        raise TheWorldError(
            f"num_world_steps={explicit} does not fit the prompt, whose world block holds {steps} steps "
            f"({lengths[0]} tokens an image): pass num_world_steps to the processor call instead"
        )
    return steps
