"""Outcomes of nano scenes by place, as a static learner or a reader of latents is taught them: colours are shuffled.

Imports no simulator: questions about scenes can be asked where none is installed.
"""

from __future__ import annotations

from typing import Any

from .kinds import KINDS

MIRRORED: dict[str, tuple[int, ...]] = {
    ending.family.name: ending.mirrored for kind in KINDS.values() for ending in kind.endings
}
"""By predictive family, the place of each place in the mirrored image."""


def answers_by_place(record: dict[str, Any], family: str) -> tuple[str, ...]:
    """The answers to a predictive family from left to right, such as the colours of four bins, or `no` and `yes`."""
    return KINDS[record["kind"]].ending(family).answers(record["scene"])


def outcome_place(record: dict[str, Any], family: str) -> int | None:
    """The place of a scene's outcome in `answers_by_place`; `None` where the scene has no such outcome."""
    answer = record["outcomes"].get(family)
    return None if answer is None else answers_by_place(record, family).index(answer)
