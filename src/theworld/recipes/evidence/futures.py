"""Lines 3, 4, 5, 7 and 8: how answers depend on rollouts, and whether world tokens harm static questions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from theworld.evaluation.ask.arms import FULL
from theworld.evaluation.score import one_answer_families
from theworld.evaluation.stats.significance import compare
from theworld.evaluation.tracing import share_of
from theworld.evaluation.verdict import REFERENCE
from theworld.nano.scenes import SceneSet
from theworld.utils.errors import TheWorldError
from theworld.utils.imports import require

from .answers import Answers, answers_of, ask, learned_answers
from .models import other_law, variant, with_dynamics
from .settings import FAMILIES, HARD_KINDS, LAW, Experiment

SPARE = 1.35  # factor on the number of scenes that should give the wanted number of wrong imagined ends


def trace(experiment: Experiment) -> dict[str, Any]:
    """Return the figures of `evaluation.tracing.follow` for the trained model, by family.

    If a family has too few wrong imagined ends on the test scenes, the model is traced once more on a larger set.
    """
    settings = experiment.settings
    counts = settings.config.counts("test")
    found = _traced(experiment, "traced", experiment.weights / "theworld", experiment.split("test"))
    rates = [row["wrong"] / counts[FAMILIES[family]] for family, row in found.items()]
    wanted = max((settings.wrong_ends * SPARE / rate if rate else math.inf for rate in rates), default=0)
    most = max(counts[kind] for kind in HARD_KINDS)
    more = int(min(settings.most_traced, max(most, wanted)))
    if more <= most:
        return found
    scenes = experiment.more(f"test-{more}", "test", dict.fromkeys(HARD_KINDS, more))
    return _traced(experiment, "traced", experiment.weights / "theworld", scenes)


def _traced(experiment: Experiment, name: str, model: Any, scenes: SceneSet) -> dict[str, Any]:
    """Return the figures of error tracing by family.

    Raises:
        ValueError: The evaluation has no error tracing.
    """
    name = f"{name}-{len(scenes)}"

    def compute() -> dict[str, Any]:
        result = ask(experiment, name, model, scenes, traced=True)
        traced = result.metrics["tracing"]
        if not traced:
            raise TheWorldError(
                f"{model}: its errors were not traced; the log says why. Remove {result.settings.output} and run the "
                "command again"
            )
        return {family.partition("/")[2]: row for family, row in traced.items()}

    return experiment.result(f"traced/{name}", {"scenes": len(scenes)}, compute)


def law_swap(experiment: Experiment) -> dict[str, Any]:
    """Measure how often each arm gives the answer of the new law, on scenes whose answer differs between the laws.

    Only the new dynamics were trained on clips of the new law, without labels.

    Returns:
        By family and arm: `new` and `old`, the shares of answers that are right under the new and under the old law.
    """
    settings, model = experiment.settings, experiment.weights / "theworld"
    # The end differs in all of these scenes, the touch in some
    count = 2 * max(settings.config.counts("test")[kind] for kind in HARD_KINDS)
    scenes = experiment.more(f"disputed-{count}", "test", dict.fromkeys(HARD_KINDS, count), law=LAW)
    # 1. Answers of every arm
    world = other_law(experiment)
    new = variant(experiment, model, f"theworld-{world}", world)
    controls = experiment.weights / "controls"
    arms: dict[str, Answers] = {
        "new_dynamics": answers_of(experiment, f"law-{world}", new, scenes),
        "old_dynamics": answers_of(experiment, "law-old", model, scenes),
        "current_frame": answers_of(experiment, "law-current_frame", controls / "current_frame", scenes),
        "gemma_tuned": answers_of(experiment, "law-gemma_tuned", controls / "gemma_tuned", scenes, "world_off"),
    }
    train, validation = experiment.split("fusion"), experiment.split("validation")
    arms["static_learner"] = {}
    for family in FAMILIES:
        learned = learned_answers(experiment, "law", family, {"new": scenes}, train, validation, len(train))
        arms["static_learner"][family] = learned["answers"]["new"]
    # 2. Scenes whose answer differs between the laws, and the law that each arm follows
    found: dict[str, Any] = {}
    for family in FAMILIES:
        ends: dict[str, tuple[str, str]] = {}
        for clip in arms["new_dynamics"][family]:
            record = scenes.records[int(clip)]
            ends[clip] = record["outcomes"][family], record["usual_outcomes"][family]
        disputed = [clip for clip, (after, before) in ends.items() if after != before]
        if disputed:
            found[family] = {
                name: {
                    law: share_of([told[family][clip] == ends[clip][place] for clip in disputed])
                    for place, law in enumerate(("new", "old"))
                }
                for name, told in arms.items()
            }
    return found


def dose_response(experiment: Experiment) -> dict[str, Any]:
    """Fit the accuracy of answers to the accuracy of imagined ends, over weaker dynamics and denoising steps.

    Returns:
        `models`: for each its name, `imagined` and `answer`, the accuracies by family and their means; `fit`: the
        result of `fit` for the means; `families`: the result of `fit` for each family.
    """
    model, settings = experiment.weights / "theworld", experiment.settings
    # 1. The models
    chosen = [
        (f"{steps} denoising steps", variant(experiment, model, f"theworld-steps-{steps}", world_inference_steps=steps))
        for steps in settings.sampler_steps
    ]
    for folder in settings.checkpoints:
        world = with_dynamics(experiment, folder)
        chosen.append((folder.name, variant(experiment, model, f"theworld-{world}", world)))
    # 2. Accuracy of imagined ends and answers of each model
    scenes, models = experiment.split("test"), list[dict[str, Any]]()
    for name, folder in chosen:
        traced = _traced(experiment, folder.name, folder, scenes)
        told = {
            family: {"imagined": row["imagined_right"]["estimate"], "answer": row["answer_right"]["estimate"]}
            for family, row in traced.items()
        }
        means = {key: float(np.mean([row[key] for row in told.values()])) for key in ("imagined", "answer") if told}
        models.append({"name": name, **means, "families": told})
    # 3. Linear fits
    families = {family: [one["families"][family] for one in models if family in one["families"]] for family in FAMILIES}
    fits = {family: fit(points) for family, points in families.items()}
    return {"models": models, "fit": fit([one for one in models if one["families"]]), "families": fits}


def fit(points: Sequence[dict[str, Any]]) -> dict[str, float] | None:
    """Fit `answer` to `imagined` by least squares: `slope`, `intercept` and `r`, or `None` if either is constant."""
    imagined, answer = ([point[key] for point in points] for key in ("imagined", "answer"))
    if len(set(imagined)) < 2 or len(set(answer)) < 2:
        return None
    line = require("eval", "scipy.stats").linregress(imagined, answer)
    return {"slope": float(line.slope), "intercept": float(line.intercept), "r": float(line.rvalue)}


def no_harm(experiment: Experiment) -> list[dict[str, Any]]:
    """Compare the full model with plain Gemma 3 on static questions about all frames, for each number of latent frames.

    Families in which all items have one answer do not count.

    Returns:
        A row per number: `num_world_steps`; `difference` in accuracy with `low` and `high`; `n`; `gemma`, the accuracy
        of plain Gemma 3; `worst`, the family with the lowest difference.
    """
    # 1. Answers of Gemma and of the full model with every number of latent frames
    scenes, questions = experiment.split("test"), experiment.settings.static_questions
    every = [*range(experiment.settings.config.world_steps + 1)]
    settings: dict[str, Any] = {"families": "static", "num_samples": questions, "num_world_steps": every}
    arms = f"{REFERENCE},{FULL},{FULL}_0"
    asked = ask(experiment, f"no-harm-{questions}", experiment.weights / "theworld", scenes, arms=arms, **settings)
    # 2. Without families of one answer
    told = asked.predictions[REFERENCE]
    counted = ~np.isin([row.family for row in told], [*one_answer_families(told)])
    gemma = [row for row, counts in zip(told, counted, strict=True) if counts]
    clusters, families = [row.cluster for row in gemma], np.array([row.family for row in gemma])
    theirs, rows = np.array([row.score for row in gemma]), list[dict[str, Any]]()
    # 3. The difference for every number, and the family with the largest loss
    for steps in every:
        arm = FULL if steps == every[-1] else f"{FULL}_{steps}"
        ours = np.array([row.score for row in asked.predictions[arm]])[counted]
        by_family = {str(family): float((ours - theirs)[families == family].mean()) for family in np.unique(families)}
        worst = min(by_family, key=lambda family: by_family[family])
        found = compare(ours, theirs, clusters)
        kept = {key: found[key] for key in ("difference", "low", "high", "n")}
        shown = {"family": worst.partition("/")[2], "difference": by_family[worst]}
        rows.append({"num_world_steps": steps, **kept, "gemma": float(theirs.mean()), "worst": shown})
    return rows


def verdicts(experiment: Experiment) -> dict[str, Any]:
    """Run all arms of `theworld.evaluate`. Returns `outcome` and `text` of the verdict on each kind of questions."""
    settings, scenes = experiment.settings, experiment.split("test")
    asked: dict[str, Any] = {"num_samples": settings.questions, "num_futures": settings.futures, "arms": "all"}
    name = f"verdicts-{settings.questions}-{settings.futures}"
    result = ask(experiment, name, experiment.weights / "theworld", scenes, families=None, traced=True, **asked)
    return {kind: {"outcome": told.outcome, "text": told.text} for kind, told in result.verdict.items()}
