"""Baselines that use only answers, cross-fitted: never fitted on the items that they are scored on."""

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
    """Score (n,), from 0 to 1, of answering with the most frequent answer of the other folds. Ties share the score.

    If no other fold has an item of the family, the score is that of a random choice: 1 / number of choices, or 0
    without choices. `pooled` counts answers over all families, in place of the item's own family.
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
