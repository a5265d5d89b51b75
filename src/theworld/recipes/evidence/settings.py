"""Settings of the experiment, its folder, and the results in it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from theworld.nano.kinds import KINDS
from theworld.nano.scenes import SceneSet, generate, load
from theworld.utils.errors import MissingFileError, TheWorldError, brief
from theworld.utils.folders import read_object
from theworld.utils.hub import NANO_WEIGHTS
from theworld.utils.io import write_json
from theworld.utils.logging import logger
from theworld.utils.settings import keys

from ..nano import check_clips, check_seeds, simulate
from ..nano_config import QUICK_CONFIG, NanoConfig
from ..package import digest

FAMILIES: dict[str, str] = {
    "peg_bin": "pegs",
    "wall": "bumpers",
    "bumper_touch": "bumpers",
    "peg_touch": "pegs",
}
"""Predictive families that can qualify, each with its kind of scenes."""
HARD_KINDS = tuple(dict.fromkeys(FAMILIES.values()))

LAW = "tilted"
"""The law of the clips on which the dynamics are trained further, a key of `LAWS`."""

COUNTS = ("labels", "curve", "sampler_steps", "most_traced", "wrong_ends", "law_clips", "law_steps", "questions",
          "static_questions", "futures")  # fmt: skip
"""Settings that are whole numbers from 1."""

RATES = (1.0, 0.5)
"""Learning rates to choose from for every arm, as shares of the recipe's `question_learning_rate`."""


@dataclass(frozen=True)
class EvidenceSettings:
    """Settings of the experiment: models, labels, scenes and questions.

    Raises:
        ValueError: A number is below 1 or no whole number; there are fewer scenes to learn from than labels; a number,
            seed or folder is given twice; or `config` has another law than `usual`, a level below the hardest, or no
            scenes of a kind that the experiment asks about.
    """

    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)  # training seeds of fusions and controls
    labels: int = 500  # labelled scenes of each kind
    # Numbers of labels; the largest also decides whether a family qualifies
    curve: tuple[int, ...] = (50, 100, 250, 500, 1_000, 2_000)
    dynamics: tuple[Path, ...] = ()  # folders with `transformer`: dynamics of other seeds; fusions of each are trained
    checkpoints: tuple[Path, ...] = ()  # folders with `transformer`, weaker dynamics for `dose`
    sampler_steps: tuple[int, ...] = (2, 3, 4, 6)  # of rollouts of the trained model, for `dose`
    most_traced: int = 4_000  # most scenes of each kind that are simulated to find `wrong_ends`
    wrong_ends: int = 100  # wanted number of wrong imagined ends of each family
    law_clips: int = 8_000  # clips of each kind, without labels
    law_steps: int = 2_000  # optimiser steps of the dynamics on these clips
    questions: int = 2_000  # for `verdicts`
    static_questions: int = 4_000  # for `no_harm`
    futures: int = 8
    config: NanoConfig = field(default_factory=NanoConfig)

    def __post_init__(self) -> None:
        if self.config.law != "usual":
            raise TheWorldError(f"law={self.config.law!r}: expected 'usual'; the experiment compares it with {LAW!r}")
        for split in ("validation", "fusion", "test"):
            counts = self.config.counts(split)
            if not all(counts.get(kind) for kind in HARD_KINDS):
                raise TheWorldError(f"{split}={counts}: expected scenes of {' and '.join(HARD_KINDS)}")
        if any(
            level < KINDS[kind].levels - 1 for kind, level in (self.config.levels or {}).items() if kind in HARD_KINDS
        ):
            raise TheWorldError(
                f"levels={self.config.levels}: the experiment asks about the hardest scenes; leave it out"
            )
        check_seeds("seeds", self.seeds)
        for name in COUNTS:
            _check_numbers(name, getattr(self, name))
        for name in ("dynamics", "checkpoints"):
            folders = [folder.resolve() for folder in getattr(self, name)]
            if len(set(folders)) < len(folders):
                raise TheWorldError(f"{name}: expected different folders")
        most = min(self.config.counts("fusion")[kind] for kind in HARD_KINDS)
        for labels in (self.labels, *self.curve):
            if not 1 <= labels <= most:
                raise TheWorldError(f"{labels} labelled scenes of a kind: expected 1 to {most}, the scenes of `fusion`")

    def inputs(self) -> dict[str, Any]:
        """Return what results depend on: the settings except local ones of `config`, and the weights in folders."""
        known = keys(NanoConfig)
        shaping = {name: value for name, value in self.config.to_dict().items() if not known[name].local}
        folders = {
            name: [digest(folder / "transformer") for folder in getattr(self, name)]
            for name in ("dynamics", "checkpoints")
        }
        return asdict(self) | folders | {"config": shaping, "mirrored": True}  # earlier models saw no mirrored copies


def _check_numbers(name: str, value: int | tuple[int, ...]) -> None:
    """Raise a ValueError unless `value` is a whole number from 1, or several different ones."""
    several = isinstance(value, tuple)
    numbers = value if several else (value,)
    if not numbers or len({*numbers}) < len(numbers) or not all(type(one) is int and one >= 1 for one in numbers):
        expected = "different whole numbers from 1" if several else "a whole number from 1"
        raise TheWorldError(f"{name}={brief(repr(value))}: expected {expected}")


# A short run for a first look: minutes on two cores
QUICK = EvidenceSettings(
    seeds=(0,),
    labels=200,
    curve=(50, 200, 400),
    sampler_steps=(2, 6),
    most_traced=400,
    law_clips=400,
    law_steps=200,
    questions=1_000,
    static_questions=1_000,
    futures=2,
    config=NanoConfig.from_file(QUICK_CONFIG),
)


@dataclass(frozen=True)
class Experiment:
    """The folder of an experiment. Scenes, models and results are made if they are missing, and kept."""

    folder: Path
    settings: EvidenceSettings

    @cached_property
    def weights(self) -> Path:
        """Folder with `gemma`, `cosmos`, `theworld`, `controls`: `folder`/weights if it exists, else the shipped one.

        Raises:
            FileNotFoundError: One of these folders is missing.
        """
        own = self.folder / "weights"
        chosen = own if own.is_dir() else NANO_WEIGHTS
        for name in ("gemma", "cosmos", "theworld", "controls/current_frame", "controls/gemma_tuned"):
            if not (chosen / name).is_dir():
                raise MissingFileError(f"{chosen / name}: no such folder; `theworld nano train` makes it")
        return chosen

    def check_weights(self) -> None:
        """Save the digests of the weights.

        Raises:
            ValueError: The results in the folder were made with other weights, or the models have clips of another
                size or length than the config.
        """
        check_clips(self.weights, self.settings.config)
        path = self.folder / "results" / "weights.json"
        own = {name: digest(self.weights / name) for name in ("gemma", "cosmos", "theworld", "controls")}
        if path.is_file() and read_object(path, cure="remove the folder") != own:
            raise TheWorldError(
                f"{path.parent}: results of other weights than those in {self.weights}; choose another folder, or "
                "remove this one and the folders fusions-mirrored, dynamics and evaluations next to it"
            )
        write_json(path, own)

    @property
    def cosmos(self) -> Path:
        """Folder of the world model whose latents are used."""
        return self.weights / "cosmos"

    @property
    def fusions(self) -> Path:
        """Folder of the models that the experiment trains, with the layout of `theworld nano train`."""
        return self.folder / "fusions-mirrored"

    def result(self, name: str, inputs: Mapping[str, Any], compute: Callable[[], Any]) -> Any:
        """Return the JSON value in results/<name>.json. Compute it if it is missing or was made with other `inputs`."""
        path, wanted = self.folder / "results" / f"{name}.json", json.loads(json.dumps(dict(inputs), default=str))
        if path.is_file():
            kept = read_object(path, "inputs", cure="remove the file")
            if "result" in kept and kept["inputs"] == wanted:
                return kept["result"]
        logger.info("evidence: %s", name)
        write_json(path, {"inputs": wanted, "result": compute()})
        return json.loads(path.read_text(encoding="utf-8"))["result"]

    def split(self, name: str) -> SceneSet:
        """Return the scenes of a split of the recipe, of the config's `levels` (default: the hardest)."""
        simulate(self.folder, name, self.settings.config)
        return load(self.folder / "scenes" / name)

    def more(self, name: str, split: str, counts: Mapping[str, int], **options: Any) -> SceneSet:
        """Return other scenes of a split, in scenes/<name>. `options` are `level` (default: the config's) and `law`."""
        folder, config = self.folder / "scenes" / name, self.settings.config
        if folder.is_dir():
            return load(folder)
        world: dict[str, Any] = {"level": config.levels, "frames": config.frames, "size": config.image_size}
        return generate(folder, split, dict(counts), config.workers, **world | options)
