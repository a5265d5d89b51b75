"""Families of questions: each asks for one thing in several phrasings.

Families that several kinds of scenes have are here, the others in the file of their kind.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from .words import BALLS, YES_NO

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import numpy as np

MARGIN = 1.5
"""Pixels by which a spatial answer must hold."""

UNUSUAL_CASE = 0.06
"""Share of questions in capitals, and as many in lower case."""

Asks = Literal["static", "predictive", "conversational"]


@dataclass(frozen=True)
class Question:
    """A question and its answer, a word or a sentence; `choices` are the answers that are possible here, in order."""

    family: str
    kind: str
    text: str
    answer: str
    choices: tuple[str, ...]


@dataclass(frozen=True)
class Family:
    """Phrasings of one question, with slots of `WORDS`.

    asks: for what is (`static`) or what will be (`predictive`), or as people ask (`conversational`: yes/no forms, and
    open questions that a sentence answers).
    """

    name: str
    asks: Asks
    phrasings: tuple[str, ...]

    def ask(self, rng: np.random.Generator, answer: str, choices: tuple[str, ...], **words: str) -> Question:
        """One phrasing, drawn, with its slots filled; seldom in capitals or in lower case.

        Raises:
            KeyError: a slot that `words` does not fill.
        """
        text = self.phrasings[int(rng.integers(len(self.phrasings)))].format(**words)
        case = rng.random()
        text = text.upper() if case < UNUSUAL_CASE else text.lower() if case < 2 * UNUSUAL_CASE else text
        return Question(self.name, self.asks, text, answer, choices)

    def ask_whether(self, rng: np.random.Generator, truth: bool, **words: str) -> Question:
        """As `ask`; the answer is `yes` or `no`."""
        return self.ask(rng, YES_NO[truth], YES_NO, **words)


@dataclass(frozen=True)
class Ending:
    """A predictive family of a kind of scene, with the places of its answers.

    answers: from the `scene` of a record to the answers by place, from left to right or `no`, `yes`.
    mirrored: the place of each place in the mirrored image.
    """

    family: Family
    answers: Callable[[Mapping[str, Any]], tuple[str, ...]]
    mirrored: tuple[int, ...]


def static(name: str, *phrasings: str) -> Family:
    """A family that asks for what is."""
    return Family(name, "static", phrasings)


def predictive(name: str, *phrasings: str) -> Family:
    """A family that asks for what will be."""
    return Family(name, "predictive", phrasings)


def conversational(name: str, *phrasings: str) -> Family:
    """A family that asks as people ask."""
    return Family(name, "conversational", phrasings)


def whether(family: Family) -> Ending:
    """An ending that is `no` or `yes`, and the same in the mirror."""
    return Ending(family, lambda _scene: YES_NO, (0, 1))


BALL_COLOUR = static(
    "ball_colour",
    "What colour is the ball?",
    "Which colour does the ball have?",
    "What is the colour of the ball in this picture?",
    "The ball in this picture is of which colour?",
    "Look at the ball: what colour is it?",
    "In this picture, what colour is the ball?",
)
LIT_THING = static(
    "lit_thing",
    "Is anything lit up right now?",
    "Is something glowing in this picture?",
    "Right now, is there a thing that is lit?",
    "Does this picture show something that is lit up?",
    "Is anything glowing at this moment?",
    "Do you see something lit in this picture?",
)
WHAT_NEXT = conversational(
    "what_next",
    "What happens next?",
    "What will happen?",
    "What is going to happen?",
    "What will happen next in this picture?",
    "How does this end?",
    "What comes next?",
)
DESCRIBE = conversational(
    "describe",
    "What is this?",
    "What do you see?",
    "Describe the picture.",
    "What is in this picture?",
    "What does this picture show?",
    "Tell me what you see.",
)


def describe_ball(record: Mapping[str, Any], rng: np.random.Generator, where: str) -> Question:
    """The open question about a scene of one ball; the choices differ in its colour."""
    told = {colour: f"A {colour} ball with {where}." for colour in sorted(BALLS)}
    return DESCRIBE.ask(rng, told[record["scene"]["balls"][0]["colour"]], tuple(told.values()))


def guess_the_end(
    rng: np.random.Generator, check: Family, truth: str, ends: tuple[str, ...], sentence: str, ball: str
) -> list[Question]:
    """What becomes of one ball, and whether a guess is right that is so half the time.

    Args:
        ends: The colours of the places where the ball may end up; `truth` is one of them.
        sentence: What happens, with the slots {ball} and {end}.
    """
    guess = truth if rng.random() < 0.5 else str(rng.choice([end for end in ends if end != truth]))
    told = {end: sentence.format(ball=ball, end=end) for end in ends}
    return [
        WHAT_NEXT.ask(rng, told[truth], tuple(told[end] for end in sorted(ends)), ball=ball),
        check.ask_whether(rng, guess == truth, ball=ball, bin=guess),
    ]
