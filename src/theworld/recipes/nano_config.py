"""`NanoConfig`: all settings of the nano recipe in one flat JSON file, validated at construction."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from theworld.nano.kinds import KINDS
from theworld.nano.physics import FRAMES, LAWS, SIZE
from theworld.nano.scenes import SIZES, SPLITS
from theworld.utils.errors import MissingFileError, TheWorldError, brief
from theworld.utils.settings import keys, known_values, nearest, read_values, setting

SMOKE = Path(__file__).parents[1] / "nano" / "configs" / "smoke.json"
"""A few steps of every stage, to test that it runs."""
QUICK_CONFIG = SMOKE.with_name("quick.json")
"""Few scenes and steps, for a first look at the evidence in minutes."""
LISTED = "docs/nano-world.md lists the keys"
MODELS = ("vae", "transformer", "text", "vision")
"""Keys whose value is an object that overrides the sizes of a model."""
LARGEST = 4_096
"""Largest number among the sizes of a model."""
SEEDS = 10_000_000
"""Number of seeds of a split, and so the largest number of scenes of a kind."""
SIDES = "Overrides of the nano sizes: "
SHIPPED = {split: ", ".join(f"{kind} {count:,}" for kind, count in counts.items()) for split, counts in SIZES.items()}
RATE: dict[str, Any] = {"above": 0}


# fmt: off
@dataclass(frozen=True, kw_only=True)
class NanoConfig:
    """Settings of the nano recipe: scenes, models and steps. The defaults train all models from random weights.

    Raises:
        ValueError: A key is unknown, has the wrong type or is out of range. The message names the key, the value and
            what was expected.
        FileNotFoundError: `start_from` lacks the config of a model.
    """

    kinds: list[str] | None = setting(None, "Kinds of scenes.", unset=", ".join(KINDS))
    train: dict[str, int] | None = setting(
        None, "Number of scenes of each kind to train VAE, dynamics, vision and language on.", unset=SHIPPED["train"])
    validation: dict[str, int] | None = setting(
        None, "Number of scenes of each kind to choose settings on.", unset=SHIPPED["validation"])
    fusion: dict[str, int] | None = setting(
        None, "Number of scenes of each kind to train fusions on.", unset=SHIPPED["fusion"])
    test: dict[str, int] | None = setting(
        None, "Number of scenes of each kind to measure results on.", unset=SHIPPED["test"])
    levels: dict[str, int] | None = setting(
        None, "Level of difficulty of each kind, from 0. The split `train` always has all levels.",
        unset="the hardest")
    law: str = setting(
        "usual", "Law of physics, a key of `LAWS`. With another law than `usual`, every scene outside of `train` has "
        "another outcome than under the usual law.", choices=tuple(LAWS))
    world_steps: int = setting(
        (FRAMES - 1) // 4, "Number of future latent frames `K`. A clip has 1 + 4K frames.", low=2, high=7)
    image_size: int = setting(int(SIZE), "Side of the images in pixels, a multiple of 16.", low=32, high=64)

    vae: dict[str, Any] | None = setting(None, f"{SIDES}`base_dim`, `dim_mult`, `num_res_blocks`.", unset="{}")
    transformer: dict[str, Any] | None = setting(
        None, f"{SIDES}`num_layers`, `num_attention_heads`, `attention_head_dim`, `mlp_ratio`, `adaln_lora_dim`.",
        unset="{}")
    text: dict[str, Any] | None = setting(
        None, f"{SIDES}keys of Gemma's text config, such as `hidden_size` and `num_hidden_layers`.", unset="{}")
    vision: dict[str, Any] | None = setting(
        None, f"{SIDES}keys of SigLIP's config, such as `hidden_size` and `num_hidden_layers`.", unset="{}")
    start_from: str | None = setting(
        None, "Folder with `gemma` and `cosmos` of earlier weights. Training continues from their VAE, transformer and "
        "vision.", low=1)

    vae_image_steps: int = setting(1_500, "Optimiser steps of the VAE on single frames.", low=1)
    vae_clip_steps: int = setting(2_700, "Optimiser steps of the VAE on clips.", low=1)
    vae_learning_rate: float = setting(
        2e-3, "Peak learning rate of the VAE's decoder. Its encoder has a lower one.", **RATE)
    dynamics_steps: int = setting(13_000, "Optimiser steps of the dynamics.", low=1)
    dynamics_batch_size: int = setting(64, "Clips per optimiser step of the dynamics.", low=1)
    dynamics_learning_rate: float = setting(1.2e-3, "Peak learning rate of the dynamics.", **RATE)
    compile: bool = setting(True, "Use `torch.compile` for the dynamics if g++ is installed.")
    vision_steps: int = setting(3_000, "Optimiser steps of SigLIP and Gemma's projector.", low=1)
    vision_learning_rate: float = setting(1.5e-3, "Peak learning rate of SigLIP and Gemma's projector.", **RATE)
    language_steps: int = setting(4_000, "Optimiser steps of the language model on all kinds.", low=1)
    comparison_steps: int = setting(
        1_800, "Further optimiser steps of the language model, mostly on races.", low=1)
    language_learning_rate: float = setting(
        1.5e-3, "Peak learning rate of the language model; two thirds of it in the further steps.", **RATE)
    validation_questions: int = setting(
        300, "Maximum number of questions of a family to evaluate the trained Gemma on.", low=1)
    align_steps: int = setting(5_000, "Optimiser steps of a fusion in the align stage.", low=1)
    align_learning_rate: float = setting(2e-3, "Peak learning rate of the align stage.", **RATE)
    question_steps: int = setting(2_000, "Optimiser steps of a fusion in the question stage.", low=1)
    question_learning_rate: float = setting(3e-4, "Peak learning rate of the question stage.", **RATE)
    seed: int = setting(0, "Seed of everything except the scenes, whose seeds are fixed.", low=0, high=2**32 - 1)
    workers: int = setting(
        2, "Number of processes that simulate scenes, and that train independent models in parallel.", low=1,
        high=256, local=True)
    device: str = setting(
        "auto", "Device of every stage: `auto` uses a GPU if there is one. `CUDA_VISIBLE_DEVICES` selects the GPU.",
        choices=("auto", "cpu"), local=True)
# fmt: on

    def __post_init__(self) -> None:
        for name, key in keys(type(self)).items():
            key.check(getattr(self, name))
        # 1. Scenes
        _check_names("kinds", self.kinds or [], KINDS)
        if (self.kinds is not None and len(set(self.kinds)) != len(self.kinds)) or self.kinds == []:
            raise TheWorldError(f"kinds={brief(repr(self.kinds))}: expected different kinds, at least one")
        for split in SPLITS:
            _check_names(split, getattr(self, split) or {}, self.scene_kinds)
            counts = self.counts(split)
            if min(counts.values()) < 0 or max(counts.values()) > SEEDS or not sum(counts.values()):
                told = f"expected numbers of scenes from 0 to {SEEDS}, and one scene"
                raise TheWorldError(f"{split}={brief(repr(counts))}: {told}")
        _check_names("levels", self.levels or {}, self.scene_kinds)
        for kind, level in (self.levels or {}).items():
            if not 0 <= level < KINDS[kind].levels:
                raise TheWorldError(f"levels={self.levels}: expected 0 to {KINDS[kind].levels - 1} of {kind}")
        if self.image_size % 16:  # a latent pixel covers 8 pixels, a patch of the transformer 2 latent pixels
            raise TheWorldError(f"image_size={self.image_size}: expected a multiple of 16")
        # 2. Models
        if any(getattr(self, name) for name in MODELS):
            self._check_sizes()
        if self.start_from is not None:
            for name in ("gemma", "cosmos/vae", "cosmos/transformer"):
                if not (_home(self.start_from) / name / "config.json").is_file():
                    raise MissingFileError(f"start_from={self.start_from!r}: has no {name}/config.json")

    def _check_sizes(self) -> None:
        from theworld.nano import dynamics, vae, vlm

        from .nano_sizes import check_models  # needs torch and the models

        sizes = vae.SIZES, dynamics.SIZES, vlm.TEXT_CONFIG, vlm.VISION_CONFIG
        for name, known in zip(MODELS, sizes, strict=True):
            given = getattr(self, name) or {}
            if given and self.start_from is not None and name in ("vae", "transformer"):
                told = f"{name}={brief(repr(given))} with start_from={self.start_from!r}"
                raise TheWorldError(f"{told}: its weights have their own sizes; remove one of the two keys")
            _check_names(name, given, known.keys() - {"image_size"})
            for size, value in given.items():
                _check_size(f"{name}: {size}", value, known[size])
        if len((self.vae or {}).get("dim_mult", vae.SIZES["dim_mult"])) != len(vae.SIZES["dim_mult"]):
            raise TheWorldError(f"vae={self.vae}: expected four numbers in dim_mult, which halve the size three times")
        overridden = {name: given for name in MODELS if (given := getattr(self, name))}
        check_models(overridden, self.image_size, self.frames)

    @property
    def scene_kinds(self) -> tuple[str, ...]:
        """The kinds of scenes, in the order of `KINDS`."""
        return tuple(kind for kind in KINDS if self.kinds is None or kind in self.kinds)

    def counts(self, split: str) -> dict[str, int]:
        """Return the number of scenes of every kind in a split."""
        return {kind: (getattr(self, split) or {}).get(kind, SIZES[split].get(kind, 0)) for kind in self.scene_kinds}

    @property
    def frames(self) -> int:
        """Frames of a clip."""
        return 1 + 4 * self.world_steps

    def of_vae(self) -> dict[str, Any]:
        """Return the keyword arguments of `train_vae`."""
        return {
            "image_steps": self.vae_image_steps,
            "clip_steps": self.vae_clip_steps,
            "learning_rate": self.vae_learning_rate,
            "sizes": self.vae,
            **self._of_stage("cosmos/vae"),
        }

    def of_dynamics(self) -> dict[str, Any]:
        """Return the keyword arguments of `train_dynamics`."""
        return {
            "steps": self.dynamics_steps,
            "batch_size": self.dynamics_batch_size,
            "learning_rate": self.dynamics_learning_rate,
            "compiled": self.compile,
            "mirrored": not LAWS[self.law].tilt,
            "sizes": self.transformer,
            **self._of_stage("cosmos/transformer"),
        }

    def of_vlm(self) -> dict[str, Any]:
        """Return the keyword arguments of `train_vlm`."""
        steps = ("vision_steps", "language_steps", "comparison_steps")
        own = {name: getattr(self, name) for name in (*steps, "vision_learning_rate", "language_learning_rate")}
        sizes = {"text": self.text, "vision": self.vision}
        return {**own, **sizes, "per_family": self.validation_questions, **self._of_stage("gemma")}

    def _of_stage(self, name: str) -> dict[str, Any]:
        """Return the keyword arguments that all stages share; `name` is the folder in `start_from`."""
        from theworld.utils.devices import best_device

        start = None if self.start_from is None else _home(self.start_from) / name
        device = str(best_device()[0]) if self.device == "auto" else self.device
        return {"start_from": start, "device": device, "seed": self.seed}

    def changes(self, saved: dict[str, Any]) -> list[str]:
        """Return the differences to the config `saved` that change the weights, each as `name (saved -> own)`."""
        return [
            f"{name} ({saved.get(name, key.default)} -> {getattr(self, name)})"
            for name, key in keys(type(self)).items()
            if not key.local and saved.get(name, key.default) != getattr(self, name)
        ]

    def to_dict(self) -> dict[str, Any]:
        """Return every key with a value that JSON can store."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Make a config from JSON-like values. Keys that begin with `_` are ignored. Raises the errors of the class."""
        return cls(**known_values(values, cls, LISTED))

    @classmethod
    def from_file(cls, path: str | Path, overrides: dict[str, Any] | None = None) -> Self:
        """Make a config from a JSON file; `overrides` replace its keys.

        Raises:
            ValueError: The file is not a JSON object. Also raises the errors of the class.
        """
        return cls.from_dict({**read_values(Path(path)), **(overrides or {})})


def _check_names(key: str, given: Any, known: Any) -> None:
    """Raise a ValueError if a name in `given`, the value of `key`, is not in `known`."""
    for name in given:
        if name not in known:
            hint = nearest(name, known) or f"expected some of {', '.join(known)}"
            raise TheWorldError(f"{key}: unknown name {brief(repr(name))}: {hint}")


def _check_size(key: str, given: Any, known: Any) -> None:
    """Raise a ValueError unless `given` has the type of the nano size `known`, and its numbers are 1 or more."""
    numbers = given if isinstance(given, list) else [given]
    allowed = (int, float) if isinstance(known, float) else (int,)
    fits = isinstance(given, list) == isinstance(known, list) and all(
        type(number) in allowed and 1 <= number <= LARGEST for number in numbers
    )
    if not (type(given) is bool if isinstance(known, bool) else fits):
        like = f"a value like {json.dumps(known)}, from 1 to {LARGEST}"
        raise TheWorldError(f"{key}={brief(repr(given))}: expected {like}")


def _home(folder: str) -> Path:
    """The path of a folder, with `~` for the home of a known user."""
    return Path(os.path.expanduser(folder))  # noqa: PTH111  # pathlib raises a RuntimeError for an unknown user


__all__ = ["QUICK_CONFIG", "SMOKE", "NanoConfig"]
