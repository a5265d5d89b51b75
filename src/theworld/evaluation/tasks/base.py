"""What a benchmark is: items, rules that read an answer, and measures of its own."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image

from theworld.data.open_source import Source
from theworld.data.schema import BadSample, Example, Skipped, SourceSettings
from theworld.utils.errors import TheWorldError

from ..store.predictions import Item, Prediction

Row = TypeVar("Row", Item, Prediction)


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
class Task:
    """A benchmark.

    Args:
        name: Key of `TASKS`.
        title: What a report calls it.
        load: Items of `SourceSettings` (path, image_folder, split, num_samples, question_template, draw_bboxes).
        score: `(item, output) -> Score`, by rules alone.
        measures: `predictions -> {name: value}`: official figures beside accuracy, over all items of an arm.
        floors: `items -> {name: accuracy}`: what can be reached without looking, such as the most frequent answer.
        instruction: Added to the prompt of an answer that is generated, where the benchmark has such a line.
        max_new_tokens: Of a generated answer.
    """

    name: str
    title: str
    load: Callable[[SourceSettings], TaskItems]
    score: Callable[[Item, str], Score]
    measures: Callable[[Sequence[Prediction]], dict[str, float]] = lambda predictions: {}
    floors: Callable[[Sequence[Item]], dict[str, float]] = lambda items: {}
    instruction: str = ""
    max_new_tokens: int = 32


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


def picture_name(pictures: Sequence[Any]) -> str:
    """What questions about one picture share: folder and name of the first one's file, or a hash of its content."""
    first = pictures[0] if pictures else ""
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


def majority(items: Iterable[Item]) -> dict[str, int]:
    """By family, how many items its most frequent answer gets right."""
    return {family: max(Counter(item.answer for item in rows).values()) for family, rows in by_family(items).items()}


__all__ = [
    "Score",
    "Task",
    "TaskItems",
    "accuracy",
    "by_family",
    "majority",
    "of_known_family",
    "picture_name",
    "read_items",
]
