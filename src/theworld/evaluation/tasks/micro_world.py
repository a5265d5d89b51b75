"""The simulated micro-world: questions about a frame, static ones and such as only the future answers, in one word."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from theworld.data.open_source import open_source
from theworld.data.schema import Example, SourceSettings
from theworld.utils.imports import require

from ..store.predictions import Item, Prediction
from .answers import parse_choice
from .base import Score, Task, TaskItems, accuracy, majority, of_known_family, read_items


def load(settings: SourceSettings) -> TaskItems:
    """The questions in a folder of scenes; the family is `static/<family>` or `predictive/<family>`.

    Raises:
        ValueError: As `open_source`.
        FileNotFoundError: The folder holds no scenes; names the command that makes them.
    """
    settings.refuse("micro_world", "clip_frames")
    return read_items(open_source("micro_world", settings), _item)


def _item(example: Example) -> Item:
    about = example.metadata
    item = Item.from_example(example, family=f"{about['kind']}/{about['family']}", cluster=f"scene-{about['clip']}")
    # A frame of its own: the array it is part of would keep the whole clip in memory
    return replace(item, images=tuple(np.array(frame) for frame in example.images))


def score(item: Item, output: str) -> Score:
    """Right is the right word among the choices."""
    word = parse_choice(output, item.choices)
    return Score(word, float(word == item.answer))


def measures(predictions: Sequence[Prediction]) -> dict[str, float]:
    """Accuracy of static and of predictive questions."""
    kinds: dict[str, list[Prediction]] = {}
    for row in of_known_family(predictions):
        kinds.setdefault(row.family.partition("/")[0], []).append(row)
    return {f"{kind}_accuracy": accuracy(rows) for kind, rows in kinds.items()}


def floors(items: Sequence[Item]) -> dict[str, float]:
    """What guessing among the choices reaches, and the most frequent answer of every family."""
    return {
        "chance": sum(1 / len(item.choices) for item in items) / len(items),
        "majority_answer": sum(majority(items).values()) / len(items),
    }


def _scenes(folder: Path, count: int | None) -> str:
    """Scenes of the test split, simulated if they are not there."""
    require("nano", "pymunk")
    from theworld.nano.recipe import scenes_to_ask

    return str(scenes_to_ask(folder / "scenes", count))


MICRO_WORLD = Task(
    "micro_world", "Micro-world", load, score, measures, floors, kinds=("static", "predictive"), default_source=_scenes
)

__all__ = ["MICRO_WORLD"]
