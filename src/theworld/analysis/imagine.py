"""Decodes rollouts to frames.

Shape legend: `C` latent channels, `T = 1 + K` latent frames, `h, w` latent height and width.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers.image_processor import VaeImageProcessor
from PIL import Image

from theworld.model import TheWorld
from theworld.model.configuration_theworld import check_world_seed, check_world_steps
from theworld.model.world_encoders import WORLD_ENCODERS, WorldEncoder
from theworld.utils.errors import TheWorldError

from .guardrail import check_installed, guarded, needs_guardrail


@torch.no_grad()
def imagine(
    model: TheWorld, image: Any, num_world_steps: int | None = None, seed: int | None = None
) -> list[Image.Image]:
    """The `1 + 4 K` frames of a rollout from `image`; the first is the VAE's reconstruction of `image`.

    The latents are those of the world tokens for the same image, steps and seed.

    Raises:
        ValueError: The world is off, its encoder cannot decode, or `num_world_steps` or `seed` is out of range.
        ImportError: The weights are NVIDIA's and their guardrail is not installed.
    """
    encoder = decoding_encoder(model)
    steps = model.config.num_world_steps if num_world_steps is None else num_world_steps
    check_world_steps(steps, model.config.max_world_steps)
    check_world_seed(seed)
    if needs_guardrail(encoder, model.config.cosmos_subfolder):
        check_installed(model.config.cosmos_model_name)
    return decode_frames(model, encoder.encode(model.processor.world_pixels(image), steps, seed))


@torch.no_grad()
def decode_frames(model: TheWorld, latents: torch.Tensor) -> list[Image.Image]:
    """The `1 + 4 K` frames of one image's normalised latents (1, C, T, h, w), through NVIDIA's guardrail if needed.

    Raises:
        ValueError: The world is off, its encoder cannot decode, or the guardrail refuses the frames.
        ImportError: The weights are NVIDIA's and their guardrail is not installed.
    """
    encoder = decoding_encoder(model)
    frames = encoder.decode(latents)[0]  # (1 + 4K, 3, H, W) in [0, 1]
    if needs_guardrail(encoder, model.config.cosmos_subfolder):
        frames = guarded(frames, encoder)
    return _as_pil(frames)


def seen_by_world(model: TheWorld, image: Any) -> Image.Image:
    """`image`, of any kind that `open_image` opens, with the crop and size of the world encoder's input."""
    return _as_pil(model.processor.world_pixels(image) / 2 + 0.5)[0]


def _as_pil(frames: torch.Tensor) -> list[Image.Image]:
    return VaeImageProcessor.numpy_to_pil(VaeImageProcessor.pt_to_numpy(frames))


def decoding_encoder(model: TheWorld) -> WorldEncoder:
    """The model's world encoder.

    Raises:
        ValueError: The world is off, or its encoder cannot decode.
    """
    encoder = model.model.world_encoder
    if encoder is None:
        raise TheWorldError("imagining needs a world encoder: load the model with enable_world=True")
    if not encoder.can_decode:
        able = ", ".join(name for name, known in WORLD_ENCODERS.items() if known.can_decode)
        raise TheWorldError(
            f"world_encoder={model.config.world_encoder!r} cannot decode its features: give a model with one that can "
            f"({able})"
        )
    return encoder


__all__ = ["decode_frames", "decoding_encoder", "imagine", "seen_by_world"]
