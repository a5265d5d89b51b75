"""Images -> `world_pixel_values`: RGB frames in [-1, 1], the range that the world encoder's VAE was trained on."""

from __future__ import annotations

import torch
from diffusers.image_processor import VaeImageProcessor
from PIL import Image, ImageOps


def world_pixel_values(images: list[Image.Image], size: tuple[int, int], fit: str = "crop") -> torch.Tensor:
    """Frames (B, 3, H, W) in [-1, 1] for a world encoder, resized by Lanczos.

    The arithmetic is diffusers' `VaeImageProcessor`, which the stock Cosmos pipeline uses on its conditioning image.

    Args:
        images: RGB, of any size.
        size: `(H, W)` in pixels.
        fit: How another aspect ratio gets that size, as `world_image_fit` of the config says.
    """
    height, width = size
    if not images:
        return torch.empty(0, 3, height, width)
    if fit != "squash":
        resize = ImageOps.fit if fit == "crop" else ImageOps.pad
        images = [resize(image, (width, height), method=Image.Resampling.LANCZOS) for image in images]
    return VaeImageProcessor(resample="lanczos").preprocess(images, height=height, width=width).contiguous()


__all__ = ["world_pixel_values"]
