"""The nano world's laws: a 32 x 32 box (y down) with balls, ramps, pegs, bins and blocks, moved by pymunk.

Two rules are the world's own: a red ramp lights up for good once a ball has touched it, and in a race the pad under the
first ball to land lights up for good. Both make an outcome visible in the last frame.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import pymunk

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

SIZE = 32.0
"""Width and height of the world; one unit is one pixel."""
FRAMES = 13
"""Frames of a clip: 1 + 4K with K = 3 latent steps."""
FRAME_SECONDS = 1 / 8
BALL_RADIUS = 1.8
FLOOR_Y = 29.0
RAMP_RADIUS = 0.6
DIVIDER_XS = (8.0, 16.0, 24.0)
DIVIDER_TOP = 25.5
DIVIDER_RADIUS = 0.4
LANE_WALL_X = 16.0
LANE_WALL_RADIUS = 0.6
PEG_RADIUS = 1.0
PEG_BOUNCE = 0.3
WALL_WIDTH = 2.0
GRID = (5.5, 12.5, 19.5, 26.5)
"""Lines of the grid in a scene of bumpers, in x and in y: balls move along them."""
SPEED = 40.0
"""Of the ball in a scene of bumpers, in units a second."""

_GRAVITY = 210.0
_STEPS_PER_FRAME = 12
_BALL, _FIRST_PAD, _FIRST_RAMP, _FIRST_PEG = 1, 10, 20, 40  # pymunk collision types
_POINT = 0.3  # radius with which a ball meets bumpers: it turns where the bumper crosses the grid line


@dataclass(frozen=True)
class Ball:
    """A ball of radius `BALL_RADIUS`, centred at (x, y)."""

    colour: str
    x: float
    y: float


@dataclass(frozen=True)
class Ramp:
    """A fixed slanted bar from its left end (x1, y1) to its right end (x2, y2)."""

    x1: float
    y1: float
    x2: float
    y2: float
    red: bool = False


@dataclass(frozen=True)
class Peg:
    """A fixed disc of radius `PEG_RADIUS`, centred at (x, y)."""

    x: float
    y: float
    red: bool = False


@dataclass(frozen=True)
class Block:
    """An upright box centred at (x, y)."""

    colour: str
    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True)
class Scene:
    """A still world: `drop` (one ball, ramps, four bins), `race` (two lanes), `stack` (blocks, bottom first), `pegs` (a
    drop with pegs), or `bumpers` (a ball that moves along a grid of slanted bars; no gravity).

    walls are the colours of the left, right, upper and lower wall, heading (dx, dy) is the direction in which the ball
    of a scene of bumpers starts.
    """

    kind: str
    seed: int
    balls: tuple[Ball, ...] = ()
    ramps: tuple[Ramp, ...] = ()
    bins: tuple[str, ...] = ()
    blocks: tuple[Block, ...] = ()
    pegs: tuple[Peg, ...] = ()
    walls: tuple[str, ...] = ()
    heading: tuple[float, float] = (0.0, 0.0)
    level: int = 0

    def mirrored(self) -> Scene:
        """The same scene seen in a mirror: left and right exchanged, the bins' colours too."""
        balls = tuple(replace(ball, x=SIZE - ball.x) for ball in self.balls)
        return replace(
            self,
            balls=balls[::-1] if self.kind == "race" else balls,  # ball 0 is the one in the left lane
            ramps=tuple(Ramp(SIZE - r.x2, r.y2, SIZE - r.x1, r.y1, r.red) for r in self.ramps),
            bins=self.bins[::-1],
            blocks=tuple(replace(block, x=SIZE - block.x) for block in self.blocks),
            pegs=tuple(replace(peg, x=SIZE - peg.x) for peg in self.pegs),
            walls=(*self.walls[1::-1], *self.walls[2:]),
            heading=(-self.heading[0], self.heading[1]),
        )


@dataclass(frozen=True)
class Law:
    """What may differ between worlds of the same scenes.

    tilt is the angle in degrees by which the box leans to the right: a constant acceleration sideways.
    """

    tilt: float = 0.0


USUAL = Law()
TILTED = Law(tilt=15.0)
LAWS = {"usual": USUAL, "tilted": TILTED}


@dataclass(frozen=True)
class Trajectory:
    """What happens: F frames `FRAME_SECONDS` apart, the first being the scene at rest.

    ball_xy (F, n, 2) and block_pose (F, m, 3: x, y, angle in radians); ramp_lit (F,) and pad_lit (F, 2: left, right)
    say what is lit; ramp_contact (r,) and pad_contact (2,) hold the seconds of the first touch, inf where there is
    none; peg_contact (p,) likewise; wall is the index in `Scene.walls` of the wall that the ball of a scene of bumpers
    has reached, -1 where it has reached none; ball_speed (n,) is the speed at the end in units a second.
    """

    ball_xy: NDArray[np.float32]
    block_pose: NDArray[np.float32]
    ramp_lit: NDArray[np.bool_]
    pad_lit: NDArray[np.bool_]
    ramp_contact: NDArray[np.float64]
    pad_contact: NDArray[np.float64]
    ball_speed: NDArray[np.float64]
    peg_contact: NDArray[np.float64]
    wall: int = -1

    def red_contact(self, scene: Scene) -> float:
        """Seconds until a red ramp or peg is touched, inf where none is."""
        things = zip((*scene.ramps, *scene.pegs), (*self.ramp_contact, *self.peg_contact), strict=True)
        return min((float(contact) for thing, contact in things if thing.red), default=math.inf)


def simulate(
    scene: Scene, frames: int = FRAMES, jitter: tuple[float, float] = (0.0, 0.0), law: Law = USUAL
) -> Trajectory:
    """Let go of everything at time 0 and watch.

    `jitter` (dx, dy) disturbs the start: every ball moves by dx, the first by dy and the second by -dy; in a stack
    every block moves by dx against the block below it; among bumpers the ball moves by dx across its heading. An outcome that changes under a quarter of a unit cannot be
    seen in the still picture.
    """
    space = pymunk.Space()
    floats = scene.kind == "bumpers"
    space.gravity = (_GRAVITY * math.tan(math.radians(law.tilt)), 0.0 if floats else _GRAVITY)
    space.iterations = 20 if scene.blocks else 6
    space.collision_slop = 0.02
    clock = [0.0]
    ramp_contact, peg_contact = np.full(len(scene.ramps), math.inf), np.full(len(scene.pegs), math.inf)
    pad_contact = np.full(2, math.inf)
    _add_room(space, scene)
    for index, ramp in enumerate(scene.ramps):
        ends = (ramp.x1, ramp.y1), (ramp.x2, ramp.y2)
        if floats:
            shape = _add_bar(space, *ends, 0.1, elasticity=1.0, friction=0.0)
        else:
            shape = _add_bar(space, *ends, RAMP_RADIUS, elasticity=0.3, friction=0.1)
        _on_touch(space, shape, _FIRST_RAMP + index, _first_time(ramp_contact, index, clock))
    for index, peg in enumerate(scene.pegs):
        shape = pymunk.Circle(space.static_body, PEG_RADIUS, (peg.x, peg.y))
        shape.elasticity, shape.friction = PEG_BOUNCE, 0.3
        space.add(shape)
        _on_touch(space, shape, _FIRST_PEG + index, _first_time(peg_contact, index, clock))
    if scene.kind == "race":
        for lane, (left, right) in enumerate(((0.0, LANE_WALL_X), (LANE_WALL_X, SIZE))):
            shape = _add_bar(space, (left, FLOOR_Y + 0.5), (right, FLOOR_Y + 0.5), 0.5, elasticity=0.1, friction=0.8)
            _on_touch(space, shape, _FIRST_PAD + lane, _first_time(pad_contact, lane, clock))
    if floats:
        (ball,), (across, along) = scene.balls, scene.heading
        balls = [_add_point(space, ball.x + abs(along) * jitter[0], ball.y + abs(across) * jitter[0], scene.heading)]
    else:
        balls = [_add_ball(space, b.x + jitter[0], b.y + jitter[1] * (-1) ** i) for i, b in enumerate(scene.balls)]
    blocks = [_add_block(space, block, i * jitter[0]) for i, block in enumerate(scene.blocks)]

    ball_xy = np.empty((frames, len(balls), 2), np.float32)
    block_pose = np.empty((frames, len(blocks), 3), np.float32)
    step, wall = FRAME_SECONDS / _STEPS_PER_FRAME, -1
    for frame in range(frames):
        for _ in range(_STEPS_PER_FRAME if frame else 0):
            if wall < 0:
                space.step(step)
                clock[0] += step
            if floats:
                wall = _wall_at(*balls[0].position)
        for i, body in enumerate(balls):
            ball_xy[frame, i] = body.position
        for i, body in enumerate(blocks):
            block_pose[frame, i] = (*body.position, body.angle)

    times = np.arange(frames) * FRAME_SECONDS + step / 2
    things = zip((*scene.ramps, *scene.pegs), (*ramp_contact, *peg_contact), strict=True)
    ramp_lit = times >= min((contact for thing, contact in things if thing.red), default=math.inf)
    pad_lit = (times[:, None] >= pad_contact) & (pad_contact == pad_contact.min())
    speeds = np.array([body.velocity.length for body in balls])
    return Trajectory(ball_xy, block_pose, ramp_lit, pad_lit, ramp_contact, pad_contact, speeds, peg_contact, wall)


def _wall_at(x: float, y: float) -> int:
    """The wall that a ball centred here touches: 0 to 3 for left, right, upper, lower; -1 for none."""
    reach = WALL_WIDTH + BALL_RADIUS
    gaps = (x - reach, SIZE - reach - x, y - reach, SIZE - reach - y)
    return int(np.argmin(gaps)) if min(gaps) < 0 else -1


def _add_room(space: pymunk.Space, scene: Scene) -> None:
    if scene.kind == "bumpers":
        return  # the ball stops at the first wall
    for x in (-0.5, SIZE + 0.5):
        _add_bar(space, (x, -40), (x, 40), 0.5, elasticity=0.3, friction=0.3)
    if scene.bins:
        _add_bar(space, (-5, FLOOR_Y + 0.5), (SIZE + 5, FLOOR_Y + 0.5), 0.5, elasticity=0.1, friction=0.8)
        for x in DIVIDER_XS:
            _add_bar(space, (x, DIVIDER_TOP), (x, FLOOR_Y), DIVIDER_RADIUS, elasticity=0.1, friction=0.2)
    elif scene.kind == "race":
        _add_bar(space, (LANE_WALL_X, -40), (LANE_WALL_X, FLOOR_Y), LANE_WALL_RADIUS, elasticity=0.3, friction=0.3)
    else:
        _add_bar(space, (-5, FLOOR_Y + 0.5), (SIZE + 5, FLOOR_Y + 0.5), 0.5, elasticity=0.0, friction=0.9)


def _add_bar(
    space: pymunk.Space,
    start: tuple[float, float],
    end: tuple[float, float],
    radius: float,
    elasticity: float,
    friction: float,
) -> pymunk.Segment:
    shape = pymunk.Segment(space.static_body, start, end, radius)
    shape.elasticity, shape.friction = elasticity, friction
    space.add(shape)
    return shape


def _add_ball(space: pymunk.Space, x: float, y: float) -> pymunk.Body:
    body = pymunk.Body(1.0, pymunk.moment_for_circle(1.0, 0.0, BALL_RADIUS))
    body.position = (x, y)
    shape = pymunk.Circle(body, BALL_RADIUS)
    shape.elasticity, shape.friction, shape.collision_type = 0.4, 0.6, _BALL
    space.add(body, shape)
    return body


def _add_point(space: pymunk.Space, x: float, y: float, heading: tuple[float, float]) -> pymunk.Body:
    """A ball that turns by a right angle where its centre meets a bumper."""
    body = pymunk.Body(1.0, math.inf)
    body.position, body.velocity = (x, y), (SPEED * heading[0], SPEED * heading[1])
    shape = pymunk.Circle(body, _POINT)
    shape.elasticity, shape.friction, shape.collision_type = 1.0, 0.0, _BALL
    space.add(body, shape)
    return body


def _add_block(space: pymunk.Space, block: Block, shift: float) -> pymunk.Body:
    mass = block.width * block.height / 16
    body = pymunk.Body(mass, pymunk.moment_for_box(mass, (block.width, block.height)))
    body.position = (block.x + shift, block.y)
    shape = pymunk.Poly.create_box(body, (block.width, block.height))
    shape.elasticity, shape.friction = 0.0, 0.9
    space.add(body, shape)
    return body


def _on_touch(space: pymunk.Space, shape: pymunk.Shape, collision_type: int, notice: Callable[[], None]) -> None:
    shape.collision_type = collision_type
    space.on_collision(_BALL, collision_type, begin=lambda _arbiter, _space, _data: notice())


def _first_time(contact: NDArray[np.float64], index: int, clock: list[float]) -> Callable[[], None]:
    def notice() -> None:
        contact[index] = min(contact[index], clock[0])

    return notice
