"""Race: two balls fall in two lanes; the pad under the first one to land lights up."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import permutations
from typing import TYPE_CHECKING

import numpy as np

from ..families import DESCRIBE, MARGIN, WHAT_NEXT, Ending, Question, conversational, predictive, static
from ..physics import FLOOR_Y, FRAME_SECONDS, SIZE, Ball, Ramp, Scene
from ..render import BALL_COLOURS, bar, box
from ..words import BALLS
from .base import PASSAGE, SIDEWAYS, UP_AND_DOWN, Kind

if TYPE_CHECKING:
    from ..physics import Trajectory
    from ..render import Canvas
    from ..space import Space
    from .base import Record

LANE_WALL_X = 16.0
_LANE_WALL_RADIUS = 0.6
_LATEST_FIRST_LANDING = 0.86  # seconds; the lit pad must be visible in the last frame
_LOWER_FIRST = 0.54  # share of races that the lower ball wins
_UNEVEN = 0.3  # share of races with more ramps in one lane
_SECOND_RAMP = 0.3
_FEWER_FIRST = 0.6  # share of races with unequal ramps that the lane with fewer of them wins

LEFT_RIGHT = static(
    "left_right",
    "Is the {a} ball to the left or to the right of the {b} ball?",
    "On which side of the {b} ball is the {a} ball, left or right?",
    "Seen from the {b} ball, is the {a} ball left or right?",
    "In this picture, is the {a} ball left or right of the {b} ball?",
    "Is the {a} ball in the left lane or in the right lane?",
    "Which lane holds the {a} ball right now, left or right?",
)
LANE_COLOUR = static(
    "lane_colour",
    "What colour is the ball in the {side} lane?",
    "Which ball is in the {side} lane?",
    "What is the colour of the ball on the {side}?",
    "In this picture, which colour is the {side} ball?",
    "The {side} lane holds a ball of which colour?",
    "What colour does the ball on the {side} side have?",
)
LIT_PAD = static(
    "lit_pad",
    "Which pad is lit right now, left, right or no pad?",
    "Is a pad lit in this picture, and if so on which side?",
    "Right now, is the left pad lit, the right pad, or no pad?",
    "On which side is the floor pad glowing at this moment, if any?",
    "Which of the two pads is glowing in this picture, if any?",
    "Is the left pad, the right pad or no pad lit at this moment?",
)
ABOVE_BELOW = static(
    "above_below",
    "Is the {a} ball above or below the {b} ball?",
    "Right now, is the {a} ball above or below the {b} one?",
    "In this picture, is the {a} ball above the {b} ball or below it?",
    "Compared with the {b} ball, is the {a} ball above or below?",
    "Seen from the {b} ball, is the {a} ball above or below?",
    "At this moment, does the {a} ball sit above or below the {b} ball?",
)
HIGHER = static(
    "higher",
    "Which ball is higher right now?",
    "In this picture, which ball is higher up?",
    "What colour is the higher ball?",
    "Is the {a} ball or the {b} ball higher?",
    "Of the two balls, which one is higher at this moment?",
    "Which of the {a} and {b} balls is higher in this picture?",
)
NEARER_WALL = static(
    "nearer_wall",
    "Is the {a} ball nearer to or farther from the middle wall than the {b} ball?",
    "Compared with the {b} ball, is the {a} ball nearer to the middle wall or farther from it?",
    "Right now, is the {a} ball nearer to the wall in the middle or farther from it than the {b} ball?",
    "Measured from the middle wall, is the {a} ball nearer or farther than the {b} ball?",
    "In this picture, is the {a} ball nearer to the middle wall or farther than the {b} one?",
    "Does the {a} ball sit nearer to the middle wall than the {b} ball, or farther from it?",
)
RACE_FIRST = predictive(
    "race",
    "Which ball will land first?",
    "Which ball will reach the floor first, the {a} one or the {b} one?",
    "Will the {a} ball or the {b} ball land first?",
    "Once both are let go, which ball will be first on the floor?",
    "Which of the two balls is going to win the race to the floor?",
    "What colour is the ball that will land first?",
)
RACE_CHECK = conversational(
    "race_check",
    "Will the {a} ball land first?",
    "Is the {a} ball going to be first on the floor?",
    "Does the {a} ball win the race?",
    "Will the {a} ball reach the floor before the {b} ball?",
    "Is the {a} ball the winner?",
    "Does the {a} one land first?",
)
RACE_LAST = conversational(
    "race_last",
    "Which ball will land last?",
    "Which ball will reach the floor last?",
    "Which of the two balls is going to lose the race to the floor?",
    "What colour is the ball that will land last?",
    "Will the {a} ball or the {b} ball land last?",
    "Which ball is last?",
)
_STATIC = (LEFT_RIGHT, LANE_COLOUR, LIT_PAD, ABOVE_BELOW, HIGHER, NEARER_WALL)


def _draw(seed: int, rng: np.random.Generator, _level: int) -> Scene:
    colours = [str(name) for name in rng.permutation(list(BALL_COLOURS))[:2]]
    return _join(_lane_layout(seed, rng), _lane_layout(seed, rng).mirrored(), colours)


def _sample(kind: Kind, seed: int, rng: np.random.Generator, _level: int) -> tuple[Scene, Trajectory]:
    # 1. Draw the properties of the race
    first, lower_first = int(rng.integers(2)), rng.random() < _LOWER_FIRST
    uneven, fewer_first = rng.random() < _UNEVEN, rng.random() < _FEWER_FIRST
    colours = [str(name) for name in rng.permutation(list(BALL_COLOURS))[:2]]
    while True:
        # 2. Lanes do not interact, so lanes that were simulated alone can be combined into many races
        lanes = [_lane_layout(seed, rng) for _ in range(8)]
        landings = [kind.simulate(lane).pad_contact[0] for lane in lanes]
        for winner, loser in permutations(range(len(lanes)), 2):
            if not landings[winner] < landings[loser] < math.inf:
                continue
            # 3. Keep a race with these properties, if its outcome is robust when both lanes are simulated together
            gap, drop = landings[loser] - landings[winner], lanes[winner].balls[0].y - lanes[loser].balls[0].y
            more = len(lanes[loser].ramps) - len(lanes[winner].ramps)
            if gap < 1.15 * FRAME_SECONDS or abs(drop) < 2 or (drop > 0) != lower_first:
                continue
            if (more != 0) != uneven or (uneven and (more > 0) != fewer_first):
                continue
            pair = (lanes[winner], lanes[loser]) if first == 0 else (lanes[loser], lanes[winner])
            scene = _join(pair[0], pair[1].mirrored(), colours)
            trajectory = kind.simulate(scene)
            found = {"race": colours[first]}
            if kind.outcomes(scene, trajectory) == found and kind.is_robust(scene, found, (*SIDEWAYS, *UP_AND_DOWN)):
                return scene, trajectory


def _lane_layout(seed: int, rng: np.random.Generator) -> Scene:
    """Draw a ball in the left lane above one or two ramps."""
    ball = Ball("white", rng.uniform(3, 13), rng.uniform(2.5, 11))
    ramps = [_lane_ramp(rng, ball.x + rng.uniform(-4, 4), rng.uniform(ball.y + 5, 20))]
    if rng.random() < _SECOND_RAMP and max(ramps[0].y1, ramps[0].y2) < 17:
        ramps.append(_lane_ramp(rng, rng.uniform(3, 13), rng.uniform(21, 22.5)))
    return Scene("race", seed, (ball,), tuple(ramps))


def _lane_ramp(rng: np.random.Generator, x: float, y: float) -> Ramp:
    half, angle = rng.uniform(4.5, 8.5) / 2, math.radians(rng.uniform(12, 45))
    falls_right = rng.random() < 0.5
    dx, dy = half * math.cos(angle), half * math.sin(angle) * (1 if falls_right else -1)
    low, high = (1 + dx, LANE_WALL_X - PASSAGE - dx) if falls_right else (PASSAGE + dx, LANE_WALL_X - 1 - dx)
    x = min(max(x, low), high)
    return Ramp(x - dx, y - dy, x + dx, y + dy)


def _join(left: Scene, right: Scene, colours: list[str]) -> Scene:
    balls = (replace(left.balls[0], colour=colours[0]), replace(right.balls[0], colour=colours[1]))
    return replace(left, balls=balls, ramps=left.ramps + right.ramps)


def _fill(space: Space, scene: Scene, jitter: tuple[float, float]) -> None:
    space.add_sides()
    space.add_bar((LANE_WALL_X, -40), (LANE_WALL_X, FLOOR_Y), _LANE_WALL_RADIUS, elasticity=0.3, friction=0.3)
    space.add_ramps(scene.ramps)
    space.add_pad(0.0, LANE_WALL_X)
    space.add_pad(LANE_WALL_X, SIZE)
    space.add_balls(scene.balls, jitter)


def _paint_lanes(canvas: Canvas, _scene: Scene, trajectory: Trajectory) -> None:
    for lane, left in enumerate((0.0, LANE_WALL_X)):
        lit, pad = trajectory.pad_lit[:, lane], box(left, FLOOR_Y, left + LANE_WALL_X, SIZE)
        canvas.paint_switching("pad", "lit pad", lit, pad)
    canvas.paint("wall", bar(LANE_WALL_X, -1, LANE_WALL_X, SIZE + 1, _LANE_WALL_RADIUS))


def _outcomes(scene: Scene, trajectory: Trajectory) -> dict[str, str] | None:
    left, right = trajectory.pad_contact
    if max(left, right) == math.inf or abs(left - right) < FRAME_SECONDS or min(left, right) > _LATEST_FIRST_LANDING:
        return None
    return {"race": scene.balls[0 if left < right else 1].colour}


def _static(record: Record, frame: int, rng: np.random.Generator) -> list[Question]:
    colours = [ball["colour"] for ball in record["scene"]["balls"]]
    both = tuple(sorted(colours))
    # 1. The two balls in random order, and a lane
    first, side = int(rng.integers(2)), int(rng.integers(2))
    (xa, ya), (xb, yb) = record["ball_xy"][frame][first], record["ball_xy"][frame][1 - first]
    pair = {"a": colours[first], "b": colours[1 - first]}
    left_lit, right_lit = record["pad_lit"][frame]
    lit = "left" if left_lit else "right" if right_lit else "no"
    # 2. Questions that can always be asked, then comparisons by at least MARGIN
    questions = [
        LEFT_RIGHT.ask(rng, ("left", "right")[first], ("left", "right"), **pair),
        LANE_COLOUR.ask(rng, colours[side], both, side=("left", "right")[side]),
        LIT_PAD.ask(rng, lit, ("left", "no", "right")),
        _describe(record, rng),
    ]
    if abs(ya - yb) >= MARGIN:
        questions.append(ABOVE_BELOW.ask(rng, "above" if ya < yb else "below", ("above", "below"), **pair))
        questions.append(HIGHER.ask(rng, pair["a" if ya < yb else "b"], both, **pair))
    nearer = abs(xb - LANE_WALL_X) - abs(xa - LANE_WALL_X)  # by how much the first ball is nearer
    if abs(nearer) >= MARGIN:
        questions.append(NEARER_WALL.ask(rng, "nearer" if nearer > 0 else "farther", ("farther", "nearer"), **pair))
    return questions


def _describe(record: Record, rng: np.random.Generator) -> Question:
    one, other = sorted(ball["colour"] for ball in record["scene"]["balls"])
    said = {(a, b): f"A {a} ball and a {b} ball in two lanes." for a in sorted(BALLS) for b in sorted(BALLS) if a < b}
    return DESCRIBE.ask(rng, said[one, other], tuple(said.values()))


def _conversational(record: Record, words: dict[str, str], rng: np.random.Generator) -> list[Question]:
    first = record["outcomes"]["race"]
    told = {ball: f"The {ball} ball lands first." for ball in sorted(words.values())}
    last = words["b"] if words["a"] == first else words["a"]
    return [
        WHAT_NEXT.ask(rng, told[first], tuple(told.values()), **words),
        RACE_CHECK.ask_whether(rng, words["a"] == first, **words),
        RACE_LAST.ask(rng, last, tuple(told), **words),
    ]


RACE = Kind(
    name="race",
    description="two balls fall in two lanes; the pad under the first to land lights up",
    draw=_draw,
    sample=_sample,
    fill=_fill,
    paint_room=_paint_lanes,
    outcomes=_outcomes,
    endings=(Ending(RACE_FIRST, lambda scene: tuple(ball["colour"] for ball in scene["balls"]), (1, 0)),),
    static=_static,
    conversational=_conversational,
    families=(*_STATIC, WHAT_NEXT, RACE_CHECK, RACE_LAST, DESCRIBE),
    sentences=("The ball lands first.", "A ball and a ball in two lanes."),
)
