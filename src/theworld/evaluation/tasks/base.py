"""What a benchmark is: items, rules that read an answer, and measures of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from theworld.data.schema import Example, Skipped, SourceSettings

from ..records import Item, Prediction


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


def read_items(rows: Iterable[Example | Skipped], to_item: Callable[[Example], Item]) -> TaskItems:
    """Every row of a data source as an item, the bad ones apart."""
    items: list[Item] = []
    skipped: list[Skipped] = []
    for row in rows:
        if isinstance(row, Skipped):
            skipped.append(row)
        else:
            items.append(to_item(row))
    return TaskItems(tuple(items), tuple(skipped))


__all__ = ["Score", "Task", "TaskItems", "read_items"]
