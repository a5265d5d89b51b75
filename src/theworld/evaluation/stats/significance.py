"""How sure a score is, and how sure it is that two scores differ.

Tests, power and seeds here; `interval` and the bootstraps come from `intervals`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from theworld.utils.errors import TheWorldError
from theworld.utils.imports import require

from .intervals import (
    Interval,
    Numbers,
    bootstrap_difference,
    cluster_ids,
    finite,
    interval,
    pair,
    standard_error,
    stratified_bootstrap,
)


@dataclass(frozen=True)
class McNemar:
    """The exact test of two arms on the same questions.

    Args:
        b: Questions that only the first arm got right.
        c: Questions that only the second arm got right.
        n: All questions.
        difference: (b - c) / n, the difference of the accuracies.
        p: Two-sided.
    """

    b: int
    c: int
    n: int
    difference: float
    p: float


@dataclass(frozen=True)
class SeedSummary:
    """One arm trained from several seeds.

    Args:
        mean: Over seeds and items.
        seed_sd: Standard deviation of the seeds' means: what another training run changes.
        item_se: Standard error of the mean over items: what other questions would change.
        means: One a seed.
    """

    mean: float
    seed_sd: float
    item_se: float
    means: tuple[float, ...]


def mcnemar(ours: Numbers, theirs: Numbers) -> McNemar:
    """Exact McNemar test of two arms' right (1) and wrong (0) answers to the same questions, in the same order.

    Raises:
        ValueError: No scores, lengths that differ, or a score that is neither 0 nor 1.
    """
    first, second = pair(ours, theirs)
    if not np.isin((first, second), (0.0, 1.0)).all():
        raise TheWorldError("mcnemar: expected scores of 0 and 1; compare others by bootstrap_difference")
    b, c = int((first > second).sum()), int((first < second).sum())
    p = float(require("eval", "scipy.stats").binomtest(b, b + c).pvalue) if b + c else 1.0
    return McNemar(b, c, len(first), (b - c) / len(first), p)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values of a family of tests that was declared beforehand, by Holm's step-down procedure.

    Compare them with the level that the whole family may err at, such as .05.

    Raises:
        ValueError: A value is not between 0 and 1.
    """
    wrong = [p for p in p_values if not 0 <= p <= 1]  # also NaN
    if wrong:
        raise TheWorldError(f"p-values {wrong}: expected numbers from 0 to 1")
    if not p_values:
        return []
    return require("eval", "statsmodels.stats.multitest").multipletests(p_values, method="holm")[1].tolist()


def smallest_difference(n: int, discordance: float, *, power: float = 0.8, alpha: float = 0.05) -> float:
    """The least difference of two accuracies on the same `n` questions that McNemar's test finds with `power`.

    What a set can show at all (Card et al., arXiv 2010.06595). Connor, Biometrics 1987, solves
    z_a sqrt(d) + z_b sqrt(d - x^2) = x sqrt(n) for the difference x.

    Args:
        n: Items; fewer when they are clustered.
        discordance: d, the share of items that exactly one of the two gets right.
        power: Chance to find a difference that is there.
        alpha: Two-sided level of the test.

    Returns:
        A fraction, at most the discordance; 1.0 where the set is too small to show any difference at all.

    Raises:
        ValueError: `n` is below 1, or a share is not between 0 and 1.
    """
    if n < 1 or not 0 < discordance <= 1 or not 0 < alpha < 1 or not alpha < power < 1:
        raise TheWorldError(
            f"n {n}, discordance {discordance}, power {power}, alpha {alpha}: expected n of at least 1, a discordance "
            "in (0, 1], and 0 < alpha < power < 1"
        )
    normal = require("eval", "scipy.stats").norm
    a, b = float(normal.ppf(1 - alpha / 2)), float(normal.ppf(power))
    inside = n + b * b - a * a
    if inside < 0:
        return 1.0
    difference = math.sqrt(discordance) * (a * math.sqrt(n) + b * math.sqrt(inside)) / (n + b * b)
    return difference if difference <= discordance else 1.0


def over_seeds(scores: Sequence[Numbers], clusters: Sequence[str] | None = None) -> SeedSummary:
    """Several training seeds of one arm on the same items; the two kinds of spread are kept apart.

    Dodge et al., "Show Your Work", EMNLP 2019.

    Args:
        scores: (S, n) a row a seed.
        clusters: (n,) as for `interval`.

    Raises:
        ValueError: Fewer than two seeds or two clusters, lengths that differ, or a score that is not finite.
    """
    rows = [finite(f"scores of seed {number}", row) for number, row in enumerate(scores)]
    lengths = {len(row) for row in rows}
    if len(rows) < 2 or len(lengths) > 1:
        raise TheWorldError(f"{len(rows)} seeds with {sorted(lengths)} items: expected at least two, on the same items")
    table = np.stack(rows)  # (S, n)
    ids = cluster_ids(clusters, table.shape[1])
    if ids.max() < 1:
        raise TheWorldError("scores: one cluster: a standard error needs at least two")
    means = table.mean(axis=1)
    item_se = standard_error(table.mean(axis=0), ids)
    return SeedSummary(float(means.mean()), float(means.std(ddof=1)), item_se, tuple(means.tolist()))


__all__ = [
    "Interval",
    "McNemar",
    "SeedSummary",
    "bootstrap_difference",
    "holm",
    "interval",
    "mcnemar",
    "over_seeds",
    "smallest_difference",
    "stratified_bootstrap",
]
