"""Lines 1, 2 and 6: what can be learned from the present alone, and what a rollout gains over that.

Validation scenes decide: which families qualify, the learning rate of every arm, and which rival is the bar. Test
scenes give the numbers that are reported.

D  dynamics        S  seeds of the training        n  scenes
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from theworld.evaluation.tracing import share_of
from theworld.nano.kinds import KINDS
from theworld.nano.scenes import SceneSet, load
from theworld.utils.imports import require

from .answers import Answers, hits, learned_answers, probe_ends, trained_answers
from .choices import RIVALS, TRAINED, choose_rates, shares_right
from .models import Trained, easy_scenes, train_models, with_dynamics
from .settings import FAMILIES, HARD_KINDS, Experiment

Array = NDArray[np.float64]

FEW_CEILING, MANY_CEILING, PROBE_FLOOR = 0.70, 0.80, 0.99
"""A family qualifies if its best static learner stays below the first two, with few and with the most labels, and a
probe of the true end reaches the third."""

RESAMPLES = 5_000


def bars(experiment: Experiment) -> dict[str, Any]:
    """By family: the best static learner for each number of labels, the probe of the true end, and `qualifies`.

    The shares of right answers are those on test scenes. Beside them, `validation` is the share on validation scenes,
    which decides whether a family qualifies.
    """
    settings, train = experiment.settings, experiment.split("fusion")
    sets = {name: experiment.split(name) for name in ("test", "validation")}
    found: dict[str, Any] = {}
    for family in FAMILIES:
        # 1. The best learner for each number of labels
        by_labels: dict[str, Any] = {}
        for labels in sorted({settings.labels, *settings.curve}):
            learned = learned_answers(experiment, "hard", family, sets, train, sets["validation"], labels)
            right = {
                name: hits(scenes, family, told := learned["answers"][name], [*told]) for name, scenes in sets.items()
            }
            chosen = next(row for row in learned["learners"] if row["chosen"])
            by_labels[str(labels)] = {
                **(share_of(right["test"]) or {}),
                "validation": float(right["validation"].mean()),
                "learner": chosen["learner"],
                "reads": chosen["features"],
            }
        # 2. What it says of the family, on validation scenes
        few, many = (by_labels[str(n)]["validation"] for n in (settings.labels, max(settings.labels, *settings.curve)))
        probe = probe_ends(experiment, family, sets, train)
        qualifies = few <= FEW_CEILING and many <= MANY_CEILING and probe["validation"] >= PROBE_FLOOR
        found[family] = {"labels": by_labels, "probe": probe, "qualifies": qualifies}
    return found


def gain(experiment: Experiment) -> dict[str, Any]:
    """The rollout against every rival on the same labels, and accuracy over the number of labels for the first seed.

    Returns:
        `families`: by family `compare_arms`; `curve`: by arm, family and number of labels, the share of right answers;
        `rates`: `choose_rates`.
    """
    settings, test, validation = experiment.settings, experiment.split("test"), experiment.split("validation")
    rates = choose_rates(experiment, validation)
    # 1. Everything that is trained, for the comparison and for the curve

    def trained(arm: str, labels: int, seed: int, world: str = "cosmos") -> Trained:
        return Trained(arm, labels, seed, world, rate=rates[arm]["rate"])

    worlds = ["cosmos", *(with_dynamics(experiment, folder) for folder in settings.dynamics)]
    rollouts = [[trained("rollout", settings.labels, seed, world) for seed in settings.seeds] for world in worlds]
    rivals = {arm: [trained(arm, settings.labels, seed) for seed in settings.seeds] for arm in RIVALS[1:]}
    curves = {
        arm: [trained(arm, labels, settings.seeds[0]) for labels in sorted({settings.labels, *settings.curve})]
        for arm in ("rollout", "current_frame")
    }
    train_models(experiment, [model for models in (*rollouts, *rivals.values(), *curves.values()) for model in models])
    # 2. The comparison
    sets = {"test": test, "validation": validation}
    learned = _learned(experiment, "hard", sets, experiment.split("fusion"), validation)
    asked = [trained_answers(experiment, models, test, "hard") for models in rollouts]
    others = {arm: trained_answers(experiment, models, test, "hard") for arm, models in rivals.items()}
    deciding = {arm: trained_answers(experiment, models, validation, "validation") for arm, models in rivals.items()}
    on_test, on_validation = ({"static_learner": [learned[name]]} for name in sets)
    families = compare_arms(test, asked, on_test | others, shares_right(validation, on_validation | deciding))
    # 3. The curve
    curve: dict[str, Any] = {arm: {} for arm in curves}
    for arm, models in curves.items():
        for model, answers in zip(models, trained_answers(experiment, models, test, "hard"), strict=True):
            for family in FAMILIES:
                right = share_of(hits(test, family, answers[family], [*answers[family]]))
                curve[arm].setdefault(family, {})[str(model.labels)] = right
    return {"families": families, "curve": curve, "rates": rates}


def transfer(experiment: Experiment) -> dict[str, Any]:
    """What is learned from labels on the easiest scenes alone, asked about scenes of every level; one seed.

    Returns:
        `families`: `compare_arms` on the hardest scenes; `levels`: by arm and family, the share of right answers on
        each level, from the easiest. Learning rates are those of `gain`.
    """
    settings, counts = experiment.settings, experiment.settings.config.counts("test")
    train, validation = (load(easy_scenes(experiment, split)) for split in ("fusion", "validation"))
    rates = choose_rates(experiment, experiment.split("validation"))
    models = {
        arm: [Trained(arm, settings.labels, settings.seeds[0], rate=rates[arm]["rate"], easy=True)] for arm in TRAINED
    }
    train_models(experiment, [model for own in models.values() for model in own])
    # 1. Scenes of every level, the hardest last, and those that decide which rival is the bar
    hardest = max(KINDS[kind].levels for kind in HARD_KINDS) - 1
    sets = {
        f"level-{level}": experiment.more(
            f"test-level-{level}", "test", {kind: counts[kind] for kind in HARD_KINDS}, level=level
        )
        for level in range(hardest)
    }
    sets |= {"hard": experiment.split("test"), "validation": experiment.split("validation")}
    # 2. Answers of every arm
    learned = _learned(experiment, "easy", sets, train, validation)
    answers = {
        name: {arm: trained_answers(experiment, own, scenes, name) for arm, own in models.items()}
        | {"static_learner": [learned[name]]}
        for name, scenes in sets.items()
    }
    deciding = answers.pop("validation")
    # 3. Accuracy by level, and the comparison on the hardest
    levels: dict[str, Any] = {}
    for name, arms in answers.items():
        for arm, (told,) in arms.items():
            for family in FAMILIES:
                right = share_of(hits(sets[name], family, told[family], [*told[family]]))
                levels.setdefault(arm, {}).setdefault(family, []).append(right)
    arms = answers["hard"]
    families = compare_arms(sets["hard"], [arms.pop("rollout")], arms, shares_right(sets["validation"], deciding))
    return {"families": families, "levels": levels}


def _learned(
    experiment: Experiment, name: str, sets: Mapping[str, SceneSet], train: SceneSet, validation: SceneSet
) -> dict[str, Answers]:
    """By key of `sets`, the answers of the best static learner of every family."""
    labels = experiment.settings.labels
    learned = {
        family: learned_answers(experiment, name, family, sets, train, validation, labels)["answers"]
        for family in FAMILIES
    }
    return {key: {family: told[key] for family, told in learned.items()} for key in sets}


def compare_arms(
    scenes: SceneSet,
    rollouts: Sequence[Sequence[Answers]],
    rivals: Mapping[str, Sequence[Answers]],
    validation: Mapping[str, Mapping[str, float]],
) -> dict[str, Any]:
    """By family: `n`, `rollout` with its interval, and of each rival its accuracy and the paired `difference`.

    The bar is the rival that is right most often on validation scenes.

    Args:
        rollouts: Answers by dynamics and seed.
        rivals: Answers by rival and seed.
        validation: Shares of right answers on validation scenes, by rival and family.
    """
    found: dict[str, Any] = {}
    for family in FAMILIES:
        clips = [*rollouts[0][0][family]]
        ours = np.array([[hits(scenes, family, one[family], clips) for one in seeds] for seeds in rollouts])
        told: dict[str, Any] = {}
        for name, seeds in rivals.items():
            theirs = np.array([hits(scenes, family, one[family], clips) for one in seeds])
            decides = {"accuracy": float(theirs.mean()), "validation": validation[name][family]}
            told[name] = decides | resampled(ours, theirs)
        own = {key: value for key, value in resampled(ours).items() if key != "p"}
        bar = max(told, key=lambda name: told[name]["validation"])
        by_seed = ours.mean(axis=2).tolist()
        found[family] = {"n": len(clips), "rollout": own, "by_seed": by_seed, "bar": bar, "rivals": told}
    return correct(found)


def correct(families: dict[str, Any]) -> dict[str, Any]:
    """`compare_arms` with `p_holm`: Holm's correction over all families and rivals."""
    rows = [row for told in families.values() for row in told["rivals"].values()]
    holm = require("eval", "statsmodels.stats.multitest").multipletests
    for row, p in zip(rows, holm([row["p"] for row in rows], method="holm")[1].tolist(), strict=True):
        row["p_holm"] = p
    return families


def resampled(ours: Array, theirs: Array | None = None) -> dict[str, float]:
    """Mean of `ours` (D, S, n), or of its difference to `theirs` (S', n), with a 95 % bootstrap interval and p.

    Dynamics, seeds of either side, and scenes are all drawn anew, each where there are several; the two sides keep the
    same scenes. `p` is two-sided: how rarely a resampled difference has the other sign.
    """
    others = np.zeros((1, ours.shape[2])) if theirs is None else theirs
    sizes = (*ours.shape[:2], len(others), ours.shape[2])
    several = [axis for axis, size in enumerate(sizes) if size > 1]

    def statistic(*drawn: Any) -> float:
        places: list[Any] = [np.arange(size) for size in sizes]
        for axis, chosen in zip(several, drawn, strict=True):
            places[axis] = chosen
        worlds, seeds, their_seeds, scenes = places
        counts = np.bincount(scenes, minlength=sizes[3]) / len(scenes)
        return float((ours[np.ix_(worlds, seeds)].mean((0, 1)) - others[their_seeds].mean(0)) @ counts)

    bootstrap = require("eval", "scipy.stats").bootstrap
    data = [np.arange(sizes[axis]) for axis in several]
    found = bootstrap(data, statistic, vectorized=False, method="percentile", n_resamples=RESAMPLES, rng=0)
    drawn, name = found.bootstrap_distribution, "estimate" if theirs is None else "difference"
    p = min(1.0, 2 * (1 + int(min((drawn <= 0).sum(), (drawn >= 0).sum()))) / (1 + len(drawn)))
    estimate = float(ours.mean() - others.mean())
    return {
        name: estimate,
        "low": float(found.confidence_interval.low),
        "high": float(found.confidence_interval.high),
        "p": p,
    }
