"""Lines 1, 2 and 6: accuracy from the present alone, and the gain of a rollout.

Validation scenes decide which families qualify, the learning rate of every arm, and which rival is the bar. Reported
numbers are measured on test scenes.

Shapes: `D` dynamics, `S` training seeds, `n` scenes.
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

# A family qualifies within these limits
FEW_CEILING = 0.70  # largest accuracy of the best static learner with `labels` labels
MANY_CEILING = 0.80  # the same with the largest number of labels
PROBE_FLOOR = 0.99  # smallest accuracy of a probe of the true end

RESAMPLES = 5_000


def bars(experiment: Experiment) -> dict[str, Any]:
    """Measure static learners and the probe of the true end, and decide which families qualify.

    Returns:
        By family: `labels`, by number of labels the accuracy of the best static learner on test scenes, with its
        accuracy on `validation` scenes; `probe`, the accuracy of the probe by set of scenes; `qualifies`, decided on
        validation scenes with the numbers of labels in `decided_with`.
    """
    settings, train = experiment.settings, experiment.split("fusion")
    sets = {name: experiment.split(name) for name in ("test", "validation")}
    numbers = sorted({settings.labels, *settings.curve})
    few, many = settings.labels, numbers[-1]
    found: dict[str, Any] = {}
    for family in FAMILIES:
        # 1. The best learner for each number of labels
        by_labels: dict[str, Any] = {}
        for labels in numbers:
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
        # 2. Whether the family qualifies, on validation scenes
        probe = probe_ends(experiment, family, sets, train)
        limits = ((few, FEW_CEILING), (many, MANY_CEILING))
        hard = all(by_labels[str(labels)]["validation"] <= ceiling for labels, ceiling in limits)
        qualifies = hard and probe["validation"] >= PROBE_FLOOR
        found[family] = {"labels": by_labels, "probe": probe, "decided_with": [few, many], "qualifies": qualifies}
    return found


def gain(experiment: Experiment) -> dict[str, Any]:
    """Compare the rollout with every rival on the same labels. For the first seed, also vary the number of labels.

    Returns:
        `families`, the result of `compare_arms`; `curve`, the accuracy by arm, family and number of labels; `rates`,
        the result of `choose_rates`.
    """
    settings, test, validation = experiment.settings, experiment.split("test"), experiment.split("validation")
    rates = choose_rates(experiment, validation)
    # 1. Train all models, for the comparison and for the curve

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
    """Train all arms on labels of the easiest scenes, with one seed and the learning rates of `gain`; ask all levels.

    Returns:
        `families`, the result of `compare_arms` on the hardest scenes; `levels`, by arm and family the accuracy on each
        level, from the easiest.
    """
    settings, counts = experiment.settings, experiment.settings.config.counts("test")
    train, validation = (load(easy_scenes(experiment, split)) for split in ("fusion", "validation"))
    rates = choose_rates(experiment, experiment.split("validation"))
    models = {
        arm: [Trained(arm, settings.labels, settings.seeds[0], rate=rates[arm]["rate"], easy=True)] for arm in TRAINED
    }
    train_models(experiment, [model for own in models.values() for model in own])
    # 1. Test scenes of every level, the hardest last, and validation scenes
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
    """Return the answers of the best static learner of every family, by key of `sets`."""
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
    """Compare the accuracy of the rollout with every rival, on the same scenes.

    Args:
        rollouts: Answers by dynamics and seed.
        rivals: Answers by rival and seed.
        validation: Accuracy on validation scenes, by rival and family.

    Returns:
        By family: `n`, the number of scenes; `rollout`, its accuracy with a 95 % interval; `by_seed`, the same by
        dynamics and seed; `bar`, the rival with the highest accuracy on validation scenes; `rivals`, by rival its
        accuracies and the paired `difference` of the rollout to it, with interval, `p` and `p_holm`.
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
    """Add `p_holm` to the results of `compare_arms`: p with Holm's correction over all families and rivals."""
    rows = [row for told in families.values() for row in told["rivals"].values()]
    holm = require("eval", "statsmodels.stats.multitest").multipletests
    for row, p in zip(rows, holm([row["p"] for row in rows], method="holm")[1].tolist(), strict=True):
        row["p_holm"] = p
    return families


def resampled(ours: Array, theirs: Array | None = None) -> dict[str, float]:
    """Return the mean of `ours` (D, S, n), or of its difference to `theirs` (S', n), with a 95 % bootstrap interval.

    Dynamics, seeds of both sides, and scenes are resampled if there are several of them. Both sides use the same
    resampled scenes.

    Returns:
        `estimate` or `difference`, `low`, `high`, and the two-sided `p`: twice the share of resampled values on the
        rarer side of zero.
    """
    others = np.zeros((1, ours.shape[2])) if theirs is None else theirs
    # 1. The axes with several values, which are resampled
    sizes = (*ours.shape[:2], len(others), ours.shape[2])
    several = [axis for axis, size in enumerate(sizes) if size > 1]

    # 2. The difference for one draw of indices
    def statistic(*drawn: Any) -> float:
        places: list[Any] = [np.arange(size) for size in sizes]
        for axis, chosen in zip(several, drawn, strict=True):
            places[axis] = chosen
        worlds, seeds, their_seeds, scenes = places
        counts = np.bincount(scenes, minlength=sizes[3]) / len(scenes)
        return float((ours[np.ix_(worlds, seeds)].mean((0, 1)) - others[their_seeds].mean(0)) @ counts)

    # 3. Bootstrap, with p from the share of draws on the rarer side of zero
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
