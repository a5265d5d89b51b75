"""Render the nano world: antialiased RGB frames, and a map of the class of every pixel."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .physics import BALL_RADIUS, PEG_RADIUS, RAMP_RADIUS, SIZE

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from .physics import Scene, Trajectory

    Array = NDArray[np.float32]
    Shape = Callable[[Array, Array], Array]
    """(x, y), each (S, S) -> signed distances (F or 1, S, S) of the pixels, in units of the world, negative inside."""

BALL_COLOURS = {"white": (245, 245, 245), "pink": (250, 120, 200), "cyan": (60, 230, 240), "orange": (255, 150, 30)}
BIN_COLOURS = {
    "green": (40, 190, 60),
    "blue": (50, 80, 240),
    "yellow": (235, 220, 50),
    "purple": (150, 50, 200),
    "brown": (140, 85, 40),
}
BLOCK_COLOURS = {"red": (220, 40, 40), **BIN_COLOURS}
_SURFACES = {
    "background": (16, 18, 28),
    "wall": (90, 90, 100),
    "ramp": (170, 170, 170),
    "red ramp": (225, 45, 45),
    "lit ramp": (255, 250, 170),
    "peg": (170, 170, 170),
    "red peg": (225, 45, 45),
    "lit peg": (255, 250, 170),
    "pad": (70, 90, 120),
    "lit pad": (255, 250, 170),
}
_PAINT: dict[str, tuple[int, int, int]] = {
    **_SURFACES,
    **{f"ball {name}": colour for name, colour in BALL_COLOURS.items()},
    **{f"bin {name}": colour for name, colour in BIN_COLOURS.items()},
    **{f"wall {name}": colour for name, colour in BIN_COLOURS.items()},
    **{f"block {name}": colour for name, colour in BLOCK_COLOURS.items()},
}
CLASSES: tuple[str, ...] = tuple(_PAINT)
"""Classes of pixels. A class map holds indices into this tuple."""

_CLASS_ID = {name: index for index, name in enumerate(CLASSES)}
_PALETTE = np.array(list(_PAINT.values()), np.float32)
_GLOW = np.float32(0.6)
"""Added to the radius of a lit ramp or peg, so that its light is visible after the VAE's eightfold compression."""


def render(
    scene: Scene,
    trajectory: Trajectory,
    paint_room: Callable[[Canvas, Scene, Trajectory], None],
    size: int = int(SIZE),
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Render every frame of a clip, `size` S pixels a side: first the background, then ramps, pegs, blocks and balls.

    Returns the frames (F, S, S, 3) and the class map (F, S, S), indices into `CLASSES`. The class of a pixel is the
    frontmost one that covers more than half of it.
    """
    canvas = Canvas(len(trajectory.ramp_lit), size)
    paint_room(canvas, scene, trajectory)
    lit = trajectory.ramp_lit
    for ramp in scene.ramps:
        canvas.paint_lamp("ramp", bar(ramp.x1, ramp.y1, ramp.x2, ramp.y2, RAMP_RADIUS), ramp.red, lit)
    for peg in scene.pegs:
        canvas.paint_lamp("peg", disc(np.array([[peg.x, peg.y]], np.float32), PEG_RADIUS), peg.red, lit)
    for index, block in enumerate(scene.blocks):
        canvas.paint(f"block {block.colour}", _turned_box(trajectory.block_pose[:, index], block.width, block.height))
    for index, ball in enumerate(scene.balls):
        canvas.paint(f"ball {ball.colour}", disc(trajectory.ball_xy[:, index], BALL_RADIUS))
    return canvas.rgb.round().astype(np.uint8), canvas.classes


class Canvas:
    """F frames of S x S pixels, painted back to front."""

    def __init__(self, frames: int, size: int = int(SIZE)) -> None:
        self.rgb = np.broadcast_to(_PALETTE[0], (frames, size, size, 3)).copy()
        self.classes = np.zeros((frames, size, size), np.uint8)
        self.pixel = np.float32(SIZE / size)  # side of a pixel in units of the world
        self.y, self.x = ((axis.astype(np.float32) + 0.5) * self.pixel for axis in np.mgrid[0:size, 0:size])

    def paint(self, name: str, shape: Shape) -> None:
        """Paint one class of `CLASSES` in all frames."""
        self._blend(np.full(len(self.rgb), _CLASS_ID[name]), shape)

    def paint_switching(self, unlit: str, lit: str, is_lit: NDArray[np.bool_], shape: Shape) -> None:
        """Paint the class `lit` in frames where `is_lit` (F,), and `unlit` in the others."""
        self._blend(np.where(is_lit, _CLASS_ID[lit], _CLASS_ID[unlit]), shape)

    def paint_lamp(self, name: str, shape: Shape, red: bool, is_lit: NDArray[np.bool_]) -> None:
        """Paint a ramp or peg. A red one is thicker in frames where `is_lit` (F,)."""
        if not red:
            self.paint(name, shape)
            return
        glow = (_GLOW * is_lit[:, None, None]).astype(np.float32)
        self.paint_switching(f"red {name}", f"lit {name}", is_lit, lambda x, y: shape(x, y) - glow)

    def _blend(self, ids: NDArray[np.integer], shape: Shape) -> None:
        # A straight edge at distance d from the centre of a pixel covers a share of about 1/2 - d of it
        cover = np.clip(0.5 - shape(self.x, self.y) / self.pixel, 0, 1)[..., None]
        self.rgb += (_PALETTE[ids][:, None, None] - self.rgb) * cover
        covered = np.broadcast_to(cover[..., 0] > 0.5, self.classes.shape)
        self.classes = np.where(covered, ids[:, None, None], self.classes).astype(np.uint8)


def bar(x1: float, y1: float, x2: float, y2: float, radius: float) -> Shape:
    """Return a bar with round ends."""
    dx, dy = x2 - x1, y2 - y1

    def distance(x: Array, y: Array) -> Array:
        along = np.clip(((x - x1) * dx + (y - y1) * dy) / (dx * dx + dy * dy), 0, 1)
        return (np.hypot(x - x1 - along * dx, y - y1 - along * dy) - radius)[None].astype(np.float32)

    return distance


def box(left: float, top: float, right: float, bottom: float) -> Shape:
    """Return an upright rectangle."""

    def distance(x: Array, y: Array) -> Array:
        return np.maximum(np.maximum(left - x, x - right), np.maximum(top - y, y - bottom))[None].astype(np.float32)

    return distance


def disc(centre: NDArray[np.floating], radius: float) -> Shape:
    """Return a disc around `centre` (F or 1, 2)."""
    cx, cy = (centre[:, axis, None, None] for axis in range(2))
    return lambda x, y: (np.hypot(x - cx, y - cy) - radius).astype(np.float32)


def _turned_box(pose: Array, width: float, height: float) -> Shape:
    cx, cy, angle = (pose[:, i, None, None] for i in range(3))
    cos, sin = np.cos(angle), np.sin(angle)

    def distance(x: Array, y: Array) -> Array:
        across = np.abs((x - cx) * cos + (y - cy) * sin) - width / 2
        along = np.abs((y - cy) * cos - (x - cx) * sin) - height / 2
        return np.maximum(across, along)

    return distance
