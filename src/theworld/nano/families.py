"""Families of questions. A family asks for one thing in several phrasings.

Families that several kinds of scenes share are defined here, the others in the file of their kind.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from .words import BALLS, YES_NO

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import numpy as np

MARGIN = 1.5
"""Pixels by which two positions must differ before a question compares them."""

UNUSUAL_CASE = 0.06
"""Share of questions in upper case, and share of questions in lower case."""

Asks = Literal["static", "predictive", "conversational"]


@dataclass(frozen=True)
class Question:
    """A question and its answer, a word or a sentence. `choices` are the possible answers, in order."""

    family: str
    kind: str
    text: str
    answer: str
    choices: tuple[str, ...]


@dataclass(frozen=True)
class Family:
    """Phrasings of one question, with slots of `WORDS`.

    Attributes:
        asks: `static` for what an image shows, `predictive` for how the scene ends, `conversational` for yes/no
            questions and open questions with a sentence as the answer.
    """

    name: str
    asks: Asks
    phrasings: tuple[str, ...]

    def ask(self, rng: np.random.Generator, answer: str, choices: tuple[str, ...], **words: str) -> Question:
        """Return the question in a random phrasing with its slots filled, sometimes in upper or lower case.

        Raises:
            KeyError: `words` lacks a slot of the phrasing.
        """
        text = self.phrasings[int(rng.integers(len(self.phrasings)))].format(**words)
        case = rng.random()
        text = text.upper() if case < UNUSUAL_CASE else text.lower() if case < 2 * UNUSUAL_CASE else text
        return Question(self.name, self.asks, text, answer, choices)

    def ask_whether(self, rng: np.random.Generator, truth: bool, **words: str) -> Question:
        """Like `ask`, with `yes` as the answer if `truth`, else `no`."""
        return self.ask(rng, YES_NO[truth], YES_NO, **words)


@dataclass(frozen=True)
class Ending:
    """A predictive family of a kind of scene, with the places of its answers.

    Attributes:
        answers: Maps the `scene` of a record to its answers by place: from left to right, or `no`, `yes`.
        mirrored: `mirrored[p]` is the place of `p` in the mirrored image.
    """

    family: Family
    answers: Callable[[Mapping[str, Any]], tuple[str, ...]]
    mirrored: tuple[int, ...]


def static(name: str, *phrasings: str) -> Family:
    """Make a family that asks what an image shows."""
    return Family(name, "static", phrasings)


def predictive(name: str, *phrasings: str) -> Family:
    """Make a family that asks how the scene ends."""
    return Family(name, "predictive", phrasings)


def conversational(name: str, *phrasings: str) -> Family:
    """Make a family of yes/no questions, or of open questions that a sentence answers."""
    return Family(name, "conversational", phrasings)


def whether(family: Family) -> Ending:
    """Make an ending with the answers `no` and `yes`, which mirroring does not change."""
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
    """Ask for a description of a scene with one ball. The choices differ in the colour of the ball."""
    told = {colour: f"A {colour} ball with {where}." for colour in sorted(BALLS)}
    return DESCRIBE.ask(rng, told[record["scene"]["balls"][0]["colour"]], tuple(told.values()))


def guess_the_end(
    rng: np.random.Generator, check: Family, truth: str, ends: tuple[str, ...], sentence: str, ball: str
) -> list[Question]:
    """Ask what happens to one ball, and whether it ends at a given place. That place is right in half of the cases.

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
