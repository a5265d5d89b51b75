"""Resizes images to frames of one size, with the arithmetic of diffusers' pipelines."""

import torch
from diffusers.image_processor import VaeImageProcessor
from PIL import Image, ImageOps


def image_frames(images: list[Image.Image], size: tuple[int, int], fit: str = "crop") -> torch.Tensor:
    """Frames (B, 3, H, W) in [-1, 1], resized by Lanczos as `VaeImageProcessor` does.

    Args:
        images: RGB, of any size.
        size: `(H, W)` in pixels.
        fit: For images of another aspect ratio: `crop` keeps the centre, `pad` adds black borders, `squash` changes the
            ratio.
    """
    height, width = size
    if not images:
        return torch.empty(0, 3, height, width)
    if fit != "squash":
        resize = ImageOps.fit if fit == "crop" else ImageOps.pad
        images = [resize(image, (width, height), method=Image.Resampling.LANCZOS) for image in images]
    return VaeImageProcessor(resample="lanczos").preprocess(images, height=height, width=width).contiguous()


__all__ = ["image_frames"]
