"""Predictions of all arms of a task to numbers: accuracies with intervals, comparisons with the full model, verdict.

<output>/<task>/metrics.json holds what `task_numbers` returns, corrected over every task of <output>.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from theworld.utils.errors import TheWorldError
from theworld.utils.io import write_json

from .stats.comparison import USUAL_DISCORDANCE, compare, item_scores, smallest_of
from .stats.significance import interval, over_seeds
from .store.predictions import Item, Prediction, items_digest, rewrite_scores
from .store.refusals import FULL, ArmRun, fingerprint, read_arms, warnings_of
from .tasks.base import Task
from .verdict import correct

METRICS = "metrics.json"
Measures = Callable[[Sequence[Prediction]], dict[str, float]]


def write_metrics(output: str | Path, task: Task, items: Sequence[Item]) -> dict[str, Any]:
    """Score what lies in <output>/<task>, and correct anew over all tasks of `output`; returns this task's metrics.

    Raises:
        FileNotFoundError: There are no predictions.
        ValueError: They are refused (`store/refusals.py`), or are of other items.
    """
    output = Path(output)
    arms = rescore(output / task.name, task, items)
    metrics = task_numbers({name: [arm] for name, arm in arms.items()}, task.measures, task.floors(items))
    scored = {name: fingerprint(output / task.name / name) for name in arms}
    metrics = {"task": task.name, "title": task.title, "scored": scored, **metrics}
    every = correct({**read_metrics(output), task.name: metrics})
    for name, corrected in every.items():
        write_json(output / name / METRICS, corrected)
    return every[task.name]


def read_metrics(output: str | Path) -> dict[str, dict[str, Any]]:
    """The metrics of every task of an evaluation, by the task's name.

    Raises:
        ValueError: A file is not JSON.
    """
    found: dict[str, dict[str, Any]] = {}
    for path in sorted(Path(output).glob(f"*/{METRICS}")):
        try:
            found[path.parent.name] = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise TheWorldError(f"{path}: not JSON ({error}): evaluate again, which keeps the predictions") from error
    return found


def rescore(folder: str | Path, task: Task, items: Sequence[Item]) -> dict[str, ArmRun]:
    """Parse and score the stored outputs of every arm anew, without asking a model.

    Raises:
        FileNotFoundError: There are no predictions in `folder`.
        ValueError: They are refused (`store/refusals.py`), or are of other items.
    """
    by_id = {item.id: item for item in items}
    digest = items_digest(items)
    arms = read_arms(folder)
    for name, arm in arms.items():
        if arm.identity["items"]["digest"] != digest:
            raise TheWorldError(
                f"{folder}: arm {name!r} was asked other items (digest {arm.identity['items']['digest']}) than those "
                f"to score by ({digest}): give the data it was evaluated on"
            )
        scored = [_scored(row, task, by_id) for row in arm.predictions]
        if scored != arm.predictions:
            rewrite_scores(Path(folder) / name, scored)
        arms[name] = replace(arm, predictions=scored)
    return arms


def task_numbers(
    arms: Mapping[str, Sequence[ArmRun]],
    measures: Measures = lambda predictions: {},
    floors: Mapping[str, float] | None = None,
    full: str = FULL,
) -> dict[str, Any]:
    """All numbers of a task, ready for JSON; `correct` adds what depends on the other tasks.

    Args:
        arms: By name, each with its runs: one, or several that differ in the training seed and were asked the same
            items.
        measures: The task's own, of one run.
        floors: Accuracies that need no model, by name.
        full: The arm that the others are compared with; behind `label/` where there are several runs.
    """
    comparisons = None
    if full in arms:
        comparisons = {name: compare(arms[full], runs) for name, runs in arms.items() if name != full}
    return {
        "n": len(next(iter(arms.values()))[0].predictions),
        "full": full,
        "floors": dict(floors or {}),
        "arms": {name: describe(runs, measures) for name, runs in arms.items()},
        "comparisons": comparisons,
    }


def describe(runs: Sequence[ArmRun], measures: Measures = lambda predictions: {}) -> dict[str, Any]:
    """Accuracy of one arm with its interval, whole and by family, and how its answers are spread."""
    rows = [row for run in runs for row in run.predictions]
    first = runs[0].predictions
    families = sorted({row.family for row in first if row.family != Item.family})
    own = [measures(run.predictions) for run in runs]
    return {
        **_accuracy(runs),
        "seeds": len(runs),
        "between_seed_sd": _between_seeds(runs),
        "unparsed": sum(row.parsed is None and row.failed is None for row in rows),
        "failed": sum(row.failed is not None for row in rows),
        "answers": dict(Counter(row.parsed for row in rows if row.parsed is not None).most_common()),
        "distinct_answers": len({row.parsed for row in rows if row.parsed is not None}),
        "right_answers": dict(Counter(row.answer for row in first).most_common()),
        "figures": _figures(rows),
        "measures": {name: float(np.mean([values[name] for values in own])) for name in own[0]},
        "families": {family: _accuracy(runs, family) for family in families},
        "world_tokens": max(row.world_tokens for row in rows),
        "warnings": [warning for run in runs for warning in warnings_of(run)],
    }


def _scored(row: Prediction, task: Task, items: Mapping[str, Item]) -> Prediction:
    if row.failed is not None:
        return replace(row, parsed=None, score=0.0, figures={})
    score = task.score(items[row.id], row.output)
    return replace(row, parsed=score.parsed, score=score.right, figures=dict(score.figures))


def _accuracy(runs: Sequence[ArmRun], family: str | None = None) -> dict[str, Any]:
    """Accuracy over all items or those of one family."""
    rows = runs[0].predictions
    chosen = [place for place, row in enumerate(rows) if family in (None, row.family)]
    scores, clusters = item_scores(runs)[chosen], [rows[place].cluster for place in chosen]
    estimate = interval(scores, clusters)
    return {
        "accuracy": asdict(estimate),
        "smallest_difference": smallest_of(scores, clusters, USUAL_DISCORDANCE),
    }


def _between_seeds(runs: Sequence[ArmRun]) -> float | None:
    if len(runs) < 2:
        return None
    return over_seeds([item_scores([run]) for run in runs], [row.cluster for row in runs[0].predictions]).seed_sd


def _figures(rows: Sequence[Prediction]) -> dict[str, dict[str, float]]:
    """The mean of every figure over the answers that have it, and how many do."""
    names = dict.fromkeys(name for row in rows for name in row.figures)
    values = {name: [row.figures[name] for row in rows if name in row.figures] for name in names}
    return {name: {"mean": float(np.mean(known)), "n": len(known)} for name, known in values.items()}


__all__ = [
    "METRICS",
    "describe",
    "read_metrics",
    "rescore",
    "task_numbers",
    "write_metrics",
]
