"""`Space`: a pymunk space that a kind of scene fills with bodies. It records contacts while it runs."""

from __future__ import annotations

import math
from itertools import count
from typing import TYPE_CHECKING

import numpy as np
import pymunk

from .physics import BALL_RADIUS, FLOOR_Y, FRAME_SECONDS, PEG_RADIUS, RAMP_RADIUS, SIZE, WALL_WIDTH, Trajectory

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .physics import Ball, Block, Law, Peg, Ramp

    Point = tuple[float, float]

_GRAVITY = 210.0
_STEPS_PER_FRAME = 12
_BALL = 1  # pymunk collision type; every watched shape has its own type
_POINT = 0.3  # radius of a ball on a grid: small, so that it turns where a bar crosses the grid line


class Space:
    """A box of `SIZE` by `SIZE` units under a law, empty until bodies are added.

    Results of pymunk depend on the order in which bodies are added, so a kind must always add them in the same order.
    """

    def __init__(self, law: Law) -> None:
        self.space = pymunk.Space()
        self.space.gravity = (_GRAVITY * math.tan(math.radians(law.tilt)), _GRAVITY)
        self.space.iterations = 6
        self.space.collision_slop = 0.02
        self.balls: list[pymunk.Body] = []
        self.blocks: list[pymunk.Body] = []
        self.ramp_contact: list[float] = []
        self.pad_contact: list[float] = []
        self.red_contact = math.inf
        self._seconds = 0.0
        self._types = count(_BALL + 1)
        self._stops_at_walls = False

    def float_between_walls(self) -> None:
        """Switch off vertical gravity, and stop when the first ball reaches one of four walls of `WALL_WIDTH`.

        The sideways acceleration of a tilted law stays.
        """
        self.space.gravity = (self.space.gravity[0], 0.0)
        self._stops_at_walls = True

    def add_sides(self) -> None:
        """Add the left and the right side of the world. It has no top."""
        for x in (-0.5, SIZE + 0.5):
            self.add_bar((x, -40), (x, 40), 0.5, elasticity=0.3, friction=0.3)

    def add_floor(self, elasticity: float, friction: float) -> None:
        """Add a floor from side to side, with its surface at `FLOOR_Y`."""
        self.add_bar((-5, FLOOR_Y + 0.5), (SIZE + 5, FLOOR_Y + 0.5), 0.5, elasticity, friction)

    def add_bar(self, start: Point, end: Point, radius: float, elasticity: float, friction: float) -> pymunk.Segment:
        """Add a fixed bar with round ends and return its shape."""
        shape = pymunk.Segment(self.space.static_body, start, end, radius)
        shape.elasticity, shape.friction = elasticity, friction
        self.space.add(shape)
        return shape

    def add_pad(self, left: float, right: float) -> None:
        """Add a piece of floor that lights up if it is touched before the other pad."""
        shape = self.add_bar((left, FLOOR_Y + 0.5), (right, FLOOR_Y + 0.5), 0.5, elasticity=0.1, friction=0.8)
        self._watch(shape, self.pad_contact)

    def add_ramps(
        self, ramps: Sequence[Ramp], radius: float = RAMP_RADIUS, elasticity: float = 0.3, friction: float = 0.1
    ) -> None:
        """Add fixed bars and watch for contacts. Red ones light up."""
        for ramp in ramps:
            shape = self.add_bar((ramp.x1, ramp.y1), (ramp.x2, ramp.y2), radius, elasticity, friction)
            self._watch(shape, self.ramp_contact, ramp.red)

    def add_pegs(self, pegs: Sequence[Peg]) -> None:
        """Add fixed discs and watch for contacts. Red ones light up."""
        for peg in pegs:
            shape = pymunk.Circle(self.space.static_body, PEG_RADIUS, (peg.x, peg.y))
            shape.elasticity = shape.friction = 0.3
            self.space.add(shape)
            self._watch(shape, [], peg.red)

    def add_balls(self, balls: Sequence[Ball], jitter: Point) -> None:
        """Add balls at rest. `jitter` (dx, dy) moves all of them by dx, and by dy or -dy in turn."""
        for index, ball in enumerate(balls):
            body = pymunk.Body(1.0, pymunk.moment_for_circle(1.0, 0.0, BALL_RADIUS))
            body.position = (ball.x + jitter[0], ball.y + jitter[1] * (-1) ** index)
            self._add_ball(body, BALL_RADIUS, elasticity=0.4, friction=0.6)

    def add_point(self, x: float, y: float, velocity: Point) -> None:
        """Add a moving ball that turns by a right angle where its centre meets a bar of 45 degrees."""
        body = pymunk.Body(1.0, math.inf)
        body.position, body.velocity = (x, y), velocity
        self._add_ball(body, _POINT, elasticity=1.0, friction=0.0)

    def add_blocks(self, blocks: Sequence[Block], jitter: Point) -> None:
        """Add boxes at rest. `jitter` (dx, dy) moves each by dx relative to the previous one; dy is not used."""
        for index, block in enumerate(blocks):
            mass = block.width * block.height / 16
            body = pymunk.Body(mass, pymunk.moment_for_box(mass, (block.width, block.height)))
            body.position = (block.x + index * jitter[0], block.y)
            shape = pymunk.Poly.create_box(body, (block.width, block.height))
            shape.elasticity, shape.friction = 0.0, 0.9
            self.space.add(body, shape)
            self.blocks.append(body)

    def _add_ball(self, body: pymunk.Body, radius: float, elasticity: float, friction: float) -> None:
        shape = pymunk.Circle(body, radius)
        shape.elasticity, shape.friction, shape.collision_type = elasticity, friction, _BALL
        self.space.add(body, shape)
        self.balls.append(body)

    def _watch(self, shape: pymunk.Shape, contacts: list[float], red: bool = False) -> None:
        """Record in `contacts` the seconds at which a ball first touches the shape."""
        index = len(contacts)
        contacts.append(math.inf)
        shape.collision_type = next(self._types)

        def begin(_arbiter: object, _space: object, _data: object) -> None:
            contacts[index] = min(contacts[index], self._seconds)
            if red:
                self.red_contact = min(self.red_contact, self._seconds)

        self.space.on_collision(_BALL, shape.collision_type, begin=begin)

    def run(self, frames: int) -> Trajectory:
        """Release everything at time 0 and return the trajectory of `frames` frames."""
        # 1. Simulate in small steps, and record every frame
        ball_xy = np.empty((frames, len(self.balls), 2), np.float32)
        block_pose = np.empty((frames, len(self.blocks), 3), np.float32)
        step, wall = FRAME_SECONDS / _STEPS_PER_FRAME, -1
        for frame in range(frames):
            for _ in range(_STEPS_PER_FRAME if frame else 0):
                if wall < 0:
                    self.space.step(step)
                    self._seconds += step
                if self._stops_at_walls:
                    wall = _wall_at(*self.balls[0].position)
            for index, body in enumerate(self.balls):
                ball_xy[frame, index] = body.position
            for index, body in enumerate(self.blocks):
                block_pose[frame, index] = (*body.position, body.angle)
        # 2. Frames in which something is lit, from the times of contact
        times = np.arange(frames) * FRAME_SECONDS + step / 2
        pad_contact = np.array(self.pad_contact or [math.inf] * 2)
        return Trajectory(
            ball_xy,
            block_pose,
            ramp_lit=times >= self.red_contact,
            pad_lit=(times[:, None] >= pad_contact) & (pad_contact == pad_contact.min()),
            ramp_contact=np.array(self.ramp_contact),
            pad_contact=pad_contact,
            red_contact=self.red_contact,
            ball_speed=np.array([body.velocity.length for body in self.balls]),
            wall=wall,
        )


def _wall_at(x: float, y: float) -> int:
    """Return the wall that a ball centred at (x, y) touches: 0 to 3 for left, right, upper, lower; -1 for none."""
    reach = WALL_WIDTH + BALL_RADIUS
    gaps = (x - reach, SIZE - reach - x, y - reach, SIZE - reach - y)
    return int(np.argmin(gaps)) if min(gaps) < 0 else -1
