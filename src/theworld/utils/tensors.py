"""Digests of tensors: what tells one set of weights from another."""

from __future__ import annotations

import hashlib

import torch
import xxhash

SAMPLED_VALUES = 256


def weights_digest(weights: dict[str, torch.Tensor]) -> str:
    """A short identifier of named weights, from their names, shapes and `SAMPLED_VALUES` evenly spaced values of each.

    Sampling is enough where any training moves all values, and takes milliseconds where a full hash takes minutes.
    """
    digest = hashlib.sha256()
    for name, value in sorted(weights.items()):
        digest.update(f"{name} {tuple(value.shape)}".encode())
        digest.update(sampled(value).to("cpu", torch.float32).contiguous().numpy().data)
    return digest.hexdigest()[:16]


def sampled(value: torch.Tensor) -> torch.Tensor:
    """About `SAMPLED_VALUES` values of a tensor, spread evenly over it: (n,)."""
    flat = value.detach().reshape(-1)
    return flat[:: max(1, flat.numel() // SAMPLED_VALUES)]


def content_digest(value: torch.Tensor) -> str:
    """A hash of every byte of a tensor, at about the speed of memory (XXH3, which guards against accidents only)."""
    data = value.detach().contiguous().reshape(-1).view(torch.uint8).cpu().numpy()
    return xxhash.xxh3_128_hexdigest(data)
