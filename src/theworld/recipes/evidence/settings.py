"""Sizes of the experiment, its folder, and the results in it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from theworld.nano.scenes import SceneSet, generate, load
from theworld.utils.errors import MissingFileError, TheWorldError
from theworld.utils.hub import NANO_WEIGHTS
from theworld.utils.io import write_json
from theworld.utils.logging import logger

from ..nano import Recipe, simulate

KINDS = ("pegs", "bumpers")
FAMILIES: dict[str, str] = {
    "peg_bin": "pegs",
    "wall": "bumpers",
    "bumper_touch": "bumpers",
    "peg_touch": "pegs",
}
"""Predictive families that may qualify, each with its kind of scenes."""

LAW = "tilted"
"""The law that the dynamics are trained further on; a key of `LAWS`."""


@dataclass(frozen=True)
class EvidenceSettings:
    """What is trained and asked. Defaults are those of the experiment."""

    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)  # of the fusions and controls
    labels: int = 500  # labelled scenes of a kind
    curve: tuple[int, ...] = (50, 100, 250, 500, 1_000, 2_000)  # numbers of labels; the last one decides, too
    dynamics: tuple[
        Path, ...
    ] = ()  # folders of `transformer`: other seeds of the dynamics, fusions of each are trained
    checkpoints: tuple[Path, ...] = ()  # folders of `transformer`: weaker dynamics of the trained model
    sampler_steps: tuple[int, ...] = (1, 2, 3, 4, 6)  # of the trained model's rollout
    most_traced: int = 4_000  # scenes of a kind, to find `wrong_ends`
    wrong_ends: int = 100  # wrong imaginations of a family
    law_clips: int = 4_000  # clips of a kind, without labels
    law_steps: tuple[int, int] = (1_500, 500)  # of the dynamics: plain, and with the metric
    questions: int = 4_000  # static questions, and questions of the verdicts
    futures: int = 8
    recipe: Recipe = field(default_factory=Recipe)


# Whether everything runs, and a first look: minutes on two cores
QUICK = EvidenceSettings(
    seeds=(0,),
    labels=200,
    curve=(50, 200, 400),
    sampler_steps=(1, 2, 6),
    most_traced=400,
    law_clips=400,
    law_steps=(150, 50),
    questions=1_000,
    futures=2,
    recipe=replace(
        Recipe(),
        train=(100, 100, 100, 400, 400),
        validation=(20, 20, 20, 200, 200),
        fusion=(50, 50, 50, 400, 400),
        test=(50, 50, 50, 300, 300),
        align_steps=300,
        question_steps=300,
    ),
)


@dataclass(frozen=True)
class Experiment:
    """The folder of an experiment: what a line needs is there, or is made and kept."""

    folder: Path
    settings: EvidenceSettings

    @cached_property
    def weights(self) -> Path:
        """Folder of `gemma`, `cosmos`, `theworld` and `controls`: `weights` in the experiment's, else the package's."""
        own = self.folder / "weights"
        chosen = own if own.is_dir() else NANO_WEIGHTS
        for name in ("gemma", "cosmos", "theworld", "controls/current_frame"):
            if not (chosen / name).is_dir():
                raise MissingFileError(f"{chosen / name}: no such folder; `theworld nano train` makes it")
        return chosen

    def check_weights(self) -> None:
        """Remember the weights that the results are of; a ValueError if those in the folder are of others."""
        path = self.folder / "results" / "weights.json"
        own = {name: digest(self.weights / name) for name in ("gemma", "cosmos", "theworld", "controls")}
        if path.is_file() and json.loads(path.read_text(encoding="utf-8")) != own:
            raise TheWorldError(
                f"{path.parent}: of other weights than those in {self.weights}; choose another folder, or remove "
                "results, fusions, dynamics and evaluations there"
            )
        write_json(path, own)

    @property
    def cosmos(self) -> Path:
        """The world whose latents are read."""
        return self.weights / "cosmos"

    @property
    def fusions(self) -> Path:
        """Folder of the models that the experiment trains, laid out as that of `theworld nano train`."""
        return self.folder / "fusions"

    def result(self, name: str, inputs: Mapping[str, Any], compute: Callable[[], Any]) -> Any:
        """The JSON value in results/<name>.json; computed where it is missing or was computed from other `inputs`."""
        path, wanted = self.folder / "results" / f"{name}.json", json.loads(json.dumps(dict(inputs), default=str))
        if path.is_file():
            kept = json.loads(path.read_text(encoding="utf-8"))
            if kept["inputs"] == wanted:
                return kept["result"]
        logger.info("evidence: %s", name)
        write_json(path, {"inputs": wanted, "result": compute()})
        return json.loads(path.read_text(encoding="utf-8"))["result"]

    def split(self, name: str) -> SceneSet:
        """Scenes of a split of the recipe: those of the hardest level."""
        simulate(self.folder, name, self.settings.recipe)
        return load(self.folder / "scenes" / name)

    def more(self, name: str, split: str, counts: Mapping[str, int], **options: Any) -> SceneSet:
        """Other scenes of a split in scenes/<name>; `options` are `level` and `law`."""
        folder = self.folder / "scenes" / name
        if folder.is_dir():
            return load(folder)
        return generate(folder, split, dict(counts), self.settings.recipe.workers, **options)


def digest(folder: Path) -> str:
    """What identifies the weights below a folder."""
    found = hashlib.sha256()
    for path in sorted(folder.rglob("*.safetensors")):
        with path.open("rb") as file:
            found.update(hashlib.file_digest(file, "sha256").digest())
    return found.hexdigest()[:12]
