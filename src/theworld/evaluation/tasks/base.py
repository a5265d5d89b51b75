"""The parts of a benchmark: items, rules that score an answer, and its own measures."""

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
ALL = "all"  # the kind of all items of a task without kinds
MARGIN = 0.01  # default loss in accuracy above which the verdict is *harms*


@dataclass(frozen=True)
class Score:
    """The score of one output."""

    parsed: str | None  # the answer that the rules found; None if they found none
    right: float  # 1.0 or 0.0
    figures: dict[str, float] = field(default_factory=dict)  # continuous measures by name, such as an error


@dataclass(frozen=True)
class TaskItems:
    """The items of a task, and skipped rows, which are reported as failed and never replaced."""

    items: tuple[Item, ...]
    skipped: tuple[Skipped, ...] = ()
    images: str = ""  # digest of the images of all items; set by the evaluation


@dataclass(frozen=True)
class Learned:
    """Answers of static learners, which are fitted on labels of the task's training scenes."""

    answers: Mapping[str, str]  # by item id; items that no learner can answer are left out
    table: Sequence[Mapping[str, Any]]  # family, learner, features, labels, validation accuracy, chosen


Learn = Callable[[Sequence[Item], SourceSettings, Path, int], Learned]
"""`(items, source, folder, seed) -> Learned`; `folder` is for data that has to be made first."""

Trace = Callable[[Sequence[Item], Callable[[Sequence[Item]], torch.Tensor], Mapping[str, str]], dict[str, Any]]
"""`(items, last_latents, answers) -> JSON object`: whether answers follow the end of the rollout.

`last_latents(items)` are the full model's rolled-out latents (n, C, T, h, w), `answers` its parsed answers by item id.
"""


@dataclass(frozen=True)
class Task:
    """A benchmark."""

    name: str  # key of `TASKS`, and folder of its predictions
    title: str  # name in a report
    load: Callable[[SourceSettings], TaskItems]
    score: Callable[[Item, str], Score]  # of an item and an output, by rules only
    # Official measures by name other than accuracy, over all items of an arm
    measures: Callable[[Sequence[Prediction]], dict[str, float]] = lambda predictions: {}
    # Baselines: accuracies by name that need no image, such as that of the most frequent answer
    baselines: Callable[[Sequence[Item]], dict[str, float]] = lambda items: {}
    instruction: str = ""  # added to the prompt of a generated answer
    max_new_tokens: int = 32  # of a generated answer
    kinds: tuple[str, ...] = ()  # each gets its own verdict; an item's family is then `<kind>/<name>`
    margins: Mapping[str, float] = field(default_factory=dict)  # by kind, the loss in accuracy that is not yet harm
    # Data if `--data` is not given: a path or Hub id, or `(output folder, num_samples) -> path`, which may create it
    default_source: str | Callable[[Path, int | None], str] | None = None
    learn: Learn | None = None  # static learners as a control, if the task has training labels
    questions_to_learn: int = 1  # smallest number of questions for which `learn` is called
    trace: Trace | None = None  # error tracing, if the end of a rollout can be classified


def by_family(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """Items or predictions by family, in order of first appearance."""
    families: dict[str, list[Row]] = {}
    for row in rows:
        families.setdefault(row.family, []).append(row)
    return families


def kind_of(family: str, kinds: Sequence[str]) -> str:
    """The kind of a family `<kind>/<name>`; `all` if the task has no kinds or the family belongs to none of them."""
    kind = family.partition("/")[0]
    return kind if kind in kinds else ALL


def read_items(rows: Source | Iterable[Example | Skipped], to_item: Callable[[Example], Item]) -> TaskItems:
    """Convert the rows of a data source to items. Rows for which `to_item` raises a `BadSample` are skipped.

    Repeated ids get a suffix: `<id>#2` and so on. Items without a cluster get the name of their first image.

    Raises:
        ValueError: No row could be converted. The message states why the first one was skipped.
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
        raise TheWorldError(f"none of {len(skipped)} rows can be used{why}")
    return TaskItems(tuple(items), tuple(skipped))


def image_name(images: Sequence[Any]) -> str:
    """The cluster of questions about one image: folder and file name of the first image, or a hash of its content."""
    first = images[0] if images else ""
    if isinstance(first, str | Path):
        return "/".join(Path(first).parts[-2:])
    content = first if isinstance(first, bytes) else np.asarray(first).tobytes()
    return hashlib.sha256(content).hexdigest()[:16]


def of_known_family(predictions: Iterable[Prediction]) -> list[Prediction]:
    """Predictions without those of skipped rows, which count as wrong but have no known family."""
    return [row for row in predictions if row.family != Prediction.family]


def means(pairs: Iterable[tuple[str, float]]) -> dict[str, float]:
    """Mean value by name."""
    values = defaultdict[str, list[float]](list)
    for name, value in pairs:
        values[name].append(value)
    return {name: fmean(of_name) for name, of_name in values.items()}
