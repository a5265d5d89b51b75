"""Kinds of scenes, one file each. A new kind is a new file and an entry here."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from theworld.utils.errors import TheWorldError

from ..physics import FRAMES, USUAL
from .base import SIDEWAYS, Kind
from .bumpers import BUMPERS
from .drop import DROP
from .pegs import PEGS
from .race import RACE
from .stack import STACK

if TYPE_CHECKING:
    from ..physics import Law, Scene, Trajectory

__all__ = ["KINDS", "Kind", "draw_scene", "sample_disputed", "sample_scene"]

KINDS: dict[str, Kind] = {kind.name: kind for kind in (DROP, RACE, STACK, PEGS, BUMPERS)}
"""Append new kinds at the end: the position of a kind is part of the random seed of its scenes."""


def sample_scene(seed: int, kind: str, level: int | None = None, frames: int = FRAMES) -> tuple[Scene, Trajectory]:
    """Return the labelled scene of this seed, kind and level, and its simulation.

    Answers are balanced over seeds. They stay the same if the start moves by a quarter of a pixel.

    Args:
        level: From 0 (easiest) to `KINDS[kind].levels - 1` (the default).
        frames: Number of frames of the clip. The outcome is clear by the last one.

    Raises:
        ValueError: for an unknown kind or level.
    """
    one, level, rng = _start(seed, kind, level, frames)
    return one.sample(one, seed, rng, level)


def draw_scene(
    seed: int, kind: str, level: int | None = None, law: Law = USUAL, frames: int = FRAMES
) -> tuple[Scene, Trajectory]:
    """Return a scene for unlabelled video, and its simulation. Outcomes are not balanced and may be unclear.

    Raises the errors of `sample_scene`.
    """
    one, level, rng = _start(seed, kind, level, frames)
    scene = one.draw(seed, rng, level)
    return scene, one.simulate(scene, law=law)


def sample_disputed(
    seed: int, kind: str, law: Law, level: int | None = None, frames: int = FRAMES
) -> tuple[Scene, Trajectory, Trajectory]:
    """Return a scene whose first ending differs under `law`. The outcomes under both laws are robust to a `JITTER`.

    Returns the scene, its simulation under the usual law, and its simulation under `law`. Raises the errors of
    `sample_scene`.
    """
    one, level, rng = _start(seed, kind, level, frames)
    family = one.endings[0].family.name
    while True:
        scene = one.draw(seed, rng, level)
        ends = [one.simulate(scene, law=either) for either in (USUAL, law)]
        usual, other = (one.outcomes(scene, end) for end in ends)
        if usual is None or other is None or usual[family] == other[family]:
            continue
        if one.is_robust(scene, usual, SIDEWAYS) and one.is_robust(scene, other, SIDEWAYS, law):
            return scene, ends[0], ends[1]


def _start(seed: int, kind: str, level: int | None, frames: int) -> tuple[Kind, int, np.random.Generator]:
    """Return the kind, the level (default filled in) and the random generator of a scene."""
    if kind not in KINDS:
        raise TheWorldError(f"unknown kind of scene {kind!r}: expected one of {', '.join(KINDS)}")
    one, number = replace(KINDS[kind], frames=frames), list(KINDS).index(kind)
    level = one.levels - 1 if level is None else level
    if not 0 <= level < one.levels:
        raise TheWorldError(f"level={level} of {kind}: expected 0 to {one.levels - 1}")
    return one, level, np.random.default_rng((seed, number, level) if one.levels > 1 else (seed, number))
