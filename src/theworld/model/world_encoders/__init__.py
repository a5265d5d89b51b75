"""World encoders, one visible table."""

from __future__ import annotations

from .base import WorldEncoder, WorldFeatures
from .cosmos import CosmosWorldEncoder, StillWorldEncoder

WORLD_ENCODERS: dict[str, type[CosmosWorldEncoder]] = {"cosmos": CosmosWorldEncoder, "still": StillWorldEncoder}

__all__ = ["WORLD_ENCODERS", "CosmosWorldEncoder", "StillWorldEncoder", "WorldEncoder", "WorldFeatures"]
