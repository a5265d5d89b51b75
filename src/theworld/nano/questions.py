"""Questions about scenes of the nano world: static, predictive and conversational.

A question is asked only if its answer is clear: in a spatial comparison, objects differ by at least `MARGIN` pixels.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

from .families import Family, Question
from .foreign import FOREIGN_ANSWER, FOREIGN_QUESTIONS
from .kinds import KINDS
from .kinds.base import ball_words
from .words import ANSWERS, EXERCISES, WORDS

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy as np

_SORTS = ("static", "predictive", "conversational")
_LATE = ("fallen", "wall", "bumper_touch", "peg_touch", "peg_bin", "describe")
"""Families that come last among those of their sort. Keep this order: `choose_balanced` draws in it."""


def families() -> dict[str, Family]:
    """Return every family of questions by name: static, then predictive, then conversational ones."""
    found: dict[str, Family] = {}
    for kind in KINDS.values():
        for family in (*kind.families, *(ending.family for ending in kind.endings)):
            found.setdefault(family.name, family)
    names = sorted(found, key=lambda name: (_SORTS.index(found[name].asks), _LATE.index(name) if name in _LATE else -1))
    return {name: found[name] for name in names}


def static_questions(record: dict[str, Any], frame: int, rng: np.random.Generator) -> list[Question]:
    """Return every static question about this frame (0 to F-1) that has a clear answer, each in a random phrasing."""
    return KINDS[record["kind"]].static(record, frame, rng)


def predictive_questions(record: dict[str, Any], rng: np.random.Generator) -> list[Question]:
    """Return the questions about how the scene ends. They are asked about its first frame."""
    kind, questions = KINDS[record["kind"]], list[Question]()
    for name, answer in record["outcomes"].items():
        ending, words = kind.ending(name), ball_words(record, rng)
        choices = tuple(sorted(ending.answers(record["scene"])))
        questions.append(ending.family.ask(rng, answer, choices, **words))
    return questions


def conversational_questions(record: dict[str, Any], rng: np.random.Generator) -> list[Question]:
    """Return open and yes/no questions about what follows the first frame; none if the scene has no outcomes."""
    words = ball_words(record, rng)
    return KINDS[record["kind"]].conversational(record, words, rng) if record["outcomes"] else []


def choose_balanced(
    questions: Iterable[tuple[int, int, Question]], per_family: int, rng: np.random.Generator
) -> list[tuple[int, int, Question]]:
    """Draw up to `per_family` questions of every family, with the same number of questions for each answer.

    `questions` are (scene index, frame, question). The rarest answer limits the number of questions of a family.
    """
    by_answer: dict[str, dict[str, list[tuple[int, int, Question]]]] = defaultdict(lambda: defaultdict(list))
    for item in questions:
        by_answer[item[2].family][item[2].answer].append(item)
    chosen: list[tuple[int, int, Question]] = []
    for family in families():
        answers = by_answer.get(family, {})
        if not answers:
            continue
        share = min(-(-per_family // len(answers)), *(len(items) for items in answers.values()), per_family)
        drawn = [items[i] for items in answers.values() for i in rng.permutation(len(items))[:share]]
        chosen += [drawn[i] for i in rng.permutation(len(drawn))[:per_family]]
    return chosen


def all_texts() -> list[str]:
    """Return the texts to train a tokenizer on: every phrasing with every word in its slots, and every answer."""
    texts: dict[str, None] = {}
    for phrasings in (*(family.phrasings for family in families().values()), *EXERCISES.values()):
        for phrasing in phrasings:
            slots = [slot for slot in WORDS if f"{{{slot}}}" in phrasing]
            filled = [phrasing]
            for slot in slots:
                filled = [text.replace(f"{{{slot}}}", word) for text in filled for word in WORDS[slot]]
            texts.update(dict.fromkeys(filled))
    sentences = (sentence for kind in KINDS.values() for sentence in kind.sentences)
    texts.update(dict.fromkeys((*ANSWERS, *sentences, FOREIGN_ANSWER, *FOREIGN_QUESTIONS)))
    texts.update(dict.fromkeys([text.upper() for text in texts]))
    return list(texts)
