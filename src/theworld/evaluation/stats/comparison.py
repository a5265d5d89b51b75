"""The full model against another arm, item by item."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from ..store.refusals import ArmRun
from .intervals import cluster_ids, standard_error
from .significance import bootstrap_difference, mcnemar, smallest_difference

USUAL_DISCORDANCE = 0.2
"""Share of items that just one of two arms gets right, assumed where no second arm says what it is."""

FLIPS = 9_999
"""Random signs that a sign-flip test tries."""


def compare(full: Sequence[ArmRun], other: Sequence[ArmRun]) -> dict[str, Any]:
    """The full model against another arm on the same items; positive differences are in favour of the full model.

    `b` items are right only with the full model, `c` only with the other arm. Where an arm has several seeds, its
    score of an item is their mean: then `b` and `c` are None, and `p` is that of a sign-flip test over clusters.
    """
    ours, theirs = item_scores(full), item_scores(other)
    clusters = [row.cluster for row in full[0].predictions]
    if len(full) == len(other) == 1:
        test = {key: value for key, value in asdict(mcnemar(ours, theirs)).items() if key in ("b", "c", "p")}
    else:
        test = {"b": None, "c": None, "p": _sign_flip(ours - theirs, clusters)}
    low, high = -1.0, 1.0  # all that one cluster tells
    if cluster_ids(clusters, len(ours)).any():
        estimate = bootstrap_difference(ours, theirs, clusters)
        low, high = estimate.low, estimate.high
    discordance = float(np.abs(ours - theirs).mean())
    return {
        "difference": float((ours - theirs).mean()),
        "low": low,
        "high": high,
        "n": len(ours),
        **test,
        "p_holm": None,
        "discordance": discordance,
        "figures": _figures(full, other),
        "smallest_difference": smallest_of(ours - theirs, clusters, discordance or USUAL_DISCORDANCE),
    }


def item_scores(runs: Sequence[ArmRun]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Score (n,) of every item, the mean over the runs."""
    return np.mean([[row.score for row in run.predictions] for run in runs], axis=0)


def _figures(full: Sequence[ArmRun], other: Sequence[ArmRun]) -> dict[str, dict[str, Any]]:
    """Mean difference of every figure over the items of which both arms have it, in every seed."""
    ours, theirs = ([[row.figures for row in run.predictions] for run in runs] for runs in (full, other))
    every = [*ours, *theirs]
    rows = full[0].predictions
    found: dict[str, dict[str, Any]] = {}
    for name in dict.fromkeys(name for run in every for figures in run for name in figures):
        places = [place for place in range(len(rows)) if all(name in run[place] for run in every)]
        clusters = [rows[place].cluster for place in places]
        if not places or not cluster_ids(clusters, len(places)).any():
            continue  # one cluster has no interval
        first, second = (
            np.mean([[run[place][name] for place in places] for run in runs], axis=0) for runs in (ours, theirs)
        )
        estimate = bootstrap_difference(first, second, clusters)
        found[name] = {"difference": estimate.estimate, "low": estimate.low, "high": estimate.high, "n": estimate.n}
    return found


def _sign_flip(differences: np.ndarray[Any, Any], clusters: Sequence[str]) -> float:
    """Two-sided p of the mean difference, if each cluster's could as well have had the other sign (Fisher 1935)."""
    sums = np.bincount(cluster_ids(clusters, len(differences)), weights=differences)
    rng = np.random.default_rng(0)
    flipped = np.array([abs(rng.choice((-1.0, 1.0), len(sums)) @ sums) for _ in range(FLIPS)])
    return float((1 + (flipped >= abs(sums.sum()) - 1e-9).sum()) / (1 + FLIPS))


def smallest_of(values: np.ndarray[Any, Any], clusters: Sequence[str], discordance: float) -> float:
    """What the items can show, counted as the independent ones that they are worth; 1.0 is nothing."""
    ids, worth = cluster_ids(clusters, len(values)), 1.0
    if not ids.any():
        return 1.0
    alone, tied = (standard_error(values, each) for each in (np.arange(len(values)), ids))
    if tied > alone:
        worth = (alone / tied) ** 2
    return smallest_difference(max(round(worth * len(values)), 1), discordance)


__all__ = ["USUAL_DISCORDANCE", "compare", "item_scores", "smallest_of"]
