"""`Kind`: one record that holds everything about a kind of scene."""

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
"""Number of bins, or of coloured walls, in a scene."""

JITTER = 0.25
"""Pixels. The outcome of a labelled scene stays the same if its start moves by this much."""
SIDEWAYS = ((-JITTER, 0.0), (JITTER, 0.0))
UP_AND_DOWN = ((0.0, -JITTER), (0.0, JITTER))

PASSAGE = 2 * BALL_RADIUS + RAMP_RADIUS + 1
"""Gap that a ball needs between the lower end of a ramp and a wall, in pixels."""


def sample_balanced(kind: Kind, seed: int, rng: Random, level: int) -> tuple[Scene, Trajectory]:
    """Draw the outcomes first, then scenes until one has these outcomes and keeps them under a `JITTER`."""
    wanted = {ending.family.name: int(rng.integers(len(ending.mirrored))) for ending in kind.endings}
    while True:
        scene = kind.draw(seed, rng, level)
        trajectory = kind.simulate(scene)
        found = kind.outcomes(scene, trajectory)
        if found and kind.places(asdict(scene), found) == wanted and kind.is_robust(scene, found, SIDEWAYS):
            return scene, trajectory


@dataclass(frozen=True)
class Kind:
    """One kind of scene: how it is sampled, simulated, painted and asked about.

    A *record* is a scene as JSON, see `scenes.Record`.

    Attributes:
        name: As in `Scene.kind` and on the command line.
        description: What happens in it, in one line.
        draw: Makes a scene from a seed, a random generator and a level (0 is the easiest). Outcomes are not balanced
            and may be unclear.
        fill: Adds a scene to an empty space. A jitter (dx, dy) in pixels moves the start.
        paint_room: Paints the background behind the ramps, pegs, blocks and balls.
        outcomes: The answer of each predictive family, or None if the clip ends before the outcome is clear.
        endings: The predictive families. The first one asks where the scene ends.
        static: Questions about one frame of a record.
        conversational: Questions about what follows the first frame of a record that has outcomes; takes `ball_words`.
        families: The families that `static` and `conversational` use, including shared ones.
        sentences: Answers of more than one word, without colours and numbers, for training a tokenizer.
        levels: Number of levels of difficulty.
        frames: Number of frames of a clip. The outcomes are read at its end.
        sample: Like `draw`, but outcomes are balanced over seeds and do not change under a `JITTER`. Returns the scene
            and its simulation.
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
        """Release everything at time 0 and simulate `frames` frames.

        `jitter` (dx, dy) in pixels moves the start. Every ball moves by dx, the first also by dy and the second by -dy.
        In a stack, every block moves by dx relative to the block below it. Among bumpers, the ball moves by dx across
        its heading. An outcome that changes under a jitter of `JITTER` cannot be predicted from an image.
        """
        from ..space import Space

        space = Space(law)
        self.fill(space, scene, jitter)
        return space.run(self.frames)

    def render(
        self, scene: Scene, trajectory: Trajectory, size: int = int(SIZE)
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Return frames (F, S, S, 3) and class map (F, S, S), indices into `CLASSES`; S is `size` in pixels."""
        return render(scene, trajectory, self.paint_room, size)

    def is_robust(self, scene: Scene, found: dict[str, str], jitters: Iterable[Point], law: Law = USUAL) -> bool:
        """Whether the outcomes stay the same under each of `jitters`."""
        return all(self.outcomes(scene, self.simulate(scene, jitter=one, law=law)) == found for one in jitters)

    def ending(self, family: str) -> Ending:
        """Return the ending of a predictive family of this kind."""
        return {ending.family.name: ending for ending in self.endings}[family]

    def places(self, scene: Record, found: Mapping[str, str]) -> dict[str, int]:
        """Return the place of each outcome, by family; `scene` is the `scene` of a record."""
        return {name: self.ending(name).answers(scene).index(answer) for name, answer in found.items()}


def four_colours(rng: Random) -> tuple[str, ...]:
    """Draw four different colours for the bins or the walls."""
    return tuple(str(name) for name in rng.permutation(list(BIN_COLOURS))[:COLOURED_PLACES])


def touches_red(trajectory: Trajectory) -> str:
    """Return `yes` if a ball has touched something red, else `no`."""
    return "yes" if np.isfinite(trajectory.red_contact) else "no"


def ball_words(record: Record, rng: Random) -> dict[str, str]:
    """Colours of the balls by slot of a phrasing: `ball` for one ball, `a` and `b` in random order for two."""
    colours = [ball["colour"] for ball in record["scene"]["balls"]]
    if len(colours) == 2:
        first, second = rng.permutation(sorted(colours))
        return {"a": str(first), "b": str(second)}
    return {"ball": colours[0]} if colours else {}
