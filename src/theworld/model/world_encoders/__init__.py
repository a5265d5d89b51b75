"""World encoders, one visible table."""

from __future__ import annotations

from .base import Component, WorldEncoder, cache_fingerprint
from .controls import PatchesWorldEncoder, RandomWorldEncoder, StillWorldEncoder
from .cosmos import CosmosWorldEncoder

WORLD_ENCODERS: dict[str, type[WorldEncoder]] = {
    "cosmos": CosmosWorldEncoder,
    "still": StillWorldEncoder,
    "random": RandomWorldEncoder,
    "patches": PatchesWorldEncoder,
}

__all__ = ["WORLD_ENCODERS", "Component", "CosmosWorldEncoder", "WorldEncoder", "cache_fingerprint"]
