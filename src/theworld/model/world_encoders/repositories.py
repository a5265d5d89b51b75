"""Components of diffusers repositories: loaded one by one, or built from their configs alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from diffusers import AutoencoderKLWan, CosmosTransformer3DModel

from theworld.utils.hub import damage_named
from theworld.utils.weights import load_checked

from .cosmos_sampler import is_version_25

if TYPE_CHECKING:
    from theworld.utils.hub import Source


def load_component(cls: Any, source: Source, name: str, dtype: torch.dtype, **hub: Any) -> Any:
    """The diffusers model of class `cls` in the folder `name` of `source`.

    Raises:
        FileNotFoundError: It is missing.
        ValueError: Its weights are wrong.
    """
    source = source.pinned(f"{name}/config.json")
    return load_checked(cls, source.name, torch_dtype=dtype, **source.place(name), **hub)


def text_width(transformer: CosmosTransformer3DModel) -> int:
    """Width of the text embeddings that a transformer of Cosmos-Predict2 or 2.5 takes."""
    return transformer.config["crossattn_proj_in_channels" if is_version_25(transformer) else "text_embed_dim"]


def on_meta(cls: Any, source: Source, name: str, **hub: Any) -> Any:
    """The diffusers model of class `cls` in the folder `name` of `source`, from its config alone and without memory."""
    with damage_named(source.name, name), torch.device("meta"):
        return cls.from_config(cls.load_config(source.name, **source.place(name), **hub))


def latent_statistics(vae: AutoencoderKLWan, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The VAE's latent mean and standard deviation per channel, each (1, C, 1, 1, 1)."""
    mean, std = (like.new_tensor(vae.config[name]).view(1, -1, 1, 1, 1) for name in ("latents_mean", "latents_std"))
    return mean, std
