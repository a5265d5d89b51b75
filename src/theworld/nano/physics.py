"""The nano world's things: a 32 x 32 box (y down) with balls, ramps, pegs, bins and blocks, and what happens to them.

Imports no simulator: questions about scenes can be asked where none is installed.
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
"""Frames of a clip: 1 + 4K with K = 3 latent steps."""
FRAME_SECONDS = 1 / 8
BALL_RADIUS = 1.8
RAMP_RADIUS = 0.6
PEG_RADIUS = 1.0
FLOOR_Y = 29.0
WALL_WIDTH = 2.0
"""Of the coloured walls at the four sides, where a scene has them."""


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
    """A still world of one kind, a key of `KINDS`.

    Balls, bins and walls are in order from left to right, blocks from the bottom up. bins are the colours of the bins;
    walls are those of the left, right, upper and lower wall; heading (dx, dy) is the direction in which the ball of a
    scene without gravity starts.
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

    ball_xy (F, n, 2) and block_pose (F, m, 3: x, y, angle in radians); ramp_lit (F,) says whether something red is
    lit, pad_lit (F, 2: left, right) which pad is; ramp_contact (r,), pad_contact (2,) and red_contact hold the seconds
    of the first touch, inf where there is none; ball_speed (n,) is the speed at the end in units a second; wall is the
    index in `Scene.walls` of the wall that the ball has reached, -1 where it has reached none.
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
