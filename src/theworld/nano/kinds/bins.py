"""A room with four bins on its floor, shared by the kinds `drop` and `pegs`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..families import (
    BALL_COLOUR,
    DESCRIBE,
    MARGIN,
    WHAT_NEXT,
    Ending,
    Family,
    Question,
    conversational,
    guess_the_end,
    predictive,
    static,
)
from ..physics import BALL_RADIUS, FLOOR_Y, SIZE
from ..render import bar, box
from ..words import BALLS, NUMBERS, ORDINALS
from .base import COLOURED_PLACES, touches_red

if TYPE_CHECKING:
    from ..physics import Scene, Trajectory
    from ..render import Canvas
    from ..space import Space
    from .base import Record

DIVIDER_XS = (8.0, 16.0, 24.0)
_DIVIDER_TOP = 25.5
_DIVIDER_RADIUS = 0.4
_BIN_WIDTH = SIZE / COLOURED_PLACES
_AT_REST = 14  # units a second; a slower ball does not leave its bin

BIN_COLOUR = static(
    "bin_colour",
    "What colour is the {ordinal} bin from the {side}?",
    "Which colour does the {ordinal} bin from the {side} have?",
    "Counting from the {side}, what colour is the {ordinal} bin?",
    "In this picture, what is the colour of the {ordinal} bin from the {side}?",
    "The {ordinal} bin, counted from the {side}, is which colour?",
    "What is the colour of bin number {ordinal} from the {side}?",
)
BIN_BELOW = static(
    "bin_below",
    "Which bin is straight below the {ball} ball right now?",
    "Right now, what colour is the bin under the {ball} ball?",
    "What colour is the bin directly beneath the ball in this picture?",
    "Above which bin is the {ball} ball right now?",
    "In this picture, which bin lies vertically below the ball?",
    "Which colour is the bin that lies under the ball at this moment?",
)
COLUMN = static(
    "column",
    "In which column is the {ball} ball right now, counting from the left?",
    "Which column is the ball in, counted from the left?",
    "Counting columns from the left, where is the {ball} ball at this moment?",
    "What is the number of the column that holds the ball right now, from the left?",
    "In this picture, which of the four columns is the {ball} ball in, from the left?",
    "From the left, what is the number of the column that the ball is in?",
)
BIN = predictive(
    "bin",
    "Which bin will the ball land in?",
    "In which bin will the {ball} ball end up?",
    "What colour is the bin that the ball will fall into?",
    "Where will the {ball} ball come to rest, in which bin?",
    "Once it is let go, which bin will the ball reach?",
    "When everything has settled, which bin will hold the {ball} ball?",
    "Into which bin is the ball going to drop?",
)
BIN_CHECK = conversational(
    "bin_check",
    "Will the ball land in the {bin} bin?",
    "Does the {ball} ball end up in the {bin} bin?",
    "Is the ball going to drop into the {bin} bin?",
    "Is the {bin} bin the one that the ball will reach?",
    "Will it land in {bin}?",
    "Does it fall into the {bin} bin?",
)
FAMILIES = (BALL_COLOUR, BIN_COLOUR, BIN_BELOW, COLUMN, WHAT_NEXT, BIN_CHECK, DESCRIBE)
"""Questions about a ball above bins, without the predictive ones."""


def ends_in_a_bin(family: Family) -> Ending:
    """Return an ending whose places are the bins from left to right."""
    return Ending(family, lambda scene: tuple(scene["bins"]), (3, 2, 1, 0))


def column_of(x: float) -> int:
    """Return the column that contains x, 0 to 3 from the left."""
    return int(np.clip(x // _BIN_WIDTH, 0, COLOURED_PLACES - 1))


def add_bins(space: Space) -> None:
    """Add the sides of the world, its floor and the dividers."""
    space.add_sides()
    space.add_floor(elasticity=0.1, friction=0.8)
    for x in DIVIDER_XS:
        space.add_bar((x, _DIVIDER_TOP), (x, FLOOR_Y), _DIVIDER_RADIUS, elasticity=0.1, friction=0.2)


def paint_bins(canvas: Canvas, scene: Scene, _trajectory: Trajectory) -> None:
    """Paint the coloured floor of every bin, and the dividers."""
    for column, colour in enumerate(scene.bins):
        left = column * _BIN_WIDTH
        canvas.paint(f"bin {colour}", box(left, FLOOR_Y, left + _BIN_WIDTH, SIZE))
    for x in DIVIDER_XS:
        canvas.paint("wall", bar(x, _DIVIDER_TOP, x, SIZE + 1, _DIVIDER_RADIUS))


def outcomes_in_bins(scene: Scene, trajectory: Trajectory, where: str, touch: str) -> dict[str, str] | None:
    """Return the bin that holds the ball and, if something is red, whether the ball touched it.

    `where` and `touch` are the names of the two families. Returns None if the ball still moves at the end of the clip.
    """
    x, y = trajectory.ball_xy[-1, 0]
    if y < FLOOR_Y - BALL_RADIUS - 0.8 or trajectory.ball_speed[0] > _AT_REST:
        return None
    found = {where: scene.bins[column_of(x)]}
    if any(thing.red for thing in (*scene.ramps, *scene.pegs)):
        found[touch] = touches_red(trajectory)
    return found


def about_ball_and_bins(record: Record, frame: int, rng: np.random.Generator) -> list[Question]:
    """Ask for the colour of the ball and of one bin. If the ball is well inside a column, also ask where it is."""
    scene = record["scene"]
    ball, bins = scene["balls"][0]["colour"], scene["bins"]
    x = record["ball_xy"][frame][0][0]
    # 1. A bin, counted from either side; in half of the cases the fourth bin is called "last"
    place = int(rng.integers(len(bins)))
    from_left, any_bin = rng.random() < 0.5, tuple(sorted(bins))
    number = place if from_left else len(bins) - 1 - place
    last = number == len(bins) - 1 and rng.random() < 0.5
    ordinal, side = "last" if last else ORDINALS[number], "left" if from_left else "right"
    questions = [
        BALL_COLOUR.ask(rng, ball, BALLS),
        BIN_COLOUR.ask(rng, bins[place], any_bin, ordinal=ordinal, side=side),
    ]
    # 2. Where the ball is
    if min(abs(x - edge) for edge in DIVIDER_XS) >= MARGIN:
        column = int(x // _BIN_WIDTH)
        questions.append(BIN_BELOW.ask(rng, bins[column], any_bin, ball=ball))
        questions.append(COLUMN.ask(rng, NUMBERS[column], NUMBERS, ball=ball))
    return questions


def guess_the_bin(record: Record, family: str, words: dict[str, str], rng: np.random.Generator) -> list[Question]:
    """Ask where the ball lands, and whether it lands in a given bin; `family` names the outcome with the answer."""
    truth, bins = record["outcomes"][family], tuple(record["scene"]["bins"])
    return guess_the_end(rng, BIN_CHECK, truth, bins, "The {ball} ball lands in the {end} bin.", words["ball"])
