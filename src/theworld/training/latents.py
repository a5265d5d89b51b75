"""The latent cache that a training config names."""

from __future__ import annotations

from theworld.data.latent_cache import LatentCache
from theworld.model import TheWorld
from theworld.model.world_encoders import cache_fingerprint

from .config import TrainingConfig


def open_cache(config: TrainingConfig, model: TheWorld) -> LatentCache | None:
    """The latents of `model`'s encoder that `config.latent_cache` holds; `None` if the config names no cache.

    Raises:
        FileNotFoundError: There are none; names `theworld precompute`.
        ValueError: They are another encoder's, there is no world, or the VAE trains.
    """
    if config.latent_cache is None:
        return None
    check_cacheable(config)
    encoder = model.model.world_encoder
    assert encoder is not None
    return LatentCache(config.latent_cache, cache_fingerprint(encoder, model.config))


def check_cacheable(config: TrainingConfig) -> None:
    """Refuse a config whose latents cannot be cached.

    Raises:
        ValueError: It names no cache, there is no world, or the VAE trains.
    """
    if config.latent_cache is None:
        raise ValueError("latent_cache is not set: name the folder of the latents, as in --latent_cache latents")
    if not config.enable_world or not config.freeze_cosmos_vae:
        raise ValueError(
            f"latent_cache with enable_world={config.enable_world}, freeze_cosmos_vae={config.freeze_cosmos_vae}: only "
            "the latents of a frozen world encoder stay the same; leave latent_cache out"
        )


__all__ = ["check_cacheable", "open_cache"]
