"""Places: class indices of outcomes, by position in the scene, such as bins from left to right; or `no`, `yes`.

Colours are shuffled between scenes, so the place of an outcome is learned instead of its colour. Imports no
simulator, so that questions can be made from saved records without pymunk.
"""

from __future__ import annotations

from typing import Any

from .kinds import KINDS

MIRRORED: dict[str, tuple[int, ...]] = {
    ending.family.name: ending.mirrored for kind in KINDS.values() for ending in kind.endings
}
"""By predictive family: `mirrored[p]` is the place of `p` in the mirrored image."""


def answers_by_place(record: dict[str, Any], family: str) -> tuple[str, ...]:
    """Return the answers of a predictive family by place: colours of the bins from left to right, or `no` and `yes`."""
    return KINDS[record["kind"]].ending(family).answers(record["scene"])


def outcome_place(record: dict[str, Any], family: str) -> int | None:
    """Return the index of the scene's outcome in `answers_by_place`; `None` if the scene has no such outcome."""
    answer = record["outcomes"].get(family)
    return None if answer is None else answers_by_place(record, family).index(answer)
