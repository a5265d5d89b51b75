"""Choices on validation scenes: the learning rate of every arm, and the shares that decide which rival is the bar."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from theworld.nano.scenes import SceneSet

from .answers import Answers, hits, trained_answers
from .models import Trained, train_models
from .settings import FAMILIES, RATES, Experiment

KeyT = TypeVar("KeyT", bound=Hashable)

RIVALS = ("static_learner", "current_frame", "gemma_tuned")
"""Arms that see only the present. The best of them on validation scenes is the bar."""

TRAINED = ("rollout", *RIVALS[1:])
"""Arms whose models are trained on the labels."""


def choose_rates(experiment: Experiment, validation: SceneSet) -> dict[str, Any]:
    """Choose the learning rate of every trained arm on validation scenes, with the first seed.

    Returns:
        By arm: `tried`, the mean accuracy over families by learning rate; `chosen`, the best learning rate; `rate`, the
        same as a share of the recipe's rate, one of `RATES`.
    """
    settings, base = experiment.settings, experiment.settings.config.question_learning_rate
    models = {arm: [Trained(arm, settings.labels, settings.seeds[0], rate=rate) for rate in RATES] for arm in TRAINED}
    train_models(experiment, [model for tried in models.values() for model in tried])
    found: dict[str, Any] = {}
    for arm, tried in models.items():
        answers = trained_answers(experiment, tried, validation, "validation")
        shares = shares_right(validation, {model.rate: [told] for model, told in zip(tried, answers, strict=True)})
        means = {rate: float(np.mean([*by_family.values()])) for rate, by_family in shares.items()}
        best = max(means, key=lambda rate: means[rate])
        tried_rates = {f"{rate * base:g}": share for rate, share in means.items()}
        found[arm] = {"tried": tried_rates, "chosen": f"{best * base:g}", "rate": best}
    return found


def shares_right(scenes: SceneSet, arms: Mapping[KeyT, Sequence[Answers]]) -> dict[KeyT, dict[str, float]]:
    """Return the accuracy by key of `arms` and family, on the scenes that all arms were asked about."""
    found: dict[KeyT, dict[str, float]] = {arm: {} for arm in arms}
    for family in FAMILIES:
        asked = [answers[family] for seeds in arms.values() for answers in seeds]
        clips = [clip for clip in asked[0] if all(clip in one for one in asked)]
        for arm, seeds in arms.items():
            right = [hits(scenes, family, answers[family], clips) for answers in seeds]
            found[arm][family] = float(np.mean(right))
    return found


__all__ = ["RIVALS", "TRAINED", "choose_rates", "shares_right"]
