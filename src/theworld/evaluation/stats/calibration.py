"""Are probabilities of answers right as often as they say? And which answers are worth a rollout?

n  items
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from theworld.model.answers import margin, probabilities

from ..store.predictions import Prediction

BINS = 10
SHARES = tuple(round(0.1 * step, 1) for step in range(11))
"""Of items with a rollout, for which `on_demand` gives the accuracy."""


def brier(logprobs: Mapping[str, float], answer: str) -> float:
    """Squared distance of the probabilities of all choices from the right answer: 0 is best, 2 worst (Brier 1950)."""
    shares = probabilities([logprobs])
    return sum((share - (choice == answer)) ** 2 for choice, share in shares.items())


def calibration(rows: Sequence[Prediction]) -> dict[str, Any] | None:
    """The calibration curve of the likeliest answers; `None` if no row compares choices.

    Returns:
        `n`; `error`, the expected calibration error from 0 to 1 (Guo et al., arXiv 1706.04599); `bins` of equal width
        that have items, each with its mean `confidence`, `accuracy` and `n`.
    """
    known = [row for row in rows if row.choice_logprobs]
    if not known:
        return None
    confidence = np.array([max(probabilities([row.choice_logprobs or {}]).values()) for row in known])
    right = np.array([row.score for row in known], dtype=float)
    place = np.minimum((confidence * BINS).astype(int), BINS - 1)
    found = [
        {
            "confidence": confidence[inside].mean().item(),
            "accuracy": right[inside].mean().item(),
            "n": int(inside.sum()),
        }
        for inside in (place == number for number in range(BINS))
        if inside.any()
    ]
    error = sum(one["n"] * abs(one["confidence"] - one["accuracy"]) for one in found) / len(known)
    return {"n": len(known), "error": error, "bins": found}


def on_demand(without: Sequence[Prediction], world: Sequence[Prediction], least: float) -> dict[str, Any] | None:
    """Accuracy if only the answers without a world that are least sure are replaced by those with a rollout.

    Args:
        without: Predictions (n,) of the same checkpoint with the world off.
        world: Those of the full model, in the same order.
        least: The model's `auto_world_margin`.

    Returns:
        `curve`: `rollouts` (share of items, from 0 to 1), `accuracy`, and the `margin` below which these are rolled
        out. `best`: the point of every possible margin with the highest accuracy, the fewest rollouts of those that
        tie. `at_margin`: what the model's own margin gives. Items without choices to compare are left out; `None` if
        all are.
    """
    known = [(off, on) for off, on in zip(without, world, strict=True) if off.choice_logprobs]
    if not known:
        return None
    margins = np.array([margin([*probabilities([off.choice_logprobs or {}]).values()]) for off, _ in known])
    order = np.argsort(margins, kind="stable")
    off, on = (np.array([pair[side].score for pair in known], dtype=float)[order] for side in (0, 1))
    accuracy = (np.append(0, on.cumsum()) + off.sum() - np.append(0, off.cumsum())) / len(off)  # (n + 1,)
    edges = np.append(margins[order], 1.0)  # all below an edge are rolled out

    def point(count: int) -> dict[str, float]:
        return {"rollouts": count / len(off), "accuracy": accuracy[count].item(), "margin": edges[count].item()}

    possible = [count for count in range(len(edges)) if count in (0, len(off)) or edges[count] > edges[count - 1]]
    best = max(possible, key=lambda count: (round(accuracy[count], 12), -count))
    curve = [point(min(possible, key=lambda count, share=share: abs(count - share * len(off)))) for share in SHARES]
    own = {**point(int((margins < least).sum())), "margin": least}
    return {"curve": curve, "best": point(best), "at_margin": own}
