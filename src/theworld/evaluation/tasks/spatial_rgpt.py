"""SpatialRGPT-Bench: questions about regions drawn on the image, with the official measures, parsed by rules.

Cheng et al., NeurIPS 2024. The authors use GPT-4 to parse and judge answers. Here rules parse both the answer and the
ground truth, and every prompt asks for a form that the rules can parse. Official measures: a length is right within
25 % of the truth (inclusive), a clock hour within one hour; errors are means over the parsed answers.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from theworld.data.open_source import open_source
from theworld.data.schema import BadSample, Example, SourceSettings

from ..stats.baseline import folds
from ..store.predictions import Item, Prediction
from .answers import parse_clock, parse_metres, parse_region, parse_yes_no
from .base import Score, Task, TaskItems, by_family, means, of_known_family, read_items

NO = ("actually", "in fact")
"""Beginnings of answers that contradict without a "no", in the benchmark and in models trained on similar data."""

REQUESTS = {
    "predicate": "Answer yes or no.",
    "choice": "Answer with one of: {choices}.",
    "direction": "Answer with a clock hour from 1 to 12, such as 3 o'clock.",
    "data": "Answer with a number and a unit, such as 1.5 meters.",
}
"""Text added to the question, by the last word of its category; not with a `question_template`."""

PAIRS = ("below_above", "left_right", "big_small", "tall_short", "wide_thin", "behind_front")
"""The authors' groups of qualitative categories."""

_REGION = re.compile(r"region \[(\d+)\]", re.IGNORECASE)


def load(settings: SourceSettings) -> TaskItems:
    """The benchmark's rows, with regions drawn as in training. Rows whose ground truth cannot be parsed are skipped.

    Raises as `open_source`.
    """
    return read_items(open_source("spatial_rgpt", settings), partial(_item, settings.question_template is None))


def _item(requested: bool, example: Example) -> Item:
    category = str(example.metadata["qa_category"])
    form = category.rpartition("_")[2]
    if form not in REQUESTS:
        raise BadSample("bad_row", f"qa_info.category {category!r}: expected one that ends in {', '.join(REQUESTS)}")
    *_, question, answer = example.messages
    named = tuple(dict.fromkeys(f"Region [{number}]" for number in _REGION.findall(question.content)))
    truth = read(form, answer.content, named)
    if not truth:  # also a length of 0, since relative errors divide by it
        raise BadSample("bad_row", f"answer {answer.content[:80]!r}: cannot be read as that of a {category}")
    choices = {"predicate": ("Yes", "No"), "choice": named}.get(form, ())
    about = {**example.metadata, "form": form, "truth": truth}
    item = Item.from_example(example, choices=choices, family=category, metadata=about)
    request = f"\n{REQUESTS[form].format(choices=', '.join(choices))}" if requested else ""
    return replace(item, messages=(*item.messages[:-1], replace(question, content=question.content + request)))


def read(form: str, text: str, regions: Sequence[str]) -> Any:
    """The answer in `text` by `form`: `yes` or `no`, one of `regions`, an hour, or metres; `None` if unclear."""
    if form == "predicate":
        return parse_yes_no(text) or ("no" if text.lstrip().casefold().startswith(NO) else None)
    if form == "choice":
        name = f"Region [{parse_region(text)}]"
        return name if name in regions else None
    return parse_clock(text) if form == "direction" else parse_metres(text)


def score(item: Item, output: str) -> Score:
    """Right or wrong, and the error of a number: `relative_error` or `direction_error_degrees`."""
    form, truth = item.metadata["form"], item.metadata["truth"]
    said = read(form, output, item.choices)
    if said is None:
        return Score(None, 0.0)
    shown = f"{said:.4g} m" if form == "data" else f"{said} o'clock" if form == "direction" else said
    return Score(shown, float(is_right(form, said, truth)), error_of(form, said, truth))


def is_right(form: str, said: Any, truth: Any) -> bool:
    """The official rule: a length within 25 %, an hour within one hour, other answers equal."""
    if form == "data":
        return 0.75 * truth <= said <= 1.25 * truth
    return hours_apart(said, truth) <= 1 if form == "direction" else said == truth


def error_of(form: str, said: Any, truth: Any) -> dict[str, float]:
    """The error of a number by the name of its measure; empty for other forms."""
    if form == "data":
        return {"relative_error": abs(said - truth) / truth}
    return {"direction_error_degrees": 30.0 * hours_apart(said, truth)} if form == "direction" else {}


def hours_apart(one: float, other: float) -> float:
    """Distance of two hours on the clock, from 0 to 6: 12 and 1 are one hour apart."""
    return min((one - other) % 12, (other - one) % 12)


def measures(predictions: Sequence[Prediction]) -> dict[str, float]:
    """Accuracy or success of the authors' groups; for numbers also the mean error and the share that was parsed."""
    pairs = [("parsed_share", float(row.parsed is not None)) for row in predictions]
    for row in of_known_family(predictions):
        group = group_of(row.family)
        if group in PAIRS:
            pairs += [("qualitative_accuracy", row.score), (f"{group}_accuracy", row.score)]
            continue
        pairs += [("quantitative_success", row.score), (f"{group}_success", row.score)]
        pairs.append((f"{group}_parsed_share", float(row.parsed is not None)))
        pairs += [(f"{group}_{name.removeprefix(f'{group}_')}", value) for name, value in row.figures.items()]
    return means(pairs)


def group_of(category: str) -> str:
    """The group of a category: `left_right` of `left_choice`, `width` of `width_data`."""
    first = category.partition("_")[0]
    pair = next((pair for pair in PAIRS if first in pair.split("_")), None)
    return pair or {"distance_data": "direct_distance"}.get(category, category.removesuffix("_data"))


def baselines(items: Sequence[Item]) -> dict[str, float]:
    """Accuracy of the best constant answer of each category, chosen on other items than it is scored on."""
    families = by_family(items)
    right = {family: best_constant(rows) for family, rows in families.items()}
    shares = {f"best_constant_{family}": right[family] / len(rows) for family, rows in families.items()}
    return {"best_constant": sum(right.values()) / len(items), **shares}


def best_constant(items: Sequence[Item]) -> float:
    """Number of items of one category that the best constant of the other folds gets right, averaged over ties."""
    form, fold, right = items[0].metadata["form"], folds(items), 0.0
    truths = np.array([item.metadata["truth"] for item in items])
    for number in np.unique(fold):
        own, others = truths[fold == number].tolist(), truths[fold != number].tolist()
        # A constant that is within 25 % of most truths can be found among the lower ends of their 25 % bands
        constants = {0.75 * truth if form == "data" else truth for truth in others}
        constants = set(range(1, 13)) if form == "direction" and others else constants
        hits = {constant: sum(is_right(form, constant, truth) for truth in others) for constant in constants}
        best = [constant for constant in hits if hits[constant] == max(hits.values())]
        right += sum(is_right(form, constant, truth) for constant in best for truth in own) / max(len(best), 1)
    return right


SPATIAL_RGPT = Task(
    "spatial_rgpt",
    "SpatialRGPT-Bench",
    load,
    score,
    measures,
    baselines,
    max_new_tokens=128,
    default_source="a8cheng/SpatialRGPT-Bench",
)
