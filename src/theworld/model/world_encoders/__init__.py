"""World encoders, one visible table."""

from __future__ import annotations

from .base import WorldEncoder, WorldFeatures
from .controls import PatchesWorldEncoder, RandomWorldEncoder, StillWorldEncoder
from .cosmos import CosmosWorldEncoder

WORLD_ENCODERS: dict[str, type[CosmosWorldEncoder]] = {
    "cosmos": CosmosWorldEncoder,
    "still": StillWorldEncoder,
    "random": RandomWorldEncoder,
    "patches": PatchesWorldEncoder,
}

__all__ = [
    "WORLD_ENCODERS",
    "CosmosWorldEncoder",
    "PatchesWorldEncoder",
    "RandomWorldEncoder",
    "StillWorldEncoder",
    "WorldEncoder",
    "WorldFeatures",
]
