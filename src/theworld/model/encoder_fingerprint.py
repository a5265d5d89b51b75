"""What tells one set of weights from another, and what identifies the latents of a world encoder."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import torch

from .world_encoders import CosmosWorldEncoder

if TYPE_CHECKING:
    from .modeling_theworld import TheWorld

SAMPLED_VALUES = 256
"""Of every weight tensor, spread over it: training moves all of them, and gigabytes would take minutes to hash."""

DECODER = ("vae.decoder.", "vae.post_quant_conv.")
DYNAMICS = ("transformer.",)


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
        "weights": weights_digest(weights),
    }


def weights_digest(weights: dict[str, torch.Tensor]) -> str:
    """What identifies named weights: their names, shapes, and values sampled evenly."""
    digest = hashlib.sha256()
    for name, value in sorted(weights.items()):
        flat = value.detach().flatten()
        sample = flat[:: max(1, len(flat) // SAMPLED_VALUES)].to("cpu", torch.float32)
        digest.update(f"{name} {tuple(value.shape)}".encode())
        digest.update(sample.contiguous().numpy().data)
    return digest.hexdigest()[:16]


__all__ = ["cache_fingerprint", "weights_digest"]
