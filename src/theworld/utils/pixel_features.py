"""Features of images without a model: pixel frequencies, and standardisation over positions."""

import math

import torch

from .errors import TheWorldError


def standardised(features: torch.Tensor) -> torch.Tensor:
    """Zero mean and unit variance over the positions of every image and channel, (..., h, w)."""
    mean = features.mean(dim=(-2, -1), keepdim=True)
    spread = (features - mean).square().mean(dim=(-2, -1), keepdim=True).sqrt()
    return (features - mean) / spread.clamp_min(1e-6)


def lowest_frequencies(images: torch.Tensor, size: int, channels: int) -> torch.Tensor:
    """The lowest frequencies of the discrete cosine transform (as in JPEG) of patches of `size` x `size` pixels.

    Args:
        images: (B, 3, H, W).
        channels: Number of channels, ordered by frequency, then red, green, blue.

    Returns:
        (B, channels, H / size, W / size); a flat patch keeps its values.

    Raises:
        ValueError: A patch has fewer frequencies than `channels`.
    """
    patches = torch.nn.functional.pixel_unshuffle(images, size)  # (B, 3 size size, h, w)
    return torch.einsum("cp,bphw->bchw", _transform(size, channels).to(patches), patches)


def _transform(size: int, channels: int) -> torch.Tensor:
    """The `channels` lowest frequencies of patches laid out by `pixel_unshuffle`: (channels, 3 size size)."""
    places = torch.arange(size) + 0.5
    waves = torch.cos(math.pi / size * torch.outer(torch.arange(size), places)) / size
    if channels > (most := 3 * size**2):
        raise TheWorldError(f"{channels} latent channels: patches of {size} x {size} pixels have {most} frequencies")
    order = sorted(((v, u) for v in range(size) for u in range(size)), key=lambda vu: (sum(vu), vu))
    patches = torch.stack([torch.outer(waves[v], waves[u]).flatten() for v, u in order])  # (size size, size size)
    rows = torch.einsum("fp,cd->fcdp", patches, torch.eye(3))  # a row per frequency and colour, 0 for other colours
    return rows.flatten(2).flatten(0, 1)[:channels]


__all__ = ["lowest_frequencies", "standardised"]
