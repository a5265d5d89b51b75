"""Calibration of answer probabilities, and accuracy if only unsure answers get a rollout.

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
"""Shares of items with a rollout at which `on_demand` gives the accuracy."""


def brier(logprobs: Mapping[str, float], answer: str) -> float:
    """Brier score (Brier 1950): sum over choices of (probability - 1 if right else 0)^2, from 0 (best) to 2 (worst)."""
    shares = probabilities([logprobs])
    return sum((share - (choice == answer)) ** 2 for choice, share in shares.items())


def calibration(rows: Sequence[Prediction]) -> dict[str, Any] | None:
    """The calibration curve of the most probable answers; `None` if no row compares choices.

    Returns:
        `n`; `error`, the expected calibration error from 0 to 1 (Guo et al., arXiv 1706.04599); `bins`, the non-empty
        bins of equal width, each with its mean `confidence`, `accuracy` and `n`.
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
    """Accuracy if only the least sure answers of the world-off arm are replaced by the full model's answers.

    Items without compared choices are left out.

    Args:
        without: Predictions (n,) of the same checkpoint with the world off.
        world: Predictions (n,) of the full model, in the same order.
        least: The model's `auto_world_margin`.

    Returns:
        `curve`: points with `rollouts` (share of items, from 0 to 1), `accuracy`, and `margin`; items with a smaller
        margin get a rollout. `best`: the point with the highest accuracy over all margins; of ties, the one with the
        fewest rollouts. `at_margin`: the point of the model's own margin. `None` if no item is left.
    """
    known = [(off, on) for off, on in zip(without, world, strict=True) if off.choice_logprobs]
    if not known:
        return None
    margins = np.array([margin([*probabilities([off.choice_logprobs or {}]).values()]) for off, _ in known])
    order = np.argsort(margins, kind="stable")
    off, on = (np.array([pair[side].score for pair in known], dtype=float)[order] for side in (0, 1))
    accuracy = (np.append(0, on.cumsum()) + off.sum() - np.append(0, off.cumsum())) / len(off)  # (n + 1,)
    edges = np.append(margins[order], 1.0)  # items with a margin below an edge get a rollout

    def point(count: int) -> dict[str, float]:
        return {"rollouts": count / len(off), "accuracy": accuracy[count].item(), "margin": edges[count].item()}

    possible = [count for count in range(len(edges)) if count in (0, len(off)) or edges[count] > edges[count - 1]]
    best = max(possible, key=lambda count: (round(accuracy[count], 12), -count))
    curve = [point(min(possible, key=lambda count, share=share: abs(count - share * len(off)))) for share in SHARES]
    own = {**point(int((margins < least).sum())), "margin": least}
    return {"curve": curve, "best": point(best), "at_margin": own}
