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
"""The order counts: a scene is drawn from its seed and the number of its kind. New kinds come last."""


def sample_scene(seed: int, kind: str, level: int | None = None, frames: int = FRAMES) -> tuple[Scene, Trajectory]:
    """The one scene of this seed, kind and level, and what happens in it.

    Its answers are balanced over seeds, and hold also when the start moves by a quarter of a pixel.

    Args:
        level: From 0, the easiest, to `KINDS[kind].levels - 1`, the default.
        frames: Length of the clip, by the end of which the scene has ended.

    Raises:
        ValueError: for an unknown kind or level.
    """
    one, level, rng = _start(seed, kind, level, frames)
    return one.sample(one, seed, rng, level)


def draw_scene(
    seed: int, kind: str, level: int | None = None, law: Law = USUAL, frames: int = FRAMES
) -> tuple[Scene, Trajectory]:
    """A scene for unlabelled video: as it is drawn, neither balanced nor with an outcome that is beyond doubt.

    Raises as `sample_scene`.
    """
    one, level, rng = _start(seed, kind, level, frames)
    scene = one.draw(seed, rng, level)
    return scene, one.simulate(scene, law=law)


def sample_disputed(
    seed: int, kind: str, law: Law, level: int | None = None, frames: int = FRAMES
) -> tuple[Scene, Trajectory, Trajectory]:
    """A scene whose first ending differs under `law`, beyond doubt under both laws.

    Returns the scene, what happens under the usual law, and what happens under `law`. Raises as `sample_scene`.
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
    """The kind, the level that is meant, and the random numbers of a scene."""
    if kind not in KINDS:
        raise TheWorldError(f"unknown kind of scene {kind!r}: expected one of {', '.join(KINDS)}")
    one, number = replace(KINDS[kind], frames=frames), list(KINDS).index(kind)
    level = one.levels - 1 if level is None else level
    if not 0 <= level < one.levels:
        raise TheWorldError(f"level={level} of {kind}: expected 0 to {one.levels - 1}")
    return one, level, np.random.default_rng((seed, number, level) if one.levels > 1 else (seed, number))
