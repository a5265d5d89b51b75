"""The latent cache of a model: what identifies its encoder."""

from __future__ import annotations

import hashlib
from typing import Any

import torch

from theworld.data.latent_cache import LatentCache
from theworld.model import TheWorld
from theworld.model.world_encoders import CosmosWorldEncoder

from .config import TrainingConfig

SAMPLED_VALUES = 256
"""Of every weight tensor, spread over it: training moves all of them, and gigabytes would take minutes to hash."""

DECODER = ("vae.decoder.", "vae.post_quant_conv.")
DYNAMICS = ("transformer.",)


def open_cache(config: TrainingConfig, model: TheWorld) -> LatentCache | None:
    """The latents of `model`'s encoder that `config.latent_cache` holds; `None` if the config names no cache.

    Raises:
        FileNotFoundError: There are none; names `theworld precompute`.
        ValueError: They are another encoder's, there is no world, or the VAE trains.
    """
    if config.latent_cache is None:
        return None
    check_cacheable(config)
    return LatentCache(config.latent_cache, cache_fingerprint(model))


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


def cache_fingerprint(model: TheWorld) -> dict[str, Any]:
    """All that latents depend on besides the pixels.

    Weights are told by their values: the folder that they came from has another name on another machine, and after a
    stage that trained the VAE they are not that folder's any more.
    """
    encoder, config = model.model.world_encoder, model.config
    assert encoder is not None
    left_out = DECODER
    if config.num_world_steps == 0:
        left_out += DYNAMICS
    elif isinstance(encoder, CosmosWorldEncoder):
        encoder.prepare_rollouts()
    weights = {name: value for name, value in encoder.state_dict().items() if not name.startswith(left_out)}
    settings = {name: value for name, value in encoder.fingerprint().items() if name not in ("model", "revision")}
    return {
        **settings,
        "num_world_steps": config.num_world_steps,
        "world_image_size": config.world_image_size,
        "weights": _digest(weights),
    }


def _digest(weights: dict[str, torch.Tensor]) -> str:
    digest = hashlib.sha256()
    for name, value in sorted(weights.items()):
        flat = value.detach().flatten()
        sample = flat[:: max(1, len(flat) // SAMPLED_VALUES)].to("cpu", torch.float32)
        digest.update(f"{name} {tuple(value.shape)}".encode())
        digest.update(sample.contiguous().numpy().data)
    return digest.hexdigest()[:16]


__all__ = ["cache_fingerprint", "check_cacheable", "open_cache"]
