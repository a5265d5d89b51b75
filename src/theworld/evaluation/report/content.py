"""What a report says, before it is Markdown or HTML: gathered from the folders of one evaluation or of several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from theworld.utils.errors import MissingFileError

from ..score import read_metrics, task_numbers
from ..store.refusals import FULL, ArmRun, check_scored, check_together, read_arms
from ..tasks import TASKS
from ..verdict import correct
from .examples import ExampleItem, draw_examples, show
from .judged import judge_table
from .plots import task_plots
from .tables import Table, task_tables, verdict_lines

PARTS = ("identity", "environment")


@dataclass(frozen=True)
class Section:
    """One task.

    Args:
        task: Its name.
        metrics: As `task_numbers` gives them.
        verdicts: One line a run.
        examples: Drawn at random from those on which arms disagree.
        disagreements: How many there are.
        plots: Every figure by a short name: its title, and the SVG.
        tables: All of them.
        prompts: The rendered prompt of the first item, and the arms that got it so.
    """

    task: str
    metrics: dict[str, Any]
    verdicts: tuple[str, ...]
    examples: tuple[ExampleItem, ...]
    disagreements: int
    plots: dict[str, tuple[str, str]]
    tables: tuple[Table, ...]
    prompts: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Report:
    """All of it.

    Args:
        title: Of the page.
        sections: One a task.
        settings: Name and value of what all arms of all tasks have in common: settings, versions, machine.
        differing: What they do not: a row an arm, under `differing_names`.
        differing_names: The names of those columns.
    """

    title: str
    sections: tuple[Section, ...]
    settings: tuple[tuple[str, str], ...]
    differing: tuple[tuple[str, ...], ...]
    differing_names: tuple[str, ...]


def gather(runs: Sequence[tuple[str, Path]], title: str) -> Report:
    """The report on evaluations; runs with the same label are training seeds of one another.

    Args:
        runs: Label and folder of each.
        title: Of the report.

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
    sections = [_section(task, metrics[task], arms[task], runs, stored) for task in tasks]
    return Report(title, tuple(sections), *_settings(arms))


def full_arm(arms: Mapping[str, Any]) -> str:
    """The arm that the others are compared with: the full model of the first run, or else the first arm."""
    return next((name for name in arms if name.rpartition("/")[2] == FULL), next(iter(arms)))


def _arms_of(
    task: str, runs: Sequence[tuple[str, Path]], stored: Sequence[Mapping[str, Any]]
) -> dict[str, list[ArmRun]]:
    """The arms of a task by name, `label/arm` where there are several runs, each with its seeds; all are checked."""
    arms: dict[str, list[ArmRun]] = {}
    every: dict[str, ArmRun] = {}
    for (label, folder), metrics in zip(runs, stored, strict=True):
        if task not in metrics:
            continue
        found = read_arms(folder / task)  # first: what was done to a file is a better reason than that it changed
        check_scored(folder / task, metrics[task])
        for name, arm in found.items():
            arms.setdefault(name if len(runs) == 1 else f"{label}/{name}", []).append(arm)
            every[str(folder / task / name)] = arm
    if len(runs) > 1:
        check_together(every)
    return arms


def _numbers_of(task: str, arms: Mapping[str, Sequence[ArmRun]], stored: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    known = next(metrics[task] for metrics in stored if task in metrics)
    numbers = task_numbers(
        arms,
        TASKS[task].measures if task in TASKS else lambda predictions: {},
        known["floors"],
        full_arm(arms),
        kinds=known["kinds"],
        margins=known["margins"],
        learns="static_learner" in known["decides"],
    )
    return {"task": task, "title": known["title"], **numbers}


def _section(
    task: str,
    metrics: dict[str, Any],
    arms: Mapping[str, Sequence[ArmRun]],
    runs: Sequence[tuple[str, Path]],
    stored: Sequence[Mapping[str, Any]],
) -> Section:
    full = full_arm(arms)
    places, disagreements = draw_examples(arms, full)
    folders = [folder / task for _, folder in runs]
    examples = tuple(show(place, arms, full, folders) for place in places)
    prompts: dict[str, list[str]] = {}
    for name, seeds in arms.items():
        first = next((row.prompt for row in seeds[0].predictions if row.prompt), "")
        prompts.setdefault(first, []).append(name)
    verdicts = verdict_lines(metrics)
    if len(runs) > 1:
        label, count = full.rpartition("/")[0], len(arms[full])
        verdicts = [f"{label}, {f'{count} seeds, ' if count > 1 else ''}among the arms below: {' '.join(verdicts)}"]
        verdicts += [
            f"{label} ({folder.name}) by itself: {' '.join(verdict_lines(known[task]))}"
            for (label, folder), known in zip(runs, stored, strict=True)
            if task in known
        ]
    named: dict[str, list[Path]] = {}
    for (label, _), folder in zip(runs, folders, strict=True):
        for name in arms:
            bare = name if len(runs) == 1 else name.removeprefix(f"{label}/")
            if (folder / bare).is_dir():
                named.setdefault(name, []).append(folder / bare)
    judged = judge_table(named)
    tables = (*task_tables(metrics), *([judged] if judged else []))
    shown = tuple((prompt, ", ".join(names)) for prompt, names in prompts.items())
    return Section(task, metrics, tuple(verdicts), examples, disagreements, task_plots(metrics), tables, shown)


def _settings(
    arms: Mapping[str, Mapping[str, Sequence[ArmRun]]],
) -> tuple[tuple[tuple[str, str], ...], tuple[tuple[str, ...], ...], tuple[str, ...]]:
    """What all manifests agree on, and a table of what they do not."""
    flat = [
        (task, f"{name} {number}" if len(seeds) > 1 else name, _flattened(seed.manifest))
        for task, named in arms.items()
        for name, seeds in named.items()
        for number, seed in enumerate(seeds, start=1)
    ]
    names = list(dict.fromkeys(key for *_, values in flat for key in values))
    common = [name for name in names if len({values.get(name, "") for *_, values in flat}) == 1]
    differing = [name for name in names if name not in common and name not in ("task", "arm")]
    rows = [(task, name, *(values.get(key, "") for key in differing)) for task, name, values in flat]
    return tuple((name, flat[0][2][name]) for name in common), tuple(rows), ("task", "arm", *differing)


def _flattened(value: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested values by dotted name; the names of the manifest's own parts are left out."""
    flat: dict[str, str] = {}
    for key, inner in value.items():
        name = prefix if key in PARTS and not prefix else f"{prefix}{key}"
        if isinstance(inner, Mapping):
            flat |= _flattened(inner, f"{name}." if name else "")
        elif inner is not None:
            flat[name] = ", ".join(map(str, inner)) if isinstance(inner, list) else str(inner)
    return flat


__all__ = ["Report", "Section", "full_arm", "gather"]
