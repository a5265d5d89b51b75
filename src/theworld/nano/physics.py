"""Data classes of the nano world: a 32 x 32 box (y down) with balls, ramps, pegs, bins and blocks, and trajectories.

Imports no simulator, so that questions can be made from saved records without pymunk.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SIZE = 32.0
"""Width and height of the world; one unit is one pixel."""
FRAMES = 13
"""Frames of a clip: 1 + 4K, with K = 3 future latent frames."""
FRAME_SECONDS = 1 / 8
BALL_RADIUS = 1.8
RAMP_RADIUS = 0.6
PEG_RADIUS = 1.0
FLOOR_Y = 29.0
WALL_WIDTH = 2.0
"""Thickness of the coloured walls at the four sides, in scenes that have them."""


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
    """The start of a clip. `kind` is a key of `KINDS`.

    Balls and bins are ordered from left to right, blocks from the bottom up. `bins` holds the colours of the bins,
    `walls` the colours of the left, right, upper and lower wall. `heading` (dx, dy) is the direction in which the ball
    starts in a scene without gravity.
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
        """Return the mirror image of the scene: left and right are exchanged, also for the colours of the bins."""
        return replace(
            self,
            balls=tuple(replace(ball, x=SIZE - ball.x) for ball in self.balls[::-1]),
            ramps=tuple(replace(r, x1=SIZE - r.x2, y1=r.y2, x2=SIZE - r.x1, y2=r.y1) for r in self.ramps),
            bins=self.bins[::-1],
            blocks=tuple(replace(block, x=SIZE - block.x) for block in self.blocks),
            pegs=tuple(replace(peg, x=SIZE - peg.x) for peg in self.pegs),
            walls=(*self.walls[1::-1], *self.walls[2:]),
            heading=(-self.heading[0], self.heading[1]),
        )


@dataclass(frozen=True)
class Law:
    """Physical parameters that can be changed while the scenes stay the same.

    `tilt` is the angle in degrees by which the box leans to the right. It adds a constant sideways acceleration.
    """

    tilt: float = 0.0


USUAL = Law()
TILTED = Law(tilt=15.0)
LAWS = {"usual": USUAL, "tilted": TILTED}


@dataclass(frozen=True)
class Trajectory:
    """A simulated scene: F frames, `FRAME_SECONDS` apart. The first frame is the start of the scene.

    Attributes:
        ball_xy: Centres of the balls (F, n, 2).
        block_pose: x, y and angle in radians of the blocks (F, m, 3).
        ramp_lit: Whether the red ramp, peg or bumper is lit (F,).
        pad_lit: Whether the left and the right pad is lit (F, 2).
        ramp_contact: Seconds of the first touch of each ramp (r,), inf if there is none.
        pad_contact: Seconds of the first touch of each pad (2,), inf if there is none.
        red_contact: Seconds of the first touch of something red, inf if there is none.
        ball_speed: Speed of each ball at the end (n,), in units a second.
        wall: Index in `Scene.walls` of the wall that the ball has reached, -1 if there is none.
    """

    ball_xy: NDArray[np.float32]
    block_pose: NDArray[np.float32]
    ramp_lit: NDArray[np.bool_]
    pad_lit: NDArray[np.bool_]
    ramp_contact: NDArray[np.float64]
    pad_contact: NDArray[np.float64]
    red_contact: float
    ball_speed: NDArray[np.float64]
    wall: int = -1
