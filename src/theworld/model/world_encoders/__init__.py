"""World encoders, one visible table."""

from __future__ import annotations

from .base import WorldEncoder, WorldFeatures
from .cosmos import CosmosWorldEncoder

WORLD_ENCODERS: dict[str, type[WorldEncoder]] = {"cosmos": CosmosWorldEncoder}

__all__ = ["WORLD_ENCODERS", "CosmosWorldEncoder", "WorldEncoder", "WorldFeatures"]
