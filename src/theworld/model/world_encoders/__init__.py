"""World encoders, one visible table."""

from __future__ import annotations

from .base import Component, WorldEncoder, cache_fingerprint
from .controls import PatchesWorldEncoder, RandomWorldEncoder, StillWorldEncoder
from .cosmos import CosmosWorldEncoder
from .wan import WanLatentsWorldEncoder, WanWorldEncoder

WORLD_ENCODERS: dict[str, type[WorldEncoder]] = {
    "cosmos": CosmosWorldEncoder,
    "wan_latents": WanLatentsWorldEncoder,
    "wan": WanWorldEncoder,
    "still": StillWorldEncoder,
    "random": RandomWorldEncoder,
    "patches": PatchesWorldEncoder,
}

__all__ = [
    "WORLD_ENCODERS",
    "Component",
    "CosmosWorldEncoder",
    "WanLatentsWorldEncoder",
    "WanWorldEncoder",
    "WorldEncoder",
    "cache_fingerprint",
]
