"""Stack: blocks on top of each other, which may topple to either side."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from ..families import DESCRIBE, MARGIN, WHAT_NEXT, Ending, Question, conversational, predictive, static
from ..physics import FLOOR_Y, SIZE, Block, Scene
from ..render import BLOCK_COLOURS, box
from ..words import NUMBERS
from .base import SIDEWAYS, Kind

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from ..physics import Trajectory
    from ..render import Canvas
    from ..space import Space
    from .base import Record

_TOP_OFFSET_TELLS = 0.55  # share of collapses to the side of the top block
_SIDES = ("left", "no", "right")

BLOCK_COUNT = static(
    "block_count",
    "How many blocks are there?",
    "How many blocks are in this picture?",
    "What is the number of blocks in this picture?",
    "Count the blocks: how many are there?",
    "How many coloured blocks does this picture show?",
    "In this picture, how many blocks do you see?",
)
TOP_BLOCK = static(
    "top_block",
    "What colour is the top block?",
    "Which block is on top right now?",
    "What is the colour of the highest block in this picture?",
    "In this picture, which block is the highest?",
    "Which colour does the topmost block have?",
    "The block at the very top is of which colour?",
)
BOTTOM_BLOCK = static(
    "bottom_block",
    "What colour is the bottom block?",
    "Which block is at the bottom right now?",
    "What is the colour of the lowest block in this picture?",
    "In this picture, which block is the lowest?",
    "Which colour does the block at the bottom have?",
    "The block at the very bottom is of which colour?",
)
FALLEN = static(
    "fallen",
    "To which side have blocks fallen, left, right or no side?",
    "Have blocks fallen in this picture, and if so to which side?",
    "On which side do fallen blocks lie right now, if any?",
    "Right now, do fallen blocks lie to the left, to the right, or on no side?",
    "In this picture, is there a fallen block on the left, on the right, or on no side?",
    "Has the stack already fallen, and to which side?",
)
TOPPLE = predictive(
    "topple",
    "Will the stack topple, and to which side?",
    "Will the stack fall to the left, to the right, or will it not fall?",
    "To which side will the stack topple, if it will at all?",
    "Is the stack going to topple left, right, or not at all?",
    "When let go, will the blocks fall left, right, or not?",
    "Which way will the stack collapse, if it will collapse?",
)
TOPPLE_CHECK = conversational(
    "topple_check",
    "Will this fall?",
    "Will the stack fall?",
    "Is it going to fall?",
    "Will the stack topple?",
    "Does the stack fall over?",
    "Will it collapse?",
)


def _draw(seed: int, rng: np.random.Generator, _level: int) -> Scene:
    count = int(rng.integers(2, 5))
    colours = [str(name) for name in rng.permutation(list(BLOCK_COLOURS))[:count]]
    return _scene(seed, colours, (values[0].tolist() for values in _layouts(rng, count, batch=1)))


def _scene(seed: int, colours: list[str], sizes: Iterable[list[float]]) -> Scene:
    """Make a scene of blocks; `sizes` holds the lists of x, y, width and height."""
    return Scene("stack", seed, blocks=tuple(Block(*block) for block in zip(colours, *sizes, strict=True)))


def _sample(kind: Kind, seed: int, rng: np.random.Generator, _level: int) -> tuple[Scene, Trajectory]:
    # 1. Draw the outcome, and whether the stack falls to the side of its top block
    wanted, tells = str(rng.choice(["left", "right", "no"])), rng.random() < _TOP_OFFSET_TELLS
    count = int(rng.choice([2, 3, 4], p=[0.2, 0.4, 0.4]))
    colours = [str(name) for name in rng.permutation(list(BLOCK_COLOURS))[:count]]
    while True:
        # 2. Candidates with these properties, by a cheap estimate
        x, y, width, height = _layouts(rng, count)
        overhang = _overhang(x, width, height)
        top_offset = x[:, -1] - x[:, 0]
        if wanted == "no":
            fits = (overhang == 0) & (np.abs(top_offset) > rng.uniform(0, 4, len(x)))
        else:
            fits = (np.abs(overhang) > 0.45) & ((count == 2) | ((top_offset * overhang > 0) == tells))
        # 3. The first one whose simulation has the outcome
        for i in np.flatnonzero(fits)[:4]:
            scene = _scene(seed, colours, (values[i].tolist() for values in (x, y, width, height)))
            if wanted != "no" and (overhang[i] > 0) != (wanted == "right"):
                scene = scene.mirrored()
            trajectory = kind.simulate(scene)
            found = {"topple": wanted}
            if kind.outcomes(scene, trajectory) == found and kind.is_robust(scene, found, SIDEWAYS):
                return scene, trajectory


def _layouts(rng: np.random.Generator, count: int, batch: int = 64) -> tuple[NDArray[np.float64], ...]:
    """Draw candidates. Returns x, y, width and height, each (batch, count), from the bottom block to the top one."""
    width, height = rng.uniform(5, 9, (batch, count)), rng.uniform(3.2, 4.6, (batch, count))
    steps = rng.uniform(-0.62, 0.62, (batch, count - 1)) * width[:, :-1]
    x = np.cumsum(np.concatenate([rng.uniform(12, 20, (batch, 1)), steps], axis=1), axis=1)
    y = FLOOR_Y - np.cumsum(height, axis=1) + height / 2
    return x, y, width, height


def _overhang(x: NDArray[np.float64], width: NDArray[np.float64], height: NDArray[np.float64]) -> NDArray[np.float64]:
    """Estimate the overhang (batch,) of the worst-supported block: positive to the right, 0 if all blocks rest safely.

    A cheap filter: the simulation decides.
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


def _fill(space: Space, scene: Scene, jitter: tuple[float, float]) -> None:
    space.space.iterations = 20
    space.add_sides()
    space.add_floor(elasticity=0.0, friction=0.9)
    space.add_blocks(scene.blocks, jitter)


def _paint_floor(canvas: Canvas, _scene: Scene, _trajectory: Trajectory) -> None:
    canvas.paint("wall", box(0, FLOOR_Y, SIZE, SIZE))


def _outcomes(_scene: Scene, trajectory: Trajectory) -> dict[str, str] | None:
    side = topple_side(trajectory)
    return None if side is None else {"topple": side}


def topple_side(trajectory: Trajectory) -> str | None:
    """Return `left`, `right` or `no`; None if blocks moved without clearly falling, or fell to both sides."""
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


def _static(record: Record, frame: int, rng: np.random.Generator) -> list[Question]:
    blocks = record["scene"]["blocks"]
    poses: NDArray[np.float64] = np.array(record["block_pose"][frame])
    questions = [BLOCK_COUNT.ask(rng, NUMBERS[len(blocks) - 1], NUMBERS[1:])]
    if frame == 0:
        questions.append(_describe(record, rng))
    order = np.argsort(poses[:, 1])
    heights = poses[order, 1]
    for family, index, gap in (
        (TOP_BLOCK, order[0], heights[1] - heights[0]),
        (BOTTOM_BLOCK, order[-1], heights[-1] - heights[-2]),
    ):
        if gap >= MARGIN:
            choices = tuple(sorted(block["colour"] for block in blocks))
            questions.append(family.ask(rng, blocks[index]["colour"], choices))
    still = frame == len(record["block_pose"]) - 1 and "topple" in record["outcomes"]
    if frame == 0 or still:  # in between, the stack may be falling
        answer = record["outcomes"]["topple"] if frame else "no"
        questions.append(FALLEN.ask(rng, answer, _SIDES))
    return questions


def _describe(record: Record, rng: np.random.Generator) -> Question:
    said = {number: f"A stack of {number} blocks." for number in NUMBERS[1:]}
    return DESCRIBE.ask(rng, said[NUMBERS[len(record["scene"]["blocks"]) - 1]], tuple(said.values()))


def _conversational(record: Record, _words: dict[str, str], rng: np.random.Generator) -> list[Question]:
    side = record["outcomes"]["topple"]
    told = {
        "left": "The stack falls to the left.",
        "no": "The stack stays up.",
        "right": "The stack falls to the right.",
    }
    return [
        WHAT_NEXT.ask(rng, told[side], tuple(told.values())),
        TOPPLE_CHECK.ask_whether(rng, side != "no"),
    ]


STACK = Kind(
    name="stack",
    description="two to four blocks with offsets, which may topple",
    draw=_draw,
    sample=_sample,
    fill=_fill,
    paint_room=_paint_floor,
    outcomes=_outcomes,
    endings=(Ending(TOPPLE, lambda _scene: _SIDES, (2, 1, 0)),),
    static=_static,
    conversational=_conversational,
    families=(BLOCK_COUNT, TOP_BLOCK, BOTTOM_BLOCK, FALLEN, WHAT_NEXT, TOPPLE_CHECK, DESCRIBE),
    sentences=(
        "The stack falls to the left.",
        "The stack falls to the right.",
        "The stack stays up.",
        "A stack of blocks.",
    ),
)
