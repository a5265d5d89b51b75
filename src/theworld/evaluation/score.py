"""Predictions of all arms of a task to numbers: accuracies with intervals, comparisons with the full model, verdict.

<output>/<task>/metrics.json holds what `task_numbers` returns, corrected over every task of <output>.
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
    """Score what lies in <output>/<task>, and correct anew over all tasks of `output`; returns this task's metrics.

    Raises:
        FileNotFoundError: There are no predictions.
        ValueError: They are refused (`store/refusals.py`), are of other items, or a file is not JSON.
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
        **task_numbers({name: [arm] for name, arm in arms.items()}, task.measures, task.floors(counted), **counting),
        **{name: _read_json(folder / f"{name}.json") for name in ("learners", "tracing")},
    }
    every = correct({**read_metrics(output), task.name: metrics})
    for name, corrected in every.items():
        write_json(output / name / METRICS, corrected)
    return every[task.name]


def read_metrics(output: str | Path) -> dict[str, dict[str, Any]]:
    """The metrics of every task of an evaluation, by the task's name, but for those that version 0.1 wrote."""
    found = {path.parent.name: _read_json(path) for path in sorted(Path(output).glob(f"*/{METRICS}"))}
    return {name: metrics for name, metrics in found.items() if "verdicts" in metrics}


def rescore(folder: str | Path, task: Task, items: Sequence[Item]) -> dict[str, ArmRun]:
    """Parse and score the stored outputs of every arm anew, without asking a model; errors as `write_metrics`."""
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
    """A prediction with its output read by the task's rules; an error if they give a score that is not 0 or 1.

    A failed one is wrong; it need not have an item.
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
    floors: Mapping[str, float] | None = None,
    full: str = FULL,
    *,
    kinds: Sequence[str] = (),
    margins: Mapping[str, float] | None = None,
    learns: bool = False,
) -> dict[str, Any]:
    """All numbers of a task, ready for JSON; `correct` adds what depends on the other tasks.

    Families whose items all have the same right answer do not count in totals, kinds and comparisons.

    Args:
        arms: By name, each with its runs: one, or several that differ in the training seed and were asked the same
            items.
        measures: The task's own, of one run; `floors`, `kinds` and `margins` are the task's too.
        full: The arm that the others are compared with; behind `label/` where there are several runs.
        learns: Whether the task has static learners.
    """
    arms = each_once(arms, full)
    rows = max((runs[0].predictions for runs in arms.values()), key=len)
    scores = {name: _values(runs, rows) for name, runs in arms.items()}

    # Which items belong to which family and kind
    named, apart = list(kinds) or [ALL], one_answer_families(rows)
    family, clusters = (np.array([getattr(row, name) for row in rows]) for name in ("family", "cluster"))
    counted, kind_names = ~np.isin(family, [*apart]), np.array([kind_of(one, named) for one in family])
    members = {**{kind: counted & (kind_names == kind) for kind in named}, ALL: counted}
    whole = counted if counted.any() else ~counted

    # Every arm by itself, and the full model against it
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
        "floors": dict(floors or {}),
        "arms": described,
        "comparisons": comparisons,
        "on_demand": _on_demand(arms, full, apart),
        "identical": identical_arms(arms),
        "skipped": sum(not row.answer and row.failed is not None for row in rows),
    }


def describe(runs: Sequence[ArmRun], measures: Measures) -> dict[str, Any]:
    """What one arm answered, beside its accuracy: measures, figures, and what could not be read."""
    rows, name = [row for run in runs for row in run.predictions], runs[0].name
    figures = require("eval", "pandas").DataFrame([row.figures for row in rows])
    return {
        "label": ARMS[name].label if name in ARMS else runs[0].manifest.get("label", name),
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
    """Arms and seeds without repetition: the same weights, asked the same in the same way, are one run.

    Of arms that are the same, that of the full model's evaluation stays, so that the verdict finds it.
    """
    label, seen = full.rpartition("/")[0], set[str]()
    kept: dict[str, list[ArmRun]] = {}
    for name in sorted(arms, key=lambda name: (name != full, name.rpartition("/")[0] != label)):
        for run in arms[name]:
            asked = {key: value for key, value in run.identity.items() if key != "arm"}
            # Without weights that tell, as of a learner, a copy says the same
            told = (run.name, [row.output for row in run.predictions])
            if "weights" in asked and run.name in ARMS:
                told = (ARMS[run.name].world, ARMS[run.name].image)
            key = json.dumps([told, asked], sort_keys=True)
            if key not in seen:
                kept.setdefault(name, []).append(run)
            seen.add(key)
    return {name: kept[name] for name in arms if name in kept}


def identical_arms(arms: Mapping[str, Sequence[ArmRun]]) -> list[list[str]]:
    """Pairs of arms with the same output for every item, in all their runs."""
    said = {name: [[(row.id, row.output) for row in run.predictions] for run in runs] for name, runs in arms.items()}
    return [list(pair) for pair in combinations(arms, 2) if said[pair[0]] == said[pair[1]]]


def _on_demand(arms: Mapping[str, Sequence[ArmRun]], full: str, apart: Collection[str]) -> dict[str, Any] | None:
    """Accuracy over the share of rollouts, of the full model's first run that was asked without a world as well."""
    runs, without = arms.get(full, ()), arms.get(full.removesuffix(FULL) + "world_off", ())
    pairs = [(run, off) for run in runs for off in without]
    same = [pair for pair in pairs if pair[0].identity.get("weights") == pair[1].identity.get("weights")]
    # Asked by itself, without the world's own weights, it has other weights than the full model
    if not (same or len(pairs) == 1):
        return None
    run, off = (same or pairs)[0]
    least = run.manifest.get("auto_world_margin", keys(WorldSettings)["auto_world_margin"].default)
    return on_demand(counted_rows(off, apart), counted_rows(run, apart), least)


def counted_rows(run: ArmRun, apart: Collection[str]) -> list[Prediction]:
    """The predictions that count in totals: without the families `apart`, unless there are no others."""
    return [row for row in run.predictions if row.family not in apart] or run.predictions


def one_answer_families(rows: Sequence[Prediction]) -> set[str]:
    """Families of two items or more that all have the same right answer: knowing the family is enough."""
    answers = {family: [row.answer for row in own] for family, own in by_family(rows).items()}
    return {family for family, own in answers.items() if len(own) > 1 and own[0] and len(set(own)) == 1}


def _accuracy(scores: Array, clusters: Array, asked: Array) -> dict[str, Any]:
    """The accuracy with its interval over those of the items `asked` (n,) that the arm answered; empty without any."""
    known = asked & _answered(scores)
    own = scores[:, known]
    if not known.any():
        return {}
    smallest = smallest_of(own.mean(axis=0), clusters[known], USUAL_DISCORDANCE)
    return {**asdict(interval(own, clusters[known])), "smallest_difference": smallest}


def _values(runs: Sequence[ArmRun], rows: Sequence[Prediction], figure: str | None = None) -> Array:
    """Score, or a figure, (S, n) of every item in every run; not a number where the arm has none, as a learner may."""
    learner = runs[0].name in ARMS and ARMS[runs[0].name].checkpoint == LEARNER
    known = [{row.id: row for row in run.predictions if not (learner and row.failed)} for run in runs]
    found = [[run.get(row.id, NO_ANSWER) for row in rows] for run in known]
    return np.array(
        [[row.score if figure is None else row.figures.get(figure, np.nan) for row in run] for run in found]
    )


def _answered(*values: Array) -> Array:
    """Whether (n,) every arm has a value of the item in every seed."""
    return np.logical_and.reduce(~np.isnan(np.concatenate(values)))


def _measures(runs: Sequence[ArmRun], measures: Measures) -> dict[str, dict[str, Any]]:
    """The task's measures with their intervals; rows that never were an item are part of every sample."""
    known = [place for place, row in enumerate(runs[0].predictions) if row.answer]
    rest = [place for place, row in enumerate(runs[0].predictions) if not row.answer]
    rows = [runs[0].predictions[place] for place in known]

    def mean_over_runs(sample: Array) -> dict[str, float]:
        chosen = [*(known[place] for place in sample), *rest]
        found = [measures([run.predictions[place] for place in chosen]) for run in runs]
        return {name: float(np.mean([one[name] for one in found])) for name in found[0]}

    found = jackknife(mean_over_runs, [row.cluster for row in rows], [row.family for row in rows]) if rows else {}
    return {name: {key: getattr(one, key) for key in ("estimate", "low", "high", "n")} for name, one in found.items()}


def _figure_differences(
    full: Sequence[ArmRun], other: Sequence[ArmRun], rows: Sequence[Prediction]
) -> dict[str, dict[str, Any]]:
    """Mean difference of every figure over the items of which both arms have it, in every seed."""
    found: dict[str, dict[str, Any]] = {}
    clusters = np.array([row.cluster for row in rows])
    for name in dict.fromkeys(name for row in full[0].predictions for name in row.figures):
        ours, theirs = _values(full, rows, name), _values(other, rows, name)
        shared = _answered(ours, theirs)
        one = bootstrap(ours[:, shared], theirs[:, shared], clusters[shared]) if shared.any() else None
        if one and one.se > 0:  # without spread there is no interval, as figures have no scale of their own
            found[name] = {"difference": one.estimate, "low": one.low, "high": one.high, "n": one.n}
    return found


def _read_json(path: Path) -> Any:
    """What a file holds, `None` where there is none."""
    try:
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    except ValueError as error:
        raise TheWorldError(f"{path}: not JSON ({error}): evaluate again, which keeps the predictions") from error
