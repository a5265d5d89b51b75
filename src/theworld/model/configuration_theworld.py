"""`TheWorldConfig`: Gemma 3's configuration plus how the world enters it.

Shape legend: `T` latent frames, `h, w` latent height and width, `p` pooling factor, `D` language-model width.
"""

from __future__ import annotations

import math
from typing import Any, Self

from huggingface_hub.dataclasses import strict
from transformers import Gemma3Config

from theworld.constants import DEFAULT_COSMOS_MODEL

from .fusion import FUSIONS

CHOICES = {
    "world_position": ("after_bos", "before_image"),
    "world_attention": ("causal", "bidirectional"),
    "world_image_fit": ("crop", "pad", "squash"),
    "fusion": tuple(FUSIONS),
}
STEPS_AND_SIDES = ("max_world_steps", "world_spatial_compression", "world_temporal_compression", "projector_heads")
RANGES = {
    **dict.fromkeys(STEPS_AND_SIDES, (1, 1024)),
    **dict.fromkeys(("world_inference_steps", "world_fps"), (1, 1000)),
    **{"world_pooling": (1, 256), "world_latent_channels": (1, 65_536), "projector_layers": (1, 64)},
    "world_seed": (0, 2**63 - 1),
}
TOKEN_IDS = ("boi_token_index", "eoi_token_index", "start_of_world_token_id", "end_of_world_token_id", "world_token_id")
MAX_RANK = 4096
LARGEST: dict[str, int] = {
    **dict.fromkeys(("mm_tokens_per_image", "projector_hidden_size", "hidden_size", "head_dim"), 65_536),
    **{"image_size": 8192, "world_image_size": 8192, "num_hidden_layers": 1024, "vocab_size": 2**24},
    **dict.fromkeys(("num_attention_heads", "num_key_value_heads", "patch_size"), 4096),
    **dict.fromkeys(("intermediate_size", "max_position_embeddings"), 2**24),
}
"""What the fields of an untrusted config may ask a loader to allocate or repeat, from 1 on; 2**63 for all others."""


@strict
class TheWorldConfig(Gemma3Config):
    """Everything that a fused model needs to know; validates itself when it is made.

    Args:
        enable_world: With `False` the model is Gemma 3, bit for bit.
        gemma_model_name: Hub id or folder of the base Gemma 3; `./x` and `../x` are relative to the checkpoint.
        gemma_revision: Commit, tag or branch of the base Gemma 3.
        gemma_subfolder: Where in its repository the base Gemma 3 lies.
        cosmos_model_name: Hub id or folder of the base world model; relative names as above.
        cosmos_revision: Commit, tag or branch of the base world model.
        cosmos_subfolder: Where in its repository the base world model lies.
        world_encoder: Key of `theworld.model.world_encoders.WORLD_ENCODERS`.
        world_latent_channels: Channels `C` of a world latent (16 for the Wan VAE).
        world_spatial_compression: Pixels per latent position and side (8 for the Wan VAE).
        world_temporal_compression: Video frames per latent frame after the first (4 for the Wan VAE).
        world_image_size: Height and width in pixels of the frame that the world encoder sees; one number for a square.
        world_image_fit: How an image of another aspect ratio gets that size: `crop` cuts the centre out, `pad` adds
            black borders, `squash` changes the aspect ratio (version 0.1 did; for its checkpoints).
        num_world_steps: Future latent frames `K` that are rolled out when a call names none; `T = 1 + K`.
        max_world_steps: Largest `K` that a call may ask for; fixes the size of the time embedding.
        world_pooling: Pixel-unshuffle factor `p` of the projector: `(h / p) * (w / p)` tokens per latent frame.
        projector: Key of `theworld.model.projectors.PROJECTORS`.
        projector_hidden_size: Inner width of the projector; `None` means `D`.
        projector_layers: Layers of the `transformer` projector.
        projector_heads: Attention heads of the `transformer` projector.
        fusion: Key of `theworld.model.fusion.FUSIONS`: `tokens` gives world tokens a block of their own in the prompt,
            `gated` adds them to the image tokens through a gate that starts at zero.
        world_position: `after_bos` puts every block behind BOS, `before_image` each block directly before its image.
        world_attention: Whether world tokens of one block see each other in both directions, as image tokens do.
        start_of_world_token_id: Spare vocabulary slot that opens a block.
        end_of_world_token_id: Spare vocabulary slot that closes a block.
        world_token_id: Spare vocabulary slot that stands for one world token.
        world_seed: Seed of the rollout's noise; the same for every image, so that batches change nothing.
        world_inference_steps: Denoising steps of a rollout.
        world_guidance_scale: Classifier-free guidance of a rollout; above 1 each step takes two forwards.
        world_fps: Frames a second that the rollout is told.
        world_prompt: The fixed text that conditions a rollout; `None` is no text, which needs no text encoder.
        world_negative_prompt: The text that guidance leads away from; `None` is the stock pipeline's.
        freeze_gemma_vision: Freeze SigLIP and Gemma's own image projector.
        freeze_gemma_language: Freeze the language model.
        freeze_cosmos_vae: Freeze the VAE's encoder.
        lora: Low-rank adapters on the language model, which train while it is frozen: `r` (16), `alpha` (32), `dropout`
            (0) and `target_modules`, names of its linear layers, a regular expression over `layers.0.self_attn.q_proj`
            and the like, or `all-linear` (default: attention and feed-forward). `{}` takes the defaults.
        freeze_language_lora: Freeze the adapters.
        changed: Components, or single parameters, that differ from the base models: what a checkpoint holds.
        trained_steps: Optimiser steps by component; `None` where they were not counted (version 0.1).

    Raises:
        ValueError: A field is out of range; names the field, the value and what was expected.
    """

    model_type = "theworld"

    enable_world: bool = True
    gemma_model_name: str | None = None
    gemma_revision: str | None = None
    gemma_subfolder: str = ""
    cosmos_model_name: str = DEFAULT_COSMOS_MODEL
    cosmos_revision: str | None = None
    cosmos_subfolder: str = ""
    world_encoder: str = "cosmos"
    world_latent_channels: int = 16
    world_spatial_compression: int = 8
    world_temporal_compression: int = 4
    world_image_size: int | list[int] | tuple[int, int] = 224
    world_image_fit: str = "crop"
    num_world_steps: int = 0
    max_world_steps: int = 16
    world_pooling: int = 1
    projector: str = "mlp"
    projector_hidden_size: int | None = None
    projector_layers: int = 2
    projector_heads: int = 4
    fusion: str = "tokens"
    world_position: str = "after_bos"
    world_attention: str = "causal"
    start_of_world_token_id: int = 6
    end_of_world_token_id: int = 7
    world_token_id: int = 8
    world_seed: int = 0
    world_inference_steps: int = 35
    world_guidance_scale: float = 1.0
    world_fps: int = 16
    world_prompt: str | None = None
    world_negative_prompt: str | None = None
    freeze_gemma_vision: bool = True
    freeze_gemma_language: bool = True
    freeze_cosmos_vae: bool = True
    lora: dict[str, Any] | None = None
    freeze_language_lora: bool = False
    changed: list[str] | None = None
    trained_steps: dict[str, int] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        check_numbers(vars(self))  # before the parent builds its parts, which may be as large as their numbers say
        self.changed = ["projector"] if self.changed is None else self.changed
        super().__post_init__(**kwargs)
        self.check_world()
        self.lora = None if self.lora is None else check_lora(self.lora)
        if self.lora is None and "language_lora" in self.changed:
            raise ValueError(
                "lora=None, but adapters were trained: leave lora out, or call merge_lora() and save first"
            )

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Self:
        """As transformers', for checkpoints of version 0.1 too."""
        return super().from_dict(upgrade(config_dict), **kwargs)

    @classmethod
    def register_for_auto_class(cls, auto_class: Any = None) -> None:
        """Nothing: checkpoints name the installed package, and a save must not copy this file into them."""

    def check_world(self) -> None:
        """Check the world's fields. A `validate_*` would have its ValueError wrapped by `strict` in another type."""
        for name, allowed in CHOICES.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name}={getattr(self, name)!r}: expected one of {', '.join(allowed)}")
        for name, (low, high) in RANGES.items():
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"{name}={getattr(self, name)}: expected {low} to {high}")
        check_world_steps(self.num_world_steps, self.max_world_steps)
        for name in TOKEN_IDS:
            if not 0 <= (getattr(self, name) or 0) < self.get_text_config().vocab_size:
                raise ValueError(f"{name}={getattr(self, name)}: expected an id of the vocabulary")
        if isinstance(self.world_image_size, list | tuple):
            self.world_image_size = list(self.world_image_size)
            if len(self.world_image_size) != 2:
                raise ValueError(f"world_image_size={self.world_image_size}: expected one number, or height and width")
        cell = self.world_spatial_compression * self.world_pooling
        if any(side < cell or side % cell for side in self.world_image_shape):
            raise ValueError(
                f"world_image_size={self.world_image_size}: expected a multiple of {cell}, that is "
                f"world_spatial_compression {self.world_spatial_compression} x world_pooling {self.world_pooling}"
            )
        if not self.freeze_cosmos_vae and not self.enable_world:
            raise ValueError("freeze_cosmos_vae=False with enable_world=False: there is no VAE to train")

    @property
    def world_image_shape(self) -> tuple[int, int]:
        """Height and width in pixels of the frame that the world encoder sees."""
        return image_shape(self.world_image_size)

    @property
    def world_grid(self) -> tuple[int, int]:
        """Rows and columns of world tokens in one latent frame, after pooling."""
        cell = self.world_spatial_compression * self.world_pooling
        height, width = self.world_image_shape
        return height // cell, width // cell

    @property
    def world_tokens_per_frame(self) -> int:
        """World tokens of one latent frame."""
        return math.prod(self.world_grid)

    def world_tokens(self, num_world_steps: int) -> int:
        """World tokens `N` of one image rolled out for `num_world_steps` latent frames."""
        return (1 + num_world_steps) * self.world_tokens_per_frame


def image_shape(size: int | list[int] | tuple[int, int]) -> tuple[int, int]:
    """Height and width that `world_image_size` means."""
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def upgrade(saved: dict[str, Any]) -> dict[str, Any]:
    """The fields of a saved config, with those of version 0.1 under their present names.

    Version 0.1 squashed images, recorded the components that ever trained, and did not count their steps.
    """
    if saved.get("model_type") != TheWorldConfig.model_type or "changed" in saved:
        return saved
    fields = {"world_image_fit": "squash", **saved}
    fields["changed"] = fields.pop("trained_components", None) or ["projector"]
    return fields


def check_numbers(fields: dict[str, Any]) -> None:
    """Raise a ValueError for numbers, also nested, that would make a loader run out of time or memory."""
    for name, value in fields.items():
        least, largest = (1, LARGEST[name]) if name in LARGEST else (-(2**63), 2**63)
        for item in value if isinstance(value, list | tuple) else [value]:
            if isinstance(item, dict | list | tuple):
                check_numbers(item if isinstance(item, dict) else {name: item})
            elif isinstance(item, int | float) and not (math.isfinite(item) and least <= item <= largest):
                raise ValueError(f"{name}={item}: expected a number of at least {least} and at most {largest}")


def check_world_steps(num_world_steps: int, max_world_steps: int) -> int:
    """Return `num_world_steps`; a ValueError unless it is a whole number from 0 to `max_world_steps`."""
    if type(num_world_steps) is not int or not 0 <= num_world_steps <= max_world_steps:
        raise ValueError(
            f"num_world_steps={num_world_steps!r}: expected 0 to max_world_steps={max_world_steps} future latent frames"
        )
    return num_world_steps


LINEAR_LAYERS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
LORA: dict[str, Any] = {"r": 16, "alpha": 32, "dropout": 0.0, "target_modules": LINEAR_LAYERS}


def check_lora(lora: dict[str, Any]) -> dict[str, Any]:
    """Settings of adapters with every default filled in; a ValueError names one that is unknown or out of range."""
    unknown = sorted(lora.keys() - LORA.keys())
    if unknown:
        raise ValueError(f"lora has {', '.join(unknown)}: expected {', '.join(LORA)}")
    settings = {**LORA, **lora}
    rank, alpha, dropout, targets = (settings[name] for name in LORA)
    names: list[Any] = [targets] if isinstance(targets, str) else list(targets)
    named = names and all(isinstance(name, str) and name for name in names)
    checks = {
        "r": (type(rank) is int and 1 <= rank <= MAX_RANK, f"a whole number of at least 1, and at most {MAX_RANK}"),
        "alpha": (isinstance(alpha, int | float) and alpha > 0, "a number above 0"),
        "dropout": (isinstance(dropout, int | float) and 0 <= dropout < 1, "0 to below 1"),
        "target_modules": (named, "names of layers, or one regular expression"),
    }
    for name, (fits, expected) in checks.items():
        if not fits:
            raise ValueError(f"lora {name}={settings[name]!r}: expected {expected}")
    return {**settings, "target_modules": targets if isinstance(targets, str) else names}


__all__ = ["TheWorldConfig", "check_lora", "check_world_steps", "upgrade"]
