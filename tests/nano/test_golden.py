"""Clips and questions stay what they were, pixel by pixel and draw by draw: shipped weights were trained on them.

The values are in golden.json. Only a change of the world itself may change them:

    python -m tests.nano.test_golden
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from theworld.nano.questions import (
    all_texts,
    choose_balanced,
    conversational_questions,
    families,
    predictive_questions,
    static_questions,
)
from theworld.nano.render import CLASSES
from theworld.nano.scenes import KINDS, make_clip

if TYPE_CHECKING:
    from collections.abc import Iterator

GOLDEN = Path(__file__).with_name("golden.json")
SEEDS = (0, 1, 2)
HARD = ("pegs", "bumpers")
SHARED = "shared"


def digest(values: Any) -> str:
    values = values.tobytes() if isinstance(values, np.ndarray) else json.dumps(values, sort_keys=True).encode()
    return hashlib.sha256(values).hexdigest()[:16]


def clips(kind: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Name and arguments of every clip of a kind."""
    for seed in SEEDS:
        for level in (None, 0) if kind in HARD else (None,):
            yield f"{seed} level {level} free", {"seed": seed, "level": level, "labelled": False}
            yield f"{seed} level {level} labelled", {"seed": seed, "level": level}
            yield (
                f"{seed} level {level} free tilted",
                {"seed": seed, "level": level, "labelled": False, "law": "tilted"},
            )
        if kind in HARD:
            yield f"{seed} labelled tilted", {"seed": seed, "law": "tilted"}


def questions_of(record: dict[str, Any]) -> list[Any]:
    rng = np.random.default_rng(record["seed"])
    last = len(record["ramp_lit"]) - 1
    asked = [(0, question) for question in predictive_questions(record, rng)]
    asked += [(0, question) for question in conversational_questions(record, rng)]
    for frame in (0, last // 2, last):
        asked += [(frame, question) for question in static_questions(record, frame, rng)]
    return [(0, frame, question) for frame, question in asked]


def values_of(kind: str) -> dict[str, Any]:
    """Digests of the clips of a kind, of what is asked about them, and of what a balanced draw takes of that."""
    values: dict[str, Any] = {}
    asked: list[Any] = []
    for name, arguments in clips(kind):
        frames, classes, record = make_clip(kind=kind, **arguments)
        questions = questions_of(record)
        texts = [(frame, vars(question)) for _, frame, question in questions]
        values[name] = " ".join(map(digest, (frames, classes, record, texts)))
        asked += questions
    drawn = choose_balanced(asked, 5, np.random.default_rng(0))
    return {**values, "balanced": digest([(frame, vars(question)) for _, frame, question in drawn])}


def shared_values() -> dict[str, Any]:
    words = sorted({word for text in all_texts() for word in text.split()})  # what the tokenizer is made of
    return {
        "kinds": list(KINDS),
        "families": list(families()),
        "classes": digest(CLASSES),
        "words": digest(words),
    }


@pytest.mark.parametrize("kind", KINDS)
def test_clips_and_questions_are_what_they_were(kind: str) -> None:
    assert values_of(kind) == json.loads(GOLDEN.read_text(encoding="utf-8"))[kind]


def test_kinds_classes_and_texts_are_what_they_were() -> None:
    assert shared_values() == json.loads(GOLDEN.read_text(encoding="utf-8"))[SHARED]


if __name__ == "__main__":
    every = {**{kind: values_of(kind) for kind in KINDS}, SHARED: shared_values()}
    GOLDEN.write_text(json.dumps(every, indent=1) + "\n", encoding="utf-8")
