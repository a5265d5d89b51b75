"""What becomes of a scene, read from its trajectory, where the end of the clip shows it beyond doubt."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from .physics import BALL_RADIUS, FLOOR_Y, FRAME_SECONDS, SIZE

if TYPE_CHECKING:
    from .physics import Scene, Trajectory

BINS = 4
_LATEST_FIRST_LANDING = 0.86  # seconds: the lit pad shows in the last frame at least


def column_of(x: float) -> int:
    """The column, 0 to 3 from the left, over which x lies."""
    return int(np.clip(x // (SIZE / BINS), 0, BINS - 1))


def outcomes(scene: Scene, trajectory: Trajectory) -> dict[str, str] | None:
    """The answers to the scene's predictive families, or None where the end of the clip leaves one open.

    Keys: `bin` and, with a red ramp, `touch` (drop); `race`; `topple` (stack); `peg_bin` and `peg_touch` (pegs);
    `wall` and `bumper_touch` (bumpers).
    """
    if scene.bins:
        return _drop_outcomes(scene, trajectory)
    if scene.kind == "bumpers":
        return _bumpers_outcomes(scene, trajectory)
    if scene.kind == "race":
        return _race_outcomes(scene, trajectory)
    side = topple_side(trajectory)
    return None if side is None else {"topple": side}


def topple_side(trajectory: Trajectory) -> str | None:
    """`left`, `right` or `no`; None where blocks moved without clearly falling, or fell to both sides."""
    start, end = trajectory.block_pose[0], trajectory.block_pose[-1]
    moved = np.abs(end[:, :2] - start[:, :2]).max()
    if moved <= 0.5 and np.abs(end[:, 2]).max() < 0.1:
        return "no"
    fallen = end[:, 1] - start[:, 1] >= 1.5
    shift = (end[:, 0] - start[:, 0])[fallen]
    beside = (end[:, 0] - end[0, 0])[fallen]
    others = end[:, 0] - start[:, 0]
    for side, sign in (("left", -1), ("right", 1)):
        one_way = (sign * others).min() >= -1
        if one_way and fallen.any() and (sign * shift).min() >= 1.5 and (sign * beside).min() >= 2.5:
            return side
    return None


def _drop_outcomes(scene: Scene, trajectory: Trajectory) -> dict[str, str] | None:
    x, y = trajectory.ball_xy[-1, 0]
    if y < FLOOR_Y - BALL_RADIUS - 0.8 or trajectory.ball_speed[0] > 14:
        return None
    where, touch = ("bin", "touch") if scene.kind == "drop" else ("peg_bin", "peg_touch")
    found = {where: scene.bins[column_of(x)]}
    if any(thing.red for thing in (*scene.ramps, *scene.pegs)):
        found[touch] = _touches(scene, trajectory)
    return found


def _bumpers_outcomes(scene: Scene, trajectory: Trajectory) -> dict[str, str] | None:
    if trajectory.wall < 0:
        return None
    return {"wall": scene.walls[trajectory.wall], "bumper_touch": _touches(scene, trajectory)}


def _touches(scene: Scene, trajectory: Trajectory) -> str:
    return "yes" if math.isfinite(trajectory.red_contact(scene)) else "no"


def _race_outcomes(scene: Scene, trajectory: Trajectory) -> dict[str, str] | None:
    left, right = trajectory.pad_contact
    if max(left, right) == math.inf or abs(left - right) < FRAME_SECONDS or min(left, right) > _LATEST_FIRST_LANDING:
        return None
    return {"race": scene.balls[0 if left < right else 1].colour}
