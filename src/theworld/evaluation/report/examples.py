"""Items on which arms disagree: the evidence that a reader can look at."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..ask.arms import ARMS
from ..store.refusals import FULL, ArmRun
from .pictures import find_pictures, find_rollout

MAX_EXAMPLES = 8
CONTROL = re.compile(r"<start_of_turn>(?:user|model)\n?|<(?:bos|pad|unused\d+|image_soft_token|\w+_of_\w+)>(?:\*\d+)?")
"""Gemma's control tokens, runs of them with their count."""


@dataclass(frozen=True)
class Reply:
    """What an arm said to an item.

    Args:
        arm: Its name.
        output: As it came.
        parsed: What the rules read from it.
        right: Whether that is the answer.
    """

    arm: str
    output: str
    parsed: str | None
    right: bool


@dataclass(frozen=True)
class ExampleItem:
    """An item on which arms disagree."""

    id: str
    family: str
    question: str
    answer: str
    replies: tuple[Reply, ...]
    pictures: tuple[Path, ...]
    rollout: Path | None


def draw_examples(arms: Mapping[str, Sequence[ArmRun]], full: str) -> tuple[list[int], int]:
    """Places of items that the full model and an arm it has to beat do not score alike, and how many there are.

    Half of those drawn are ones that the full model gets right, as far as there are. They are drawn by the hash of
    their ids: at random, and the same again for the same predictions.
    """
    decisive = [arm.name for arm in ARMS.values() if arm.decides]
    others = [name for name in arms if name != full and name.rpartition("/")[2] in (*decisive, FULL)]
    others = others or [name for name in arms if name != full]
    ours = arms[full][0].predictions
    differ = [
        place
        for place, row in enumerate(ours)
        if any(arms[name][0].predictions[place].score != row.score for name in others)
    ]
    differ.sort(key=lambda place: hashlib.sha256(ours[place].id.encode()).digest())
    wins = [place for place in differ if ours[place].score]
    losses = [place for place in differ if not ours[place].score]
    few = min(MAX_EXAMPLES // 2, len(losses))
    chosen = wins[: MAX_EXAMPLES - few]
    return [*chosen, *losses[: MAX_EXAMPLES - len(chosen)]], len(differ)


def readable(prompt: str) -> str:
    """A rendered prompt without the tokens that frame it."""
    return CONTROL.sub("", prompt).strip()


def show(place: int, arms: Mapping[str, Sequence[ArmRun]], full: str, folders: Sequence[Path]) -> ExampleItem:
    """The item at a place: what was asked, what every arm said, and the pictures that one of `folders` kept."""
    row = arms[full][0].predictions[place]
    replies = [(name, seeds[0].predictions[place]) for name, seeds in arms.items()]
    pictures = (find_pictures(folder, row.id) for folder in folders)
    rollouts = (find_rollout(folder, row.id) for folder in folders)
    return ExampleItem(
        row.id,
        row.family,
        readable(row.prompt),
        row.answer,
        tuple(Reply(name, said.output or said.failed or "", said.parsed, said.score == 1.0) for name, said in replies),
        next((found for found in pictures if found), ()),
        next((found for found in rollouts if found), None),
    )


__all__ = ["ExampleItem", "Reply", "draw_examples", "readable", "show"]
