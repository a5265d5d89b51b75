"""Draws scenes whose outcomes are balanced, settled by the last frame, and not given away by an obvious cue.

Every sampler first draws the outcome it wants and whether the obvious guess shall be right, then rejects layouts until
the simulated one agrees. What changes when the start moves by a quarter of a pixel is rejected too.
"""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import combinations, permutations
from typing import TYPE_CHECKING

import numpy as np

from theworld.utils.errors import TheWorldError

from .outcomes import BINS, column_of, outcomes
from .physics import (
    BALL_RADIUS,
    FLOOR_Y,
    FRAME_SECONDS,
    LANE_WALL_X,
    RAMP_RADIUS,
    SIZE,
    Ball,
    Block,
    Ramp,
    Scene,
    simulate,
)
from .render import BALL_COLOURS, BIN_COLOURS, BLOCK_COLOURS

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from .physics import Trajectory

_JITTER = 0.25
_PASSAGE = 2 * BALL_RADIUS + RAMP_RADIUS + 1  # room between a ramp's lower end and a wall
_BELOW_RIGHT = 0.27  # share of drops that end in the bin straight below the start
_LOWER_FIRST = 0.54  # share of races that the lower ball wins
_UNEVEN = 0.3  # share of races with more ramps in one lane
_SECOND_RAMP = 0.3
_FEWER_FIRST = 0.6  # share of races with unequal ramps that the lane with fewer of them wins
_TOP_OFFSET_TELLS = 0.55  # share of collapses that go the way the top block sticks out


def sample_scene(seed: int, kind: str) -> tuple[Scene, Trajectory]:
    """The one scene of this seed and kind (`drop`, `race` or `stack`), and what happens in it.

    Raises:
        ValueError: for an unknown kind.
    """
    if kind not in _SAMPLERS:
        raise TheWorldError(f"unknown kind of scene {kind!r}: expected one of {', '.join(KINDS)}")
    rng = np.random.default_rng((seed, KINDS.index(kind)))
    return _SAMPLERS[kind](seed, rng)


def _is_robust(scene: Scene, found: dict[str, str], jitters: tuple[tuple[float, float], ...]) -> bool:
    return all(outcomes(scene, simulate(scene, jitter=jitter)) == found for jitter in jitters)


def _sample_drop(seed: int, rng: np.random.Generator) -> tuple[Scene, Trajectory]:
    has_red = rng.random() < 2 / 3
    count = int(rng.choice([2, 3], p=[0.65, 0.35]) if has_red else rng.choice([1, 2, 3], p=[0.35, 0.4, 0.25]))
    touches, lies_below = rng.random(2) < 0.5
    column, straight = int(rng.integers(BINS)), rng.random() < _BELOW_RIGHT
    ball_colour = str(rng.choice(list(BALL_COLOURS)))
    bins = tuple(str(name) for name in rng.permutation(list(BIN_COLOURS))[:BINS])
    while True:
        scene = _drop_layout(seed, rng, ball_colour, bins, count)
        if any(_gap(a, b) < 2 * RAMP_RADIUS + 1 for a, b in combinations(scene.ramps, 2)):
            continue
        trajectory = simulate(scene)
        if outcomes(scene, trajectory) is None:
            continue
        reached = column_of(trajectory.ball_xy[-1, 0, 0])
        if reached not in (column, BINS - 1 - column) or (reached == column_of(scene.balls[0].x)) != straight:
            continue
        if has_red:
            painted = _paint_one_ramp(rng, scene, trajectory, touches, lies_below)
            if painted is None:
                continue
            scene = painted
        scene = scene if reached == column else replace(scene.mirrored(), bins=bins)
        trajectory = simulate(scene)
        found = outcomes(scene, trajectory)
        if found and found["bin"] == bins[column] and _is_robust(scene, found, ((-_JITTER, 0), (_JITTER, 0))):
            return scene, trajectory


def _drop_layout(seed: int, rng: np.random.Generator, ball_colour: str, bins: tuple[str, ...], count: int) -> Scene:
    ball = Ball(ball_colour, rng.uniform(4, 28), rng.uniform(2.5, 4.5))
    bands = [((9.0, 12.0), (14.0, 16.5), (18.0, 20.5))[i] for i in sorted(rng.choice(3, count, replace=False))]
    ramps = [_slanted(rng, ball.x + rng.uniform(-5.5, 5.5), rng.uniform(*bands[0]), (6, 11))]
    for band in bands[1:]:
        last = ramps[-1]
        end, side = (last.x2, 1) if last.y2 > last.y1 else (last.x1, -1)
        # Where the ball may come off the ramp above, below its start, or anywhere.
        centre = rng.choice(
            [end + side * rng.uniform(0, 7), ball.x + rng.uniform(-5, 5), rng.uniform(4, 28)], p=[0.6, 0.25, 0.15]
        )
        ramps.append(_slanted(rng, centre, rng.uniform(*band), (6, 11)))
    return Scene("drop", seed, (ball,), tuple(ramps), bins)


def _gap(a: Ramp, b: Ramp) -> float:
    """Distance between the axes of two ramps, to about half a unit."""
    steps = np.linspace(0, 1, 13)[:, None]
    points = [np.array([r.x1, r.y1]) + steps * np.array([r.x2 - r.x1, r.y2 - r.y1]) for r in (a, b)]
    return float(np.linalg.norm(points[0][:, None] - points[1][None], axis=-1).min())


def _slanted(rng: np.random.Generator, x: float, y: float, lengths: tuple[float, float]) -> Ramp:
    """A ramp around (x, y), moved so that its lower end is not a trap at the side of the world."""
    half, angle = rng.uniform(*lengths) / 2, math.radians(rng.uniform(22, 45))
    falls_right = rng.random() < 0.5
    dx, dy = half * math.cos(angle), half * math.sin(angle) * (1 if falls_right else -1)
    x = min(max(x, 2), SIZE - _PASSAGE - dx) if falls_right else max(min(x, SIZE - 2), _PASSAGE + dx)
    return Ramp(x - dx, y - dy, x + dx, y + dy)


def _paint_one_ramp(
    rng: np.random.Generator, scene: Scene, trajectory: Trajectory, touches: bool, lies_below: bool
) -> Scene | None:
    """Make one ramp red that is (not) touched and (not) straight below the ball; never the highest, a giveaway."""
    x = scene.balls[0].x
    candidates = [
        index
        for index, ramp in enumerate(scene.ramps)
        if index and math.isfinite(trajectory.ramp_contact[index]) == touches and (ramp.x1 < x < ramp.x2) == lies_below
    ]
    if not candidates:
        return None
    chosen = rng.choice(candidates)
    return replace(scene, ramps=tuple(replace(r, red=bool(i == chosen)) for i, r in enumerate(scene.ramps)))


def _sample_race(seed: int, rng: np.random.Generator) -> tuple[Scene, Trajectory]:
    first, lower_first = int(rng.integers(2)), rng.random() < _LOWER_FIRST
    uneven, fewer_first = rng.random() < _UNEVEN, rng.random() < _FEWER_FIRST
    colours = [str(name) for name in rng.permutation(list(BALL_COLOURS))[:2]]
    while True:
        # The lanes do not touch, so a few of them, run alone, make many races.
        lanes = [_lane_layout(seed, rng) for _ in range(8)]
        landings = [simulate(lane).pad_contact[0] for lane in lanes]
        for winner, loser in permutations(range(len(lanes)), 2):
            if not landings[winner] < landings[loser] < math.inf:
                continue
            gap, drop = landings[loser] - landings[winner], lanes[winner].balls[0].y - lanes[loser].balls[0].y
            more = len(lanes[loser].ramps) - len(lanes[winner].ramps)
            if gap < 1.15 * FRAME_SECONDS or abs(drop) < 2 or (drop > 0) != lower_first:
                continue
            if (more != 0) != uneven or (uneven and (more > 0) != fewer_first):
                continue
            pair = (lanes[winner], lanes[loser]) if first == 0 else (lanes[loser], lanes[winner])
            scene = _join(pair[0], pair[1].mirrored(), colours)
            trajectory = simulate(scene)
            found = {"race": colours[first]}
            jitters = ((-_JITTER, 0), (_JITTER, 0), (0, -_JITTER), (0, _JITTER))
            if outcomes(scene, trajectory) == found and _is_robust(scene, found, jitters):
                return scene, trajectory


def _lane_layout(seed: int, rng: np.random.Generator) -> Scene:
    """A ball in the left lane, above one ramp or two."""
    ball = Ball("white", rng.uniform(3, 13), rng.uniform(2.5, 11))
    ramps = [_lane_ramp(rng, ball.x + rng.uniform(-4, 4), rng.uniform(ball.y + 5, 20))]
    if rng.random() < _SECOND_RAMP and max(ramps[0].y1, ramps[0].y2) < 17:
        ramps.append(_lane_ramp(rng, rng.uniform(3, 13), rng.uniform(21, 22.5)))
    return Scene("race", seed, (ball,), tuple(ramps))


def _lane_ramp(rng: np.random.Generator, x: float, y: float) -> Ramp:
    half, angle = rng.uniform(4.5, 8.5) / 2, math.radians(rng.uniform(12, 45))
    falls_right = rng.random() < 0.5
    dx, dy = half * math.cos(angle), half * math.sin(angle) * (1 if falls_right else -1)
    low, high = (1 + dx, LANE_WALL_X - _PASSAGE - dx) if falls_right else (_PASSAGE + dx, LANE_WALL_X - 1 - dx)
    x = min(max(x, low), high)
    return Ramp(x - dx, y - dy, x + dx, y + dy)


def _join(left: Scene, right: Scene, colours: list[str]) -> Scene:
    balls = (replace(left.balls[0], colour=colours[0]), replace(right.balls[0], colour=colours[1]))
    return replace(left, balls=balls, ramps=left.ramps + right.ramps)


def _sample_stack(seed: int, rng: np.random.Generator) -> tuple[Scene, Trajectory]:
    wanted, tells = str(rng.choice(["left", "right", "no"])), rng.random() < _TOP_OFFSET_TELLS
    count = int(rng.choice([2, 3, 4], p=[0.2, 0.4, 0.4]))
    colours = [str(name) for name in rng.permutation(list(BLOCK_COLOURS))[:count]]
    while True:
        x, y, width, height = _stack_layouts(rng, count)
        overhang = _overhang(x, width, height)
        top_offset = x[:, -1] - x[:, 0]
        if wanted == "no":
            fits = (overhang == 0) & (np.abs(top_offset) > rng.uniform(0, 4, len(x)))
        else:
            fits = (np.abs(overhang) > 0.45) & ((count == 2) | ((top_offset * overhang > 0) == tells))
        for i in np.flatnonzero(fits)[:4]:
            blocks = zip(colours, x[i].tolist(), y[i].tolist(), width[i].tolist(), height[i].tolist(), strict=True)
            scene = Scene("stack", seed, blocks=tuple(Block(*block) for block in blocks))
            if wanted != "no" and (overhang[i] > 0) != (wanted == "right"):
                scene = scene.mirrored()
            trajectory = simulate(scene)
            found = {"topple": wanted}
            if outcomes(scene, trajectory) == found and _is_robust(scene, found, ((-_JITTER, 0), (_JITTER, 0))):
                return scene, trajectory


def _stack_layouts(rng: np.random.Generator, count: int, batch: int = 64) -> tuple[NDArray[np.float64], ...]:
    """Candidates: x, y, width and height, each (batch, count), from the bottom block to the top one."""
    width, height = rng.uniform(5, 9, (batch, count)), rng.uniform(3.2, 4.6, (batch, count))
    steps = rng.uniform(-0.62, 0.62, (batch, count - 1)) * width[:, :-1]
    x = np.cumsum(np.concatenate([rng.uniform(12, 20, (batch, 1)), steps], axis=1), axis=1)
    y = FLOOR_Y - np.cumsum(height, axis=1) + height / 2
    return x, y, width, height


def _overhang(x: NDArray[np.float64], width: NDArray[np.float64], height: NDArray[np.float64]) -> NDArray[np.float64]:
    """How far the worst-supported part leans out over its support (batch,), + to the right; 0 where all rest safely.

    A cheap filter before the simulation, which has the last word.
    """
    mass = width * height
    worst = np.full(len(x), -math.inf)
    signed = np.zeros(len(x))
    for level in range(1, x.shape[1]):
        above = mass[:, level:]
        centre = (x[:, level:] * above).sum(1) / above.sum(1)
        left = np.maximum(*(x[:, k] - width[:, k] / 2 for k in (level - 1, level)))
        right = np.minimum(*(x[:, k] + width[:, k] / 2 for k in (level - 1, level)))
        for out, sign in ((left - centre, -1), (centre - right, 1)):
            signed = np.where(out > worst, sign * np.abs(out), signed)
            worst = np.maximum(out, worst)
    return np.where(worst > -0.45, np.where(worst > 0, signed, 0.01), 0)


_SAMPLERS: dict[str, Callable[[int, np.random.Generator], tuple[Scene, Trajectory]]] = {
    "drop": _sample_drop,
    "race": _sample_race,
    "stack": _sample_stack,
}
KINDS: tuple[str, ...] = tuple(_SAMPLERS)
