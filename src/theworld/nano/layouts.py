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
    GRID,
    LANE_WALL_X,
    RAMP_RADIUS,
    SIZE,
    USUAL,
    Ball,
    Block,
    Law,
    Peg,
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


PEGS_AND_RAMPS = ((1, 1), (2, 2), (4, 2))
"""Of a scene of pegs, by level of difficulty."""
BUMPERS = (3, 5, 8)
"""Of a scene of bumpers, by level of difficulty."""
LEVELS = {"pegs": len(PEGS_AND_RAMPS), "bumpers": len(BUMPERS)}
"""Levels of difficulty of a kind, from 0; the others have one."""


def sample_scene(seed: int, kind: str, level: int | None = None) -> tuple[Scene, Trajectory]:
    """The one scene of this seed, kind and level, and what happens in it.

    Its answers are balanced, and hold also when the start moves by a quarter of a pixel.

    Args:
        level: From 0, the easiest, to `LEVELS[kind] - 1`, the default.

    Raises:
        ValueError: for an unknown kind or level.
    """
    rng, level = _start(seed, kind, level)
    if kind in LEVELS:
        return _sample_balanced(seed, kind, level, rng)
    return _SAMPLERS[kind](seed, rng)


def draw_scene(seed: int, kind: str, level: int | None = None, law: Law = USUAL) -> tuple[Scene, Trajectory]:
    """A scene for unlabelled video: as it is drawn, neither balanced nor with an outcome that is beyond doubt.

    Raises as `sample_scene`.
    """
    rng, level = _start(seed, kind, level)
    scene = _DRAWN[kind](seed, rng, level)
    return scene, simulate(scene, law=law)


def _start(seed: int, kind: str, level: int | None) -> tuple[np.random.Generator, int]:
    if kind not in KINDS:
        raise TheWorldError(f"unknown kind of scene {kind!r}: expected one of {', '.join(KINDS)}")
    levels = LEVELS.get(kind, 1)
    level = levels - 1 if level is None else level
    if not 0 <= level < levels:
        raise TheWorldError(f"level={level} of {kind}: expected 0 to {levels - 1}")
    return np.random.default_rng((seed, KINDS.index(kind), level)[: 3 if kind in LEVELS else 2]), level


def _is_robust(scene: Scene, found: dict[str, str], jitters: tuple[tuple[float, float], ...], law: Law = USUAL) -> bool:
    return all(outcomes(scene, simulate(scene, jitter=jitter, law=law)) == found for jitter in jitters)


def sample_disputed(seed: int, kind: str, law: Law) -> tuple[Scene, Trajectory, Trajectory]:
    """A scene of the hardest level whose place of the end differs under `law`, beyond doubt under both laws.

    Returns the scene, what happens under the usual law, and what happens under `law`.
    """
    rng, level = _start(seed, kind, None)
    family, jitters = ("wall" if kind == "bumpers" else "peg_bin"), ((-_JITTER, 0.0), (_JITTER, 0.0))
    while True:
        scene = _DRAWN[kind](seed, rng, level)
        ends = [simulate(scene, law=one) for one in (USUAL, law)]
        usual, other = (outcomes(scene, end) for end in ends)
        if usual is None or other is None or usual[family] == other[family]:
            continue
        if _is_robust(scene, usual, jitters) and _is_robust(scene, other, jitters, law):
            return scene, ends[0], ends[1]


def _sample_balanced(seed: int, kind: str, level: int, rng: np.random.Generator) -> tuple[Scene, Trajectory]:
    """Draws scenes until one ends at the place, and with the touch of the red thing, that were drawn first."""
    place, touch = int(rng.integers(4)), str(rng.choice(["no", "yes"]))
    while True:
        scene = _DRAWN[kind](seed, rng, level)
        trajectory = simulate(scene)
        found = outcomes(scene, trajectory)
        if found is None:
            continue
        where, touched = found.values()
        ends = scene.walls or scene.bins
        if ends.index(where) != place or touched != touch:
            continue
        if _is_robust(scene, found, ((-_JITTER, 0), (_JITTER, 0))):
            return scene, trajectory


def _draw_pegs(seed: int, rng: np.random.Generator, level: int) -> Scene:
    pegs, ramps = PEGS_AND_RAMPS[level]
    while True:
        places = [(rng.uniform(2, 30), rng.uniform(7.5, 23)) for _ in range(pegs)]
        if any(math.dist(a, b) <= 5.2 for a, b in combinations(places, 2)):
            continue
        bars = [_free_ramp(rng) for _ in range(ramps)]
        points = [[(r.x1, r.y1), ((r.x1 + r.x2) / 2, (r.y1 + r.y2) / 2), (r.x2, r.y2)] for r in bars]
        if any(math.dist(p, q) <= 4.2 for some in points for p in some for q in places):
            continue
        if any(math.dist(p, q) <= 4.4 for a, b in combinations(points, 2) for p in a for q in b):
            continue
        break
    heights = [*(min(r.y1, r.y2) for r in bars), *(y for _, y in places)]
    lower = np.flatnonzero(np.array(heights) > min(heights))  # the highest thing would give itself away
    red = int(rng.choice(lower))
    ball = Ball(str(rng.choice(list(BALL_COLOURS))), rng.uniform(3, 29), 3.0)
    return Scene(
        "pegs",
        seed,
        (ball,),
        tuple(replace(bar, red=i == red) for i, bar in enumerate(bars)),
        _some_bins(rng),
        pegs=tuple(Peg(x, y, red=ramps + i == red) for i, (x, y) in enumerate(places)),
        level=level,
    )


def _free_ramp(rng: np.random.Generator) -> Ramp:
    while True:
        x, y, half = rng.uniform(4, 28), rng.uniform(8, 22), rng.uniform(2.5, 4.5)
        angle = math.radians(rng.uniform(18, 45)) * (1 if rng.random() < 0.5 else -1)
        dx, dy = half * math.cos(angle), half * math.sin(angle)
        if x - dx > 1 and x + dx < SIZE - 1:
            return Ramp(x - dx, y - dy, x + dx, y + dy)


def _draw_bumpers(seed: int, rng: np.random.Generator, level: int) -> Scene:
    last = len(GRID) - 1
    side, lane = int(rng.integers(4)), int(rng.integers(len(GRID)))
    heading = ((1, 0), (-1, 0), (0, 1), (0, -1))[side]
    start = ((0, lane), (last, lane), (lane, 0), (lane, last))[side]
    cells = [(i, j) for i in range(len(GRID)) for j in range(len(GRID)) if (i, j) != start]
    chosen = [cells[i] for i in rng.permutation(len(cells))[: BUMPERS[level]]]
    half, red = 2.5, int(rng.integers(BUMPERS[level]))
    bumpers = []
    for number, (i, j) in enumerate(chosen):
        rise = half if rng.random() < 0.5 else -half
        x, y = GRID[i], GRID[j]
        bumpers.append(Ramp(x - half, y - rise, x + half, y + rise, red=number == red))
    ball = Ball(str(rng.choice(list(BALL_COLOURS))), GRID[start[0]], GRID[start[1]])
    walls = _some_bins(rng)
    return Scene("bumpers", seed, (ball,), tuple(bumpers), walls=walls, heading=heading, level=level)


def _some_bins(rng: np.random.Generator) -> tuple[str, ...]:
    return tuple(str(name) for name in rng.permutation(list(BIN_COLOURS))[:BINS])


def _draw_drop(seed: int, rng: np.random.Generator, _level: int) -> Scene:
    while True:
        colour = str(rng.choice(list(BALL_COLOURS)))
        scene = _drop_layout(seed, rng, colour, _some_bins(rng), int(rng.integers(1, 4)))
        if all(_gap(a, b) >= 2 * RAMP_RADIUS + 1 for a, b in combinations(scene.ramps, 2)):
            break
    if len(scene.ramps) < 2 or rng.random() < 1 / 3:
        return scene
    red = int(rng.integers(1, len(scene.ramps)))
    return replace(scene, ramps=tuple(replace(r, red=i == red) for i, r in enumerate(scene.ramps)))


def _draw_race(seed: int, rng: np.random.Generator, _level: int) -> Scene:
    colours = [str(name) for name in rng.permutation(list(BALL_COLOURS))[:2]]
    return _join(_lane_layout(seed, rng), _lane_layout(seed, rng).mirrored(), colours)


def _draw_stack(seed: int, rng: np.random.Generator, _level: int) -> Scene:
    count = int(rng.integers(2, 5))
    colours = [str(name) for name in rng.permutation(list(BLOCK_COLOURS))[:count]]
    sizes = (values[0].tolist() for values in _stack_layouts(rng, count, batch=1))
    return Scene("stack", seed, blocks=tuple(Block(*block) for block in zip(colours, *sizes, strict=True)))


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
_DRAWN: dict[str, Callable[[int, np.random.Generator, int], Scene]] = {
    "drop": _draw_drop,
    "race": _draw_race,
    "stack": _draw_stack,
    "pegs": _draw_pegs,
    "bumpers": _draw_bumpers,
}
KINDS: tuple[str, ...] = tuple(_DRAWN)
