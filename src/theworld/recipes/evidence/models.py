"""What the experiment trains: fusions and controls on few labels, and copies of a model with other dynamics."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from theworld.nano.dynamics import train_dynamics
from theworld.nano.fusion import write_clips, write_conversations
from theworld.nano.physics import LAWS
from theworld.utils.errors import MissingFileError
from theworld.utils.io import write_text

from ..nano import Lane, align_lane, question_lane, run_lanes, tuned_lane
from ..package import copy_base_models, digest, package_cosmos
from .settings import HARD_KINDS, LAW, Experiment

ENCODERS = {"rollout": "cosmos", "current_frame": "still"}
"""World encoder of the arms that have one; `gemma_tuned` has none."""


@dataclass(frozen=True)
class Trained:
    """One model on few labels."""

    arm: str  # a key of `ENCODERS`, or `gemma_tuned`
    labels: int  # labelled scenes of a kind
    seed: int = 0
    dynamics: str = "cosmos"  # folder in `weights`
    rate: float = 1.0  # share of the recipe's `question_learning_rate`, one of `RATES`
    easy: bool = False  # whether labelled scenes are of the easiest level

    @property
    def aligned(self) -> str:
        """Name of the run whose alignment it continues: that has no labels."""
        return f"aligned-{ENCODERS[self.arm]}-{self.dynamics}-{self.seed}"

    @property
    def name(self) -> str:
        """Folder of the model in `weights`, and of its runs."""
        return f"{self.arm}-{self.dynamics}-{self.labels}{'-easy' * self.easy}-rate-{self.rate:g}-{self.seed}"

    @property
    def own_arm(self) -> str:
        """The arm of an evaluation that answers with this model."""
        return "world" if self.arm in ENCODERS else "world_off"


def train_models(experiment: Experiment, models: Sequence[Trained]) -> None:
    """Train what is missing of `models`; those of one encoder, dynamics and seed share their alignment."""
    out, config = experiment.fusions, experiment.settings.config
    missing = [model for model in models if not (out / "weights" / model.name / "config.json").is_file()]
    if not missing:
        return
    # 1. What they read: clips without labels, and conversations about as many labelled scenes as each may see
    copy_bases(experiment)
    experiment.split("fusion")
    hardest = experiment.folder / "scenes" / "fusion"
    if not (out / "clips").is_dir():
        write_clips(hardest, out / "clips", seed=config.seed)
    for model in missing:
        scenes = easy_scenes(experiment) if model.easy else hardest
        if not (talks := _conversations(out, model)).is_dir():
            write_conversations(scenes, talks, labels=model.labels, seed=config.seed)
    # 2. Alignments, each once, then questions
    alignments: dict[str, Lane] = {
        model.aligned: align_lane(
            out, replace(config, seed=model.seed), model.aligned, ENCODERS[model.arm], model.dynamics
        )
        for model in missing
        if model.arm in ENCODERS
    }
    run_lanes([*alignments.values()], config.workers)
    run_lanes([_questions(experiment, model) for model in missing], config.workers)


def _questions(experiment: Experiment, model: Trained) -> Lane:
    out, recipe = experiment.fusions, experiment.settings.config
    config = replace(recipe, seed=model.seed, question_learning_rate=model.rate * recipe.question_learning_rate)
    talks = _conversations(out, model)
    if model.arm not in ENCODERS:
        return tuned_lane(out, config, model.name, conversations=talks, freeze_gemma_vision=False)
    start = out / model.aligned / "align"
    return question_lane(out, config, model.name, start, conversations=talks, cosmos=model.dynamics)


def _conversations(out: Path, model: Trained) -> Path:
    return out / f"conversations-{model.labels}{'-easy' * model.easy}"


def easy_scenes(experiment: Experiment, split: str = "fusion") -> Path:
    """Labelled scenes of the easiest level; other kinds than those of the experiment have one level."""
    counts = experiment.settings.config.counts(split)
    if split == "fusion":
        counts = {kind: min(count, experiment.settings.labels) for kind, count in counts.items()}
    return experiment.more(f"{split}-easy-{sum(counts.values())}", split, counts, level=0).folder


def copy_bases(experiment: Experiment) -> None:
    """The base models, and beside them the world with every other dynamics that fusions are trained with."""
    copy_base_models(experiment.weights, experiment.fusions / "weights")
    for folder in experiment.settings.dynamics:
        with_dynamics(experiment, folder)


def check_dynamics(folders: Sequence[Path]) -> None:
    """Raises a FileNotFoundError if a folder has no transformer."""
    for folder in folders:
        if not (folder / "transformer" / "config.json").is_file():
            raise MissingFileError(
                f"{folder / 'transformer' / 'config.json'}: no such file; expected a folder of dynamics"
            )


def with_dynamics(experiment: Experiment, dynamics: Path) -> str:
    """The experiment's world with the transformer in `dynamics`; returns its name in `weights`."""
    name = f"cosmos-{digest(dynamics / 'transformer')}"
    target = experiment.fusions / "weights" / name
    if not (target / "model_index.json").is_file():
        package_cosmos(experiment.cosmos, target, dynamics)
    return name


def variant(experiment: Experiment, model: Path, name: str, cosmos: str = "cosmos", **config: Any) -> Path:
    """A copy of `model` as `weights`/<name>, with the world `weights`/<cosmos> and other keys of its config."""
    copy_bases(experiment)
    target = experiment.fusions / "weights" / name
    shutil.copytree(model, target, dirs_exist_ok=True)
    path = target / "config.json"
    bases = {"gemma_model_name": "../gemma", "cosmos_model_name": f"../{cosmos}"}
    changed = json.loads(path.read_text(encoding="utf-8")) | bases | config
    write_text(path, json.dumps(changed, indent=2, sort_keys=True) + "\n")
    return target


def other_law(experiment: Experiment) -> str:
    """Train the dynamics further on unlabelled clips of the other law; returns the world's name in `weights`."""
    settings = experiment.settings
    name = f"cosmos-{LAW}-{settings.law_clips}-{settings.law_steps}"
    trained = experiment.folder / "dynamics" / name
    if not (trained / "dynamics.json").is_file():
        counts: dict[str, int] = dict.fromkeys(HARD_KINDS, settings.law_clips)
        clips = experiment.more(f"{LAW}-{settings.law_clips}/train", "train", counts, law=LAW)
        stage = settings.config.of_dynamics()
        stage |= {"steps": settings.law_steps, "start_from": experiment.cosmos / "transformer"}
        stage["mirrored"] = not LAWS[LAW].tilt
        train_dynamics(clips.folder.parent, experiment.cosmos, trained, **stage)
    return with_dynamics(experiment, trained)
