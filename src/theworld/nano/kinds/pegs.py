"""Pegs: a ball falls through pegs and ramps into a bin. One of them is red and lights up once touched."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from ..families import LIT_THING, Question, describe_ball, predictive, static, whether
from ..physics import SIZE, Ball, Peg, Ramp, Scene
from ..render import BALL_COLOURS
from ..words import NUMBERS
from .base import Kind, four_colours
from .bins import (
    BIN,
    FAMILIES,
    about_ball_and_bins,
    add_bins,
    ends_in_a_bin,
    guess_the_bin,
    outcomes_in_bins,
    paint_bins,
)

if TYPE_CHECKING:
    from ..space import Space
    from .base import Record

PEGS_AND_RAMPS = ((1, 1), (2, 2), (4, 2))
"""Numbers of pegs and of ramps in a scene, by level of difficulty."""

PEG_COUNT = static(
    "peg_count",
    "How many pegs are there?",
    "How many pegs are in this picture?",
    "What is the number of pegs in this picture?",
    "Count the pegs: how many are there?",
    "How many round pegs does this picture show?",
    "In this picture, how many pegs do you see?",
)
PEG_TOUCH = predictive(
    "peg_touch",
    "Will the ball touch the red thing?",
    "Will the {ball} ball hit the red thing on its way down?",
    "Is the ball going to touch what is red?",
    "On its way down, will the ball come into contact with the red thing?",
    "Will the red thing be touched by the {ball} ball?",
    "When the ball falls, will it strike the red thing?",
)
PEG_BIN = replace(BIN, name="peg_bin")


def _draw(seed: int, rng: np.random.Generator, level: int) -> Scene:
    pegs, ramps = PEGS_AND_RAMPS[level]
    # 1. Pegs and ramps far enough from each other for the ball to pass
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
    # 2. One red thing
    heights = [*(min(r.y1, r.y2) for r in bars), *(y for _, y in places)]
    lower = np.flatnonzero(np.array(heights) > min(heights))  # the answer for the highest one would be easy to guess
    red = int(rng.choice(lower))
    ball = Ball(str(rng.choice(list(BALL_COLOURS))), rng.uniform(3, 29), 3.0)
    return Scene(
        "pegs",
        seed,
        (ball,),
        tuple(replace(bar, red=i == red) for i, bar in enumerate(bars)),
        four_colours(rng),
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


def _fill(space: Space, scene: Scene, jitter: tuple[float, float]) -> None:
    add_bins(space)
    space.add_ramps(scene.ramps)
    space.add_pegs(scene.pegs)
    space.add_balls(scene.balls, jitter)


def _static(record: Record, frame: int, rng: np.random.Generator) -> list[Question]:
    scene, lit = record["scene"], record["ramp_lit"][frame]
    pegs = PEG_COUNT.ask(rng, NUMBERS[len(scene["pegs"]) - 1], NUMBERS)
    return [
        *about_ball_and_bins(record, frame, rng),
        pegs,
        LIT_THING.ask_whether(rng, lit, ball=scene["balls"][0]["colour"]),
        describe_ball(record, rng, "pegs, ramps and bins"),
    ]


PEGS = Kind(
    name="pegs",
    description="a ball falls through pegs and ramps into one of four coloured bins; a red one lights up once touched",
    draw=_draw,
    fill=_fill,
    paint_room=paint_bins,
    outcomes=lambda scene, trajectory: outcomes_in_bins(scene, trajectory, "peg_bin", "peg_touch"),
    endings=(ends_in_a_bin(PEG_BIN), whether(PEG_TOUCH)),
    static=_static,
    conversational=lambda record, words, rng: guess_the_bin(record, "peg_bin", words, rng),
    families=(*FAMILIES, PEG_COUNT, LIT_THING),
    sentences=("The ball lands in the bin.", "A ball with pegs, ramps and bins."),
    levels=len(PEGS_AND_RAMPS),
)
