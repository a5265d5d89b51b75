"""What a report says, before it is Markdown or HTML: gathered from the folders of one evaluation or of several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from theworld.utils.errors import MissingFileError
from theworld.utils.imports import require

from ..score import read_metrics, task_numbers
from ..store.refusals import FULL, ArmRun, check_scored, check_together, read_arms
from ..tasks import TASKS
from ..verdict import correct
from .examples import ExampleItem, draw_examples, show
from .plots import draw
from .tables import Table, claims, deciding, judge_table, key_table, task_tables

Runs = Sequence[tuple[str, Path]]  # label and folder of each


@dataclass(frozen=True)
class Section:
    """One task."""

    task: str
    metrics: dict[str, Any]
    claims: tuple[tuple[str, str, str], ...]  # what about, the outcome in a word, and why in a sentence
    key: Table  # the few arms that a reader sees first
    figure: tuple[str, str]  # what it shows, and the SVG
    tables: tuple[Table, ...]  # all others
    examples: tuple[ExampleItem, ...]  # drawn at random from those on which arms disagree
    disagreements: int  # how many there are
    prompts: tuple[tuple[str, str], ...]  # the rendered prompt of the first item, and the arms that got it so


@dataclass(frozen=True)
class Report:
    """All of it."""

    title: str  # which model or models, on which tasks
    date: str  # of the newest predictions
    sections: tuple[Section, ...]
    settings: tuple[Table, ...]  # what all arms have in common, and in what they differ


def gather(runs: Runs) -> Report:
    """The report on evaluations; runs with the same label are training seeds of one another.

    Args:
        runs: Label and folder of each.

    Raises:
        FileNotFoundError: There is nothing to report.
        ValueError: Predictions are refused (`store/refusals.py`).
    """
    stored = [read_metrics(folder) for _, folder in runs]
    tasks = list(dict.fromkeys(task for metrics in stored for task in metrics))
    if not tasks:
        folders = ", ".join(str(folder) for _, folder in runs)
        raise MissingFileError(f"{folders}: no metrics of any task there; `theworld evaluate` writes them")
    arms = {task: _arms_of(task, runs, stored) for task in tasks}
    metrics = stored[0] if len(runs) == 1 else correct({task: _numbers_of(task, arms[task], stored) for task in tasks})
    sections = tuple(_section(task, metrics[task], arms[task], runs, stored) for task in tasks)
    models = [next(iter(next(iter(arms.values())).values()))[0].manifest.get("model", "Evaluation")]
    models = models if len(runs) == 1 else list(dict.fromkeys(label for label, _ in runs))
    titles = ", ".join(section.metrics["title"] for section in sections)
    newest = max(path.stat().st_mtime for _, folder in runs for path in folder.glob("*/*/predictions.jsonl"))
    date = datetime.fromtimestamp(newest, UTC).date().isoformat()
    return Report(f"{', '.join(models)} on {titles}", date, sections, _settings(arms))


def full_arm(arms: Mapping[str, Any]) -> str:
    """The arm that the others are compared with: the full model of the first run, or else the first arm."""
    return next((name for name in arms if name.rpartition("/")[2] == FULL), next(iter(arms)))


def _arms_of(task: str, runs: Runs, stored: Sequence[Mapping[str, Any]]) -> dict[str, list[ArmRun]]:
    """The arms of a task by name, `label/arm` where there are several runs, each with its seeds; all are checked."""
    arms: dict[str, list[ArmRun]] = {}
    every: dict[str, ArmRun] = {}
    for (label, folder), metrics in zip(runs, stored, strict=True):
        if task in metrics:
            found = read_arms(folder / task)  # first: what was done to a file is a better reason than that it changed
            check_scored(folder / task, metrics[task])
            for name, arm in found.items():
                arms.setdefault(name if len(runs) == 1 else f"{label}/{name}", []).append(arm)
                every[str(folder / task / name)] = arm
    if len(runs) > 1:
        check_together(every)
    return arms


def _numbers_of(task: str, arms: Mapping[str, Sequence[ArmRun]], stored: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The metrics of the arms of several runs; what says how to count is that of the first."""
    known = next(metrics[task] for metrics in stored if task in metrics)
    counting: dict[str, Any] = {key: known[key] for key in ("kinds", "margins", "floors")}
    counting |= {"measures": TASKS[task].measures} if task in TASKS else {}
    learns = "static_learner" in known["decides"]
    numbers = task_numbers(arms, full=full_arm(arms), learns=learns, **counting)
    return {"task": task, "title": known["title"], **numbers}


def _section(
    task: str,
    metrics: dict[str, Any],
    arms: Mapping[str, Sequence[ArmRun]],
    runs: Runs,
    stored: Sequence[Mapping[str, Any]],
) -> Section:
    # 1. Of several runs, the verdict on the first among all their arms, and that on each by itself
    full, told = full_arm(arms), claims(metrics)
    if len(runs) > 1:
        label, seeds = full.rpartition("/")[0], len(arms[full])
        by_whom = [(f"{label}{f', {seeds} seeds' if seeds > 1 else ''}, among all arms", told)]
        by_whom += [
            (f"{label} ({folder.name}) by itself", claims(known[task]))
            for (label, folder), known in zip(runs, stored, strict=True)
            if task in known
        ]
        told = [(f"{whom}: {about}", word, why) for whom, found in by_whom for about, word, why in found]
    # 2. Examples and prompts, of arms that are there once
    folders = [folder / task for _, folder in runs]
    shown = {name: arms[name] for name in metrics["arms"]}
    places, disagreements = draw_examples(shown, full, deciding(metrics))
    examples = tuple(show(place, shown, full, folders) for place in places)
    prompts: dict[str, list[str]] = {}
    for name, (first, *_) in shown.items():
        prompts.setdefault(next((row.prompt for row in first.predictions if row.prompt), ""), []).append(name)
    asked = tuple((prompt, ", ".join(names)) for prompt, names in prompts.items() if prompt)
    # 3. Tables, among them what judges made of the answers
    named: dict[str, list[Path]] = {}
    for (label, _), folder in zip(runs, folders, strict=True):
        for name in arms:
            named.setdefault(name, []).append(folder / (name if len(runs) == 1 else name.removeprefix(f"{label}/")))
    judged = judge_table(named)
    tables, key = (*task_tables(metrics), *([judged] if judged.rows else [])), key_table(metrics)
    return Section(task, metrics, tuple(told), key, draw(metrics), tables, examples, disagreements, asked)


def _settings(arms: Mapping[str, Mapping[str, Sequence[ArmRun]]]) -> tuple[Table, ...]:
    """What all manifests agree on, and a table of what they do not."""
    manifests = {
        (task, f"{name} {number}" if len(seeds) > 1 else name): seed.manifest
        for task, named in arms.items()
        for name, seeds in named.items()
        for number, seed in enumerate(seeds, start=1)
    }
    pandas = require("eval", "pandas")  # one by one, as a whole number beside a missing one becomes a float
    flat = [pandas.json_normalize(one).dropna(axis=1).astype(str).iloc[0] for one in manifests.values()]
    frame = pandas.DataFrame(flat).fillna("").reset_index(drop=True)
    frame.columns = frame.columns.str.replace(r"^(identity|environment)\.", "", regex=True)
    same = frame.nunique() == 1
    agreed = [{"Setting": name, "Value": frame[name][0]} for name in frame.columns[same]]
    rest = frame.loc[:, ~same].drop(columns=["task", "arm", "label"], errors="ignore")
    differ = [
        {"Task": key[0], "Arm": key[1], **row} for key, row in zip(manifests, rest.to_dict("records"), strict=True)
    ]
    tables = (Table("Settings and versions", agreed), Table("Where arms differ", differ))
    return tables if len(rest.columns) else tables[:1]


__all__ = ["Report", "full_arm", "gather"]
