"""Bumpers: a ball flies without gravity along a grid of slanted bars until it reaches one of four coloured walls."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..families import (
    BALL_COLOUR,
    DESCRIBE,
    LIT_THING,
    WHAT_NEXT,
    Ending,
    Question,
    conversational,
    describe_ball,
    guess_the_end,
    predictive,
    static,
    whether,
)
from ..physics import SIZE, WALL_WIDTH, Ball, Ramp, Scene
from ..render import BALL_COLOURS, box
from ..words import BALLS, EIGHTHS, WALLS
from .base import Kind, four_colours, touches_red

if TYPE_CHECKING:
    from ..physics import Trajectory
    from ..render import Canvas
    from ..space import Space
    from .base import Record

BUMPERS_OF = (3, 5, 8)
"""Number of bumpers in a scene, by level of difficulty."""
GRID = (5.5, 12.5, 19.5, 26.5)
"""Coordinates of the grid lines, in x and in y. Balls move along these lines."""
_SPEED = 40.0  # units a second

WALL_COLOUR = static(
    "wall_colour",
    "What colour is the {wall} wall?",
    "Which colour does the {wall} wall have?",
    "What is the colour of the {wall} wall in this picture?",
    "In this picture, what colour is the {wall} wall?",
    "The {wall} wall is of which colour?",
    "Look at the {wall} wall: what colour is it?",
)
BUMPER_COUNT = static(
    "bumper_count",
    "How many bumpers are there?",
    "How many bumpers are in this picture?",
    "What is the number of bumpers in this picture?",
    "Count the bumpers: how many are there?",
    "How many slanted bumpers does this picture show?",
    "In this picture, how many bumpers do you see?",
)
AT_WALL = static(
    "at_wall",
    "Is the ball at a coloured wall right now?",
    "Right now, does the ball touch a wall?",
    "Has the ball reached a wall in this picture?",
    "Is the {ball} ball touching one of the walls at this moment?",
    "Does the {ball} ball lie at a wall in this picture?",
    "At this moment, has the ball arrived at a wall?",
)
WALL = predictive(
    "wall",
    "Which wall will the ball hit?",
    "Which wall will the {ball} ball reach first?",
    "What colour is the wall that the ball will run into?",
    "At which wall will the {ball} ball end up?",
    "Once it is launched, which wall will the ball reach?",
    "When everything has settled, at which wall will the {ball} ball be?",
)
BUMPER_TOUCH = predictive(
    "bumper_touch",
    "Will the ball touch the red bumper?",
    "Will the {ball} ball hit the red bumper on its way?",
    "Is the ball going to touch the red bumper?",
    "On its way, will the ball come into contact with the red bumper?",
    "Will the red bumper be touched by the {ball} ball?",
    "Once it is launched, will the ball strike the red bumper?",
)
WALL_CHECK = conversational(
    "wall_check",
    "Will the ball hit the {bin} wall?",
    "Does the {ball} ball end up at the {bin} wall?",
    "Is the ball going to reach the {bin} wall first?",
    "Is the {bin} wall the one that the ball will run into?",
    "Will it hit {bin}?",
    "Does it reach the {bin} wall?",
)


def _draw(seed: int, rng: np.random.Generator, level: int) -> Scene:
    last = len(GRID) - 1
    side, lane = int(rng.integers(4)), int(rng.integers(len(GRID)))
    heading = ((1, 0), (-1, 0), (0, 1), (0, -1))[side]
    start = ((0, lane), (last, lane), (lane, 0), (lane, last))[side]
    cells = [(i, j) for i in range(len(GRID)) for j in range(len(GRID)) if (i, j) != start]
    chosen = [cells[i] for i in rng.permutation(len(cells))[: BUMPERS_OF[level]]]
    half, red = 2.5, int(rng.integers(BUMPERS_OF[level]))
    bumpers = []
    for number, (i, j) in enumerate(chosen):
        rise = half if rng.random() < 0.5 else -half
        x, y = GRID[i], GRID[j]
        bumpers.append(Ramp(x - half, y - rise, x + half, y + rise, red=number == red))
    ball = Ball(str(rng.choice(list(BALL_COLOURS))), GRID[start[0]], GRID[start[1]])
    walls = four_colours(rng)
    return Scene("bumpers", seed, (ball,), tuple(bumpers), walls=walls, heading=heading, level=level)


def _fill(space: Space, scene: Scene, jitter: tuple[float, float]) -> None:
    space.float_between_walls()
    space.add_ramps(scene.ramps, radius=0.1, elasticity=1.0, friction=0.0)
    (ball,), (across, along) = scene.balls, scene.heading
    x, y = ball.x + abs(along) * jitter[0], ball.y + abs(across) * jitter[0]
    space.add_point(x, y, (_SPEED * across, _SPEED * along))


def _paint_walls(canvas: Canvas, scene: Scene, _trajectory: Trajectory) -> None:
    """Paint four coloured walls, and the grey launcher behind the ball, which shows its heading."""
    sides = (
        box(-1, -1, WALL_WIDTH, SIZE + 1),
        box(SIZE - WALL_WIDTH, -1, SIZE + 1, SIZE + 1),
        box(WALL_WIDTH, -1, SIZE - WALL_WIDTH, WALL_WIDTH),
        box(WALL_WIDTH, SIZE - WALL_WIDTH, SIZE - WALL_WIDTH, SIZE + 1),
    )
    for colour, side in zip(scene.walls, sides, strict=True):
        canvas.paint(f"wall {colour}", side)
    (ball,), (dx, dy) = scene.balls, scene.heading
    x, y = (SIZE / 2 - d * (SIZE / 2 - 1) if d else place for d, place in ((dx, ball.x), (dy, ball.y)))
    canvas.paint("wall", box(x - 2, y - 2, x + 2, y + 2))


def _outcomes(scene: Scene, trajectory: Trajectory) -> dict[str, str] | None:
    if trajectory.wall < 0:
        return None
    return {"wall": scene.walls[trajectory.wall], "bumper_touch": touches_red(trajectory)}


def _static(record: Record, frame: int, rng: np.random.Generator) -> list[Question]:
    scene, lit = record["scene"], record["ramp_lit"][frame]
    ball, walls = scene["balls"][0]["colour"], scene["walls"]
    place = int(rng.integers(len(walls)))
    questions = [
        BALL_COLOUR.ask(rng, ball, BALLS),
        WALL_COLOUR.ask(rng, walls[place], tuple(sorted(walls)), wall=WALLS[place]),
        BUMPER_COUNT.ask(rng, EIGHTHS[len(scene["ramps"]) - 1], EIGHTHS[2:]),
        LIT_THING.ask_whether(rng, lit, ball=ball),
        describe_ball(record, rng, "bumpers and walls"),
    ]
    if frame == 0 or (
        frame == len(record["ramp_lit"]) - 1 and record["outcomes"]
    ):  # in between, the ball may be close to a wall
        questions.append(AT_WALL.ask_whether(rng, frame > 0, ball=ball))
    return questions


def _conversational(record: Record, words: dict[str, str], rng: np.random.Generator) -> list[Question]:
    truth, walls = record["outcomes"]["wall"], tuple(record["scene"]["walls"])
    return guess_the_end(rng, WALL_CHECK, truth, walls, "The {ball} ball reaches the {end} wall.", words["ball"])


BUMPERS = Kind(
    name="bumpers",
    description="a ball flies between bumpers to one of four coloured walls; a red bumper lights up once touched",
    draw=_draw,
    fill=_fill,
    paint_room=_paint_walls,
    outcomes=_outcomes,
    endings=(Ending(WALL, lambda scene: tuple(scene["walls"]), (1, 0, 2, 3)), whether(BUMPER_TOUCH)),
    static=_static,
    conversational=_conversational,
    families=(BALL_COLOUR, LIT_THING, WALL_COLOUR, BUMPER_COUNT, AT_WALL, WHAT_NEXT, WALL_CHECK, DESCRIBE),
    sentences=("The ball reaches the wall.", "A ball with bumpers and walls."),
    levels=len(BUMPERS_OF),
)
