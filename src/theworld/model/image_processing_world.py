"""Image -> `world_pixel_values`: RGB frames in [-1, 1], the range that the world encoder's VAE was trained on."""

from __future__ import annotations

import torch
from diffusers.image_processor import VaeImageProcessor
from PIL import Image


def world_pixel_values(images: list[Image.Image], size: int) -> torch.Tensor:
    """Frames (B, 3, size, size) in [-1, 1], resized (aspect not kept, as Gemma's own image processor) by Lanczos.

    The arithmetic is diffusers' `VaeImageProcessor`, which the stock Cosmos pipeline uses on its conditioning image.
    """
    if not images:
        return torch.empty(0, 3, size, size)
    return VaeImageProcessor(resample="lanczos").preprocess(images, height=size, width=size).contiguous()


__all__ = ["world_pixel_values"]
