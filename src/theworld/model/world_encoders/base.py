"""The contract of a world encoder: from an image, features of the current frame and of predicted frames.

A new encoder is one class in one file and one row in `WORLD_ENCODERS`. Freezing, checkpoints, latent caches and
evaluation use only the members of this class.

Shape legend: `B` images, `C` feature channels, `T = 1 + K` latent frames, `h, w` feature rows and columns.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from torch import nn

from theworld.utils.errors import TheWorldError
from theworld.utils.tensors import Snapshot, weights_digest

if TYPE_CHECKING:
    from theworld.utils.hub import Source

    from ..configuration_theworld import TheWorldConfig


@dataclass(frozen=True)
class Component:
    """A named set of parameters that is frozen or trained as one."""

    prefixes: tuple[str, ...]  # beginnings of the parameters' names
    freeze_flag: str | None = None  # the config field that freezes it; `None` if no flag does
    trains: bool = True  # whether it trains when no flag freezes it
    part: str = ""  # text that those names must also contain

    def trainable(self, config: TheWorldConfig) -> bool:
        """Whether it trains under the flags of `config`."""
        return self.trains and not (self.freeze_flag is not None and getattr(config, self.freeze_flag))


class WorldEncoder(nn.Module, ABC):
    """Base class of world encoders. `encode` is the method that the model calls.

    Attributes:
        licence: Licence of its weights for model cards: a short name and a sentence.
        probe_file: A small file that every source of this encoder has; `None` if the encoder needs no source.
        suggested_model: A Hub id for the error if no model is set; `None` if the config's default fits.
        fps: Frames per second of the clips that `encode` predicts and `encode_clip` takes.
        temporal_compression: Video frames of one latent frame after the first.
        can_decode: Whether `decode` turns features into frames.
        causal: Whether the features of the current frame are the same for every number of future frames.
        seeded: Whether predictions depend on the seed.
        prompt: The text that conditions its predictions.
        source: Where its weights came from: `model`, a folder or Hub id, and `revision`.
        late_weights: Snapshots of weights that were loaded after the encoder itself; a save compares with them.
    """

    licence: ClassVar[tuple[str, str]] = ("others", "the world model under its own terms")
    probe_file: ClassVar[str | None] = None
    suggested_model: ClassVar[str | None] = None
    fps: float = 16
    temporal_compression: int = 4
    can_decode: ClassVar[bool] = False
    causal: ClassVar[bool] = True
    seeded: ClassVar[bool] = True
    prompt: str | None = None
    source: Mapping[str, Any] = {}
    late_weights: Mapping[str, Snapshot] = {}

    @classmethod
    @abstractmethod
    def from_pretrained(cls, config: TheWorldConfig, source: Source, *, dtype: torch.dtype, **hub: Any) -> Self:
        """Load the encoder of `config` from `source`; `hub` has `token`, `cache_dir`, `local_files_only`.

        Raises:
            ValueError: The class does not define it.
        """
        raise TheWorldError(
            f"world_encoder={config.world_encoder!r}: {cls.__name__} must define from_pretrained(config, source, *, "
            "dtype, **hub)"
        )

    @classmethod
    def from_config(cls, config: TheWorldConfig, source: Source, **hub: Any) -> Self:
        """The encoder without weights, on the meta device, from configuration files alone, to count its cost.

        Raises:
            ValueError: The encoder does not implement it.
        """
        raise TheWorldError(
            f"world_encoder={config.world_encoder!r}: {cls.__name__} has no from_config, which plan needs"
        )

    @property
    @abstractmethod
    def feature_dim(self) -> int:
        """Channels `C` of a feature."""

    @abstractmethod
    def grid(self, height: int, width: int, num_world_steps: int) -> tuple[int, int, int]:
        """`(T, h, w)` of the features of a `height` x `width` image in pixels, without running anything."""

    @abstractmethod
    def encode(self, pixels: torch.Tensor, num_world_steps: int = 0, seed: int | None = None) -> torch.Tensor:
        """Encode the current frame and predict `num_world_steps` latent frames.

        Deterministic: the same pixels, steps and seed give the same features, alone and in any batch.

        Args:
            pixels: (B, 3, H, W) in [-1, 1].
            num_world_steps: Future latent frames `K`.
            seed: Seed of the prediction; `None` takes the encoder's own.

        Returns:
            (B, C, T, h, w), about zero mean and unit variance per channel. Index 0 of T is the current frame.
        """

    def encode_futures(self, pixels: torch.Tensor, num_world_steps: int, seeds: Sequence[int]) -> torch.Tensor:
        """`encode` with each of the seeds: (B, 3, H, W) -> (B, F, C, T, h, w), one future per seed."""
        return torch.stack([self.encode(pixels, num_world_steps, seed) for seed in seeds], dim=1)

    @abstractmethod
    def fingerprint(self) -> dict[str, Any]:
        """The settings that the features depend on besides pixels, steps and weights."""

    def components(self) -> dict[str, Component]:
        """The sets of parameters that are frozen or trained as one, with names relative to this module."""
        return {"world_encoder": Component(("",), trains=False)}

    @classmethod
    def clip_rate(cls, settings: Mapping[str, Any]) -> tuple[int, float]:
        """(frames per latent frame, frames per second) of the clips of `encode_clip`, from fields of a config."""
        return settings["world_temporal_compression"], settings["world_fps"]

    def prepare(self, num_world_steps: int) -> None:
        """Load now what `num_world_steps` future frames need, instead of in the first call."""

    def latent_weights(self, num_world_steps: int) -> dict[str, torch.Tensor]:
        """The weights that the features of `num_world_steps` future frames depend on."""
        return self.state_dict()

    def encode_clip(self, clips: torch.Tensor) -> torch.Tensor:
        """Features of a real clip: (B, 3, F, H, W) in [-1, 1] -> (B, C, T, h, w); a ValueError if unsupported.

        F is `1 + (T - 1) * temporal_compression`.
        """
        raise TheWorldError(f"{type(self).__name__} encodes single images only: train without an alignment stage")

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Frames (B, F, 3, H, W) in [0, 1] of features (B, C, T, h, w); a ValueError if the encoder cannot."""
        raise TheWorldError(f"{type(self).__name__} cannot decode: imagining needs world_encoder='cosmos'")

    def save_source(self, folder: Any, num_world_steps: int) -> None:
        """Write what `from_pretrained` needs for `num_world_steps` to `folder`; nothing without a source."""

    @classmethod
    def parameter_count(cls, config: TheWorldConfig, source: Source, **hub: Any) -> int:
        """Parameters that loading with `config` brings into memory, from configuration files alone; 0 if unknown."""
        return 0

    def encode_one_by_one(
        self, pixels: torch.Tensor, num_world_steps: int = 0, seed: int | None = None
    ) -> torch.Tensor:
        """`encode` each image alone: kernels round differently in a batch, so cached latents would differ."""
        return torch.cat([self.encode(frame, num_world_steps, seed) for frame in pixels.split(1)])


def cache_fingerprint(encoder: WorldEncoder, config: TheWorldConfig) -> dict[str, Any]:
    """Everything that latents depend on besides the pixels, for the key of a latent cache.

    Weights are identified by their values, because folder names differ between machines and training changes weights.
    """
    encoder.prepare(config.num_world_steps)
    settings = {name: value for name, value in encoder.fingerprint().items() if name not in ("model", "revision")}
    asked = {"num_world_steps": config.num_world_steps, "world_image_size": config.world_image_size}
    return {**settings, **asked, "weights": weights_digest(encoder.latent_weights(config.num_world_steps))}
