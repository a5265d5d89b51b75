"""Images of the nano world: antialiased RGB frames, and beside them the class of every pixel."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .physics import (
    BALL_RADIUS,
    DIVIDER_RADIUS,
    DIVIDER_TOP,
    DIVIDER_XS,
    FLOOR_Y,
    LANE_WALL_RADIUS,
    LANE_WALL_X,
    PEG_RADIUS,
    RAMP_RADIUS,
    SIZE,
    WALL_WIDTH,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .physics import Scene, Trajectory

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
"""What a pixel can show; the class map holds indices into this."""

_CLASS_ID = {name: index for index, name in enumerate(CLASSES)}
_PALETTE = np.array(list(_PAINT.values()), np.float32)
_PIXELS = int(SIZE)
_GLOW = np.float32(0.6)
"""By how much a lit ramp is thicker than an unlit one: its light must survive an eightfold compression."""
_Y, _X = (axis.astype(np.float32) + 0.5 for axis in np.mgrid[0:_PIXELS, 0:_PIXELS])


def render(scene: Scene, trajectory: Trajectory) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Draw every frame of a clip.

    Returns the frames (F, 32, 32, 3) and the class map (F, 32, 32), indices into `CLASSES`: what covers more than
    half of the pixel, the front thing where several do.
    """
    canvas = _Canvas(len(trajectory.ramp_lit))
    if scene.kind == "bumpers":
        _paint_walls(canvas, scene)
    elif scene.bins:
        for column, colour in enumerate(scene.bins):
            left = column * SIZE / len(scene.bins)
            canvas.paint(f"bin {colour}", _box(left, FLOOR_Y, left + SIZE / len(scene.bins), SIZE))
        for x in DIVIDER_XS:
            canvas.paint("wall", _bar(x, DIVIDER_TOP, x, SIZE + 1, DIVIDER_RADIUS))
    elif scene.kind == "race":
        for lane, left in enumerate((0.0, LANE_WALL_X)):
            lit = trajectory.pad_lit[:, lane]
            canvas.paint_switching("pad", "lit pad", lit, _box(left, FLOOR_Y, left + LANE_WALL_X, SIZE))
        canvas.paint("wall", _bar(LANE_WALL_X, -1, LANE_WALL_X, SIZE + 1, LANE_WALL_RADIUS))
    else:
        canvas.paint("wall", _box(0, FLOOR_Y, SIZE, SIZE))
    for ramp in scene.ramps:
        shape = _bar(ramp.x1, ramp.y1, ramp.x2, ramp.y2, RAMP_RADIUS)
        if ramp.red:
            glow = (_GLOW * trajectory.ramp_lit[:, None, None]).astype(np.float32)
            canvas.paint_switching("red ramp", "lit ramp", trajectory.ramp_lit, shape - glow)
        else:
            canvas.paint("ramp", shape)
    for peg in scene.pegs:
        shape = (np.hypot(_X - peg.x, _Y - peg.y) - PEG_RADIUS)[None].astype(np.float32)
        if peg.red:
            glow = (_GLOW * trajectory.ramp_lit[:, None, None]).astype(np.float32)
            canvas.paint_switching("red peg", "lit peg", trajectory.ramp_lit, shape - glow)
        else:
            canvas.paint("peg", shape)
    for index, block in enumerate(scene.blocks):
        canvas.paint(f"block {block.colour}", _turned_box(trajectory.block_pose[:, index], block.width, block.height))
    for index, ball in enumerate(scene.balls):
        centre = trajectory.ball_xy[:, index, :, None, None]
        canvas.paint(f"ball {ball.colour}", np.hypot(_X - centre[:, 0], _Y - centre[:, 1]) - BALL_RADIUS)
    return canvas.rgb.round().astype(np.uint8), canvas.classes


def _paint_walls(canvas: _Canvas, scene: Scene) -> None:
    """Four coloured walls, and behind the ball the grey launcher that shows its heading."""
    sides = (
        _box(-1, -1, WALL_WIDTH, SIZE + 1),
        _box(SIZE - WALL_WIDTH, -1, SIZE + 1, SIZE + 1),
        _box(WALL_WIDTH, -1, SIZE - WALL_WIDTH, WALL_WIDTH),
        _box(WALL_WIDTH, SIZE - WALL_WIDTH, SIZE - WALL_WIDTH, SIZE + 1),
    )
    for colour, side in zip(scene.walls, sides, strict=True):
        canvas.paint(f"wall {colour}", side)
    (ball,), (dx, dy) = scene.balls, scene.heading
    x, y = (SIZE / 2 - d * (SIZE / 2 - 1) if d else place for d, place in ((dx, ball.x), (dy, ball.y)))
    canvas.paint("wall", _box(x - 2, y - 2, x + 2, y + 2))


class _Canvas:
    """F frames painted back to front; a shape is its signed distance (F or 1, 32, 32) in pixels, negative inside."""

    def __init__(self, frames: int) -> None:
        self.rgb = np.broadcast_to(_PALETTE[0], (frames, _PIXELS, _PIXELS, 3)).copy()
        self.classes = np.zeros((frames, _PIXELS, _PIXELS), np.uint8)

    def paint(self, name: str, distance: NDArray[np.float32]) -> None:
        ids = np.full(len(self.rgb), _CLASS_ID[name])
        self._blend(ids, distance)

    def paint_switching(self, unlit: str, lit: str, is_lit: NDArray[np.bool_], distance: NDArray[np.float32]) -> None:
        self._blend(np.where(is_lit, _CLASS_ID[lit], _CLASS_ID[unlit]), distance)

    def _blend(self, ids: NDArray[np.integer], distance: NDArray[np.float32]) -> None:
        # The share of a pixel that a straight edge covers is close to 1/2 minus the edge's distance from its centre.
        cover = np.clip(0.5 - distance, 0, 1)[..., None]
        self.rgb += (_PALETTE[ids][:, None, None] - self.rgb) * cover
        covered = np.broadcast_to(cover[..., 0] > 0.5, self.classes.shape)
        self.classes = np.where(covered, ids[:, None, None], self.classes).astype(np.uint8)


def _bar(x1: float, y1: float, x2: float, y2: float, radius: float) -> NDArray[np.float32]:
    dx, dy = x2 - x1, y2 - y1
    along = np.clip(((_X - x1) * dx + (_Y - y1) * dy) / (dx * dx + dy * dy), 0, 1)
    return (np.hypot(_X - x1 - along * dx, _Y - y1 - along * dy) - radius)[None].astype(np.float32)


def _box(left: float, top: float, right: float, bottom: float) -> NDArray[np.float32]:
    return np.maximum(np.maximum(left - _X, _X - right), np.maximum(top - _Y, _Y - bottom))[None].astype(np.float32)


def _turned_box(pose: NDArray[np.float32], width: float, height: float) -> NDArray[np.float32]:
    x, y, angle = (pose[:, i, None, None] for i in range(3))
    cos, sin = np.cos(angle), np.sin(angle)
    across = np.abs((_X - x) * cos + (_Y - y) * sin) - width / 2
    along = np.abs((_Y - y) * cos - (_X - x) * sin) - height / 2
    return np.maximum(across, along)
