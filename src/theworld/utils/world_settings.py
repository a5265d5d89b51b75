"""The fields of `TheWorldConfig`, in their own module so that the command line lists them without importing torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from theworld.constants import DEFAULT_COSMOS_MODEL

from .errors import TheWorldError, brief
from .settings import keys, setting

BASE = "model_name says which base model"
TOKENIZER = "it is read from the tokenizer"
RECORD = "a checkpoint records it"
OF_TOKENS = ("world_", "num_world_steps", "projector", "fusion")
"""Prefixes of the fields that change the world tokens."""
MAX_RANK = 4096
LINEAR_LAYERS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
LORA: dict[str, Any] = {"r": 16, "alpha": 32, "dropout": 0.0, "target_modules": LINEAR_LAYERS}


# fmt: off
@dataclass(kw_only=True, repr=False, eq=False)
class WorldSettings:
    """World settings of a model: default, range and meaning of each field."""

    enable_world: bool = setting(True, "Use world tokens; without them the model is Gemma 3, bit for bit.")
    gemma_model_name: str | None = setting(
        None, "Hub id or folder of the base Gemma 3; `./x` and `../x` are relative to the checkpoint.", refused=BASE)
    gemma_revision: str | None = setting(None, "Commit, tag or branch of the base Gemma 3.", refused=BASE)
    gemma_subfolder: str = setting("", "Sub-folder of the base Gemma 3 in its repository.", refused=BASE)
    cosmos_model_name: str = setting(
        DEFAULT_COSMOS_MODEL, "Hub id or folder of the base world model.", low=1, local=True)
    cosmos_revision: str | None = setting(None, "Commit, tag or branch of the base world model.", shapes=True)
    cosmos_subfolder: str = setting("", "Sub-folder of the base world model in its repository.", shapes=True)
    world_encoder: str = setting(
        "cosmos", "Key of `WORLD_ENCODERS`: `cosmos`, `cosmos_features`, `vjepa2`, `wan`, `wan_latents`, or a control: "
        "`still`, `random` or `patches`.", low=1, shapes=True)
    world_latent_channels: int = setting(16, "Channels `C` of a world latent.", low=1, high=65_536)
    world_spatial_compression: int = setting(8, "Pixels per latent position and side.", low=1, high=1024)
    world_temporal_compression: int = setting(4, "Video frames per latent frame after the first.", low=1, high=1024)
    world_image_size: int | list[int] | tuple[int, int] = setting(
        224, "Height and width in pixels of the world encoder's input; one number is a square.", low=1, high=8192,
        shapes=True)
    world_image_fit: str = setting(
        "crop", "For images of another aspect ratio: crop the centre, pad with black, or squash (stretch).",
        choices=("crop", "pad", "squash"), shapes=True)
    num_world_steps: int = setting(0, "Future latent frames `K` to roll out.", low=0, high=1024)
    max_world_steps: int = setting(
        16, "Largest `num_world_steps` of a call; the size of the time embedding.", low=1, high=1024, shapes=True)
    world_pooling: int = setting(
        1, "Latent positions per side of one world token.", low=1, high=256, shapes=True)
    world_unpooling: int = setting(
        1, "World tokens per side of one latent position, for encoders with large patches.", low=1, high=16,
        shapes=True)
    projector: str = setting("mlp", "Key of `PROJECTORS`: `linear`, `mlp` or `transformer`.", low=1, shapes=True)
    projector_hidden_size: int | None = setting(
        None, "Inner width of the projector; null: the language model's width.", low=1, high=65_536, shapes=True)
    projector_layers: int = setting(2, "Layers of the `transformer` projector.", low=1, high=64, shapes=True)
    projector_heads: int = setting(
        4, "Attention heads of the `transformer` projector.", low=1, high=1024, shapes=True)
    fusion: str = setting(
        "tokens", "Key of `FUSIONS`: `tokens` adds a block to the prompt, `gated` adds to the image tokens.", low=1,
        shapes=True)
    world_position: str = setting(
        "after_bos", "Position of a block: after BOS, or before its image.", choices=("after_bos", "before_image"),
        shapes=True)
    world_attention: str = setting(
        "causal", "Attention of world tokens inside their block.", choices=("causal", "bidirectional"), shapes=True)
    start_of_world_token_id: int = setting(6, "Vocabulary slot of the start of a block.", refused=TOKENIZER)
    end_of_world_token_id: int = setting(7, "Vocabulary slot of the end of a block.", refused=TOKENIZER)
    world_token_id: int = setting(8, "Vocabulary slot of the placeholder of a world token.", refused=TOKENIZER)
    world_seed: int = setting(
        0, "Seed of the rollout's noise, the same for every image.", low=0, high=2**63 - 1, shapes=True)
    world_inference_steps: int = setting(
        35, "Denoising steps of a rollout; that of Cosmos-Predict2 needs two at least.", low=1, high=1000, shapes=True)
    world_guidance_scale: float = setting(
        1.0, "Classifier-free guidance of a rollout; above 1 each step takes two forward passes.", low=0, high=100,
        shapes=True)
    world_fps: int = setting(16, "Frame rate of the rollout, in frames per second.", low=1, high=1000, shapes=True)
    world_prompt: str | None = setting(
        None, "Text that conditions a rollout; null: no text, and no text encoder is loaded.", shapes=True)
    world_negative_prompt: str | None = setting(
        None, "Negative prompt of the rollout; null: that of the stock pipeline.", shapes=True)
    world_feature_block: int | None = setting(
        None, "Index of the transformer block whose hidden states are the features, from 0.", low=0, high=1000,
        unset="the last", shapes=True)
    world_feature_sigma: float = setting(
        80.0, "Noise level of future frames in feature encoders: the ratio of noise to signal.", low=0, high=1000,
        shapes=True)
    auto_world_margin: float = setting(
        0.5, "`use_world='auto'` uses the world if the margin of the answer without it is below this.", low=0, high=1)
    freeze_gemma_vision: bool = setting(True, "Freeze SigLIP and Gemma's own image projector.")
    freeze_gemma_language: bool = setting(True, "Freeze the language model.")
    freeze_cosmos_vae: bool = setting(True, "Freeze the VAE's encoder.")
    lora: dict[str, Any] | None = setting(
        None, "LoRA adapters, which train while the language model is frozen: `r` (16), `alpha` (32), `dropout` (0), "
        "`target_modules` (names of linear layers, a regular expression, or `all-linear`); `{}` takes the defaults.")
    freeze_language_lora: bool = setting(False, "Freeze the adapters.")
    changed: list[str] | None = setting(
        None, "Components and parameters that differ from the base models.", refused=RECORD)
    trained_steps: dict[str, int] | None = setting(
        None, "Optimiser steps by component; null if they were not counted.", refused=RECORD)
# fmt: on


def check_world_settings(settings: Any) -> None:
    """Raise a ValueError for a world field that has the wrong type or is out of range."""
    for name, key in keys(WorldSettings).items():
        key.check(getattr(settings, name))


def check_same_world(saved: Any, given: Any, name: object) -> None:
    """Raise a ValueError if config `given` makes other world tokens than `saved`, the config in `name`."""
    fields = [field for field in keys(WorldSettings) if field.startswith(OF_TOKENS)]
    both = {field: (getattr(saved, field), getattr(given, field)) for field in fields}
    both["world_image_size"] = (list(saved.world_image_shape), list(given.world_image_shape))
    other = [f"{field}={was!r} but {now!r}" for field, (was, now) in both.items() if was != now]
    if other and given.enable_world:
        raise TheWorldError(
            f"{name}: saved with {brief(', '.join(other))} in this model; load the model with the checkpoint's settings"
        )


def check_lora(lora: dict[str, Any]) -> dict[str, Any]:
    """`lora` with defaults filled in; a ValueError names a setting that is unknown or out of range."""
    unknown = sorted(lora.keys() - LORA.keys())
    if unknown:
        raise TheWorldError(f"lora has {brief(', '.join(unknown))}: expected {', '.join(LORA)}")
    settings = {**LORA, **lora}
    rank, alpha, dropout, targets = (settings[name] for name in LORA)
    names: list[Any] = list(targets) if isinstance(targets, list | tuple | set) else [targets]
    named = names and all(isinstance(name, str) and name for name in names)
    checks = {
        "r": (type(rank) is int and 1 <= rank <= MAX_RANK, f"a whole number of at least 1, and at most {MAX_RANK}"),
        "alpha": (isinstance(alpha, int | float) and alpha > 0, "a number above 0"),
        "dropout": (isinstance(dropout, int | float) and 0 <= dropout < 1, "0 to below 1"),
        "target_modules": (named, "names of layers, or one regular expression"),
    }
    for name, (fits, expected) in checks.items():
        if not fits:
            raise TheWorldError(f"lora {name}={brief(repr(settings[name]))}: expected {expected}")
    return {**settings, "target_modules": targets if isinstance(targets, str) else names}


__all__ = ["LORA", "WorldSettings", "check_lora", "check_same_world", "check_world_settings"]
