"""Drop: a ball falls over ramps into one of four bins; a red ramp lights up once touched."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from ..families import Question, describe_ball, predictive, static, whether
from ..physics import RAMP_RADIUS, SIZE, Ball, Ramp, Scene
from ..render import BALL_COLOURS
from ..words import NUMBERS
from .base import COLOURED_PLACES, PASSAGE, SIDEWAYS, Kind, four_colours
from .bins import (
    BIN,
    FAMILIES,
    about_ball_and_bins,
    add_bins,
    column_of,
    ends_in_a_bin,
    guess_the_bin,
    outcomes_in_bins,
    paint_bins,
)

if TYPE_CHECKING:
    from ..physics import Trajectory
    from ..space import Space
    from .base import Record

_BELOW_RIGHT = 0.27  # share of drops that end in the bin straight below the start

RAMP_COUNT = static(
    "ramp_count",
    "How many ramps are there?",
    "How many ramps are in this picture?",
    "What is the number of ramps in this picture?",
    "Count the ramps: how many are there?",
    "How many slanted ramps does this picture show?",
    "In this picture, how many ramps do you see?",
)
RED_RAMP = static(
    "red_ramp",
    "Is there a red ramp?",
    "Is one of the ramps red?",
    "Does this picture show a red ramp?",
    "Is any ramp in this picture red?",
    "Do you see a red ramp right now?",
    "Right now, is there a ramp that is red?",
)
LIT_RAMP = static(
    "lit_ramp",
    "Is a ramp lit up right now?",
    "Is any ramp glowing in this picture?",
    "Right now, is there a ramp that is lit?",
    "Does this picture show a ramp that is lit up?",
    "Is there a glowing ramp at this moment?",
    "Do you see a lit ramp in this picture?",
)
TOUCH = predictive(
    "touch",
    "Will the ball touch the red ramp?",
    "Will the {ball} ball hit the red ramp on its way down?",
    "Is the ball going to touch the red ramp?",
    "On its way down, will the ball come into contact with the red ramp?",
    "Will the red ramp be touched by the {ball} ball?",
    "When the ball falls, will it strike the red ramp?",
)


def _draw(seed: int, rng: np.random.Generator, _level: int) -> Scene:
    while True:
        colour = str(rng.choice(list(BALL_COLOURS)))
        scene = _layout(seed, rng, colour, four_colours(rng), int(rng.integers(1, 4)))
        if all(_gap(a, b) >= 2 * RAMP_RADIUS + 1 for a, b in combinations(scene.ramps, 2)):
            break
    if len(scene.ramps) < 2 or rng.random() < 1 / 3:
        return scene
    red = int(rng.integers(1, len(scene.ramps)))
    return replace(scene, ramps=tuple(replace(r, red=i == red) for i, r in enumerate(scene.ramps)))


def _sample(kind: Kind, seed: int, rng: np.random.Generator, _level: int) -> tuple[Scene, Trajectory]:
    # 1. Draw the properties of the scene
    has_red = rng.random() < 2 / 3
    count = int(rng.choice([2, 3], p=[0.65, 0.35]) if has_red else rng.choice([1, 2, 3], p=[0.35, 0.4, 0.25]))
    touches, lies_below = rng.random(2) < 0.5
    column, straight = int(rng.integers(COLOURED_PLACES)), rng.random() < _BELOW_RIGHT
    ball_colour = str(rng.choice(list(BALL_COLOURS)))
    bins = four_colours(rng)
    # 2. Draw layouts until one has these properties
    while True:
        scene = _layout(seed, rng, ball_colour, bins, count)
        if any(_gap(a, b) < 2 * RAMP_RADIUS + 1 for a, b in combinations(scene.ramps, 2)):
            continue
        trajectory = kind.simulate(scene)
        if kind.outcomes(scene, trajectory) is None:
            continue
        reached = column_of(trajectory.ball_xy[-1, 0, 0])
        below = column_of(scene.balls[0].x)
        if reached not in (column, COLOURED_PLACES - 1 - column) or (reached == below) != straight:
            continue
        if has_red:
            painted = _paint_one_ramp(rng, scene, trajectory, touches, lies_below)
            if painted is None:
                continue
            scene = painted
        # 3. Mirror the scene if the ball ends on the other side. Painting and mirroring change it: simulate again
        scene = scene if reached == column else replace(scene.mirrored(), bins=bins)
        trajectory = kind.simulate(scene)
        found = kind.outcomes(scene, trajectory)
        if found and found["bin"] == bins[column] and kind.is_robust(scene, found, SIDEWAYS):
            return scene, trajectory


def _layout(seed: int, rng: np.random.Generator, ball_colour: str, bins: tuple[str, ...], count: int) -> Scene:
    ball = Ball(ball_colour, rng.uniform(4, 28), rng.uniform(2.5, 4.5))
    bands = [((9.0, 12.0), (14.0, 16.5), (18.0, 20.5))[i] for i in sorted(rng.choice(3, count, replace=False))]
    ramps = [_slanted(rng, ball.x + rng.uniform(-5.5, 5.5), rng.uniform(*bands[0]), (6, 11))]
    for band in bands[1:]:
        last = ramps[-1]
        end, side = (last.x2, 1) if last.y2 > last.y1 else (last.x1, -1)
        # The next ramp lies where the ball may leave the ramp above, below its start, or anywhere
        centre = rng.choice(
            [end + side * rng.uniform(0, 7), ball.x + rng.uniform(-5, 5), rng.uniform(4, 28)], p=[0.6, 0.25, 0.15]
        )
        ramps.append(_slanted(rng, centre, rng.uniform(*band), (6, 11)))
    return Scene("drop", seed, (ball,), tuple(ramps), bins)


def _gap(a: Ramp, b: Ramp) -> float:
    """Return the distance between the axes of two ramps, to about half a unit."""
    steps = np.linspace(0, 1, 13)[:, None]
    points = [np.array([r.x1, r.y1]) + steps * np.array([r.x2 - r.x1, r.y2 - r.y1]) for r in (a, b)]
    return float(np.linalg.norm(points[0][:, None] - points[1][None], axis=-1).min())


def _slanted(rng: np.random.Generator, x: float, y: float, lengths: tuple[float, float]) -> Ramp:
    """Draw a ramp around (x, y), moved so that a ball cannot get stuck between its lower end and a wall."""
    half, angle = rng.uniform(*lengths) / 2, math.radians(rng.uniform(22, 45))
    falls_right = rng.random() < 0.5
    dx, dy = half * math.cos(angle), half * math.sin(angle) * (1 if falls_right else -1)
    x = min(max(x, 2), SIZE - PASSAGE - dx) if falls_right else max(min(x, SIZE - 2), PASSAGE + dx)
    return Ramp(x - dx, y - dy, x + dx, y + dy)


def _paint_one_ramp(
    rng: np.random.Generator, scene: Scene, trajectory: Trajectory, touches: bool, lies_below: bool
) -> Scene | None:
    """Make one ramp red that is touched or not (`touches`), and straight below the ball or not (`lies_below`).

    The highest ramp is never red, because its answer would be easy to guess. Returns None if no ramp qualifies.
    """
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


def _fill(space: Space, scene: Scene, jitter: tuple[float, float]) -> None:
    add_bins(space)
    space.add_ramps(scene.ramps)
    space.add_balls(scene.balls, jitter)


def _static(record: Record, frame: int, rng: np.random.Generator) -> list[Question]:
    ramps = record["scene"]["ramps"]
    questions = about_ball_and_bins(record, frame, rng)
    questions.append(RAMP_COUNT.ask(rng, NUMBERS[len(ramps) - 1], NUMBERS[:3]))
    questions.append(describe_ball(record, rng, "ramps and bins"))
    has_red, lit = any(ramp["red"] for ramp in ramps), record["ramp_lit"][frame]
    if not lit:  # a lit ramp does not look red
        questions.append(RED_RAMP.ask_whether(rng, has_red))
    if has_red:
        questions.append(LIT_RAMP.ask_whether(rng, lit))
    return questions


DROP = Kind(
    name="drop",
    description="a ball falls over ramps into one of four coloured bins; a red ramp lights up once touched",
    draw=_draw,
    sample=_sample,
    fill=_fill,
    paint_room=paint_bins,
    outcomes=lambda scene, trajectory: outcomes_in_bins(scene, trajectory, "bin", "touch"),
    endings=(ends_in_a_bin(BIN), whether(TOUCH)),
    static=_static,
    conversational=lambda record, words, rng: guess_the_bin(record, "bin", words, rng),
    families=(*FAMILIES, RAMP_COUNT, RED_RAMP, LIT_RAMP),
    sentences=("The ball lands in the bin.", "A ball with ramps and bins."),
)
