"""Clips of the nano world on disk: frames, class maps, a record of everything that is true of each scene, questions."""

from __future__ import annotations

import json
import logging
import math
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from multiprocessing import Pool
from typing import TYPE_CHECKING, Any

import numpy as np

from theworld.utils.errors import ExistingFileError, TheWorldError

from .families import Question
from .kinds import KINDS, draw_scene, sample_disputed, sample_scene
from .physics import FRAMES, LAWS, SIZE, Ball, Block, Peg, Ramp, Scene
from .questions import choose_balanced, conversational_questions, predictive_questions, static_questions

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = [
    "KINDS",
    "SIZES",
    "SPLITS",
    "Record",
    "SceneSet",
    "generate",
    "load",
    "make_clip",
    "sample_scene",
    "scene_of",
    "scenes_of",
]

SPLITS = {"train": 0, "validation": 10_000_000, "fusion": 30_000_000, "test": 50_000_000}
"""First seed of each split. A seed makes one scene of a kind, so splits share none. Each release has new test seeds;
0.1 had 20,000,000."""
_SEEDS_PER_SPLIT = 10_000_000

SIZES = {
    "train": {"drop": 2_500, "race": 2_000, "stack": 2_000, "pegs": 11_000, "bumpers": 11_000},
    "validation": {"drop": 300, "race": 300, "stack": 300, "pegs": 800, "bumpers": 800},
    "fusion": {"drop": 800, "race": 600, "stack": 600, "pegs": 2_500, "bumpers": 2_500},
    "test": {"drop": 500, "race": 400, "stack": 400, "pegs": 1_200, "bumpers": 1_200},
}
"""Scenes of each kind that the shipped weights were trained on and measured with."""

logger = logging.getLogger(__name__)

Asked = list[tuple[int, Question]]
"""Questions about one scene, each with its frame."""

Record = dict[str, Any]
"""One scene as JSON: `seed`, `kind`, `scene` (the fields of `Scene`), `ball_xy` (F, n, 2), `block_pose` (F, m, 3),
`ramp_lit` (F,), `pad_lit` (F, 2) and `outcomes` (family -> answer)."""


@dataclass(frozen=True)
class SceneSet:
    """N clips: frames (N, F, S, S, 3) and classes (N, F, S, S), both uint8 and memory-mapped, and their records."""

    folder: Path
    frames: NDArray[np.uint8]
    classes: NDArray[np.uint8]
    records: list[Record]

    def __len__(self) -> int:
        return len(self.records)

    def indices(self, kind: str) -> NDArray[np.int64]:
        """Positions of the scenes of one kind, in order."""
        return np.array([i for i, record in enumerate(self.records) if record["kind"] == kind], np.int64)


def generate(
    folder: Path,
    split: str,
    counts: Mapping[str, int],
    workers: int = 2,
    *,
    level: int | Mapping[str, int] | None = None,
    law: str = "usual",
    frames: int = FRAMES,
    size: int = int(SIZE),
) -> SceneSet:
    """Simulate, draw and write `counts[kind]` scenes of each kind, the first ones of the split; all or nothing.

    Scenes of the split `train` are drawn freely, of all levels of difficulty, half of them of the hardest. Those of
    other splits are balanced, their outcome is beyond doubt, and their level is `level`, of all kinds that have several
    or by kind, by default the hardest. `law`, `frames` and `size` are those of `make_clip`.

    `questions.jsonl` beside them asks about the first frame of every scene and one later frame: `id`, `clip` and
    `frame` (places in frames.npy), `family`, `kind` (static or predictive), `question`, `answer`, `choices`. Of a
    family every answer comes equally often, and the order is random, both the same each time.

    Raises:
        ValueError: for an unknown split or kind, or more scenes than the split has seeds.
        FileExistsError: when `folder` exists.
    """
    if split not in SPLITS:
        raise TheWorldError(f"unknown split {split!r}: expected one of {', '.join(SPLITS)}")
    for kind, count in counts.items():
        if kind not in KINDS or not 0 <= count <= _SEEDS_PER_SPLIT:
            raise TheWorldError(f"cannot make {count} scenes of kind {kind!r}: kinds are {', '.join(KINDS)}")
    if folder.exists():
        raise ExistingFileError(f"{folder} exists: remove it to generate its scenes again")
    free = split == "train"
    levels = level if isinstance(level, Mapping) else {kind: level for kind, one in KINDS.items() if one.levels > 1}
    jobs = [
        (SPLITS[split] + i, kind, _free_level(kind, i) if free else levels.get(kind), not free, law, frames, size)
        for kind, count in counts.items()
        for i in range(count)
    ]
    partial = folder.with_name(f"{folder.name}.partial-{os.getpid()}")
    partial.mkdir(parents=True)
    try:
        _write(partial, jobs, workers)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return load(folder)


def scenes_of(folder: Path, split: str, share: float = 1.0) -> SceneSet:
    """Scenes of a split in `folder`, simulated if they are missing: `SIZES`, or that `share` of every kind."""
    counts = {kind: math.ceil(count * share) for kind, count in SIZES[split].items()}
    path = folder / f"{split}-{sum(counts.values())}"
    return load(path) if path.is_dir() else generate(path, split, counts)


def load(folder: Path) -> SceneSet:
    """Open what `generate` wrote, without reading the images into memory."""
    with (folder / "records.jsonl").open(encoding="utf-8") as lines:
        records = [json.loads(line) for line in lines]
    frames = np.load(folder / "frames.npy", mmap_mode="r")
    classes = np.load(folder / "classes.npy", mmap_mode="r")
    return SceneSet(folder, frames, classes, records)


def scene_of(record: Record) -> Scene:
    """The scene that a record describes, ready to be simulated or drawn again."""
    fields = record["scene"]
    return Scene(
        kind=fields["kind"],
        seed=fields["seed"],
        balls=tuple(Ball(**ball) for ball in fields["balls"]),
        ramps=tuple(Ramp(**ramp) for ramp in fields["ramps"]),
        bins=tuple(fields["bins"]),
        blocks=tuple(Block(**block) for block in fields["blocks"]),
        pegs=tuple(Peg(**peg) for peg in fields["pegs"]),
        walls=tuple(fields["walls"]),
        heading=tuple(fields["heading"]),
        level=fields["level"],
    )


def make_clip(
    seed: int,
    kind: str,
    level: int | None = None,
    *,
    labelled: bool = True,
    law: str = "usual",
    frames: int = FRAMES,
    size: int = int(SIZE),
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], Record]:
    """Frames (F, S, S, 3), class map (F, S, S) and record of one scene.

    Args:
        labelled: Whether its answers are balanced and beyond doubt. Otherwise it is drawn freely.
        law: A key of `LAWS`. A labelled scene under another law than the usual one ends elsewhere than it usually
            does; its record's `usual_outcomes` holds what usually becomes of it.
        frames: Of the clip; a labelled scene has ended by the last one, so that a seed of another number of frames is
            another scene.
        size: Pixels a side, S. The world is always 32 units wide.

    Raises:
        ValueError: for an unknown kind, level or law.
    """
    if law not in LAWS:
        raise TheWorldError(f"unknown law {law!r}: expected one of {', '.join(LAWS)}")
    others: dict[str, Any] = {}
    if not labelled:
        scene, trajectory = draw_scene(seed, kind, level, LAWS[law], frames)
    elif law == "usual":
        scene, trajectory = sample_scene(seed, kind, level, frames)
    else:
        scene, usual, trajectory = sample_disputed(seed, kind, LAWS[law], level, frames)
        others["usual_outcomes"] = KINDS[kind].outcomes(scene, usual)
    images, classes = KINDS[kind].render(scene, trajectory, size)
    record = {
        "seed": seed,
        "kind": kind,
        "scene": asdict(scene),
        "ball_xy": trajectory.ball_xy.astype(float).round(3).tolist(),
        "block_pose": trajectory.block_pose.astype(float).round(3).tolist(),
        "ramp_lit": trajectory.ramp_lit.tolist(),
        "pad_lit": trajectory.pad_lit.tolist(),
        "outcomes": KINDS[kind].outcomes(scene, trajectory) or {},
        "law": law,
        **others,
    }
    return images, classes, record


def _free_level(kind: str, place: int) -> int | None:
    """The level of a free scene: the hardest for every other one, the easier ones by turns."""
    hardest = KINDS[kind].levels - 1
    if not hardest:
        return None
    return (*range(hardest), *[hardest] * hardest)[place % (2 * hardest)]


Job = tuple[int, str, int | None, bool, str, int, int]
"""Seed, kind, level, whether labelled, and law of a scene; frames and pixels a side of its clip."""


def _make_job(job: Job) -> tuple[NDArray[np.uint8], NDArray[np.uint8], Record, Asked]:
    seed, kind, level, labelled, law, length, size = job
    frames, classes, record = make_clip(seed, kind, level, labelled=labelled, law=law, frames=length, size=size)
    return frames, classes, record, list(_ask(record))


def _write(folder: Path, jobs: list[Job], workers: int) -> None:
    shape = (len(jobs), jobs[0][5], jobs[0][6], jobs[0][6])
    frames = np.lib.format.open_memmap(folder / "frames.npy", "w+", np.uint8, (*shape, 3))
    classes = np.lib.format.open_memmap(folder / "classes.npy", "w+", np.uint8, shape)
    asked: list[tuple[int, int, Question]] = []
    with Pool(workers) as pool, (folder / "records.jsonl").open("w", encoding="utf-8") as lines:
        for i, clip in enumerate(pool.imap(_make_job, jobs, chunksize=32)):
            frames[i], classes[i], record, questions = clip
            lines.write(json.dumps(record) + "\n")
            asked += [(i, frame, question) for frame, question in questions]
            if (i + 1) % 2000 == 0:
                logger.info("%d of %d scenes", i + 1, len(jobs))
    frames.flush()
    classes.flush()
    _write_questions(folder / "questions.jsonl", jobs, asked)


def _ask(record: Record) -> Iterator[tuple[int, Question]]:
    """Every question about the first frame and about a later one, half the time the last; drawn by the scene's seed."""
    rng = np.random.default_rng((record["seed"], list(KINDS).index(record["kind"])))
    frames = len(record["ramp_lit"])
    later = frames - 1 if rng.random() < 0.5 else int(rng.integers(1, frames))
    for ask in (predictive_questions, conversational_questions):
        yield from ((0, question) for question in ask(record, rng))
    for frame in (0, later):
        yield from ((frame, question) for question in static_questions(record, frame, rng))


def _write_questions(path: Path, jobs: list[Job], asked: list[tuple[int, int, Question]]) -> None:
    rng = np.random.default_rng(len(jobs))
    chosen = choose_balanced(asked, len(asked), rng)
    with path.open("w", encoding="utf-8") as lines:
        for place in rng.permutation(len(chosen)):
            clip, frame, question = chosen[place]
            seed, scene_kind = jobs[clip][:2]
            row = {"id": f"{scene_kind}-{seed}-{frame}-{question.family}", "clip": clip, "frame": frame}
            row |= {"family": question.family, "kind": question.kind, "question": question.text}
            row |= {"answer": question.answer, "choices": question.choices}
            lines.write(json.dumps(row) + "\n")
