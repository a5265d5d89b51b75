"""The user's own questions: a JSON, JSONL, CSV or Parquet file of question, answer and, as need be, choices and image.

Closed where a row has choices; else right is what equals the answer but for case, spaces, quotes and a full stop.
A column `family` or `category` names the groups that accuracy is reported for, `cluster` what rows share.
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
    """The rows at `settings.path`, each its last answer being what is asked for. Raises as `open_source`."""
    return read_items(open_source("custom", settings), _item)


def _item(example: Example) -> Item:
    about = example.metadata
    if example.messages[-1].role != "assistant":
        raise BadSample("bad_row", f"the last turn is the {example.messages[-1].role}'s: expected the answer")
    family = about.get("family") or about.get("category") or "all"
    return Item.from_example(example, family=str(family), cluster=str(about.get("cluster") or ""))


def score(item: Item, output: str) -> Score:
    """Right is the right choice; without choices, the answer's own words."""
    if not item.choices:
        said = normalised(output) or None
        return Score(said, float(said == normalised(item.answer)))
    # A choice may hold what the rules read as marks around an answer, such as an underscore
    said = output if output in item.choices else parse_choice(output, item.choices)
    return Score(said, float(said == item.answer))


def normalised(text: str) -> str:
    """In lower case, with single spaces, without quotes around it or a stop behind it: ' "A  cat." ' is "a cat"."""
    return " ".join(text.casefold().split()).lstrip(_QUOTES).rstrip(_QUOTES + " .,;:!?")


def floors(items: Sequence[Item]) -> dict[str, float]:
    """What the most frequent answer of every family reaches."""
    return {"majority_answer": float(majority_baseline(items).mean())}


CUSTOM = Task("custom", "Custom questions", load, score, floors=floors)
