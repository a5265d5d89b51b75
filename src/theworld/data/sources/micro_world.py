"""Scenes of the simulated nano world, as `theworld nano scenes` writes them: questions, or clips for alignment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from theworld.utils.errors import MissingFileError, TheWorldError

from ..columns import fill_template
from ..schema import Example, Message, SourceSettings
from ..text_rows import TextFile, TextRows
from .records import Reader

COMMAND = "theworld nano scenes FOLDER --split train"


@dataclass(frozen=True)
class _Questions:
    """A frame, a question about it, and its one-word answer.

    The prompt holds only the frame. `clip` is the whole scene from its first frame, for questions about any frame.
    """

    frames_file: Path
    template: str | None

    def read(self, row: Any, fallback_id: str) -> Example:
        """The question of a row of questions.jsonl."""
        question = row["question"] if self.template is None else fill_template(self.template, row)
        frames = _frames(self.frames_file, row["clip"])
        return Example(
            id=row["id"],
            messages=(Message("user", question), Message("assistant", row["answer"])),
            images=(frames[row["frame"]],),
            clip=tuple(frames),
            choices=tuple(row["choices"]),
            metadata={key: row[key] for key in ("family", "kind", "clip", "frame")},
        )


@dataclass(frozen=True)
class _Clips:
    """The first `count` frames of every scene, without questions."""

    frames_file: Path
    count: int

    def read(self, row: int, fallback_id: str) -> Example:
        """The clip of scene `row`."""
        frames = tuple(_frames(self.frames_file, row)[: self.count])
        return Example(f"scene-{row}", messages=(), images=frames[:1], clip=frames, metadata={"clip": row})


def load_micro_world(settings: SourceSettings) -> tuple[Sequence[Any], Reader]:
    """The questions about the scenes in the folder `settings.path`, or their clips if `clip_frames` is given.

    `split` is a sub-folder of `path`; `question_template` may use the fields of questions.jsonl.
    """
    folder = settings.local / (settings.split or "")
    for name in ("frames.npy", "questions.jsonl") if settings.clip_frames is None else ("frames.npy",):
        if not (folder / name).is_file():
            raise MissingFileError(f"{folder / name}: no such file; make scenes with `{COMMAND}`")
    frames_file, count = folder / "frames.npy", settings.clip_frames
    if count is None:
        rows = TextRows.scan([TextFile.of(folder / "questions.jsonl")])
        return rows, _Questions(frames_file, settings.question_template)
    settings.refuse("micro_world", "question_template")
    scenes, frames = np.load(frames_file, mmap_mode="r").shape[:2]
    if count > frames:
        raise TheWorldError(f"clip_frames={count}: the scenes in {folder} have {frames} frames")
    return range(scenes), _Clips(frames_file, count)


def _frames(path: Path, clip: int) -> NDArray[np.uint8]:
    """One clip (F, H, W, 3); the file is opened each time, because workers would copy an open map."""
    return np.array(np.load(path, mmap_mode="r")[clip])
