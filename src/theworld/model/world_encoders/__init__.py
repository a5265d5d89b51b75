"""World encoders, one visible table."""

from __future__ import annotations

from .base import Component, WorldEncoder, cache_fingerprint
from .controls import PatchesWorldEncoder, RandomWorldEncoder, StillWorldEncoder
from .cosmos import CosmosWorldEncoder
from .cosmos_features import CosmosFeaturesWorldEncoder
from .vjepa2 import VJEPA2WorldEncoder
from .wan import WanLatentsWorldEncoder, WanWorldEncoder

WORLD_ENCODERS: dict[str, type[WorldEncoder]] = {
    "cosmos": CosmosWorldEncoder,
    "cosmos_features": CosmosFeaturesWorldEncoder,
    "vjepa2": VJEPA2WorldEncoder,
    "wan_latents": WanLatentsWorldEncoder,
    "wan": WanWorldEncoder,
    "still": StillWorldEncoder,
    "random": RandomWorldEncoder,
    "patches": PatchesWorldEncoder,
}

__all__ = [
    "WORLD_ENCODERS",
    "Component",
    "CosmosFeaturesWorldEncoder",
    "CosmosWorldEncoder",
    "WanLatentsWorldEncoder",
    "WanWorldEncoder",
    "WorldEncoder",
    "cache_fingerprint",
]
