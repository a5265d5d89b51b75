"""The user's own questions: a JSON, JSONL, CSV or Parquet file with question, answer and optional choices and image.

A row with choices is a closed question. Without choices, an output is right if it equals the answer up to case, spaces,
quotes and final punctuation. The column `family` or `category` groups accuracies, `cluster` groups dependent rows.
"""

from __future__ import annotations

from collections.abc import Sequence

from theworld.data.open_source import open_source
from theworld.data.schema import BadSample, Example, SourceSettings

from ..stats.baseline import majority_baseline
from ..store.predictions import Item
from .answers import parse_choice
from .base import Score, Task, TaskItems, read_items

_QUOTES = "\"'`“”\u2018\u2019"


def load(settings: SourceSettings) -> TaskItems:
    """The rows at `settings.path`. The last answer of a row is the right answer. Raises as `open_source`."""
    return read_items(open_source("custom", settings), _item)


def _item(example: Example) -> Item:
    about = example.metadata
    if example.messages[-1].role != "assistant":
        raise BadSample("bad_row", f"the last turn is the {example.messages[-1].role}'s: expected the answer")
    family = about.get("family") or about.get("category") or "all"
    return Item.from_example(example, family=str(family), cluster=str(about.get("cluster") or ""))


def score(item: Item, output: str) -> Score:
    """Right if the output is the right choice or, without choices, the words of the answer."""
    if not item.choices:
        said = normalised(output) or None
        return Score(said, float(said == normalised(item.answer)))
    # A choice may contain characters that the rules remove as markup, such as an underscore
    said = output if output in item.choices else parse_choice(output, item.choices)
    return Score(said, float(said == item.answer))


def normalised(text: str) -> str:
    """Lower case, single spaces, no enclosing quotes and no final punctuation: ' "A  cat." ' becomes "a cat"."""
    return " ".join(text.casefold().split()).lstrip(_QUOTES).rstrip(_QUOTES + " .,;:!?")


def baselines(items: Sequence[Item]) -> dict[str, float]:
    """Accuracy of the most frequent answer of every family."""
    return {"majority_answer": float(majority_baseline(items).mean())}


CUSTOM = Task("custom", "Custom questions", load, score, baselines=baselines)
