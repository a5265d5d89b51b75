"""Baselines that look at answers alone, never fitted on the items that they are scored on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from ..store.predictions import Item
from .intervals import Array, cluster_ids

FOLDS = 10


def folds(items: Sequence[Item], count: int = FOLDS, seed: int = 0) -> Array:
    """Fold (n,) of every item, from 0 to at most `count` - 1; items of one cluster share a fold."""
    ids = cluster_ids([item.cluster for item in items], len(items))
    return np.random.default_rng(seed).permutation(int(ids.max()) + 1)[ids] % count


def majority_baseline(items: Sequence[Item], *, pooled: bool = False) -> Array:
    """Score (n,) of the most frequent answer of the other folds, for every item; answers that tie share the score.

    Args:
        items: Of a task.
        pooled: Whether the answers of all families are counted together, not those of the item's own.

    Returns:
        Numbers from 0 to 1. Where no other fold has an item of the family, the item's chance: 1 / its choices, or 0.
    """
    scores, fold = np.empty(len(items)), folds(items)
    families = np.array(["" if pooled else item.family for item in items])
    for family, number in set(zip(families.tolist(), fold.tolist(), strict=True)):
        inside = families == family
        answers = Counter(items[place].answer for place in np.flatnonzero(inside & (fold != number)))
        most = max(answers.values(), default=0)
        best = {answer for answer, times in answers.items() if times == most}
        for place in np.flatnonzero(inside & (fold == number)):
            item = items[place]
            chance = 1 / len(item.choices) if item.choices else 0.0
            scores[place] = (item.answer in best) / len(best) if best else chance
    return scores


__all__ = ["FOLDS", "folds", "majority_baseline"]
