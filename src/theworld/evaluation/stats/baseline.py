"""Baselines that look at answers alone, never fitted on the items that they are scored on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..store.predictions import Item
from .intervals import Array, cluster_ids

FOLDS = 10


def folds(items: Sequence[Item]) -> Array:
    """Fold (n,) of every item, from 0 to at most `FOLDS` - 1; items of one cluster share a fold."""
    ids = cluster_ids([item.cluster for item in items], len(items))
    return np.random.default_rng(0).permutation(int(ids.max()) + 1)[ids] % FOLDS


def majority_baseline(items: Sequence[Item], *, pooled: bool = False) -> Array:
    """Score (n,), from 0 to 1, of the most frequent answer of the other folds; answers that tie share the score.

    Where no other fold has an item of the family, it is the item's chance: 1 / its choices, or 0. `pooled` counts the
    answers of all families together, not those of the item's own.
    """
    answers, fold = np.array([item.answer for item in items]), folds(items)
    families = np.array(["" if pooled else item.family for item in items])
    scores = np.array([1 / len(item.choices) if item.choices else 0.0 for item in items])
    for family, number in set(zip(families.tolist(), fold.tolist(), strict=True)):
        known, asked = (families == family) & (fold != number), (families == family) & (fold == number)
        said, times = np.unique(answers[known], return_counts=True)
        if len(said):
            best = said[times == times.max()]
            scores[asked] = np.isin(answers[asked], best) / len(best)
    return scores
