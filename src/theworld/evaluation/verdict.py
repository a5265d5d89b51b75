"""Verdicts: whether the world helps or harms, for each kind of question, and a sentence with the numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass
from typing import Any, Literal

from theworld.utils.imports import require

from .ask.arms import ARMS, CONTROLS, FULL, LEARNER

ALPHA = 0.05
NAMED = 3  # largest number of arms that a sentence names
REFERENCE = "gemma"
"""The arm that a loss is measured against: the base model without the world."""

Outcome = Literal["helps", "harms", "no difference shown", "not run"]
Comparison = Mapping[str, Any]


@dataclass(frozen=True)
class Verdict:
    """The verdict on one kind of question, and one sentence with the reason."""

    outcome: Outcome
    text: str


def decisive_arms(num_world_steps: int | None, *, learns: bool) -> list[str]:
    """Names of the arms that a full model with `num_world_steps` future latent frames has to beat.

    `learns`: whether the task has static learners.
    """
    return [
        arm.name
        for arm in ARMS.values()
        if arm.decides and (learns or arm.checkpoint != LEARNER) and not (arm.needs_future and num_world_steps == 0)
    ]


def decide(comparisons: Mapping[str, Comparison], decisive: Sequence[str], margin: float) -> Verdict:
    """The verdict on one kind of question.

    *Harms*: a loss against `gemma` of more than `margin`, with an interval below 0 and a corrected p below `ALPHA`.
    *Helps*: every arm of `decisive` was run. The full model beats each of them, and every other arm except those that
    use the true future or several rollouts, with an interval above 0 and a corrected p below `ALPHA`.

    Args:
        comparisons: By arm, its comparison with the full model as `score.py` writes it, with `p_holm`.
        decisive: Names of the arms that must have been run.
        margin: Loss in accuracy, as a fraction, that is not yet harm.
    """
    # 1. Harm: needs only the reference arm
    reference = comparisons.get(REFERENCE)
    if reference and _lost(reference) and reference["difference"] < -margin:
        numbers = f"{_shown(REFERENCE, reference)}, {p_text(reference['p_holm'])}"
        allowed = f"{100 * margin:g} point{'' if margin == 0.01 else 's'}"
        return Verdict("harms", f"The world harms: a loss against {numbers}, beyond the margin of {allowed}.")
    # 2. Not run: an arm of `decisive` is missing
    missing = [name for name in decisive if name not in comparisons]
    if missing:
        needed = "; ".join(map(_named, missing))
        control = ", and --control NAME=PATH for each control of a model other than nano"
        control = control if any(ARMS[name].checkpoint in CONTROLS for name in missing) else ""
        return Verdict("not run", f"Not decided, because not every arm was run: {needed}. Use --arms all{control}.")
    # 3. Help: every arm is beaten, except those that use the true future or several rollouts
    rivals = {
        name: them
        for name, them in comparisons.items()
        if name in ARMS and not (ARMS[name].ceiling or ARMS[name].futures)
    }
    if not rivals:
        return Verdict("not run", "Not decided, because no rival arm was run. Use --arms all.")
    unbeaten = {name: them for name, them in rivals.items() if not _won(them)}
    if not unbeaten:
        name = min(rivals, key=lambda name: rivals[name]["difference"])
        return Verdict(
            "helps",
            f"The world helps: the full model beats all {len(rivals)} rival arms, the closest being "
            f"{_shown(name, rivals[name])}, {p_text(rivals[name]['p_holm'])}.",
        )
    # 4. No difference shown: name the arms that are not beaten
    lost = {name: them for name, them in unbeaten.items() if _lost(them)}
    tied = {name: them for name, them in unbeaten.items() if name not in lost}
    reasons = [f"worse than {_strongest(lost)}"] if lost else []
    if tied:
        power = _power({name: them["smallest_difference"] for name, them in tied.items()})
        reasons.append(f"not shown to be better than {_strongest(tied)} ({power})")
    return Verdict("no difference shown", f"No difference shown: {'; and '.join(reasons)}.")


def _power(smallest: Mapping[str, float]) -> str:
    """The smallest detectable differences by arm, in words; 1.0 means that none is detectable."""
    points = [f"{100 * one:.1f}" for one in sorted(smallest.values()) if one < 1.0]
    none = [name for name, one in smallest.items() if one >= 1.0]
    if not points:
        return "this set is too small to show any difference"
    span = points[0] if points[0] == points[-1] else f"{points[0]} to {points[-1]}"
    named = ", ".join(map(_named, none)) if len(none) <= NAMED else f"{len(none)} of these arms"
    more = f"; against {named} it can show none" if none else ""
    return (
        f"before the correction for several comparisons, this set can show differences of at least {span} points{more}"
    )


def correct(tasks: Mapping[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """A copy of `tasks` with Holm-corrected p-values, over all comparisons of all tasks, and the resulting verdicts."""
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
    """The verdict on a kind, from arms of the full model's own run only."""
    label, _, full = metrics["full"].rpartition("/")
    if full != FULL or metrics["full"] not in metrics["arms"]:
        return Verdict("not run", f"Not decided, because an arm was not run: the full model ({FULL}).")
    if not metrics["counted"][kind]:
        return Verdict("not run", "Not decided: every family of this kind has one right answer for all its items.")
    comparisons, everywhere = (
        {name.rpartition("/")[2]: them for name, them in found.items() if name.rpartition("/")[0] == label}
        for found in (metrics["comparisons"][kind], metrics["comparisons"]["all"])
    )
    # An arm that ran but answered no question of this kind (a static learner may) is not required for it
    decisive = [name for name in metrics["decides"] if name in comparisons or name not in everywhere]
    return decide(comparisons, decisive, metrics["margins"][kind])


def _won(comparison: Comparison) -> bool:
    return comparison["difference"] > 0 and comparison["low"] > 0 and comparison["p_holm"] < ALPHA


def _lost(comparison: Comparison) -> bool:
    return comparison["difference"] < 0 and comparison["high"] < 0 and comparison["p_holm"] < ALPHA


def _named(name: str) -> str:
    return f"{ARMS[name].label} ({name})"


def _shown(name: str, comparison: Comparison) -> str:
    difference, low, high = (f"{100 * comparison[key]:+.1f}" for key in ("difference", "low", "high"))
    return f"{_named(name)} {difference} points [{low}, {high}]"


def _strongest(comparisons: Mapping[str, Comparison]) -> str:
    """The `NAMED` arms with the lowest differences as text, and how many others there are."""
    ordered = sorted(comparisons, key=lambda name: comparisons[name]["difference"])
    count = len(ordered) - NAMED
    more = f"; and {count} more arm{'s' * (count > 1)}" if count > 0 else ""
    return "; ".join(_shown(name, comparisons[name]) for name in ordered[:NAMED]) + more


def p_text(p: float, name: str = "p") -> str:
    """A p-value as text, such as `p = 0.0312` or `p < 0.0001`."""
    return f"{name} < 0.0001" if p < 0.0001 else f"{name} = {p:.4f}"
