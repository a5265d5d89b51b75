"""Confidence intervals of means and of differences of means: Wilson, cluster-robust, bootstrap and jackknife.

Miller, "Adding Error Bars to Evals", arXiv 2411.00640 (clustered and paired errors); Bowyer et al., arXiv 2503.01747
(no normal approximation for a few hundred items).

n  items        G  clusters        S  training seeds        R  resamples
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from theworld.utils.imports import require

Array = np.ndarray[Any, Any]
Scores = Sequence[float] | Sequence[Sequence[float]] | Array
Clusters = Sequence[str] | Array | None

CONFIDENCE = 0.95
FEW = 300  # fewer items of right and wrong answers get a Wilson interval
ALIKE = 1e-12  # a smaller standard error counts as 0: means over seeds differ by rounding
RESAMPLES, JACKKNIFE_GROUPS = 10_000, 30


@dataclass(frozen=True)
class Interval:
    """A mean, or a difference of two means, with its 95 % interval from `low` to `high`.

    `se` is the standard error: 0 if all scores are equal, in which case the interval is wider than `se` suggests.
    `n_clusters` counts independent groups of items. `method` is `wilson`, `clustered`, `clt`, `wilson over clusters`,
    `bootstrap` or `jackknife`.
    """

    estimate: float
    low: float
    high: float
    se: float
    n: int
    n_clusters: int
    method: str


def interval(scores: Scores, clusters: Clusters = None) -> Interval:
    """The mean of `scores` and its interval, by a method that depends on the scores.

    - `bootstrap` for several seeds;
    - `clustered` (cluster-robust, t with G - 1 degrees of freedom) if clusters have several items;
    - `wilson` for fewer than 300 independent zeros and ones, `clt` for other independent items;
    - `wilson over clusters` (one trial per cluster) if all scores are equal or of one cluster, so there is no spread.

    Args:
        scores: (n,), or (S, n) with a row per training seed; from 0 to 1.
        clusters: (n,) name of what items share, usually the image. An empty name is a cluster of its own.
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

    Resamples whole clusters, and the training seeds of each arm if there are several. If the differences of all
    clusters are equal, the bootstrap has no spread. The interval then assumes that a share of clusters differs although
    none was observed: Wilson's upper limit for 0 of G clusters, and -1 to 1 for one cluster.

    Args:
        ours: (n,) or (S, n), finite.
        theirs: (n,) or (S', n), the same items in the same order.
        clusters: (n,) as for `interval`.
    """
    first = seeds_of(ours)
    second = np.zeros((1, first.shape[1])) if theirs is None else seeds_of(theirs)
    n, estimate = first.shape[1], float(first.mean() - second.mean())
    if len(first) == len(second) == 1:  # fewer distinct clusters to draw from
        first, second = first - second, np.zeros_like(second)
    ids = cluster_ids(clusters, n)
    # Draw clusters with the same sums and size together, so the number of draws does not grow with n
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
    """Intervals of any statistics of a set of items, by the delete-a-group jackknife with 30 groups of clusters.

    Kott, Journal of Official Statistics 2001; t with one degree of freedom less than groups. Each stratum is spread
    evenly over the groups, so differences between strata do not widen the interval of a mean over strata.

    Args:
        statistics: Function from indices of items, an array of numbers from 0 to n - 1, to figures by name.
        clusters: (n,) as for `interval`.
        strata: (n,) such as the sub-task of every item.
    """
    ids = cluster_ids(clusters, len(clusters))
    n, groups = len(ids), int(ids.max()) + 1
    # Assign clusters to groups in turn, stratum by stratum and in random order within a stratum
    stratum = np.unique(np.asarray(strata), return_inverse=True)[1][np.unique(ids, return_index=True)[1]]  # (G,)
    order = np.lexsort((np.random.default_rng(0).permutation(groups), stratum))
    parts = min(JACKKNIFE_GROUPS, groups)
    group = np.empty(groups, dtype=int)
    group[order] = np.arange(groups) % parts
    whole = statistics(np.arange(n))
    drop = range(parts) if whole and parts > 1 else ()
    without = [statistics(np.flatnonzero(group[ids] != part)) for part in drop]
    found: dict[str, Interval] = {}
    for name, value in whole.items():
        values = np.array([figures[name] for figures in without if name in figures])
        se = float(np.sqrt((parts - 1) * values.var())) if len(values) > 1 else 0.0
        share = 0.0 <= value <= 1.0
        low, high = wilson(value, groups) if share and se < ALIKE else _t_interval(value, se, parts - 1, shares=share)
        found[name] = Interval(value, low, high, se, n, groups, "jackknife")
    return found


def standard_error(values: Array, ids: Array) -> float:
    """Standard error of the mean: Miller's clustered one times G / (G - 1), the usual one for single items."""
    residuals = np.bincount(ids, weights=values - values.mean())  # (G,)
    groups = len(residuals)
    return float(np.sqrt(groups / (groups - 1) * (residuals**2).sum()) / len(values)) if groups > 1 else 0.0


def seeds_of(scores: Scores) -> Array:
    """Scores as an array (S, n)."""
    return np.atleast_2d(np.asarray(scores, dtype=np.float64))


def cluster_ids(clusters: Clusters, n: int) -> Array:
    """Numbers (n,) of the clusters, from 0 to G - 1. An empty name is a cluster of its own."""
    numbers: dict[str | int, int] = {}
    names = [""] * n if clusters is None else clusters
    if isinstance(names, np.ndarray):
        names = names.tolist()  # Python's strings hash faster than NumPy's
    return np.array([numbers.setdefault(name or place, len(numbers)) for place, name in enumerate(names)])


def _over_seeds(means: Array, rng: np.random.Generator) -> Array:
    """Mean (R,) over S seeds drawn with replacement from the columns of `means` (R, S)."""
    count = means.shape[1]
    if count == 1:
        return means[:, 0]
    return (means * rng.multinomial(count, np.full(count, 1 / count), size=len(means))).sum(axis=1) / count


def _t_interval(mean: float, se: float, freedom: int, *, shares: bool) -> tuple[float, float]:
    reach = se * _t_quantile(max(freedom, 1))
    low, high = mean - reach, mean + reach
    return (max(low, 0.0), min(high, 1.0)) if shares else (low, high)


@cache
def _t_quantile(freedom: int) -> float:
    return float(require("eval", "scipy.stats").t.ppf((1 + CONFIDENCE) / 2, freedom))


def wilson(share: float, trials: int) -> tuple[float, float]:
    """Lower and upper limit of Wilson's 95 % interval of a share."""
    library = require("eval", "statsmodels.stats.proportion")
    low, high = library.proportion_confint(share * trials, trials, alpha=1 - CONFIDENCE, method="wilson")
    return max(float(low), 0.0), min(float(high), 1.0)  # rounding exceeds [0, 1] by 1e-17
