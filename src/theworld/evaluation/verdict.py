"""Does the world help or harm? One rule for each kind of questions, and a sentence that follows from the numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass
from typing import Any, Literal

from theworld.utils.imports import require

from .ask.arms import ARMS, CONTROLS, FULL, LEARNER

ALPHA = 0.05
REFERENCE = "gemma"
"""The arm that a loss is measured against: what a user has without the world."""

Outcome = Literal["helps", "harms", "no difference shown", "not run"]
Comparison = Mapping[str, Any]


@dataclass(frozen=True)
class Verdict:
    """What the world does to one kind of questions, and one sentence that says why."""

    outcome: Outcome
    text: str


def decisive_arms(num_world_steps: int | None, *, learns: bool) -> list[str]:
    """Names of the arms that the full model, with so many future latent frames, has to beat.

    `learns` says whether the task has static learners.
    """
    return [
        arm.name
        for arm in ARMS.values()
        if arm.decides and (learns or arm.checkpoint != LEARNER) and not (arm.needs_future and num_world_steps == 0)
    ]


def decide(comparisons: Mapping[str, Comparison], decisive: Sequence[str], margin: float) -> Verdict:
    """The verdict on one kind of questions.

    *Harms*: against `gemma`, a loss of more than `margin` with an interval below 0 and a corrected p below `ALPHA`.
    *Helps*: every arm of `decisive` was run, and the full model beats each of them and every other arm that does not
    know the future, with an interval above 0 and a corrected p below `ALPHA`.

    Args:
        comparisons: Of the full model with other arms by name, as `score.py` writes them, with `p_holm`.
        decisive: Names of the arms that have to be there.
        margin: Loss in accuracy, as a fraction, that is not called harm.
    """
    # 1. A loss, whatever else was run
    reference = comparisons.get(REFERENCE)
    if reference and _lost(reference) and reference["difference"] < -margin:
        numbers = f"{_shown(REFERENCE, reference)}, {p_text(reference['p_holm'])}"
        allowed = f"{100 * margin:g} point{'' if margin == 0.01 else 's'}"
        return Verdict("harms", f"The world harms: a loss against {numbers}, beyond the margin of {allowed}.")
    # 2. What has to be there
    missing = [name for name in decisive if name not in comparisons]
    if missing:
        needed = "; ".join(map(_named, missing))
        control = " and, beside another model than nano, --control NAME=PATH"
        control = control if any(ARMS[name].checkpoint in CONTROLS for name in missing) else ""
        return Verdict("not run", f"Not decided, because not every arm was run: {needed}. Use --arms all{control}.")
    # 3. Every arm has to be beaten, but for those that know the future
    rivals = {
        name: them
        for name, them in comparisons.items()
        if name in ARMS and not (ARMS[name].ceiling or ARMS[name].futures)
    }
    unbeaten = {
        name: them
        for name, them in rivals.items()
        if min(them["difference"], them["low"]) <= 0 or them["p_holm"] >= ALPHA
    }
    if not unbeaten:
        name = min(rivals, key=lambda name: rivals[name]["difference"])
        return Verdict(
            "helps",
            f"The world helps: the full model beats all {len(rivals)} arms that lack the item's future, the closest "
            f"being {_shown(name, rivals[name])}, {p_text(rivals[name]['p_holm'])}.",
        )
    # 4. Why that is not so
    lost = [_shown(*one) for one in unbeaten.items() if _lost(one[1])]
    tied = [_shown(*one) for one in unbeaten.items() if not _lost(one[1])]
    reasons = [f"worse than {'; '.join(lost)}"] if lost else []
    if tied:
        smallest = max(them["smallest_difference"] for them in unbeaten.values() if not _lost(them))
        power = f"the smallest difference that this set can show is {100 * smallest:.1f} points"
        power = power if smallest < 1.0 else "this set is too small to show any difference"
        reasons.append(f"not shown to be better than {'; '.join(tied)} ({power})")
    return Verdict("no difference shown", f"No difference shown: {'; and '.join(reasons)}.")


def correct(tasks: Mapping[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """`tasks` with p-values corrected by Holm over every comparison of all of them, and the verdicts that follow."""
    corrected = deepcopy(dict(tasks))
    arms = [arm for metrics in corrected.values() for kind in metrics["comparisons"].values() for arm in kind.values()]
    holm = require("eval", "statsmodels.stats.multitest").multipletests
    p_holm = holm([arm["p"] for arm in arms], method="holm")[1].tolist() if arms else []
    for arm, p in zip(arms, p_holm, strict=True):
        arm["p_holm"] = p
    tested = sorted(task for task, metrics in corrected.items() if any(metrics["comparisons"].values()))
    for metrics in corrected.values():
        metrics["holm_family"] = {"comparisons": len(arms), "tasks": tested}
        metrics["verdicts"] = {kind: asdict(_verdict(metrics, kind)) for kind in metrics["kinds"]}
    return corrected


def _verdict(metrics: Mapping[str, Any], kind: str) -> Verdict:
    """The verdict on a kind: only arms of the full model's own run take part."""
    label, _, full = metrics["full"].rpartition("/")
    if full != FULL or metrics["full"] not in metrics["arms"]:
        return Verdict("not run", f"Not decided, because an arm was not run: the full model ({FULL}).")
    if not metrics["counted"][kind]:
        return Verdict("not run", "Not decided: every family of this kind has one right answer for all its items.")
    comparisons, everywhere = (
        {name.rpartition("/")[2]: them for name, them in found.items() if name.rpartition("/")[0] == label}
        for found in (metrics["comparisons"][kind], metrics["comparisons"]["all"])
    )
    # An arm that ran but answers no question of this kind, as a learner may, does not exist for it
    decisive = [name for name in metrics["decides"] if name in comparisons or name not in everywhere]
    return decide(comparisons, decisive, metrics["margins"][kind])


def _lost(comparison: Comparison) -> bool:
    return max(comparison["difference"], comparison["high"]) < 0 and comparison["p_holm"] < ALPHA


def _named(name: str) -> str:
    return f"{ARMS[name].label} ({name})"


def _shown(name: str, comparison: Comparison) -> str:
    difference, low, high = (f"{100 * comparison[key]:+.1f}" for key in ("difference", "low", "high"))
    return f"{_named(name)} {difference} points [{low}, {high}]"


def p_text(p: float, name: str = "p") -> str:
    """A probability as papers write it."""
    return f"{name} < 0.0001" if p < 0.0001 else f"{name} = {p:.4f}"
