"""Repositories of Wan 2.1 and 2.2 in the format of diffusers: how each transformer was trained, and its inputs.

Wan is trained by flow matching. Its input is `(1 - t) x + t n` for latents `x`, noise `n` and a time `t` from 0 to 1;
its timestep input is `1000 t`. The config gives the level of noise as `world_feature_sigma`, the ratio of noise to
signal, as for every encoder of features: `t = sigma / (sigma + 1)`. So 80 is timestep 988, and 0.43 timestep 300.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from theworld.utils.errors import MissingFileError, TheWorldError
from theworld.utils.folders import read_object
from theworld.utils.weights import find_file

from .hidden_states import check_one_forward, chosen_block

if TYPE_CHECKING:
    from theworld.utils.hub import Source

    from ..configuration_theworld import TheWorldConfig

INDEX = "model_index.json"
INDEX_FIELDS = ("_class_name", "expand_timesteps", "boundary_ratio")
"""Fields that are read from a repository's index: its pipeline, and how its transformers were trained."""

TIMESTEPS = 1000  # number of timesteps in Wan's training
LOST = 0.9
"""Time above which the image is lost in noise. Near it, Wan 2.2 switches to its transformer for high noise levels."""

Conditioning = Literal["timesteps", "channels", "noisy"]
"""How a transformer was trained to take the frames that are given:

`timesteps`: clean, each token with a timestep of its own, which is 0 for a given frame (Wan 2.2 TI2V).
`channels`: clean, in channels beside the noisy frames, which share one timestep (image to video of Wan 2.2).
`noisy`: not at all. All frames share one timestep, so a given one is as noisy as the others (text to video).
"""


def flow_time(sigma: float) -> float:
    """Wan's time from 0 to 1 at `sigma`, the ratio of noise to signal."""
    return sigma / (sigma + 1)


def read_index(source: Source) -> dict[str, Any]:
    """`INDEX_FIELDS` of the index of a Wan repository; a ValueError for another model's."""
    path = find_file(source.name, INDEX, **source.where)
    if path is None:
        raise MissingFileError(f"{source.name}: no {INDEX} there")
    index = read_object(Path(path), cure="download it again")
    if not str(index.get("_class_name")).startswith("Wan"):
        raise TheWorldError(
            f"{source.name}: holds a {index.get('_class_name')}; set cosmos_model_name to a Wan repository in the "
            "format of diffusers, such as Wan-AI/Wan2.2-TI2V-5B-Diffusers"
        )
    boundary = index.get("boundary_ratio")
    if boundary is not None and not (isinstance(boundary, int | float) and 0 < boundary < 1):
        raise TheWorldError(
            f"{path}: boundary_ratio={boundary!r}, expected a number between 0 and 1; download it again"
        )
    return {name: index[name] for name in INDEX_FIELDS if name in index}


def transformer_name(index: dict[str, Any], sigma: float) -> str:
    """The folder of the transformer that was trained for `sigma`: Wan 2.2 A14B has a second one for little noise."""
    boundary = index.get("boundary_ratio")
    return "transformer" if boundary is None or flow_time(sigma) >= boundary else "transformer_2"


def least_time(index: dict[str, Any], sigma: float) -> float:
    """The smallest time that the transformer for `sigma` was trained for."""
    return 0.0 if transformer_name(index, sigma) == "transformer_2" else index.get("boundary_ratio") or 0.0


def conditioning_of(vae: Any, settings: Any, index: dict[str, Any], config: TheWorldConfig) -> tuple[Conditioning, int]:
    """How a transformer takes given frames, and the index of the block whose hidden states are the features.

    Args:
        vae: The VAE's config.
        settings: The transformer's config.
        index: `INDEX_FIELDS` of the repository.

    Raises:
        ValueError: The transformer needs other inputs, has no such block, or would not see the image; or the config has
            guidance.
    """
    channels, blocks, sigma = settings["in_channels"], settings["num_layers"], config.world_feature_sigma
    latent, mask = vae["z_dim"], vae["scale_factor_temporal"]
    if (
        settings["image_dim"] is not None
        or channels not in (latent, 2 * latent + mask)
        or settings["patch_size"][0] != 1
    ):
        raise TheWorldError(
            f"in_channels={channels}, image_dim={settings['image_dim']}: expected a Wan transformer that takes text or "
            "a first frame, and needs no image encoder, such as that of Wan-AI/Wan2.2-TI2V-5B-Diffusers"
        )
    check_one_forward(config, takes_text=True)
    block = chosen_block(config.world_feature_block, blocks)
    if channels > latent:
        return "channels", block
    if index.get("expand_timesteps"):
        return "timesteps", block
    if flow_time(sigma) > LOST:
        raise TheWorldError(
            f"world_feature_sigma={sigma}: this Wan model has one noise level for all frames, at which the image "
            f"is lost; set it to at most {LOST / (1 - LOST):.0f}, such as 0.43 (timestep 300)"
        )
    return "noisy", block
