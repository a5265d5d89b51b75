"""Significance of the difference of two arms: an exact paired test, and the smallest detectable difference."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np

from theworld.utils.imports import require

from .intervals import Array, Clusters, Scores, bootstrap, cluster_ids, seeds_of, standard_error

LEVEL, POWER = 0.05, 0.8
USUAL_DISCORDANCE = 0.2
"""Share of items that exactly one of two arms gets right, assumed if there is no second arm to measure it."""


def compare(ours: Scores, theirs: Scores, clusters: Clusters = None) -> dict[str, Any]:
    """Compare two arms on the same items. Positive differences are in favour of the first.

    Args:
        ours: (n,) or (S, n): right (1) and wrong (0) answers, a row per training seed.
        theirs: (n,) or (S', n).
        clusters: (n,) as for `interval`.

    Returns:
        `difference` with its interval `low` and `high`; `p` of `sign_flip`; `n`; `b` and `c`, the numbers of items that
        only the first or only the second arm gets right (`None` for several seeds); `smallest_difference`, the smallest
        difference that the items can show.
    """
    found, first, second = bootstrap(ours, theirs, clusters), seeds_of(ours), seeds_of(theirs)
    differences = first.mean(axis=0) - second.mean(axis=0)
    single = len(first) == len(second) == 1
    discordance = float(np.abs(differences).mean())
    return {
        **{"difference": found.estimate, "low": found.low, "high": found.high, "n": found.n},
        "b": int((differences > 0).sum()) if single else None,
        "c": int((differences < 0).sum()) if single else None,
        "p": sign_flip(first, second, clusters),
        "smallest_difference": smallest_of(differences, clusters, discordance or USUAL_DISCORDANCE),
    }


def sign_flip(ours: Scores, theirs: Scores, clusters: Clusters = None) -> float:
    """Two-sided p-value of the mean difference, by the exact sign-flip test over clusters (Fisher 1935).

    Under the null hypothesis, the two arms' answers can be exchanged in every cluster. The distribution over all 2^G
    exchanges is computed by convolution. With single-item clusters and one seed per arm, this is the exact McNemar
    test. Arguments are those of `compare`.
    """
    first, second = seeds_of(ours), seeds_of(theirs)
    # Whole numbers: the mean differences, times both numbers of seeds
    differences = first.sum(axis=0) * len(second) - second.sum(axis=0) * len(first)
    sums = np.bincount(cluster_ids(clusters, len(differences)), weights=differences).astype(int)  # (G,)
    null, signal = np.ones(1), require("eval", "scipy.signal")
    for size, count in zip(*np.unique(np.abs(sums[sums != 0]), return_counts=True), strict=True):
        steps = np.zeros(2 * size * count + 1)
        steps[:: 2 * size] = require("eval", "scipy.stats").binom.pmf(np.arange(count + 1), count, 0.5)
        null = signal.convolve(null, steps)
    totals = np.arange(len(null)) - len(null) // 2
    return float(np.clip(null[np.abs(totals) >= abs(sums.sum())].sum(), 0.0, 1.0))


def smallest_difference(n: int, discordance: float) -> float:
    """The smallest difference of two accuracies on the same `n` items that McNemar's test detects with 80 % power.

    See Card et al., arXiv 2010.06595. Connor, Biometrics 1987, solves z_a sqrt(d) + z_b sqrt(d - x^2) = x sqrt(n) for
    the difference x. The discordance d is the share of items that exactly one of the two gets right. The result is at
    most d, or 1.0 if the set is too small to show any difference.
    """
    a, b = _normal_quantile(1 - LEVEL / 2), _normal_quantile(POWER)
    inside = n + b * b - a * a
    if inside < 0:
        return 1.0
    difference = math.sqrt(discordance) * (a * math.sqrt(n) + b * math.sqrt(inside)) / (n + b * b)
    return difference if difference <= discordance else 1.0


@cache
def _normal_quantile(share: float) -> float:
    return float(require("eval", "scipy.stats").norm.ppf(share))


def smallest_of(values: Array, clusters: Clusters, discordance: float) -> float:
    """`smallest_difference` for the effective number of independent items; 1.0 if no difference can be shown."""
    ids = cluster_ids(clusters, len(values))
    if not ids.any():
        return 1.0
    alone, tied = (standard_error(values, each) for each in (np.arange(len(values)), ids))
    worth = (alone / tied) ** 2 if tied > alone else 1.0
    return smallest_difference(max(round(worth * len(values)), 1), discordance)
