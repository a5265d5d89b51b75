"""Clips of the nano world on disk: frames, class maps, a record of each scene with its outcomes, and questions."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from multiprocessing import Pool
from typing import TYPE_CHECKING, Any

import numpy as np

from theworld.utils.errors import ExistingFileError, TheWorldError
from theworld.utils.folders import made_whole
from theworld.utils.io import read_jsonl

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
    "mirror",
    "sample_scene",
    "scene_of",
    "scenes_of",
]

SPLITS = {"train": 0, "validation": 10_000_000, "fusion": 30_000_000, "test": 50_000_000}
"""First seed of each split. A seed makes one scene of a kind, so splits share no scenes. Each release has new test
seeds; those of version 0.1 started at 20,000,000."""
_SEEDS_PER_SPLIT = 10_000_000

SIZES = {
    "train": {"drop": 2_500, "race": 2_000, "stack": 2_000, "pegs": 11_000, "bumpers": 11_000},
    "validation": {"drop": 300, "race": 300, "stack": 300, "pegs": 800, "bumpers": 800},
    "fusion": {"drop": 800, "race": 600, "stack": 600, "pegs": 2_500, "bumpers": 2_500},
    "test": {"drop": 500, "race": 400, "stack": 400, "pegs": 1_200, "bumpers": 1_200},
}
"""Number of scenes of each kind that the shipped weights were trained and evaluated on."""

logger = logging.getLogger(__name__)

Asked = list[tuple[int, Question]]
"""(frame, question) pairs of one scene."""

Record = dict[str, Any]
"""One scene as JSON: `seed`, `kind`, `scene` (the fields of `Scene`), `ball_xy` (F, n, 2), `block_pose` (F, m, 3),
`ramp_lit` (F,), `pad_lit` (F, 2) and `outcomes` (family -> answer)."""


@dataclass(frozen=True)
class SceneSet:
    """N clips: `frames` (N, F, S, S, 3) and `classes` (N, F, S, S), both uint8 and memory-mapped, and N `records`."""

    folder: Path
    frames: NDArray[np.uint8]
    classes: NDArray[np.uint8]
    records: list[Record]

    def __len__(self) -> int:
        return len(self.records)

    def indices(self, kind: str) -> NDArray[np.int64]:
        """Return the indices of the scenes of one kind, in order."""
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
    """Simulate, render and write the first `counts[kind]` scenes of each kind of a split.

    `folder` is created only if everything succeeds.

    Scenes of the split `train` are unlabelled and have all levels of difficulty, half of them the hardest. Scenes of
    other splits are balanced and have a robust outcome.

    `questions.jsonl` in `folder` asks about the first frame of every scene and about one later frame. A row has `id`,
    `clip` and `frame` (indices into frames.npy), `family`, `kind` (static, predictive or conversational), `question`,
    `answer` and `choices`. Every answer of a family occurs equally often. The order is random and reproducible.

    Args:
        level: Level of difficulty of splits other than `train`, one for all kinds or by kind. Default: the hardest.
        law, frames, size: As in `make_clip`.

    Raises:
        ValueError: The split or a kind is unknown, or a count exceeds the number of seeds of the split.
        FileExistsError: `folder` exists.
    """
    if split not in SPLITS:
        raise TheWorldError(f"unknown split {split!r}: expected one of {', '.join(SPLITS)}")
    for kind, count in counts.items():
        if kind not in KINDS or not 0 <= count <= _SEEDS_PER_SPLIT:
            raise TheWorldError(
                f"cannot make {count} scenes of kind {kind!r}: expected one of {', '.join(KINDS)}, "
                f"and at most {_SEEDS_PER_SPLIT} scenes"
            )
    if not any(counts.values()):
        raise TheWorldError(f"{dict(counts)} scenes: expected at least one")
    if workers < 1:
        raise TheWorldError(f"workers={workers}: expected at least 1")
    if folder.exists():
        raise ExistingFileError(
            f"{folder} exists: choose another folder, or delete this one if it holds only generated scenes"
        )
    free = split == "train"
    levels = level if isinstance(level, Mapping) else {kind: level for kind, one in KINDS.items() if one.levels > 1}
    jobs = [
        (SPLITS[split] + i, kind, _free_level(kind, i) if free else levels.get(kind), not free, law, frames, size)
        for kind, count in counts.items()
        for i in range(count)
    ]
    with made_whole(folder) as partial:
        _write(partial, jobs, workers)
    return load(folder)


def scenes_of(folder: Path, split: str, share: float = 1.0) -> SceneSet:
    """Load the scenes of a split from `folder`, or simulate them there: `share` times `SIZES` of every kind."""
    counts = {kind: math.ceil(count * share) for kind, count in SIZES[split].items()}
    path = folder / f"{split}-{sum(counts.values())}"
    return load(path) if path.is_dir() else generate(path, split, counts)


def load(folder: Path) -> SceneSet:
    """Open a folder that `generate` wrote. The images are memory-mapped.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: A file is damaged.
    """
    records = list(read_jsonl(folder / "records.jsonl"))
    try:
        frames, classes = (np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("frames", "classes"))
    except (ValueError, EOFError) as error:
        told = f"{folder}: damaged scenes ({error}); remove the folder, so that they are simulated again"
        raise TheWorldError(told) from error
    if not len(records) == len(frames) == len(classes):
        told = f"{len(records)} records of {len(frames)} clips and {len(classes)} class maps"
        raise TheWorldError(f"{folder}: damaged scenes, {told}; remove the folder, so that they are simulated again")
    return SceneSet(folder, frames, classes, records)


def scene_of(record: Record) -> Scene:
    """Return the scene of a record, which can be simulated or rendered again."""
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


def mirror(record: Record) -> Record:
    """Return the record of the mirror image of a scene.

    Raises:
        ValueError: The law of the scene pulls sideways, so that its mirror image has another law.
    """
    if LAWS[record["law"]].tilt:
        raise TheWorldError(f"a scene under the law {record['law']!r} has no mirror image: it pulls to one side")
    kind, scene = KINDS[record["kind"]], asdict(scene_of(record).mirrored())
    places = kind.places(record["scene"], record["outcomes"])
    ends = {name: kind.ending(name) for name in places}
    return {
        **record,
        "scene": scene,
        "ball_xy": [[(SIZE - x, y) for x, y in balls[::-1]] for balls in record["ball_xy"]],
        "block_pose": [[(SIZE - x, y, -angle) for x, y, angle in blocks] for blocks in record["block_pose"]],
        "pad_lit": [pads[::-1] for pads in record["pad_lit"]],
        "outcomes": {name: end.answers(scene)[end.mirrored[places[name]]] for name, end in ends.items()},
    }


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
    """Return the frames (F, S, S, 3), class map (F, S, S) and record of one scene.

    Args:
        labelled: Whether outcomes are balanced over seeds and robust. If False, the scene is drawn by `draw_scene`.
        law: A key of `LAWS`. Under another law than `usual`, a labelled scene is one whose outcome differs between the
            two laws; `usual_outcomes` of its record holds the outcomes under the usual law.
        frames: Number of frames F. The outcome of a labelled scene is clear by the last one, so the same seed can give
            another scene for another number of frames.
        size: Side of the images in pixels, S. The world is always 32 units wide.

    Raises:
        ValueError: The kind, level or law is unknown.
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
    """Return the level of an unlabelled scene: half have the hardest, the others alternate between the easier ones."""
    hardest = KINDS[kind].levels - 1
    if not hardest:
        return None
    return (*range(hardest), *[hardest] * hardest)[place % (2 * hardest)]


Job = tuple[int, str, int | None, bool, str, int, int]
"""Seed, kind, level, labelled, law, number of frames, and side of the images in pixels."""


def _make_job(job: Job) -> tuple[NDArray[np.uint8], NDArray[np.uint8], Record, Asked]:
    seed, kind, level, labelled, law, length, size = job
    frames, classes, record = make_clip(seed, kind, level, labelled=labelled, law=law, frames=length, size=size)
    return frames, classes, record, list(_ask(record))


def _write(folder: Path, jobs: list[Job], workers: int) -> None:
    shape = (len(jobs), jobs[0][5], jobs[0][6], jobs[0][6])
    frames = np.lib.format.open_memmap(folder / "frames.npy", "w+", np.uint8, (*shape, 3))
    classes = np.lib.format.open_memmap(folder / "classes.npy", "w+", np.uint8, shape)
    asked: list[tuple[int, int, Question]] = []
    with Pool(min(workers, len(jobs))) as pool, (folder / "records.jsonl").open("w", encoding="utf-8") as lines:
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
    """Yield every question about the first frame and a later frame, in half of the scenes the last one.

    The scene's seed decides phrasings and frame.
    """
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
