"""World encoders, one visible table."""

from __future__ import annotations

from .base import Component, WorldEncoder, cache_fingerprint
from .controls import PatchesWorldEncoder, RandomWorldEncoder, StillWorldEncoder
from .cosmos import CosmosWorldEncoder
from .cosmos_features import CosmosFeaturesWorldEncoder
from .vjepa2 import VJEPA2WorldEncoder

WORLD_ENCODERS: dict[str, type[WorldEncoder]] = {
    "cosmos": CosmosWorldEncoder,
    "cosmos_features": CosmosFeaturesWorldEncoder,
    "vjepa2": VJEPA2WorldEncoder,
    "still": StillWorldEncoder,
    "random": RandomWorldEncoder,
    "patches": PatchesWorldEncoder,
}

__all__ = [
    "WORLD_ENCODERS",
    "Component",
    "CosmosFeaturesWorldEncoder",
    "CosmosWorldEncoder",
    "WorldEncoder",
    "cache_fingerprint",
]
