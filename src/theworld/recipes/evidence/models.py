"""Models of the experiment: fusions and controls on few labels, and copies of a model with other dynamics."""

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
from theworld.utils.errors import MissingFileError, TheWorldError
from theworld.utils.io import write_text
from theworld.utils.weights import shapes_of

from ..lanes import Lane, run_lanes
from ..nano import align_lane, question_lane, tuned_lane
from ..package import copy_base_models, digest, package_cosmos
from .settings import HARD_KINDS, LAW, Experiment

ENCODERS = {"rollout": "cosmos", "current_frame": "still"}
"""World encoder by arm. `gemma_tuned` has none."""


@dataclass(frozen=True)
class Trained:
    """One model that is trained on few labels."""

    arm: str  # a key of `ENCODERS`, or `gemma_tuned`
    labels: int  # labelled scenes of each kind
    seed: int = 0
    dynamics: str = "cosmos"  # folder in `weights`
    rate: float = 1.0  # share of the recipe's `question_learning_rate`, one of `RATES`
    easy: bool = False  # whether labelled scenes are of the easiest level

    @property
    def aligned(self) -> str:
        """Name of the align run that this model continues. That run uses no labels."""
        return f"aligned-{ENCODERS[self.arm]}-{self.dynamics}-{self.seed}"

    @property
    def name(self) -> str:
        """Name of the folder of the model in `weights`, and of its runs."""
        return f"{self.arm}-{self.dynamics}-{self.labels}{'-easy' * self.easy}-rate-{self.rate:g}-{self.seed}"

    @property
    def own_arm(self) -> str:
        """Arm of an evaluation that gives the answers of this model."""
        return "world" if self.arm in ENCODERS else "world_off"


def train_models(experiment: Experiment, models: Sequence[Trained]) -> None:
    """Train the missing ones of `models`. Models of one encoder, dynamics and seed share an align run."""
    out, config = experiment.fusions, experiment.settings.config
    missing = [model for model in models if not (out / "weights" / model.name / "config.json").is_file()]
    if not missing:
        return
    # 1. Training data: clips without labels, and conversations about `labels` scenes of each kind that is asked about;
    # of both also mirrored copies, as the static learners have them
    copy_bases(experiment)
    experiment.split("fusion")
    hardest = experiment.folder / "scenes" / "fusion"
    if not (out / "clips").is_dir():
        write_clips(hardest, out / "clips", seed=config.seed, mirrored=True)
    for model in missing:
        scenes = easy_scenes(experiment) if model.easy else hardest
        if not (talks := _conversations(out, model)).is_dir():
            write_conversations(scenes, talks, labels=model.labels, kinds=HARD_KINDS, seed=config.seed, mirrored=True)
    # 2. Every align run once, then questions
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
    """Return the folder of labelled scenes of the easiest level, in `fusion` at most `labels` of each kind."""
    counts = experiment.settings.config.counts(split)
    if split == "fusion":
        counts = {kind: min(count, experiment.settings.labels) for kind, count in counts.items()}
    return experiment.more(f"{split}-easy-{sum(counts.values())}", split, counts, level=0).folder


def copy_bases(experiment: Experiment) -> None:
    """Copy the base models to `fusions`/weights, and package the world with every other dynamics of the settings."""
    copy_base_models(experiment.weights, experiment.fusions / "weights")
    for folder in experiment.settings.dynamics:
        with_dynamics(experiment, folder)


def check_dynamics(cosmos: Path, groups: Sequence[Sequence[Path]]) -> None:
    """Check the folders of dynamics of each group, which are compared with each other and with those of `cosmos`.

    Raises:
        FileNotFoundError: A folder has no transformer.
        ValueError: A transformer has other shapes than that of `cosmos`, is damaged, or is given twice.
    """
    expected = _shapes(cosmos / "transformer")
    for folders in groups:
        known = {digest(cosmos / "transformer"): cosmos}
        for folder in folders:
            transformer = folder / "transformer"
            if not (transformer / "config.json").is_file() or not any(transformer.glob("*.safetensors")):
                raise MissingFileError(f"{transformer}: no config.json and weights; expected a folder of dynamics")
            if _shapes(transformer) != expected:
                raise TheWorldError(f"{transformer}: expected weights with the shapes of {cosmos / 'transformer'}")
            same = known.setdefault(digest(transformer), folder)
            if same is not folder:
                raise TheWorldError(f"{folder}: has the same dynamics as {same}; leave it out")


def _shapes(transformer: Path) -> dict[str, tuple[int, ...]]:
    return shapes_of(sorted(map(str, transformer.glob("*.safetensors"))))


def with_dynamics(experiment: Experiment, dynamics: Path) -> str:
    """Package the world of the experiment with the transformer in `dynamics`. Returns its folder name in `weights`."""
    name = f"cosmos-{digest(dynamics / 'transformer')}"
    target = experiment.fusions / "weights" / name
    if not (target / "model_index.json").is_file():
        package_cosmos(experiment.cosmos, target, dynamics)
    return name


def variant(experiment: Experiment, model: Path, name: str, cosmos: str = "cosmos", **config: Any) -> Path:
    """Copy `model` to `weights`/<name> with the world `weights`/<cosmos>; `config` overrides keys. Returns the path."""
    copy_bases(experiment)
    target = experiment.fusions / "weights" / name
    shutil.copytree(model, target, dirs_exist_ok=True)
    path = target / "config.json"
    bases = {"gemma_model_name": "../gemma", "cosmos_model_name": f"../{cosmos}"}
    changed = json.loads(path.read_text(encoding="utf-8")) | bases | config
    write_text(path, json.dumps(changed, indent=2, sort_keys=True) + "\n")
    return target


def other_law(experiment: Experiment) -> str:
    """Train the dynamics further on unlabelled clips of `LAW`. Returns the folder name of the world in `weights`."""
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
