"""Does the world help? One rule, and a line that follows from the numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from .stats.significance import holm
from .store.refusals import FULL

ALPHA = 0.05

DECISIVE = {
    "gemma": "Gemma alone",
    "gemma_tuned": "Gemma trained equally without the world",
    "other_image": "another image's world tokens",
    "random_encoder": "a random world encoder",
}
"""The arms that the full model has to beat, all of them."""


@dataclass(frozen=True)
class Verdict:
    """Whether the world helps on a task.

    Args:
        helps: All of `DECISIVE` are beaten.
        text: The line that is printed.
    """

    helps: bool
    text: str


def decide(comparisons: Mapping[str, Mapping[str, Any]] | None) -> Verdict:
    """The verdict on a task: an arm is beaten by a corrected p below `ALPHA` and an interval above 0.

    Args:
        comparisons: Of the full model with every other arm by name: `difference`, `low`, `high`, `p_holm` and
            `smallest_difference`, as `score.py` writes them; `None` if the full model was not run.
    """
    if comparisons is None:
        return Verdict(False, "not shown: the full model (world) was not run")
    reasons: list[str] = []
    missing = [f"{title} ({arm})" for arm, title in DECISIVE.items() if arm not in comparisons]
    if missing:
        reasons.append(f"not run: {', '.join(missing)}")
    beaten: list[str] = []
    for arm, title in DECISIVE.items():
        if arm not in comparisons:
            continue
        there = comparisons[arm]
        numbers = _numbers(there)
        # McNemar's test takes items as independent; the interval knows which share a picture
        if min(there["difference"], there["low"]) > 0 and there["p_holm"] < ALPHA:
            beaten.append(f"{title} {numbers}")
        elif max(there["difference"], there["high"]) < 0 and there["p_holm"] < ALPHA:
            reasons.append(f"worse than {title} ({arm}): {numbers}")
        else:
            reasons.append(f"no difference seen to {title} ({arm}): {numbers}, {_power(there['smallest_difference'])}")
    if reasons:
        return Verdict(False, f"not shown: {'; '.join(reasons)}")
    return Verdict(True, f"The world helps: the full model beats {'; '.join(beaten)} (Holm-corrected)")


def correct(tasks: Mapping[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """`tasks` with p-values corrected by Holm over all comparisons of all of them, and the verdicts that follow."""
    tested: dict[tuple[str, str], float] = {
        (task, arm): comparison["p"]
        for task, metrics in tasks.items()
        for arm, comparison in (metrics["comparisons"] or {}).items()
    }
    p_holm = dict(zip(tested, holm(list(tested.values())), strict=True))
    corrected: dict[str, dict[str, Any]] = {}
    for task, metrics in tasks.items():
        comparisons = metrics["comparisons"]
        if comparisons is not None:
            comparisons = {arm: {**numbers, "p_holm": p_holm[task, arm]} for arm, numbers in comparisons.items()}
        family = {"comparisons": len(tested), "tasks": sorted({task for task, _ in tested})}
        verdict = asdict(decide(_within_run(metrics["full"], comparisons)))
        corrected[task] = {**metrics, "comparisons": comparisons, "holm_family": family, "verdict": verdict}
    return corrected


def _within_run(full: str, comparisons: Mapping[str, Mapping[str, Any]] | None) -> dict[str, Mapping[str, Any]] | None:
    """By bare name, the comparisons with arms of the full model's own run; `None` if it is not the full model."""
    label, _, arm = full.rpartition("/")
    if comparisons is None or arm != FULL:
        return None
    return {name.rpartition("/")[2]: them for name, them in comparisons.items() if name.rpartition("/")[0] == label}


def _numbers(comparison: Mapping[str, Any]) -> str:
    points = [f"{100 * comparison[key]:+.1f}" for key in ("difference", "low", "high")]
    return f"{points[0]} points [{points[1]}, {points[2]}], {p_text(comparison['p_holm'])}"


def _power(smallest: float) -> str:
    if smallest >= 1.0:
        return "this set is too small to show any"
    return f"{100 * smallest:.1f} points are the smallest that this set can show"


def p_text(p: float, name: str = "p") -> str:
    """A probability as papers write it."""
    return f"{name} < 0.0001" if p < 0.0001 else f"{name} = {p:.4f}"


__all__ = ["ALPHA", "DECISIVE", "Verdict", "correct", "decide", "p_text"]
