"""Intervals of a mean: Wilson's, a cluster-robust one, and the bootstrap of whole clusters.

Miller, "Adding Error Bars to Evals", arXiv 2411.00640 (clustered and paired errors); Bowyer et al., arXiv 2503.01747
(no normal approximation for a few hundred items).

n  items        G  clusters        R  resamples
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from theworld.utils.errors import TheWorldError
from theworld.utils.imports import require

Numbers = Sequence[float] | np.ndarray[Any, Any]
Array = np.ndarray[Any, Any]

CONFIDENCE = 0.95
FEW = 300
"""Items below which right and wrong answers get a Wilson interval."""

ALIKE = 1e-12
"""Standard error below which scores are alike: the means of three seeds differ by rounding."""

_CHUNK = 2**22  # indices that a bootstrap draws at once


@dataclass(frozen=True)
class Interval:
    """A mean and its 95 % interval.

    Args:
        estimate: The mean, or the difference of two means.
        low: Lower end.
        high: Upper end.
        se: Standard error; 0 where all scores are alike, which the interval does not believe.
        n: Items.
        n_clusters: Independent groups of them.
        method: `wilson`, `clustered`, `clt`, `t`, `wilson over clusters` or `bootstrap`, as `interval` tells.
    """

    estimate: float
    low: float
    high: float
    se: float
    n: int
    n_clusters: int
    method: str


def interval(scores: Numbers, clusters: Sequence[str] | None = None) -> Interval:
    """The mean of `scores` and its interval, by the method that fits them.

    `clustered` (cluster-robust, t with G - 1 degrees of freedom) where clusters repeat. Where they do not: `wilson` for
    fewer than 300 zeros and ones, `t` for as few other scores, `clt` for more. Scores from 0 to 1 are shares, as an
    item's mean over seeds is, and so are the ends of their interval. Shares that are all alike or all of one cluster
    have no spread to go by: their interval is Wilson's with a trial a cluster, `wilson over clusters`.

    Args:
        scores: (n,), finite.
        clusters: (n,) what items share, as a rule the picture; an empty name stands for an item on its own.

    Raises:
        ValueError: No scores, lengths that differ, a score that is not finite, or one cluster of scores that are no
            shares.
    """
    values = finite("scores", scores)
    ids = cluster_ids(clusters, len(values))
    n, groups, mean = len(values), int(ids.max()) + 1, float(values.mean())
    binary = bool(np.isin(values, (0.0, 1.0)).all())
    shares = bool(((values >= 0.0) & (values <= 1.0)).all())
    se = standard_error(values, ids) if groups > 1 else 0.0
    if binary and groups == n < FEW:
        return Interval(mean, *_wilson(mean, n), se, n, groups, "wilson")
    if shares and se < ALIKE:
        return Interval(mean, *_wilson(mean, groups), se, n, groups, "wilson over clusters")
    if groups < 2:
        raise TheWorldError(f"scores: {n} in one cluster: an interval needs scores of at least two clusters")
    reach = se * float(require("eval", "scipy.stats").t.ppf((1 + CONFIDENCE) / 2, groups - 1))
    low, high = mean - reach, mean + reach
    if shares:
        low, high = max(low, 0.0), min(high, 1.0)
    return Interval(mean, low, high, se, n, groups, "clustered" if groups < n else "t" if n < FEW else "clt")


def bootstrap_difference(
    ours: Numbers,
    theirs: Numbers,
    clusters: Sequence[str] | None = None,
    strata: Sequence[str] | None = None,
    *,
    seed: int = 0,
    resamples: int = 10_000,
) -> Interval:
    """Percentile interval of the mean of `ours - theirs` on the same items, in the same order.

    Whole clusters are drawn where they repeat (the cluster bootstrap). With `strata` the mean is that of the strata's
    means, as in `stratified_bootstrap`. The same seed gives the same interval.

    Raises:
        ValueError: As `stratified_bootstrap`, or lengths that differ.
    """
    first, second = pair(ours, theirs)
    return _bootstrap(first - second, clusters, strata, seed, resamples)


def stratified_bootstrap(
    scores: Numbers,
    strata: Sequence[str],
    clusters: Sequence[str] | None = None,
    *,
    seed: int = 0,
    resamples: int = 10_000,
) -> Interval:
    """Percentile interval of the unweighted mean of the strata's means, as BLINK averages its sub-tasks.

    Every stratum is resampled by itself, so the difference between strata adds no width.

    Args:
        scores: (n,), finite.
        strata: (n,) the sub-task of every item.
        clusters: (n,) as for `interval`; those of two strata are not tied.
        seed: Of the draws.
        resamples: R.

    Raises:
        ValueError: No scores, lengths that differ, a score that is not finite, or a stratum of a single cluster.
    """
    return _bootstrap(finite("scores", scores), clusters, strata, seed, resamples)


def standard_error(values: Array, ids: Array) -> float:
    """Of the mean: Miller's clustered one with the factor G / (G - 1), so that single items give the plain one."""
    groups = int(ids.max()) + 1
    residuals = np.bincount(ids, weights=values - values.mean())  # (G,)
    return float(np.sqrt(groups / (groups - 1) * (residuals**2).sum()) / len(values))


def pair(ours: Numbers, theirs: Numbers) -> tuple[Array, Array]:
    """Two arms' scores (n,) as arrays.

    Raises:
        ValueError: As `finite`, or the lengths differ.
    """
    first, second = finite("the first scores", ours), finite("the second scores", theirs)
    if len(first) != len(second):
        raise TheWorldError(f"{len(first)} scores against {len(second)}: expected the same items in the same order")
    return first, second


def finite(name: str, scores: Numbers) -> Array:
    """Scores (n,) as an array; `name` is what an error calls them.

    Raises:
        ValueError: There are none, or one is not finite.
    """
    values = np.asarray(scores, dtype=np.float64)
    if values.ndim != 1 or not len(values):
        raise TheWorldError(f"{name}: expected a list of numbers, got shape {values.shape}")
    if not np.isfinite(values).all():
        raise TheWorldError(
            f"{name}: {int((~np.isfinite(values)).sum())} of {len(values)} are not finite: leave them out"
        )
    return values


def cluster_ids(clusters: Sequence[str] | None, n: int) -> Array:
    """Clusters (n,) as numbers from 0 to G - 1; an empty name is a cluster of its own.

    Raises:
        ValueError: There are not `n`.
    """
    if clusters is None:
        return np.arange(n)
    if len(clusters) != n:
        raise TheWorldError(f"{n} scores with {len(clusters)} clusters: expected one each")
    numbers: dict[str | int, int] = {}
    return np.array([numbers.setdefault(name or place, len(numbers)) for place, name in enumerate(clusters)])


def _wilson(share: float, trials: int) -> tuple[float, float]:
    library = require("eval", "statsmodels.stats.proportion")
    low, high = library.proportion_confint(share * trials, trials, alpha=1 - CONFIDENCE, method="wilson")
    return max(float(low), 0.0), min(float(high), 1.0)  # rounding leaves [0, 1] by 1e-17


def _bootstrap(
    values: Array, clusters: Sequence[str] | None, strata: Sequence[str] | None, seed: int, resamples: int
) -> Interval:
    ids = cluster_ids(clusters, len(values))
    if strata is not None and len(strata) != len(values):
        raise TheWorldError(f"{len(values)} scores with {len(strata)} strata: expected one each")
    names = np.asarray(["all"] * len(values) if strata is None else strata)
    rng = np.random.default_rng(seed)
    estimates: list[float] = []
    draws: list[Array] = []
    groups = 0
    for name in dict.fromkeys(names.tolist()):
        inside = names == name
        _, own = np.unique(ids[inside], return_inverse=True)
        sums, sizes = np.bincount(own, weights=values[inside]), np.bincount(own)  # (G,) each
        if len(sums) < 2:
            raise TheWorldError(f"stratum {name!r} has a single cluster: a bootstrap needs at least two")
        groups += len(sums)
        estimates.append(float(sums.sum() / sizes.sum()))
        draws.append(_resampled_means(sums, sizes, rng, resamples))
    means = np.mean(draws, axis=0)  # (R,)
    low, high = np.quantile(means, ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2))
    spread = float(means.std(ddof=1))
    return Interval(float(np.mean(estimates)), float(low), float(high), spread, len(values), groups, "bootstrap")


def _resampled_means(sums: Array, sizes: Array, rng: np.random.Generator, resamples: int) -> Array:
    """Means (R,) of as many clusters as there are, drawn with replacement."""
    groups = len(sums)
    step = max(1, _CHUNK // groups)
    parts: list[Array] = []
    for start in range(0, resamples, step):
        drawn = rng.integers(groups, size=(min(step, resamples - start), groups))
        parts.append(sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1))
    return np.concatenate(parts)


__all__ = [
    "CONFIDENCE",
    "FEW",
    "Interval",
    "Numbers",
    "bootstrap_difference",
    "cluster_ids",
    "finite",
    "interval",
    "pair",
    "standard_error",
    "stratified_bootstrap",
]
