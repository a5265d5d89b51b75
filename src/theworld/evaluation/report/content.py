"""Gathers the content of a report from the folders of one or several evaluations, independent of the format."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean
from typing import Any

from theworld.utils.errors import MissingFileError
from theworld.utils.imports import require

from ..score import each_once, read_metrics, task_numbers
from ..store.refusals import FULL, ArmRun, check_scored, check_together, read_arms
from ..verdict import correct
from .examples import ExampleItem, draw_examples, show
from .plots import Drawn, draw_all
from .tables import BESIDE, Table, claims, deciding, judge_table, key_table, task_tables

Metrics = dict[str, Any]


@dataclass(frozen=True)
class Run:
    """One evaluation."""

    label: str  # prefix of its arms' names; empty for a single run
    folder: Path
    metrics: dict[str, Metrics]  # by task

    @property
    def name(self) -> str:
        """The label with the folder, which distinguishes training seeds of the same label."""
        return f"{self.label} ({self.folder.name})"

    def named(self, arm: ArmRun) -> str:
        """Name of an arm of this run among those of all runs."""
        return f"{self.label}/{arm.name}" if self.label else arm.name


Found = Sequence[tuple[Run, ArmRun]]  # the arms of a task, each with its run


@dataclass(frozen=True)
class Section:
    """One task."""

    metrics: Metrics
    claims: Sequence[tuple[str, str, str]]  # (kinds, outcome, reason in a sentence)
    key: Table  # the most important arms, shown first
    figures: Mapping[str, Drawn]  # by title; all but the first are folded, each with the table of the same title
    tables: Sequence[Table]  # all other tables
    examples: Sequence[ExampleItem]  # a random sample of items on which arms disagree
    disagreements: int  # number of such items


@dataclass(frozen=True)
class Report:
    """A whole report."""

    title: str  # models and tasks
    date: str  # of the newest predictions
    sections: Sequence[Section]
    settings: Sequence[Table]  # common settings of all arms, and settings that differ


def gather(
    labels: Sequence[str], folders: Sequence[Path], keep_images: Callable[[str, str], None] = lambda task, id: None
) -> Report:
    """Gather the report on the evaluations in `folders`.

    Args:
        labels: Label of each evaluation; an empty one if there is only one.
        folders: Folders of the evaluations.
        keep_images: Saves the images of an item, given its task and id, where `find_images` finds them.
    """
    # 1. Read the runs, and the arms of each task
    runs = [Run(label, folder, read_metrics(folder)) for label, folder in zip(labels, folders, strict=True)]
    for run in runs:
        if not run.metrics:
            raise MissingFileError(f"{run.folder}: no metrics of any task there; `theworld evaluate` writes them")
    tasks = dict.fromkeys(task for run in runs for task in run.metrics)
    by_task = {task: [run for run in runs if task in run.metrics] for task in tasks}
    found = {task: _find(task, own) for task, own in by_task.items()}
    # 2. Take the stored metrics of one run, or compute those of all runs together
    metrics = runs[0].metrics
    if len(runs) > 1:
        metrics = correct({task: _together(task, own, found[task]) for task, own in by_task.items()})
    sections = [_section(metrics[task], own, found[task], keep_images) for task, own in by_task.items()]
    # 3. Title and date
    model = next(iter(found.values()))[0][1].manifest.get("model", "Evaluation")
    models = list(dict.fromkeys(labels)) if len(runs) > 1 else [model]
    titles = ", ".join(section.metrics["title"] for section in sections)
    newest = max(path.stat().st_mtime for folder in folders for path in folder.glob("*/*/predictions.jsonl"))
    date = datetime.fromtimestamp(newest, UTC).date().isoformat()
    return Report(f"{', '.join(models)} on {titles}", date, sections, _settings(found))


def _find(task: str, runs: Sequence[Run]) -> Found:
    """All arms of a task, checked and without duplicates."""
    found: list[tuple[Run, ArmRun]] = []
    for run in runs:
        # Before `check_scored`, since a specific refusal explains more than "has changed"
        found += [(run, arm) for arm in read_arms(run.folder / task).values()]
        check_scored(run.folder / task, run.metrics[task])
    check_together({str(run.folder / task / arm.name): arm for run, arm in found})
    by_name = _by_name(found)
    once = {id(arm) for seeds in each_once(by_name, _full(by_name)).values() for arm in seeds}
    return [(run, arm) for run, arm in found if id(arm) in once]


def _by_name(found: Found) -> dict[str, list[ArmRun]]:
    """The arms by name, each with the runs of its training seeds."""
    arms: dict[str, list[ArmRun]] = {}
    for run, arm in found:
        arms.setdefault(run.named(arm), []).append(arm)
    return arms


def _full(arms: Mapping[str, Any]) -> str:
    """The arm that the others are compared with: the full model of the first run, or else the first arm."""
    return next((name for name in arms if name.rpartition("/")[2] == FULL), next(iter(arms)))


def _together(task: str, runs: Sequence[Run], found: Found) -> Metrics:
    """Metrics over the arms of several runs. Kinds, margins and baselines are those of the first run."""
    arms, known = _by_name(found), runs[0].metrics[task]
    counting: Metrics = {key: known[key] for key in ("kinds", "margins", "baselines")}
    numbers = task_numbers(arms, full=_full(arms), learns="static_learner" in known["decides"], **counting)
    # Add each arm's run to its label, and the task's own measures as stored by each run
    for name, told in numbers["arms"].items():
        told["label"] = f"{name.rpartition('/')[0]}: {told['label']}"
        seeds = [run.metrics[task]["arms"].get(arm.name, {}) for run, arm in found if run.named(arm) == name]
        told["measures"] = _mean([seed.get("measures", {}) for seed in seeds])
    beside = [{"run": run.name, **{key: run.metrics[task].get(key) for key in BESIDE}} for run in runs]
    return {"task": task, "title": known["title"], **numbers, "runs": beside}


def _mean(seeds: Sequence[Metrics]) -> Metrics:
    """Mean of measures over training seeds. The mean of their intervals is conservative: never narrower."""
    return {
        name: {"n": one["n"], **{key: fmean(seed[name][key] for seed in seeds) for key in ("estimate", "low", "high")}}
        for name, one in seeds[0].items()
        if all(name in seed for seed in seeds)
    }


def _section(metrics: Metrics, runs: Sequence[Run], found: Found, keep_images: Callable[[str, str], None]) -> Section:
    task, arms, told = metrics["task"], _by_name(found), claims(metrics)
    full = _full(arms)
    # 1. Claims; for several runs, of the first run among all arms and of each run by itself
    if runs[0].label:
        seeds = f", {len(arms[full])} seeds" if len(arms[full]) > 1 else ""
        by_whom = [(f"{full.rpartition('/')[0]}{seeds}, among all arms", told)]
        by_whom += [(f"{run.name} by itself", claims(run.metrics[task])) for run in runs]
        told = [(f"{whom}: {about}", word, why) for whom, claimed in by_whom for about, word, why in claimed]
    # 2. Examples
    places, disagreements = draw_examples(arms, full, deciding(metrics))
    for place in places:
        keep_images(task, arms[full][0].predictions[place].id)
    examples = [show(place, arms, full, [run.folder / task for run in runs]) for place in places]
    # 3. Tables, including that of judges
    judged = judge_table([(run.named(arm), run.folder / task / arm.name) for run, arm in found])
    tables = [table for table in (*task_tables(metrics), judged) if table.rows]
    return Section(metrics, told, key_table(metrics), draw_all(metrics), tables, examples, disagreements)


def _settings(found: Mapping[str, Found]) -> list[Table]:
    """A table of the settings in which all manifests agree, and one of those that differ."""
    pandas = require("eval", "pandas")
    rows = [(task, run, arm) for task, each in found.items() for run, arm in each]
    # Convert one by one, since pandas turns integers into floats if a value is missing
    flat = [pandas.json_normalize(arm.manifest).dropna(axis=1).astype(str).iloc[0] for _, _, arm in rows]
    frame = pandas.DataFrame(flat).fillna("").reset_index(drop=True)
    frame.columns = frame.columns.str.replace(r"^(identity|environment)\.", "", regex=True)
    same = frame.nunique() == 1
    agreed = [{"Setting": name, "Value": frame[name][0]} for name in frame.columns[same]]
    rest = frame.loc[:, ~same].drop(columns=["task", "arm", "label"], errors="ignore")
    about = [{"Task": task, "Run": run.label and run.name, "Arm": arm.name} for task, run, arm in rows]
    differ = [{**one, **row} for one, row in zip(about, rest.to_dict("records"), strict=True)]
    tables = [Table("Settings and versions", agreed), Table("Where arms differ", differ)]
    return tables if len(rest.columns) else tables[:1]


__all__ = ["Report", "gather"]
