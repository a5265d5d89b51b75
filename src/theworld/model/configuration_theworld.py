"""`TheWorldConfig`: Gemma 3's configuration plus the world settings.

Shape legend: `T` latent frames, `h, w` latent height and width, `p` pooling factor, `D` language-model width.
"""

from __future__ import annotations

import math
from typing import Any, Self

from huggingface_hub.dataclasses import strict
from transformers import Gemma3Config

from theworld.utils.auto_classes import Installed
from theworld.utils.errors import TheWorldError, brief
from theworld.utils.settings import check_numbers, keys
from theworld.utils.world_settings import LORA, WorldSettings, check_lora, check_world_settings

from .fusion import FUSIONS

TOKEN_IDS = (
    *("boi_token_index", "eoi_token_index", "bos_token_id", "eos_token_id", "pad_token_id"),
    *("start_of_world_token_id", "end_of_world_token_id", "world_token_id"),
)
LARGEST: dict[str, int] = {
    **dict.fromkeys(("mm_tokens_per_image", "hidden_size", "head_dim"), 65_536),
    **{"image_size": 8192, "num_hidden_layers": 1024, "vocab_size": 2**24},
    **dict.fromkeys(("num_attention_heads", "num_key_value_heads", "patch_size"), 4096),
    **dict.fromkeys(("intermediate_size", "max_position_embeddings"), 2**24),
}
"""Upper bounds of Gemma's fields: an untrusted config cannot make a loader allocate without limit."""


@strict
class TheWorldConfig(Installed, WorldSettings, Gemma3Config):
    """The config of a fused model: the fields of `WorldSettings` and of Gemma 3's config.

    Relative model names (`./x`, `../x`) are relative to the checkpoint.

    Raises:
        ValueError: A field is out of range; names the field, the value and what was expected.
    """

    model_type = "theworld"

    def __post_init__(self, **kwargs: Any) -> None:
        if "operating_point" in kwargs:
            message = "an argument of from_pretrained; pass its fields to a config: **OPERATING_POINTS[...]"
            raise TheWorldError(f"operating_point={brief(repr(kwargs['operating_point']))}: {message}")
        check_world_settings(self)
        check_numbers(vars(self), LARGEST)  # before the parent class allocates by these numbers
        self.changed = ["projector"] if self.changed is None else self.changed
        super().__post_init__(**kwargs)
        self.check_world()
        self.lora = None if self.lora is None else check_lora(self.lora)
        if self.lora is None and "language_lora" in self.changed:
            raise TheWorldError("lora=None, but adapters were trained: leave lora out, or call merge_lora() and save")

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Self:
        """As in transformers; also reads checkpoints of version 0.1."""
        return super().from_dict(upgrade(config_dict), **kwargs)

    def check_world(self) -> None:
        """Check the world fields.

        Not named `validate_*`, because `strict` would wrap its ValueError in another type.
        """
        if self.fusion not in FUSIONS:
            raise TheWorldError(f"fusion={brief(repr(self.fusion))}: expected one of {', '.join(FUSIONS)}")
        check_world_steps(self.num_world_steps, self.max_world_steps)
        check_token_ids(self, self.get_text_config().vocab_size)
        if isinstance(self.world_image_size, list | tuple):
            self.world_image_size = list(self.world_image_size)
            if len(self.world_image_size) != 2:
                raise TheWorldError(f"world_image_size={self.world_image_size}: expected a number, or height and width")
        if self.world_unpooling > 1 and self.world_pooling > 1:
            raise TheWorldError(
                f"world_pooling={self.world_pooling} with world_unpooling={self.world_unpooling}: one undoes the "
                "other; set one of them to 1"
            )
        cell = self.world_spatial_compression * self.world_pooling
        if any(side < cell or side % cell for side in self.world_image_shape):
            raise TheWorldError(
                f"world_image_size={self.world_image_size}: expected a multiple of {cell}, that is "
                f"world_spatial_compression {self.world_spatial_compression} x world_pooling {self.world_pooling}"
            )
        if not self.freeze_cosmos_vae and not self.enable_world:
            raise TheWorldError("freeze_cosmos_vae=False with enable_world=False: there is no VAE to train")

    @property
    def world_image_shape(self) -> tuple[int, int]:
        """Height and width in pixels of the world encoder's input."""
        return image_shape(self.world_image_size)

    @property
    def world_grid(self) -> tuple[int, int]:
        """Rows and columns of world tokens in one latent frame, after pooling or unpooling."""
        cell = self.world_spatial_compression * self.world_pooling
        height, width = self.world_image_shape
        return height // cell * self.world_unpooling, width // cell * self.world_unpooling

    @property
    def world_tokens_per_frame(self) -> int:
        """World tokens of one latent frame."""
        return math.prod(self.world_grid)

    def world_tokens(self, num_world_steps: int) -> int:
        """World tokens `N` of one image rolled out for `num_world_steps` latent frames."""
        return (1 + num_world_steps) * self.world_tokens_per_frame


def check_token_ids(config: Any, vocab_size: int) -> None:
    """Raise a ValueError for a token id of a config, or of a generation config, that is not in the vocabulary."""
    for name in TOKEN_IDS:
        value = getattr(config, name, None)
        for token in value if isinstance(value, list) else [value]:
            if token is not None and (type(token) is not int or not 0 <= token < vocab_size):
                raise TheWorldError(f"{name}={brief(repr(value))}: expected an id of the vocabulary")


def image_shape(size: int | list[int] | tuple[int, int]) -> tuple[int, int]:
    """Height and width of a `world_image_size`."""
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def upgrade(saved: dict[str, Any]) -> dict[str, Any]:
    """The fields of a saved config, with those of version 0.1 under their present names.

    Version 0.1 squashed images. It recorded which components had trained, but not their steps.
    """
    if saved.get("model_type") != TheWorldConfig.model_type or "changed" in saved:
        return saved
    fields = {"world_image_fit": "squash", **saved}
    fields["changed"] = fields.pop("trained_components", None) or ["projector"]
    return fields


def check_world_steps(num_world_steps: int, max_world_steps: int) -> int:
    """Return `num_world_steps`; a ValueError unless it is a whole number from 0 to `max_world_steps`."""
    if type(num_world_steps) is not int or not 0 <= num_world_steps <= max_world_steps:
        raise TheWorldError(
            f"num_world_steps={num_world_steps!r}: expected 0 to max_world_steps={max_world_steps} future latent frames"
        )
    return num_world_steps


def check_world_seed(world_seed: int | None) -> None:
    """Raise a ValueError unless `world_seed` is `None` or in the range of the config's key."""
    if world_seed is not None:
        keys(WorldSettings)["world_seed"].check(world_seed)


__all__ = [
    "LORA",
    "TheWorldConfig",
    "check_lora",
    "check_token_ids",
    "check_world_seed",
    "check_world_steps",
    "upgrade",
]
