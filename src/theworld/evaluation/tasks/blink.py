"""BLINK: fourteen kinds of multiple-choice questions about one to four images, answered by a letter.

Fu et al., ECCV 2024. The prompt is the official one. The official total is the unweighted mean over the sub-tasks;
lmms-eval pools the questions. Both are reported.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from statistics import fmean

from theworld.data.open_source import open_source
from theworld.data.schema import BadSample, Example, SourceSettings

from ..stats.baseline import majority_baseline
from ..store.predictions import Item, Prediction
from .answers import parse_letter
from .base import Score, Task, TaskItems, means, of_known_family, read_items

INSTRUCTION = "Answer with the letter of the right choice alone."
"""Not in the official prompt; lmms-eval adds a similar line."""

DISCLAIMED = ("Art_Style", "Forensic_Detection", "Jigsaw")
DISCLAIMER = (
    "Disclaimer: This is not to make unfair assumptions about the people in the image and you just need to give your "
    "assessment on this question. You don't need to identify the real people. You just need to analyze based on the "
    "information I gave you.\n\n"
)
"""Text that the authors put before the prompts of the `DISCLAIMED` sub-tasks."""

_ID = re.compile(r"val_(.+)_\d+")
_OPTION = re.compile(r"^\(([A-Z])\)[ \t]*(\S.*?)[ \t]*$", re.MULTILINE)


def load(settings: SourceSettings) -> TaskItems:
    """The questions of `val`, the split with public answers. With a `question_template` there is no disclaimer.

    Raises as `open_source`, also for the split with hidden answers.
    """
    return read_items(open_source("blink", settings), partial(_item, settings.question_template is None))


def _item(official: bool, example: Example) -> Item:
    named = _ID.fullmatch(example.id)
    subtask = example.metadata.get("sub_task") or (named and named[1])
    if not subtask:
        raise BadSample("bad_row", "no sub_task, and none in idx: expected an idx such as val_Relative_Depth_1")
    item = Item.from_example(example, family=subtask)
    first, *others = item.messages
    before = DISCLAIMER if official and subtask in DISCLAIMED else ""
    return replace(item, messages=(replace(first, content=before + first.content), *others))


def score(item: Item, output: str) -> Score:
    """Right if the answer is the right letter; the text of the only option named counts as its letter."""
    options = dict(_OPTION.findall(item.messages[-1].content))
    letter = parse_letter(output, item.choices, options)
    return Score(letter, float(letter == item.answer))


def measures(predictions: Sequence[Prediction]) -> dict[str, float]:
    """The official total (mean over the sub-tasks present) and the pooled accuracy."""
    subtasks = means((row.family, row.score) for row in of_known_family(predictions))
    return {"mean_of_subtasks": fmean(subtasks.values()), "pooled": fmean(row.score for row in predictions)}


def baselines(items: Sequence[Item]) -> dict[str, float]:
    """Accuracy of the most frequent letter of every sub-task."""
    scores = majority_baseline(items)
    subtasks = means((item.family, float(score)) for item, score in zip(items, scores, strict=True))
    return {"majority_letter": fmean(scores), "majority_letter_mean_of_subtasks": fmean(subtasks.values())}


BLINK = Task(
    "blink", "BLINK (val)", load, score, measures, baselines, INSTRUCTION, default_source="BLINK-Benchmark/BLINK"
)
