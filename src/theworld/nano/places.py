"""Outcomes of nano scenes by place, as a static learner or a reader of latents is taught them: colours are shuffled.

Imports no simulator: questions about scenes can be asked where none is installed.
"""

from __future__ import annotations

from typing import Any

MIRRORED: dict[str, tuple[int, ...]] = {
    "bin": (3, 2, 1, 0),
    "touch": (0, 1),
    "race": (1, 0),
    "topple": (2, 1, 0),
    "peg_bin": (3, 2, 1, 0),
    "peg_touch": (0, 1),
    "wall": (1, 0, 2, 3),
    "bumper_touch": (0, 1),
}
"""By predictive family, the place of each place in the mirrored image."""


def answers_by_place(record: dict[str, Any], family: str) -> tuple[str, ...]:
    """The answers to a predictive family from left to right: four bins or walls, two lanes, left / no / right; else no / yes."""
    scene = record["scene"]
    if family in ("bin", "peg_bin"):
        return tuple(scene["bins"])
    if family == "wall":
        return tuple(scene["walls"])
    if family == "race":
        return tuple(ball["colour"] for ball in scene["balls"])
    return ("left", "no", "right") if family == "topple" else ("no", "yes")


def outcome_place(record: dict[str, Any], family: str) -> int | None:
    """The place of a scene's outcome in `answers_by_place`; `None` where the scene has no such outcome."""
    answer = record["outcomes"].get(family)
    return None if answer is None else answers_by_place(record, family).index(answer)
