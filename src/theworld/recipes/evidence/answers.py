"""Answers of models and of static learners to the predictive questions about a set of scenes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from theworld.evaluation.learners import best_learner, build_mlp, predict_network, train_network
from theworld.evaluation.result import Result
from theworld.evaluation.run import evaluate
from theworld.evaluation.tasks import micro_world
from theworld.evaluation.tasks.micro_world import MICRO_WORLD
from theworld.nano.places import MIRRORED, answers_by_place
from theworld.nano.scenes import SceneSet

from .models import Trained
from .settings import FAMILIES, Experiment

Answers = dict[str, dict[str, str]]
"""By family and index of the scene, the answer; an empty string if it cannot be parsed."""

Predict = Callable[[Mapping[str, torch.Tensor]], torch.Tensor]
"""Features by name -> the place of each answer (n,)."""

PROBE_STEPS = 3_000
PREDICTIVE = [f"predictive/{family}" for family in FAMILIES]


def ask(
    experiment: Experiment, name: str, model: Path, scenes: SceneSet, *, traced: bool = False, **settings: Any
) -> Result:
    """Evaluate `model` on questions about `scenes`. A latent cache shares rollouts between models of one world.

    Args:
        traced: Whether errors are traced.
        settings: Settings of `theworld.evaluate`. Default: the arm `world` and `PREDICTIVE` families.
    """
    options: dict[str, Any] = {"batch_size": 50, "families": PREDICTIVE, "arms": "world"} | settings
    world = {"cosmos": experiment.cosmos}
    learn, trace = partial(micro_world.learn, **world), partial(micro_world.trace, **world)
    task = replace(MICRO_WORLD, learn=learn, trace=trace if traced else None)
    folders = {
        "output": str(experiment.folder / "evaluations" / name),
        "latent_cache": str(experiment.folder / "latents"),
    }
    return evaluate(model, task, data=str(scenes.folder), **folders, **options)


def answers_of(experiment: Experiment, name: str, model: Path, scenes: SceneSet, arm: str = "world") -> Answers:
    """Return the answers of `model` to the predictive questions about `scenes`. `name` is the name of the result."""

    def compute() -> Answers:
        return read_answers(ask(experiment, name, model, scenes, arms=arm), arm)

    return experiment.result(f"answers/{name}", {"scenes": len(scenes)}, compute)


def trained_answers(experiment: Experiment, models: Iterable[Trained], scenes: SceneSet, name: str) -> list[Answers]:
    """Return the answers of models that were trained for the experiment. `name` is the name of the scenes."""
    weights = experiment.fusions / "weights"
    return [
        answers_of(experiment, f"mirrored/{name}-{one.name}", weights / one.name, scenes, one.own_arm) for one in models
    ]


def read_answers(result: Result, arm: str = "world") -> Answers:
    """Return the predictive answers of one arm of an evaluation."""
    said = {row.id: row.parsed or "" for row in result.predictions[arm]}
    found: Answers = {}
    for item in result.items.items:
        kind, _, family = item.family.partition("/")
        if kind == "predictive":
            found.setdefault(family, {})[str(item.metadata["clip"])] = said[item.id]
    return found


def learned_answers(
    experiment: Experiment,
    name: str,
    family: str,
    scenes: Mapping[str, SceneSet],
    train: SceneSet,
    validation: SceneSet,
    labels: int,
) -> dict[str, Any]:
    """Fit static learners of a family, and return the answers of the best one.

    Args:
        scenes: Scenes to ask about, by name.
        train: The first `labels` scenes with an outcome of the family, and their mirrored copies, are learned from.
        validation: Scenes that decide learner and settings.

    Returns:
        `answers`, by key of `scenes` and index of the scene; `learners`, a row for each learner that was fitted.
    """

    def answer(predict: Predict, asked: SceneSet) -> dict[str, str]:
        clips = [*micro_world.places_of(asked.records, family)]
        told = predict(micro_world.features(np.asarray(asked.frames[clips, 0]), experiment.cosmos)).tolist()
        words = (answers_by_place(asked.records[clip], family)[place] for clip, place in zip(clips, told, strict=True))
        return dict(zip(map(str, clips), words, strict=True))

    def compute() -> dict[str, Any]:
        places = dict([*micro_world.places_of(train.records, family).items()][:labels])
        fitted_on = micro_world.labelled(train.frames, places, experiment.cosmos, MIRRORED[family])
        chosen_on = micro_world.places_of(validation.records, family)
        predict, rows = best_learner(
            family, fitted_on, micro_world.labelled(validation.frames, chosen_on, experiment.cosmos)
        )
        answers = {key: answer(predict, asked) for key, asked in scenes.items()}
        return {"answers": answers, "learners": [{**row, "labels": len(places)} for row in rows]}

    inputs = {"labels": labels, "train": len(train), "validation": len(validation)}
    inputs |= {"scenes": {key: len(asked) for key, asked in scenes.items()}}
    return experiment.result(f"learned/{name}-{labels}-{family}", inputs, compute)


def probe_ends(
    experiment: Experiment, family: str, scenes: Mapping[str, SceneSet], train: SceneSet
) -> dict[str, float]:
    """Return the accuracy of a probe that reads the outcome from the true last latent frame, by key of `scenes`.

    The probe is fitted on all scenes of `train` and their mirrored copies.
    """

    def lasts(clips: NDArray[np.uint8]) -> torch.Tensor:
        return micro_world.latents_of(clips, experiment.cosmos)[:, :, -1]

    def compute() -> dict[str, float]:
        known = micro_world.places_of(train.records, family)
        clips, labels = np.asarray(train.frames[[*known]]), torch.tensor([*known.values()])
        both = torch.cat([lasts(clips), lasts(clips[:, :, :, ::-1])])
        labels = torch.cat([labels, torch.tensor(MIRRORED[family])[labels]])
        reader = train_network(build_mlp, both, labels, steps=PROBE_STEPS, weight_decay=0.05, seed=0)
        right: dict[str, float] = {}
        for key, one in scenes.items():
            asked = micro_world.places_of(one.records, family)
            read = predict_network(reader, lasts(np.asarray(one.frames[[*asked]])))
            right[key] = (read == torch.tensor([*asked.values()])).double().mean().item()
        return right

    inputs = {"train": len(train), "scenes": {key: len(one) for key, one in scenes.items()}}
    return experiment.result(f"probe/{family}", inputs, compute)


def hits(scenes: SceneSet, family: str, answers: Mapping[str, str], clips: Sequence[str]) -> NDArray[np.float64]:
    """Return 1.0 where the answer is the outcome of the scene, else 0.0: (n,), for the scene indices `clips`."""
    return np.array([float(answers[clip] == scenes.records[int(clip)]["outcomes"][family]) for clip in clips])
