"""Intervals of a mean and of a difference of means: Wilson's, the cluster-robust one, bootstrap and jackknife.

Miller, "Adding Error Bars to Evals", arXiv 2411.00640 (clustered and paired errors); Bowyer et al., arXiv 2503.01747
(no normal approximation for a few hundred items).

n  items        G  clusters        S  training seeds        R  resamples
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from theworld.utils.imports import require

Array = np.ndarray[Any, Any]
Scores = Sequence[float] | Sequence[Sequence[float]] | Array
Clusters = Sequence[str] | Array | None

CONFIDENCE = 0.95
FEW = 300  # items below which right and wrong answers get a Wilson interval
ALIKE = 1e-12  # standard error below which scores are alike: the means of three seeds differ by rounding
RESAMPLES, JACKKNIFE_GROUPS = 10_000, 30


@dataclass(frozen=True)
class Interval:
    """A mean, or a difference of two means, with its 95 % interval from `low` to `high`.

    `se` is 0 where all scores are alike, and the interval is then wider than it says. `n_clusters` counts independent
    groups of items, `method` is `wilson`, `clustered`, `clt`, `wilson over clusters`, `bootstrap` or `jackknife`.
    """

    estimate: float
    low: float
    high: float
    se: float
    n: int
    n_clusters: int
    method: str


def interval(scores: Scores, clusters: Clusters = None) -> Interval:
    """The mean of `scores` and its interval, by the method that fits them.

    `clustered` (cluster-robust, t with G - 1 degrees of freedom) where clusters repeat. Where they do not: `wilson` for
    fewer than 300 zeros and ones, `clt` otherwise. `bootstrap` where there are several seeds. Scores that are all
    alike, or all of one cluster, have no spread to measure: their interval is Wilson's with one trial a cluster.

    Args:
        scores: (n,), or (S, n) with a row a training seed; from 0 to 1.
        clusters: (n,) what items share, as a rule the image; an empty name stands for an item on its own.
    """
    runs = seeds_of(scores)
    values = runs.mean(axis=0)
    ids = cluster_ids(clusters, len(values))
    n, groups, mean, se = len(values), int(ids.max()) + 1, float(values.mean()), standard_error(values, ids)
    few = len(runs) == 1 and groups == n < FEW and bool(np.isin(values, (0.0, 1.0)).all())
    if few or se < ALIKE:
        return Interval(mean, *wilson(mean, groups), se, n, groups, "wilson" if few else "wilson over clusters")
    if len(runs) > 1:
        return bootstrap(runs, clusters=clusters)
    low, high = _t_interval(mean, se, groups - 1, shares=True)
    return Interval(mean, low, high, se, n, groups, "clustered" if groups < n else "clt")


def bootstrap(ours: Scores, theirs: Scores | None = None, clusters: Clusters = None, seed: int = 0) -> Interval:
    """Percentile interval of the mean of `ours`, or of the paired difference `ours - theirs` on the same items.

    Whole clusters are drawn, and the training seeds of each arm where there are several. Differences that are the same
    for all clusters have no spread to draw: their interval allows for the share of clusters that may be of another kind
    though none was seen (Wilson's upper end for 0 of G), -1 to 1 for one cluster.

    Args:
        ours: (n,) or (S, n), finite.
        theirs: (n,) or (S', n), the same items in the same order.
        clusters: (n,) as for `interval`.
    """
    first = seeds_of(ours)
    second = np.zeros((1, first.shape[1])) if theirs is None else seeds_of(theirs)
    n, estimate = first.shape[1], float(first.mean() - second.mean())
    if len(first) == len(second) == 1:  # fewer kinds of clusters to draw from
        first, second = first - second, np.zeros_like(second)
    ids = cluster_ids(clusters, n)
    # Clusters with the same sums and size are drawn as one kind, so the number of draws does not grow with n
    sums = np.stack([np.bincount(ids, weights=row) for row in (*first, *second, np.ones(n))])  # (S + S' + 1, G)
    kinds, counts = np.unique(sums, axis=1, return_counts=True)
    groups, rng = sums.shape[1], np.random.default_rng(seed)
    drawn = rng.multinomial(groups, counts / groups, size=RESAMPLES) @ kinds.T  # (R, S + S' + 1)
    means = drawn[:, :-1] / drawn[:, -1:]
    split = len(first)
    differences = _over_seeds(means[:, :split], rng) - _over_seeds(means[:, split:], rng)  # (R,)
    low, high = np.quantile(differences, ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2)).tolist()
    se = float(differences.std(ddof=1))
    if se < ALIKE:
        unseen = wilson(0.0, groups)[1] if groups > 1 else 1.0
        low, high = estimate - unseen * (1 + estimate), estimate + unseen * (1 - estimate)
    return Interval(estimate, low, high, se, n, groups, "bootstrap")


def jackknife(
    statistics: Callable[[Array], dict[str, float]], clusters: Sequence[str], strata: Sequence[str]
) -> dict[str, Interval]:
    """Intervals of any figures of a set of items, by leaving out one of 30 groups of clusters at a time.

    The delete-a-group jackknife (Kott, Journal of Official Statistics 2001), t with a degree of freedom less than
    groups. The strata are spread over all groups alike, so differences between them add no width to a mean over strata.

    Args:
        statistics: Figures by name of the items at some places, given as an array of numbers from 0 to n - 1.
        clusters: (n,) as for `interval`.
        strata: (n,) such as the sub-task of every item.
    """
    ids = cluster_ids(clusters, len(clusters))
    n, groups = len(ids), int(ids.max()) + 1
    # Clusters get the groups in turn: stratum by stratum, and in an order that no pattern of the items follows
    stratum = np.unique(np.asarray(strata), return_inverse=True)[1][np.unique(ids, return_index=True)[1]]  # (G,)
    order = np.lexsort((np.random.default_rng(0).permutation(groups), stratum))
    parts = min(JACKKNIFE_GROUPS, groups)
    group = np.empty(groups, dtype=int)
    group[order] = np.arange(groups) % parts
    without = [statistics(np.flatnonzero(group[ids] != part)) for part in range(parts)] if parts > 1 else []
    found: dict[str, Interval] = {}
    for name, value in statistics(np.arange(n)).items():
        values = np.array([figures[name] for figures in without if name in figures])
        se = float(np.sqrt((parts - 1) * values.var())) if len(values) > 1 else 0.0
        share = 0.0 <= value <= 1.0
        low, high = wilson(value, groups) if share and se < ALIKE else _t_interval(value, se, parts - 1, shares=share)
        found[name] = Interval(value, low, high, se, n, groups, "jackknife")
    return found


def standard_error(values: Array, ids: Array) -> float:
    """Of the mean: Miller's clustered one with the factor G / (G - 1), so that single items give the plain one."""
    residuals = np.bincount(ids, weights=values - values.mean())  # (G,)
    groups = len(residuals)
    return float(np.sqrt(groups / (groups - 1) * (residuals**2).sum()) / len(values)) if groups > 1 else 0.0


def seeds_of(scores: Scores) -> Array:
    """Scores as an array (S, n)."""
    return np.atleast_2d(np.asarray(scores, dtype=np.float64))


def cluster_ids(clusters: Clusters, n: int) -> Array:
    """Clusters (n,) as numbers from 0 to G - 1; an empty name is a cluster of its own."""
    numbers: dict[str | int, int] = {}
    names = [""] * n if clusters is None else clusters
    return np.array([numbers.setdefault(name or place, len(numbers)) for place, name in enumerate(names)])


def _over_seeds(means: Array, rng: np.random.Generator) -> Array:
    """Mean (R,) over as many seeds as there are, drawn with replacement from the columns of `means` (R, S)."""
    count = means.shape[1]
    return (means * rng.multinomial(count, np.full(count, 1 / count), size=len(means))).sum(axis=1) / count


def _t_interval(mean: float, se: float, freedom: int, *, shares: bool) -> tuple[float, float]:
    reach = se * float(require("eval", "scipy.stats").t.ppf((1 + CONFIDENCE) / 2, max(freedom, 1)))
    low, high = mean - reach, mean + reach
    return (max(low, 0.0), min(high, 1.0)) if shares else (low, high)


def wilson(share: float, trials: int) -> tuple[float, float]:
    """Lower and upper end of Wilson's 95 % interval of a share."""
    library = require("eval", "statsmodels.stats.proportion")
    low, high = library.proportion_confint(share * trials, trials, alpha=1 - CONFIDENCE, method="wilson")
    return max(float(low), 0.0), min(float(high), 1.0)  # rounding leaves [0, 1] by 1e-17
