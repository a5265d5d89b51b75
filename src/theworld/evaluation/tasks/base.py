"""What a benchmark is: items, rules that read an answer, and measures of its own."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import Image

from theworld.data.open_source import Source
from theworld.data.schema import BadSample, Example, Skipped, SourceSettings
from theworld.utils.errors import TheWorldError

from ..stats.baseline import majority_baseline
from ..store.predictions import Item, Prediction

Row = TypeVar("Row", Item, Prediction)
ALL = "all"
"""The one kind of a task that declares none."""

MARGIN = 0.01
"""Loss in accuracy that a kind of questions may have before the verdict says *harms*, unless its task names another."""


@dataclass(frozen=True)
class Score:
    """How one output reads.

    Args:
        parsed: The answer that the rules found; `None` if they found none.
        right: 1.0 or 0.0.
        figures: More measures by name; a measure that an item does not have is left out.
    """

    parsed: str | None
    right: float
    figures: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class TaskItems:
    """The items of a task, and the rows that could not become one: reported as failed, never replaced."""

    items: tuple[Item, ...]
    skipped: tuple[Skipped, ...] = ()


@dataclass(frozen=True)
class Learned:
    """What learners without a world model make of a task, fitted on labels of its training scenes.

    Args:
        answers: By item id; items that no learner can answer are left out.
        table: A row a learner and family: family, learner, features, labels, validation accuracy, chosen.
    """

    answers: Mapping[str, str]
    table: Sequence[Mapping[str, Any]]


Learn = Callable[[Sequence[Item], SourceSettings, Path, int], Learned]
"""`(items, source, folder, seed) -> Learned`; `folder` keeps what has to be made first."""

Trace = Callable[[Sequence[Item], Callable[[Sequence[Item]], torch.Tensor], Mapping[str, str]], dict[str, Any]]
"""`(items, last_latents, answers) -> JSON object`: whether answers follow the imagined end.

`last_latents(items)` are the full model's rolled-out latents (n, C, T, h, w), `answers` its parsed answers by item id.
"""


@dataclass(frozen=True)
class Task:
    """A benchmark.

    Args:
        name: Key of `TASKS`, and folder of its predictions.
        title: What a report calls it.
        load: Items of `SourceSettings` (path, image_folder, split, num_samples, question_template, draw_bboxes).
        score: `(item, output) -> Score`, by rules alone.
        measures: `predictions -> {name: value}`: official figures beside accuracy, over all items of an arm.
        floors: `items -> {name: accuracy}`: what can be reached without looking, such as the most frequent answer.
        instruction: Added to the prompt of an answer that is generated, where the benchmark has such a line.
        max_new_tokens: Of a generated answer.
        kinds: Kinds of questions, each with a verdict of its own: the family of an item is then `<kind>/<name>`.
        margins: By kind, the loss in accuracy that is not called harm; `MARGIN` for kinds that are left out.
        default_source: `(output folder, num_samples) -> path or Hub id` where no data is named. May make the data: it
            is called after all names and options have been checked.
        learn: Static learners as a control, where the task has training labels.
        trace: Error tracing, where the imagined end can be read.
    """

    name: str
    title: str
    load: Callable[[SourceSettings], TaskItems]
    score: Callable[[Item, str], Score]
    measures: Callable[[Sequence[Prediction]], dict[str, float]] = lambda predictions: {}
    floors: Callable[[Sequence[Item]], dict[str, float]] = lambda items: {}
    instruction: str = ""
    max_new_tokens: int = 32
    kinds: tuple[str, ...] = ()
    margins: Mapping[str, float] = field(default_factory=dict)
    default_source: Callable[[Path, int | None], str] | None = None
    learn: Learn | None = None
    trace: Trace | None = None

    def margin(self, kind: str) -> float:
        """Loss in accuracy on `kind` that is not called harm."""
        return self.margins.get(kind, MARGIN)


def kind_of(family: str, kinds: Sequence[str]) -> str:
    """The kind of a family `<kind>/<name>`; `all` where a task has no kinds or the family is of none of them."""
    kind = family.partition("/")[0]
    return kind if kind in kinds else ALL


def read_items(rows: Source | Iterable[Example | Skipped], to_item: Callable[[Example], Item]) -> TaskItems:
    """Every row of a data source as an item, the bad ones apart, also those that `to_item` finds to be a `BadSample`.

    A later row of the same id is called `<id>#2`, and so on.

    Raises:
        ValueError: No row is an item; says why the first is none.
    """
    items: list[Item] = []
    skipped: list[Skipped] = []
    ids: Counter[str] = Counter()
    for row in rows:
        if isinstance(row, Skipped):
            skipped.append(row)
            continue
        try:
            item = to_item(row)
        except BadSample as bad:
            skipped.append(bad.skipped(row.id))
            continue
        ids[item.id] += 1
        items.append(item if ids[item.id] == 1 else replace(item, id=f"{item.id}#{ids[item.id]}"))
    if not items:
        why = f": {skipped[0].id}: {skipped[0].detail}" if skipped else ""
        raise TheWorldError(f"none of {len(skipped)} rows can be asked{why}")
    return TaskItems(tuple(items), tuple(skipped))


def image_name(images: Sequence[Any]) -> str:
    """What questions about one image share: folder and name of the first one's file, or a hash of its content."""
    first = images[0] if images else ""
    if isinstance(first, str | Path):
        return "/".join(Path(first).parts[-2:])
    if isinstance(first, Image.Image):
        first = np.asarray(first)
    content = first.tobytes() if isinstance(first, np.ndarray) else bytes(first)
    return hashlib.sha256(content).hexdigest()[:16]


def of_known_family(predictions: Iterable[Prediction]) -> list[Prediction]:
    """Without the rows that could not become an item: they count as wrong, but nobody knows in which family."""
    return [row for row in predictions if row.family != Prediction.family]


def by_family(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """Items or predictions, grouped by family in the order in which families come."""
    families: dict[str, list[Row]] = {}
    for row in rows:
        families.setdefault(row.family, []).append(row)
    return families


def accuracy(predictions: Sequence[Prediction]) -> float:
    """Mean score; unparsed and failed ones count as wrong."""
    return sum(row.score for row in predictions) / len(predictions)


def majority(items: Sequence[Item]) -> dict[str, float]:
    """By family, how many items the most frequent answer of other items gets right (`stats/baseline.py`)."""
    right = dict.fromkeys((item.family for item in items), 0.0)
    for item, score in zip(items, majority_baseline(items), strict=True):
        right[item.family] += float(score)
    return right


__all__ = [
    "ALL",
    "MARGIN",
    "Learn",
    "Learned",
    "Score",
    "Task",
    "TaskItems",
    "Trace",
    "accuracy",
    "by_family",
    "image_name",
    "kind_of",
    "majority",
    "of_known_family",
    "read_items",
]
