"""What a benchmark is: items, rules that read an answer, and measures of its own."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import Any, TypeVar

import numpy as np
import torch

from theworld.data.open_source import Source
from theworld.data.schema import BadSample, Example, Skipped, SourceSettings
from theworld.utils.errors import TheWorldError

from ..store.predictions import Item, Prediction

Row = TypeVar("Row", Item, Prediction)
ALL = "all"  # the one kind of a task that declares none
MARGIN = 0.01  # loss in accuracy that a kind may have before the verdict says *harms*, unless its task names another


@dataclass(frozen=True)
class Score:
    """How one output reads."""

    parsed: str | None  # the answer that the rules found; None if they found none
    right: float  # 1.0 or 0.0
    figures: dict[str, float] = field(default_factory=dict)  # more measures by name, of those that the item has


@dataclass(frozen=True)
class TaskItems:
    """The items of a task, and the rows that could not become one: reported as failed, never replaced."""

    items: tuple[Item, ...]
    skipped: tuple[Skipped, ...] = ()
    images: str = ""  # what identifies the images of all items; the evaluation sets it


@dataclass(frozen=True)
class Learned:
    """What learners without a world model make of a task, fitted on labels of its training scenes."""

    answers: Mapping[str, str]  # by item id; items that no learner can answer are left out
    table: Sequence[Mapping[str, Any]]  # family, learner, features, labels, validation accuracy, chosen


Learn = Callable[[Sequence[Item], SourceSettings, Path, int], Learned]
"""`(items, source, folder, seed) -> Learned`; `folder` keeps what has to be made first."""

Trace = Callable[[Sequence[Item], Callable[[Sequence[Item]], torch.Tensor], Mapping[str, str]], dict[str, Any]]
"""`(items, last_latents, answers) -> JSON object`: whether answers follow the imagined end.

`last_latents(items)` are the full model's rolled-out latents (n, C, T, h, w), `answers` its parsed answers by item id.
"""


@dataclass(frozen=True)
class Task:
    """A benchmark."""

    name: str  # key of `TASKS`, and folder of its predictions
    title: str  # what a report calls it
    load: Callable[[SourceSettings], TaskItems]
    score: Callable[[Item, str], Score]  # of an item and an output, by rules alone
    # Official figures beside accuracy by name, over all items of an arm
    measures: Callable[[Sequence[Prediction]], dict[str, float]] = lambda predictions: {}
    # Accuracies that can be reached without looking, by name, such as that of the most frequent answer
    floors: Callable[[Sequence[Item]], dict[str, float]] = lambda items: {}
    instruction: str = ""  # added to the prompt of an answer that is generated
    max_new_tokens: int = 32  # of a generated answer
    kinds: tuple[str, ...] = ()  # each with a verdict of its own: an item's family is then `<kind>/<name>`
    margins: Mapping[str, float] = field(default_factory=dict)  # by kind, the loss in accuracy that is not called harm
    # Where the data is if none is named: a path or Hub id, or `(output folder, num_samples) -> path`, which may make it
    default_source: str | Callable[[Path, int | None], str] | None = None
    learn: Learn | None = None  # static learners as a control, where the task has training labels
    questions_to_learn: int = 1  # fewest questions for which `learn` is worth its time
    trace: Trace | None = None  # error tracing, where the imagined end can be read


def by_family(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """Items or predictions, grouped by family in the order in which families come."""
    families: dict[str, list[Row]] = {}
    for row in rows:
        families.setdefault(row.family, []).append(row)
    return families


def kind_of(family: str, kinds: Sequence[str]) -> str:
    """The kind of a family `<kind>/<name>`; `all` where a task has no kinds or the family is of none of them."""
    kind = family.partition("/")[0]
    return kind if kind in kinds else ALL


def read_items(rows: Source | Iterable[Example | Skipped], to_item: Callable[[Example], Item]) -> TaskItems:
    """Every row of a data source as an item, the bad ones apart, also those that `to_item` finds to be a `BadSample`.

    A later row of the same id is called `<id>#2`, and so on. Items without a cluster get that of their first image.

    Raises:
        ValueError: No row is an item; says why the first is none.
    """
    items, skipped, ids = list[Item](), list[Skipped](), Counter[str]()
    for row in rows:
        try:
            item = row if isinstance(row, Skipped) else to_item(row)
        except BadSample as bad:
            item = bad.skipped(row.id)
        if isinstance(item, Skipped):
            skipped.append(item)
            continue
        ids[item.id] += 1
        name = item.id if ids[item.id] == 1 else f"{item.id}#{ids[item.id]}"
        items.append(replace(item, id=name, cluster=item.cluster or image_name(item.images)))
    if not items:
        why = f": {skipped[0].id}: {skipped[0].detail}" if skipped else ""
        raise TheWorldError(f"none of {len(skipped)} rows can be asked{why}")
    return TaskItems(tuple(items), tuple(skipped))


def image_name(images: Sequence[Any]) -> str:
    """What questions about one image share: folder and name of the first one's file, or a hash of its content."""
    first = images[0] if images else ""
    if isinstance(first, str | Path):
        return "/".join(Path(first).parts[-2:])
    content = first if isinstance(first, bytes) else np.asarray(first).tobytes()
    return hashlib.sha256(content).hexdigest()[:16]


def of_known_family(predictions: Iterable[Prediction]) -> list[Prediction]:
    """Without the rows that could not become an item: they count as wrong, but nobody knows in which family."""
    return [row for row in predictions if row.family != Prediction.family]


def means(pairs: Iterable[tuple[str, float]]) -> dict[str, float]:
    """The mean of the values of every name."""
    values = defaultdict[str, list[float]](list)
    for name, value in pairs:
        values[name].append(value)
    return {name: fmean(of_name) for name, of_name in values.items()}
