"""Digests of weights, and comparison with an earlier state.

PyTorch moves a tensor's version counter with every in-place operation, except with those through `.data`, which PEFT
uses to merge adapters. So a tensor with an unchanged counter is compared by a few sampled values, which a merge
changes, or by a hash of all bytes.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
import xxhash
from torch.distributed.tensor import DTensor

SAMPLED_VALUES = 256


def weights_digest(weights: dict[str, torch.Tensor]) -> str:
    """A short identifier of named weights, from their names, shapes and `SAMPLED_VALUES` evenly spaced values of each.

    Sampling suffices because training changes all values; it takes milliseconds, and a full hash minutes.
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
    data = value.detach().contiguous().reshape(-1).view(torch.uint8).cpu().numpy().data
    return xxhash.xxh3_128_hexdigest(data)


@dataclass(frozen=True)
class Snapshot:
    """Record of a tensor, for a later comparison.

    Args:
        shape: Its shape.
        dtype: Its type.
        version: PyTorch's counter of in-place changes.
        digest: Hash of its bytes; `None` if they are not in memory.
        sample: A few of its values, on the CPU.
    """

    shape: torch.Size
    dtype: torch.dtype
    version: int
    digest: str | None
    sample: torch.Tensor | None


def snapshot(value: torch.Tensor) -> Snapshot:
    """The record of a tensor's current state."""
    if value.is_meta or type(value.data) is not torch.Tensor:  # offloaded, or a quantised type of its own
        return Snapshot(value.shape, value.dtype, value._version, None, None)
    digest, sample = content_digest(value), sampled(value).cpu().clone()
    return Snapshot(value.shape, value.dtype, value._version, digest, sample)


def differs(value: torch.Tensor, base: Snapshot, *, thorough: bool = True) -> bool:
    """Whether a tensor no longer has the values it had.

    Args:
        thorough: Hash it even if its version counter is unchanged.
    """
    if base.digest is None or base.sample is None or value.is_meta or isinstance(value, DTensor):
        return False  # a tensor that is not completely in memory cannot be compared
    value, version = value.detach(), value._version
    if value.dtype != base.dtype:
        if torch.promote_types(value.dtype, base.dtype) != value.dtype:  # rounded with the whole model, by `.to(dtype)`
            return version != base.version or not torch.equal(sampled(value).cpu(), base.sample.to(value.dtype))
        exact = value.to(base.dtype)
        if not torch.equal(exact.to(value.dtype), value):
            return True
        value = exact
    if version == base.version and not thorough:
        return not torch.equal(sampled(value).cpu(), base.sample)
    return content_digest(value) != base.digest
