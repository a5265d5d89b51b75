"""What a kind of scene is: everything about it in one record."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..physics import BALL_RADIUS, FRAMES, RAMP_RADIUS, SIZE, USUAL
from ..render import BIN_COLOURS, render

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from numpy.typing import NDArray

    from ..families import Ending, Family, Question
    from ..physics import Law, Scene, Trajectory
    from ..render import Canvas
    from ..space import Space

    Point = tuple[float, float]
    Random = np.random.Generator
    Record = Mapping[str, Any]

COLOURED_PLACES = 4
"""Bins or walls of a scene."""

JITTER = 0.25
"""Pixels by which the start may move without a change of a labelled scene's outcome."""
SIDEWAYS = ((-JITTER, 0.0), (JITTER, 0.0))
UP_AND_DOWN = ((0.0, -JITTER), (0.0, JITTER))

PASSAGE = 2 * BALL_RADIUS + RAMP_RADIUS + 1
"""Room that a ball needs between a ramp's lower end and a wall."""


def sample_balanced(kind: Kind, seed: int, rng: Random, level: int) -> tuple[Scene, Trajectory]:
    """Draws scenes until one has the outcomes that were drawn first, beyond doubt."""
    wanted = {ending.family.name: int(rng.integers(len(ending.mirrored))) for ending in kind.endings}
    while True:
        scene = kind.draw(seed, rng, level)
        trajectory = kind.simulate(scene)
        found = kind.outcomes(scene, trajectory)
        if found and kind.places(asdict(scene), found) == wanted and kind.is_robust(scene, found, SIDEWAYS):
            return scene, trajectory


@dataclass(frozen=True)
class Kind:
    """One kind of scene: how it is drawn, what happens in it, what it looks like and what is asked about it.

    A *record* is a scene as JSON, see `scenes.Record`.

    Attributes:
        name: As in `Scene.kind` and on the command line.
        description: What happens in it, in one line.
        draw: Makes a scene of a seed, random numbers and a level, 0 being the easiest. Its outcome is neither balanced
            nor beyond doubt.
        fill: Adds a scene to an empty space. A jitter (dx, dy) in pixels moves the start.
        paint_room: Paints what stands behind the ramps, pegs, blocks and balls.
        outcomes: The answers of the predictive families, or None where the end of the clip leaves one open.
        endings: The predictive families. The first one tells the place of the end.
        static: Questions about one frame of a record.
        conversational: Questions about what follows the first frame of a record that has outcomes; takes `ball_words`.
        families: Those that `static` and `conversational` use, shared ones as well.
        sentences: Answers of more than one word, without colours and numbers. A tokenizer is trained on them.
        levels: Number of levels of difficulty.
        frames: Length of its clips, by the end of which the outcomes are read.
        sample: Like `draw`, with outcomes that are balanced over seeds and beyond doubt. Also simulates the scene.
    """

    name: str
    description: str
    draw: Callable[[int, Random, int], Scene]
    fill: Callable[[Space, Scene, Point], None]
    paint_room: Callable[[Canvas, Scene, Trajectory], None]
    outcomes: Callable[[Scene, Trajectory], dict[str, str] | None]
    endings: tuple[Ending, ...]
    static: Callable[[Record, int, Random], list[Question]]
    conversational: Callable[[Record, dict[str, str], Random], list[Question]]
    families: tuple[Family, ...]
    sentences: tuple[str, ...] = ()
    levels: int = 1
    sample: Callable[[Kind, int, Random, int], tuple[Scene, Trajectory]] = sample_balanced
    frames: int = FRAMES

    def simulate(self, scene: Scene, jitter: Point = (0.0, 0.0), law: Law = USUAL) -> Trajectory:
        """Let go of everything at time 0 and watch.

        `jitter` (dx, dy) disturbs the start: every ball moves by dx, the first by dy and the second by -dy; in a stack
        every block moves by dx against the block below it; among bumpers the ball moves by dx across its heading. An
        outcome that changes under a jitter of `JITTER` cannot be predicted from an image.
        """
        from ..space import Space

        space = Space(law)
        self.fill(space, scene, jitter)
        return space.run(self.frames)

    def render(
        self, scene: Scene, trajectory: Trajectory, size: int = int(SIZE)
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Frames (F, S, S, 3) and class map (F, S, S), indices into `CLASSES`, of `size` S pixels a side."""
        return render(scene, trajectory, self.paint_room, size)

    def is_robust(self, scene: Scene, found: dict[str, str], jitters: Iterable[Point], law: Law = USUAL) -> bool:
        """Whether the outcomes stay the same when the start is disturbed."""
        return all(self.outcomes(scene, self.simulate(scene, jitter=one, law=law)) == found for one in jitters)

    def ending(self, family: str) -> Ending:
        """The ending of a predictive family of this kind."""
        return {ending.family.name: ending for ending in self.endings}[family]

    def places(self, scene: Record, found: Mapping[str, str]) -> dict[str, int]:
        """The places of outcomes; `scene` is that of a record."""
        return {name: self.ending(name).answers(scene).index(answer) for name, answer in found.items()}


def four_colours(rng: Random) -> tuple[str, ...]:
    """Different ones for the bins or the walls."""
    return tuple(str(name) for name in rng.permutation(list(BIN_COLOURS))[:COLOURED_PLACES])


def touches_red(trajectory: Trajectory) -> str:
    """`yes` if a ball has touched something red, else `no`."""
    return "yes" if np.isfinite(trajectory.red_contact) else "no"


def ball_words(record: Record, rng: Random) -> dict[str, str]:
    """The words for the balls of a scene: one is `ball`, two are `a` and `b` in random order."""
    colours = [ball["colour"] for ball in record["scene"]["balls"]]
    if len(colours) == 2:
        first, second = rng.permutation(sorted(colours))
        return {"a": str(first), "b": str(second)}
    return {"ball": colours[0]} if colours else {}
