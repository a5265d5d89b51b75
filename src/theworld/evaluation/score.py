"""Scores the predictions of a task: accuracies with intervals, comparisons with the full model, verdicts.

<output>/<task>/metrics.json holds the result of `task_numbers`, with p-values corrected over all tasks of <output>.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from theworld.utils.errors import TheWorldError
from theworld.utils.imports import require
from theworld.utils.io import write_json
from theworld.utils.settings import keys
from theworld.utils.world_settings import WorldSettings

from .ask.arms import ARMS, FULL, LEARNER
from .stats.calibration import brier, calibration, on_demand
from .stats.intervals import Array, bootstrap, interval, jackknife
from .stats.significance import USUAL_DISCORDANCE, compare, smallest_of
from .store.predictions import Item, Prediction, items_digest, rewrite_scores
from .store.refusals import ArmRun, fingerprint, read_arms, warnings_of
from .tasks.base import ALL, MARGIN, Task, by_family, kind_of
from .verdict import correct, decisive_arms

METRICS = "metrics.json"
NO_ANSWER = Prediction("", "", "", "", score=np.nan)
Measures = Callable[[Sequence[Prediction]], dict[str, float]]


def write_metrics(output: str | Path, task: Task, items: Sequence[Item]) -> dict[str, Any]:
    """Score the predictions in <output>/<task>, and repeat Holm's correction over all tasks of `output`.

    Returns:
        The metrics of this task.

    Raises:
        FileNotFoundError: There are no predictions.
        ValueError: Predictions are refused (`store/refusals.py`) or belong to other items, or a file is not JSON.
    """
    output = Path(output)
    folder = output / task.name
    arms = rescore(folder, task, items)
    apart = one_answer_families(next(iter(arms.values())).predictions)
    counted = [item for item in items if item.family not in apart] or items
    counting: dict[str, Any] = {"kinds": task.kinds, "margins": task.margins, "learns": task.learn is not None}
    metrics = {
        "task": task.name,
        "title": task.title,
        "scored": {name: fingerprint(folder / name) for name in arms},
        **task_numbers({name: [arm] for name, arm in arms.items()}, task.measures, task.baselines(counted), **counting),
        **{name: _read_json(folder / f"{name}.json") for name in ("learners", "tracing")},
    }
    every = correct({**read_metrics(output), task.name: metrics})
    for name, corrected in every.items():
        write_json(output / name / METRICS, corrected)
    return every[task.name]


def read_metrics(output: str | Path) -> dict[str, dict[str, Any]]:
    """The metrics of an evaluation by task. Metrics of version 0.1 are left out."""
    found = {path.parent.name: _read_json(path) for path in sorted(Path(output).glob(f"*/{METRICS}"))}
    return {name: metrics for name, metrics in found.items() if "verdicts" in metrics}


def rescore(folder: str | Path, task: Task, items: Sequence[Item]) -> dict[str, ArmRun]:
    """Parse and score the stored outputs of every arm again, without a model. Raises as `write_metrics`."""
    by_id = {item.id: item for item in items}
    digest = items_digest(items)
    arms = read_arms(folder)
    for name, arm in arms.items():
        if arm.identity["items"]["digest"] != digest:
            raise TheWorldError(
                f"{folder}: arm {name!r} was asked other items (digest {arm.identity['items']['digest']}) than those "
                f"to score by ({digest}): give the data it was evaluated on"
            )
        found = [scored(task, by_id.get(row.id), row) for row in arm.predictions]
        if found != arm.predictions:
            rewrite_scores(Path(folder) / name, found)
        arms[name] = replace(arm, predictions=found)
    return arms


def scored(task: Task, item: Item | None, row: Prediction) -> Prediction:
    """`row` with the parsed answer, score and figures by the task's rules.

    A failed prediction is wrong and needs no item. Raises a ValueError if the task's score is not 0 or 1.
    """
    if row.failed:
        return replace(row, parsed=None, score=0.0, figures={})
    assert item is not None
    score = task.score(item, row.output)
    if score.right not in (0.0, 1.0):
        raise TheWorldError(
            f"task {task.name!r}: item {item.id!r} has the score {score.right}: expected 1.0 (right) or 0.0; return "
            "finer measures as `Score.figures`"
        )
    figures = dict(score.figures)
    if row.choice_logprobs and row.answer in row.choice_logprobs:
        figures["brier"] = brier(row.choice_logprobs, row.answer)
    return replace(row, parsed=score.parsed, score=score.right, figures=figures)


def task_numbers(
    arms: Mapping[str, Sequence[ArmRun]],
    measures: Measures = lambda predictions: {},
    baselines: Mapping[str, float] | None = None,
    full: str = FULL,
    *,
    kinds: Sequence[str] = (),
    margins: Mapping[str, float] | None = None,
    learns: bool = False,
) -> dict[str, Any]:
    """All metrics of a task as JSON values, except corrected p-values and verdicts, which `correct` adds.

    Families whose items all have the same right answer do not count in totals, kinds and comparisons.

    Args:
        arms: By name, the runs of the arm: one, or one per training seed on the same items.
        measures: The task's own measures of one run.
        baselines: The task's baselines by name.
        full: Name of the arm that the others are compared with, after `label/` if there are several runs.
        kinds: The task's kinds of questions.
        margins: By kind, the loss in accuracy that is not yet harm.
        learns: Whether the task has static learners.
    """
    arms = each_once(arms, full)
    rows = max((runs[0].predictions for runs in arms.values()), key=len)
    scores = {name: _values(runs, rows) for name, runs in arms.items()}

    # 1. Assign items to families and kinds
    named, apart = list(kinds) or [ALL], one_answer_families(rows)
    family, clusters = (np.array([getattr(row, name) for row in rows]) for name in ("family", "cluster"))
    counted, kind_names = ~np.isin(family, [*apart]), np.array([kind_of(one, named) for one in family])
    members = {**{kind: counted & (kind_names == kind) for kind in named}, ALL: counted}
    whole = counted if counted.any() else ~counted

    # 2. Describe every arm, and compare the full model with it
    described: dict[str, dict[str, Any]] = {}
    comparisons: dict[str, dict[str, Any]] = {kind: {} for kind in members}
    for name, runs in arms.items():
        own = scores[name]
        in_kind = {kind: _accuracy(own, clusters, members[kind]) for kind in named}
        in_family = {one: _accuracy(own, clusters, family == one) for one in sorted({*family} - {Item.family})}
        described[name] = {
            **describe(runs, measures),
            "calibration": calibration([row for run in runs for row in counted_rows(run, apart)]),
            "accuracy": _accuracy(own, clusters, counted) or _accuracy(own, clusters, np.ones_like(counted)),
            "between_seed_sd": float(own[:, whole].mean(axis=1).std(ddof=1)) if len(own) > 1 else None,
            "kinds": {kind: told for kind, told in in_kind.items() if told},
            "families": {one: {**told, "one_answer": one in apart} for one, told in in_family.items() if told},
        }
        if full not in arms or name == full:
            continue
        for kind, asked in members.items():
            shared = asked & _answered(scores[full], own)
            if shared.any():
                comparisons[kind][name] = compare(scores[full][:, shared], own[:, shared], clusters[shared])
        if name in comparisons[ALL]:
            comparisons[ALL][name]["figures"] = _figure_differences(arms[full], runs, rows)
    steps = arms[full][0].identity.get("num_world_steps") if full in arms else None
    return {
        "n": len(rows),
        "kinds": named,
        "margins": {kind: (margins or {}).get(kind, MARGIN) for kind in named},
        "counted": {kind: int(asked.sum()) for kind, asked in members.items()},
        "full": full,
        "num_world_steps": steps,
        "decides": decisive_arms(steps, learns=learns),
        "baselines": dict(baselines or {}),
        "arms": described,
        "comparisons": comparisons,
        "on_demand": _on_demand(arms, full, apart),
        "identical": identical_arms(arms),
        "skipped": sum(not row.answer and row.failed is not None for row in rows),
    }


def describe(runs: Sequence[ArmRun], measures: Measures) -> dict[str, Any]:
    """Numbers of one arm other than its accuracy: measures, figures, and counts of answers, unparsed and failed."""
    rows, name = [row for run in runs for row in run.predictions], runs[0].name
    figures = require("eval", "pandas").DataFrame([row.figures for row in rows])
    return {
        "label": runs[0].manifest.get("label") or (ARMS[name].label if name in ARMS else name),
        "seeds": len(runs),
        "unparsed": sum(row.parsed is None and row.failed is None for row in rows),
        "failed": sum(row.failed is not None for row in rows),
        "answers": dict(Counter(row.parsed for row in rows if row.parsed is not None).most_common()),
        "figures": {name: {"mean": float(known.mean()), "n": int(known.count())} for name, known in figures.items()},
        "measures": _measures(runs, measures),
        "world_tokens": max(row.world_tokens for row in rows),
        "warnings": [warning for run in runs for warning in warnings_of(run)],
    }


def each_once(arms: Mapping[str, Sequence[ArmRun]], full: str = FULL) -> dict[str, list[ArmRun]]:
    """Arms without duplicate runs: runs of the same weights with the same items and settings count once.

    Of duplicates, the run of the full model's evaluation is kept, since the verdict needs it.
    """
    label, seen = full.rpartition("/")[0], set[str]()
    kept: dict[str, list[ArmRun]] = {}
    for name in sorted(arms, key=lambda name: (name != full, name.rpartition("/")[0] != label)):
        for run in arms[name]:
            asked = {key: value for key, value in run.identity.items() if key != "arm"}
            # Runs without weights (static learners) are duplicates if their outputs are equal
            told = (run.name, [row.output for row in run.predictions])
            if "weights" in asked and run.name in ARMS:
                told = (ARMS[run.name].world, ARMS[run.name].image)
            key = json.dumps([told, asked], sort_keys=True)
            if key not in seen:
                kept.setdefault(name, []).append(run)
            seen.add(key)
    return {name: kept[name] for name in arms if name in kept}


def identical_arms(arms: Mapping[str, Sequence[ArmRun]]) -> list[list[str]]:
    """Pairs of arms with the same output for every item in all runs."""
    said = {name: [[(row.id, row.output) for row in run.predictions] for run in runs] for name, runs in arms.items()}
    return [list(pair) for pair in combinations(arms, 2) if said[pair[0]] == said[pair[1]]]


def _on_demand(arms: Mapping[str, Sequence[ArmRun]], full: str, apart: Collection[str]) -> dict[str, Any] | None:
    """Accuracy by share of rollouts, for the full model's first run that has the arm `world_off` too."""
    runs, without = arms.get(full, ()), arms.get(full.removesuffix(FULL) + "world_off", ())
    pairs = [(run, off) for run in runs for off in without]
    same = [pair for pair in pairs if pair[0].identity.get("weights") == pair[1].identity.get("weights")]
    # `world_off` evaluated alone loads no world model, so its weights differ from the full model's
    if not (same or len(pairs) == 1):
        return None
    run, off = (same or pairs)[0]
    least = run.manifest.get("auto_world_margin", keys(WorldSettings)["auto_world_margin"].default)
    return on_demand(counted_rows(off, apart), counted_rows(run, apart), least)


def counted_rows(run: ArmRun, apart: Collection[str]) -> list[Prediction]:
    """The predictions that count in totals: all outside the families `apart`, or all if there are no others."""
    return [row for row in run.predictions if row.family not in apart] or run.predictions


def one_answer_families(rows: Sequence[Prediction]) -> set[str]:
    """Families of two or more items that all have the same right answer. The family alone gives the answer."""
    answers = {family: [row.answer for row in own] for family, own in by_family(rows).items()}
    return {family for family, own in answers.items() if len(own) > 1 and own[0] and len(set(own)) == 1}


def _accuracy(scores: Array, clusters: Array, asked: Array) -> dict[str, Any]:
    """The accuracy and its interval over the items of the mask `asked` (n,) that the arm answered; empty if none."""
    known = asked & _answered(scores)
    own = scores[:, known]
    if not known.any():
        return {}
    smallest = smallest_of(own.mean(axis=0), clusters[known], USUAL_DISCORDANCE)
    return {**asdict(interval(own, clusters[known])), "smallest_difference": smallest}


def _values(runs: Sequence[ArmRun], rows: Sequence[Prediction], figure: str | None = None) -> Array:
    """Scores, or a figure, (S, n) of all items in all runs; NaN if the arm has none (a learner skips some items)."""
    learner = runs[0].name in ARMS and ARMS[runs[0].name].checkpoint == LEARNER
    known = [{row.id: row for row in run.predictions if not (learner and row.failed)} for run in runs]
    found = [[run.get(row.id, NO_ANSWER) for row in rows] for run in known]
    return np.array(
        [[row.score if figure is None else row.figures.get(figure, np.nan) for row in run] for run in found]
    )


def _answered(*values: Array) -> Array:
    """Whether every arm has a value for the item in every seed (n,)."""
    return np.logical_and.reduce(~np.isnan(np.concatenate(values)))


def _measures(runs: Sequence[ArmRun], measures: Measures) -> dict[str, dict[str, Any]]:
    """The task's measures with intervals. Rows that could not become an item are in every jackknife sample."""
    known = [place for place, row in enumerate(runs[0].predictions) if row.answer]
    rest = [place for place, row in enumerate(runs[0].predictions) if not row.answer]
    rows = [runs[0].predictions[place] for place in known]

    def mean_over_runs(sample: Array) -> dict[str, float]:
        chosen = [*(known[place] for place in sample.tolist()), *rest]
        found = [measures([run.predictions[place] for place in chosen]) for run in runs]
        return {name: float(np.mean([one[name] for one in found])) for name in found[0]}

    found = jackknife(mean_over_runs, [row.cluster for row in rows], [row.family for row in rows]) if rows else {}
    return {name: {key: getattr(one, key) for key in ("estimate", "low", "high", "n")} for name, one in found.items()}


def _figure_differences(
    full: Sequence[ArmRun], other: Sequence[ArmRun], rows: Sequence[Prediction]
) -> dict[str, dict[str, Any]]:
    """Mean difference of every figure, over the items for which both arms have it in every seed."""
    found: dict[str, dict[str, Any]] = {}
    clusters = np.array([row.cluster for row in rows])
    for name in dict.fromkeys(name for row in full[0].predictions for name in row.figures):
        ours, theirs = _values(full, rows, name), _values(other, rows, name)
        shared = _answered(ours, theirs)
        one = bootstrap(ours[:, shared], theirs[:, shared], clusters[shared]) if shared.any() else None
        if one and one.se > 0:  # without spread there is no interval, since figures have no fixed range
            found[name] = {"difference": one.estimate, "low": one.low, "high": one.high, "n": one.n}
    return found


def _read_json(path: Path) -> Any:
    """The JSON value of a file; `None` if there is no file."""
    try:
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    except ValueError as error:
        raise TheWorldError(f"{path}: not JSON ({error}): evaluate again; existing predictions are reused") from error
